"""The area baseline: how much of the image is cells, times how many cells there are to an area."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.core.points import Points, inside
from cellweave.predict.color_view import gray_plane
from cellweave.predict.counters import Count, Mask, PlainCounter
from cellweave.prep import Channels
from cellweave.prep.foreground import foreground


@dataclass(frozen=True)
class AreaDensity(PlainCounter):
    """Cells are counted as the area of the foreground times their density in it, which is taken to be the same
    everywhere. It tells no positions, and counts wrongly what is denser or sparser than the images it was fitted on.

    The foreground is that of `cellweave.prep.foreground`, or another one that marks all cells (of SAM, of a net):
    but the same for `fit` and `count`. `count_cells` takes the former.

    Attributes
    ----------
    density
        Cells a pixel of foreground.
    cells, images
        How many it was fitted on.
    channels, name, card, hash
        See `PlainCounter`.

    Raises
    ------
    InputError
        When the density is not above 0.
    """

    KIND: ClassVar[str] = "area"

    density: float
    cells: int
    images: int

    def __post_init__(self) -> None:
        if not 0 < self.density < np.inf:
            raise InputError(f"the density is {self.density}; it must be above 0, in cells a pixel of foreground")

    @classmethod
    def fit(
        cls, foregrounds: Sequence[Mask], points: Sequence[Points], *, known: Sequence[Mask] | None = None
    ) -> AreaDensity:
        """The density of annotated images: all their cells over all their foreground.

        Parameters
        ----------
        foregrounds
            (Y, X) bool of each image.
        points
            Cells of the same images; debris does not count.
        known
            Where someone annotated, of each image: foreground elsewhere is left out, and so are cells. Everywhere
            without it. Where cells are too dense for annotators, the density comes out too low if it is left out.

        Raises
        ------
        InputError
            When numbers or shapes differ, a point lies outside of its image, or there is no cell or no foreground to
            fit on.
        """
        where = [np.ones_like(mask) for mask in foregrounds] if known is None else list(known)
        if not len(foregrounds) == len(points) == len(where):
            raise InputError(
                f"{len(foregrounds)} foregrounds, points of {len(points)} images and {len(where)} known regions; "
                "give all for each image"
            )
        area, cells = 0, 0
        for mask, some, looked in zip(foregrounds, points, where, strict=True):
            if mask.shape != looked.shape or some.shape not in (None, mask.shape):
                raise InputError(
                    f"a foreground is {mask.shape}, its points are on {some.shape}, its known region is "
                    f"{looked.shape}; give those of the same image"
                )
            if not inside(some.cells.positions, mask.shape).all():
                raise InputError(f"points lie outside the foreground of {mask.shape}; give those of the same image")
            area += int(np.count_nonzero(mask & looked))
            row, column = np.rint(some.cells.positions).astype(int).T
            cells += int(np.count_nonzero(looked[row, column]))
        if not (area and cells):
            raise InputError(f"{cells} cells on {area} px of foreground; fit on annotated images that show cells")
        return cls(cells / area, cells, len(foregrounds))

    def count(self, foreground: Mask) -> float:
        """Number of cells in an image, by its foreground (Y, X)."""
        return float(self.density * np.count_nonzero(foreground))

    def count_cells(
        self, image: Image, *, channels: str | Channels | None, device: str, min_confidence: float
    ) -> Count:
        """Count the cells of a 2-D image by its foreground; see `Counter`.

        Raises
        ------
        InputError
            As `gray_plane`, and for a least confidence, as no single cell is seen.
        """
        if min_confidence:
            raise InputError("an area tells no single cells, and no confidence; leave out min_confidence")
        mask = foreground(gray_plane(image, self.channels if channels is None else channels, "an area model"))
        note = "an area model tells no places and no interval"
        return Count(count=self.count(mask), points=None, model=self, image=image, foreground=mask, note=note)
