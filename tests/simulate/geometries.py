"""Simple geometries for the tests of the simulated microscopes."""

from __future__ import annotations

import numpy as np

from cellweave.simulate.geometry import Geometry


def disks(shape: tuple[int, int] = (96, 112), diameter: float = 24.0, *, nuclei: bool = True) -> Geometry:
    """Disks on a grid, some touching, with round nuclei and domes."""
    labels = np.zeros(shape, dtype=np.int32)
    inner = np.zeros(shape, dtype=np.int32)
    height = np.zeros(shape, dtype=np.float32)
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    number = 0
    for y in np.arange(0.6 * diameter, shape[0] + diameter, 1.6 * diameter):
        for x in np.arange(0.6 * diameter, shape[1] + diameter, 1.02 * diameter):
            radius = np.hypot(rows - y, columns - x) / (diameter / 2)
            inside = (radius < 1) & (labels == 0)
            if inside.sum() < 3:
                continue
            number += 1
            labels[inside] = number
            inner[inside & (radius < 0.45)] = number if nuclei else 0
            height[inside] = np.sqrt(1 - radius[inside] ** 2)
    return Geometry(labels, inner, height)


def empty(shape: tuple[int, int] = (40, 50)) -> Geometry:
    """A field without cells."""
    nothing = np.zeros(shape, dtype=np.int32)
    return Geometry(nothing, nothing.copy(), np.zeros(shape, dtype=np.float32))
