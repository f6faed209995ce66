"""Counting and locating cells from points: published sets, phase contrast by seven methods, learning curves, time.

*Localizing Cells in Phase-Contrast Microscopy Images using Sparse and Noisy Center-Point Annotations* (thesis), and the
counting sets of Cohen et al. 2017 (*Count-ception*). Trainings are steps of their own (`_point_trainings.py`).

Phase contrast is tested by leaving one of the three annotated images out. A found cell within 12 px of a click is
right; pairs are one to one. Annotators did not click where cells are too dense to tell: what is found there counts as
wrong on "whole images", and plays no part in the "annotated part", which is near a click or shows no cells.

SAM's weights are those in the folder, or of the name on the hub, that the environment variable CELLWEAVE_SAM tells.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

import _plots
import record
from _point_trainings import (
    CLICKS,
    CURVE,
    DRAWS,
    EVERY_CLICK,
    GENERALIST,
    IMAGES,
    ONE,
    PHASE,
    SEED,
    SIGMAS,
    TRAININGS,
    drawn,
    example,
    guessed_diameter,
    marks,
    others,
    phase,
    plane_of,
    trained,
    trained_detector,
    with_sigma,
)
from cellweave import Image, Segmenter, segment
from cellweave.core.errors import CellweaveError
from cellweave.core.points import Points, Positions
from cellweave.core.progress import report
from cellweave.metrics.counting import RADIUS, PointEvaluation, evaluate_points
from cellweave.models import load_model
from cellweave.models.count_calibration import CountCalibration
from cellweave.predict.area import AreaDensity
from cellweave.predict.blobs import fit_blobs
from cellweave.predict.counting import count
from cellweave.prep.foreground import foreground
from record import Row

if TYPE_CHECKING:
    from cellweave.predict.sam import PointPrompt

PUBLISHED = {
    "vgg": "Count-ception 2.3-2.4, FCRN-A 2.9 +- 0.2",
    "mbm": "Count-ception 8.3-8.8",
    "adi": "Count-ception 19.4",
}
WANTED = {"vgg": 2.4, "mbm": 8.5, "adi": 19.0}
NAMES = {"vgg": "VGG synthetic cells", "mbm": "bone marrow (MBM)", "adi": "adipocytes (ADI)"}
THESIS = "thesis: its Cellpose found 2,971 of 5,671, by its own count of clicks; the files hold 3,916 on cells"
SAM = os.environ.get("CELLWEAVE_SAM", "facebook/sam-vit-base")
"""A folder with SAM's weights, or a name on the hub."""
PLACES = 50
"""Prompts of background for an image on which no one clicked any."""
PARTS = 4
"""Intervals in phase contrast are judged on this many parts of the height by as many of the width."""
LARGE = (2000, 2500)
FASTEST = 1.3
F1 = f"F1 within {RADIUS:g} px"
LEVEL = 0.9
"""How often an interval should hold the true count."""


@dataclass(frozen=True)
class Found:
    """What a method found in an image.

    Parameters
    ----------
    count
        Number of cells.
    seconds
        That it took, without training.
    points
        Where they are; None for a method that only counts.
    annotated
        Number of cells in the annotated part; None: that of the points there.
    training
        Name of the model's training, if one was made for it.
    """

    count: float
    seconds: float
    points: Points | None = None
    annotated: float | None = None
    training: str = ""


Method = Callable[[str], Found]
"""Gets the name of the phase-contrast image that it may not learn from, and counts its cells."""


@dataclass(frozen=True, eq=False)
class Counts:
    """(N,) each: the true numbers of cells, those counted, and half the widths of their intervals."""

    true: NDArray[np.float64]
    counted: NDArray[np.float64]
    half: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Mean of |counted - true|."""
        return float(np.abs(self.counted - self.true).mean())

    @property
    def share(self) -> float:
        """The same over the mean true count."""
        return self.error / float(self.true.mean())


def counts_on(name: str, training: str, stems: Sequence[str], *, augment: bool = False) -> Counts:
    """What a model counts on images of a set."""
    model, rows = trained(training), []
    for k, stem in enumerate(stems):
        report("counting", k, len(stems), stem)
        one = example(name, stem)
        found = count(one.image, model, interval=LEVEL, augment=augment)
        assert found.high is not None
        rows.append((len(one.positions.cells), found.count, found.high - found.count))
    report("counting", len(stems), len(stems), "")
    return Counts(*np.array(rows, np.float64).T)


def interval_rows(counts: Sequence[Counts], title: str, calibrated_on: str, **data: Any) -> Iterator[Row]:
    """How often the interval holds the true count, and how wide it is."""
    name = f"{title}: {100 * LEVEL:.0f} % interval"
    held = np.concatenate([np.abs(one.counted - one.true) <= one.half for one in counts])
    against = f"of {len(held)} counts; {calibrated_on}"
    yield Row(f"{name}, share of true counts inside", float(held.mean()), "", against, **data)
    width = float(np.median(np.concatenate([2 * one.half for one in counts])))
    cells = np.median(np.concatenate([one.true for one in counts]))
    yield Row(f"{name}, median width", width, "cells", f"of {cells:.0f} cells in the median", **data)


def steps_of(training: str) -> str:
    return f"{TRAININGS[training].steps:,} steps"


def errors_of(name: str) -> Iterator[Row]:
    """Mean error of the count on a published set, also averaged over flips: the mean over draws, and each draw."""
    n = IMAGES[name]
    trainings = [f"{name}-{n}-{draw}" for draw in range(DRAWS[name])]
    tests = [drawn(name, n, draw)[2] for draw in range(DRAWS[name])]
    split = "test, epoch chosen on the pool" if name == "vgg" else "drawn, the rest is the test"
    data: dict[str, Any] = {"data": f"{name}_points", "split": split, "seed": SEED}
    title = f"{NAMES[name]}, {n} images"
    protocol = (
        f"protocol of Count-ception: {n} images to learn from, {n} to choose the epoch by, {len(tests[0])} others "
        f"to test on; {steps_of(trainings[0])}"
    )
    for augment, way in ((False, ""), (True, ", over four flips (--augment)")):
        draws = [counts_on(name, *pair, augment=augment) for pair in zip(trainings, tests, strict=True)]
        errors = [one.error for one in draws]
        each = ", ".join(f"{e:.2f}" for e in errors)
        spread, share = np.std(errors, ddof=1), 100 * np.mean([one.share for one in draws])
        against = (
            f"{PUBLISHED[name]} as published; draws: {each}, +- {spread:.2f}; {share:.1f} % of the cells; {protocol}"
        )
        name_of_row = f"{title}: mean error of the count{way}, {len(errors)} draws"
        yield Row(name_of_row, float(np.mean(errors)), "", against, at_most=WANTED[name], **data)
        if not augment:
            yield from interval_rows(draws, title, f"calibrated on the {n} images that chose the epoch", **data)


def vgg() -> Iterator[Row]:
    """VGG synthetic cells, 32 images, five draws; the net of the thesis in a short training."""
    yield from errors_of("vgg")
    stems = drawn("vgg", 32, 0)[2]
    nested, fast = "vgg-nested", f"vgg-curve-{CURVE[-1]}"
    against = (
        f"{steps_of(nested)}; FastUNet in about as many minutes: {counts_on('vgg', fast, stems).error:.2f}, "
        f"{steps_of(fast)}"
    )
    name = "VGG synthetic cells, 32 images, NestedUNet in a short training: mean error of the count, 1 draw"
    yield Row(name, counts_on("vgg", nested, stems).error, "", against, data="vgg_points", split="test", seed=SEED)


def mbm() -> Iterator[Row]:
    """Bone marrow, 15 images."""
    yield from errors_of("mbm")


def adi() -> Iterator[Row]:
    """Adipocytes, 50 images."""
    yield from errors_of("adi")


def heatmap(held_out: str, name: str = "phase-heatmap") -> Found:
    """CellNet: a heatmap learned from clicks; the count is its integral."""
    training = f"{name}-{held_out}"
    return replace(counted(trained(training), held_out), training=training)


def counted(model: Segmenter, held_out: str) -> Found:
    """What a model of heatmaps counts."""
    one = phase(held_out)
    start = time.perf_counter()
    found = count(one.image, model, interval=None)
    seconds = time.perf_counter() - start
    maps = np.where(one.known, found.maps, np.float32(0))
    return Found(found.count, seconds, found.points.cells, model.positions.count(maps))


def outlined(held_out: str, model: Segmenter, diameter: float | None) -> Found:
    """The objects of a model of outlines."""
    start = time.perf_counter()
    found = segment(phase(held_out).image, model, diameter=diameter)
    seconds = time.perf_counter() - start
    return Found(float(found.count), seconds, Points.from_labels(found.labels, found.confidence))


def fine_tuned(held_out: str, kind: str) -> Found:
    """A model fine-tuned on the other images' pseudo-masks; resized by their diameter, which their making caps at 40 px
    (the thesis' cells have 38 to 39 px)."""
    training = f"phase-{kind}-{held_out}"
    return replace(outlined(held_out, trained(training), guessed_diameter(held_out)), training=training)


def embedded(held_out: str) -> Found:
    """The embedded model of flows, which has never seen such cells; the size is estimated."""
    return outlined(held_out, load_model("default"), None)  # type: ignore[arg-type]


def stars(held_out: str) -> Found:
    """StarDist's representation as it comes: learned on other sets, never from such cells; the size is estimated."""
    return replace(outlined(held_out, trained(GENERALIST), None), training=GENERALIST)


def mask_rcnn(held_out: str) -> Found:
    """Mask R-CNN on fixed boxes of 50 px, from scratch and few steps, not trained to convergence."""
    from cellweave.predict.mask_rcnn import detect

    training = f"phase-detect-{held_out}"
    detector = trained_detector(training)
    start = time.perf_counter()
    points = detect(phase(held_out).image, detector).points
    return Found(float(len(points)), time.perf_counter() - start, points, training=training)


def sam_grid(held_out: str) -> Found:
    """SAM without prompts: its grid."""
    from cellweave.predict.sam import load_sam, segment_grid

    sam = load_sam(SAM)
    start = time.perf_counter()
    found = segment_grid(sam, phase(held_out).image)
    points = Points.from_labels(found.labels, found.confidence)
    return Found(float(len(points)), time.perf_counter() - start, points)


def sam_prompted(held_out: str, prompt: PointPrompt, *, clicked: bool = False) -> Found:
    """SAM, one prompt a cell."""
    from cellweave.predict.sam import load_sam, segment_points

    sam = load_sam(SAM)
    given = phase(held_out).positions.cells
    seconds = 0.0
    if not clicked:
        found = found_by("heatmap, FastUNet")[held_out]
        assert found.points is not None
        given, seconds = found.points, found.seconds
    start = time.perf_counter()
    objects = segment_points(sam, phase(held_out).image, given, prompt=prompt)
    points = Points.from_labels(objects.labels, objects.confidence)
    return Found(float(len(points)), seconds + time.perf_counter() - start, points)


def sam_area(held_out: str, positive: Literal["cells", "background"]) -> Found:
    """Area by SAM: all clicks of the held-out image itself are one prompt, as in the thesis; density of the others."""
    from cellweave.predict.sam import load_sam, sam_foreground

    sam = load_sam(SAM)

    def mask(stem: str) -> NDArray[np.bool_]:
        one = phase(stem)
        return sam_foreground(sam, one.image, one.positions.cells, background_clicks(stem), positive=positive)

    return by_area(held_out, mask)


def background_clicks(stem: str) -> Positions:
    """Clicks on background; where no one made any, places drawn among those whose texture shows no cell."""
    clicked = marks(stem).background_points
    if len(clicked):
        return clicked
    empty = np.argwhere(~foreground(plane_of(phase(stem).image))).astype(np.float64)
    return np.random.default_rng(SEED).choice(empty, min(PLACES, len(empty)), replace=False)


def area(held_out: str) -> Found:
    """Area: the foreground by texture times the density of the other images."""
    return by_area(held_out, lambda stem: foreground(plane_of(phase(stem).image)))


def by_area(held_out: str, mask: Callable[[str], NDArray[np.bool_]]) -> Found:
    """Area of a foreground times the density of the other images, which is that of their annotated parts."""
    learned = [phase(stem) for stem in others(held_out)]
    model = AreaDensity.fit(
        [mask(e.name) for e in learned], [e.positions for e in learned], known=[known_of(e.name) for e in learned]
    )
    start = time.perf_counter()
    found = mask(held_out)
    seconds = time.perf_counter() - start
    return Found(model.count(found), seconds, annotated=model.count(found & known_of(held_out)))


def blobs(held_out: str) -> Found:
    """Classical: blobs of the sizes, sign and contrast that fit the annotated parts of the other images best."""
    learned = others(held_out)
    finder = fit_blobs(
        [plane_of(phase(stem).image) for stem in learned],
        [phase(stem).positions for stem in learned],
        known=[known_of(stem) for stem in learned],
    )
    plane = plane_of(phase(held_out).image)
    start = time.perf_counter()
    found = finder.find(plane)
    return Found(float(len(found)), time.perf_counter() - start, found)


def known_of(stem: str) -> NDArray[np.bool_]:
    """(Y, X): the annotated part of a phase-contrast image."""
    known = phase(stem).known
    assert known is not None
    return known


def are_in(positions: Positions, region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(N,): which positions are in a region."""
    row, column = np.rint(positions).astype(int).T
    inside: NDArray[np.bool_] = region[row, column]
    return inside


def within(points: Points, region: NDArray[np.bool_]) -> Points:
    """The points in a region."""
    return points[are_in(points.positions, region)]


LEFT_OUT: dict[str, Any] = {"data": "phase_points", "split": "leave one image out", "seed": SEED}
METHODS: dict[str, Method] = {
    "heatmap, FastUNet": heatmap,
    "heatmap, NestedUNet": partial(heatmap, name="phase-nested"),
    "flows, fine-tuned on pseudo-masks": partial(fine_tuned, kind="flows"),
    "flows as they come": embedded,
    "Mask R-CNN, boxes of 50 px": mask_rcnn,
    "SAM, grid": sam_grid,
    "SAM, the heatmap's points": partial(sam_prompted, prompt="point"),
    "SAM, the heatmap's points with an X of negatives": partial(sam_prompted, prompt="negatives"),
    "SAM, boxes around the heatmap's points": partial(sam_prompted, prompt="box"),
    "SAM, given the true clicks": partial(sam_prompted, prompt="point", clicked=True),
    "SAM, given the true clicks with an X of negatives": partial(sam_prompted, prompt="negatives", clicked=True),
    "SAM, given boxes around the true clicks": partial(sam_prompted, prompt="box", clicked=True),
    "StarDist's representation, fine-tuned on pseudo-masks": partial(fine_tuned, kind="star"),
    "StarDist's representation as it comes": stars,
    "area by texture": area,
    "area by SAM, clicks positive": partial(sam_area, positive="cells"),
    "area by SAM, background positive": partial(sam_area, positive="background"),
    "multi-scale blobs": blobs,
}


@cache
def found_by(method: str) -> dict[str, Found]:
    """What a method finds in each annotated image when it may learn from the others."""
    return {stem: METHODS[method](stem) for stem in PHASE}


def judged(found: dict[str, Found], *, annotated: bool) -> PointEvaluation:
    """Against the clicks on cells: on the whole images, or in their annotated part. Without points, none is right."""
    truth, points, numbers = [], [], []
    for stem, one in found.items():
        some, number = one.points if one.points is not None else Points(np.empty((0, 2))), one.count
        if annotated:
            some = within(some, known_of(stem))
            number = float(len(some)) if one.annotated is None else one.annotated
        truth.append(phase(stem).positions.cells)
        points.append(some)
        numbers.append(number)
    return evaluate_points(truth, points, names=list(found), counts=numbers)


def count_error(evaluation: PointEvaluation) -> float:
    """Mean of |counted - true| / true over the images, in percent."""
    return 100 * float(np.mean([scores.count_error for scores in evaluation.images]))


def figures_of(evaluation: PointEvaluation, *, located: bool = True) -> dict[str, tuple[float, str]]:
    """The figures of the table and their units, by name; those of places only where the method tells places."""
    figures = {"count error": (count_error(evaluation), "%")}
    if located:
        d = evaluation.total.detection
        figures |= {"precision": (d.precision, ""), "recall": (d.recall, ""), F1: (d.f1, "")}
    return figures


def told(evaluation: PointEvaluation) -> str:
    """The figures in words."""
    said = [f"{name} {value:.3g} {unit}".strip() for name, (value, unit) in figures_of(evaluation).items()]
    return ", ".join([numbers(evaluation), *said])


def numbers(evaluation: PointEvaluation) -> str:
    return f"{evaluation.total.n_predicted:.0f} of {evaluation.total.n_true} counted"


def phase_contrast() -> Iterator[Row]:
    """The heatmap on the thesis' images, each left out once: count, F1, intervals; whole images and annotated part."""
    for method, wanted in (("heatmap, FastUNet", True), ("heatmap, NestedUNet", False)):
        training = next(iter(found_by(method).values())).training
        for annotated, part in ((False, "whole images"), (True, "annotated part")):
            evaluation = judged(found_by(method), annotated=annotated)
            against = f"{THESIS}; {told(evaluation)}; {steps_of(training)}"
            total, f1 = evaluation.total, evaluation.total.detection.f1
            name, at_most = f"{method}, {part}", 10.0 if wanted else None
            together = 100 * abs(total.n_predicted - total.n_true) / total.n_true
            yield Row(
                f"{name}: error of the count, images together", together, "%", against, at_most=at_most, **LEFT_OUT
            )
            yield Row(f"{name}: error of the count", count_error(evaluation), "%", against, at_most=at_most, **LEFT_OUT)
            yield Row(f"{name}: {F1}", f1, "", against, at_least=0.8 if wanted else None, **LEFT_OUT)
    calibrated_on = "calibrated on parts of the other images, by models that saw this one but not theirs"
    yield from interval_rows(counts_of_parts(), f"heatmap, {PARTS**2} parts of each image", calibrated_on, **LEFT_OUT)


def counts_of_parts() -> list[Counts]:
    """What the heatmap counts in the annotated parts of rectangles of each image, with calibrated intervals."""
    made = {stem: parts_of(stem, trained(f"phase-heatmap-{stem}")) for stem in PHASE}
    counts = []
    for stem, (true, counted, spread) in made.items():
        calibration = CountCalibration.of(*np.concatenate([made[other] for other in others(stem)], axis=1))
        counts.append(Counts(true, counted, calibration.factor(LEVEL) * spread))
    return counts


def parts_of(stem: str, model: Segmenter) -> NDArray[np.float64]:
    """(3, N): true and counted cells in the annotated part of each of N rectangles, and the spread of the count."""
    one, known = phase(stem), known_of(stem)
    found = count(one.image, model, interval=LEVEL)
    edges = [np.linspace(0, n, PARTS + 1).astype(int) for n in known.shape]
    rows = []
    for top, left in np.ndindex(PARTS, PARTS):
        window = (slice(*edges[0][top : top + 2]), slice(*edges[1][left : left + 2]))
        region = np.zeros_like(known)
        region[window] = known[window]
        rows.append((len(within(one.positions.cells, region)), *found.within(region)))
    return np.array(rows, np.float64).T


def seven_methods() -> Iterator[Row]:
    """All methods on the thesis' images: count error, precision, recall, F1 of whole images; seconds an image."""
    for method, work in METHODS.items():
        try:
            found = found_by(method)
        except (CellweaveError, ImportError, OSError) as error:
            yield Row(method, float("nan"), "", f"cannot run here: {' '.join(str(error).split())}", **LEFT_OUT)
            continue
        located = all(one.points is not None for one in found.values())
        whole, part = (judged(found, annotated=annotated) for annotated in (False, True))
        annotated = figures_of(part, located=located)
        what = " ".join(((work.func if isinstance(work, partial) else work).__doc__ or "").split())
        against = f"{numbers(whole)}; {what} "
        if training := next(iter(found.values())).training:
            against += f"{steps_of(training)}. "
        for figure, (value, unit) in figures_of(whole, located=located).items():
            against += f"Annotated part: {annotated[figure][0]:.3g} {unit}".strip()
            yield Row(f"{method}: {figure}", value, unit, against, **LEFT_OUT)
            against = ""
        seconds = float(np.mean([one.seconds for one in found.values()]))
        yield Row(f"{method}: time an image", seconds, "s", **LEFT_OUT)


def sweep_of_sigma() -> Iterator[Row]:
    """The Gaussians' sigma from 3 to 7 px, in short trainings: VGG by images held out, one phase-contrast image."""
    _, chosen_by, tested = drawn("vgg", CURVE[-1], 0)
    data: dict[str, Any] = {"data": "vgg_points", "split": "held out of the pool", "seed": SEED}
    for sigma in SIGMAS:
        training = with_sigma("vgg", sigma)
        held_out, test = (counts_on("vgg", training, stems).error for stems in (chosen_by, tested))
        against = f"on the test images {test:.2f}; {steps_of(training)}"
        yield Row(f"VGG synthetic cells, sigma {sigma:g} px: mean error of the count", held_out, "", against, **data)
    for sigma in SIGMAS:
        training = with_sigma("phase", sigma)
        yield from rows_of(on_one_image(training), f"phase contrast, sigma {sigma:g} px", training)


def on_one_image(training: str) -> PointEvaluation:
    """What a model finds in the annotated part of one phase-contrast image."""
    return judged({ONE: counted(trained(training), ONE)}, annotated=True)


def rows_of(evaluation: PointEvaluation, title: str, training: str) -> Iterator[Row]:
    """Error of the count and F1 of a model on one phase-contrast image."""
    data = LEFT_OUT | {"split": f"image {ONE} left out"}
    against = f"{told(evaluation)}; the annotated part of the image; {steps_of(training)}"
    yield Row(f"{title}: error of the count", count_error(evaluation), "%", against, **data)
    yield Row(f"{title}: {F1}", evaluation.total.detection.f1, "", against, **data)


def learning_curves() -> Iterator[Row]:
    """Error of the count, and F1, against the clicks: on images of VGG, and on phase contrast; all in as many steps."""
    error = "error of the count over the true one"
    images: dict[int, float] = {}
    for n in CURVE:
        learned, chosen_by, tested = drawn("vgg", n, 0)
        clicks = sum(len(example("vgg", stem).positions) for stem in (*learned, *chosen_by))
        training = f"vgg-curve-{n}"
        found = counts_on("vgg", training, tested)
        against = (
            f"{clicks:,} clicks, about half of them on {n} more images that choose the epoch; {steps_of(training)}"
        )
        name = f"learning curve, VGG, {n} images: mean error of the count"
        yield Row(name, found.error, "", against, data="vgg_points", split="test", seed=SEED)
        images[clicks] = found.share
    everything = sum(len(phase(stem).positions) for stem in others(ONE))
    phase_errors, phase_f1 = {}, {}
    for n, training in [(n, f"phase-clicks-{n}") for n in CLICKS] + [(everything, EVERY_CLICK)]:
        evaluation = on_one_image(training)
        yield from rows_of(evaluation, f"learning curve, phase contrast, {n} clicks", training)
        phase_errors[n], phase_f1[n] = count_error(evaluation) / 100, evaluation.total.detection.f1
    panels = {
        "VGG synthetic cells": {error: _line(images)},
        "phase contrast, one image left out": {error: _line(phase_errors), F1: _line(phase_f1)},
    }
    _plots.curves(record.RESULTS / "points_learning.svg", panels, "clicks", "share", log2=True)


def _line(values: dict[int, float]) -> tuple[list[float], list[float]]:
    return [float(n) for n in values], list(values.values())


def count_time() -> Iterator[Row]:
    """`count` on a phase-contrast picture of 2500 x 2000 px: time over that of the net alone, which sees it once."""
    pixels = phase(PHASE[0]).image.read()
    more = [(0, 0), *((0, max(0, n - have)) for n, have in zip(LARGE, pixels.shape[1:], strict=True))]
    padded = np.pad(pixels, more, mode="reflect")[:, : LARGE[0], : LARGE[1]]
    image = Image.from_array(np.moveaxis(padded, 0, 2))
    model = trained(f"phase-heatmap-{PHASE[1]}")

    def as_the_command_does() -> None:
        found = count(image, model)
        _ = found.unsure, found.remarks

    ways: dict[str, tuple[Callable[[], object], float | None]] = {
        "without interval": (lambda: count(image, model, interval=None), None),
        "with interval": (lambda: count(image, model), FASTEST),
        "with interval and the map of what is unsure, as the command": (as_the_command_does, FASTEST),
    }
    for way, (work, at_most) in ways.items():
        whole, net = timed(image, model, work)
        against = f"{whole:.2f} s to {net:.2f} s of the net alone, which sees the picture once"
        name = f"count, {LARGE[1]} x {LARGE[0]} px, {way}: time over that of the net"
        yield Row(
            name, whole / net, "x", against, at_most=at_most, data="phase_points, mirrored to the size", seed=SEED
        )


def timed(image: Image, model: Segmenter, work: Callable[[], object], repeats: int = 7) -> tuple[float, float]:
    """Median seconds of `work`, and of the forward passes of the model over the image."""
    spent = [0.0]
    begun = [0.0]

    def begin(*_: object) -> None:
        begun[0] = time.perf_counter()

    def end(*_: object) -> None:
        spent[0] += time.perf_counter() - begun[0]

    hooks = [model.net.register_forward_pre_hook(begin), model.net.register_forward_hook(end)]
    wholes, nets = [], []
    try:
        for k in range(repeats + 1):
            spent[0] = 0.0
            count(image, model, interval=None)
            net = spent[0]
            start = time.perf_counter()
            work()
            if k:
                nets.append(net)
                wholes.append(time.perf_counter() - start)
    finally:
        for hook in hooks:
            hook.remove()
    return float(np.median(wholes)), float(np.median(nets))


MEASURES: record.Measures = {
    f.__name__: f for f in (vgg, mbm, adi, phase_contrast, seven_methods, sweep_of_sigma, learning_curves, count_time)
}
