"""The trainings of the benchmark `cell-segmenter`: one command each, resumable, found done when they are done.

    python benchmarks/_cell_segmenter_trainings.py --list
    python benchmarks/_cell_segmenter_trainings.py NAME... [--device cuda]
    python benchmarks/_cell_segmenter_trainings.py --all

The benchmark makes those it needs and does not find. A run is in runs/cell-segmenter/NAME; the same command goes on
where it was stopped. To make one again, remove its folder; those that start from it are then made again, too: each run
keeps the hash of the model that it started from.

Hu et al. 2022, *Cell Segmenter: A General Framework for Multi-modality Cell Segmentation*. Two families:

The system, of the full net: ``general`` on all images and simulated pictures without long cells; from there both
branches for grayscale images, ``grayscale`` (watershed) and ``omnipose``, on the same images and simulated pictures,
long and bent cells among them, for as many steps at the same rate, so that methods are compared and not what they saw;
and ``brightfield`` on stained images. ``grayscale`` and ``brightfield`` also see, 8 times as rarely as labelled images,
what ``general`` finds in unlabelled ones. No set with a free licence has images of several fluorescent channels:
``general`` serves the modality fluorescence.

Both kinds of flows, ``long_distance`` and ``long_diffusion``: FastUNet from scratch on the same images, three of four
of them simulated bacteria and filaments.

The ablation, of a net of half the width on real images only: ``teacher`` on the outlines of a third of the images; then
as many steps from there on the same images (``labelled``), or also on what the teacher finds in the other two thirds
and in images without any outlines (``self_trained``).

Images are those of the `train` split of the sets whose weights may be given away. No image is held out and no epoch
chosen on `val`, so that `val` tells of images that had no part in the training.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from _runs import command_line, is_done
from _trainings import DATA, SEED, free_examples, free_sets
from cellweave.core.cleaning import clean_labels
from cellweave.models import CellSegmenter, Segmenter, load_segmenter
from cellweave.models.cell_segmenter import GENERAL, OMNIPOSE
from cellweave.prep.modality import modality
from cellweave.simulate import RECIPES
from cellweave.train import Example, TrainConfig
from cellweave.train.api import MODEL
from cellweave.train.loop import FEWEST_STEPS
from cellweave.train.self_training import PSEUDO, STAGE, group_shares, pseudo_labels, run_stage
from record import REPOSITORY

RUNS = REPOSITORY / "runs" / "cell-segmenter"
SYSTEM = "system"
LABELLED_PART = 3
"""In the ablation, one image in this many has its outlines: a share like the challenge's 1000 of 2700 images."""
LONG = ("bacteria", "filaments")
OTHERS = tuple(name for name in RECIPES if name not in (*LONG, "anything"))
"""Recipes without long cells, but for a few among the tissues; "anything" has every shape."""
GRAYSCALE = ("nuclei", "tissue_nuclei", "phase_contrast", "yeast", "dic", "brightfield", *LONG, *LONG, *LONG)
"""Recipes whose pictures are always grayscale; half of what is drawn has long cells."""
FREE_LICENCES = ("MIT", "BSD", "CC-BY", "CC BY", "CC0", "Apache", "Public domain")


@dataclass(frozen=True)
class Training:
    """One model of the experiments.

    Parameters
    ----------
    select
        Its images, out of all training images.
    steps
        Batches to learn from, about: whole epochs are made.
    seconds
        Of a step on two processor cores, about; for the list only.
    base
        Name of the training that it starts from; empty: from scratch.
    unlabelled
        Gives the files on which what the base finds is learned from, too; None: there are none.
    settings
        Of `TrainConfig`, besides.
    """

    select: Callable[[Sequence[Example]], list[Example]]
    steps: int
    seconds: float
    base: str = ""
    unlabelled: Callable[[], list[Path]] | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def of_modality(members: Sequence[Example], kind: str) -> list[Example]:
    """The images that the modality analyser takes for this."""
    return [e for e in members if modality(e.image) == kind]


def labelled_part(members: Sequence[Example]) -> list[Example]:
    """One image in `LABELLED_PART` of every kind."""
    kinds = dict.fromkeys(e.group for e in members)
    return [e for kind in kinds for e in [e for e in members if e.group == kind][::LABELLED_PART]]


def without_outlines() -> list[Path]:
    """Images that nobody has outlined, of a stated licence."""
    folder = DATA / "unlabelled"
    with (folder / "sources.csv").open(newline="", encoding="utf-8") as stream:
        names = [row["file"] for row in csv.DictReader(stream) if row["licence"].startswith(FREE_LICENCES)]
    return [file for file in (folder / "images" / name for name in names) if file.is_file()]


def outlines_hidden() -> list[Path]:
    """Training images that are not in the labelled part, and those without outlines."""
    members = free_examples("train")
    known = {(e.group, e.name) for e in labelled_part(members)}
    folders = {name: {file.stem: file for file in (DATA / name / "images").iterdir()} for name in free_sets(DATA)}
    hidden = [e for e in members if (e.group, e.name) not in known]
    return [folders[e.group.partition("/")[0]][e.name] for e in hidden] + without_outlines()


FULL: dict[str, Any] = {"crop": 320, "batch_size": 4}
HALF: dict[str, Any] = {"width": 0.5, "crop": 224, "batch_size": 8}
GRAY: dict[str, Any] = FULL | {"simulated": 0.6, "recipes": GRAYSCALE, "learning_rate": 0.01}
"""Of both grayscale branches. The rate is that of a training from scratch: the base has seen no long cells."""
LONG_CELLS: dict[str, Any] = {
    "net": "FastUNet",
    "recipe": "adamw",
    "crop": 224,
    "batch_size": 8,
    "simulated": 0.75,
    "recipes": LONG,
}
TRAININGS = {
    GENERAL: Training(list, 4200, 0.8, settings=FULL | {"simulated": 0.4, "recipes": OTHERS}),
    # A sixth of the steps of the general model, as in the paper's Tables 2 and 3.
    "brightfield": Training(partial(of_modality, kind="brightfield"), 700, 0.8, GENERAL, without_outlines, FULL),
    "grayscale": Training(partial(of_modality, kind="grayscale"), 2800, 0.6, GENERAL, without_outlines, GRAY),
    OMNIPOSE: Training(
        partial(of_modality, kind="grayscale"), 2800, 0.6, GENERAL, settings=GRAY | {"representation": "DistanceFlows"}
    ),
    "teacher": Training(labelled_part, 3600, 0.3, settings=HALF),
    "labelled": Training(labelled_part, 600, 0.3, "teacher", settings=HALF),
    "self_trained": Training(labelled_part, 600, 0.3, "teacher", outlines_hidden, HALF),
    "long_distance": Training(
        partial(of_modality, kind="grayscale"), 1500, 0.5, settings=LONG_CELLS | {"representation": "DistanceFlows"}
    ),
    "long_diffusion": Training(
        partial(of_modality, kind="grayscale"), 1500, 0.5, settings=LONG_CELLS | {"representation": "DiffusionFlows"}
    ),
}
BRANCHES = (GENERAL, "grayscale", "brightfield", OMNIPOSE)


@cache
def clean_examples() -> tuple[Example, ...]:
    """All training images, their labels cleaned."""
    return tuple(replace(e, labels=clean_labels(e.labels)[0]) for e in free_examples("train"))


def trained(name: str, device: str = "auto") -> Segmenter:
    """The model of a training; made now where it is not there yet, after the one that it starts from."""
    folder, training = RUNS / name, TRAININGS[name]
    base = trained(training.base, device) if training.base else None
    if not is_done(folder) or is_stale(folder, base.hash if base else ""):
        print(f"training {name}", flush=True)
        chosen = training.select(clean_examples())
        shares = None
        if training.unlabelled and base:
            guessed = pseudo_labels(
                base, training.unlabelled(), RUNS / training.base / PSEUDO, seed=SEED, device=device
            )
            kinds = {modality(e.image) for e in chosen}
            added = [e for e in guessed.examples if modality(e.image) in kinds]
            print(f"pseudo-labels: {guessed}; {len(added)} of the modalities {', '.join(sorted(kinds))}", flush=True)
            shares = group_shares(chosen, added)
            chosen = [*chosen, *added]
        run_stage(chosen, [], replace(config_of(name, chosen, device), weights=shares), resume=True)
        shutil.rmtree(folder / "cache", ignore_errors=True)
    return load_segmenter(folder / MODEL)


def is_stale(run: Path, base: str) -> bool:
    """Whether a run started from a model of another hash; a model that was put there by hand never is."""
    stage = run / STAGE
    return stage.is_file() and json.loads(stage.read_text(encoding="utf-8")).get("base", "") != base


def config_of(name: str, members: Sequence[Example], device: str = "auto") -> TrainConfig:
    """The settings of a training on these images: as many epochs as make its steps."""
    training = TRAININGS[name]
    batches = max(FEWEST_STEPS, len(members) // training.settings["batch_size"])
    settings = {"net": "AnchorUNet", "recipe": "cosine", "representation": "WatershedEnergy"} | training.settings
    return TrainConfig(
        RUNS / name,
        base=str(RUNS / training.base / MODEL) if training.base else None,
        epochs=max(1, round(training.steps / batches)),
        validation=0.0,
        seed=SEED,
        device=device,
        **settings,
    )


def system(device: str = "auto") -> CellSegmenter:
    """The whole Cell Segmenter, saved as a model of its own beside the runs."""
    branches = {name: trained(name, device) for name in BRANCHES}
    return CellSegmenter(branches, name="cell-segmenter").save(RUNS / SYSTEM)


def make(name: str, device: str) -> None:
    """The model of a training; with the last branch, the whole system, too."""
    trained(name, device)
    if all(is_done(RUNS / branch) for branch in BRANCHES):
        system(device)


if __name__ == "__main__":
    command_line("_cell_segmenter_trainings.py", TRAININGS, RUNS, make)
