"""Heatmap: one Gaussian a cell, so that the map's sum is the number of cells and its maxima are where they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from cellweave import _kernels
from cellweave.core.errors import InputError
from cellweave.core.output import NetOutput
from cellweave.representations.base import Maps, PointRepresentation
from cellweave.representations.known import known_mean, split_known

if TYPE_CHECKING:
    from cellweave.core.points import Points, Positions

CUT = 4.0
"""Gaussians end this many sigmas from their middle, along rows and columns."""
AROUND = 3.0
"""What lies within this many sigmas of a maximum, and nearer to it than to others, makes its confidence."""
CEILING = 8.0
"""Highest density that a net can tell, in peaks of lone cells: it would need eight cells on one spot."""
START = -4.0
"""Logit of the density over the highest one where a net gives 0: nearly empty (0.14 peaks), as most images are."""


@dataclass(frozen=True)
class Heatmap(PointRepresentation):
    """The density of cells, in cells a pixel: a Gaussian of sum 1 at each.

    Maps are (1, Y, X) float32: ``density``; with `debris` (2, Y, X), ``debris`` being that of the points of the class
    `cellweave.core.points.DEBRIS`, which are not counted. Every other class is a cell.

    A Gaussian that the border of the image cuts off keeps the sum 1: what is left of it is scaled up (each axis by
    itself), not mirrored, so that its logarithm stays a parabola and its position can be read from the part that is
    left. Without that, an image of n cells would sum to less than n, by half a cell for each cell on the border.

    Sizes are in px of the image that the net sees, which keeps its size: models of heatmaps have the diameter 0.

    Parameters
    ----------
    sigma
        Of the Gaussians, in px; 1 or more. The published choice is 5 of 3 to 7, for cells of about 38 px.
    debris
        Whether dead cells and debris have a map of their own. Otherwise they are background.
    threshold
        A maximum counts when it is over this share of the peak of a lone cell, ``1 / (2 pi sigma^2)``.
    min_distance
        Of pixels within this distance in px only the highest is a maximum.
    min_confidence
        Maxima with a lower confidence, in 0..1, are left out.
    gain
        The density of a net is multiplied by this, 0.5 to 2, so that its counts are right on the mean of images that it
        has not seen.

    References
    ----------
    *Localizing Cells in Phase-Contrast Microscopy Images using Sparse and Noisy Center-Point Annotations* (thesis),
    CellNet. Xie, Noble, Zisserman 2018, *Microscopy cell counting and detection with fully convolutional regression
    networks*.

    Notes
    -----
    The thesis names the method, but its section is empty in the version we read. Sigma, MSE + BCE and the known region
    of 26 px are its author's settings as they were passed on to us; the rest is ours: how borders are treated, the loss
    of densities over one, how maxima are refined, and their confidence.

    Only the borders of whole images scale Gaussians up, and a net sees the same zeros beyond the edge of a crop. So
    nothing is learned within 3 sigma of edges of crops beyond which the image goes on (`reach`).

    ``decode(encode(points))`` gives points back to 0.1 px where they are 4 sigma apart. Nearer neighbours pull maxima
    towards each other (each by 0.23 px at 3 sigma and sigma 5), and below 2 sigma two cells have one maximum; `count`
    is right for any distance.
    """

    sigma: float = 5.0
    debris: bool = False
    threshold: float = 0.3
    min_distance: float = 5.0
    min_confidence: float = 0.0
    gain: float = 1.0

    octaves: ClassVar[float] = 0.0
    sums: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 1 <= self.sigma <= 100:
            raise InputError(f"sigma is {self.sigma}; it must be 1 to 100 px")
        if not 0 < self.threshold <= 1:
            raise InputError(f"threshold is {self.threshold}; it must be above 0 and at most 1")
        if not 0 <= self.min_distance <= 1000:
            raise InputError(f"min_distance is {self.min_distance}; it must be 0 to 1000 px")
        if not 0 <= self.min_confidence < 1:
            raise InputError(f"min_confidence is {self.min_confidence}; it must be 0 or more, and below 1")
        if not 0.5 <= self.gain <= 2:
            raise InputError(f"gain is {self.gain}; it must be 0.5 to 2")

    @property
    def map_names(self) -> tuple[str, ...]:
        """``density``, and ``debris`` where it has a map."""
        return ("density", "debris") if self.debris else ("density",)

    @property
    def unit(self) -> float:
        """The peak of a lone cell, in cells a pixel."""
        return 1 / (2 * math.pi * self.sigma**2)

    @property
    def reach(self) -> float:
        """3 sigma: what is farther off adds next to nothing."""
        return AROUND * self.sigma

    def encode(self, points: Points) -> Maps:
        """Points to maps (1 or 2, Y, X) float32; each map's sum is the number of its points.

        Raises
        ------
        InputError
            When the points do not tell the shape of their image.
        """
        from cellweave.core.points import DEBRIS

        if points.shape is None:
            raise InputError("the points do not tell the shape of their image; give Points(..., shape=(height, width))")
        maps = np.empty((len(self.map_names), *points.shape), np.float32)
        for one, part in zip(maps, (points.cells, points.of(DEBRIS)), strict=False):
            _kernels.gaussians(np.array(part.positions), self.sigma, CUT * self.sigma, one)
        return maps

    def targets(self, points: Points) -> Maps:
        """The maps in peaks of lone cells, so that a lone cell's is 1: numbers that float16 holds well."""
        return self.encode(points) / np.float32(self.unit)

    def loss(self, output: NetOutput, target: torch.Tensor) -> torch.Tensor:
        """``MSE + c * BCE``, means over the known pixels and the maps; 0 where nothing is known.

        With h the density of the output in peaks of lone cells, t that of `target` and c = `CEILING`, MSE is that of h,
        and BCE compares h / c with t / c. Densities add up where cells are close, so that a cross-entropy of h itself
        would not do. Both errors are least on average where h is the mean of t: what the net is unsure about, it
        counts in part. Times c, BCE pulls at an output near 0 just as it would with c = 1.
        """
        target, known = split_known(target)
        logits = self._logits(output)
        squared = (CEILING * torch.sigmoid(logits) - target) ** 2
        share = (target / CEILING).clamp(max=1)
        entropy = CEILING * F.binary_cross_entropy_with_logits(logits, share, reduction="none")
        return known_mean(squared + entropy, known)

    def from_output(self, output: NetOutput) -> torch.Tensor:
        """Outputs (B, 1 or 2, Y, X) to densities: ``c * sigmoid(y + s)`` peaks of lone cells (`CEILING`, `START`).

        That of cells is multiplied by `gain`. No density is negative, and none is exactly 0.

        Raises
        ------
        InputError
            When the net makes another number of maps.
        """
        densities = CEILING * self.unit * torch.sigmoid(self._logits(output))
        densities[:, 0] *= self.gain
        return densities

    def _logits(self, output: NetOutput) -> torch.Tensor:
        maps, n = output.maps.float(), len(self.map_names)
        if maps.shape[1] != n:
            raise InputError(
                f"the net makes {maps.shape[1]} maps; this heatmap has {n}: {', '.join(self.map_names)} (out_maps={n})"
            )
        return maps + START

    def transform(self, maps: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        """Densities over ``|det(matrix)|``: cells that are spread over more pixels stay as many."""
        matrix = matrix.to(maps)
        area = (matrix[:, 0, 0] * matrix[:, 1, 1] - matrix[:, 0, 1] * matrix[:, 1, 0]).abs()
        return maps / area[:, None, None, None]

    def rescale(self, maps: Maps, zoom: float) -> Maps:
        """Densities of an image that was enlarged by `zoom`."""
        return maps / np.float32(zoom**2)

    def count(self, maps: Maps) -> float:
        """Number of cells: the sum of the density, without debris. Values that are not finite count as 0."""
        return float(self._checked(maps)[0].sum(dtype=np.float64))

    def decode(self, maps: Maps) -> Points:
        """The local maxima of the maps, the cells first and each class by rows, with positions finer than a pixel.

        The position is that of the peak of a Gaussian through the maximum and two pixels beside it along each axis. The
        confidence is the sum of the density within 3 sigma of it and nearer to it than to other maxima, at most 1: a
        lone cell has 1, each half of a cell that was found twice has a half. Maxima depend only on what is within
        `min_distance` (and confidences on 6 sigma), so that any tiles with that much overlap give the same points.

        Raises
        ------
        InputError
            When `maps` has another shape.
        """
        from cellweave.core.points import DEBRIS, LIVE, Points

        maps = self._checked(maps)
        positions = [self._maxima(one) for one in maps]
        confidence = [self._confidence(one, at) for one, at in zip(maps, positions, strict=True)]
        kept = [values >= self.min_confidence for values in confidence]
        positions, confidence = ([a[k] for a, k in zip(part, kept, strict=True)] for part in (positions, confidence))
        classes = np.repeat((LIVE, DEBRIS)[: len(maps)], [len(at) for at in positions])
        shape = (maps.shape[1], maps.shape[2])
        return Points(np.concatenate(positions), classes, np.concatenate(confidence), shape if all(shape) else None)

    def _checked(self, maps: Maps) -> Maps:
        """The maps, contiguous, with 0 where they are not finite."""
        maps, n = np.ascontiguousarray(maps, dtype=np.float32), len(self.map_names)
        if maps.ndim != 3 or maps.shape[0] != n:
            raise InputError(f"maps have shape {maps.shape}; those of this heatmap are ({n}, Y, X)")
        if not np.isfinite(maps.sum(dtype=np.float64)):
            maps = np.where(np.isfinite(maps), maps, np.float32(0))
        return maps

    def _maxima(self, density: NDArray[np.float32]) -> Positions:
        """(N, 2) positions of the maxima, by rows."""
        found = np.empty(density.shape, np.uint8)
        _kernels.local_maxima(density, self.threshold * self.unit, self.min_distance, found)
        pixels = np.stack(np.unravel_index(np.flatnonzero(found), density.shape), axis=1)
        step = max(1, round(self.sigma / 2))  # wider than a pixel: noise moves the peak less
        return np.stack([_peaks(density, pixels, axis, step) for axis in (0, 1)], axis=1)

    def _confidence(self, density: NDArray[np.float32], positions: Positions) -> NDArray[np.float64]:
        sums = np.empty(len(positions))
        _kernels.sums_around(density, positions, AROUND * self.sigma, sums)
        return np.clip(sums / -math.expm1(-(AROUND**2) / 2), 0, 1)


def _peaks(density: NDArray[np.float32], pixels: NDArray[np.intp], axis: int, step: int) -> NDArray[np.float64]:
    """(N,) where along an axis the Gaussian through three pixels, `step` apart, has its peak.

    The middle one is the maximum itself or, near the border, the pixel next to it that has both others on the image.
    Where there is no such Gaussian, it is the maximum.
    """
    at, length = pixels[:, axis], density.shape[axis]
    step = min(step, (length - 1) // 2)
    if step == 0:
        return at.astype(np.float64)
    middle = np.clip(at, step, length - 1 - step)
    where = [pixels[:, 0], pixels[:, 1]]
    logs = np.empty((3, len(at)))
    for k, offset in enumerate((-step, 0, step)):
        where[axis] = middle + offset
        logs[k] = np.log(np.maximum(density[where[0], where[1]], np.finfo(np.float32).tiny), dtype=np.float64)
    bend = logs[0] - 2 * logs[1] + logs[2]
    shift = step * (logs[0] - logs[2]) / (2 * np.where(bend < 0, bend, -np.inf))
    peak = np.where(bend < 0, middle + shift, at)
    return np.clip(peak, np.maximum(at - 1.0, -0.5), np.minimum(at + 1.0, length - 0.5 - 1e-6))


def known_region(
    points: Points, background: NDArray[np.bool_] | None, shape: tuple[int, int], radius: float = 26.0
) -> NDArray[np.bool_]:
    """Where a sparse annotation tells something: (Y, X) bool.

    That is within `radius` px of a point of any class, and where someone marked background: elsewhere there may be
    cells that nobody clicked, and a loss must not teach that there are none.

    Parameters
    ----------
    points
        What was marked; clicks on background belong to them, too.
    background
        (Y, X) where there is no cell, or None.
    shape
        (Y, X) of the image.
    radius
        In px; the published choice is 26.

    Raises
    ------
    InputError
        When `background` has another shape, or the radius is negative.
    """
    if background is not None and background.shape != tuple(shape):
        raise InputError(f"the background is {background.shape}, the image {tuple(shape)}; they must be the same size")
    if not 0 <= radius < math.inf:
        raise InputError(f"radius is {radius}; it must be 0 px or more")
    height, width = shape
    edges = np.zeros(height * (width + 1), np.int32)  # along a row: disks that begin less disks that end
    y, x = points.positions.T
    for row in (np.ceil(y - radius) + k for k in range(math.floor(2 * radius) + 1)):
        half = radius**2 - (row - y) ** 2
        crossed = (half >= 0) & (row >= 0) & (row < height)
        at, middle, half = row[crossed].astype(np.int64) * (width + 1), x[crossed], np.sqrt(half[crossed])
        np.add.at(edges, at + np.clip(np.ceil(middle - half), 0, width).astype(np.int64), 1)
        np.add.at(edges, at + np.clip(np.floor(middle + half) + 1, 0, width).astype(np.int64), -1)
    known = edges.reshape(height, width + 1).cumsum(axis=1)[:, :width] > 0
    return known if background is None else known | background.astype(bool)
