"""Dot images: pictures in which every cell is one marked pixel or one blob."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import ReadError
from cellweave.core.image import Image
from cellweave.io.marks import Marks

SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".npy")


def find(path: Path, image: Image, classes: dict[str, str]) -> Marks:
    """A point at the centre of every blob: 8-connected pixels of one value (one colour).

    What is not a blob: 0; of a picture with two values or with colours, the commonest. The value is the class where
    `classes` names it as text ('1', '255'), so that a label image with touching cells is read as well.

    Raises
    ------
    ReadError
        For JPEG, which blurs dots, and for a picture with so many values that it is no dot image.
    """
    import cc3d

    if image.facts.get("format") == "JPEG":
        raise ReadError(f"{path}: is a JPEG, which smears dots; save dot images as PNG or TIFF, or the points as CSV")
    values, background = _values(path, image)
    distinct, codes = np.unique(values, return_inverse=True)
    places = np.where(values == background, 0, codes.reshape(values.shape) + 1).astype(np.uint32)
    blobs, n = cc3d.connected_components(places, connectivity=8, return_N=True)
    if n > 1000 and np.count_nonzero(places) > places.size / 2 and np.count_nonzero(places) < 10 * n:
        raise ReadError(
            f"{path}: {n:,} blobs of different values fill most of the image; this looks like a photograph, not "
            "like dots: give the file of the points"
        )
    marks = Marks(path, path.stem, (image.height, image.width))
    if n:
        pixels = np.flatnonzero(blobs)
        of = blobs.ravel()[pixels]
        area = np.bincount(of, minlength=n + 1)[1:]
        rows, columns = (np.bincount(of, part, minlength=n + 1)[1:] / area for part in divmod(pixels, image.width))
        value = np.zeros(n + 1, np.int64)
        value[of] = places.ravel()[pixels].astype(np.int64) - 1
        texts = [str(distinct[k]) for k in value[1:]]
        marks.points = [
            (y, x, text if text in classes else "", None)
            for y, x, text in zip(rows.tolist(), columns.tolist(), texts, strict=True)
        ]
    return marks


def _values(path: Path, image: Image) -> tuple[NDArray[Any], int]:
    """One whole number a pixel, and that of the background."""
    pixels = image.plane().read()
    if image.color:
        red, green, blue = pixels[:3].astype(np.uint64)
        values = red << 32 | green << 16 | blue
        if (pixels == pixels[:1]).all():
            values = pixels[0].astype(np.uint64)
    elif len(pixels) == 1:
        values = pixels[0]
        if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.floor(values)).all()):
            raise ReadError(f"{path}: dot images hold whole numbers, this one fractions; is it a heat map?")
        values = values.astype(np.int64)
    else:
        raise ReadError(f"{path}: has {len(pixels)} channels; a dot image has one, or is red, green and blue")
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) == 1 or (0 in distinct and len(distinct) > 2):
        return values, 0
    return values, int(distinct[counts.argmax()])
