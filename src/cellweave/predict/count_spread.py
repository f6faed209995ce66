"""How far a count may be off: what flips of a few tiles and the confidence of cells tell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellweave.core.points import Points
from cellweave.models import Segmenter
from cellweave.predict.maps import Planes, Runner
from cellweave.prep import Resampling
from cellweave.representations import PointRepresentation
from cellweave.representations.base import Maps

TILE, TILES = 128, 8
"""Side in px of a tile, and how many are looked at: at most 4 x 8 x 128 x 128 = 524,288 px of any image."""
FLIPS = ((2,), (3,), (2, 3))
ROUNDING = 0.5
"""In cells: no count is surer than that."""


@dataclass(frozen=True)
class Spread:
    """How the size of the error grows with the number of cells, of one image and model.

    ``spread(count)^2 = drift W^2 + noise W + sum(p (1 - p)) + 1/4``, with ``W = count + tiles``: errors of all tiles
    together, errors of each tile by itself, cells that are there with the probability p, and half a cell.

    Parameters
    ----------
    drift
        Mean square of the relative change of the count when the image is flipped.
    noise
        Variance of the change of a tile's count when it is flipped, for each cell in it, without the drift.
    tiles
        Number of tiles in the image: each counts as one cell more, so that an empty one is not taken for sure.
    """

    drift: float
    noise: float
    tiles: float

    def of(self, count: float, confidence: ArrayLike | None, part: float = 1.0) -> float:
        """Standard deviation in cells, over 0, of a count in this part of the image."""
        weight = count + self.tiles * part
        p = np.zeros(0) if confidence is None else np.asarray(confidence, np.float64)
        return float(np.sqrt(self.drift * weight**2 + self.noise * weight + np.sum(p * (1 - p)) + ROUNDING**2))


def measure_spread(
    planes: Planes, model: Segmenter, runner: Runner, zoom: float, points: Points, *, min_confidence: float = 0.0
) -> Spread:
    """Count some tiles as they are and in three flips.

    A bootstrap that draws tiles of the whole image from those looked at, and a flip for all of them, in closed form:
    its mean square deviation is ``r^2 W^2 + v W``, where r is the relative change of the count and v the variance of
    the change per cell. What chance alone makes of ``r^2``, in so few tiles, is taken away.

    Tiles are drawn with a probability that grows with the cells found in them, always the same for the same image.

    Parameters
    ----------
    planes, model, runner
        What the net sees, and the net.
    zoom
        By which the image is enlarged for the net.
    points, min_confidence
        What was found in the whole image, and the least confidence of objects.
    """
    height, width = (max(1, round(n * zoom)) for n in (planes.height, planes.width))
    rows, columns = Resampling(planes.height, height), Resampling(planes.width, width)
    (tops, tall), (lefts, wide) = _cut(height), _cut(width)
    y, x = points.positions.T * zoom
    row, column = np.searchsorted(tops[1:], y, side="right"), np.searchsorted(lefts[1:], x, side="right")
    found = np.bincount(row * len(lefts) + column, minlength=len(tops) * len(lefts))
    chosen = _drawn(found + np.float64(1))
    windows = np.stack(
        [
            planes.read(rows, columns, slice(top, top + tall), slice(left, left + wide))
            for top, left in ((tops[k // len(lefts)], lefts[k % len(lefts)]) for k in chosen)
        ]
    )
    plain = _counts(windows, model, runner, min_confidence)
    flipped = np.stack([_counts(np.flip(windows, axes), model, runner, min_confidence) for axes in FLIPS])
    drift, noise = disagreement(flipped - plain, plain + 1)
    return Spread(drift, noise, float(found.size))


def disagreement(change: NDArray[np.float64], weight: NDArray[np.float64]) -> tuple[float, float]:
    """Drift and noise of the changes (F, T) of the counts of T tiles in F flips, and of the weights (T,) of the tiles.

    ``change = r weight + e``, e having the variance ``noise * weight``: r is the ratio of the sums, and its mean square
    over the flips is the drift, less what noise alone gives it.
    """
    total = weight.sum()
    ratio = change.sum(axis=1) / total
    n = len(weight)
    rest = change - ratio[:, np.newaxis] * weight
    noise = float((rest**2 / weight).sum(axis=1).mean() / (n - 1)) if n > 1 else 0.0
    return max(0.0, float((ratio**2).mean()) - noise / float(total)), noise


def _cut(length: int) -> tuple[NDArray[np.int64], int]:
    """Starts and size of tiles along an axis: all alike, at most `TILE`, next to each other up to rounding."""
    n = -(-length // TILE)
    size = -(-length // n)
    return np.rint(np.linspace(0, length - size, n)).astype(np.int64), size


def _drawn(weight: NDArray[np.float64]) -> NDArray[np.int64]:
    """Up to `TILES` tiles, evenly along the cumulated weight."""
    if len(weight) <= TILES:
        return np.arange(len(weight))
    cumulated = np.cumsum(weight)
    return np.unique(np.searchsorted(cumulated, (np.arange(TILES) + 0.5) / TILES * cumulated[-1]))


def _counts(
    windows: NDArray[np.float32], model: Segmenter, runner: Runner, min_confidence: float
) -> NDArray[np.float64]:
    """(T,) count of each window (T, P, y, x)."""
    maps = runner.look(np.ascontiguousarray(windows))[0]
    return np.array([count_of(model, one, min_confidence) for one in maps])


def count_of(model: Segmenter, maps: Maps, min_confidence: float = 0.0) -> float:
    """Number of cells in maps (M, Y, X): an integral of a density, or the objects with at least this confidence."""
    if isinstance(model.representation, PointRepresentation):
        return model.representation.count(maps)
    return float(np.count_nonzero(model.decode_scored(maps)[1] >= min_confidence))
