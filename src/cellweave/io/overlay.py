"""A picture of the image with the outline of every cell, for people to look at."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.core.labels import Labels, as_labels, median_diameter, relabel
from cellweave.io.raster import write_picture

LONGEST_SIDE = 4096
_BAND_PIXELS = 1 << 22
_LOW, _HIGH = 1.0, 99.8
_NEAR = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 3), (3, 0), (2, 2), (2, -2))
_LIGHT = 170
_GAP, _TITLE = 4, 20

_ON_DARK = np.array(
    [
        (255, 225, 25),
        (0, 220, 255),
        (255, 80, 200),
        (90, 255, 60),
        (255, 140, 0),
        (150, 150, 255),
        (255, 85, 85),
        (0, 255, 180),
    ],
    np.uint8,
)
_ON_LIGHT = np.array(
    [
        (0, 60, 255),
        (215, 0, 0),
        (0, 125, 0),
        (150, 0, 200),
        (225, 85, 0),
        (0, 125, 140),
        (120, 70, 0),
        (215, 0, 120),
    ],
    np.uint8,
)
_ON_STAINS = np.array(
    [
        (255, 230, 0),
        (0, 90, 255),
        (0, 215, 0),
        (255, 40, 30),
        (0, 225, 255),
        (255, 130, 0),
    ],
    np.uint8,
)
_ON_COMPOSITE = np.array(
    [
        (255, 230, 0),
        (255, 255, 255),
        (255, 105, 205),
        (255, 140, 0),
        (0, 235, 255),
        (255, 85, 85),
    ],
    np.uint8,
)
_TINTS = np.array(
    [
        (0.1, 0.85, 0.2),
        (0.2, 0.35, 0.95),
        (0.9, 0.2, 0.2),
        (0.5, 0.5, 0.5),
        (0.7, 0.2, 0.8),
        (0, 0.7, 0.7),
        (0.8, 0.6, 0),
    ],
    np.float32,
)
_NUCLEAR_NAMES = ("dapi", "hoechst", "nucle", "draq5", "h2b")


def write_overlay(path: str | os.PathLike[str], image: Image, labels: Labels) -> None:
    """Write `render_overlay` as a PNG.

    Raises
    ------
    InputError
        When the suffix is not .png, or the labels do not fit the image.
    WriteError
        When the file cannot be written; nothing is left behind.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: overlays are written as .png, not as '{path.suffix}'")
    write_picture(path, render_overlay(image, labels))


def render_overlay(image: Image, labels: Labels, *, longest_side: int | None = None) -> NDArray[np.uint8]:
    """Draw the outline of every cell on a contrast-stretched picture of the image.

    The image is shown as by `render_image`. Cells that touch or nearly touch get different colours; every cell keeps
    its outline in a picture that is smaller than the image.

    Parameters
    ----------
    image
        (C, Y, X), or with T and Z of length 1.
    labels
        (Y, X) label image of the same height and width.
    longest_side
        Longest side of the picture in px; 4096 without it.

    Returns
    -------
    array
        (Y, X, 3) uint8.

    Raises
    ------
    InputError
        When the sizes differ, or the image has several planes.
    """
    labels, image = as_labels(labels), image.plane()
    if labels.shape != (image.height, image.width):
        raise InputError(
            f"the labels are {labels.shape[0]} x {labels.shape[1]}, the image is "
            f"{image.height} x {image.width}; give the labels of this image"
        )
    picture, factor = render_image(image, longest_side=longest_side), block_size(image, longest_side)
    labels = relabel(labels)[0]
    outlines = _outlines(labels, factor)
    drawn = outlines > 0
    if drawn.any():
        palette = _ON_STAINS if image.color else _ON_DARK if image.n_channels == 1 else _ON_COMPOSITE
        if picture[drawn].mean() > _LIGHT:
            palette = _ON_LIGHT
        colours = palette[_colouring(outlines, int(labels.max()), len(palette))]
        picture[drawn] = colours[outlines[drawn]]
    return picture


def montage(pictures: Sequence[NDArray[np.uint8]], titles: Sequence[str]) -> NDArray[np.uint8]:
    """Pictures (Y, X, 3) of one size side by side, row by row, in a grid that is about square; a title over each."""
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    height, width = pictures[0].shape[:2]
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    sheet = Pillow.new("RGB", (columns * (width + _GAP) - _GAP, rows * (height + _TITLE + _GAP) - _GAP), (255,) * 3)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TITLE - 6)
    for k, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        x, y = k % columns * (width + _GAP), k // columns * (height + _TITLE + _GAP)
        draw.text((x + 2, y + 2), title, fill=(0, 0, 0), font=font)
        sheet.paste(Pillow.fromarray(picture), (x, y + _TITLE))
    return np.asarray(sheet)


def block_size(image: Image, longest_side: int | None = None) -> int:
    """Side of the blocks of which a picture shows the means, so that no side of it is longer than `longest_side`."""
    return math.ceil(max(image.height, image.width) / (longest_side or LONGEST_SIDE))


def render_image(image: Image, *, longest_side: int | None = None) -> NDArray[np.uint8]:
    """A contrast-stretched picture (Y, X, 3) uint8 of an image (C, Y, X), in which means of blocks fill large images.

    One channel is shown in gray, several as a composite of colours (a channel named after a nuclear dye in
    blue), a photograph as it is.
    """
    channels = _reduced(image, block_size(image, longest_side))
    if image.color:
        if image.dtype != np.uint8:
            white = np.nanpercentile(channels, 99.9) if np.isfinite(channels).any() else 1.0
            channels = np.clip(channels / (white or 1.0), 0, 1) * 255
        return _bytes(np.nan_to_num(channels).transpose(1, 2, 0))
    nuclear = [any(part in name.lower() for part in _NUCLEAR_NAMES) for name in image.channel_names]
    others = cycle(np.delete(_TINTS, 1, axis=0) if any(nuclear) else _TINTS)
    tints = [_TINTS[1] if is_nuclear else next(others) for is_nuclear in nuclear]
    if len(channels) == 1:
        tints = [np.ones(3, np.float32)]
    picture = np.zeros((*channels.shape[1:], 3), np.float32)
    for channel, tint in zip(channels, tints, strict=True):
        picture += _stretched(channel)[..., np.newaxis] * (255 * tint)
    return _bytes(picture)


def _bytes(picture: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(np.clip(np.rint(picture), 0, 255), np.uint8)


def _reduced(image: Image, factor: int) -> NDArray[np.float32]:
    """(C, Y, X) means of blocks of finite pixels; NaN where there are none. Read band by band."""
    height, width = -(-image.height // factor), -(-image.width // factor)
    out = np.empty((image.n_channels, height, width), np.float32)
    for y in _bands(image.height, image.width * image.n_channels, factor):
        with np.errstate(over="ignore"):  # what float32 cannot hold counts as missing
            band = image.read(y).astype(np.float32)
        finite = np.isfinite(band)
        band[~finite] = np.nan if factor == 1 else 0
        target = out[:, y.start // factor : -(-y.stop // factor)]
        if factor == 1:
            target[:] = band
            continue
        total, count = np.zeros((2, *target.shape), np.float32)
        for (i, j), inside in _parts(target.shape[1:], band.shape[1:], factor):
            total[:, *inside] += band[:, i::factor, j::factor]
            count[:, *inside] += finite[:, i::factor, j::factor]
        target[:] = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return out


def _bands(height: int, row_pixels: int, factor: int) -> Iterator[slice]:
    step = max(1, _BAND_PIXELS // (row_pixels * factor)) * factor
    for start in range(0, height, step):
        yield slice(start, min(height, start + step))


def _parts(
    shape: tuple[int, ...], full: tuple[int, ...], factor: int
) -> Iterator[tuple[tuple[int, int], tuple[slice, slice]]]:
    """Each place within a block, and the blocks that have this place inside an image of size `full`."""
    for i, j in product(range(min(factor, full[0])), range(min(factor, full[1]))):
        yield (i, j), (slice(0, -(-(full[0] - i) // factor)), slice(0, -(-(full[1] - j) // factor)))


def _stretched(channel: NDArray[np.float32]) -> NDArray[np.float32]:
    """0..1 between two percentiles; a constant channel is black, missing pixels too."""
    finite = channel[np.isfinite(channel)]
    if not len(finite):
        return np.zeros_like(channel)
    low, high = np.percentile(finite, (_LOW, _HIGH))
    if high <= low:
        low, high = finite.min(), finite.max()
    scale = 1 / (high - low) if high > low else 0.0
    return np.asarray(np.clip((np.nan_to_num(channel, nan=low) - low) * scale, 0, 1), np.float32)


def _outlines(labels: Labels, factor: int) -> Labels:
    """Id on the rim of every object, 0 elsewhere; a block of `factor` has the rim of its pixels."""
    wide = max(labels.shape) // factor > 1500 and median_diameter(labels) > 40 * factor
    thickness = 1 + factor if wide else 1
    height, width = -(-labels.shape[0] // factor), -(-labels.shape[1] // factor)
    out = np.zeros((height, width), np.int32)
    for y in _bands(labels.shape[0], labels.shape[1], factor):
        halo = slice(max(0, y.start - thickness), min(labels.shape[0], y.stop + thickness))
        band = labels[halo]
        rim = np.zeros(band.shape, bool)
        for shift in range(1, thickness + 1):
            differs = band[shift:] != band[:-shift]
            rim[shift:] |= differs
            rim[:-shift] |= differs
            differs = band[:, shift:] != band[:, :-shift]
            rim[:, shift:] |= differs
            rim[:, :-shift] |= differs
        ids = np.where(rim, band, 0)[y.start - halo.start : y.stop - halo.start]
        target = out[y.start // factor : -(-y.stop // factor)]
        for (i, j), inside in _parts(target.shape, ids.shape, factor):
            target[inside] = np.maximum(target[inside], ids[i::factor, j::factor])
    return out


def _colouring(outlines: Labels, n: int, n_colours: int) -> NDArray[np.intp]:
    """A colour number for each id such that near ids differ, as far as the colours go (greedy colouring)."""
    pairs = _near_pairs(outlines, n)
    ends = np.concatenate([pairs, pairs[:, ::-1]])
    ends = ends[np.argsort(ends[:, 0], kind="stable")]
    first = np.searchsorted(ends[:, 0], np.arange(n + 2))
    others = ends[:, 1].tolist()
    colours = [-1] * (n + 1)
    bounds = first.tolist()
    for label in range(1, n + 1):
        taken = {colours[other] for other in others[bounds[label] : bounds[label + 1]]}
        wish = label * 5 % n_colours
        choices = ((wish + k) % n_colours for k in range(n_colours))
        colours[label] = next((c for c in choices if c not in taken), wish)
    return np.array(colours, np.intp)


def _near_pairs(outlines: Labels, n: int) -> NDArray[np.int64]:
    """(pairs, 2): ids that come within a few pixels of each other."""
    height, width = outlines.shape
    codes = [np.empty(0, np.int64)]
    for dy, dx in _NEAR:
        left, right = slice(max(0, -dx), width - max(0, dx)), slice(max(0, dx), width + min(0, dx))
        a, b = outlines[: max(0, height - dy), left], outlines[dy:, right]
        near = (a != b) & (a > 0) & (b > 0)
        low, high = np.minimum(a[near], b[near]), np.maximum(a[near], b[near])
        codes.append(np.unique(low.astype(np.int64) * (n + 1) + high))
    code = np.unique(np.concatenate(codes))
    return np.stack([code // (n + 1), code % (n + 1)], axis=1)
