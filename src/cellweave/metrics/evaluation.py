"""`evaluate`: the figures of agreement between true and predicted labels, for each image and for all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.core.progress import report
from cellweave.metrics.boundary import boundary_counts
from cellweave.metrics.matching import Detection, check_threshold, match_overlap
from cellweave.metrics.overlap import aggregated_jaccard, check_labels, overlap_of_checked

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""IoU thresholds that `evaluate` uses unless told otherwise."""

Row = dict[str, str | int | float | None]


@dataclass(frozen=True)
class Scores:
    """What was counted in one image, or in several together, and the figures that follow.

    Figures of an image with nothing to find in which nothing was found are 1; other zero denominators give 0.

    Attributes
    ----------
    name
        Name of the image, or 'total'.
    n_true, n_predicted
        Objects.
    detections
        One `Detection` a threshold.
    foreground_shared, foreground_union
        Pixels that belong to some object in both images, in at least one.
    aji_intersection, aji_union
        The sums C and U of `aggregated_jaccard`.
    boundary
        Boundary pixels: predicted near true, predicted, true near predicted, true; see `boundary_counts`.
    """

    name: str
    n_true: int
    n_predicted: int
    detections: tuple[Detection, ...]
    foreground_shared: int
    foreground_union: int
    aji_intersection: int
    aji_union: int
    boundary: tuple[int, int, int, int]

    def at(self, iou: float) -> Detection:
        """The counts at one of the thresholds evaluated.

        Raises
        ------
        InputError
            When `iou` is none of them.
        """
        for detection in self.detections:
            if abs(detection.iou - iou) < 1e-9:
                return detection
        raise InputError(f"IoU threshold {iou} was not evaluated; these were: {[d.iou for d in self.detections]}")

    @property
    def jaccard(self) -> float:
        """Foreground pixels shared / foreground pixels of either."""
        return self.foreground_shared / self.foreground_union if self.foreground_union else 1.0

    @property
    def dice(self) -> float:
        """2 x foreground pixels shared / (true + predicted foreground pixels)."""
        return 2 * self.jaccard / (1 + self.jaccard)

    @property
    def aji(self) -> float:
        """Aggregated Jaccard index (Kumar et al., IEEE TMI 2017)."""
        return self.aji_intersection / self.aji_union if self.aji_union else 1.0

    @property
    def boundary_f(self) -> float:
        """Harmonic mean of boundary precision and recall; 1 when neither image has a boundary."""
        predicted_near, predicted, true_near, true = self.boundary
        if predicted == 0 and true == 0:
            return 1.0
        if predicted_near == 0 or true_near == 0:
            return 0.0
        return 2 / (predicted / predicted_near + true / true_near)

    @property
    def count_error(self) -> float | None:
        """|predicted - true| / true objects; 0 where both are none, None where only the true ones are."""
        if self.n_true:
            return abs(self.n_predicted - self.n_true) / self.n_true
        return None if self.n_predicted else 0.0

    def row(self) -> Row:
        """All figures under flat names such as 'f1@0.5'."""
        row: Row = {
            "image": self.name,
            "n_true": self.n_true,
            "n_predicted": self.n_predicted,
            "count_error": self.count_error,
            "jaccard": self.jaccard,
            "dice": self.dice,
            "aji": self.aji,
            "boundary_f": self.boundary_f,
        }
        for d in self.detections:
            row |= {f"tp@{d.iou:g}": d.tp, f"fp@{d.iou:g}": d.fp, f"fn@{d.iou:g}": d.fn}
            row |= {
                f"precision@{d.iou:g}": d.precision,
                f"recall@{d.iou:g}": d.recall,
                f"f1@{d.iou:g}": d.f1,
                f"ap@{d.iou:g}": d.average_precision,
                f"pq@{d.iou:g}": d.panoptic_quality,
                f"mean_matched_iou@{d.iou:g}": d.mean_matched_iou,
            }
        return row


@dataclass(frozen=True)
class Evaluation:
    """Agreement of predicted with true labels, image by image.

    Two summaries: `total` adds the counts of all images before dividing, so that each object weighs the same;
    `mean` averages the images' figures, so that each image weighs the same, as the Cellpose and StarDist
    papers report AP.

    Attributes
    ----------
    images
        `Scores` of each image, all with the same thresholds.
    boundary_tolerance
        Distance in pixels within which boundaries count as equal.
    """

    images: tuple[Scores, ...]
    boundary_tolerance: float

    def __post_init__(self) -> None:
        if not self.images:
            raise InputError("there are no images to evaluate")
        if len({tuple(d.iou for d in scores.detections) for scores in self.images}) > 1:
            raise InputError("the images were evaluated at different IoU thresholds; use the same for all")

    @property
    def thresholds(self) -> tuple[float, ...]:
        return tuple(d.iou for d in self.images[0].detections)

    @cached_property
    def total(self) -> Scores:
        """All images as one: counts are added, then divided."""
        a, b, c, d = np.sum([s.boundary for s in self.images], axis=0).tolist()
        return Scores(
            name="total",
            n_true=sum(s.n_true for s in self.images),
            n_predicted=sum(s.n_predicted for s in self.images),
            detections=tuple(_add(column) for column in zip(*(s.detections for s in self.images), strict=True)),
            foreground_shared=sum(s.foreground_shared for s in self.images),
            foreground_union=sum(s.foreground_union for s in self.images),
            aji_intersection=sum(s.aji_intersection for s in self.images),
            aji_union=sum(s.aji_union for s in self.images),
            boundary=(a, b, c, d),
        )

    @cached_property
    def mean(self) -> Row:
        """Mean over images of every figure, under the names of `Scores.row`.

        Images without a relative count error (objects predicted where there are none) do not enter its mean.
        """
        rows = [scores.row() for scores in self.images]
        mean: Row = {"image": "mean"}
        for key in list(rows[0])[1:]:
            values = [v for row in rows if isinstance(v := row[key], (int, float))]
            mean[key] = float(np.mean(values)) if values else None
        return mean

    def rows(self) -> list[Row]:
        """One dict an image, then those of 'mean' and 'total'."""
        return [*(scores.row() for scores in self.images), dict(self.mean), self.total.row()]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, strings, lists and dicts."""
        *images, mean, total = self.rows()
        return {
            "thresholds": list(self.thresholds),
            "boundary_tolerance_px": self.boundary_tolerance,
            "n_images": len(self.images),
            "total": total,
            "mean": mean,
            "images": images,
        }


def _add(detections: Iterable[Detection]) -> Detection:
    parts = list(detections)
    return Detection(
        iou=parts[0].iou,
        tp=sum(d.tp for d in parts),
        fp=sum(d.fp for d in parts),
        fn=sum(d.fn for d in parts),
        iou_sum=float(sum(d.iou_sum for d in parts)),
    )


def evaluate_image(
    truth: NDArray[Any],
    predicted: NDArray[Any],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    boundary_tolerance: float = 2.0,
    name: str = "",
) -> Scores:
    """Compare the predicted labels of one image with the true ones; see `evaluate`."""
    truth, predicted = check_labels(truth, predicted)
    found = overlap_of_checked(truth, predicted)
    shared = int(found.shared.sum())
    aji_intersection, aji_union = aggregated_jaccard(found)
    matches = [match_overlap(found, check_threshold(iou)) for iou in thresholds]
    return Scores(
        name=name,
        n_true=len(found.truth_ids),
        n_predicted=len(found.predicted_ids),
        detections=tuple(Detection(m.iou, m.tp, m.fp, m.fn, m.iou_sum) for m in matches),
        foreground_shared=shared,
        foreground_union=int(found.truth_areas.sum() + found.predicted_areas.sum()) - shared,
        aji_intersection=aji_intersection,
        aji_union=aji_union,
        boundary=boundary_counts(truth, predicted, boundary_tolerance),
    )


def evaluate(
    truth: NDArray[Any] | Sequence[NDArray[Any]],
    predicted: NDArray[Any] | Sequence[NDArray[Any]],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    boundary_tolerance: float = 2.0,
    names: Sequence[str] = (),
) -> Evaluation:
    """Compare predicted with true labels: detection, overlap, boundaries and counts.

    Parameters
    ----------
    truth, predicted
        A (Y, X) label image each, or sequences of equal length of them, read one after the other; 0 = background.
    thresholds
        IoU at or above which a pair of objects matches; see `match`.
    boundary_tolerance
        Distance in pixels within which boundaries count as equal; see `boundary_counts`.
    names
        One name an image, for the report; 1, 2, ... without.

    Raises
    ------
    InputError
        When there is no image, numbers or shapes of images differ (says which), one is not a label image,
        or a threshold is outside 0..1.
    """
    truths = [truth] if isinstance(truth, np.ndarray) else truth
    predictions = [predicted] if isinstance(predicted, np.ndarray) else predicted
    if len(truths) != len(predictions):
        raise InputError(f"{len(truths)} true and {len(predictions)} predicted label images; give one for each")
    if names and len(names) != len(truths):
        raise InputError(f"{len(names)} names for {len(truths)} images; give one for each")
    names = names or [str(i + 1) for i in range(len(truths))]
    images: list[Scores] = []
    for name, t, p in zip(names, truths, predictions, strict=True):
        report("evaluating", len(images), len(truths), name)
        try:
            scores = evaluate_image(t, p, thresholds=thresholds, boundary_tolerance=boundary_tolerance, name=name)
        except InputError as error:
            raise InputError(f"image {name}: {error}") from error
        images.append(scores)
    report("evaluating", len(images), len(truths), "")
    return Evaluation(tuple(images), boundary_tolerance)
