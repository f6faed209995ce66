"""The classical baseline: cells as blobs, the maxima of the Laplacian of Gaussian over place and size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, log2, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from cellweave.core.errors import InputError
from cellweave.core.points import Points, Shape, nearest_pairs
from cellweave.metrics.counting import RADIUS

Floats = NDArray[np.float32]
Numbers = NDArray[np.float64]

STEPS = 4
"""Sizes an octave."""
DISK = 2 * np.exp(-1)
"""Response to a disk of contrast 1 at its own size."""
REACH = 4.0
"""Windows end here, in standard deviations."""
COARSE = 4.0
"""Standard deviation in px from which every second row and column is left out."""


@dataclass(frozen=True, eq=False)
class Blobs:
    """Maxima over place and size, the strongest first.

    Attributes
    ----------
    positions
        (N, 2) row and column in px, between pixels.
    diameters
        (N,) of the disk that would give the response, in px.
    strengths
        (N,) contrast of that disk, in units of the image; all positive.
    shape
        (height, width) of the image.
    """

    positions: Numbers
    diameters: Numbers
    strengths: Numbers
    shape: Shape

    def above(self, threshold: float) -> Points:
        """The blobs stronger than `threshold` as points; confidence is s / (s + threshold), from 0.5 to 1."""
        kept = self.strengths > threshold
        strengths = self.strengths[kept]
        return Points(self.positions[kept], confidence=strengths / (strengths + threshold), shape=self.shape)


def find_blobs(plane: NDArray[np.floating], *, diameters: tuple[float, float], dark: bool = False) -> Blobs:
    """All blobs of some sizes, by the scale-normalised Laplacian of Gaussian (Lindeberg 1998).

    A disk of diameter d responds most at its centre and at the standard deviation ``d / sqrt(8)``. Blobs are the maxima
    among the 26 neighbours in place and size, placed between pixels and sizes by parabolas. Of two blobs of which one
    has its centre within the other, the stronger stays.

    Parameters
    ----------
    plane
        (Y, X), any range of values. NaN counts as the mean.
    diameters
        Least and largest diameter in px, from 2.
    dark
        Blobs are darker than what is around them.

    Raises
    ------
    InputError
        When `plane` is no 2-D image of real numbers, or the diameters are no range from 2 px.

    Notes
    -----
    Each blur starts from the one before. From a standard deviation of 4 px on, every second row and column is
    left out, which such an image does not miss; so time grows little with the size of the cells.
    """
    plane = np.asarray(plane)
    if plane.ndim != 2 or plane.dtype.kind not in "buif" or not plane.size:
        raise InputError(f"a plane is a (Y, X) image of real numbers, this one is {plane.dtype} of shape {plane.shape}")
    low, high = diameters
    if not 2 <= low <= high < np.inf:
        raise InputError(f"diameters are {low:g} to {high:g} px; give the least and the largest, from 2 px")
    finite = np.isfinite(plane)
    mean = float(plane[finite].mean()) if finite.any() else 0.0
    image = np.where(finite, plane - mean, 0).astype(np.float32)
    n = ceil(STEPS * log2(high / low)) + 1
    sigmas = low / sqrt(8) * 2 ** (np.arange(-1, n + 1) / STEPS)  # one more at each end, to be a maximum among
    found = [_maxima(*layers, 1 if dark else -1) for layers in _stacks(image, sigmas)]
    return _without_nested(np.concatenate(found), (plane.shape[0], plane.shape[1]))


def fit_threshold(blobs: Sequence[Blobs], points: Sequence[Points], *, radius: float = RADIUS) -> float:
    """The least contrast with which blobs and annotated points agree best: the highest F1 over all images together.

    Parameters
    ----------
    blobs, points
        Of the same images, in the same order.
    radius
        Largest distance of a blob from its point in px.

    Raises
    ------
    InputError
        When there is no image, the numbers differ, or no blob is near any point.
    """
    if not blobs or len(blobs) != len(points):
        raise InputError(f"blobs of {len(blobs)} images and points of {len(points)}; give both for each image")
    strengths = np.concatenate([b.strengths for b in blobs])
    n_points = sum(len(p) for p in points)
    best = 0.0, 0.0
    # Few steps between the contrasts that can matter: with less than a third as many blobs as points, or over three
    # times as many, F1 is at most 1/2.
    ranks = np.unique(np.geomspace(max(1, n_points / 4), max(1, 4 * n_points), 40).astype(int))
    for rank in np.unique(np.minimum(ranks, len(strengths))) if len(strengths) else ():
        threshold = float(np.partition(strengths, -rank)[-rank]) * (1 - 1e-9)
        found = [b.above(threshold) for b in blobs]
        both = zip(points, found, strict=True)
        pairs = sum(len(nearest_pairs(p.positions, f.positions, radius)[0]) for p, f in both)
        f1 = 2 * pairs / (n_points + sum(len(f) for f in found))
        best = max(best, (f1, threshold))
    if not best[0]:
        raise InputError(f"no blob lies within {radius:g} px of a point; are the diameters those of the cells?")
    return best[1]


Stack = tuple[list[Floats], Numbers, int]
"""Responses at three sizes in turn, (Y, X) each; the sizes (standard deviations in px); px from one row to the next."""


def _stacks(image: Floats, sigmas: Numbers) -> Iterator[Stack]:
    """Responses at every size that has a smaller and a larger one. A bright blob has a negative response."""
    step, blurred = 1, 0.0
    layers: list[Floats] = []
    for k, sigma in enumerate(sigmas):
        if k and sigmas[k - 1] / step >= COARSE:
            step *= 2
            image, layers = image[::2, ::2], [layer[::2, ::2] for layer in layers]
        image = ndimage.gaussian_filter(image, sqrt(sigma**2 - blurred**2) / step, mode="reflect", truncate=REACH)
        blurred = sigma
        response = ndimage.laplace(image, mode="reflect") * np.float32((sigma / step) ** 2 / DISK)
        layers = [*layers[-2:], response]
        if len(layers) == 3:
            yield layers, sigmas[k - 2 : k + 1], step


def _maxima(layers: list[Floats], sigmas: Numbers, step: int, sign: int) -> Numbers:
    """(N, 4) row, column, diameter and strength of the maxima of `sign` times the middle response."""
    small, middle, large = (np.pad(sign * layer, 1, constant_values=-np.inf) for layer in layers)
    peaks = middle[1:-1, 1:-1] == ndimage.maximum_filter(middle, 3)[1:-1, 1:-1]
    y, x = np.nonzero(peaks & (middle[1:-1, 1:-1] > 0))
    y, x, here = y + 1, x + 1, middle[y + 1, x + 1]
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            top = (here >= small[y + dy, x + dx]) & (here >= large[y + dy, x + dx])
            y, x, here = y[top], x[top], here[top]
    rows = y - 1 + _vertex(middle[y - 1, x], here, middle[y + 1, x])
    columns = x - 1 + _vertex(middle[y, x - 1], here, middle[y, x + 1])
    size = sigmas[1] * (sigmas[2] / sigmas[1]) ** _vertex(small[y, x], here, large[y, x])
    return np.stack([rows * step, columns * step, sqrt(8) * size, here], axis=1).astype(np.float64)


def _vertex(before: Floats, here: Floats, after: Floats) -> Numbers:
    """Where the parabola through three values is highest, -0.5 to 0.5 from the middle; 0 beside the border."""
    curvature = 2.0 * here - before - after
    inside = np.isfinite(curvature) & (curvature > 0)
    rise = np.where(inside, after, 0.0) - np.where(inside, before, 0.0)
    return np.clip(rise / np.where(inside, 2 * curvature, 1.0), -0.5, 0.5)


def _without_nested(found: Numbers, shape: Shape) -> Blobs:
    """The blobs, the strongest first, without those that share their place with a stronger one."""
    found = found[np.lexsort((found[:, 1], found[:, 0], -found[:, 3]))]
    positions, diameters = np.clip(found[:, :2], 0, np.array(shape) - 1.0), found[:, 2]
    within = cKDTree(positions).query_ball_point(positions, diameters / 2) if len(found) else []
    outer = np.repeat(np.arange(len(found)), [len(some) for some in within])
    inner = np.fromiter((k for some in within for k in some), np.int64, len(outer))
    strong, weak = np.minimum(outer, inner), np.maximum(outer, inner)
    pairs = strong < weak
    strong, weak = strong[pairs], weak[pairs]
    kept = np.ones(len(found), np.bool_)
    while len(weak):  # whoever has no stronger neighbour stays, and its neighbours go
        free = np.ones(len(found), np.bool_)
        free[weak] = False
        kept[weak[free[strong]]] = False
        left = kept[strong] & kept[weak]
        strong, weak = strong[left], weak[left]
    return Blobs(positions[kept], diameters[kept], found[kept, 3], shape)
