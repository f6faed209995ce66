"""The trainings of the benchmark `fusion`: one command each, resumable, found done when they are done.

    python benchmarks/_fusion_trainings.py --list
    python benchmarks/_fusion_trainings.py NAME... [--device cuda]
    python benchmarks/_fusion_trainings.py --all

The benchmark makes those it needs and does not find. A run is in runs/fusion/NAME; the same command goes on where it
was stopped. One with other settings or another base is made again.

*Cell Segmentation in Images Without Structural Fluorescent Reporters*. All start from the embedded model and learn as
``cellweave train --strategy`` does from the images of `_fusion_data.py`, but for at most 400 steps a model in place of
100 epochs. The models of runs with one beginning of their NAME, models-object-reporter, are used together:
``simulated``, ``partial`` and ``tcells`` have one for each reporter; ``universal`` one for all reporters of the
simulated cells, which takes as many steps as the models for each together; ``grayscale`` one for their average;
``classical`` those of ``simulated`` once more without the microscopy augmentation.

All together take about 66 minutes on two quiet cores, less where the validation images stop them early. So there is one
seed only.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from _fusion_data import LINES, MARKERS, PARTS, REPORTERS, fields
from _runs import command_line, is_done
from cellweave.models import Segmenter, load_segmenter
from cellweave.models.model_set import ANY, AVERAGE, OBJECTS, Key, ModelSet
from cellweave.models.model_set import Training as Made
from cellweave.train import TrainConfig
from cellweave.train.loop import FEWEST_STEPS, LOG
from cellweave.train.objects import object_diameters
from cellweave.train.self_training import run_stage
from cellweave.train.strategies import AUGMENTATION, BASE, PATIENCE, Strategy, mean_diameter, trainings
from record import REPOSITORY

RUNS = REPOSITORY / "runs" / "fusion"
SEED = 0
STEPS = 400
SETS = "sets"


@dataclass(frozen=True)
class Training:
    """One model of the experiments.

    Parameters
    ----------
    data, object, reporter
        What it is for.
    strategy
        That it belongs to.
    augmentation
        Of `TrainConfig`.
    steps
        At most; it is stopped when the validation images have not been better for 20 epochs.
    seconds
        Of a step on two processor cores, about; for the list only.
    """

    data: str
    object: str
    reporter: str
    strategy: Strategy = "channel-wise"
    augmentation: str = AUGMENTATION
    steps: int = STEPS
    seconds: float = 0.32


def _planned() -> dict[str, Training]:
    made = {}
    for models, data, objects, reporters, settings in (
        ("simulated", "simulated", OBJECTS, REPORTERS, {}),
        ("universal", "simulated", OBJECTS, (ANY,), {"strategy": "universal", "steps": len(REPORTERS) * STEPS}),
        ("grayscale", "simulated", OBJECTS, (AVERAGE,), {"strategy": "grayscale"}),
        ("partial", "partial", ("nuclei",), PARTS, {}),
        ("tcells", "tcells", ("cells",), MARKERS, {}),
        ("classical", "simulated", OBJECTS, REPORTERS, {"augmentation": "classical"}),
    ):
        made |= {f"{models}-{o}-{r}": Training(data, o, r, **settings) for o in objects for r in reporters}
    return made


TRAININGS = _planned()


def members(models: str, object: str = "") -> dict[str, Training]:
    """The trainings of models that are used together; those for one object."""
    return {k: t for k, t in TRAININGS.items() if k.startswith(f"{models}-") and object in ("", t.object)}


@cache
def model_set(models: str) -> ModelSet:
    """Models that are used together, as ``cellweave train --strategy`` leaves them; those not there yet are made."""
    named = members(models)
    sizes = [mean_diameter(fields(t.data, "train"), t.object) for t in named.values()]
    return _set(models, list(named.values()), [trained(name) for name in named], sizes)


@cache
def as_it_comes(data: str) -> ModelSet:
    """The embedded model for every channel of a data set, at the diameter that the paper advises."""
    some = fields(data, "train")
    planned = [Training(data, object, ANY) for object in some[0].labels]
    found = [object_diameters(some, training.object) for training in planned]
    sizes = [float(diameters.mean() + diameters.std()) for diameters in found]
    return _set(f"base-{data}", planned, [load_segmenter(BASE)] * len(planned), sizes)


def _set(name: str, planned: Sequence[Training], models: Sequence[Segmenter], sizes: Sequence[float]) -> ModelSet:
    """Written anew, which takes a second, so that it holds the models that there are now."""
    folder = RUNS / SETS / name
    shutil.rmtree(folder, ignore_errors=True)
    made = ModelSet.create(folder)
    for training, model, size in zip(planned, models, sizes, strict=True):
        key = Key(training.object, LINES[training.data], training.reporter)
        made = made.add(model, **key._asdict(), training=Made(size))
    return made


def steps_made(models: str, object: str) -> str:
    """How many steps the models for an object have learned for, together; for people."""
    planned = members(models, object)
    done = 0
    for name, training in planned.items():
        with (RUNS / name / LOG).open(newline="") as stream:
            done += len(list(csv.DictReader(stream))) * steps_an_epoch(training)
    return f"{done:,} of up to {sum(training.steps for training in planned.values()):,} steps in all"


def trained(name: str, device: str = "auto") -> Segmenter:
    """The model of a training; made now where it is not there yet, or was made from another base."""
    training, config = TRAININGS[name], config_of(name, device)
    if not is_done(config.out):
        print(f"training {name}", flush=True)
    both = (list(fields(training.data, "train")), list(fields(training.data, "val")))
    planned = trainings(training.strategy, Key(training.object, LINES[training.data], ""), both, config)
    settings, learned, held_out = next(rest for key, *rest in planned if key.reporter == training.reporter)
    model = run_stage(learned, held_out, settings, resume=True)
    shutil.rmtree(config.out / "cache", ignore_errors=True)
    return model


def config_of(name: str, device: str = "auto") -> TrainConfig:
    """The settings of a training: as many epochs as make its steps."""
    training = TRAININGS[name]
    return TrainConfig(
        RUNS / name,
        base=BASE,
        epochs=training.steps // steps_an_epoch(training),
        patience=PATIENCE if fields(training.data, "val") else None,
        validation=0.0,
        augmentation=training.augmentation,  # type: ignore[arg-type]
        seed=SEED,
        device=device,
    )


def steps_an_epoch(training: Training) -> int:
    """Batches of an epoch; the universal model learns from each channel as from an image."""
    images = len(fields(training.data, "train"))
    channels = len(REPORTERS) if training.strategy == "universal" else 1
    return max(FEWEST_STEPS, images * channels // TrainConfig.batch_size)


if __name__ == "__main__":
    command_line("_fusion_trainings.py", TRAININGS, RUNS, trained)
