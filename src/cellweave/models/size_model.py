"""Cell diameter from the style vector, by ridge regression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError


@dataclass(frozen=True)
class SizeModel:
    """``log(diameter) = mean_log_diameter + (style - mean_style) @ coefficients``.

    Parameters
    ----------
    coefficients, mean_style
        (S,) float64.
    mean_log_diameter
        Mean of the natural logarithm of the training diameters in px.

    References
    ----------
    Challenge paper (Byun et al. 2022), Eq. 4. It regresses the diameter; like the peer's package, this regresses its
    logarithm, so that an error is a factor, the same for small and large cells.
    """

    coefficients: NDArray[np.float64]
    mean_style: NDArray[np.float64]
    mean_log_diameter: float

    def predict(self, style: NDArray[np.floating]) -> float:
        """Diameter in px for one style vector (S,)."""
        centred = np.asarray(style, np.float64) - self.mean_style
        return float(np.exp(self.mean_log_diameter + centred @ self.coefficients))


FOLDS = 5


def fit_size_model(
    styles: NDArray[np.floating],
    diameters: NDArray[np.floating],
    *,
    groups: NDArray[np.integer] | None = None,
    ridge: float | None = None,
) -> SizeModel:
    """Solve ``(X X^T + r I) A = X Y`` with X, Y the centred styles and log diameters.

    Parameters
    ----------
    styles
        (N, S) unit style vectors.
    diameters
        (N,) in px, positive.
    groups
        (N,) integers, the same for views of one image; None: all are of different images.
    ridge
        r, in units of the mean eigenvalue of X X^T. Without it, the value between 1e-6 and 10 with the least mean
        error in five-fold cross-validation that never splits a group; 0.01 where there are fewer than five groups.

    Raises
    ------
    InputError
        With fewer than two pairs, other shapes, numbers that are not finite, or a diameter that is not positive.
    """
    x, sizes = np.asarray(styles, np.float64), np.asarray(diameters, np.float64)
    usable = np.isfinite(x).all() and np.isfinite(sizes).all() and (sizes > 0).all()
    if x.ndim != 2 or sizes.shape != x.shape[:1] or len(x) < 2 or not usable:
        raise InputError(
            f"styles {x.shape} and diameters {sizes.shape}: need two or more pairs of finite numbers, diameters above 0"
        )
    if groups is not None and np.shape(groups) != sizes.shape:
        raise InputError(f"groups {np.shape(groups)} and diameters {sizes.shape}: need a group for each diameter")
    group = np.arange(len(x)) if groups is None else np.unique(groups, return_inverse=True)[1]
    y = np.log(sizes)
    if ridge is None:
        ridge = 1e-2 if group.max() + 1 < FOLDS else _best_ridge(x, y, group % FOLDS)
    return SizeModel(_solve(x, y, ridge), x.mean(axis=0), float(y.mean()))


def _solve(x: NDArray[np.float64], y: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    centred = x - x.mean(axis=0)
    gram = centred.T @ centred
    gram[np.diag_indices_from(gram)] += ridge * max(np.trace(gram) / len(gram), 1e-12)
    return np.asarray(np.linalg.solve(gram, centred.T @ (y - y.mean())))


def _best_ridge(x: NDArray[np.float64], y: NDArray[np.float64], fold: NDArray[np.integer]) -> float:
    """The ridge with the least mean absolute error of samples that were left out of the fit, a fold at a time."""
    candidates = 10.0 ** np.arange(-6, 1.5, 0.5)
    errors = np.zeros(len(candidates))
    for k in range(FOLDS):
        fit, rest = fold != k, fold == k
        for i, ridge in enumerate(candidates):
            predicted = (x[rest] - x[fit].mean(axis=0)) @ _solve(x[fit], y[fit], float(ridge)) + y[fit].mean()
            errors[i] += np.abs(predicted - y[rest]).sum()
    return float(candidates[int(np.argmin(errors))])
