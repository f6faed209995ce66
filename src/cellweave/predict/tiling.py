"""Where tiles lie along one axis, and how their overlaps are weighted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

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

    @cached_property
    def owned(self) -> NDArray[np.float32]:
        """Like `weights`, but each pixel belongs wholly to the tile with the largest share, the first among equals."""
        best, owner = np.zeros(self.length, np.float32), np.zeros(self.length, np.intp)
        for k, (start, weight) in enumerate(zip(self.starts, self.weights, strict=True)):
            here = slice(start, start + self.size)
            better = weight > best[here]
            owner[here] = np.where(better, k, owner[here])
            best[here] = np.maximum(best[here], weight)
        return np.array([owner[s : s + self.size] == k for k, s in enumerate(self.starts)], np.float32)


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
    starts, size = _spread(length, tile=tile, stride=stride, overlap=2 * margin + ramp)
    position = np.arange(size) + 0.5
    weights = np.ones((len(starts), size))
    weights[1:] *= _smooth((position - margin) / ramp)
    weights[:-1] *= _smooth((size - position - margin) / ramp)
    return _shared(length, size, starts, weights)


def plan_windows(length: int, *, tile: int, stride: int) -> Tiles:
    """Cover an axis with windows that overlap by at least an eighth, with Gaussian weights (Hu et al. 2022, 3.2.2).

    For nets whose output depends on the whole tile: there, no margin makes tiles agree. The standard deviation of the
    Gaussian is an eighth of the window. `length`, `tile` and `stride` are as for `plan`.
    """
    starts, size = _spread(length, tile=tile, stride=stride, overlap=tile // 8)
    bell = np.exp(-0.5 * ((np.arange(size) + 0.5 - size / 2) / (size / 8)) ** 2)
    return _shared(length, size, starts, np.tile(bell, (len(starts), 1)))


def _spread(length: int, *, tile: int, stride: int, overlap: int) -> tuple[tuple[int, ...], int]:
    """Starts and size of the fewest tiles that overlap by at least `overlap`, all multiples of the stride."""
    overlap = -(-overlap // stride) * stride
    tile = max(-(-tile // stride) * stride, overlap + stride)
    if length <= tile:
        return (0,), length
    n = -(-(length - overlap) // (tile - overlap))
    share = -(-(length + (n - 1) * overlap) // n)
    size = -(-share // stride) * stride
    return tuple(round(k * (length - size) / (n - 1) / stride) * stride for k in range(n)), size


def _shared(length: int, size: int, starts: tuple[int, ...], weights: NDArray[np.float64]) -> Tiles:
    """Tiles whose shares are `weights` (n, size) over the sum of all tiles there."""
    total = np.zeros(length)
    for weight, start in zip(weights, starts, strict=True):
        total[start : start + size] += weight
    shares = [w / total[start : start + size] for w, start in zip(weights, starts, strict=True)]
    return Tiles(length, size, starts, np.array(shares, np.float32))


def _smooth(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * np.clip(x, 0, 1)))
