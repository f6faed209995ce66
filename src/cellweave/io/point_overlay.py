"""A picture of the image with a dot on every cell, for people to look at."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.core.points import DEBRIS, Points
from cellweave.io.overlay import block_size, render_image
from cellweave.io.raster import write_picture

CELL, DEAD, TINT = (255, 225, 25), (255, 60, 200), (255, 110, 0)
"""Colours of cells, of dead ones and debris, and of shaded regions."""
SHADE = 0.35
"""Share of the tint in the colour of a shaded region."""


def write_points_overlay(
    path: str | os.PathLike[str], image: Image, points: Points, shaded: NDArray[np.bool_] | None = None
) -> None:
    """Write `render_points` as a PNG.

    Raises
    ------
    InputError
        When the suffix is not .png, or points or region do not fit the image.
    WriteError
        When the file cannot be written; nothing is left behind.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: overlays are written as .png, not as '{path.suffix}'")
    write_picture(path, render_points(image, points, shaded))


def render_points(
    image: Image, points: Points, shaded: NDArray[np.bool_] | None = None, *, longest_side: int | None = None
) -> NDArray[np.uint8]:
    """Draw a dot on every cell and a cross on debris, and shade a region.

    Parameters
    ----------
    image
        (C, Y, X), or with T and Z of length 1; shown as by `render_image`.
    points
        Where the cells are.
    shaded
        (Y, X) bool, such as where a count is not sure; it becomes orange.
    longest_side
        Longest side of the picture in px; 4096 without it.

    Returns
    -------
    array
        (Y, X, 3) uint8.

    Raises
    ------
    InputError
        When points or region are of an image of another size.
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw

    image = image.plane()
    size = (image.height, image.width)
    for what, shape in (("points", points.shape), ("shaded region", None if shaded is None else shaded.shape)):
        if shape not in (None, size):
            raise InputError(f"the {what} are of an image of {shape}, the image is {size}; give those of this image")
    picture, factor = render_image(image, longest_side=longest_side), block_size(image, longest_side)
    if shaded is not None:
        marked = shaded[::factor, ::factor]
        picture[marked] = (1 - SHADE) * picture[marked] + SHADE * np.array(TINT)
    canvas = Pillow.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    r = max(2, max(picture.shape) // 600)
    places = np.rint((points.positions + 0.5) / factor - 0.5)
    for (y, x), name in zip(places.tolist(), points.classes.tolist(), strict=True):
        if name == DEBRIS:
            for step in (1, -1):
                draw.line((x - r, y - step * r, x + r, y + step * r), fill=DEAD, width=max(1, r // 2))
        else:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=CELL, outline="black")
    return np.array(canvas)
