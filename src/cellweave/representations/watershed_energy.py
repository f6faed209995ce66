"""Watershed energy: how deep pixels lie in their cells, flooded from the centers of detected boxes (Cell Segmenter)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from cellweave import _kernels
from cellweave.core.errors import InputError
from cellweave.core.labels import Labels, as_labels, relabel
from cellweave.core.output import NetOutput
from cellweave.core.watershed import watershed
from cellweave.representations.base import Maps, Representation
from cellweave.representations.boxes import decode_boxes, detection_loss, non_maximum_suppression, true_boxes
from cellweave.representations.known import known_mean, split_known

SEGMENTATION_WEIGHT = 0.1
"""beta of Eq. 5. The published code has 0.01, for means over pixels as here, and trains for 80 hours; with it the
segmentation is a fortieth of the loss. Markers can be found without boxes (by the second step), cells not without
their energy, so that shorter trainings weigh it more."""
LOSS_SCALE = 32.0
"""The published code multiplies the whole loss by its batch size, 32; a constant does not depend on the batch."""
SEED_PIXELS = 5
"""A piece of what the first flood has left seeds the second when it has more pixels than this."""
CODES = 2047
"""Objects have the codes 1 to 2047, which float16 holds exactly, and then from 1 again."""


class Decoded(NamedTuple):
    """The steps of a decoding, for pictures of them.

    Parameters
    ----------
    boxes, scores
        (N, 4) float32 ``y0, x0, y1, x1`` in px and (N,) float32: all candidates.
    kept
        Indices of the boxes that non-maximum suppression left, the best first.
    centers
        (K, 2) int64: row and column of the markers of the first flood, in the order of `kept`.
    markers
        (Y, X) int32, what the last flood started from: the regions that the first flood gave to the centers have the
        ids 1..K, the seeds that were found in the rest K + 1 and higher.
    labels, confidence
        As `WatershedEnergy.decode_scored` gives them.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    kept: NDArray[np.int64]
    centers: NDArray[np.int64]
    markers: Labels
    labels: Labels
    confidence: NDArray[np.float32]


@dataclass(frozen=True)
class WatershedEnergy(Representation):
    """Boxes of cells, whose centers are markers, and an energy that is flooded from them in two steps.

    Maps are (5, Y, X) float32: ``probability``, the probability that a pixel belongs to a cell; ``energy``, see
    `energy`; and ``score``, ``height``, ``width``, which are 0 but at lone pixels: the pixel that holds the center of a
    box has the box's score, 0..1, and its sides in px.

    Parameters
    ----------
    probability_threshold
        Pixels whose probability is above it belong to cells.
    confidence
        Boxes with a lower score are left out.
    nms_iou
        A box is left out, too, when a better one overlaps it by more than this IoU.
    first
        T1: the first flood starts from centers with at least this energy, and fills the pixels with at least this.
    second
        T2: what the first flood has not reached, has at least this energy and over 5 px, seeds the second.
    two_step
        False leaves the seeds of the second flood out (the one-step watershed of the paper's Table 5).
    largest_dropped
        Objects smaller than a fifth of the mean area are dropped, if they are smaller than this number of px, too; 0
        keeps all. The paper's code does so in grayscale images.

    References
    ----------
    Hu et al. 2022, *Cell Segmenter: A General Framework for Multi-modality Cell Segmentation*, Sec. 2.1-2.3.

    Notes
    -----
    ``decode(encode(labels))`` gives an object back, pixel by pixel, when it is 4-connected and touches no other object,
    and its pixels of energy `first` and more are 4-connected and hold the center of its bounding box: the case of
    disks, ellipses and straight rods. Otherwise:

    - An object whose center is not in there has no marker (bent cells, rings, stars); the second step finds it, once
      for each 4-connected part of energy `second` and more. Objects without such a part, thin ones, are lost.
    - A box center that lies in another object, in a ring's for example, is a false marker there, which splits it. The
      paper names this as its limit.
    - Where objects touch, the rim of the larger one, one pixel wide, goes to the smaller one: its energy rises faster.
    - Small objects are dropped unless `largest_dropped` is 0.

    Deviations from the published code: it divides distances by their median plus 1, the paper (and this) by the median;
    energy counts as 0 outside of the foreground; a piece needs over 5 px, as the paper says, not 5; holes are not
    filled. The code's small objects of other images, under 10 px, are left to ``largest_dropped=10``.
    """

    probability_threshold: float = 0.5
    confidence: float = 0.2
    nms_iou: float = 0.6
    first: float = 0.80
    second: float = 1.25
    two_step: bool = True
    largest_dropped: int = 150

    points: ClassVar[int] = 3
    map_names: ClassVar[tuple[str, ...]] = ("probability", "energy", "score", "height", "width")
    most_pixels: ClassVar[float] = 2**31 - 1

    def __post_init__(self) -> None:
        for name in ("probability_threshold", "confidence", "nms_iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
        if not 0 < self.first <= self.second < np.inf:
            raise InputError(
                f"first is {self.first} and second is {self.second}; these energies must be positive, and second not "
                "below first (the energy of a cell has the median 1)"
            )
        if self.largest_dropped < 0:
            raise InputError(
                f"largest_dropped is {self.largest_dropped}; it must be 0 (keep all) or a number of pixels"
            )

    def encode(self, labels: Labels) -> Maps:
        """Labels (Y, X) to maps (5, Y, X): each object has a box of score 1.

        Where the boxes of several objects have their center in one pixel, the object that owns the pixel comes first,
        and then the larger one.
        """
        labels, ids = relabel(np.ascontiguousarray(as_labels(labels)))
        maps = np.zeros((5, *labels.shape), np.float32)
        maps[0] = labels > 0
        _kernels.energy(labels, len(ids), maps[1])
        boxes = np.empty((len(ids), 4), np.int32)
        _kernels.bounding_boxes(labels, boxes)
        sides = boxes[:, 2:] - boxes[:, :2]
        y, x = ((boxes[:, :2] + boxes[:, 2:]) // 2).T
        own = labels[y, x] == np.arange(1, len(ids) + 1)
        order = np.lexsort((sides[:, 1], sides[:, 0], own))  # of several values for a pixel the last one stays
        y, x, sides = y[order], x[order], sides[order]
        maps[2, y, x] = 1
        maps[3:, y, x] = sides.T
        return maps

    def targets(self, labels: Labels) -> Maps:
        """Labels (Y, X) to (3, Y, X): ``energy``, ``code`` and ``size``; `true_boxes` makes boxes of the last two.

        The code of an object is its number modulo 2047, objects being numbered as a scan by rows meets them, so that
        objects of one code are far apart; ``size`` is the square root of the object's area.
        """
        labels, ids = relabel(np.ascontiguousarray(as_labels(labels)))
        n = len(ids)
        _kernels.renumber(labels, np.ones(n, np.uint8), np.empty(n, np.int32))
        maps = np.empty((3, *labels.shape), np.float32)
        _kernels.energy(labels, n, maps[0])
        codes = np.concatenate([[0], 1 + np.arange(n) % CODES]).astype(np.float32)
        sizes = np.sqrt(np.bincount(labels.ravel(), minlength=n + 1)).astype(np.float32)
        sizes[0] = 0
        maps[1], maps[2] = codes[labels], sizes[labels]
        return maps

    def loss(self, output: NetOutput, target: torch.Tensor) -> torch.Tensor:
        """``32 * (detection + 0.1 * (BCE(foreground) + MSE(energy)))``, the last two means over pixels (Eq. 1 and 5).

        `target` is (B, 3, Y, X) as of `targets`; `detection_loss` is Eq. 2-4. Means are over known pixels; which boxes
        and anchors are left out where the truth is not known, `true_boxes` and `detection_loss` say.

        Raises
        ------
        InputError
            When the net gives no boxes, or another number of maps.
        """
        maps, boxes = self._parts(output)
        target, known = split_known(target)
        inside = (target[:, 1] > 0).float()
        foreground = known_mean(F.binary_cross_entropy_with_logits(maps[:, 0], inside, reduction="none"), known)
        segmentation = foreground + known_mean(F.mse_loss(maps[:, 1], target[:, 0], reduction="none"), known)
        detection = detection_loss(boxes, true_boxes(target[:, 1], target[:, 2], known), known=known)
        return LOSS_SCALE * (detection + SEGMENTATION_WEIGHT * segmentation)

    def from_output(self, output: NetOutput) -> torch.Tensor:
        """A logit, an energy and the numbers of the anchors to maps (B, 5, Y, X).

        Every anchor's box is there, whatever its score, if its center lies in the image; of several in one pixel the
        one of the highest score.

        Raises
        ------
        InputError
            When the net gives no boxes, or another number of maps.
        """
        maps, boxes = self._parts(output)
        points = _lone_points(*decode_boxes(boxes), maps.shape[2], maps.shape[3])
        return torch.cat([torch.sigmoid(maps[:, :1]), maps[:, 1:], points], dim=1)

    def _parts(self, output: NetOutput) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps (B, 2, Y, X) and boxes of an output, checked, as float32."""
        if output.boxes is None:
            raise InputError("the net gives no boxes; watershed energy needs one that detects, AnchorUNet(boxes=True)")
        if output.maps.shape[1] != 2:
            raise InputError(
                f"the net makes {output.maps.shape[1]} maps; watershed energy needs foreground and energy (out_maps=2)"
            )
        return output.maps.float(), output.boxes.float()

    def transform(self, maps: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        """Sizes of targets (B, 3, Y, X) grow with the square root of ``|det(matrix)|``; energy and code stay.

        Of maps (B, 5, Y, X) heights and widths become those of the box around the moved box.
        """
        matrix = matrix.to(maps)
        if maps.shape[1] == 3:
            area = (matrix[:, 0, 0] * matrix[:, 1, 1] - matrix[:, 0, 1] * matrix[:, 1, 0]).abs()
            zoom = area.sqrt()[:, None, None, None]
            return torch.cat([maps[:, :2], maps[:, 2:] * zoom], dim=1)
        sides = torch.einsum("bij,bjyx->biyx", matrix.abs(), maps[:, 3:])
        return torch.cat([maps[:, :3], sides], dim=1)

    def rescale(self, maps: Maps, zoom: float) -> Maps:
        """Sides of boxes of an image that was enlarged by `zoom`."""
        maps = maps.copy()
        maps[3:] *= np.float32(zoom)
        return maps

    def decode_scored(self, maps: Maps) -> tuple[Labels, NDArray[np.float32]]:
        """Two floods: from the centers of boxes over the high energy, and from what is left over the foreground.

        The confidence of an object is the mean probability of its pixels; times the best score of the boxes that have
        their center in it, or the lowest that counts (`confidence`) where there is none; times
        ``exp(-energy error)``, the mean squared difference between the energy predicted and that of the object's own
        shape, which counts as 0 for objects at the border of the image. Ids follow a scan by rows.
        Pixels with a NaN or an infinite value in the first two maps are background; boxes with one are left out.

        Raises
        ------
        InputError
            When `maps` is not (5, Y, X), or has more than `most_pixels`.
        """
        decoded = self.decode_steps(maps)
        return decoded.labels, decoded.confidence

    def decode_steps(self, maps: Maps) -> Decoded:
        """As `decode_scored`, with what lies between."""
        maps = np.ascontiguousarray(maps, dtype=np.float32)
        if maps.ndim != 3 or maps.shape[0] != 5:
            raise InputError(
                f"maps have shape {maps.shape}; watershed energy is (5, Y, X): foreground, energy, score, height, width"
            )
        self.check_size(*maps.shape[1:])
        probability, predicted = _finite(maps[0]), _finite(maps[1])
        inside = probability > self.probability_threshold
        landscape = np.where(inside, -predicted, np.float32(0))

        boxes, scores, pixels = self._candidates(maps)
        kept = non_maximum_suppression(boxes, scores, iou=self.nms_iou)
        high = landscape <= -np.float32(self.first)
        at = pixels[kept]
        at = at[high.ravel()[at]]
        n = len(at)
        markers = np.zeros(inside.shape, np.int32)
        markers.ravel()[at] = np.arange(1, n + 1, dtype=np.int32)
        markers = watershed(landscape, markers, high)
        if self.two_step:
            n += _kernels.add_seeds(landscape, -self.second, SEED_PIXELS, n + 1, markers)
        del high
        labels = watershed(landscape, markers, inside)

        own = np.empty(labels.shape, np.float32)
        _kernels.energy(labels, n, own)
        sums = np.empty((n, 3))
        _kernels.energy_sums(labels, probability, predicted, own, sums)
        area = sums[:, 0]
        keep = area >= min(area.mean() / 5, self.largest_dropped) if n else np.zeros(0, bool)
        old = np.empty(n, np.int32)
        sums = sums[old[: _kernels.renumber(labels, keep.astype(np.uint8), old)] - 1]
        confidence = self._confidence(labels, sums, pixels, scores)
        centers = np.stack(np.unravel_index(at, labels.shape), axis=1)
        return Decoded(boxes, scores, kept, centers, markers, labels, confidence)

    def _candidates(self, maps: Maps) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """Boxes (N, 4), scores (N,) and flat pixels (N,) of the candidates."""
        pixels = np.flatnonzero(maps[2] >= max(self.confidence, np.finfo(np.float32).tiny))
        score, *sides = maps[2:].reshape(3, -1)[:, pixels]
        usable = np.isfinite(score) & np.isfinite(sides).all(axis=0) & (np.min(sides, axis=0, initial=np.inf) > 0)
        pixels, score, half = pixels[usable], score[usable], np.stack(sides, axis=1)[usable] / 2
        middle = np.stack(np.unravel_index(pixels, maps.shape[1:]), axis=1).astype(np.float32) + np.float32(0.5)
        return np.concatenate([middle - half, middle + half], axis=1), np.minimum(score, 1), pixels

    def _confidence(
        self, labels: Labels, sums: NDArray[np.float64], pixels: NDArray[np.int64], scores: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Confidence of objects 1..n from what `energy_sums` gives of them."""
        probability, error = sums[:, 1] / sums[:, 0], sums[:, 2] / sums[:, 0]
        best = np.full(len(sums) + 1, self.confidence)
        np.maximum.at(best, labels.ravel()[pixels], scores)
        for line in (labels[:1], labels[-1:], labels[:, :1], labels[:, -1:]):
            error[line[line > 0] - 1] = 0
        return np.asarray(np.clip(probability * best[1:] * np.exp(-error), 0, 1), np.float32)


def energy(labels: Labels) -> NDArray[np.float32]:
    """Distance of each pixel to the border of its object over the median in that object; (Y, X) float32, 0 outside.

    The distance is the Euclidean one between the middles of the pixel and of the nearest pixel of another object or of
    the background, so that it is at least 1 px. Divided by the median (of two middle values their mean), energies
    range from 0 to about 2 in cells of any size (Hu et al. 2022, Sec. 2.1).

    The border of the image is no border of an object, as in the published code, unless the whole image is one object:
    the cell goes on there, and its crops have the energy of the whole cell, not a rim that the net cannot see.

    Parameters
    ----------
    labels
        (Y, X) integers, 0 = background; any ids, each one object.

    Raises
    ------
    InputError
        When `labels` is no label image.
    """
    labels, ids = relabel(np.ascontiguousarray(as_labels(labels)))
    result = np.empty(labels.shape, np.float32)
    _kernels.energy(labels, len(ids), result)
    return result


def _lone_points(boxes: torch.Tensor, scores: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Score, height and width (B, 3, Y, X) of boxes (B, N, 4) at the pixels of their centers, 0 elsewhere.

    Of boxes with one pixel that of the highest score stays, the first of equal ones, on any device.
    """
    batch, n = scores.shape
    y, x = torch.floor((boxes[..., :2] + boxes[..., 2:]) / 2).long().unbind(-1)
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    pixel = torch.where(inside, y * width + x, height * width)  # one pixel more, for what lies outside
    best = scores.new_zeros(batch, height * width + 1).scatter_reduce_(1, pixel, scores, "amax")
    index = torch.arange(n, device=scores.device).expand(batch, n)
    index = torch.where(scores == best.gather(1, pixel), index, n)
    first = torch.full_like(best, n, dtype=torch.long).scatter_reduce_(1, pixel, index, "amin")[:, :-1]
    values = torch.cat([scores[..., None], boxes[..., 2:] - boxes[..., :2]], dim=2)
    values = torch.cat([values, values.new_zeros(batch, 1, 3)], dim=1)  # for pixels without a box
    return values.gather(1, first[..., None].expand(-1, -1, 3)).movedim(2, 1).reshape(batch, 3, height, width)


def _finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """NaN and infinity become 0; a copy is made only where there are some."""
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(values.sum()):  # sees every one of them
            return values
    return np.where(np.isfinite(values), values, np.float32(0))
