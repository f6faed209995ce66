"""Reliability curves: equal to a count by hand, and right where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellweave.core.errors import InputError
from cellweave.metrics import match, reliability

OBJECTS = st.lists(
    st.tuples(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0])), st.booleans()), max_size=40
)


@given(OBJECTS, st.integers(1, 12))
def test_equals_a_count_by_hand(objects: list[tuple[float, bool]], bins: int) -> None:
    found = reliability([c for c, _ in objects], [m for _, m in objects], bins)
    error = 0.0
    for k in range(bins):
        low, high = float(found.edges[k]), float(found.edges[k + 1])
        inside = [(c, m) for c, m in objects if low <= c < high or (k == bins - 1 and c == 1)]
        assert found.counts[k] == len(inside)
        if not inside:
            assert math.isnan(found.confidence[k])
            assert math.isnan(found.matched[k])
            continue
        confidence, share = sum(c for c, _ in inside) / len(inside), sum(m for _, m in inside) / len(inside)
        assert found.confidence[k] == pytest.approx(confidence)
        assert found.matched[k] == pytest.approx(share)
        error += abs(confidence - share) * len(inside) / len(objects)
    assert found.counts.sum() == len(objects)
    np.testing.assert_allclose(found.edges, np.arange(bins + 1) / bins)
    assert found.expected_calibration_error == pytest.approx(error)


@given(OBJECTS, st.randoms(use_true_random=False))
def test_the_order_of_objects_does_not_matter(objects: list[tuple[float, bool]], random: object) -> None:
    shuffled = list(objects)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    a, b = (reliability([c for c, _ in some], [m for _, m in some]) for some in (objects, shuffled))
    assert np.array_equal(a.counts, b.counts)
    assert a.expected_calibration_error == pytest.approx(b.expected_calibration_error)


def test_sure_and_right_has_no_error_sure_and_wrong_has_all() -> None:
    assert reliability([1, 1, 0], [True, True, False]).expected_calibration_error == 0
    assert reliability([1, 1, 0], [False, False, True]).expected_calibration_error == 1
    assert reliability([0.8] * 5, [1, 1, 1, 1, 0]).expected_calibration_error == pytest.approx(0, abs=1e-12)


def test_no_object_no_error() -> None:
    found = reliability([], [])
    assert found.expected_calibration_error == 0
    assert found.counts.sum() == 0


def test_true_probabilities_are_reliable() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(100_000)
    found = reliability(probability, rng.random(100_000) < probability)
    deviation = np.sqrt(found.confidence * (1 - found.confidence) / found.counts)
    assert (np.abs(found.confidence - found.matched) < 4 * deviation).all()


def test_with_what_match_tells() -> None:
    truth = np.zeros((8, 20), np.int32)
    truth[1:7, 1:7], truth[1:7, 10:16] = 1, 2
    predicted = np.zeros_like(truth)
    predicted[1:7, 10:15], predicted[1:3, 1:3] = 1, 2
    matched = np.isin([1, 2], match(truth, predicted).predicted_ids)
    assert matched.tolist() == [True, False]
    assert reliability([0.95, 0.05], matched).expected_calibration_error == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("confidence", "matched", "bins", "told"),
    [
        ([0.5], [True, False], 10, "give one of each"),
        ([[0.5]], [[True]], 10, "give one of each"),
        ([1.5], [True], 10, "between 0 and 1"),
        ([-0.1], [True], 10, "between 0 and 1"),
        ([math.nan], [True], 10, "between 0 and 1"),
        ([0.5], [2], 10, "True or False"),
        ([0.5], [True], 0, "at least 1"),
    ],
)
def test_wrong_input_is_told(confidence: list[float], matched: list[bool], bins: int, told: str) -> None:
    with pytest.raises(InputError, match=told):
        reliability(confidence, matched, bins)
