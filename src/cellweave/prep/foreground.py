"""Foreground: which pixels show cells at all, by local texture and intensity; no model, no training."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from typing import Any

import cc3d
import edt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellweave.core.binning import block_sums
from cellweave.core.cores import cores
from cellweave.core.errors import InputError
from cellweave.core.watershed import watershed
from cellweave.prep.rescale import resize

Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]

SCALE = 3.0
"""Standard deviation of the window of texture in px. A phase-contrast cell has edges and grains every few px."""
APART = 3.5
"""Rough pixels have this many times the texture of smooth ones, or there is one kind only: cells, or no cells."""
NOISY = 3.0
"""An image of one kind shows cells where its texture is this many times its noise."""
BRIGHT = 6.0
"""Smooth pixels are of a cell where they differ from the background around by this many of its deviations."""
REACHED = 2.0
"""How far from an edge, in standard deviations of the window, texture may have been seen."""
REACH, EDGE = 3.0, 1.0
"""Windows end here, in standard deviations; that of the window in which slopes are found, in px."""
_BAND, _STRIP, _SAMPLE = 256, 64, 1 << 23
_BLOCK, _FAR = 16, 8.0


def foreground(plane: NDArray[np.floating], *, scale: float = SCALE) -> Mask:
    """Pixels of cells: rough ones, and smooth ones that are darker or brighter than the background.

    Cells that cannot be told from the background by their brightness, as in phase contrast, have edges and grains that
    an empty place does not have (Juneau et al. 2013, *PHANTAST*; Topman et al. 2011). The steps:

    1. Texture: the local standard deviation, in a Gaussian window. Otsu's threshold parts its logarithm in two. Where
       the parts are nearly alike, the image is of one kind: a confluent layer where the texture is far above the
       noise, and then only what is as smooth as noise is background; otherwise background, and then only what is much
       rougher than the rest is foreground.
    2. Intensity: the background around a place is the mean of its smooth pixels. Smooth pixels that differ from it by
       `BRIGHT` standard deviations are added, so that the even inside of a large nucleus is no hole.
    3. A window on an edge reaches beyond it, to the halo of a cell in phase contrast, to the glow of a fluorescent one:
       the border is moved inwards to the steepest slope, by watershed, at most by `REACHED` times `scale`.
    4. Pieces and holes smaller than the window are removed, before 3 and at the end.

    Parameters
    ----------
    plane
        (Y, X), any range of values. NaN counts as background.
    scale
        Standard deviation of the window in px; smaller than the distance of edges within a cell that is to be found
        whole, larger than grains of the background.

    Returns
    -------
    mask
        (Y, X) bool.

    Raises
    ------
    InputError
        When `plane` is no 2-D image of real numbers, or `scale` is not from 0.5 to 100 px.

    Notes
    -----
    Bands of the image are worked on in parallel; memory besides the input is about 30 bytes a pixel.
    """
    plane, finite = _checked(plane, scale)
    return _cleaned(_to_edges(plane, _unlike_empty(plane, finite, scale), scale), _smallest(scale))


def textured(plane: NDArray[np.floating], *, scale: float = SCALE) -> Mask:
    """Without step 3 of `foreground`, whose parameters and errors it has: wider by at most `REACHED` times `scale` px
    around cells, and sooner."""
    return _unlike_empty(*_checked(plane, scale), scale)


def _unlike_empty(plane: Floats, finite: Mask, scale: float) -> Mask:
    """Steps 1, 2 and 4 of `foreground`."""
    noise = _noise(plane)
    texture = np.empty(plane.shape, np.float32)
    floor = max(noise, 1e-6 * float(np.ptp(plane)), 1e-12)
    _in_bands(plane, texture, ceil(REACH * scale), lambda part: _texture(part, scale, floor))
    rough = texture > _threshold(texture, floor)
    mask = rough | _unlike_background(plane, ~rough & finite, scale)
    return _cleaned(mask & finite, _smallest(scale))


def _smallest(scale: float) -> int:
    """Pixels of the smallest piece and hole."""
    return round(np.pi * (2 * scale) ** 2)


def _checked(plane: NDArray[np.floating], scale: float) -> tuple[Floats, Mask]:
    """The plane about a mean of 0, and where it has numbers."""
    plane = np.asarray(plane)
    if plane.ndim != 2 or plane.dtype.kind not in "buif" or not plane.size:
        raise InputError(
            f"a plane is a (Y, X) image of real numbers, this one has shape {plane.shape} and type {plane.dtype}; "
            "take one channel, or the mean of the channels"
        )
    if not 0.5 <= scale <= 100:
        raise InputError(f"scale is {scale:g} px; it must be from 0.5 to 100, about a tenth of a cell's diameter")
    finite = np.isfinite(plane)
    level = float(plane[finite].mean()) if finite.any() else 0.0
    return np.where(finite, plane - level, 0).astype(np.float32), finite  # small numbers: variances are differences


def _in_bands(source: Floats, target: Floats, halo: int, make: Callable[[Floats], Floats]) -> None:
    """Fill `target` band by band with what `make` gives for the rows of a band and `halo` more on each side."""

    def fill(top: int) -> None:
        start, stop = max(0, top - halo), top + _BAND + halo
        target[top : top + _BAND] = make(source[start:stop])[top - start :][:_BAND]

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(fill, range(0, len(source), _BAND)))


def _smooth(plane: Floats, scale: float) -> Floats:
    return np.asarray(ndimage.gaussian_filter(plane, scale, mode="reflect", truncate=REACH), np.float32)


def _texture(plane: Floats, scale: float, floor: float) -> Floats:
    """Logarithm of the local standard deviation, at least that of `floor`."""
    mean = _smooth(plane, scale)
    variance = np.maximum(_smooth(plane * plane, scale) - mean * mean, 0)
    return np.asarray(np.log(variance + floor**2) / 2, np.float32)


def _noise(plane: Floats) -> float:
    """Standard deviation of the noise, by the median of second differences along both axes, which edges hardly change
    (Immerkaer 1996, with a median). Of a large image, strips."""
    step = _STRIP * max(1, plane.size // _SAMPLE)
    strips = [plane[top : top + _STRIP] for top in range(0, len(plane), step)]
    differences = [np.abs(np.diff(np.diff(strip, 2, axis=0), 2, axis=1)).ravel() for strip in strips]
    found = np.concatenate(differences)
    return float(np.median(found)) / 0.6745 / 6 if found.size else 0.0


def _threshold(texture: Floats, noise: float) -> float:
    """Texture from which pixels are rough."""
    split = otsu(texture)
    rough = texture > split
    if rough.any() and texture[rough].mean() - texture[~rough].mean() > np.log(APART):
        return split
    usual, confluent = float(np.median(texture)), float(np.log(max(NOISY * noise, 1e-12)))
    return confluent if usual > confluent else usual + float(np.log(APART))


def otsu(values: NDArray[np.floating]) -> float:
    """The threshold that parts values in two with the least variance within the parts (Otsu 1979), in 256 steps."""
    counts, edges = np.histogram(values, 256)
    middles = (edges[1:] + edges[:-1]) / 2
    below, sums = np.cumsum(counts), np.cumsum(counts * middles)
    above = below[-1] - below
    both = (below > 0) & (above > 0)
    if not both.any():
        return float(edges[-1])
    n_below, n_above = below[both], above[both]
    apart = sums[both] / n_below - (sums[-1] - sums[both]) / n_above
    between = n_below * 1.0 * n_above * apart**2
    best = np.flatnonzero(both)[np.isclose(between, between.max())]
    return float(edges[1:][best].mean())


def _to_edges(plane: Floats, mask: Mask, scale: float) -> Mask:
    """The mask with its border moved inwards to the steepest slope, by at most the reach of a window on an edge."""
    inner = edt.edt(mask) > REACHED * scale
    markers = np.where(mask, 0, 1).astype(np.int32)
    markers[inner] = 2
    slope = np.empty_like(plane)
    _in_bands(plane, slope, ceil(REACH * EDGE) + 1, _slope)
    return np.asarray(watershed(slope, markers) == 2)


def _slope(plane: Floats) -> Floats:
    smooth = _smooth(plane, EDGE)
    return np.asarray(np.hypot(*(ndimage.correlate1d(smooth, [-0.5, 0, 0.5], axis) for axis in (0, 1))), np.float32)


def _unlike_background(plane: Floats, smooth: Mask, scale: float) -> Mask:
    """Smooth pixels that differ from the smooth pixels around them."""
    blurred = np.empty_like(plane)
    _in_bands(plane, blurred, ceil(REACH * scale / 2), lambda part: _smooth(part, scale / 2))
    unlike = np.zeros_like(smooth)
    for _ in range(2):  # once more without what was found
        empty = smooth & ~unlike
        if not empty.any():
            break
        difference = np.abs(blurred - _background(blurred, empty))
        deviation = float(np.median(difference[empty])) / 0.6745
        unlike = smooth & (difference > max(BRIGHT * deviation, 1e-6 * float(np.ptp(blurred))))
    return unlike


def _background(plane: Floats, empty: Mask) -> Floats:
    """Mean of the empty pixels in a wide Gaussian window around each pixel, found on blocks of pixels."""

    def blocks(values: NDArray[Any]) -> Floats:
        sums = block_sums(values, _BLOCK)
        return np.asarray(ndimage.gaussian_filter(sums, _FAR, mode="constant", truncate=8.0), np.float32)

    weights, sums = blocks(empty), blocks(np.where(empty, plane, np.float32(0)))
    usual = float(plane[empty].mean())
    means = np.where(weights > 1e-6, sums / np.maximum(weights, 1e-6), usual).astype(np.float32)
    return np.asarray(resize(means, *plane.shape), np.float32)


def _cleaned(mask: Mask, smallest: int) -> Mask:
    """Without pieces and holes of fewer pixels."""
    filled = ~cc3d.dust(~mask, threshold=smallest, connectivity=4)
    return np.asarray(cc3d.dust(filled, threshold=smallest, connectivity=4), np.bool_)
