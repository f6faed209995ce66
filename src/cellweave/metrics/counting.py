"""How well cells were located and counted: found against true points, for each image and for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellweave.core.assignment import Indices
from cellweave.core.errors import InputError
from cellweave.core.points import Points, nearest_pairs

Row = dict[str, str | int | float | None]

RADIUS = 12.0
"""Largest distance in px of a found from a true point, unless told otherwise."""


@dataclass(frozen=True)
class PointDetection:
    """How many points were found within one radius, in one image or in several together.

    A figure whose denominator is zero is 0, except where there was nothing to find and nothing was found: then
    precision, recall and F1 are 1.

    Attributes
    ----------
    radius
        Largest distance of a matched pair in px.
    tp, fp, fn
        Matched pairs, found points without a partner, true points without a partner.
    distance_sum
        Sum of the distances of the matched pairs in px.
    """

    radius: float
    tp: int
    fp: int
    fn: int
    distance_sum: float

    def _ratio(self, denominator: float) -> float:
        if self.tp + self.fp + self.fn == 0:
            return 1.0
        return self.tp / denominator if denominator else 0.0

    @property
    def precision(self) -> float:
        """TP / (TP + FP): the part of the found points that are right."""
        return self._ratio(self.tp + self.fp)

    @property
    def recall(self) -> float:
        """TP / (TP + FN): the part of the true points that were found."""
        return self._ratio(self.tp + self.fn)

    @property
    def f1(self) -> float:
        """TP / (TP + FP/2 + FN/2): the harmonic mean of precision and recall."""
        return self._ratio(self.tp + (self.fp + self.fn) / 2)

    @property
    def mean_distance(self) -> float:
        """Mean distance of the matched pairs in px; 0 without pairs."""
        return self.distance_sum / self.tp if self.tp else 0.0


@dataclass(frozen=True, eq=False)
class PointMatch(PointDetection):
    """`PointDetection` in one image, with the matched pairs.

    Attributes
    ----------
    truth, found
        (tp,) int64: indices of the matched points, in the order of `truth`.
    distances
        (tp,) float64: their distances in px.
    """

    truth: Indices
    found: Indices
    distances: NDArray[np.float64]


def match_points(truth: Points | ArrayLike, found: Points | ArrayLike, *, radius: float = RADIUS) -> PointMatch:
    """Match found to true points one to one.

    A pair may match when its distance is at most `radius`. Of all one-to-one matchings the one with most pairs is
    taken, and of those the one with the least sum of distances. Classes play no part.

    Parameters
    ----------
    truth, found
        `Points`, or (N, 2) arrays of row and column in px.
    radius
        In px.

    Raises
    ------
    InputError
        When an array is not (N, 2), the images differ in size, or the radius is not positive.
    """
    truth, found = _points(truth), _points(found)
    if truth.shape and found.shape and truth.shape != found.shape:
        raise InputError(
            f"the true points are on an image of {truth.shape[0]} x {truth.shape[1]} px, the found points on one of "
            f"{found.shape[0]} x {found.shape[1]} px; give points of the same image"
        )
    i, j, distances = nearest_pairs(truth.positions, found.positions, radius)
    return PointMatch(
        radius=float(radius),
        tp=len(i),
        fp=len(found) - len(i),
        fn=len(truth) - len(i),
        distance_sum=float(distances.sum()),
        truth=i,
        found=j,
        distances=distances,
    )


def _points(points: Points | ArrayLike) -> Points:
    return points if isinstance(points, Points) else Points(np.asarray(points, np.float64))


@dataclass(frozen=True)
class CountErrors:
    """How far predicted counts are from true ones, over images.

    Attributes
    ----------
    n_images
        Images.
    mae
        Mean of |predicted - true|.
    rmse
        Root of the mean of (predicted - true)^2.
    mape
        Mean of |predicted - true| / true over the images with cells, as a share (0.1 is 10 %); None without such.
    bias
        Mean of predicted - true: above 0 where too many are counted.
    total_error
        |sum predicted - sum true| / sum true; None where there are no true cells.
    """

    n_images: int
    mae: float
    rmse: float
    mape: float | None
    bias: float
    total_error: float | None

    def row(self) -> Row:
        """The figures by name."""
        return {
            "mae": self.mae,
            "rmse": self.rmse,
            "mape": self.mape,
            "bias": self.bias,
            "total_error": self.total_error,
        }


def count_errors(truth: ArrayLike, predicted: ArrayLike) -> CountErrors:
    """Compare the counts of images.

    Parameters
    ----------
    truth, predicted
        (N,) true and predicted count of each image; predicted ones may be fractions (an integral of a map).

    Raises
    ------
    InputError
        When there is no image, the numbers of images differ, or a count is negative or not finite.
    """
    t, p = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    if t.ndim != 1 or t.shape != p.shape or not len(t):
        raise InputError(f"counts of shapes {t.shape} and {p.shape}; give one true and one predicted count an image")
    if not (np.isfinite(t).all() and np.isfinite(p).all() and (t >= 0).all()):
        raise InputError("counts must be finite, and true counts not negative")
    errors = p - t
    some = t > 0
    return CountErrors(
        n_images=len(t),
        mae=float(np.abs(errors).mean()),
        rmse=float(np.sqrt((errors**2).mean())),
        mape=float((np.abs(errors[some]) / t[some]).mean()) if some.any() else None,
        bias=float(errors.mean()),
        total_error=float(abs(errors.sum()) / t.sum()) if some.any() else None,
    )


@dataclass(frozen=True)
class PointScores:
    """What was found in one image, or in several together.

    Attributes
    ----------
    name
        Name of the image, or 'total'.
    n_true
        True points.
    n_predicted
        Predicted count: the number of found points, or what the method counted in another way.
    detection
        Matched and unmatched points.
    """

    name: str
    n_true: int
    n_predicted: float
    detection: PointDetection

    @property
    def count_error(self) -> float | None:
        """|predicted - true| / true; 0 where both are none, None where only the true ones are."""
        if self.n_true:
            return abs(self.n_predicted - self.n_true) / self.n_true
        return None if self.n_predicted else 0.0

    def row(self) -> Row:
        """All figures by name."""
        d = self.detection
        return {
            "image": self.name,
            "n_true": self.n_true,
            "n_predicted": self.n_predicted,
            "count_error": self.count_error,
            "tp": d.tp,
            "fp": d.fp,
            "fn": d.fn,
            "precision": d.precision,
            "recall": d.recall,
            "f1": d.f1,
            "mean_distance": d.mean_distance,
        }


@dataclass(frozen=True)
class PointEvaluation:
    """Agreement of found with true points, image by image.

    Two summaries: `total` adds the points of all images before dividing, so that each cell weighs the same; `counts`
    are errors of the counts of images, so that each image weighs the same.

    Attributes
    ----------
    images
        `PointScores` of each image, all with the same radius.
    """

    images: tuple[PointScores, ...]

    def __post_init__(self) -> None:
        if not self.images:
            raise InputError("there are no images to evaluate")
        if len({scores.detection.radius for scores in self.images}) > 1:
            raise InputError("the images were evaluated with different radii; use the same for all")

    @property
    def radius(self) -> float:
        """Largest distance of a matched pair in px."""
        return self.images[0].detection.radius

    @cached_property
    def total(self) -> PointScores:
        """All images as one: points are added, then divided."""
        parts = [scores.detection for scores in self.images]
        return PointScores(
            name="total",
            n_true=sum(s.n_true for s in self.images),
            n_predicted=sum(s.n_predicted for s in self.images),
            detection=PointDetection(
                radius=self.radius,
                tp=sum(d.tp for d in parts),
                fp=sum(d.fp for d in parts),
                fn=sum(d.fn for d in parts),
                distance_sum=float(sum(d.distance_sum for d in parts)),
            ),
        )

    @cached_property
    def counts(self) -> CountErrors:
        """Errors of the counts over the images."""
        return count_errors([s.n_true for s in self.images], [s.n_predicted for s in self.images])

    def rows(self) -> list[Row]:
        """One dict an image, then that of 'total'."""
        return [*(scores.row() for scores in self.images), self.total.row()]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, strings, lists and dicts."""
        *images, total = self.rows()
        return {
            "radius_px": self.radius,
            "n_images": len(self.images),
            "total": total,
            "counts": self.counts.row(),
            "images": images,
        }


@dataclass(frozen=True)
class CountEvaluation:
    """Counts of images against true ones, of a method that tells no places.

    Attributes
    ----------
    names
        Of the images.
    truth, predicted
        True and predicted count of each.
    """

    names: tuple[str, ...]
    truth: tuple[int, ...]
    predicted: tuple[float, ...]

    @cached_property
    def counts(self) -> CountErrors:
        """Errors of the counts over the images."""
        return count_errors(self.truth, self.predicted)

    def rows(self) -> list[Row]:
        """One dict an image, then that of 'total'."""
        entries = [
            *zip(self.names, self.truth, self.predicted, strict=True),
            ("total", sum(self.truth), sum(self.predicted)),
        ]
        return [{"image": name, "n_true": true, "n_predicted": counted} for name, true, counted in entries]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, strings, lists and dicts."""
        *images, total = self.rows()
        return {"n_images": len(images), "total": total, "counts": self.counts.row(), "images": images}


def evaluate_points(
    truth: Points | Sequence[Points],
    found: Points | Sequence[Points],
    *,
    radius: float = RADIUS,
    names: Sequence[str] = (),
    counts: Sequence[float] | None = None,
) -> PointEvaluation:
    """Compare found with true points: precision, recall, F1, and the errors of the counts.

    Parameters
    ----------
    truth, found
        `Points` of one image each, or sequences of equal length of them. Pass `points.cells` where debris must not
        count.
    radius
        Largest distance of a pair in px; see `match_points`.
    names
        One name an image, for the report; 1, 2, ... without.
    counts
        Predicted count of each image, where it is not the number of found points (an integral of a map).

    Raises
    ------
    InputError
        When there is no image, numbers of images differ, points are of images of different size, or the radius is not
        positive; says which image.
    """
    truths = [truth] if isinstance(truth, Points) else list(truth)
    founds = [found] if isinstance(found, Points) else list(found)
    if len(truths) != len(founds):
        raise InputError(f"true points of {len(truths)} images and found points of {len(founds)}; give both for each")
    names = names or [str(i + 1) for i in range(len(truths))]
    counts = [len(points) for points in founds] if counts is None else counts
    for what, given in (("names", names), ("counts", counts)):
        if len(given) != len(truths):
            raise InputError(f"{len(given)} {what} for {len(truths)} images; give one for each")
    images: list[PointScores] = []
    for name, t, f, count in zip(names, truths, founds, counts, strict=True):
        try:
            m = match_points(t, f, radius=radius)
        except InputError as error:
            raise InputError(f"image {name}: {error}") from error
        detection = PointDetection(m.radius, m.tp, m.fp, m.fn, m.distance_sum)
        images.append(PointScores(name, len(t), count if isinstance(count, int) else float(count), detection))
    return PointEvaluation(tuple(images))
