"""Counting and locating cells from points: published sets, phase contrast by seven methods, learning curves, time.

*Localizing Cells in Phase-Contrast Microscopy Images using Sparse and Noisy Center-Point Annotations* (thesis), and the
counting sets of Cohen et al. 2017 (*Count-ception*). Trainings are steps of their own (`_point_trainings.py`).

Phase contrast is tested by leaving one of the three annotated images out. A found cell within 12 px of a click is
right; pairs are one to one. Annotators did not click where cells are too dense to tell: what is found there counts as
wrong on "whole images", and plays no part in the "annotated part", which is near a click or shows no cells.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

import record
from _point_trainings import (
    CLICKS,
    CLICKS_WITHOUT,
    DRAWS,
    FEWER_IMAGES,
    IMAGES,
    PHASE,
    SEED,
    drawn,
    example,
    guessed_diameter,
    others,
    phase,
    plane_of,
    trained,
    trained_detector,
)
from _trainings import trained as paper_model
from cellweave import Image, Segmenter, segment
from cellweave.core.errors import CellweaveError, InputError
from cellweave.core.points import Points
from cellweave.core.progress import report
from cellweave.metrics.counting import RADIUS, PointEvaluation, evaluate_points
from cellweave.models import load_model
from cellweave.predict.area import AreaDensity
from cellweave.predict.blobs import Blobs, find_blobs, fit_threshold
from cellweave.predict.counting import count
from cellweave.prep.foreground import foreground
from cellweave.train import Example
from record import Row

PUBLISHED = {
    "vgg": "Count-ception 2.3-2.4, FCRN-A 2.9 +- 0.2",
    "mbm": "Count-ception 8.3-8.8",
    "adi": "Count-ception 19.4",
}
WANTED = {"vgg": 2.4, "mbm": 8.5, "adi": 19.0}
NAMES = {"vgg": "VGG synthetic cells", "mbm": "bone marrow (MBM)", "adi": "adipocytes (ADI)"}
THESIS = "thesis: its Cellpose found 2,971 of 5,671, by its own count of clicks; the files hold 3,916 on cells"
BLOB_SIZES = ((6.0, 16.0), (10.0, 24.0), (16.0, 40.0))
SAM = "facebook/sam-vit-base"
LARGE = (2000, 2500)
FASTEST = 1.3


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
    """

    count: float
    seconds: float
    points: Points | None = None
    annotated: float | None = None


Method = Callable[[str], Found]
"""Gets the name of the phase-contrast image that it may not learn from, and counts its cells."""


def counts_on(name: str, model: Segmenter, stems: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """True and predicted number of cells of each image."""
    true, found = [], []
    for k, stem in enumerate(stems):
        report("counting", k, len(stems), stem)
        one = example(name, stem)
        true.append(float(len(one.positions.cells)))
        found.append(count(one.image, model, interval=None).count)
    report("counting", len(stems), len(stems), "")
    return np.array(true), np.array(found)


def errors_of(name: str) -> Iterator[Row]:
    """Mean error of the count on a published set: the mean over draws, and each draw."""
    n = IMAGES[name]
    errors, shares, tested = [], [], 0
    for draw in range(DRAWS[name]):
        stems = drawn(name, n, draw)[2]
        true, found = counts_on(name, trained(f"{name}-{n}-{draw}"), stems)
        errors.append(float(np.abs(found - true).mean()))
        shares.append(100 * errors[-1] / float(true.mean()))
        tested = len(stems)
    each = ", ".join(f"{e:.2f}" for e in errors)
    spread = float(np.std(errors, ddof=1))
    against = (
        f"{PUBLISHED[name]} as published; draws: {each}, +- {spread:.2f}; {np.mean(shares):.1f} % of the cells; "
        f"protocol of Count-ception: {n} images to learn from, {n} to choose the epoch by, {tested} others to test on"
    )
    split = "test, epoch chosen on the pool" if name == "vgg" else "drawn, the rest is the test"
    title = f"{NAMES[name]}, {n} images: mean error of the count, {len(errors)} draws"
    yield Row(
        title, float(np.mean(errors)), "", against, at_most=WANTED[name], data=f"{name}_points", split=split, seed=SEED
    )


def vgg() -> Iterator[Row]:
    """VGG synthetic cells, 32 images, five draws; the net of the thesis on the first."""
    yield from errors_of("vgg")
    stems = drawn("vgg", 32, 0)[2]
    true, found = counts_on("vgg", trained("vgg-nested"), stems)
    ours, other = counts_on("vgg", trained("vgg-32-0"), stems)
    against = f"FastUNet, as much time: {np.abs(other - ours).mean():.2f}"
    name = "VGG synthetic cells, NestedUNet: mean error of the count, 1 draw"
    yield Row(name, float(np.abs(found - true).mean()), "", against, data="vgg_points", split="test", seed=SEED)


def mbm() -> Iterator[Row]:
    """Bone marrow, 15 images."""
    yield from errors_of("mbm")


def adi() -> Iterator[Row]:
    """Adipocytes, 50 images."""
    yield from errors_of("adi")


def heatmap(held_out: str, name: str = "phase-heatmap") -> Found:
    """CellNet: a heatmap learned from clicks; the count is its integral."""
    return counted(trained(f"{name}-{held_out}"), held_out)


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
    """A model fine-tuned on the pseudo-masks of the other images."""
    return outlined(held_out, trained(f"phase-{kind}-{held_out}"), guessed_diameter(held_out))


def embedded(held_out: str) -> Found:
    """The embedded model of flows, which has never seen such cells; the size is estimated."""
    return outlined(held_out, load_model("default"), None)  # type: ignore[arg-type]


def stars(held_out: str) -> Found:
    """StarDist's representation as it comes: our generalist of the papers' benchmark, the size estimated."""
    return outlined(held_out, paper_model("generalist_star"), None)


def mask_rcnn(held_out: str) -> Found:
    """Mask R-CNN on fixed boxes of 50 px."""
    from cellweave.predict.mask_rcnn import detect

    detector = trained_detector(f"phase-detect-{held_out}")
    start = time.perf_counter()
    points = detect(phase(held_out).image, detector).points
    return Found(float(len(points)), time.perf_counter() - start, points)


def sam_grid(held_out: str) -> Found:
    """SAM without prompts: its grid."""
    from cellweave.predict.sam import load_sam, segment_grid

    sam = load_sam(SAM)
    start = time.perf_counter()
    found = segment_grid(sam, phase(held_out).image)
    points = Points.from_labels(found.labels, found.confidence)
    return Found(float(len(points)), time.perf_counter() - start, points)


def sam_area(held_out: str, positive: str) -> Found:
    """Area by SAM: all clicks of the image itself are one prompt, as in the thesis; the density is of the others."""
    from cellweave.predict.sam import load_sam, sam_foreground

    sam = load_sam(SAM)

    def mask(stem: str) -> NDArray[np.bool_]:
        empty = np.argwhere(~foreground(plane_of(phase(stem).image)))
        background = np.random.default_rng(SEED).choice(empty, 50).astype(np.float64)
        cells = phase(stem).positions.cells
        return sam_foreground(sam, phase(stem).image, cells, background, positive=positive)  # type: ignore[arg-type]

    stems = others(held_out)
    model = AreaDensity.fit([mask(stem) for stem in stems], [phase(stem).positions for stem in stems])
    start = time.perf_counter()
    return Found(model.count(mask(held_out)), time.perf_counter() - start)


def area(held_out: str) -> Found:
    """Area: the foreground by texture times the density of the other images."""
    planes = {stem: plane_of(phase(stem).image) for stem in PHASE}
    stems = others(held_out)
    model = AreaDensity.fit(
        [foreground(planes[stem]) for stem in stems],
        [phase(stem).positions for stem in stems],
        known=[_known(phase(stem)) for stem in stems],
    )
    start = time.perf_counter()
    mask = foreground(planes[held_out])
    seconds = time.perf_counter() - start
    return Found(model.count(mask), seconds, annotated=model.count(mask & _known(phase(held_out))))


def blobs(held_out: str) -> Found:
    """Classical: blobs of the sizes, the sign and the contrast that fit the clicks of the other images best."""
    learned = [phase(stem) for stem in others(held_out)]
    truth = [e.positions.cells for e in learned]
    best: tuple[float, tuple[float, float], bool, float] = (-1.0, BLOB_SIZES[0], True, 1.0)
    for sizes, dark in product(BLOB_SIZES, (True, False)):
        made = [find_blobs(plane_of(e.image), diameters=sizes, dark=dark) for e in learned]
        with suppress(InputError):  # the wrong sign or size, where no blob is near a cell
            threshold = fit_threshold(made, truth)
            best = max(best, (f1_in_known(learned, made, threshold), sizes, dark, threshold))
    _, sizes, dark, threshold = best
    plane = plane_of(phase(held_out).image)
    start = time.perf_counter()
    points = find_blobs(plane, diameters=sizes, dark=dark).above(threshold)
    return Found(float(len(points)), time.perf_counter() - start, points)


def f1_in_known(members: Sequence[Example], made: Sequence[Blobs], threshold: float) -> float:
    """F1 of blobs over this contrast in the annotated part of several images."""
    found = [within(b.above(threshold), _known(e)) for b, e in zip(made, members, strict=True)]
    return evaluate_points([e.positions.cells for e in members], found).total.detection.f1


def _known(one: Example) -> NDArray[np.bool_]:
    assert one.known is not None
    return one.known


def within(points: Points, known: NDArray[np.bool_]) -> Points:
    """The points in a region."""
    row, column = np.rint(points.positions).astype(int).T
    return points[known[row, column]]


LEFT_OUT: dict[str, Any] = {"data": "phase_points", "split": "leave one image out", "seed": SEED}
METHODS: dict[str, Method] = {
    "heatmap, FastUNet": heatmap,
    "heatmap, NestedUNet": partial(heatmap, name="phase-nested"),
    "flows, fine-tuned on pseudo-masks": partial(fine_tuned, kind="flows"),
    "flows as they come": embedded,
    "Mask R-CNN, boxes of 50 px": mask_rcnn,
    "SAM, grid": sam_grid,
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
            some = within(some, _known(phase(stem)))
            number = float(len(some)) if one.annotated is None else one.annotated
        truth.append(phase(stem).positions.cells)
        points.append(some)
        numbers.append(number)
    return evaluate_points(truth, points, names=list(found), counts=numbers)


def count_error(evaluation: PointEvaluation) -> float:
    """Mean of |counted - true| / true over the images, in percent."""
    return 100 * float(np.mean([scores.count_error for scores in evaluation.images]))


def told(evaluation: PointEvaluation, *, located: bool) -> str:
    """The figures of the table in words."""
    total = evaluation.total
    text = f"{total.n_predicted:.0f} of {total.n_true} counted, count error {count_error(evaluation):.1f} %"
    d = total.detection
    return text + (f", precision {d.precision:.3f}, recall {d.recall:.3f}, F1 {d.f1:.3f}" if located else "")


def phase_contrast() -> Iterator[Row]:
    """The heatmap on the thesis' images, each left out once: count and F1, whole images and their annotated part."""
    for method, wanted in (("heatmap, FastUNet", True), ("heatmap, NestedUNet", False)):
        for annotated, part in ((False, "whole images"), (True, "annotated part")):
            evaluation = judged(found_by(method), annotated=annotated)
            against = f"{THESIS}; {told(evaluation, located=True)}"
            error, f1 = count_error(evaluation), evaluation.total.detection.f1
            name = f"{method}, {part}"
            yield Row(f"{name}: error of the count", error, "%", against, at_most=10.0 if wanted else None, **LEFT_OUT)
            yield Row(f"{name}: F1 within {RADIUS:g} px", f1, "", against, at_least=0.8 if wanted else None, **LEFT_OUT)


def seven_methods() -> Iterator[Row]:
    """All methods on the thesis' images: F1, and in words the count error, precision, recall; seconds an image."""
    for method, work in METHODS.items():
        try:
            found = found_by(method)
        except (CellweaveError, ImportError, OSError) as error:
            said = " ".join(str(error).split())
            yield Row(f"{method}: F1 within {RADIUS:g} px", float("nan"), "", f"cannot run here: {said}", **LEFT_OUT)
            continue
        located = all(one.points is not None for one in found.values())
        whole, part = (judged(found, annotated=annotated) for annotated in (False, True))
        seconds = float(np.mean([one.seconds for one in found.values()]))
        what = (work.func if isinstance(work, partial) else work).__doc__ or ""
        against = (
            f"{told(whole, located=located)}; annotated part: {told(part, located=located)}; "
            f"{seconds:.1f} s an image. {what.partition(chr(10))[0]}"
        )
        value = whole.total.detection.f1 if located else float("nan")
        yield Row(f"{method}: F1 within {RADIUS:g} px", value, "", against, **LEFT_OUT)


def learning_images() -> Iterator[Row]:
    """Error of the count against the number of images, on VGG, one draw."""
    for n in (*FEWER_IMAGES, IMAGES["vgg"]):
        learned, _, stems = drawn("vgg", n, 0)
        clicks = sum(len(example("vgg", stem).positions) for stem in learned)
        true, found = counts_on("vgg", trained(f"vgg-{n}-0"), stems)
        against = f"{clicks:,} clicks; 32 more images choose the epoch"
        name = f"learning curve, VGG, {n} images: mean error of the count"
        yield Row(name, float(np.abs(found - true).mean()), "", against, data="vgg_points", split="test", seed=SEED)


def learning_clicks() -> Iterator[Row]:
    """Error of the count and F1 against the number of clicks, on one phase-contrast image."""
    data = LEFT_OUT | {"split": f"image {CLICKS_WITHOUT} left out"}
    everything = sum(len(phase(stem).positions) for stem in others(CLICKS_WITHOUT))
    for n, name in [(n, f"phase-clicks-{n}") for n in CLICKS] + [(everything, f"phase-heatmap-{CLICKS_WITHOUT}")]:
        found = {CLICKS_WITHOUT: counted(trained(name), CLICKS_WITHOUT)}
        evaluation = judged(found, annotated=True)
        against = f"{told(evaluation, located=True)}; the annotated part of the image"
        title = f"learning curve, phase contrast, {n} clicks"
        yield Row(f"{title}: error of the count", count_error(evaluation), "%", against, **data)
        f1 = evaluation.total.detection.f1
        yield Row(f"{title}: F1 within {RADIUS:g} px", f1, "", against, **data)


def count_time() -> Iterator[Row]:
    """`count` on a phase-contrast picture of 2500 x 2000 px: time over that of the net alone, which sees it once."""
    pixels = phase(PHASE[0]).image.read()
    more = [(0, 0), *((0, max(0, n - have)) for n, have in zip(LARGE, pixels.shape[1:], strict=True))]
    padded = np.pad(pixels, more, mode="reflect")[:, : LARGE[0], : LARGE[1]]
    image = Image.from_array(np.moveaxis(padded, 0, 2))
    model = trained(f"phase-heatmap-{PHASE[1]}")
    for interval, at_most in ((0.9, FASTEST), (None, None)):
        whole, net = timed(image, model, interval)
        way = "with interval" if interval else "without interval"
        against = f"{whole:.2f} s to {net:.2f} s of the net alone, which sees the picture once"
        name = f"count, {LARGE[1]} x {LARGE[0]} px, {way}: time over that of the net"
        yield Row(
            name, whole / net, "x", against, at_most=at_most, data="phase_points, mirrored to the size", seed=SEED
        )


def timed(image: Image, model: Segmenter, interval: float | None, repeats: int = 3) -> tuple[float, float]:
    """Median seconds of `count`, and of the forward passes that it needs without an interval."""
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
            count(image, model, interval=interval)
            if k:
                nets.append(net)
                wholes.append(time.perf_counter() - start)
    finally:
        for hook in hooks:
            hook.remove()
    return float(np.median(wholes)), float(np.median(nets))


MEASURES: record.Measures = {
    f.__name__: f for f in (vgg, mbm, adi, phase_contrast, seven_methods, learning_images, learning_clicks, count_time)
}
