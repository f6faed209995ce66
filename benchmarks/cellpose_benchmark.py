"""Cellpose's benchmark on open images: specialist and generalist models, diffusion flows against star-convex polygons.

Stringer et al. 2021, *Cellpose: a generalist algorithm for cellular segmentation*, as far as its figures 3 and 4 go.
The paper's specialist learned 100 images of the CellImageLibrary; ours learns 100 images of dsb2018's fluorescent
nuclei, and its own test images are those of StarDist's split (`_trainings.py` says why). The generalist learns all
sets. The same net, steps and seed for both representations; diameters are given, so that the representations are
compared and not the size models. AP = TP / (TP + FP + FN) at each IoU, the mean over images. Mask R-CNN, the paper's
third method, is not part of this comparison yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

import _plots
import record
from _trainings import TRAININGS, free_examples, is_fluorescence, trained
from ablation import verdict
from cellweave.core.labels import Labels, median_diameter
from cellweave.core.progress import report
from cellweave.metrics import evaluate
from cellweave.predict import segment
from cellweave.train import Example
from record import Row

THRESHOLDS = tuple(round(0.5 + 0.05 * k, 2) for k in range(11))
REPRESENTATIONS = {"diffusion flows": "", "star-convex": "_star"}
OWN, OTHERS = "dsb2018_stardist_test", "all other kinds"
PAPER = {
    "diffusion flows": "paper, CellImageLibrary: 0.88 (Mask R-CNN 0.80)",
    "star-convex": "paper, CellImageLibrary: 0.76; StarDist's paper on these test images: 0.864",
}
HIGHER = {0.5: "paper: 0.88 against 0.76", 0.75: "paper: above at every IoU"}

Curves = NDArray[np.float64]
"""AP (N, 11) of N images at the `THRESHOLDS`."""


def average_precision(truth: Sequence[Labels], found: Sequence[Labels]) -> Curves:
    """AP = TP / (TP + FP + FN) of each image at the `THRESHOLDS`."""
    images = evaluate(truth, found, thresholds=THRESHOLDS).images
    return np.array([[d.average_precision for d in scores.detections] for scores in images])


@cache
def test_images() -> dict[str, list[Example]]:
    """The specialist's own test images, and images of other kinds, by set."""
    sets: dict[str, list[Example]] = {OWN: list(free_examples("test"))}
    for example in free_examples("val"):
        if not is_fluorescence(example):
            name = example.group.partition("/")[0]
            sets.setdefault("dsb2018, stained and brightfield" if name == "dsb2018" else name, []).append(example)
    return sets


@cache
def measured(training: str) -> dict[str, Curves]:
    """AP of a model on every set of test images, and on all but its own together."""
    model, curves = trained(training), {}
    for name, members in test_images().items():
        found = []
        for k, example in enumerate(members):
            report(f"{training} on {name}", k, len(members), example.name)
            found.append(segment(example.image, model, diameter=median_diameter(example.labels) or None).labels)
        report(f"{training} on {name}", len(members), len(members), "")
        curves[name] = average_precision([e.labels for e in members], found)
    curves[OTHERS] = np.concatenate([values for name, values in curves.items() if name != OWN])
    return curves


def specialist() -> Iterator[Row]:
    """Models of 100 images of one kind: on test images of that kind, and on the others (paper, Fig. 3)."""
    yield from _both("specialist")
    yield from _flows_above_star("specialist")
    curves = measured("specialist")
    change = curves[OTHERS][:, 0] - curves[OWN][:, 0].mean()
    against = f"paper: 'performed poorly on the full dataset'; {verdict(-1, change)}"
    name = f"specialist, diffusion flows: AP@0.5 of {OTHERS} less that of its own"
    yield Row(name, float(change.mean()), "", against, **_on(OTHERS))
    _draw("specialist")


def generalist() -> Iterator[Row]:
    """Models of all kinds of images, on the same test images (paper, Fig. 4)."""
    yield from _both("generalist")
    yield from _flows_above_star("generalist")
    change = measured("generalist")[OTHERS][:, 0] - measured("specialist")[OTHERS][:, 0]
    against = f"paper: specialists motivate the need for a generalist; {verdict(1, change)}"
    name = f"diffusion flows: AP@0.5 of {OTHERS}, generalist less specialist"
    yield Row(name, float(change.mean()), "", against, **_on(OTHERS))
    _draw("generalist")


def _both(kind: str) -> Iterator[Row]:
    for title, suffix in REPRESENTATIONS.items():
        budget = f"{TRAININGS[kind + suffix].steps} steps of 8 x 224 px"
        for name, curves in measured(kind + suffix).items():
            paper = f"; {PAPER[title]}" if (kind, name) == ("specialist", OWN) else ""
            ap = float(curves[:, 0].mean())
            yield Row(f"{kind}, {title}, {name}: AP@0.5", ap, "", budget + paper, **_on(name))
        for iou in (0.75, 0.9):
            ap = float(measured(kind + suffix)[OWN][:, THRESHOLDS.index(iou)].mean())
            yield Row(f"{kind}, {title}, {OWN}: AP@{iou:g}", ap, "", budget, **_on(OWN))


def _flows_above_star(kind: str) -> Iterator[Row]:
    flows, star = (measured(kind + suffix)[OWN] for suffix in REPRESENTATIONS.values())
    for iou, paper in HIGHER.items():
        change = (flows - star)[:, THRESHOLDS.index(iou)]
        name = f"{kind}, {OWN}: AP@{iou:g} of diffusion flows less star-convex"
        yield Row(name, float(change.mean()), "", f"{paper}; {verdict(1, change)}", **_on(OWN))


def _on(name: str) -> dict[str, str]:
    return {"data": name, "split": "test" if name == OWN else "val"}


def _draw(kind: str) -> None:
    panels = {
        f"{kind}: {name}": {
            title: (THRESHOLDS, measured(kind + suffix)[name].mean(axis=0)) for title, suffix in REPRESENTATIONS.items()
        }
        for name in (OWN, OTHERS)
    }
    file = record.RESULTS / f"cellpose_benchmark_{kind}.svg"
    _plots.curves(file, panels, "IoU threshold", "AP, mean over images")


MEASURES: record.Measures = {f.__name__: f for f in (specialist, generalist)}
