"""Cell diameter of an image that nobody measured: a net looks at a few small windows at many zooms, and votes.

Two kinds of evidence are multiplied. *Objects*: what the net finds in a window, each object voting for its diameter
with its confidence; at a wrong zoom a net finds little, and is not sure of it. *Style*: the answer of the size model
for the window, where there is a size model. Both count the more, the nearer they are to the training diameter, where
the net and the size model know best, and both add up where zooms agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cellweave.core.labels import areas
from cellweave.prep import Resampling
from cellweave.prep.rescale import resize

if TYPE_CHECKING:
    from cellweave.models import Segmenter
    from cellweave.predict.maps import Planes, Runner

ZOOMS = (4.0, 2.0, 1.0, 1 / 2, 1 / 4, 1 / 8, 1 / 16)
"""From the largest to the smallest: each halves the one before."""
WINDOW, WINDOWS = 128, 2
"""Side in px of what the net looks at, and how many at a zoom: at most 14 x 128 x 128 = 229,376 px of any image."""
BLOCK = 16
"""Contrast is the standard deviation in squares of this side."""
MOST_CONTRAST = 0.5
"""More contrast does not make a place more interesting: debris and hot pixels have most."""
WHOLE, REGION, REGIONS = 2**22, 1024, 4
"""Images of up to `WHOLE` px are read whole. Of larger ones, `REGIONS` squares of `REGION` px a side are..."""
PROBE, PROBES = 64, 16
"""...where the contrast is highest in one of up to `PROBES` x `PROBES` little squares, evenly spread."""
CLOSENESS, WIDTH = 1.0, 0.5
"""In octaves: how far from the training diameter evidence still counts, and how far votes count for their neighbours
(standard deviations)."""
ONE_CELL = 0.02
"""Evidence of about one sure cell of the training diameter; less than that in a whole image says little."""
DOUBT = 0.1
"""Share of its best that each kind of evidence grants to any diameter, so that none can veto."""
SMALLEST = 4
"""A diameter that is not given is at least the training diameter over this: a wrong one must not blow the image up."""
_OCTAVES = np.arange(-2.0, 5.01, 0.05)
"""Diameters that are voted for, in octaves from the training diameter."""

Window = NDArray[np.float32]


@dataclass(frozen=True)
class Vote:
    """`weight` for each of some diameters, `octaves` (n,) from the training diameter."""

    octaves: NDArray[np.float64]
    weight: NDArray[np.float64]


def find_diameter(planes: Planes, runner: Runner, model: Segmenter) -> float:
    """Median cell diameter in px; the model's training diameter where there is nothing to see.

    Between a quarter of the training diameter and the longer side of the image.
    """
    looked = [(zoom, window) for zoom, windows in views(read_regions(planes)) for window in windows]
    octave = _elect(*_votes(looked, runner, model)) if looked else 0.0
    diameter = float(model.diameter * 2.0**octave)
    return min(max(diameter, model.diameter / SMALLEST), float(max(planes.height, planes.width)))


def read_regions(planes: Planes, zoom: float = 1.0) -> list[Window]:
    """The image resized by `zoom`, (2, Y, X); of a large one some regions where there is most to see."""
    height, width = (max(1, round(n * zoom)) for n in (planes.height, planes.width))
    rows, columns = Resampling(planes.height, height), Resampling(planes.width, width)
    if height * width <= WHOLE:
        return [planes.read(rows, columns, slice(0, height), slice(0, width))]
    tops, lefts = (_spread(n) for n in (height, width))
    scores = np.array(
        [
            [
                _contrast(planes.read(rows, columns, _window(y, PROBE, height), _window(x, PROBE, width))).mean()
                for x in lefts
            ]
            for y in tops
        ]
    )
    regions: list[Window] = []
    while len(regions) < REGIONS and scores.max() >= 0:
        top, left = (starts[int(k)] for starts, k in zip((tops, lefts), _highest(scores), strict=True))
        around = (start + (PROBE - REGION) // 2 for start in (top, left))
        y, x = (_window(start, REGION, n) for start, n in zip(around, (height, width), strict=True))
        regions.append(planes.read(rows, columns, y, x))
        near_y, near_x = (np.abs(np.array(a) - b) < REGION for a, b in ((tops, top), (lefts, left)))
        scores[np.ix_(near_y, near_x)] = -1.0
    return regions


def _spread(length: int) -> list[int]:
    """Up to `PROBES` starts of probes, evenly over a length."""
    n = max(1, min(PROBES, length // PROBE))
    return [round((k + 0.5) * length / n) - min(PROBE, length) // 2 for k in range(n)]


def _window(start: int, side: int, length: int) -> slice:
    """The window of `side` px that starts next to `start` and lies within 0..length."""
    start = max(0, min(start, length - side))
    return slice(start, min(length, start + side))


def _highest(scores: NDArray[np.float64]) -> tuple[int, int]:
    row, column = np.unravel_index(int(np.argmax(scores)), scores.shape)
    return int(row), int(column)


def views(regions: list[Window]) -> Iterator[tuple[float, list[Window]]]:
    """For each zoom the windows (2, y, x) with most contrast, at most `WINDOWS` of at most `WINDOW` px a side.

    Windows without any contrast are left out, and so are zooms at which nothing is left of the regions.
    """
    contrasts = [_contrast(region) for region in regions]
    for zoom in ZOOMS:
        if zoom < 1:
            regions = [_halved(region) for region in regions if min(region.shape[1:]) > 1]
            contrasts = [_contrast(region) for region in regions]
        side = round(WINDOW / max(1.0, zoom))
        found = [
            p for region, contrast in zip(regions, contrasts, strict=True) for p in _places(region, contrast, side)
        ]
        found.sort(key=lambda place: place[0], reverse=True)
        windows = [window for contrast, window in found[:WINDOWS] if contrast > 0]
        if zoom > 1:
            windows = [resize(w, round(w.shape[1] * zoom), round(w.shape[2] * zoom)) for w in windows]
        yield zoom, windows


def _places(pixels: Window, contrast: NDArray[np.float64], side: int) -> list[tuple[float, Window]]:
    """The `WINDOWS` windows with most contrast that do not overlap, and their contrast."""
    down, across = (min(n, -(-side // BLOCK)) for n in contrast.shape)
    total = np.pad(contrast.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = total[down:, across:] - total[:-down, across:] - total[down:, :-across] + total[:-down, :-across]
    found: list[tuple[float, Window]] = []
    while len(found) < WINDOWS and sums.max() >= 0:
        i, j = _highest(sums)
        window = pixels[:, i * BLOCK : i * BLOCK + side, j * BLOCK : j * BLOCK + side]
        if contrast.shape == (down, across):  # all blocks: the pixels beyond the last whole block, too
            window = pixels[:, :side, :side]
        found.append((float(sums[i, j]) / (down * across), window))
        sums[max(0, i - down + 1) : i + down, max(0, j - across + 1) : j + across] = -1.0
    return found


def _contrast(pixels: Window) -> NDArray[np.float64]:
    """Standard deviation in each block of (2, Y, X), both planes together, at most `MOST_CONTRAST`."""
    height, width = pixels.shape[1:]
    y, x = min(BLOCK, height), min(BLOCK, width)
    total = np.zeros((height // y, width // x))
    for plane in pixels:
        if plane.any():
            total += plane[: height // y * y, : width // x * x].reshape(height // y, y, width // x, x).std(axis=(1, 3))
    return np.minimum(total, MOST_CONTRAST)


def _halved(pixels: Window) -> Window:
    """Means of 2 x 2 pixels; an odd last row or column is dropped."""
    a = pixels[:, : pixels.shape[1] // 2 * 2, : pixels.shape[2] // 2 * 2]
    return np.asarray(0.25 * (a[:, ::2, ::2] + a[:, 1::2, ::2] + a[:, ::2, 1::2] + a[:, 1::2, 1::2]), np.float32)


def _votes(looked: list[tuple[float, Window]], runner: Runner, model: Segmenter) -> tuple[list[Vote], list[Vote]]:
    """Votes of the objects, and of the size model."""
    objects, answers = [], []
    by_shape: dict[tuple[int, ...], list[tuple[float, Window]]] = {}
    for zoom, window in looked:
        by_shape.setdefault(window.shape[1:], []).append((zoom, window))
    for group in by_shape.values():
        maps, styles = runner.look(np.stack([window for _, window in group]))
        for (zoom, _), one, style in zip(group, maps, styles, strict=True):
            labels, confidence = model.outlines.decode_scored(one)
            if len(confidence):
                size = np.log2(2.0 * np.sqrt(areas(labels) / np.pi) / model.diameter)
                share = 2.0**size * model.diameter**2 / (WINDOWS * WINDOW**2)
                objects.append(Vote(size - np.log2(zoom), confidence**2.0 * share * _closeness(size)))
            if model.size_model is not None:
                size = np.array([np.log2(model.size_model.predict(style) / model.diameter)])
                answers.append(Vote(size - np.log2(zoom), _closeness(size)))
    return objects, answers


def _closeness(octaves: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.exp(-0.5 * (octaves / CLOSENESS) ** 2))


def _elect(objects: list[Vote], answers: list[Vote]) -> float:
    """The diameter most voted for, in octaves from the training diameter; 0 without a vote."""
    found, told = _density(objects), _density(answers)
    if not (found > 0).any() and not (told > 0).any():
        return 0.0
    log = np.log(found / (found.max() + ONE_CELL) + DOUBT) + np.log(told / (told.max() + 1e-9) + DOUBT)
    k = int(np.argmax(log))
    if not 0 < k < len(log) - 1:
        return float(_OCTAVES[k])
    left, middle, right = log[k - 1 : k + 2]  # the top of the parabola through them: no step of the grid shows
    bend = left - 2 * middle + right
    return float(_OCTAVES[k] + (0.5 * (left - right) / bend if bend < 0 else 0.0) * (_OCTAVES[1] - _OCTAVES[0]))


def _density(votes: list[Vote]) -> NDArray[np.float64]:
    if not votes:
        return np.zeros_like(_OCTAVES)
    octaves, weight = (np.concatenate([getattr(v, name) for v in votes]) for name in ("octaves", "weight"))
    return np.asarray(np.exp(-0.5 * ((_OCTAVES[:, None] - octaves) / WIDTH) ** 2) @ weight)
