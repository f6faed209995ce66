"""Calibrating the confidence of objects, after the net and the size model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import CellweaveError
from cellweave.core.progress import report
from cellweave.metrics import Reliability, match, reliability
from cellweave.models import Calibration, Segmenter, fit_calibration
from cellweave.predict import segment
from cellweave.train.samples import Example

IOU = 0.5
FOLDS = 10
FEWEST = 10
"""Objects that match, and objects that do not, under which nothing is fitted."""


@dataclass(frozen=True, eq=False)
class ScoredObjects:
    """Objects that a model found in annotated images.

    Attributes
    ----------
    scores
        (n,) float64 in 0..1: not calibrated.
    matched
        (n,) bool: whether the object matches a true one at IoU 0.5.
    images
        (n,) int64: the place of its image among the examples.
    """

    scores: NDArray[np.float64]
    matched: NDArray[np.bool_]
    images: NDArray[np.int64]


def train_calibration(
    segmenter: Segmenter, examples: Sequence[Example], *, device: str = "auto"
) -> tuple[Calibration | None, list[dict[str, Any]]]:
    """Fit the probability that an object matches to the objects found in images the net did not learn from.

    Each image is segmented twice, with its true diameter and with the estimated one (an image without cells, and by
    a model that finds any size, only once): cells at a wrong diameter are part of what users meet.

    Returns
    -------
    The calibration, and the rows of the reliability table for the model card. The table is cross-validated: the
    confidence of each object comes from a calibration that was fitted to other images. None and no rows when fewer than
    10 objects match or fewer than 10 do not, or all of either are in one image.
    """
    found = score_objects(segmenter, examples, device=device)
    for kind in (found.matched, ~found.matched):
        if np.count_nonzero(kind) < FEWEST or len(np.unique(found.images[kind])) < 2:
            return None, []
    held_out = reliability(cross_validated(found), found.matched)
    return fit_calibration(found.scores, found.matched), reliability_rows(held_out)


def score_objects(segmenter: Segmenter, examples: Sequence[Example], *, device: str = "auto") -> ScoredObjects:
    """Segment each example with the true diameter and the estimated one, and match what is found at IoU 0.5.

    An example with a diameter that its users give is segmented with that one only. Objects that lie mostly where the
    truth is not known are left out.
    """
    bare = segmenter.with_(calibration=None)
    scores, matched, images = [np.zeros(0)], [np.zeros(0, bool)], [np.zeros(0, np.int64)]
    for k, example in enumerate(examples):
        report("calibrating the confidence", k, len(examples), example.name)
        given = example.diameter if segmenter.diameter else 0.0
        for diameter in (given,) if example.given else (given, None) if given else (None,):
            try:
                result = segment(example.image, bare, diameter=diameter, device=device)
                found = example.judged(result.labels)
                pairs = match(example.judged(example.outlines), found, IOU)
            except CellweaveError as error:
                raise type(error)(f"{example.name}: {error}") from error
            ids = np.unique(found[found > 0])
            scores.append(result.confidence[ids - 1].astype(np.float64))
            matched.append(np.isin(ids, pairs.predicted_ids))
            images.append(np.full(len(ids), k))
    report("calibrating the confidence", len(examples), len(examples), "")
    return ScoredObjects(np.concatenate(scores), np.concatenate(matched), np.concatenate(images))


def cross_validated(found: ScoredObjects) -> NDArray[np.float64]:
    """Probability (n,) of each object to match, from calibrations fitted to the objects of other images.

    Images are dealt out in turn to at most ten folds.
    """
    confidence = np.empty(len(found.scores))
    _, image = np.unique(found.images, return_inverse=True)
    fold = image % FOLDS
    for k in np.unique(fold):
        held_out = fold == k
        calibration = fit_calibration(found.scores[~held_out], found.matched[~held_out])
        confidence[held_out] = calibration.apply(found.scores[held_out])
    return confidence


def reliability_rows(found: Reliability) -> list[dict[str, Any]]:
    """The reliability table of a model card: a row a bin that has objects, then one for all of them."""
    rows = [
        {
            "Confidence": f"{found.edges[k]:.1f} to {found.edges[k + 1]:.1f}",
            "Objects": int(n),
            "Mean confidence": round(float(found.confidence[k]), 3),
            "Match at IoU 0.5": round(float(found.matched[k]), 3),
            "Calibration error": round(float(abs(found.confidence[k] - found.matched[k])), 3),
        }
        for k, n in enumerate(found.counts)
        if n
    ]
    weights = found.counts / max(1, found.counts.sum())
    return [
        *rows,
        {
            "Confidence": "all",
            "Objects": int(found.counts.sum()),
            "Mean confidence": round(float(np.nansum(found.confidence * weights)), 3),
            "Match at IoU 0.5": round(float(np.nansum(found.matched * weights)), 3),
            "Calibration error": round(found.expected_calibration_error, 4),
        },
    ]
