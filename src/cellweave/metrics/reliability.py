"""Whether confidences mean what they say: of the objects with confidence 0.8, do 80 % match?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellweave.core.errors import InputError


@dataclass(frozen=True, eq=False)
class Reliability:
    """Objects by confidence: how sure the model was of them, and how many of them match the truth.

    Attributes
    ----------
    edges
        (bins + 1,) float64: bin k holds confidences from ``edges[k]`` to below ``edges[k + 1]``, the last one also 1.
    counts
        (bins,) int64: objects in each bin.
    confidence, matched
        (bins,) float64: mean confidence of a bin's objects, and the share of them that match; NaN for an empty bin.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    matched: NDArray[np.float64]

    @property
    def expected_calibration_error(self) -> float:
        """Mean of ``|confidence - matched|`` over bins, weighted by their objects; 0 without any object.

        Naeini, Cooper and Hauskrecht, *Obtaining well calibrated probabilities using Bayesian binning*, AAAI 2015.
        """
        full = self.counts > 0
        gaps = np.abs(self.confidence[full] - self.matched[full])
        return float(gaps @ self.counts[full] / max(1, self.counts.sum()))


def reliability(confidence: ArrayLike, matched: ArrayLike, bins: int = 10) -> Reliability:
    """The reliability curve of confidences, in bins of equal width.

    Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017, Eq. 2 and 3. Their bins include the upper edge,
    ours the lower one, so that confidence 0 has its place.

    Parameters
    ----------
    confidence
        (n,) numbers in 0..1, one an object.
    matched
        (n,) booleans: whether the object matches a true one; ``np.isin(ids, match(truth, labels).predicted_ids)``.
    bins
        Number of bins, at least 1.

    Raises
    ------
    InputError
        When lengths differ, a confidence is outside 0..1, `matched` holds others than 0 and 1, or there is no bin.
    """
    scores, hits = check_scores(confidence, matched)
    if bins < 1:
        raise InputError(f"bins is {bins}; a reliability curve has at least 1")
    edges = np.linspace(0, 1, bins + 1)
    place = np.minimum(np.searchsorted(edges, scores, side="right") - 1, bins - 1)
    counts = np.bincount(place, minlength=bins)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.bincount(place, values, minlength=bins)
        return np.asarray(np.divide(sums, counts, out=np.full(bins, np.nan), where=counts > 0))

    return Reliability(edges, counts.astype(np.int64), mean(scores), mean(hits.astype(np.float64)))


def check_scores(scores: ArrayLike, matched: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores (n,) in 0..1 and whether each object matched, after checking them; see `reliability`."""
    values, hits = np.asarray(scores, np.float64), np.asarray(matched)
    if values.ndim != 1 or values.shape != hits.shape:
        raise InputError(f"scores {values.shape} and matches {hits.shape}: give one of each an object")
    if not ((values >= 0) & (values <= 1)).all():
        raise InputError("scores must be numbers between 0 and 1, without NaN")
    if not np.isin(hits, (0, 1)).all():
        raise InputError("matches must be True or False")
    return values, hits.astype(bool)
