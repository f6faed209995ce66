"""One-to-one matching of predicted to true objects, and the figures of detection that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellweave.core.assignment import assign
from cellweave.core.errors import InputError
from cellweave.metrics.overlap import Indices, Overlap, overlap


@dataclass(frozen=True)
class Detection:
    """How many objects were found at one IoU threshold, in one image or in several together.

    A figure whose denominator is zero is 0, except where there was nothing to find and nothing was found:
    then all of them are 1.

    Attributes
    ----------
    iou
        Threshold: a pair matches when its IoU is at least this.
    tp, fp, fn
        Matched pairs, predicted objects without a partner, true objects without a partner.
    iou_sum
        Sum of the IoU of the matched pairs.
    """

    iou: float
    tp: int
    fp: int
    fn: int
    iou_sum: float

    def _ratio(self, numerator: float, denominator: float) -> float:
        if self.tp + self.fp + self.fn == 0:
            return 1.0
        return numerator / denominator if denominator else 0.0

    @property
    def precision(self) -> float:
        """TP / (TP + FP): the part of the predicted objects that are right."""
        return self._ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """TP / (TP + FN): the part of the true objects that were found."""
        return self._ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """TP / (TP + FP/2 + FN/2): the harmonic mean of precision and recall."""
        return self._ratio(self.tp, self.tp + (self.fp + self.fn) / 2)

    @property
    def average_precision(self) -> float:
        """TP / (TP + FP + FN), as the Cellpose and StarDist papers define it."""
        return self._ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def panoptic_quality(self) -> float:
        """Sum of matched IoU / (TP + FP/2 + FN/2) (Kirillov et al., CVPR 2019, Eq. 1)."""
        return self._ratio(self.iou_sum, self.tp + (self.fp + self.fn) / 2)

    @property
    def mean_matched_iou(self) -> float:
        """Mean IoU of the matched pairs: the segmentation quality of Kirillov et al."""
        return self._ratio(self.iou_sum, self.tp)


@dataclass(frozen=True, eq=False)
class Match(Detection):
    """`Detection` in one image, with the matched pairs.

    Attributes
    ----------
    truth_ids, predicted_ids
        (tp,) int64: ids of the matched objects, in the order of `truth_ids`.
    ious
        (tp,) float64: their IoU.
    """

    truth_ids: Indices
    predicted_ids: Indices
    ious: NDArray[np.float64]


def match(truth: NDArray[Any], predicted: NDArray[Any], iou: float = 0.5) -> Match:
    """Match predicted to true objects one to one.

    A pair may match when its IoU is at least `iou`. Of all one-to-one matchings the one with most pairs is
    taken, and of those the one with the highest sum of IoU. TP is therefore that of the Cellpose and StarDist
    definition (an optimal assignment that counts pairs with IoU >= threshold); those let pairs below the
    threshold weigh in the choice between matchings of equal size, which cannot change TP.

    Parameters
    ----------
    truth, predicted
        (Y, X) label images of the same picture, 0 = background; ids need not be sequential.
    iou
        Threshold, above 0 and at most 1.

    Raises
    ------
    InputError
        When one is not a label image, the shapes differ, or the threshold is outside 0..1.
    """
    return match_overlap(overlap(truth, predicted), check_threshold(iou))


def check_threshold(iou: float) -> float:
    """`iou` as a float, when it is a possible threshold."""
    if not 0 < iou <= 1:
        raise InputError(f"IoU threshold {iou} is outside 0..1; 0.5 is the usual choice")
    return float(iou)


def match_overlap(found: Overlap, iou: float) -> Match:
    """`match` on an overlap table, which many thresholds can share."""
    pairs = np.flatnonzero(found.ious >= iou)
    pairs = pairs[assign(found.rows[pairs], found.columns[pairs], found.ious[pairs])]
    return Match(
        iou=iou,
        tp=len(pairs),
        fp=len(found.predicted_ids) - len(pairs),
        fn=len(found.truth_ids) - len(pairs),
        iou_sum=float(found.ious[pairs].sum()),
        truth_ids=found.truth_ids[found.rows[pairs]],
        predicted_ids=found.predicted_ids[found.columns[pairs]],
        ious=found.ious[pairs],
    )
