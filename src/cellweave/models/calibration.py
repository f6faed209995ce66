"""From the score of an object to the probability that it matches a true one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

from cellweave.core.errors import InputError
from cellweave.metrics.reliability import check_scores

LEAST = 1e-6
"""Scores count as at least this and at most 1 minus this: the logarithm of the odds must stay finite."""


@dataclass(frozen=True)
class Calibration:
    """``probability = 1 / (1 + exp(-(slope * logit(score) + intercept)))`` (Platt scaling).

    Two numbers: it never changes the order of objects, and a few wrong objects are enough to fit it. Slope 1 with
    intercept 0 changes nothing.

    Parameters
    ----------
    slope
        Not negative: a higher score never means a lower probability.
    intercept
        Logarithm of the odds of an object with score 0.5.

    References
    ----------
    Platt 1999, *Probabilistic Outputs for Support Vector Machines*. As our scores lie in 0..1, the logistic function is
    that of their log odds, as in Guo et al. 2017, *On Calibration of Modern Neural Networks*, Sec. 4.1.
    """

    slope: float = 1.0
    intercept: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.slope) and self.slope >= 0 and np.isfinite(self.intercept)):
            raise InputError(
                f"slope is {self.slope} and intercept {self.intercept}; both must be finite, the slope not negative"
            )

    def apply(self, scores: ArrayLike) -> NDArray[np.float32]:
        """Scores (n,) in 0..1 to probabilities (n,) float32 in 0..1, in the same order."""
        return _sigmoid(self.slope * _logit(np.asarray(scores, np.float64)) + self.intercept).astype(np.float32)


def fit_calibration(scores: ArrayLike, matched: ArrayLike) -> Calibration:
    """The calibration under which what happened was most likely.

    As Platt proposes, an object that matched counts as a probability of ``(n1 + 1) / (n1 + 2)`` instead of 1, one that
    did not as ``1 / (n0 + 2)`` instead of 0, n1 and n0 being their numbers: few objects never make it certain.

    Parameters
    ----------
    scores
        (n,) numbers in 0..1, one an object: what `Representation.decode_scored` gives.
    matched
        (n,) booleans: whether the object matches a true one.

    Raises
    ------
    InputError
        Without any object, when lengths differ, or a score is outside 0..1.
    """
    values, hits = check_scores(scores, matched)
    if not len(values):
        raise InputError("there is no object to fit a calibration to")
    x, n1 = _logit(values), int(hits.sum())
    target = np.where(hits, (n1 + 1) / (n1 + 2), 1 / (len(hits) - n1 + 2))

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = parameters[0] * x + parameters[1]
        error = _sigmoid(z) - target
        return float(np.mean(np.logaddexp(0, z) - target * z)), np.array([np.mean(error * x), np.mean(error)])

    found = minimize(
        loss,
        np.array([1.0, 0.0]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None), (None, None)],
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1000},
    )
    return Calibration(float(found.x[0]), float(found.x[1]))


def _logit(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.clip(scores, LEAST, 1 - LEAST)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def _sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * z)))
