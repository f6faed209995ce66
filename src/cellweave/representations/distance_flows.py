"""Distance flows: instances as the gradient of a smooth distance to their border, for cells of any shape (Omnipose)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from cellweave import _kernels
from cellweave.core.errors import InputError
from cellweave.core.labels import Labels, as_labels, relabel
from cellweave.core.output import NetOutput
from cellweave.representations.base import Maps, Representation
from cellweave.representations.flows import bounding_boxes, flow_loss, flow_maps, turned

CORE = 3
"""Path ends within sqrt(5) / 2 px, itself one of them, that make an end the core of a cluster."""


@dataclass(frozen=True)
class DistanceFlows(Representation):
    """Flows up the distance to the border of each cell, and the probabilities of cells and of their border pixels.

    Pixels go towards the middle line of their cell, not to one point: long, curved and forked cells stay whole. Maps
    are (4, Y, X) float32: the flow ``dy``, ``dx``, of length 1 but for the middle lines; ``probability`` and
    ``boundary`` in 0..1. Boundary pixels are those of a cell that have one of four neighbours outside of it.

    Parameters
    ----------
    probability_threshold
        Pixels above it belong to cells.
    steps
        Steps of a pixel along the flow; step t is ``1 / (1 + t)`` px long, so that 5 make 2.3 px, where the flow has
        the length 1, and elsewhere as long as the fourth root of its length says: flows that a net predicts are short
        where cells touch, of all places.
    border_evidence
        Clusters of path ends whose pixels touch are one cell where the maps of these pixels say less for a border:
        their squared difference from the maps of one cell, over that and their difference from the maps of two, which
        is 0 where they are those of one cell and 1 where they are those of two. 0 joins none.
    min_size
        Objects with fewer pixels are dropped, unless they join another.

    References
    ----------
    Cutler et al. 2022, *Omnipose: a high-precision morphology-independent solution for bacterial cell segmentation*,
    Nature Methods 19.
    *Cell Segmenter: A General Framework for Multi-modality Cell Segmentation*, NeurIPS 2022 challenge, Sec. 2.2.2.

    Notes
    -----
    As the challenge paper says, the foreground is cut from the probability, which takes the place of Omnipose's
    distance map. Deviations from Cutler et al.: see `smooth_distance`; gradients shorter than 1/2, on middle lines,
    keep their proportion (a flow is the gradient over its length or 1/2, whichever is larger), since their direction
    says little; short flows are followed farther than their length (Omnipose gives all the length 1, and then weighs
    them by their divergence); path ends are clustered on a grid of half pixels, within sqrt(5) / 2 px; paths have few
    steps, enough to part neighbours; clusters that touch without a border, as at the neck of a cell, are joined;
    Omnipose's package counts pixels with one of eight neighbours outside to the boundary.
    """

    probability_threshold: float = 0.5
    steps: int = 5
    border_evidence: float = 0.3
    min_size: int = 15

    map_names: ClassVar[tuple[str, ...]] = ("flow_y", "flow_x", "probability", "boundary")
    most_pixels: ClassVar[float] = 2**29 - 1

    def __post_init__(self) -> None:
        for name in ("probability_threshold", "border_evidence"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
        if self.min_size < 0 or self.steps < 1:
            raise InputError("min_size must not be negative, steps must be at least 1")

    def encode(self, labels: Labels) -> Maps:
        """Labels (Y, X) to maps (4, Y, X); see `distance_flows`."""
        labels, ids = relabel(np.ascontiguousarray(as_labels(labels)))
        maps = np.zeros((4, *labels.shape), np.float32)
        _kernels.distance_maps(labels, bounding_boxes(labels, len(ids)), maps)
        return maps

    def loss(self, output: NetOutput, target: torch.Tensor) -> torch.Tensor:
        """``|y01 - 5 flow|^2 + BCE(sigmoid(y2), inside) + BCE(sigmoid(y3), boundary)``, each a mean over known pixels.

        The terms that Cutler et al. add for the flow's divergence and paths are left out.
        """
        return flow_loss(output, target)

    def from_output(self, output: NetOutput) -> torch.Tensor:
        """Outputs (B, 4, Y, X): flows times 5 and two logits, to maps."""
        return flow_maps(output)

    def transform(self, maps: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        """Turn the flow vectors by `matrix`; their length is kept."""
        return turned(maps, matrix)

    def decode_scored(self, maps: Maps) -> tuple[Labels, NDArray[np.float32]]:
        """Follow the flows of pixels above the threshold a few steps; pixels that end close to each other are a cell.

        The score of an object is the mean probability of its pixels, times the length of their flows over that of the
        flows of its own shape, times ``exp(-flow error)``, the mean squared length of the difference of both.
        Pixels with a NaN or an infinite value in any map are background.

        Raises
        ------
        InputError
            When `maps` is not (4, Y, X), or has more than `most_pixels`.
        """
        maps = np.ascontiguousarray(maps, dtype=np.float32)
        if maps.ndim != 3 or maps.shape[0] != 4:
            raise InputError(
                f"maps have shape {maps.shape}; distance flows are (4, Y, X): flow_y, flow_x, probability, boundary"
            )
        self.check_size(*maps.shape[1:])
        with np.errstate(invalid="ignore", over="ignore"):
            finite = np.isfinite(maps.sum())  # sees every NaN and infinity, without an array as large as the maps
        if not finite:
            maps = np.where(np.isfinite(maps).all(axis=0), maps, np.float32(0))
        labels, ends = np.empty(maps.shape[1:], np.int32), np.empty(maps.shape[1:], np.int32)
        _kernels.suppressed_track(maps, self.probability_threshold, self.steps, ends)
        n = _kernels.cluster_ends(ends, CORE, labels)
        del ends
        if self.border_evidence > 0:
            _kernels.join_clusters(maps, self.probability_threshold, self.min_size, self.border_evidence, n, labels)
        areas = np.bincount(labels.ravel(), minlength=n + 1)[1:]
        kept = _kernels.renumber(labels, (areas >= self.min_size).astype(np.uint8), np.empty(n, np.int32))

        scores = np.zeros((kept, 3))
        _kernels.distance_flow_errors(labels, bounding_boxes(labels, kept), maps, scores)
        score = np.exp(-scores[:, 0]) * scores[:, 1] * scores[:, 2]
        return labels, np.clip(score, 0, 1).astype(np.float32)


def smooth_distance(labels: Labels) -> NDArray[np.float32]:
    """Smooth distance (Y, X) float32 in px from each pixel to the border of its object; 0 in the background.

    It solves ``|grad d| = 1`` in each object, d = 0 outside (Cutler et al. 2022, Methods). A pixel's value is
    ``sqrt(u * v)``: u is the upwind solution on the cross of its upright neighbours (h = 1), v the one on the cross of
    its diagonal neighbours (h = sqrt(2)). With a and b the lower of the two values along either line of a cross, it is
    ``(a + b + sqrt(2 h^2 - (a - b)^2)) / 2`` where ``|a - b| < h`` and ``min(a, b) + h`` elsewhere. Starting from 0,
    all pixels are updated at once until none changes by more than 1e-4.

    The equations are restated from what is known of Omnipose and from what its package gives, not compared with the
    paper line by line. Deviations: the limit of ``|a - b|`` is h, where both solutions meet, and not sqrt(2) h; at the
    border of the image an object goes on as in a mirror, so that cutting a cell makes no new border, unless the whole
    image is one object. Away from the border of the image the result is 0.001 px higher than that of Omnipose 1.1.4 on
    average, and up to 0.2 px; the limit explains the small differences, not the largest.

    Parameters
    ----------
    labels
        (Y, X) integers, 0 = background; any ids, each one object.
    """
    labels, ids = relabel(np.ascontiguousarray(as_labels(labels)))
    distance = np.zeros(labels.shape, np.float32)
    _kernels.smooth_distance(labels, bounding_boxes(labels, len(ids)), distance)
    return distance


def distance_flows(labels: Labels) -> NDArray[np.float32]:
    """Flows (2, Y, X) float32 up the `smooth_distance` of each object; zero in the background.

    The gradient (central differences, neighbours outside of the object being 0) over its length, or over 1/2 where it
    is shorter: unit flows, but short ones on middle lines.
    """
    return DistanceFlows().encode(labels)[:2]
