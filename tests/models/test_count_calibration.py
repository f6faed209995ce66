"""Intervals of counts hold the true count as often as they say, whatever the errors are distributed like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import norm

from cellweave.core.errors import InputError
from cellweave.models import CountCalibration, Segmenter
from cellweave.models.count_calibration import normal_factor

SCORES = st.lists(st.floats(0, 100), min_size=1, max_size=60)
LEVELS = st.floats(0.01, 0.99)
Draw = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]


@given(SCORES, LEVELS)
def test_so_many_scores_are_within_the_factor(scores: list[float], level: float) -> None:
    """Of n scores and a new one, each is as likely to be the k-th: ceil((n + 1) level) of them must be within."""
    factor = CountCalibration(tuple(scores)).factor(level)
    within = np.count_nonzero(np.array(scores) <= factor)
    assert within >= min(len(scores), np.floor((len(scores) + 1) * level))


@given(SCORES, LEVELS, LEVELS)
def test_a_higher_level_is_no_narrower(scores: list[float], one: float, other: float) -> None:
    calibration = CountCalibration(tuple(scores))
    assert calibration.factor(min(one, other)) <= calibration.factor(max(one, other))


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
@pytest.mark.parametrize(
    "draw", [lambda r, s: r.normal(size=s), lambda r, s: r.standard_cauchy(s), lambda r, s: r.exponential(size=s)]
)
def test_intervals_hold_the_truth_as_often_as_they_say(level: float, draw: Draw) -> None:
    rng = np.random.default_rng(0)
    errors = np.abs(draw(rng, (1000, 20)))  # 19 images to calibrate on, one new
    held = [row[-1] <= CountCalibration(tuple(row[:-1])).factor(level) for row in errors]
    assert level - 0.03 < np.mean(held) < level + 0.05 + 0.03  # at most 1 / (n + 1) over the level


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_few_images_give_wide_intervals(n: int) -> None:
    """Fewer than 9 images cannot prove 0.9; normal errors are covered all the same."""
    errors = np.abs(np.random.default_rng(n).normal(0, 3, (800, n + 1)))
    factors = [CountCalibration(tuple(row[:-1])).factor(0.9) for row in errors]
    assert np.mean(errors[:, -1] <= factors) > 0.87
    assert CountCalibration((1.0,) * n).most < 0.9
    assert CountCalibration((1.0,) * n).factor(0.9) > CountCalibration((1.0,) * 9).factor(0.9) == 1


def test_the_share_held_is_cross_validated() -> None:
    calibration = CountCalibration((1.0, 1.5, 2.0, 50.0))
    assert calibration.held(0.5) == 0.5, "the factors are 2, 2, 1.5 and 1.5"
    assert np.isnan(CountCalibration((1.0,)).held(0.9))
    rng = np.random.default_rng(0)
    shares = [CountCalibration(tuple(np.abs(rng.standard_cauchy(30)))).held(0.9) for _ in range(30)]
    assert 0.88 < np.mean(shares) < 0.95


def test_scores_are_errors_in_spreads() -> None:
    calibration = CountCalibration.of([10, 20, 30], [12, 20, 27], [1, 5, 2])
    assert calibration.scores == (0, 1.5, 2)


def test_without_calibration_errors_are_taken_as_normal() -> None:
    for level in (0.5, 0.9, 0.99):
        assert norm.cdf(normal_factor(level)) - norm.cdf(-normal_factor(level)) == pytest.approx(level)


@pytest.mark.parametrize("scores", [(), (-1.0,), (float("nan"),), (1.0, float("inf"))])
def test_scores_are_told_when_wrong(scores: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="score"):
        CountCalibration(scores)


@pytest.mark.parametrize("level", [0, 1, -0.1, 90, float("nan")])
def test_levels_are_shares(level: float) -> None:
    for factor in (CountCalibration((1.0,)).factor, normal_factor):
        with pytest.raises(InputError, match="between 0 and 1"):
            factor(level)


def test_a_model_keeps_it(tiny_model: Segmenter, tmp_path: Path) -> None:
    calibration = CountCalibration((0.25, 1 / 3, 2.0))
    tiny_model.with_(count_calibration=calibration).save(tmp_path / "m")
    assert Segmenter.load(tmp_path / "m").count_calibration == calibration
    tiny_model.save(tmp_path / "m")
    assert Segmenter.load(tmp_path / "m").count_calibration is None
