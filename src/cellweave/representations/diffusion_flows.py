"""Diffusion flows: instances as a field that leads every pixel to the middle of its cell (Cellpose)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cellweave import _kernels
from cellweave.core.errors import InputError
from cellweave.core.labels import Labels, as_labels, relabel
from cellweave.core.output import NetOutput
from cellweave.representations.base import Maps, Representation
from cellweave.representations.flows import bounding_boxes, flow_loss, flow_maps, turned


@dataclass(frozen=True)
class DiffusionFlows(Representation):
    """Flows from heat simulated inside each cell, and the probability that a pixel belongs to a cell.

    Maps are (3, Y, X) float32: the unit flow ``dy``, ``dx`` in px a step, and ``probability`` in 0..1.

    Parameters
    ----------
    probability_threshold
        Pixels above it belong to cells. (The peer compares logits with 0, which is a probability of 0.5.)
    flow_threshold
        Objects whose predicted flows differ more than this from the flows of their own shape are dropped: mean over
        their pixels of the squared length of the difference. 0 keeps all.
    check_border
        Hold objects that touch the border of the image to `flow_threshold` too, as the peer does. Their middle may lie
        outside of the image, where a net that was trained on crops rightly points, and the flows of the part inside
        say otherwise: of the good cells that the check dropped on our validation images, 99 % touched the border.
    min_size
        Objects with fewer pixels are dropped.
    steps
        Longest path of a pixel, in steps.
    center
        Where the heat enters: ``"mean"``, the inside pixel nearest to the mean position, as the peer's package does;
        or ``"box"``, the one nearest to the middle of the bounding box, as the challenge paper says (its Sec. 2.2).

    References
    ----------
    Stringer et al. 2021, *Cellpose: a generalist algorithm for cellular segmentation*, Nature Methods 18.
    Byun et al. 2022, *Cell Segmentation in Multi-modality High-Resolution Microscopy Images with Cellpose*,
    Sec. 2.2-2.4.

    Notes
    -----
    Deviations from the peer's package, 3.1.1.3: where several pixels that touch are equally near to the center, they
    share the heat, so that mirrored cells get mirrored flows; a pixel's path is followed on its own for 3 px and then
    shares the path of the pixel it stands on; a path ends in the middle of its last step, and ends from -3/4 to 1/4 px
    of a pixel count as its own (the peer: 0 to 1), so that all paths in a small symmetric cell end in one pixel; no
    object is dropped for filling over 40 % of the image; objects at the border of the image are not checked unless
    `check_border` says so; filled holes never take pixels from another object.
    """

    probability_threshold: float = 0.5
    flow_threshold: float = 0.4
    check_border: bool = False
    min_size: int = 15
    steps: int = 200
    center: Literal["mean", "box"] = "mean"

    map_names: ClassVar[tuple[str, ...]] = ("flow_y", "flow_x", "probability")
    most_pixels: ClassVar[float] = 2**31 - 1

    def __post_init__(self) -> None:
        if not 0 <= self.probability_threshold <= 1:
            raise InputError(f"probability_threshold is {self.probability_threshold}; it must be between 0 and 1")
        if not self.flow_threshold >= 0 or self.min_size < 0 or self.steps < 1:
            raise InputError("flow_threshold and min_size must not be negative, steps must be at least 1")
        if self.center not in ("mean", "box"):
            raise InputError(f"center is '{self.center}'; use 'mean' or 'box'")

    def encode(self, labels: Labels) -> Maps:
        """Labels (Y, X) to maps (3, Y, X); see `diffusion_flows`."""
        labels = as_labels(labels)
        maps = np.empty((3, *labels.shape), np.float32)
        maps[:2] = diffusion_flows(labels, center=self.center)
        maps[2] = labels > 0
        return maps

    def loss(self, output: NetOutput, target: torch.Tensor) -> torch.Tensor:
        """``|y01 - 5 flow|^2 + BCE(sigmoid(y2), inside)``, each a mean over known pixels (challenge paper, Eq. 3)."""
        return flow_loss(output, target)

    def from_output(self, output: NetOutput) -> torch.Tensor:
        """Outputs (B, 3, Y, X): flows times 5 and a logit, to maps."""
        return flow_maps(output)

    def transform(self, maps: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        """Turn the flow vectors by `matrix`; their length is kept."""
        return turned(maps, matrix)

    def decode_scored(self, maps: Maps) -> tuple[Labels, NDArray[np.float32]]:
        """Follow the flows of pixels above the threshold and number the places where they meet.

        The score of an object is the mean probability of its pixels, times the mean length of their flows (where the
        flows of its own shape have one), times ``exp(-flow error)``, the error counting as 0 where it is not checked.
        A net in doubt between two directions predicts a short flow: on our validation images the length alone tells
        objects that match the truth from others better than the probability or the flow error.
        Pixels with a NaN or an infinite value in any map are background.

        Raises
        ------
        InputError
            When `maps` is not (3, Y, X), or has more than `most_pixels`.
        """
        maps = np.ascontiguousarray(maps, dtype=np.float32)
        if maps.ndim != 3 or maps.shape[0] != 3:
            raise InputError(
                f"maps have shape {maps.shape}; diffusion flows are (3, Y, X): flow_y, flow_x, probability"
            )
        self.check_size(*maps.shape[1:])
        with np.errstate(invalid="ignore", over="ignore"):
            finite = np.isfinite(maps.sum())  # sees every NaN and infinity, without an array as large as the maps
        if not finite:
            maps = np.where(np.isfinite(maps).all(axis=0), maps, np.float32(0))
        labels = np.empty(maps.shape[1:], np.int32)
        ends = np.empty(maps.shape[1:], np.int32)
        _kernels.track(maps, self.probability_threshold, self.steps, ends)
        n = _kernels.cluster(ends, max(0, min(10, self.min_size - 1)), labels)
        del ends

        scores = self._scores(labels, maps, n)
        keep = np.ones(n, bool) if self.flow_threshold == 0 else scores[:, 0] <= self.flow_threshold
        scores = scores[_renumber(labels, keep)]
        _kernels.fill_holes(labels, bounding_boxes(labels, len(scores)))
        large_enough = np.bincount(labels.ravel(), minlength=len(scores) + 1)[1:] >= self.min_size
        scores = scores[_renumber(labels, large_enough)]
        score = np.exp(-scores[:, 0]) * scores[:, 1] * scores[:, 2]
        return labels, np.clip(score, 0, 1).astype(np.float32)

    def _scores(self, labels: Labels, maps: Maps, n: int) -> NDArray[np.float64]:
        """(n, 3): flow error, 0 where it is not checked, mean probability and mean flow length of objects 1..n."""
        scores, boxes = np.zeros((n, 3)), bounding_boxes(labels, n)
        _kernels.flow_errors(labels, boxes, maps, self.center == "box", scores)
        if not self.check_border:
            cut = (boxes[:, :2] == 0).any(axis=1) | (boxes[:, 2:] == labels.shape).any(axis=1)
            scores[cut, 0] = 0.0
        return scores


def diffusion_flows(labels: Labels, *, center: Literal["mean", "box"] = "mean") -> NDArray[np.float32]:
    """Unit flows (2, Y, X) float32 that lead each pixel of a cell to its middle; zero in the background.

    Heat enters at the center, 1 an iteration; at each iteration a pixel of the cell takes the mean of its 3 x 3
    neighbours, those outside the cell being 0; there are ``2 * (height + width)`` iterations, height and width of the
    cell's box with a border of one pixel. The flow is the gradient of the heat (central differences), normalised.

    Parameters
    ----------
    labels
        (Y, X) integers, 0 = background; any ids, each one object.
    center
        See `DiffusionFlows`.
    """
    labels, ids = relabel(np.ascontiguousarray(labels, dtype=np.int32))
    flows = np.zeros((2, *labels.shape), np.float32)
    _kernels.diffusion_flows(labels, bounding_boxes(labels, len(ids)), center == "box", flows)
    return flows


def _renumber(labels: Labels, keep: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Drop objects in place and number the rest by first appearance; returns the old index of each."""
    old = np.empty(len(keep), np.int32)
    m = _kernels.renumber(labels, keep.astype(np.uint8), old)
    return old[:m].astype(np.int64) - 1
