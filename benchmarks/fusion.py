"""Cells without structural reporters: fusion, channels, strategies, augmentation, illumination; beside their peers.

*Cell Segmentation in Images Without Structural Fluorescent Reporters*, Tables 3 to 5. Trainings are steps of their own
(`_fusion_trainings.py`), images are those of `_fusion_data.py`. F1 is at IoU 0.5 over all objects of the test images,
as in the paper; the diameter is that of training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

import record
from _calibration import _examples
from _fusion_data import PARTS, REPORTERS, SEED, fields
from _fusion_trainings import CLASSICAL, STEPS, name_of, trained
from cellweave import Image, Segmenter, load_model
from cellweave.core.labels import Labels
from cellweave.core.progress import report
from cellweave.fusion import flow_fusion, majority_voting, multi_label_staple, staple
from cellweave.metrics import evaluate
from cellweave.models.model_set import ANY, AVERAGE, FLOW_FUSION, FUSION_METHODS, OBJECTS, spoken
from cellweave.predict import predict_maps
from cellweave.predict.fused import fuse
from cellweave.prep import cidre
from cellweave.representations.base import Maps
from cellweave.simulate import RECIPES, scene
from cellweave.simulate.recipes import LayoutRange
from cellweave.train.objects import object_diameters
from cellweave.train.strategies import averaged, mean_diameter, single_channel
from foundation import drawn_cells, seconds
from peer import BASIC, run_peer
from record import Row

SETS = (("simulated", "cells"), ("simulated", "nuclei"), ("partial", "nuclei"), ("tcells", "cells"))
CHANNELS = {"simulated": REPORTERS, "partial": PARTS, "tcells": ("marker", "DAPI")}
SHOWN = {
    "simulated": "simulated cells, 4 reporters",
    "partial": "dsb2018, fluorescent nuclei made into 3 partial reporters",
    "tcells": "dense_tcell_if, marker and DAPI",
}
CLOSE, ABOVE = 0.01, 0.1
"""What counts as equally good; what counts as far above."""
PAPER_FUSION = {
    "cells": "flow fusion 0.83 and 0.90, others 0.79 to 0.89",
    "nuclei": "flow fusion 0.92 and 0.95, others 0.82 to 0.94",
}
PAPER_AS_IT_COMES = {"cells": "0.81 and 0.79", "nuclei": "0.12 and 0.28"}
PAPER_NOISE = {"cells": "0.797 with, 0.729 without", "nuclei": "0.723 with, 0.713 without"}
FRAMES, FRAME, SMALL = 50, (512, 512), 9.0
ACQUIRED = ("nuclei", "whole_cells", "tissue_nuclei")
EVENLY = LayoutRange(density=(0.3, 0.7), patterns=("random",))
"""Cells lie anywhere with equal chances; an acquisition of few clusters would take more images than 50."""
REPEATS = 3
RATERS, SIDE, LABELS = 4, 1024, 12
"""Several cells have one label: SimpleITK's STAPLE takes minutes for hundreds of labels."""
LARGE, K = 2048, 5

Predicted = tuple[tuple[Maps, ...], ...]
"""Of each image, the maps of each reporter."""


@dataclass(frozen=True)
class Figures:
    """What was found in some images, against their truth: of the foreground, and of the objects at IoU 0.5."""

    jaccard: float
    f1: float
    precision: float
    recall: float

    def __str__(self) -> str:
        return f"Jaccard {self.jaccard:.3f}, precision {self.precision:.3f}, recall {self.recall:.3f}"


def figures(truth: Sequence[Labels], found: Sequence[Labels]) -> Figures:
    """Figures of label images, objects and pixels of all images counted together."""
    both = sum(np.count_nonzero((a > 0) & (b > 0)) for a, b in zip(truth, found, strict=True))
    either = sum(np.count_nonzero((a > 0) | (b > 0)) for a, b in zip(truth, found, strict=True))
    at = evaluate(list(truth), list(found), thresholds=(0.5,)).total.at(0.5)
    return Figures(both / either if either else 1.0, at.f1, at.precision, at.recall)


@cache
def predicted(data: str, object: str, split: str, trained_as: str = "") -> Predicted:
    """Maps of the models of all reporters of a data set; `trained_as` names others than its own."""
    models = [trained(name_of(trained_as or data, object, reporter)) for reporter in CHANNELS[data]]
    return maps_of(data, object, split, models, mean_diameter(fields(data, "train"), object))


@cache
def as_it_comes(data: str, object: str, split: str) -> Predicted:
    """Maps of the embedded model on each channel, at the diameter that the paper advises."""
    found = object_diameters(fields(data, "train"), object)
    base = load_model("default")
    assert isinstance(base, Segmenter)
    return maps_of(data, object, split, [base] * len(CHANNELS[data]), float(found.mean() + found.std()))


def maps_of(data: str, object: str, split: str, models: Sequence[Segmenter], diameter: float) -> Predicted:
    """Maps of a model for each reporter."""
    members = fields(data, split)
    made = []
    for k, one in enumerate(members):
        report("predicting", k, len(members), one.name)
        shown = (single_channel(one.image, reporter) for reporter in CHANNELS[data])
        made.append(
            tuple(
                predict_maps(image, model, diameter=diameter, channels="gray")
                for image, model in zip(shown, models, strict=True)
            )
        )
    report("predicting", len(members), len(members), object)
    return tuple(made)


def scored(
    data: str, object: str, split: str, maps: Predicted, which: Sequence[int], method: str = FLOW_FUSION
) -> Figures:
    """Figures of some channels fused."""
    model = load_model("default")
    assert isinstance(model, Segmenter)  # its representation is that of all models here
    found = [fuse([one[k] for k in which], [model] * len(which), method)[0] for one in maps]
    return figures([one.labels[object] for one in fields(data, split)], found)


def subsets(n: int) -> list[tuple[int, ...]]:
    """All choices of one or more out of n channels, small ones first."""
    return [which for size in range(1, n + 1) for which in combinations(range(n), size)]


def fusion_methods() -> Iterator[Row]:
    """Table 3: five fusion methods, all channels."""
    for data, object in SETS:
        maps, all_of_them = predicted(data, object, "test"), range(len(CHANNELS[data]))
        found = {method: scored(data, object, "test", maps, all_of_them, method) for method in FUSION_METHODS}
        row = {"data": SHOWN[data], "split": "test"}
        for method, one in found.items():
            against = f"{one}; paper, {object}: {PAPER_FUSION[object]}"
            yield Row(f"{object}, {data}, {spoken(method)} of all channels: F1@0.5", one.f1, "", against, **row)
        best = max((m for m in found if m != FLOW_FUSION), key=lambda m: found[m].f1)
        less = found[FLOW_FUSION].f1 - found[best].f1
        name = f"{object}, {data}: F1@0.5 of flow fusion less that of the best other method"
        yield Row(name, less, "", spoken(best), at_least=-CLOSE, **row)


def channels() -> Iterator[Row]:
    """Table 4: the base as it comes, each channel alone, all, the best subset, that without the best channel."""
    for data, object in SETS:
        names, maps = CHANNELS[data], predicted(data, object, "test")
        every = tuple(range(len(names)))
        row = {"data": SHOWN[data], "split": "test"}
        tested = {which: scored(data, object, "test", maps, which) for which in subsets(len(names))}
        chosen_on = "val" if fields(data, "val") else "test"
        best = chosen(data, object, chosen_on)
        alone = max(every, key=lambda k: tested[k,].f1)
        without = tuple(k for k in every if k != alone)
        base = scored(data, object, "test", as_it_comes(data, object, "test"), every)

        told = ", ".join(names[k] for k in best)
        how = "of all subsets, chosen on the validation images" if chosen_on == "val" else "chosen on the test images"
        lines = [("the embedded model as it comes, all channels", base, f"paper: {PAPER_AS_IT_COMES[object]}")]
        lines += [(f"{names[k]} alone", tested[k,], "") for k in every]
        lines += [("all channels", tested[every], ""), ("best subset", tested[best], f"{told}, {how}")]
        if len(every) > 2:
            lines.append((f"all but the best channel, {names[alone]}", tested[without], ""))
        for what, one, more in lines:
            against = f"{one}; {more}" if more else str(one)
            yield Row(f"{object}, {data}, {what}: F1@0.5", one.f1, "", against, **row)
        name = f"{object}, {data}: F1@0.5 of all channels less "
        yield Row(name + "that of the base as it comes", tested[every].f1 - base.f1, at_least=ABOVE, **row)
        less = tested[every].f1 - tested[alone,].f1
        yield Row(name + "that of the best channel", less, "", names[alone], at_least=-CLOSE, **row)


def chosen(data: str, object: str, split: str) -> tuple[int, ...]:
    """The subset of channels with the best F1 in a split; of equal ones the smallest."""
    maps = predicted(data, object, split)
    found = {which: scored(data, object, split, maps, which).f1 for which in subsets(len(CHANNELS[data]))}
    return max(found, key=lambda which: found[which])


def strategies() -> Iterator[Row]:
    """Sec. 3.2: a model for each reporter, one for all of them, one for their average."""
    members = fields("simulated", "test")
    for object in OBJECTS:
        every = range(len(REPORTERS))
        found = {"channel-wise": scored("simulated", object, "test", predicted("simulated", object, "test"), every)}
        diameter = mean_diameter(fields("simulated", "train"), object)
        one_for_all = [trained(name_of("simulated", object, ANY))] * len(REPORTERS)
        maps = maps_of("simulated", object, "test", one_for_all, diameter)
        found["universal"] = scored("simulated", object, "test", maps, every)
        model = trained(name_of("simulated", object, AVERAGE))
        means = tuple(
            (predict_maps(averaged(one.image), model, diameter=diameter, channels="gray"),) for one in members
        )
        found["grayscale"] = scored("simulated", object, "test", means, (0,))
        for name, one in found.items():
            against = f"{one}; up to {STEPS} steps a model"
            yield Row(f"{object}, {name}: F1@0.5", one.f1, "", against, data=SHOWN["simulated"], split="test")


def other_microscope() -> Iterator[Row]:
    """Table 5: trained on a clean acquisition, tested on a noisy one, with and without microscopy augmentation."""
    for object in OBJECTS:
        every = tuple(range(len(REPORTERS)))
        row = {"data": SHOWN["simulated"] + ", wide-field blur, Poisson-Gaussian noise, vignette", "split": "test"}
        maps = {way: predicted("simulated", object, "noisy", way) for way in ("", CLASSICAL)}
        both = {way: scored("simulated", object, "noisy", one, every) for way, one in maps.items()}
        alone = {way: [scored("simulated", object, "noisy", one, (k,)).f1 for k in every] for way, one in maps.items()}
        base = scored("simulated", object, "noisy", as_it_comes("simulated", object, "noisy"), every)
        yield Row(f"{object}, noisy, the embedded model as it comes: F1@0.5", base.f1, "", str(base), **row)
        for way, what in (("", "with"), (CLASSICAL, "without")):
            clean = scored("simulated", object, "test", predicted("simulated", object, "test", way), every).f1
            single = ", ".join(f"{name} {f1:.3f}" for name, f1 in zip(REPORTERS, alone[way], strict=True))
            against = f"{both[way]}; alone: {single}; on the clean images {clean:.3f}; paper: {PAPER_NOISE[object]}"
            name = f"{object}, noisy, {what} microscopy augmentation, all channels: F1@0.5"
            yield Row(name, both[way].f1, "", against, **row)
        gain = both[""].f1 - both[CLASSICAL].f1
        against = f"channels alone, mean: {np.mean(alone['']) - np.mean(alone[CLASSICAL]):+.3f}"
        yield Row(f"{object}, noisy: F1@0.5 with less without", gain, "", against, at_least=0.03, **row)


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


def acquired(recipe: str, gain: NDArray[np.float64]) -> NDArray[np.uint16]:
    """(50, Y, X): frames of small simulated cells by a 16-bit camera: 500 electrons at light 1, read noise, offset."""
    drawn = scene(replace(RECIPES[recipe], layout=EVENLY), 0, seed=SEED, size=FRAME, diameter=SMALL)
    places = [replace(drawn, seed=70_000 + k) for k in range(FRAMES)]
    light = np.stack([place.light(place.geometry())[0][0] for place in places])
    rng = np.random.default_rng(SEED)
    electrons = rng.poisson(500 * gain * (light + 0.05)) + rng.normal(0, 3, light.shape)
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
    for recipe in ACQUIRED:
        frames = acquired(recipe, truth)
        row = {"data": f"{FRAMES} simulated frames, {recipe}", "seed": SEED}
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
    yield Row("CIDRE: rms error of the vignette", ours, "%", against, **row)
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
