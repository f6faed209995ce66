"""Shapes that the golden scripts draw their labels from. Needs NumPy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def ellipse(shape: tuple[int, int], y: float, x: float, a: float, b: float, angle: float) -> Mask:
    """Pixels of an ellipse with half-axes a (along `angle` from the row axis) and b, on an image of this shape."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    u = (rows - y) * np.cos(angle) + (columns - x) * np.sin(angle)
    v = (columns - x) * np.cos(angle) - (rows - y) * np.sin(angle)
    return np.asarray((u / a) ** 2 + (v / b) ** 2 <= 1)


def arc(
    shape: tuple[int, int], y: float, x: float, radius: float, half_width: float, start: float, turn: float
) -> Mask:
    """Pixels within `half_width` of a piece of a circle, from angle `start` over `turn` radians."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    on = np.abs(np.hypot(rows - y, columns - x) - radius) <= half_width
    return np.asarray(on & (np.mod(np.arctan2(rows - y, columns - x) - start, 2 * np.pi) <= turn))
