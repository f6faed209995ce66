"""Trains the embedded model on the data sets whose licences allow its weights to be given away.

DATA is a folder of data sets, each with `images/`, `labels/` (equal stems) and `META.json` (licence, source), and a
file `splits.csv` (dataset, stem, split). Only sets marked `licence_safe_for_redistributed_weights` are used; their
`train` split is learned from, the best epoch is chosen on `val`, and `test` is never read.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellweave.core.progress import console_progress, report
from cellweave.io import read_image, read_labels
from cellweave.models.registry import EMBEDDED
from cellweave.train import TrainConfig, prepare_only
from cellweave.train.api import MODEL
from cellweave.train.loop import LOG
from cellweave.train.samples import Example
from cellweave.train.self_training import run_stage

REPOSITORY = Path(__file__).resolve().parents[1]
LARGEST_MB = 16


@dataclass(frozen=True)
class Recipe:
    """How one of our models is trained: each stage starts from the weights of the one before."""

    name: str
    stages: tuple[dict[str, Any], ...]


RECIPES = {
    "FastUNet": Recipe(
        "default", ({"epochs": 270, "simulated": 0.5}, {"epochs": 60, "simulated": 0.5, "learning_rate": 1e-3})
    ),
    "CellposeUNet": Recipe("cellpose-unet", ({"epochs": 32, "simulated": 0.5, "diameter": 24.0, "crop": 128},)),
}
"""A step of CellposeUNet takes ten times as long: it learns from fewer and smaller crops."""


def main() -> None:
    arguments = argparse.ArgumentParser(prog="scripts/train-default", description="Train the embedded model again.")
    arguments.add_argument("data", type=Path, nargs="?", default=REPOSITORY.parent / "shared" / "data")
    arguments.add_argument("--net", default="FastUNet", choices=list(RECIPES), help="FastUNet is the embedded model's")
    arguments.add_argument("--out", type=Path, help="folder of the run; runs/NAME without it")
    arguments.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    arguments.add_argument("--prepare-only", action="store_true", help="write shards for a machine with PyTorch alone")
    chosen = arguments.parse_args()
    if not (chosen.data / "splits.csv").is_file():
        arguments.error(f"{chosen.data} has no splits.csv; give the folder of the data sets")

    recipe = RECIPES[chosen.net]
    out = chosen.out or REPOSITORY / "runs" / recipe.name
    facts = free_sets(chosen.data)
    training, validation = (examples(chosen.data, facts, split) for split in ("train", "val"))
    print(f"{len(training)} images to learn from, {len(validation)} to choose by; the run is in {out}", flush=True)
    used = {example.group.partition("/")[0] for example in training}
    card = model_card([fact for name, fact in facts.items() if name in used]) | {"Recipe": described(recipe)}
    base: Path | None = None
    for k, settings in enumerate(recipe.stages, 1):
        folder = out / f"stage-{k}"
        config = TrainConfig(folder, str(base) if base else None, chosen.net, device=chosen.device, **settings)
        if chosen.prepare_only and not (folder / MODEL).is_dir():
            print(f"{len(prepare_only(training, config, validation=validation))} shards are in {folder / 'shards'}")
            return
        print(f"Stage {k} of {len(recipe.stages)}; what is done of it is kept", flush=True)
        model = run_stage(training, validation, config, resume=True, card=card)
        base = folder / MODEL

    hours = sum(hours_of(out / f"stage-{k}") for k in range(1, len(recipe.stages) + 1))
    card = model.card | {"Training time": f"{hours:.1f} h on {model.card['Training time'].partition(' on ')[2]}"}
    saved = model.with_(name=recipe.name, card=card).save(EMBEDDED / recipe.name)
    size = sum(file.stat().st_size for file in (EMBEDDED / recipe.name).iterdir()) / 1e6
    print(f"Wrote {EMBEDDED / recipe.name}: {size:.1f} MB, SHA-256 {saved.hash}")
    if recipe.name == "default" and size > LARGEST_MB:
        raise SystemExit(f"The model is larger than the {LARGEST_MB} MB that the package takes")


def described(recipe: Recipe) -> dict[str, str]:
    """The stages for the card; what they do not name are the defaults of `TrainConfig`."""
    stages = {f"Stage {k}": ", ".join(f"{n} {v}" for n, v in s.items()) for k, s in enumerate(recipe.stages, 1)}
    return stages | {"Seed": str(TrainConfig.seed), "Everything else": "the defaults of cellweave train"}


def hours_of(stage: Path) -> float:
    """Hours of all epochs of a stage."""
    with (stage / LOG).open(newline="", encoding="utf-8") as stream:
        return sum(float(row["seconds"]) for row in csv.DictReader(stream)) / 3600


def free_sets(data: Path) -> dict[str, dict[str, Any]]:
    """What META.json says of every set whose weights may be given away, by name."""
    metas = {
        file.parent.name: json.loads(file.read_text(encoding="utf-8")) for file in sorted(data.glob("*/META.json"))
    }
    return {name: meta for name, meta in metas.items() if meta.get("licence_safe_for_redistributed_weights") is True}


def examples(data: Path, facts: dict[str, dict[str, Any]], split: str) -> list[Example]:
    """The images of a split of these sets, in the order of splits.csv; the group is the set, and the kind in it."""
    with (data / "splits.csv").open(newline="", encoding="utf-8") as stream:
        rows = [r for r in csv.DictReader(stream) if r["split"] == split and r["dataset"] in facts]
    files = {(name, folder): by_stem(data / name / folder) for name in facts for folder in ("images", "labels")}
    kinds = {name: kinds_of(data / name / "kinds.csv") for name in facts}
    found = []
    for k, row in enumerate(rows):
        name, stem = row["dataset"], row["stem"]
        report("reading", k, len(rows), stem)
        kind = kinds[name].get(stem)
        found.append(
            Example(
                stem,
                read_image(files[name, "images"][stem]),
                read_labels(files[name, "labels"][stem]),
                f"{name}/{kind}" if kind else name,
            )
        )
    return found


def by_stem(folder: Path) -> dict[str, Path]:
    return {file.stem: file for file in folder.iterdir()} if folder.is_dir() else {}


def kinds_of(file: Path) -> dict[str, str]:
    """Kind of image by stem, where the set has such a list."""
    if not file.is_file():
        return {}
    with file.open(newline="", encoding="utf-8") as stream:
        return {row["name"]: row["kind"] for row in csv.DictReader(stream)}


def model_card(facts: list[dict[str, Any]]) -> dict[str, Any]:
    """What the card says besides the recipe and the figures, which `train` adds."""
    sets = [
        {"Set": f["name"], "Shows": f["modality"], "Source": f["original_source"], "Licence": f["licence"]}
        for f in facts
    ]
    return {
        "Licence": "BSD-3-Clause, as cellweave; every data set allows its use for weights that are given away",
        "Made again by": "scripts/train-default",
        "Data sets": sets,
        "Learned from simulation only": "bacteria, yeast, DIC, membranes, whole cells in fluorescence, blood smears",
        "Not trained on": {
            "Kinds of image": "electron microscopy; colonies and organoids as one object",
            "Data without a licence that allows it": "dense_tcell_if and every set with points instead of outlines",
        },
        "Known failures": {
            "Dense bacteria": "some touching or crossing cells in phase contrast are merged or missed",
            "Round bacteria": "in phase contrast a pair or a cluster, with its halo, can become one object",
            "Several sizes in one image": "cells much larger than most are cut or missed",
            "Organelles": "a channel of mitochondria or vesicles is not seen as whole cells",
        },
        "Known limits": {
            "Simulated kinds": "no figure here tells how good it is on real images of them; look at the overlay",
            "Second channel": "only simulated pictures had a separate nucleus channel",
            "Stained tissue": "few real images of a few stains; look at the overlay before you trust the counts",
            "Phase contrast": "bright dead cells were partly not annotated, so they may be missed",
            "Very large or small cells": "give the diameter where the estimate is wrong (--diameter)",
        },
    }


if __name__ == "__main__":
    try:
        with console_progress():
            main()
    except KeyboardInterrupt:
        raise SystemExit("Stopped. The same command goes on.") from None
