"""The watershed kernel and the decoding of watershed energy beside those of the paper: part of `cell_segmenter.py`.

Hu et al. 2022 flood with scikit-image and drop boxes with PyTorch. Their code is under another licence; what is timed
here is written from Sec. 2.3 and 2.4 of the paper, with the functions of both packages.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

import numpy as np
import skimage
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cellweave.core.labels import Labels
from cellweave.core.watershed import watershed
from cellweave.metrics import match
from cellweave.representations import DiffusionFlows, DistanceFlows, WatershedEnergy
from cellweave.representations.base import Maps, Representation
from foundation import drawn_cells, seconds
from record import Row

SEED = 0
SIDE, MARKERS = 4096, 16_000
DECODED_SIDE = 2048
CANDIDATES = 6
"""Boxes of one cell: of each of two anchors, those in the cell of the grid that holds the center and two next to it."""
PATCH, MANY_BOXES = 640, 20_000
REPEATS = 3

Boxes = NDArray[np.float32]


def landscapes(side: int) -> dict[str, NDArray[np.float32]]:
    """Landscapes (side, side) to flood; all heights differ in the first two, none in the last."""
    noise = np.random.default_rng(SEED).normal(size=(side, side)).astype(np.float32)
    return {
        "smoothed noise": ranks(gaussian_filter(noise, 4)),
        "white noise": ranks(noise),
        "constant": np.zeros((side, side), np.float32),
    }


def ranks(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The place of each value in their order: whole numbers up to 2**24, which float32 holds exactly."""
    places = np.empty(values.size, np.float32)
    places[np.argsort(values, axis=None, kind="stable")] = np.arange(values.size)
    return places.reshape(values.shape)


def watershed_kernel() -> Iterator[Row]:
    """Flooding of 4096 x 4096 from 16,000 markers: time, and whether the labels are those of scikit-image."""
    rng = np.random.default_rng(SEED)
    markers = np.zeros((SIDE, SIDE), np.int32)
    markers.ravel()[rng.choice(markers.size, MARKERS, replace=False)] = np.arange(1, MARKERS + 1)
    size = f"{SIDE} x {SIDE}, {MARKERS:,} markers"
    for k, (name, landscape) in enumerate(landscapes(SIDE).items()):

        def theirs(landscape: NDArray[np.float32] = landscape) -> Labels:
            return np.asarray(skimage.segmentation.watershed(landscape, markers, connectivity=1), np.int32)

        ours = seconds(lambda landscape=landscape: watershed(landscape, markers), REPEATS)
        peer = seconds(theirs, REPEATS)
        against = f"scikit-image {version('scikit-image')}, {peer:.2f} s to {ours:.3f} s"
        wanted = 8 if k == 0 else None
        yield Row(f"watershed, {size}, {name}: times faster", peer / ours, "x", against, at_least=wanted, seed=SEED)
        same = float((watershed(landscape, markers) == theirs()).mean())
        ties = name == "constant"
        against = "ties: nearest marker here, order of the queue there" if ties else "all heights differ"
        least = None if ties else 1.0
        yield Row(f"watershed, {name}: pixels with the same label", same, "", against, at_least=least, seed=SEED)


def decode() -> Iterator[Row]:
    """Cells from maps of 2048 x 2048 with 3,025 cells: boxes dropped, two floods; against the published path."""
    labels = drawn_cells(DECODED_SIDE)
    maps, decoder = noisy_maps(labels), WatershedEnergy()
    steps = decoder.decode_steps(maps)
    boxes, scores = steps.boxes, steps.scores
    ours = seconds(lambda: decoder.decode_scored(maps), REPEATS)
    peer = seconds(lambda: published(boxes, scores, maps[0], maps[1]), REPEATS)
    found = published(boxes, scores, maps[0], maps[1])
    versions = f"torch {torch.__version__}, scikit-image {version('scikit-image')}"
    name = f"watershed energy, {DECODED_SIDE} x {DECODED_SIDE}, {labels.max():,} cells"
    against = f"NMS in torch and three floods of skimage ({versions}), {peer:.2f} s to {ours:.3f} s"
    yield Row(f"decode, {name}: times faster", peer / ours, "x", against, at_least=8, seed=SEED)
    same = agreement(found, steps.labels)
    against = f"the same path; {found.max():,} objects there, {steps.labels.max():,} here, {len(boxes):,} boxes"
    yield Row("decode, watershed energy: foreground in the same object", same, "", against, at_least=0.99, seed=SEED)
    same = match(labels, steps.labels, 0.5).f1
    yield Row("decode, watershed energy: F1@0.5 of the cells drawn", same, "", "maps with noise", seed=SEED)


def noisy_maps(labels: Labels) -> Maps:
    """Maps like a net's: blurred, with smooth noise in the energy, and several boxes of each cell around its center."""
    maps = WatershedEnergy().encode(labels)
    rng = np.random.default_rng(SEED)
    waves = gaussian_filter(rng.normal(size=labels.shape).astype(np.float32), 3)
    maps[0] = 0.02 + 0.96 * gaussian_filter(maps[0], 1)
    maps[1] += 0.1 * waves / waves.std() * (labels > 0)
    at = np.argwhere(maps[2] > 0)
    sides = maps[3:, at[:, 0], at[:, 1]].T
    maps[2:] = 0
    for _ in range(CANDIDATES):
        y, x = np.clip(at + rng.integers(-2, 3, at.shape), 0, np.array(labels.shape) - 1).T
        maps[2, y, x] = rng.uniform(0.25, 0.95, len(at))
        maps[3:, y, x] = (sides * rng.normal(1, 0.08, sides.shape)).T
    return maps


def published(boxes: Boxes, scores: NDArray[np.float32], foreground: Maps, energy: Maps) -> Labels:
    """Cells (Y, X) as the paper finds them, one thread but for PyTorch's; holes are not filled.

    Boxes are dropped in torch, first within patches if there are over 20,000 (Sec. 2.4). Three floods (Sec. 2.3): from
    the centers over the energy of T1 and more; from those and from what is left of T2 and more, over the same; and over
    the foreground. Small objects of grayscale images go.
    """
    first, second = WatershedEnergy.first, WatershedEnergy.second
    inside = foreground > WatershedEnergy.probability_threshold
    kept = suppress(torch.from_numpy(boxes), torch.from_numpy(scores), WatershedEnergy.nms_iou).numpy()
    landscape = np.where(inside, -energy, np.float32(0))
    high = landscape <= -np.float32(first)

    y, x = np.floor((boxes[kept, :2] + boxes[kept, 2:]) / 2).astype(int).T
    held = high[y, x]
    markers = np.zeros(inside.shape, np.int32)
    markers[y[held], x[held]] = np.arange(1, held.sum() + 1)
    labels = skimage.segmentation.watershed(landscape, markers, connectivity=1, mask=high)

    left = skimage.measure.label((labels == 0) & (landscape <= -np.float32(second)), connectivity=1)
    large = np.flatnonzero(np.bincount(left.ravel()) > 5)
    seeds = np.zeros(left.max() + 1, np.int32)
    seeds[large[large > 0]] = labels.max(initial=0) + np.arange(1, np.count_nonzero(large) + 1)
    markers = np.where(left > 0, seeds[left], labels)
    labels = skimage.segmentation.watershed(landscape, markers, connectivity=1, mask=high)
    labels = skimage.segmentation.watershed(landscape, labels, connectivity=1, mask=inside)

    area = np.bincount(labels.ravel())[1:]
    seen = area > 0
    keep = seen & (area >= min(area[seen].mean() / 5, WatershedEnergy.largest_dropped)) if seen.any() else seen
    numbers = np.concatenate([[0], np.cumsum(keep) * keep]).astype(np.int32)
    return np.asarray(numbers[labels])


def suppress(boxes: torch.Tensor, scores: torch.Tensor, iou: float) -> torch.Tensor:
    """Indices of the boxes (N, 4) that no better one overlaps by more than `iou`, the best first."""
    indices = torch.arange(len(boxes))
    if len(boxes) > MANY_BOXES:
        patch = ((boxes[:, :2] + boxes[:, 2:]) / (2 * PATCH)).long()
        _, patch = torch.unique(patch, dim=0, return_inverse=True)
        indices = torch.cat(
            [i[_suppress(boxes[i], scores[i], iou)] for i in ((patch == p).nonzero()[:, 0] for p in patch.unique())]
        )
    return indices[_suppress(boxes[indices], scores[indices], iou)]


def _suppress(boxes: torch.Tensor, scores: torch.Tensor, iou: float) -> torch.Tensor:
    order = torch.argsort(scores, descending=True, stable=True)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        low, high = torch.maximum(boxes[order, :2], boxes[best, :2]), torch.minimum(boxes[order, 2:], boxes[best, 2:])
        shared = (high - low).clamp(min=0).prod(dim=1)
        order = order[shared <= iou * (area[order] + area[best] - shared)]
    return torch.stack(kept) if kept else torch.zeros(0, dtype=torch.int64)


def agreement(a: Labels, b: Labels) -> float:
    """Share of the pixels in an object of `a` or `b` that lie in the same one of both, objects paired at IoU > 0.5."""
    pairs = match(a, b, 0.5)
    partner = np.full(int(a.max(initial=0)) + 1, -1)
    partner[pairs.truth_ids] = pairs.predicted_ids
    either = (a > 0) | (b > 0)
    return float((partner[a] == b)[either].mean()) if either.any() else 1.0


def tilted_cells() -> Iterator[Row]:
    """Long cells side by side, upright and at 45 degrees, where boxes overlap; maps without any fault."""
    ways: dict[str, Representation] = {
        "one-step watershed": WatershedEnergy(two_step=False),
        "two-step watershed": WatershedEnergy(),
        "distance flows": DistanceFlows(),
        "diffusion flows": DiffusionFlows(),
    }
    for degrees in (0, 45):
        labels = rods(512, np.deg2rad(degrees))
        for name, way in ways.items():
            f1 = match(labels, way.decode(way.encode(labels)), 0.5).f1
            least = 0.9 if name == "two-step watershed" else None
            against = "paper: non-maximum suppression drops boxes of tilted cells; the second step finds them again"
            data = f"{labels.max()} rods of 9 x 90 px that touch"
            title = f"{name}, rods at {degrees} degrees, exact maps: F1@0.5"
            yield Row(title, f1, "", against if least else "", at_least=least, data=data, seed=SEED)
    every = WatershedEnergy(nms_iou=1.0, two_step=False)
    f1 = match(labels, every.decode(every.encode(labels)), 0.5).f1
    yield Row("one-step watershed, rods at 45 degrees, no box dropped: F1@0.5", f1, data=data, seed=SEED)


def rods(side: int, angle: float, length: int = 90, width: int = 9) -> Labels:
    """Rows of rods (side, side) whose long sides touch; those that the image would cut are left out."""
    y, x = np.mgrid[:side, :side]
    along = (y * np.cos(angle) + x * np.sin(angle)) / (length + 6)
    across = (x * np.cos(angle) - y * np.sin(angle)) / width
    place = np.floor(along).astype(int) * 10_000 + np.floor(across).astype(int)
    ids = np.unique(place, return_inverse=True)[1].reshape(place.shape).astype(np.int32) + 1
    ids[along - np.floor(along) >= length / (length + 6)] = 0
    for line in (ids[0], ids[-1], ids[:, 0], ids[:, -1]):
        ids[np.isin(ids, line)] = 0
    return np.asarray(np.unique(ids, return_inverse=True)[1].reshape(ids.shape), np.int32)
