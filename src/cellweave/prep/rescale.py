"""Resizing by rows, so that a band of a large image gives the same values as the whole."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Resampling:
    """Linear resampling of one axis from `n_in` to `n_out` samples; pixel centers are half integers.

    Enlarging interpolates linearly; shrinking widens the triangle to the output's spacing, which averages what it
    skips (as ``antialias=True`` of torch and Pillow does). Each output sample is a fixed weighted sum of neighbours.
    """

    n_in: int
    n_out: int

    @cached_property
    def _taps(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(n_out, k) source indices and weights; weights of a row sum to 1."""
        step = self.n_in / self.n_out
        reach = max(1.0, step)
        center = (np.arange(self.n_out) + 0.5) * step - 0.5
        k = 2 * int(np.ceil(reach)) + 1
        index = np.floor(center)[:, None].astype(np.int64) + np.arange(k) - k // 2
        weight = np.clip(1.0 - np.abs(index - center[:, None]) / reach, 0.0, None)
        inside = (index >= 0) & (index < self.n_in)
        if step <= 1:  # the border pixel goes on outside: keeps linear interpolation up to the edge
            index = np.clip(index, 0, self.n_in - 1)
        else:
            weight, index = weight * inside, np.clip(index, 0, self.n_in - 1)
        used = weight.any(axis=0)
        weight, index = weight[:, used], index[:, used]
        return index, (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)

    def source(self, start: int, stop: int) -> slice:
        """The input samples that outputs start..stop need."""
        index, weight = self._taps[0][start:stop], self._taps[1][start:stop]
        needed = index[weight > 0]
        return slice(int(needed.min()), int(needed.max()) + 1)

    def apply(
        self, pixels: NDArray[Any], axis: int, start: int = 0, stop: int | None = None, *, offset: int = 0
    ) -> NDArray[np.float32]:
        """Outputs start..stop along `axis`, of an array whose first sample along it is input sample `offset`."""
        stop = self.n_out if stop is None else stop
        if self.n_in == self.n_out:
            window = [slice(None)] * pixels.ndim
            window[axis] = slice(start - offset, stop - offset)
            return np.asarray(pixels[tuple(window)], dtype=np.float32)
        index, weight = self._taps[0][start:stop] - offset, self._taps[1][start:stop]
        index = np.clip(index, 0, pixels.shape[axis] - 1)  # only indices of zero weight are moved
        shape = [1] * pixels.ndim
        shape[axis] = stop - start
        out = np.zeros([*pixels.shape[:axis], stop - start, *pixels.shape[axis + 1 :]], np.float32)
        for k in range(weight.shape[1]):
            out += np.take(pixels, index[:, k], axis=axis) * weight[:, k].reshape(shape)
        return out


def resize(pixels: NDArray[Any], height: int, width: int) -> NDArray[np.float32]:
    """(..., Y, X) to (..., height, width) float32 by linear resampling."""
    rows = Resampling(pixels.shape[-2], height).apply(pixels, pixels.ndim - 2)
    return Resampling(pixels.shape[-1], width).apply(rows, pixels.ndim - 1)
