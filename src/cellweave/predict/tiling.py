"""Where tiles lie along one axis, and how their overlaps are weighted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tiles:
    """Tiles of `size` at `starts` along an axis of `length` (all multiples of the net's stride).

    `weights[k]` (size,) float32 is tile k's share of each of its pixels; the shares of all tiles sum to 1 everywhere.
    """

    length: int
    size: int
    starts: tuple[int, ...]
    weights: NDArray[np.float32]


def plan(length: int, *, tile: int, stride: int, margin: int, ramp: int) -> Tiles:
    """Cover an axis with the fewest tiles of at most `tile` px, evenly spread.

    Next to a neighbour, the outer `margin` px of a tile count nothing (there the net lacks context), the next `ramp`
    px rise smoothly to full weight (a raised cosine), so that no seam shows. The image's own borders count fully.

    Parameters
    ----------
    length
        Of the axis, a multiple of `stride`.
    tile
        Largest tile; made larger where twice the margin and the ramp leave nothing of it.
    stride
        Tiles begin and end at multiples of this.
    margin, ramp
        In px, see above.
    """
    overlap = -(-(2 * margin + ramp) // stride) * stride
    tile = max(-(-tile // stride) * stride, overlap + stride)
    if length <= tile:
        return Tiles(length, length, (0,), np.ones((1, length), np.float32))
    n = -(-(length - overlap) // (tile - overlap))
    share = -(-(length + (n - 1) * overlap) // n)
    size = -(-share // stride) * stride
    starts = tuple(round(k * (length - size) / (n - 1) / stride) * stride for k in range(n))
    total = np.zeros(length, np.float64)
    weights = np.empty((n, size), np.float64)
    position = np.arange(size) + 0.5
    for k, start in enumerate(starts):
        rise = np.ones(size) if k == 0 else _smooth((position - margin) / ramp)
        fall = np.ones(size) if k == n - 1 else _smooth((size - position - margin) / ramp)
        weights[k] = rise * fall
        total[start : start + size] += weights[k]
    shares = [w / total[start : start + size] for w, start in zip(weights, starts, strict=True)]
    return Tiles(length, size, starts, np.array(shares, np.float32))


def _smooth(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * np.clip(x, 0, 1)))
