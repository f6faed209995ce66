"""Star-convex polygons: every pixel says how far the border of its cell is along a number of rays (StarDist)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from cellweave import _kernels
from cellweave.core.errors import InputError
from cellweave.core.labels import Labels, as_labels, relabel
from cellweave.core.output import NetOutput
from cellweave.representations.base import Maps, Representation
from cellweave.representations.known import known_mean, split_known

DISTANCE_UNIT = 10.0
"""Distances in px of one unit of a net's output, so that outputs of order one mean cells of usual size."""
DISTANCE_WEIGHT, BACKGROUND_WEIGHT = 0.2, 1e-4
"""Weights of the distances in the loss, in cells and outside (as StarDist 0.9.2)."""


@dataclass(frozen=True)
class StarConvex(Representation):
    """The probability that a pixel is the middle of a cell, and its distances to the cell's border along rays.

    Maps are (1 + n_rays, Y, X) float32: ``probability`` in 0..1, the distance to the border of the cell over the
    largest such distance in that cell; and the distances in px along the rays. Ray k has the angle
    ``2 * pi * k / n_rays`` from the column axis towards the row axis. Cells must be star-convex, seen from the pixels
    of highest probability: what no ray from there reaches is lost.

    Parameters
    ----------
    n_rays
        Number of rays, 3 or more.
    probability_threshold
        Pixels above it are candidates: each has the polygon of its distances.
    nms_threshold
        A candidate is dropped when a better one that is kept shares more than this part of the area of the smaller of
        both polygons (non-maximum suppression).

    References
    ----------
    Schmidt et al. 2018, *Cell Detection with Star-convex Polygons*, MICCAI.
    Weigert et al. 2020, *Star-convex Polyhedra for 3D Object Detection and Segmentation in Microscopy*, WACV.

    Notes
    -----
    As in StarDist 0.9.2, with its default thresholds: corners of polygons and crossings of their edges are rounded to
    whole pixels before areas are compared. Deviations: shared areas are exact for those corners, where StarDist's
    library misses some crossings that lie less than a pixel apart (under 1 in 1,000 candidates of random scores fare
    differently, none in images like real ones); among equal probabilities the first pixel by rows wins; pixels near
    the border of the image are candidates too; every pixel is one (StarDist's ``grid`` is 1).
    """

    n_rays: int = 32
    probability_threshold: float = 0.5
    nms_threshold: float = 0.4

    def __post_init__(self) -> None:
        if self.n_rays < 3:
            raise InputError(f"n_rays is {self.n_rays}; a polygon needs at least 3")
        for name in ("probability_threshold", "nms_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")

    @property
    def map_names(self) -> tuple[str, ...]:
        """``probability``, then ``distance_0`` and so on."""
        return ("probability", *(f"distance_{k}" for k in range(self.n_rays)))

    def encode(self, labels: Labels) -> Maps:
        """Labels (Y, X) to maps (1 + n_rays, Y, X); see `border_probability` and `star_distances`."""
        labels, ids = relabel(np.ascontiguousarray(as_labels(labels)))
        maps = np.empty((1 + self.n_rays, *labels.shape), np.float32)
        maps[0] = _border_probability(labels, len(ids))
        _kernels.star_distances(labels, maps[1:])
        return maps

    def loss(self, output: NetOutput, target: torch.Tensor) -> torch.Tensor:
        """``BCE(sigmoid(y0), p) + 0.2 * (MAE in cells, weighted by p, + 1e-4 * mean |distance| outside)``.

        p is the probability of `target`; the errors of the distances, in px, are means over the rays (Weigert et al.
        2020, Eq. 2-4, with the weights of StarDist's package, and as there divided by the mean of p). All means over
        pixels are over known ones.
        """
        outputs = output.maps.float()
        target, known = split_known(target)
        probability, distances, predicted = target[:, 0], target[:, 1:], DISTANCE_UNIT * outputs[:, 1:]
        found = known_mean(F.binary_cross_entropy_with_logits(outputs[:, 0], probability, reduction="none"), known)
        error = probability * (predicted - distances).abs().mean(dim=1)  # 0 where unknown, as the probability is
        inside = error.mean() / (probability.mean() + 1e-7)
        outside = known_mean((probability == 0) * predicted.abs().mean(dim=1), known)
        return found + DISTANCE_WEIGHT * (inside + BACKGROUND_WEIGHT * outside)

    def from_output(self, output: NetOutput) -> torch.Tensor:
        """Outputs (B, 1 + n_rays, Y, X): a logit and distances in units of 10 px, to maps; no distance is negative.

        Raises
        ------
        InputError
            When the net makes another number of maps.
        """
        outputs = output.maps.float()
        if outputs.shape[1] != 1 + self.n_rays:
            raise InputError(
                f"the net makes {outputs.shape[1]} maps; {self.n_rays} rays need {1 + self.n_rays} "
                f"(out_maps={1 + self.n_rays})"
            )
        return torch.cat([torch.sigmoid(outputs[:, :1]), (DISTANCE_UNIT * outputs[:, 1:]).clamp(min=0)], dim=1)

    def transform(self, maps: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        """Distances along the rays of the moved image; those between two old rays are interpolated linearly.

        A border point at distance d along u comes to ``d * matrix @ u``. The new ray k, direction v, was the old
        direction ``w = inverse(matrix) @ v``, so that its distance is that of the old ray w over ``|w|``: lengths
        scale with the zoom of `matrix`. Flips and quarter turns only change the order of rays (of a multiple of 4).
        """
        weights = torch.from_numpy(_mix_of_rays(matrix.detach().cpu().double().numpy(), self.n_rays)).to(maps)
        return torch.cat([maps[:, :1], torch.einsum("bkl,blyx->bkyx", weights, maps[:, 1:])], dim=1)

    def rescale(self, maps: Maps, zoom: float) -> Maps:
        """Distances of an image that was enlarged by `zoom`."""
        maps = maps.copy()
        maps[1:] *= np.float32(zoom)
        return maps

    def decode_scored(self, maps: Maps) -> tuple[Labels, NDArray[np.float32]]:
        """Polygons of the pixels above the threshold, the best first, without those that overlap better ones.

        Where polygons overlap, the better one keeps the pixels; ids follow the probability, the highest first, and
        the confidence is the probability. Polygons that lie under others wholly are dropped. Pixels with a NaN or an
        infinite value in any map are background; distances end at the diagonal of the image.

        Raises
        ------
        InputError
            When `maps` is not (1 + n_rays, Y, X).
        """
        maps = np.asarray(maps, dtype=np.float32)
        if maps.ndim != 3 or maps.shape[0] != 1 + self.n_rays:
            raise InputError(
                f"maps have shape {maps.shape}; star-convex maps of {self.n_rays} rays are "
                f"({1 + self.n_rays}, Y, X): probability and distances"
            )
        labels = np.empty(maps.shape[1:], np.int32)
        points, distances, probability = self._candidates(maps)
        keep = np.empty(len(points), np.uint8)
        _kernels.star_nms(points, distances, self.nms_threshold, keep)
        kept = keep.view(bool)
        _kernels.star_paint(points[kept], distances[kept], labels)
        labels, ids = relabel(labels)
        return labels, np.clip(probability[kept][ids - 1], 0, 1)

    def _candidates(self, maps: Maps) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
        """Positions (N, 2), distances (N, n_rays) and probability (N,) of the candidates, the best first."""
        ys, xs = np.nonzero(maps[0] > self.probability_threshold)
        order = np.argsort(-maps[0, ys, xs], kind="stable")
        values = maps[:, ys[order], xs[order]]
        finite = np.isfinite(values).all(axis=0)
        ys, xs, values = ys[order][finite], xs[order][finite], values[:, finite]
        distances = np.clip(values[1:].T, 0, np.hypot(*maps.shape[1:]), dtype=np.float32)
        return np.stack([ys, xs], axis=1).astype(np.int32), np.ascontiguousarray(distances), values[0]


def border_probability(labels: Labels) -> NDArray[np.float32]:
    """Distance of each pixel to the border of its object, over the largest one in that object; (Y, X), 0 to 1.

    The border of the image is no border of an object, unless the whole image is one object.
    """
    labels, ids = relabel(as_labels(labels))
    return _border_probability(labels, len(ids))


def star_distances(labels: Labels, *, n_rays: int = 32) -> NDArray[np.float32]:
    """Distance in px (n_rays, Y, X) from each pixel to the border of its object along rays; 0 in the background.

    A ray moves by steps of 1 px until the nearest pixel is of another object or outside of the image, and ends where it
    is half a pixel (along its main axis) before that pixel's middle.
    """
    labels = np.ascontiguousarray(as_labels(labels))
    distances = np.empty((n_rays, *labels.shape), np.float32)
    _kernels.star_distances(labels, distances)
    return distances


def _border_probability(labels: Labels, n: int) -> NDArray[np.float32]:
    if labels.size == 0:
        return np.zeros(labels.shape, np.float32)
    alone = bool(labels.flat[0] > 0 and (labels == labels.flat[0]).all())
    import edt  # not at the top: training from shards runs where it is not installed

    distance = edt.edt(labels, black_border=alone)
    largest = np.zeros(n + 1, np.float32)
    np.maximum.at(largest, labels.ravel(), distance.ravel())
    return np.asarray(distance / (largest[labels] + np.float32(1e-10)), np.float32)


def _mix_of_rays(matrices: NDArray[np.float64], n_rays: int) -> NDArray[np.float64]:
    """(B, n_rays, n_rays): each new distance as a sum of old ones, for matrices (B, 2, 2) that move (dy, dx)."""
    angles = 2 * np.pi * np.arange(n_rays) / n_rays
    old = np.linalg.inv(matrices) @ np.stack([np.sin(angles), np.cos(angles)])
    position = np.arctan2(old[:, 0], old[:, 1]) * n_rays / (2 * np.pi)
    whole = np.round(position)
    position = np.where(np.abs(position - whole) < 1e-4, whole, position)  # exact for flips and quarter turns
    first = np.floor(position).astype(np.int64)
    part, length = position - first, np.hypot(old[:, 0], old[:, 1])
    mix = np.zeros((len(matrices), n_rays, n_rays))
    batch, rays = np.ogrid[: len(matrices), :n_rays]
    mix[batch, rays, first % n_rays] += (1 - part) / length
    mix[batch, rays, (first + 1) % n_rays] += part / length
    return mix
