"""The classical baseline: cells as blobs, the maxima of the Laplacian of Gaussian over place and size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from math import ceil, log2, sqrt
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.core.points import Points, Shape, inside, nearest_pairs
from cellweave.core.progress import report
from cellweave.metrics.counting import RADIUS, evaluate_points
from cellweave.predict.color_view import gray_plane
from cellweave.predict.counters import Count, Mask, PlainCounter
from cellweave.prep import Channels

Floats = NDArray[np.float32]
Numbers = NDArray[np.float64]

SIZES = ((6.0, 16.0), (10.0, 24.0), (16.0, 40.0), (3.0, 8.0), (28.0, 70.0))
"""Least and largest diameters in px that `fit_blobs` tries; of equally good ones the first is taken."""
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

    def within(self, region: Mask) -> Blobs:
        """The blobs in a region (Y, X)."""
        row, column = np.rint(self.positions).astype(int).T
        kept = region[row, column]
        return replace(
            self, positions=self.positions[kept], diameters=self.diameters[kept], strengths=self.strengths[kept]
        )

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


@dataclass(frozen=True)
class BlobFinder(PlainCounter):
    """Cells are the blobs of some sizes that are stronger than a threshold, in the grey values of the image: for images
    of one microscope with the same settings.

    Attributes
    ----------
    diameters, dark
        As for `find_blobs`.
    threshold
        Least contrast of a cell.
    cells, images
        How many it was fitted on.
    channels, name, card, hash
        See `PlainCounter`.

    Raises
    ------
    InputError
        When the threshold is not above 0.
    """

    KIND: ClassVar[str] = "blobs"

    diameters: tuple[float, float]
    dark: bool
    threshold: float
    cells: int
    images: int

    def __post_init__(self) -> None:
        low, high = self.diameters
        object.__setattr__(self, "diameters", (float(low), float(high)))
        if not 0 < self.threshold < np.inf:
            raise InputError(f"the threshold is {self.threshold}; it must be above 0, in grey values")

    def find(self, plane: NDArray[np.floating]) -> Points:
        """The cells of a plane (Y, X), with their confidence; see `Blobs.above`."""
        return find_blobs(plane, diameters=self.diameters, dark=self.dark).above(self.threshold)

    def count_cells(
        self, image: Image, *, channels: str | Channels | None, device: str, min_confidence: float
    ) -> Count:
        """Count the cells of a 2-D image; see `Counter`.

        Raises
        ------
        InputError
            As `gray_plane`.
        """
        points = self.find(gray_plane(image, self.channels if channels is None else channels, "a model of blobs"))
        assert points.confidence is not None
        kept = points[points.confidence >= min_confidence]
        return Count(
            count=float(len(kept)),
            points=kept,
            model=self,
            image=image,
            dropped=len(points) - len(kept),
            note="blobs tell no interval",
        )


def fit_blobs(
    planes: Sequence[NDArray[np.floating]],
    points: Sequence[Points],
    *,
    known: Sequence[Mask] | None = None,
    sizes: Sequence[tuple[float, float]] = SIZES,
) -> BlobFinder:
    """The sizes, sign and threshold with which blobs and annotated cells agree best: the highest F1 within `RADIUS` px
    over all images together.

    Parameters
    ----------
    planes
        (Y, X) of each image.
    points
        Cells of the same images; debris does not count.
    known
        Where someone annotated, of each image: blobs and cells elsewhere play no part. Everywhere without it.
    sizes
        Least and largest diameters in px to try.

    Raises
    ------
    InputError
        When numbers or shapes differ, a point lies outside of its image, or no blob is near any point.
    """
    where = [np.ones(plane.shape, bool) for plane in planes] if known is None else list(known)
    if not planes or not len(planes) == len(points) == len(where):
        raise InputError(
            f"{len(planes)} images, points of {len(points)} and {len(where)} known regions; give all for each image"
        )
    truth = []
    for plane, some, looked in zip(planes, points, where, strict=True):
        if plane.shape != looked.shape or not inside(some.positions, (plane.shape[0], plane.shape[1])).all():
            raise InputError(f"points lie outside the image of {plane.shape} or its known region {looked.shape}")
        row, column = np.rint(some.cells.positions).astype(int).T
        truth.append(some.cells[looked[row, column]])
    best: tuple[float, BlobFinder] | None = None
    cells, tries = sum(map(len, truth)), list(product(sizes, (True, False)))
    for k, (diameters, dark) in enumerate(tries):
        report("fitting blobs", k, len(tries), f"{diameters[0]:g} to {diameters[1]:g} px")
        found = [
            find_blobs(plane, diameters=diameters, dark=dark).within(looked)
            for plane, looked in zip(planes, where, strict=True)
        ]
        with suppress(InputError):  # the wrong sign or size, where no blob is near a cell
            threshold = fit_threshold(found, truth)
            f1 = evaluate_points(truth, [one.above(threshold) for one in found]).total.detection.f1
            if best is None or f1 > best[0]:
                best = f1, BlobFinder(diameters, dark, threshold, cells, len(planes))
    report("fitting blobs", len(tries), len(tries), "")
    if best is None:
        raise InputError(
            f"{cells} cells, and no blob within {RADIUS:g} px of any of them; are these the points of these images?"
        )
    return best[1].with_(card={f"F1 within {RADIUS:g} px on what it was fitted on": round(best[0], 3)})


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
