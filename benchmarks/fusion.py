"""Cells without structural reporters: fusion, channels, strategies, augmentation, illumination; beside their peers.

*Cell Segmentation in Images Without Structural Fluorescent Reporters*, Tables 3 to 5. Trainings are steps of their own
(`_fusion_trainings.py`), images are those of `_fusion_data.py`. F1 is at IoU 0.5 over all objects of the test images,
as in the paper; the diameter is that of training. Models are put into model sets, and `choose_channels`, which is
behind `cellweave fuse select`, scores them. The doubt of a difference is that of the test images (they are drawn again,
with replacement), not that of the training, of which there is one seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

import record
from _calibration import _examples
from _fusion_data import LINES, MARKERS, PARTS, REPORTERS, SEED, fields
from _fusion_trainings import as_it_comes, model_set, steps_made
from cellweave import Image, Segmenter, load_model
from cellweave.core.progress import report
from cellweave.fusion import flow_fusion, majority_voting, multi_label_staple, staple
from cellweave.metrics import Evaluation, Scores
from cellweave.models.model_set import AVERAGE, FLOW_FUSION, FUSION_METHODS, OBJECTS, spoken
from cellweave.predict import predict_maps
from cellweave.predict.channel_choice import IOU, choose_channels
from cellweave.prep import cidre
from cellweave.simulate import RECIPES, scene
from cellweave.simulate.fluorescence import Fluorescence
from cellweave.simulate.recipes import LayoutRange
from foundation import drawn_cells, seconds
from peer import BASIC, run_peer
from record import Row

SETS = (("simulated", "cells"), ("simulated", "nuclei"), ("partial", "nuclei"), ("tcells", "cells"))
CHANNELS = {"simulated": REPORTERS, "partial": PARTS, "tcells": MARKERS}
SHOWN = {
    "simulated": "simulated cells, 4 reporters",
    "partial": "dsb2018, fluorescent nuclei made into 3 partial reporters",
    "tcells": "dense_tcell_if, marker and DAPI",
}
LIMITED = ("simulated", "partial")
"""Data sets whose figures have limits; why not the others: `_fusion_data`."""
CLOSE, ABOVE, GAIN = 0.01, 0.1, 0.03
"""What counts as equally good; what counts as far above; what the augmentation should bring."""
AS_IT_COMES = "base"
PAPER_FUSION = {
    "cells": "flow fusion 0.83 and 0.90, others 0.79 to 0.89",
    "nuclei": "flow fusion 0.92 and 0.95, others 0.82 to 0.94",
}
PAPER_AS_IT_COMES = {"cells": "0.81 and 0.79", "nuclei": "0.12 and 0.28"}
PAPER_NOISE = {"cells": "0.797 with, 0.729 without", "nuclei": "0.723 with, 0.713 without"}
FRAMES, FRAME, SMALL = 50, (512, 512), 9.0
ANYWHERE, CLUSTERS, FEW = "cells anywhere", "cells in clusters", "few cells on a dark ground"
LAYOUTS = {
    ANYWHERE: LayoutRange(density=(0.3, 0.7), patterns=("random",)),
    CLUSTERS: LayoutRange(density=(0.3, 0.7), patterns=("clusters",)),
    FEW: LayoutRange(density=(0.03, 0.1), patterns=("random",)),
}
ACQUIRED = (
    *(("nuclei", layout) for layout in LAYOUTS),
    *(("whole_cells", layout) for layout in LAYOUTS),
    ("tissue_nuclei", ANYWHERE),
)
REPEATS = 3
RATERS, SIDE, LABELS = 4, 1024, 12
"""Several cells have one label: SimpleITK's STAPLE takes minutes for hundreds of labels."""
LARGE, K = 2048, 5

Way = tuple[tuple[str, ...], str]
"""Channels, and the method by which they are fused."""
Table = tuple[dict[Way, Scores], ...]
"""The scores of each image, by way."""


@cache
def table(models: str, data: str, object: str, split: str) -> Table:
    """What `choose_channels` says of each image of a split, with a set of models; `AS_IT_COMES` is one, too.

    Methods other than flow fusion are of interest with a data set's own models on its test images only.
    """
    methods = FUSION_METHODS if (models, split) == (data, "test") else (FLOW_FUSION,)
    used = as_it_comes(data) if models == AS_IT_COMES else model_set(models)
    some = fields(data, split)
    found = []
    for k, one in enumerate(some):
        report(f"{models}, {split}", k, len(some), one.name)
        scored = choose_channels(
            [one.image], [one.labels[object]], used, object=object, cell_line=LINES[data], methods=methods
        )
        found.append({(row.reporters, row.method): row.total for row in scored.rows})
    report(f"{models}, {split}", len(some), len(some), "")
    return tuple(found)


def of_all(found: Table, which: Sequence[str], method: str = FLOW_FUSION) -> tuple[Scores, ...]:
    """The scores of each image with these channels; a single one is not fused."""
    return tuple(one[tuple(which), method if len(which) > 1 else FLOW_FUSION] for one in found)


def f1(scores: Sequence[Scores]) -> float:
    """Of all objects of the images together."""
    return Evaluation(tuple(scores), 2.0).total.at(IOU).f1


def said(scores: Sequence[Scores]) -> str:
    """The other figures of the paper's tables, for people."""
    total = Evaluation(tuple(scores), 2.0).total
    found = total.at(IOU)
    return f"Jaccard {total.jaccard:.3f}, precision {found.precision:.3f}, recall {found.recall:.3f}"


def less(
    name: str, a: Sequence[Scores], b: Sequence[Scores], against: str = "", limit: float | None = None, **row: Any
) -> Row:
    """F1 of a less that of b, with an interval over images."""
    low, high = interval(a, b)
    doubt = f"95 % interval {low:+.3f} to {high:+.3f}, {len(a)} images drawn again"
    told = f"{against}; {doubt}" if against else doubt
    return Row(name, f1(a) - f1(b), "", told, at_least=limit, **row)


def interval(a: Sequence[Scores], b: Sequence[Scores]) -> tuple[float, float]:
    """What F1 of a less that of b is in 95 % of 2000 bootstrap samples of the images: from, to."""
    n = len(a)
    drawn = np.random.default_rng(SEED).integers(0, n, (2000, n))

    def pooled(scores: Sequence[Scores]) -> NDArray[np.float64]:
        counts = np.array([(d.tp, d.fp, d.fn) for d in (one.at(IOU) for one in scores)], np.float64)
        tp, fp, fn = counts[drawn].sum(axis=1).T
        return np.asarray(2 * tp / np.maximum(2 * tp + fp + fn, 1))

    low, high = np.percentile(pooled(a) - pooled(b), [2.5, 97.5])
    return float(low), float(high)


def fusion_methods() -> Iterator[Row]:
    """Table 3: five fusion methods, all channels."""
    for data, object in SETS:
        measured = table(data, data, object, "test")
        found = {method: of_all(measured, CHANNELS[data], method) for method in FUSION_METHODS}
        row = {"data": SHOWN[data], "split": "test"}
        for method, one in found.items():
            against = f"{said(one)}; paper, {object}: {PAPER_FUSION[object]}"
            yield Row(f"{object}, {data}, {spoken(method)} of all channels: F1@0.5", f1(one), "", against, **row)
        best = max((m for m in found if m != FLOW_FUSION), key=lambda m: f1(found[m]))
        name = f"{object}, {data}: F1@0.5 of flow fusion less that of the best other method"
        limit = -CLOSE if data in LIMITED else None
        yield less(name, found[FLOW_FUSION], found[best], spoken(best), limit, **row)


def channels() -> Iterator[Row]:
    """Table 4: the base as it comes, each channel alone, all, the choice of `fuse select`, all without the best one."""
    for data, object in SETS:
        names, measured = CHANNELS[data], table(data, data, object, "test")
        row = {"data": SHOWN[data], "split": "test"}
        alone = {name: of_all(measured, [name]) for name in names}
        every = of_all(measured, names)
        best = max(names, key=lambda name: f1(alone[name]))
        base = of_all(table(AS_IT_COMES, data, object, "test"), names)

        lines = [("the embedded model as it comes, all channels", base, f"paper: {PAPER_AS_IT_COMES[object]}")]
        lines += [(f"{name} alone", one, "") for name, one in alone.items()]
        lines.append(("all channels", every, ""))
        if chosen_on := fields(data, "val"):
            chosen = selected(data, object)
            told = f"{', '.join(chosen[0])}, {spoken(chosen[1])}, chosen on the {len(chosen_on)} validation images"
            lines.append(("the choice of fuse select", of_all(measured, *chosen), told))
        if len(names) > 2:
            rest = [name for name in names if name != best]
            lines.append((f"all but the best channel, {best}", of_all(measured, rest), ""))
        for what, one, more in lines:
            against = f"{said(one)}; {more}" if more else said(one)
            yield Row(f"{object}, {data}, {what}: F1@0.5", f1(one), "", against, **row)
        start = f"{object}, {data}: F1@0.5 of all channels less that of "
        limits = (ABOVE, -CLOSE) if data in LIMITED else (None, None)
        yield less(start + "the base as it comes", every, base, "", limits[0], **row)
        yield less(start + "the best channel", every, alone[best], best, limits[1], **row)


@cache
def selected(data: str, object: str) -> Way:
    """What `cellweave fuse select` chooses on the validation images."""
    some = fields(data, "val")
    found = choose_channels(
        [one.image for one in some],
        [one.labels[object] for one in some],
        model_set(data),
        object=object,
        cell_line=LINES[data],
    )
    return found.best.reporters, found.best.method


def strategies() -> Iterator[Row]:
    """Sec. 3.2: a model for each reporter, one for all of them, one for their average."""
    row = {"data": SHOWN["simulated"], "split": "test"}
    ways = {"simulated": ("channel-wise", REPORTERS), "universal": ("universal", REPORTERS)}
    ways["grayscale"] = ("grayscale", (AVERAGE,))
    for object in OBJECTS:
        for models, (name, which) in ways.items():
            one = of_all(table(models, "simulated", object, "test"), which)
            against = f"{said(one)}; {steps_made(models, object)}"
            yield Row(f"{object}, {name}: F1@0.5", f1(one), "", against, **row)


def other_microscope() -> Iterator[Row]:
    """Table 5: trained on a clean acquisition, tested on a noisy one, with and without microscopy augmentation."""
    row = {"data": SHOWN["simulated"] + ", wide-field blur, Poisson-Gaussian noise, vignette", "split": "test"}
    ways = {"simulated": "with", "classical": "without"}
    for object in OBJECTS:
        base = of_all(table(AS_IT_COMES, "simulated", object, "noisy"), REPORTERS)
        yield Row(f"{object}, noisy, the embedded model as it comes: F1@0.5", f1(base), "", said(base), **row)
        noisy = {models: table(models, "simulated", object, "noisy") for models in ways}
        every = {models: of_all(noisy[models], REPORTERS) for models in ways}
        alone = {models: [f1(of_all(noisy[models], [name])) for name in REPORTERS] for models in ways}
        for models, what in ways.items():
            clean = f1(of_all(table(models, "simulated", object, "test"), REPORTERS))
            single = ", ".join(f"{name} {value:.3f}" for name, value in zip(REPORTERS, alone[models], strict=True))
            told = f"{said(every[models])}; alone: {single}; on the clean images {clean:.3f}"
            name = f"{object}, noisy, {what} microscopy augmentation, all channels: F1@0.5"
            yield Row(name, f1(every[models]), "", f"{told}; paper: {PAPER_NOISE[object]}", **row)
        single = f"channels alone, mean: {np.mean(alone['simulated']) - np.mean(alone['classical']):+.3f}"
        name = f"{object}, noisy: F1@0.5 with less without"
        yield less(name, every["simulated"], every["classical"], single, GAIN, **row)


def raters(seed: int = 0) -> NDArray[np.int32]:
    """(4, 1024, 1024): images of one truth with labels 1..12; moved a little, and each without some cells."""
    truth, rng = drawn_cells(SIDE), np.random.default_rng(seed)
    made = []
    for _ in range(RATERS):
        kept = rng.random(int(truth.max()) + 1) > 0.1
        made.append(
            np.roll(np.where(kept[truth] & (truth > 0), truth % LABELS + 1, 0), rng.integers(-2, 3, 2), axis=(0, 1))
        )
    return np.stack(made).astype(np.int32)


def beside_simpleitk() -> Iterator[Row]:
    """STAPLE and voting beside SimpleITK's filters: 1024 x 1024, 4 raters, one run after the other."""
    import SimpleITK as sitk

    labels = raters()
    undecided = int(labels.max()) + 1
    masks = labels > 0
    pictures = [sitk.GetImageFromArray(one.astype(np.uint16)) for one in labels]
    shown = [sitk.GetImageFromArray(one.astype(np.uint8)) for one in masks]

    def binary() -> NDArray[np.bool_]:
        peer = sitk.STAPLEImageFilter()
        peer.SetForegroundValue(1)
        peer.SetMaximumIterations(10_000)
        return np.asarray(sitk.GetArrayFromImage(peer.Execute(shown)) > 0.5)

    def multi() -> NDArray[np.uint16]:
        peer = sitk.MultiLabelSTAPLEImageFilter()
        peer.SetLabelForUndecidedPixels(undecided)
        return np.asarray(sitk.GetArrayFromImage(peer.Execute(pictures)))

    def voting() -> NDArray[np.uint16]:
        return np.asarray(sitk.GetArrayFromImage(sitk.LabelVoting(pictures, undecided)))

    cases: dict[str, tuple[Callable[[], NDArray[np.generic]], Callable[[], NDArray[np.generic]]]] = {
        "STAPLE of masks": (lambda: staple(masks).mask, binary),
        "STAPLE of labels": (lambda: multi_label_staple(labels, undecided=undecided).labels, multi),
        "majority voting": (lambda: majority_voting(labels, undecided=undecided), voting),
    }
    version = f"SimpleITK {sitk.Version().VersionString()}"
    row = {"data": f"{LABELS} labels, {SIDE} x {SIDE}, {RATERS} raters"}
    for name, (ours, theirs) in cases.items():
        same = float(np.mean(ours() == theirs()))
        yield Row(f"{name}: pixels as SimpleITK's", 100 * same, "%", version, at_least=100, **row)
        a, b = seconds(ours, REPEATS), seconds(theirs, REPEATS)
        against = f"{version}: {1000 * b:.0f} ms to {1000 * a:.1f} ms"
        yield Row(f"{name}: times faster", b / a, "x", against, at_least=1, **row)


def vignette(shape: tuple[int, int], strength: float = 0.3) -> NDArray[np.float64]:
    """A falloff that is not quite in the middle, with a tilt; mean 1."""
    rows, columns = np.linspace(-1, 1, shape[0])[:, None], np.linspace(-1, 1, shape[1])
    gain = np.exp(-strength * ((rows - 0.1) ** 2 + (columns + 0.15) ** 2)) * (1 + 0.05 * rows - 0.08 * columns)
    return np.asarray(gain / gain.mean())


def field_error(found: NDArray[np.generic], truth: NDArray[np.generic]) -> float:
    """Root of the mean square of the relative difference of two fields, in %."""
    ratio = np.asarray(found / np.mean(found)) / (np.asarray(truth) / np.mean(truth))
    return 100 * float(np.sqrt(np.mean((ratio - 1) ** 2)))


def acquired(recipe: str, layout: str, gain: NDArray[np.float64]) -> NDArray[np.uint16]:
    """(50, Y, X): frames of small simulated cells by a 16-bit camera: 500 electrons at light 1, read noise, offset."""
    drawn = scene(replace(RECIPES[recipe], layout=LAYOUTS[layout]), 0, seed=SEED, size=FRAME, diameter=SMALL)
    ground = 0.05
    if layout == FEW:
        ground, modality = 0.005, drawn.modality
        assert isinstance(modality, Fluorescence)
        drawn = replace(drawn, modality=replace(modality, background=0.005, haze=0.02))
    places = [replace(drawn, seed=70_000 + k) for k in range(FRAMES)]
    light = np.stack([place.light(place.geometry())[0][0] for place in places])
    rng = np.random.default_rng(SEED)
    electrons = rng.poisson(500 * gain * (light + ground)) + rng.normal(0, 3, light.shape)
    return np.clip(np.rint(4 * electrons + 100), 0, 65535).astype(np.uint16)


def _cidre_gain(frames: NDArray[np.generic]) -> NDArray[np.float32]:
    return cidre([Image(frame[np.newaxis], source=f"{k}.tif") for k, frame in enumerate(frames)]).gain[0]


def _basic_gains(frames: NDArray[np.generic]) -> tuple[list[NDArray[np.float32]], str]:
    """BaSiC's flat fields, with and without a dark field."""
    found = [
        run_peer("flatfield", repeats=1, peer=BASIC, frames=frames.astype(np.float32), darkfield=dark, sort=False)
        for dark in (False, True)
    ]
    return [one["flatfield"] for one in found], found[0]["versions"]


def illumination() -> Iterator[Row]:
    """CIDRE on 50 images with a known vignette, simulated and real, beside BaSiC (the better of its two ways)."""
    truth = vignette(FRAME)
    even = field_error(np.ones(FRAME), truth)
    for recipe, layout in ACQUIRED:
        frames = acquired(recipe, layout, truth)
        row = {"data": f"{FRAMES} simulated frames, {recipe}, {layout}", "seed": SEED}
        theirs, version = _basic_gains(frames)
        least = min(field_error(one, truth) for one in theirs)
        ours = field_error(_cidre_gain(frames), truth)
        against = f"{version}: {least:.2f} %; uncorrected {even:.1f} %"
        yield Row("CIDRE: rms error of the field", ours, "%", against, at_most=2, **row)
        yield Row("CIDRE: BaSiC's rms error less ours", least - ours, "%", version, at_least=0, **row)

    members = [*_examples("bbbc039", "train"), *_examples("bbbc039", "val")]
    plain = np.stack([e.image.read()[0] for e in members]).astype(np.float32)[:FRAMES]
    truth = vignette(plain.shape[1:])  # type: ignore[arg-type]
    dark = float(np.percentile(plain, 0.1))
    shaded = (dark + (plain - dark) * truth).astype(np.float32)
    ours = field_error(_cidre_gain(shaded) / _cidre_gain(plain), truth)
    before, version = _basic_gains(plain)
    after, _ = _basic_gains(shaded)
    least = min(field_error(b / a, truth) for a, b in zip(before, after, strict=True))
    row = {
        "data": f"bbbc039, {len(plain)} images with a vignette put on; the field of the images as they are taken out"
    }
    against = f"{version}: {least:.2f} %; uncorrected {field_error(np.ones(truth.shape), truth):.1f} %"
    yield Row("CIDRE: rms error of the vignette", ours, "%", against, at_most=2, **row)
    yield Row("CIDRE: BaSiC's rms error less ours", least - ours, "%", version, at_least=0, **row)


def fusing_time() -> Iterator[Row]:
    """Fusing 5 channels at 2048 x 2048, beside the time of the network for them."""
    rng = np.random.default_rng(0)
    model = load_model("default")
    assert isinstance(model, Segmenter)
    picture = gaussian_filter(rng.normal(size=(LARGE, LARGE)).astype(np.float32), 8)
    image = Image(picture[np.newaxis])
    net = seconds(lambda: predict_maps(image, model, diameter=model.diameter), 1)
    maps = [rng.random((3, LARGE, LARGE), dtype=np.float32) for _ in range(K)]
    fused = seconds(lambda: flow_fusion(maps), REPEATS)
    against = f"{fused:.3f} s to {K} x {net:.2f} s"
    yield Row(
        f"fusing {K} channels, {LARGE} x {LARGE}: of the network's time",
        100 * fused / (K * net),
        "%",
        against,
        at_most=5,
    )


MEASURES: record.Measures = {
    f.__name__: f
    for f in (
        fusion_methods,
        channels,
        strategies,
        other_microscope,
        beside_simpleitk,
        illumination,
        fusing_time,
    )
}
