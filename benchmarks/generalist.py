"""The generalist: how the embedded model does on kinds of images, sizes and conditions, and what its parts cost.

Trainings are steps of their own (`scripts/train-default`); this measures the models that are there.
"""

from __future__ import annotations

import csv
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from _calibration import calibration
from _sizes import diameter_errors, resampled_f1, unknown_diameter_time, wrong_diameter
from _star_convex import star_convex_nms
from cellweave import Image, Segmenter, evaluate, segment
from cellweave.models import load_model
from cellweave.nets import NETS
from cellweave.representations import DiffusionFlows
from cellweave.simulate import RECIPES, Recipe, picture
from cellweave.simulate.recipes import LayoutRange, ShapeRange, View
from cellweave.train import Example, TrainConfig
from cellweave.train.loop import LOG, fit
from cellweave.train.samples import Preparation, prepare
from cellweave.train.simulated import channels_of
from foundation import DIAMETER, _predictions, accuracy_other_tests, drawn_cells, drawn_image
from peer import run_peer
from record import Row

SEED = 777
"""Of the simulated pictures; the training's seed is 0."""
PICTURES = 24
SIDE = 384
SIZES = (12.0, 60.0)


def accuracy_stardist_test() -> Iterator[Row]:
    """The 50 test images of StarDist's split of DSB2018, sizes unknown; AP is the mean over images."""
    truth, found = _predictions("dsb2018_stardist_test", "test", known=False)
    result = evaluate(truth, found, thresholds=(0.5, 0.75))
    row = {"data": "dsb2018_stardist_test", "split": "test"}
    name = "DSB2018 (StarDist's split), diameter unknown: "
    against = "StarDist's published model: AP 0.835, F1 0.910"
    yield Row(name + "AP@0.5", _mean(result, "ap@0.5"), "", against, at_least=0.88, **row)
    yield Row(name + "AP@0.75", _mean(result, "ap@0.75"), "", "", at_least=0.70, **row)
    yield Row(name + "F1@0.5, pooled", result.total.at(0.5).f1, "", against, **row)


def _mean(result: object, key: str) -> float:
    return float(result.mean[key])  # type: ignore[attr-defined]


def accuracy_validation() -> Iterator[Row]:
    """The validation splits of the sets trained on, sizes unknown; the best epoch was chosen on them."""
    wanted = {"bbbc039": 0.95, "usiigaci_phase": 0.75, "bitdepth_nucseg": 0.85, "dsb2018": None}
    for dataset, least in wanted.items():
        truth, found = _predictions(dataset, "val", known=False)
        total = evaluate(truth, found, thresholds=(0.5,)).total
        yield Row(f"{dataset}, diameter unknown: F1@0.5", total.at(0.5).f1, at_least=least, data=dataset, split="val")


def held_out() -> dict[str, Recipe]:
    """Recipes with other ranges than a training draws from."""
    cultured = ShapeRange(elongation=(1.3, 2.2), irregularity=(0.03, 0.15), ratio=(0.35, 0.55), bend=(0.0, 0.2))
    return {
        "elongated bacteria": replace(
            RECIPES["bacteria"],
            shapes=(
                ShapeRange("rod", variation=(0.15, 0.3), elongation=(3.5, 7.0), bend=(0.0, 0.35), dividing=(0.1, 0.4)),
            ),
            layout=LayoutRange(density=(0.15, 0.45), patterns=("random", "clusters"), packing=(0.75, 0.95), loose=0.0),
        ),
        "yeast": replace(
            RECIPES["yeast"],
            shapes=(ShapeRange("budding", elongation=(1.1, 1.8), chain=(1, 3), dividing=(0.1, 0.4), ratio=(0.1, 0.3)),),
            layout=LayoutRange(density=(0.15, 0.5), patterns=("clusters", "gradient"), packing=(0.75, 0.95), loose=0.0),
        ),
        "confluent cells": replace(
            RECIPES["whole_cells"],
            shapes=(cultured,),
            views=(
                View("Fluorescence", channels="cytoplasm,nuclei"),
                View("Fluorescence", channels="membrane,nuclei"),
                View("PhaseContrast"),
            ),
            layout=LayoutRange(density=(0.9, 1.0), gap=(0.0, 0.05), sheets=1.0, alignment=(0.2, 0.7)),
        ),
        "blood": replace(
            RECIPES["blood"],
            views=(View("Stained", kind="blood"),),
            layout=LayoutRange(density=(0.2, 0.6), patterns=("random", "gradient"), overlap=(-0.05, 0.25), loose=0.05),
        ),
        "DIC": replace(
            RECIPES["dic"],
            shapes=(cultured,),
            layout=LayoutRange(density=(0.15, 0.6), patterns=("random", "patches"), overlap=(-0.1, 0.1), loose=0.0),
        ),
    }


def accuracy_simulated() -> Iterator[Row]:
    """Simulated kinds without real labelled data, with other seeds and parameters than trained; sizes unknown."""
    for k, (name, recipe) in enumerate(held_out().items()):
        rng = np.random.default_rng([SEED, k])
        truth, found = [], []
        for number in range(PICTURES):
            diameter = float(np.exp(rng.uniform(*np.log(SIZES))))
            drawn = picture(recipe, number, seed=SEED + k, size=(SIDE, SIDE), diameter=diameter)
            truth.append(drawn.labels)
            found.append(segment(drawn.image(), "default", channels=channels_of(drawn)).labels)
        total = evaluate(truth, found, thresholds=(0.5, 0.75)).total
        row = {"data": f"{PICTURES} simulated pictures", "seed": SEED + k}
        yield Row(f"{name}, diameter unknown: F1@0.5", total.at(0.5).f1, at_least=0.85, **row)
        yield Row(f"{name}, diameter unknown: F1@0.75", total.at(0.75).f1, **row)


def training_speed() -> Iterator[Row]:
    """Crops of 224 px a second through the training loop, and the peer's own loop on the same pictures."""
    labels = np.stack([drawn_cells(256, seed=k) for k in range(40)])
    images = np.stack([drawn_image(one, seed=k) for k, one in enumerate(labels)])
    peer = run_peer("train_steps", repeats=1, images=images, labels=labels, weights_seed=SEED)
    theirs = 8 / float(peer["step_seconds"])
    for net in ("CellposeUNet", "FastUNet"):
        rows = _trained(net, images, labels)
        ours, waited = (statistics.median(float(row[key]) for row in rows) for key in LOG_COLUMNS)
        against = f"the same pictures, {peer['versions']}: {theirs:.2f} patches/s"
        yield Row(f"training, {net}: patches a second over the peer's", ours / theirs, "x", against)
        yield Row(f"training, {net}: throughput", ours, "patches/s", against)
        yield Row(f"training, {net}: time that a step waits for data", waited, "%", at_most=5)


LOG_COLUMNS = ("patches_per_second", "data_wait_percent")


def _trained(net: str, images: Any, labels: Any) -> list[dict[str, str]]:
    """Rows of the log of a short training; the first epoch, in which memory is laid out, does not count."""
    examples = [
        Example(str(k), Image.from_array(image), true)
        for k, (image, true) in enumerate(zip(images, labels, strict=True))
    ]
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(out=Path(folder), net=net, epochs=4, validation=0, diameter=DIAMETER)  # type: ignore[arg-type]
        start = Segmenter(NETS[net](), DiffusionFlows(), DIAMETER)
        preparation = Preparation(DIAMETER, start.channels, start.normalisation, start.representation)
        samples = prepare(examples, preparation, config.out / "training.f16")
        fit(start.net, start.representation, samples, None, config)
        with (config.out / LOG).open(newline="") as stream:
            return list(csv.DictReader(stream))[1:]


def sizes() -> Iterator[Row]:
    """F1 when every validation image is resampled to 0.25 x .. 4 x, wherever cells stay over 8 px; sizes unknown."""
    yield from resampled_f1(load_model("default"))


def diameter() -> Iterator[Row]:
    """Error of the estimated diameter by set; F1 when the diameter given is wrong by a factor of 0.5 to 2."""
    model = load_model("default")
    yield from diameter_errors(model)
    yield from wrong_diameter(model)


def unknown_diameter_speed() -> Iterator[Row]:
    """1024 x 1024: time with the diameter unknown over time with it given."""
    yield from unknown_diameter_time(load_model("default"))


MEASURES: dict[str, Callable[[], Iterator[Row]]] = {
    f.__name__: f
    for f in (
        accuracy_stardist_test,
        accuracy_validation,
        accuracy_simulated,
        accuracy_other_tests,
        sizes,
        diameter,
        calibration,
        unknown_diameter_speed,
        star_convex_nms,
        training_speed,
    )
}
