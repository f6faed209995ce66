"""Calibration: probabilities out of scores, in the same order, right where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.special import expit, logit

from cellweave.core.errors import InputError
from cellweave.metrics import reliability
from cellweave.models import Calibration, fit_calibration

SCORES = arrays(np.float32, st.integers(0, 30), elements=st.floats(0, 1, width=32))
CALIBRATIONS = st.builds(Calibration, st.floats(0, 50), st.floats(-50, 50))


def log_loss(calibration: Calibration, scores: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    z = calibration.slope * logit(scores) + calibration.intercept
    return float(np.mean(np.logaddexp(0, z) - target * z))


@given(CALIBRATIONS, SCORES)
def test_probabilities_in_the_order_of_the_scores(calibration: Calibration, scores: NDArray[np.float32]) -> None:
    before = scores.copy()
    found = calibration.apply(scores)
    assert found.dtype == np.float32
    assert found.shape == scores.shape
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found[np.argsort(scores, kind="stable")]) >= 0).all()
    assert np.array_equal(scores, before)


@given(SCORES)
def test_slope_1_and_intercept_0_change_nothing(scores: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(Calibration().apply(scores), scores, atol=2e-6)


@given(CALIBRATIONS, st.floats(0.001, 0.999))
def test_equals_the_formula(calibration: Calibration, score: float) -> None:
    expected = expit(calibration.slope * logit(score) + calibration.intercept)
    assert calibration.apply([score])[0] == pytest.approx(expected, abs=1e-6)


@given(SCORES.filter(lambda s: len(s) > 0), st.data())
def test_what_is_fitted_keeps_the_order_and_is_never_certain(scores: NDArray[np.float32], data: st.DataObject) -> None:
    matched = np.array(data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores))))
    calibration = fit_calibration(scores, matched)
    assert calibration.slope >= 0
    assert calibration == fit_calibration(scores, matched)  # the same every time
    twice = fit_calibration(scores[::-1], matched[::-1])
    np.testing.assert_allclose(twice.apply(scores), calibration.apply(scores), atol=1e-3)


@pytest.mark.parametrize("matched", [True, False])
def test_a_handful_of_objects_of_one_kind_is_no_certainty(matched: bool) -> None:
    found = fit_calibration([0.5, 0.6, 0.7], [matched] * 3).apply([0.5, 0.6, 0.7])
    np.testing.assert_allclose(found, 0.8 if matched else 0.2, atol=0.02)


@pytest.mark.parametrize("true", [Calibration(2.0, 1.5), Calibration(0.5, -1.0), Calibration(1.0, 0.0)])
def test_finds_the_calibration_that_made_the_data(true: Calibration) -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.02, 0.98, 200_000)
    matched = rng.random(len(scores)) < true.apply(scores)
    found = fit_calibration(scores, matched)
    assert found.slope == pytest.approx(true.slope, abs=0.05)
    assert found.intercept == pytest.approx(true.intercept, abs=0.05)


def test_what_was_fitted_is_reliable_on_other_objects() -> None:
    """Within the error of counting; the scores themselves are not."""
    rng = np.random.default_rng(1)
    scores = rng.beta(4, 2, 40_000)
    matched = rng.random(len(scores)) < expit(2.2 * logit(scores) + 1.5)
    found = fit_calibration(scores[:20_000], matched[:20_000])
    curve = reliability(found.apply(scores[20_000:]), matched[20_000:])
    full = curve.counts > 50
    deviation = np.sqrt(curve.confidence * (1 - curve.confidence) / np.maximum(curve.counts, 1))
    assert (np.abs(curve.confidence - curve.matched)[full] < 4 * deviation[full] + 0.01).all()
    assert curve.expected_calibration_error < 0.01
    assert reliability(scores[20_000:], matched[20_000:]).expected_calibration_error > 0.1


def test_nothing_near_is_more_likely() -> None:
    rng = np.random.default_rng(2)
    scores = rng.uniform(0.01, 0.99, 300)
    matched = rng.random(300) < expit(logit(scores) + 1)
    target = np.where(matched, (matched.sum() + 1) / (matched.sum() + 2), 1 / ((~matched).sum() + 2))
    best = fit_calibration(scores, matched)
    least = log_loss(best, scores, target)
    for ds, di in rng.normal(0, 0.05, (200, 2)):
        other = Calibration(max(0.0, best.slope + ds), best.intercept + di)
        assert log_loss(other, scores, target) >= least - 1e-12


def test_scores_that_say_the_contrary_are_not_turned_round() -> None:
    found = fit_calibration([0.1] * 20 + [0.9] * 20, [True] * 20 + [False] * 20)
    assert found.slope == 0
    np.testing.assert_allclose(found.apply([0, 0.5, 1]), 0.5, atol=1e-4)


@pytest.mark.parametrize(("slope", "intercept"), [(-1, 0), (math.nan, 0), (math.inf, 0), (1, math.nan), (1, math.inf)])
def test_numbers_that_make_no_calibration(slope: float, intercept: float) -> None:
    with pytest.raises(InputError, match="must be finite"):
        Calibration(slope, intercept)


@pytest.mark.parametrize(
    ("scores", "matched", "told"),
    [([], [], "no object"), ([0.5], [], "one of each"), ([1.1], [True], "0 and 1"), ([0.5], [3], "True or False")],
)
def test_wrong_input_is_told(scores: list[float], matched: list[bool], told: str) -> None:
    with pytest.raises(InputError, match=told):
        fit_calibration(scores, matched)
