"""The ablation of the challenge paper (its Tables 3 and 4) on open images at several resolutions.

Byun et al. 2022, *Cell Segmentation in Multi-modality High-Resolution Microscopy Images with Cellpose*. The paper
starts from cyto2, a model of other images than the challenge's, and fine-tunes it; we start from a specialist of
fluorescent nuclei and fine-tune it on all our kinds of images (`_trainings.py`). The challenge's images come at many
resolutions; so do ours: validation images, each at 0.25 to 4 times its own, wherever cells stay over 8 px. None of them
was learned from or chosen by. F1 is at IoU 0.5, first averaged over the resolutions of an image, then over images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

import _plots
import record
from _trainings import TRAININGS, free_examples, nearest, of_each_kind, style, style_clusters, trained
from cellweave.core.image import Image
from cellweave.core.labels import Labels, median_diameter, resize_labels
from cellweave.core.progress import report
from cellweave.metrics import match
from cellweave.models import Segmenter
from cellweave.predict import segment
from cellweave.prep.rescale import resize
from cellweave.train import Example
from record import Row

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
SMALLEST_CELL, LONGEST_SIDE = 8.0, 2000
OF_EACH_KIND = 6
PAPER = {
    "base": 0.3112,
    "fine-tuned, channel policy": 0.6387,
    "+ diameter estimation": 0.7607,
    "flow threshold 0": 0.7084,
    "merged channels": 0.7336,
    "style clusters = 10": 0.6805,
    "trained at 512": 0.6518,
}
"""F1 on the challenge's tuning set."""
BEFORE = {"fine-tuned, channel policy": "base", "+ diameter estimation": "fine-tuned, channel policy"}
"""What a step is compared with; the others with diameter estimation."""


@dataclass(frozen=True, eq=False)
class Picture:
    """An image at `factor` times its own resolution; `source` is the place of that image in the list."""

    source: int
    factor: float
    image: Image
    labels: Labels


def resampled(example: Example, factor: float) -> tuple[Image, Labels]:
    """Image and labels at `factor` times the resolution, of the same type."""
    height, width = (max(1, round(n * factor)) for n in example.labels.shape)
    pixels = example.image.read()
    values = resize(pixels, height, width)
    if pixels.dtype.kind in "ui":
        values = np.rint(values)
    image = replace(example.image, data=values.astype(pixels.dtype), pixel_size_um=None)
    return image, resize_labels(example.labels, height, width)


def multi_resolution(members: Sequence[Example]) -> list[Picture]:
    """Each image at all `FACTORS` at which its median cell is at least 8 px and no side over 2000 px."""
    pictures = []
    for k, example in enumerate(members):
        for factor in FACTORS:
            cell, side = median_diameter(example.labels) * factor, max(example.labels.shape) * factor
            if cell >= SMALLEST_CELL and side <= LONGEST_SIDE:
                pictures.append(Picture(k, factor, *resampled(example, factor)))
    return pictures


def by_image(pictures: Sequence[Picture], f1: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the figures (n,) of pictures over the resolutions of each image."""
    sources = np.array([p.source for p in pictures])
    return np.array([f1[sources == k].mean() for k in np.unique(sources)])


def verdict(expected: float, changes: NDArray[np.float64]) -> str:
    """Whether a change that the paper saw holds: the same sign on average, by over two standard errors.

    Parameters
    ----------
    expected
        The paper's change; only its sign counts.
    changes
        (n,) our change in each image.
    """
    mean = float(np.mean(changes))
    doubt = 2 * float(np.std(changes, ddof=1)) / np.sqrt(len(changes)) if len(changes) > 1 else np.inf
    if abs(mean) <= doubt:
        conclusion = "does not hold, no clear change"
    else:
        conclusion = "holds" if mean * expected > 0 else "does not hold, the opposite"
    return f"ours {mean:+.3f} ± {doubt:.3f}: {conclusion}"


def steps() -> Iterator[Row]:
    """Every step of the paper, in its order, with the paper's figure and whether the effect holds."""
    members = of_each_kind([e for e in free_examples("val") if median_diameter(e.labels)], OF_EACH_KIND)
    pictures = multi_resolution(members)
    data = f"{len(members)} images of every kind at {len(pictures)} resolutions"
    f1: dict[str, NDArray[np.float64]] = {}
    for name, budget, find in settings(pictures):
        f1[name] = _score(name, pictures, find)
        against = f"{budget}; paper: {PAPER[name]}"
        if name != "base":
            before = BEFORE.get(name, "+ diameter estimation")
            paper = PAPER[name] - PAPER[before]
            changes = by_image(pictures, f1[name]) - by_image(pictures, f1[before])
            against += f", {paper:+.3f} from {before.removeprefix('+ ')}; {verdict(paper, changes)}"
        yield Row(f"{name}: F1@0.5", float(by_image(pictures, f1[name]).mean()), "", against, data=data, split="val")
    figures = {name: float(by_image(pictures, values).mean()) for name, values in f1.items()}
    lines = {name: by_factor(pictures, f1[name]) for name in list(PAPER)[:3]}
    file = record.RESULTS / "ablation.svg"
    labels = ("F1 (paper: tuning set; ours: at IoU 0.5)", "F1 at IoU 0.5", "resolution, times the image's own")
    _plots.bars_and_curves(file, {"paper": PAPER, "ours": figures}, lines, labels)


def settings(pictures: Sequence[Picture]) -> Iterator[tuple[str, str, Callable[[int], Labels]]]:
    """Name and training of every step, and the labels it gives for picture k; models are made when they are needed."""
    base = trained("specialist")

    def not_resized(model: Segmenter, k: int, channels: str | None = None) -> Labels:
        return segment(pictures[k].image, model, diameter=model.diameter, channels=channels).labels

    yield "base", _budget("specialist"), lambda k: not_resized(base, k, "gray")
    tuned = trained("fine_tuned")
    yield "fine-tuned, channel policy", _budget("fine_tuned"), lambda k: not_resized(tuned, k)

    diameters: dict[int, float] = {}

    def estimated(k: int) -> Labels:
        found = segment(pictures[k].image, tuned)
        diameters[k] = found.diameter
        return found.labels

    yield "+ diameter estimation", "the same model", estimated
    unchecked = tuned.with_(representation=replace(tuned.representation, flow_threshold=0.0))
    yield (
        "flow threshold 0",
        "the same model and diameters",
        lambda k: segment(pictures[k].image, unchecked, diameter=diameters[k]).labels,
    )
    merged = trained("fine_tuned_merged")
    yield "merged channels", _budget("fine_tuned_merged"), lambda k: segment(pictures[k].image, merged).labels

    centroids, _ = style_clusters()
    experts = [trained(f"cluster_{k}") for k in range(len(centroids))]

    def of_its_cluster(k: int) -> Labels:
        expert = experts[nearest(style(base, pictures[k].image, diameters[k]), centroids)]
        return segment(pictures[k].image, expert, diameter=diameters[k]).labels

    yield "style clusters = 10", f"{_budget('cluster_0')} each, the same diameters", of_its_cluster
    larger = trained("fine_tuned_512")
    yield "trained at 512", _budget("fine_tuned_512"), lambda k: segment(pictures[k].image, larger).labels


def _budget(name: str) -> str:
    training = TRAININGS[name]
    crop, batch = training.settings.get("crop", 224), training.settings.get("batch_size", 8)
    return f"{training.steps} steps of {batch} x {crop} px" + (f" from {training.base}" if training.base else "")


def _score(name: str, pictures: Sequence[Picture], find: Callable[[int], Labels]) -> NDArray[np.float64]:
    """F1 at IoU 0.5 (n,) of what is found in each picture."""
    f1 = []
    for k, picture in enumerate(pictures):
        report(name, k, len(pictures), f"{picture.factor:g}x")
        f1.append(match(picture.labels, find(k), 0.5).f1)
    report(name, len(pictures), len(pictures), "")
    return np.array(f1)


def by_factor(pictures: Sequence[Picture], f1: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """Factors that occur, and the mean figure at each."""
    factors = np.array([p.factor for p in pictures])
    known = sorted(set(factors.tolist()))
    return known, [float(f1[factors == factor].mean()) for factor in known]


MEASURES: record.Measures = {"steps": steps}
