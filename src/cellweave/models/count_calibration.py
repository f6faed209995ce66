"""From the spread of a count to an interval that holds the true count as often as it says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

import numpy as np
from scipy.stats import norm, t

from cellweave.core.errors import InputError


@dataclass(frozen=True)
class CountCalibration:
    """How far true counts were from counted ones, in units of the spread that was told (split conformal prediction).

    If a new image is like those that the scores are from, the true count lies in ``count +- factor(level) * spread``
    with a probability of at least `level`, whatever the errors are distributed like. The spread only decides which
    images get wider intervals than others.

    Parameters
    ----------
    scores
        ``|true - counted| / spread`` of images that the net did not learn from, ascending.

    References
    ----------
    Lei et al. 2018, *Distribution-Free Predictive Inference for Regression*, Sec. 2.2 and 5.2 (locally weighted).
    """

    scores: tuple[float, ...]

    def __post_init__(self) -> None:
        scores = np.array(self.scores, np.float64)
        if not (scores.ndim == 1 and len(scores) and np.isfinite(scores).all() and scores.min() >= 0):
            raise InputError("a calibration of counts needs the score of an image or more, finite and not negative")
        object.__setattr__(self, "scores", tuple(sorted(scores.tolist())))

    @classmethod
    def of(cls, true: Iterable[float], counted: Iterable[float], spread: Iterable[float]) -> CountCalibration:
        """From one true count, count and spread (over 0) an image."""
        return cls(tuple(abs(t - c) / s for t, c, s in zip(true, counted, spread, strict=True)))

    @property
    def most(self) -> float:
        """The highest level that so many images can prove: ``n / (n + 1)``."""
        return len(self.scores) / (len(self.scores) + 1)

    def factor(self, level: float) -> float:
        """Half the width of the interval of a level in 0..1 (exclusive), in spreads.

        The ``ceil((n + 1) level)``-th smallest of the n scores. Where n is too small for that (9 images are needed for
        0.9), the errors are taken as normal ones around 0 with the scores as what is known of their size: the quantile
        of Student's t with n degrees of freedom, and at least the highest score.
        """
        check_level(level)
        n = len(self.scores)
        rank = ceil((n + 1) * level - 1e-9)
        if rank <= n:
            return self.scores[rank - 1]
        size = float(np.sqrt(np.mean(np.square(self.scores))))
        return max(self.scores[-1], float(t.ppf((1 + level) / 2, n)) * size)

    def held(self, level: float) -> float:
        """Share of the images whose true count is in the interval that the other images give; NaN of a single one."""
        others = [self.scores[:k] + self.scores[k + 1 :] for k in range(len(self.scores))]
        inside = [
            s <= CountCalibration(rest).factor(level) for s, rest in zip(self.scores, others, strict=True) if rest
        ]
        return float(np.mean(inside)) if inside else float("nan")


def normal_factor(level: float) -> float:
    """Half the width of an interval in standard deviations of a normal error: for counts that nothing calibrates."""
    check_level(level)
    return float(norm.ppf((1 + level) / 2))


def check_level(level: float) -> None:
    """Raise an `InputError` for an interval that holds the truth never or always."""
    if not 0 < level < 1:
        raise InputError(f"interval is {level}; it is the share of true counts inside, between 0 and 1, such as 0.9")
