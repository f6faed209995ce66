"""STAPLE: the true foreground and how well each rater finds it, both estimated from the raters alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellweave.core.errors import InputError
from cellweave.fusion.patterns import NOT_LESS, Floats, Patterns, Raters, find_patterns

SAME = 1e-7
"""The estimate stands when no sensitivity or specificity changes by more than this, as in SimpleITK's filter."""


@dataclass(frozen=True, eq=False)
class Staple:
    """What `staple` estimates.

    Attributes
    ----------
    probability
        (Y, X) float64 in 0..1: that a pixel is truly foreground.
    sensitivity
        (K,) float64: the part of the true foreground that each rater marks; NaN for missing raters.
    specificity
        (K,) float64: the part of the true background that each rater leaves out; NaN for missing raters.
    iterations
        Rounds of the EM algorithm.
    """

    probability: Floats
    sensitivity: Floats
    specificity: Floats
    iterations: int

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(Y, X): where the probability is over 1/2."""
        return self.probability > 0.5 + NOT_LESS


def staple(labels: Raters, *, weights: ArrayLike | None = None, max_iterations: int = 10_000) -> Staple:
    """STAPLE of K binary segmentations by expectation maximisation.

    With the decisions ``D_ij`` of rater j at pixel i, the prior ``g`` = mean of all decisions, and ``W`` = mean over
    the raters to begin with, it repeats until nothing changes::

        p_j = sum_i W_i D_ij / sum_i W_i                  q_j = sum_i (1 - W_i)(1 - D_ij) / sum_i (1 - W_i)
        a_i = g prod_j p_j^D_ij (1 - p_j)^(1 - D_ij)      b_i = (1 - g) prod_j q_j^(1 - D_ij) (1 - q_j)^D_ij
        W_i = a_i / (a_i + b_i)

    Pixels with the same decisions have the same W, so that the sums run over the combinations of decisions that occur,
    at most ``2^K``, times their counts. This changes nothing but the time.

    Parameters
    ----------
    labels
        K label images or masks (Y, X) of one shape, or (K, Y, X), ids above 0 being foreground; None for a missing
        rater.
    weights
        (K,) numbers, not negative: a rater with weight 2 counts as two that say the same; 0 leaves a rater out.
    max_iterations
        Stop after so many rounds, whether the estimate stands or not.

    Raises
    ------
    InputError
        When no rater is present, one is no label image, the shapes differ, or a weight is negative or not finite.

    References
    ----------
    Warfield, Zou and Wells 2004, *Simultaneous truth and performance level estimation (STAPLE)*, IEEE TMI 23, without
    the Markov random field. Start and end are those of SimpleITK's ``STAPLE``, and so is the result, except where the
    filter gives NaN: a rate over no pixels is 1 here.
    """
    if max_iterations < 1:
        raise InputError(f"max_iterations is {max_iterations}; it must be at least 1")
    patterns = find_patterns(labels, weights, masks=True)
    found, p, q, iterations = estimate(patterns, max_iterations=max_iterations)
    return Staple(patterns.image(found), patterns.of_given(p), patterns.of_given(q), iterations)


def estimate(patterns: Patterns, *, max_iterations: int = 10_000) -> tuple[Floats, Floats, Floats, int]:
    """Probability of each combination (P,), sensitivity and specificity of each present rater (K,), rounds."""
    marked = patterns.labels > 0
    counts, weights = patterns.counts.astype(np.float64), patterns.weights
    inside = marked @ weights / weights.sum()
    outside = ~marked @ weights / weights.sum()
    with np.errstate(divide="ignore"):
        log_prior = np.log(np.array([inside @ counts, outside @ counts]) / max(counts.sum(), 1))
    rates = np.full((2, len(weights)), -np.inf)
    iterations = 0
    while iterations < max_iterations:
        before = rates
        p, not_p = _rates(counts * inside, marked)
        q, not_q = _rates(counts * outside, ~marked)
        rates = np.stack([p, q])
        with np.errstate(divide="ignore"):
            log_p, log_not_p, log_not_q, log_q = np.log([p, not_p, not_q, q])
        true = log_prior[0] + np.where(marked, weights * log_p, weights * log_not_p).sum(axis=1)
        false = log_prior[1] + np.where(marked, weights * log_not_q, weights * log_q).sum(axis=1)
        most = np.maximum(true, false)
        most[np.isneginf(most)] = 0
        inside, outside = np.exp(true - most), np.exp(false - most)
        total = inside + outside
        total[total == 0] = 1
        inside, outside = inside / total, outside / total
        iterations += 1
        if np.abs(rates - before).max(initial=0) <= SAME:
            break
    return inside, rates[0], rates[1], iterations


def _rates(pixels: Floats, right: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Part of the pixels where each rater is right, and the rest; both are sums, as 1 - p has no digits near p = 1."""
    total = pixels.sum()
    if total == 0:
        return np.ones(right.shape[1]), np.zeros(right.shape[1])
    return pixels @ right / total, pixels @ ~right / total
