"""The quality estimate against a loop over pixels and the paper's rule."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from cellweave.predict.quality import LOWEST, MARGIN, choose_branch, fit_thresholds, quality

Probabilities = NDArray[np.float32]
maps = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=9),
    elements=st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.5, 0.0, 1.0, math.nan])),
)
qualities = st.one_of(st.just(0.0), st.floats(0.5, 1, exclude_min=True))


def by_loop(probability: Probabilities) -> float:
    """Eq. 6, pixel by pixel."""
    total, n = 0.0, 0
    for row in probability.tolist():
        for value in row:
            if value > 0.5:
                total, n = total + value, n + 1
    return total / n if n else 0.0


@given(maps)
def test_equals_the_sum_over_pixels(probability: Probabilities) -> None:
    before = probability.copy()
    assert quality(probability) == pytest.approx(by_loop(probability), abs=1e-12)
    np.testing.assert_array_equal(probability, before)


@given(maps)
def test_range_and_order(probability: Probabilities) -> None:
    """0 or in (0.5, 1]; the same for any arrangement of the pixels, and for any background."""
    value = quality(probability)
    assert value == 0 or 0.5 < value <= 1
    assert quality(probability[::-1, ::-1].T) == pytest.approx(value, abs=1e-12)
    assert quality(np.where(probability > 0.5, probability, 0.0)) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0.9, 0.7], [0.1, 0.5]], 0.8),
        ([[0.5, 0.5]], 0.0),
        ([[math.nan, 0.6]], 0.6),
        ([[math.nan, math.nan]], 0.0),
        ([[1]], 1.0),
    ],
)
def test_by_hand(values: Any, expected: float) -> None:
    assert quality(np.array(values)) == pytest.approx(expected)


def test_millions_of_pixels_of_half_precision() -> None:
    """A mean in the map's own type would lose digits, or overflow."""
    probability = np.full((2048, 2048), 0.9, np.float16)
    assert quality(probability) == pytest.approx(float(np.float16(0.9)), rel=1e-9)


@pytest.mark.parametrize(
    ("awf", "omni", "expected"),
    [
        (0.93, 0.95, "awf"),
        (0.93, 0.60, "awf"),
        (0.80, 0.81, "awf"),
        (0.79, 0.60, "omnipose"),
        (0.85, 0.91, "omnipose"),
        (0.85, 0.89, "awf"),
        (0.51, 0.0, "omnipose"),
        (0.0, 0.0, "awf"),  # nobody sees a cell
        (0.0, 0.79, "awf"),
        (0.0, 0.80, "omnipose"),
        # the means of the paper's Table 8, read so that its text fits (a large gap on Omnipose's images): a line is a
        # set of images, one branch's best, of training and of tuning; a column is a model
        (0.939, 0.931, "awf"),
        (0.606, 0.849, "omnipose"),
        (0.900, 0.831, "awf"),
        (0.626, 0.932, "omnipose"),
    ],
)
def test_the_rule(awf: float, omni: float, expected: str) -> None:
    assert choose_branch(awf, omni) == expected


@given(qualities, qualities, st.floats(0, 0.5))
def test_a_surer_branch_is_not_dropped(awf: float, omni: float, more: float) -> None:
    """More confidence of a branch never turns the choice away from it; none at all is another statement."""
    assume(awf > 0)
    if choose_branch(awf, omni) == "omnipose":
        assert choose_branch(awf, min(1.0, omni + more)) == "omnipose"
    else:
        assert choose_branch(min(1.0, awf + more), omni) == "awf"


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), qualities, qualities), min_size=1, max_size=30))
def test_fitted_thresholds_are_never_worse_than_the_papers(rows: list[tuple[float, float, float, float]]) -> None:
    f1, sure = np.array(rows)[:, :2].T, np.array(rows)[:, 2:].T

    def mean(lowest: float, margin: float) -> float:
        chosen = [choose_branch(a, o, lowest=lowest, margin=margin) == "omnipose" for a, o in sure.T]
        return float(np.where(chosen, f1[1], f1[0]).mean())

    fitted = fit_thresholds(f1, sure)
    assert fitted == (LOWEST, MARGIN) or mean(*fitted) > mean(LOWEST, MARGIN) + 0.0019


def test_thresholds_are_found() -> None:
    """Omnipose is the better one just where the watershed branch is less sure than 0.7."""
    rng = np.random.default_rng(0)
    awf = rng.uniform(0.55, 0.95, 200)
    f1 = np.stack([np.full(200, 0.6), np.where(awf < 0.7, 0.9, 0.2)])
    lowest, margin = fit_thresholds(f1, np.stack([awf, awf]))
    assert lowest == pytest.approx(0.7, abs=0.011)
    assert margin == MARGIN
