"""The trainings of the benchmark `fusion`: one command each, resumable, found done when they are done.

    python benchmarks/_fusion_trainings.py --list
    python benchmarks/_fusion_trainings.py NAME... [--device cuda]
    python benchmarks/_fusion_trainings.py --all

The benchmark makes those it needs and does not find. A run is in runs/fusion/NAME; the same command goes on where it
was stopped. To make one again, remove its folder.

*Cell Segmentation in Images Without Structural Fluorescent Reporters*. All start from the embedded model and are made
as ``cellweave train --strategy`` makes them, on the images of `_fusion_data.py`: a model for each object and reporter
(NAME = data-object-reporter), for all reporters of the simulated cells (simulated-object-any), for their average
(simulated-object-average), and once more without the microscopy augmentation (classical-object-reporter).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from _fusion_data import LINES, PARTS, REPORTERS, fields
from _runs import command_line, is_done
from cellweave.models import Segmenter, load_segmenter
from cellweave.models.model_set import ANY, AVERAGE, OBJECTS, Key
from cellweave.train import TrainConfig
from cellweave.train.api import MODEL
from cellweave.train.loop import FEWEST_STEPS
from cellweave.train.self_training import run_stage
from cellweave.train.strategies import AUGMENTATION, BASE, PATIENCE, Strategy, trainings
from record import REPOSITORY

RUNS = REPOSITORY / "runs" / "fusion"
SEED = 0
STEPS = 400
CLASSICAL = "classical"


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
    seconds: float = 0.3


def name_of(data: str, object: str, reporter: str) -> str:
    return f"{data}-{object}-{reporter}"


def _planned() -> dict[str, Training]:
    made = [Training("simulated", o, r) for o in OBJECTS for r in REPORTERS]
    made += [Training("simulated", o, ANY, "universal") for o in OBJECTS]
    made += [Training("simulated", o, AVERAGE, "grayscale") for o in OBJECTS]
    made += [Training("partial", "nuclei", r) for r in PARTS]
    made += [Training("tcells", "cells", r) for r in ("marker", "DAPI")]
    without = [Training("simulated", o, r, augmentation="classical") for o in OBJECTS for r in REPORTERS]
    named = {name_of(t.data, t.object, t.reporter): t for t in made}
    return named | {name_of(CLASSICAL, t.object, t.reporter): t for t in without}


TRAININGS = _planned()


def trained(name: str, device: str = "auto") -> Segmenter:
    """The model of a training; made now where it is not there yet."""
    folder, training = RUNS / name, TRAININGS[name]
    if not is_done(folder):
        print(f"training {name}", flush=True)
        both = (list(fields(training.data, "train")), list(fields(training.data, "val")))
        key = Key(training.object, LINES[training.data], "")
        options = config_of(name, device)
        for found, config, learned, held_out in trainings(training.strategy, key, both, options):
            if found.reporter == training.reporter:
                run_stage(learned, held_out, config, resume=True)
        shutil.rmtree(folder / "cache", ignore_errors=True)
    return load_segmenter(folder / MODEL)


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
