"""Measures of sizes: errors of the estimated diameter, what a wrong diameter costs, and images resampled 0.25x to 4x.

All on validation images of the sets that may be given away. `step` takes every step-th image of the large set
(`dsb2018`) and every (step / 3)-th of the others.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from cellweave import segment
from cellweave.core.image import Image
from cellweave.core.labels import Labels, median_diameter, resize_labels
from cellweave.metrics import match
from cellweave.models import Segmenter
from cellweave.predict import estimate_diameter
from cellweave.prep.rescale import resize
from cellweave.train import Example
from foundation import DATA, MADE, drawn_cells, drawn_image
from record import REPOSITORY, Row

sys.path.insert(0, str(REPOSITORY / "scripts"))
from _train_default import examples, free_sets

SPLIT = "val"
LARGE_SET = "dsb2018"
WRONG = (0.5, 0.71, 0.9, 1.0, 1.1, 1.41, 2.0)
RESAMPLED = (0.25, 0.5, 1.0, 2.0, 4.0)
SMALLEST_CELL = 8.0
LARGEST_SIDE = 3000
ITERATIONS = 3

Counts = dict[tuple[str, float], list[int]]


def validation(step: int = 3) -> dict[str, list[Example]]:
    """Validation images with cells, by set."""
    sets: dict[str, list[Example]] = defaultdict(list)
    for example in examples(DATA, free_sets(DATA), SPLIT):
        if median_diameter(example.labels) > 0:
            sets[example.group.partition("/")[0]].append(example)
    return {name: found[:: step if name == LARGE_SET else max(1, step // 3)] for name, found in sets.items()}


def resampled(example: Example, factor: float) -> tuple[Image, Labels]:
    """The image and its truth, `factor` times as large."""
    if factor == 1:
        return example.image, example.labels
    pixels = example.image.read()
    height, width = (max(1, round(n * factor)) for n in pixels.shape[1:])
    values = resize(pixels, height, width)
    if pixels.dtype.kind in "ui":
        values = np.rint(values).astype(pixels.dtype)
    return replace(example.image, data=values), resize_labels(example.labels, height, width)


def diameter_errors(model: Segmenter, step: int = 3, factors: Sequence[float] = RESAMPLED) -> Iterator[Row]:
    """Error of the estimated diameter by set, over the resampled images whose cells are over 8 px."""
    for name, found in validation(step).items():
        octaves = []
        for example in found:
            for factor in _usable(example, factors):
                image, _ = resampled(example, factor)
                true = median_diameter(example.labels) * factor
                octaves.append(np.log2(estimate_diameter(image, model) / true))
        error = np.abs(octaves)
        row = {"data": name, "split": SPLIT}
        what = f"estimated diameter, {len(error)} images at {factors[0]:g}x to {factors[-1]:g}x"
        yield Row(f"{what}: median error", 100 * (2 ** float(np.median(error)) - 1), "%", **row)
        yield Row(f"{what}: within a factor of 1.41", 100 * float(np.mean(error < 0.5)), "%", **row)


def wrong_diameter(model: Segmenter, step: int = 3) -> Iterator[Row]:
    """F1@0.5 where the given diameter is wrong by a factor; mean over sets.

    Fixed: the wrong one is used. Iterated: the image is segmented again by the median diameter of the cells found,
    three times. Estimated: it is not used at all.
    """
    sets = validation(step)
    ways: dict[str, Counts] = {"fixed": {}, "iterated": {}, "estimated": {}}
    steps: dict[str, Counts] = {"-1 px": {}, "as it is": {}, "+1 px": {}}
    for name, found in sets.items():
        for example in found:
            true = median_diameter(example.labels)
            labels = segment(example.image, model).labels
            for factor in WRONG:
                _count(ways["estimated"], name, factor, example.labels, labels)
                wrong = segment(example.image, model, diameter=true * factor).labels
                _count(ways["fixed"], name, factor, example.labels, wrong)
                for _ in range(ITERATIONS):
                    wrong = segment(example.image, model, diameter=median_diameter(wrong) or None).labels
                _count(ways["iterated"], name, factor, example.labels, wrong)
            for counts, change in zip(steps.values(), (-1, 0, 1), strict=True):
                given = segment(example.image, model, diameter=true + change).labels
                _count(counts, name, change, example.labels, given)
    row = {"data": ", ".join(sets), "split": SPLIT}
    for way, counts in ways.items():
        for factor in WRONG:
            yield Row(f"F1@0.5, diameter {factor:g} times the true one, {way}", _mean_f1(counts, factor), "", **row)
    true_f1 = _mean_f1(steps["as it is"], 0)
    for (way, counts), change in zip(steps.items(), (-1, 0, 1), strict=True):
        if change:
            lost = true_f1 - _mean_f1(counts, change)
            yield Row(f"F1@0.5 lost by a diameter of {way}", lost, "", "the true one", at_most=0.01, **row)


def resampled_f1(model: Segmenter, step: int = 3) -> Iterator[Row]:
    """F1@0.5 without a diameter on resampled images, and how far it is from that of the same images at 1x.

    Only images whose cells stay over 8 px, and of up to 3000 px a side.
    """
    sets = validation(step)
    counts: Counts = {}
    same: Counts = {}
    lost: dict[float, list[float]] = defaultdict(list)
    for name, found in sets.items():
        for example in found:
            once: Labels | None = None
            for factor in _usable(example, RESAMPLED):
                image, truth = resampled(example, factor)
                _count(counts, name, factor, truth, segment(image, model).labels)
                if once is None:
                    once = segment(example.image, model).labels
                _count(same, name, factor, example.labels, once)
        for factor in RESAMPLED:
            if (name, factor) not in counts:
                continue
            here, at_once = _f1(counts[name, factor]), _f1(same[name, factor])
            lost[factor].append(at_once - here)
            against = f"the same images at 1x: {at_once:.3f}"
            yield Row(f"F1@0.5 at {factor:g}x, diameter unknown", here, "", against, data=name, split=SPLIT)
    row = {"data": ", ".join(sets), "split": SPLIT}
    for factor, values in lost.items():
        if factor != 1:
            mean = float(np.mean(values))
            yield Row(f"mean F1@0.5 at {factor:g}x: lost against 1x", mean, "", "same images", at_most=0.05, **row)


def unknown_diameter_time(model: Segmenter, repeats: int = 7) -> Iterator[Row]:
    """Time of `segment` without a diameter over that with the diameter it finds, on one CPU; the least of several."""
    image = drawn_image(drawn_cells(1024))
    diameter = estimate_diameter(image, model, device="cpu")
    given, unknown = _least(
        [
            lambda: segment(image, model, diameter=diameter, device="cpu"),
            lambda: segment(image, model, device="cpu"),
        ],
        repeats,
    )
    against = f"{MADE}; {unknown:.2f} s to {given:.2f} s"
    yield Row("segment, 1024 x 1024: time over diameter given", unknown / given, "x", against, at_most=1.5)


def _least(work: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Least seconds of each, the works taking turns."""
    times: list[list[float]] = [[] for _ in work]
    for _ in range(repeats + 1):
        for run, taken in zip(work, times, strict=True):
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    return [min(taken[1:]) for taken in times]


def _usable(example: Example, factors: Sequence[float]) -> list[float]:
    """The factors at which cells stay over 8 px and the image is not too large; 1x always."""
    diameter, side = median_diameter(example.labels), max(example.image.height, example.image.width)
    return [f for f in factors if f == 1 or (diameter * f >= SMALLEST_CELL and side * f <= LARGEST_SIDE)]


def _count(counts: Counts, name: str, factor: float, truth: Labels, found: Labels) -> None:
    result = match(truth, found, iou=0.5)
    total = counts.setdefault((name, factor), [0, 0, 0])
    for k, n in enumerate((result.tp, result.fp, result.fn)):
        total[k] += n


def _f1(total: Sequence[int]) -> float:
    tp, fp, fn = total
    return 2 * tp / max(1, 2 * tp + fp + fn)


def _mean_f1(counts: Counts, factor: float) -> float:
    """Mean over sets of the F1 pooled over a set's images."""
    return float(np.mean([_f1(total) for (_, f), total in counts.items() if f == factor]))
