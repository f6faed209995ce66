"""CLAHE: contrast-limited adaptive histogram equalisation, at the full depth of the pixels."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.core.image import Image, PixelArray, plane_by_plane

log = logging.getLogger(__name__)


def clahe(pixels: NDArray[Any], *, tiles: tuple[int, int] = (8, 8), clip_limit: float = 2.0) -> NDArray[Any]:
    """Contrast-limited adaptive histogram equalisation (Zuiderveld, Graphics Gems IV, 1994).

    The image is cut into tiles. The histogram of each, over all 256 or 65,536 grey values, is clipped; what was cut off
    is spread evenly over all values; its running sum is the tile's grey-value curve. A pixel is mapped by the curves of
    the four nearest tiles and blended bilinearly; beyond the outer tiles' centres, by the nearest two or one.

    Parameters
    ----------
    pixels
        (Y, X) or (C, Y, X) uint8 or uint16; channels are equalised one by one. Float images have no grey values to
        count: `cellweave.prep.corrected` with ``keep_dtype=True`` keeps integers.
    tiles
        Rows and columns of tiles. An image whose size is no multiple of them is continued by reflection below and to
        the right; it must have as many rows and columns as tiles.
    clip_limit
        Pixels that one grey value may have, as a multiple of the tile's mean count of a grey value (and at least one);
        1 leaves almost no contrast to gain, ``inf`` is plain adaptive equalisation. In uint16 tiles have fewer pixels
        than there are grey values: limits under ``2 * 65,536 / pixels of a tile`` (32 for tiles of 64 x 64 pixels) are
        all the same, one pixel a grey value. A warning is logged, once.

    Returns
    -------
    array
        Same shape and type, over the full range of the type: a 12-bit image in uint16 comes out with 16 bits.

    Notes
    -----
    The definition is that of OpenCV's ``createCLAHE`` for both types, within one grey value (rounding), but for the
    padding of images whose sizes tiles do not divide: OpenCV pads a whole further tile in an axis that needs no
    padding when the other one does. scikit-image's ``equalize_adapthist`` differs: it rescales the image to 14 bits
    first, and clips and spreads otherwise.

    Raises
    ------
    InputError
        For other types or shapes, more tiles than rows or columns, or a clip limit of 0 or less.
    """
    if pixels.dtype not in (np.uint8, np.uint16):
        raise InputError(f"CLAHE counts grey values of uint8 and uint16; the pixels are {pixels.dtype}; convert them")
    if pixels.ndim not in (2, 3) or not pixels.size:
        raise InputError(f"CLAHE needs (Y, X) or (C, Y, X) pixels; their shape is {pixels.shape}")
    _check(pixels.shape[-2:], tiles, clip_limit)
    if pixels.ndim == 3:
        return np.stack([clahe(channel, tiles=tiles, clip_limit=clip_limit) for channel in pixels])
    (height, width), (rows, columns) = pixels.shape, tiles
    padded = np.pad(pixels, ((0, -height % rows), (0, -width % columns)), mode="reflect")
    tile = (padded.shape[0] // rows, padded.shape[1] // columns)
    _tell(pixels.dtype, tile, clip_limit)
    curves = _curves(padded, tiles, clip_limit)
    top, bottom, down = _neighbours(height, tile[0], rows)
    left, right, across = _neighbours(width, tile[1], columns)
    out = np.empty_like(pixels)
    for y in range(height):
        line = pixels[y]
        above, below = (
            curves[r, left, line] * (1 - across) + curves[r, right, line] * across for r in (top[y], bottom[y])
        )
        np.rint(above * (1 - down[y]) + below * down[y], out=above)
        out[y] = above.astype(pixels.dtype)
    return out


def _check(shape: tuple[int, ...], tiles: tuple[int, int], clip_limit: float) -> None:
    if min(tiles) < 1 or tiles[0] > shape[0] or tiles[1] > shape[1]:
        raise InputError(
            f"{tiles[0]} x {tiles[1]} tiles do not fit an image of {shape[0]} x {shape[1]}; "
            "use 1 to as many as it has rows and columns"
        )
    if not clip_limit > 0:
        raise InputError(f"clip_limit is {clip_limit}; it must be over 0")


@lru_cache
def _tell(dtype: np.dtype[Any], tile: tuple[int, int], clip_limit: float) -> None:
    """Warn, once for the same settings, where the clip limit has no influence."""
    least = 2 * (int(np.iinfo(dtype).max) + 1) / (tile[0] * tile[1])
    if dtype == np.uint16 and clip_limit < least:
        log.warning(
            "CLAHE: in 16 bits and tiles of %d x %d pixels, clip limits under %.0f are all the same; yours is %g",
            *tile,
            np.ceil(least),
            clip_limit,
        )


def equalised(image: Image, *, tiles: tuple[int, int] = (8, 8), clip_limit: float = 2.0) -> Image:
    """`clahe` of every channel, time and depth of an image, plane by plane, when its pixels are indexed.

    Parameters
    ----------
    image
        uint8 or uint16, any axes.
    tiles, clip_limit
        As for `clahe`.

    Returns
    -------
    Image
        Same type, axes, names and pixel size. The plane equalised last is kept, as tiles of one image are read in turn.

    Raises
    ------
    InputError
        As `clahe`.
    """
    where = image.source or "image"
    if image.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"{where}: CLAHE counts grey values of uint8 and uint16; its pixels are {image.dtype}; save them as uint16"
        )
    _check((image.height, image.width), tiles, clip_limit)
    facts = image.facts | {"clahe": f"{tiles[0]} x {tiles[1]} tiles, clip limit {clip_limit:g}"}
    return replace(image, data=_Equalised(image.data, image.axes, tiles, clip_limit), facts=facts, limits=None)


class _Equalised:
    """Lazy pixels of an image through CLAHE."""

    def __init__(self, data: PixelArray, axes: str, tiles: tuple[int, int], clip_limit: float) -> None:
        self._data, self._axes, self._tiles, self._clip_limit = data, axes, tiles, clip_limit
        self.shape, self.dtype = tuple(data.shape), data.dtype
        self._plane: tuple[tuple[int | slice, ...], NDArray[Any]] | None = None

    def __getitem__(self, key: tuple[int | slice, ...]) -> NDArray[Any]:
        return plane_by_plane(self._read, key, self._axes, self.shape)

    def _read(self, key: tuple[int | slice, ...]) -> NDArray[Any]:
        """The pixels of one time and depth."""
        at = tuple(k for k, axis in zip(key, self._axes, strict=True) if axis in "TZ")
        if self._plane is None or self._plane[0] != at:
            whole = [k if axis in "TZ" else slice(None) for k, axis in zip(key, self._axes, strict=True)]
            pixels = np.asarray(self._data[tuple(whole)])
            self._plane = (at, clahe(pixels, tiles=self._tiles, clip_limit=self._clip_limit))
        return self._plane[1][tuple(k for k, axis in zip(key, self._axes, strict=True) if axis in "CYX")]


def _curves(padded: NDArray[Any], tiles: tuple[int, int], clip_limit: float) -> NDArray[np.float32]:
    """(rows, columns, levels): the grey value that each grey value gets in each tile."""
    levels = int(np.iinfo(padded.dtype).max) + 1
    height, width = padded.shape[0] // tiles[0], padded.shape[1] // tiles[1]
    area = height * width
    most = area if clip_limit == np.inf else min(max(int(clip_limit * area / levels), 1), area)
    out = np.empty((*tiles, levels), dtype=np.float32)
    for r in range(tiles[0]):
        for c in range(tiles[1]):
            part = padded[r * height : (r + 1) * height, c * width : (c + 1) * width]
            counts = np.bincount(part.ravel(), minlength=levels)
            np.minimum(counts, most, out=counts)
            share, rest = divmod(area - int(counts.sum()), levels)
            counts += share
            if rest:  # what does not fill every value goes to every k-th
                step = max(levels // rest, 1)
                counts[np.arange(rest) * step] += 1
            out[r, c] = np.rint(np.cumsum(counts) * np.float32((levels - 1) / area))
    return np.minimum(out, levels - 1)


def _neighbours(n: int, tile: int, tiles: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For each of `n` pixels along an axis: the tile before, the tile after, and the weight of the one after."""
    place = np.arange(n) / tile - 0.5
    before = np.floor(place).astype(np.intp)
    weight = (place - before).astype(np.float32)
    return np.clip(before, 0, tiles - 1), np.clip(before + 1, 0, tiles - 1), weight
