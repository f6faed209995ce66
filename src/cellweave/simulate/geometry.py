"""`Geometry`: where the cells of one simulated field are, before any microscope looks at them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Box = tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class Geometry:
    """Exact shapes of the cells in one field of (Y, X) pixels.

    Parameters
    ----------
    labels
        (Y, X) int32: whole cells, 0 = background, ids 1..n, each one 4-connected piece. Of overlapping
        cells the upper one owns the pixel.
    nuclei
        (Y, X) int32: nuclei with the id of their cell, 0 where there is none. Several nuclei of one cell
        share its id. A nucleus never leaves its cell.
    height
        (Y, X) float32: thickness of the sample, 0 in the background to about 1 in the middle of a cell.
        Domes for round cells, flat for spread ones, ring-like for discocytes; overlapping cells add.
    """

    labels: NDArray[np.int32]
    nuclei: NDArray[np.int32]
    height: NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, int]:
        return self.labels.shape[0], self.labels.shape[1]

    @cached_property
    def n(self) -> int:
        """Number of cells (the highest id)."""
        return int(self.labels.max(initial=0))

    @cached_property
    def areas(self) -> NDArray[np.int64]:
        """(n,) pixels of each cell, id 1 first."""
        return np.bincount(self.labels.ravel(), minlength=self.n + 1)[1:]

    @cached_property
    def boxes(self) -> list[Box]:
        """Bounding box of each cell, id 1 first."""
        return list(ndimage.find_objects(self.labels))

    @cached_property
    def diameter(self) -> float:
        """Median diameter in px, ``2 * sqrt(area / pi)``; 0 without cells."""
        return float(2.0 * np.sqrt(np.median(self.areas) / np.pi)) if self.n else 0.0
