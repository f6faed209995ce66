"""Gaussians, local maxima and the sums around them equal their slow twins, on any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from cellweave import _kernels

Map = NDArray[np.float32]
Positions = NDArray[np.float64]

SHAPES = st.tuples(st.integers(1, 30), st.integers(1, 30))
LARGE = (150, 40)
"""Three bands of rows."""


def gaussians(positions: Positions, shape: tuple[int, int], sigma: float, reach: float, threads: int = 0) -> Map:
    result = np.full(shape, -7, np.float32)
    _kernels.gaussians(positions, sigma, reach, result, threads)
    return result


def slow_gaussians(positions: Positions, shape: tuple[int, int], sigma: float, reach: float) -> Map:
    result = np.zeros(shape)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    for y, x in positions:
        one = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * sigma**2))
        one[(abs(rows - y) > reach) | (abs(columns - x) > reach)] = 0
        if one.any():
            result += one / one.sum()
    return result.astype(np.float32)


def local_maxima(values: Map, threshold: float, distance: float, threads: int = 0) -> NDArray[np.uint8]:
    found = np.full(values.shape, 7, np.uint8)
    _kernels.local_maxima(values, threshold, distance, found, threads)
    return found


def slow_maxima(values: Map, threshold: float, distance: float) -> NDArray[np.bool_]:
    """A pixel is one when it comes first of all within the distance, ordered by value and then by rows."""
    result = values > threshold
    rows, columns = np.mgrid[: values.shape[0], : values.shape[1]]
    for y, x in zip(*np.nonzero(result), strict=True):
        near = (rows - y) ** 2 + (columns - x) ** 2 <= distance**2
        first = np.argmax(np.where(near, values, -np.inf))  # the first by rows of the highest
        result[y, x] = first == y * values.shape[1] + x
    return np.asarray(result)


def sums_around(values: Map, positions: Positions, reach: float, threads: int = 0) -> NDArray[np.float64]:
    sums = np.full(len(positions), -7.0)
    _kernels.sums_around(values, positions, reach, sums, threads)
    return sums


def slow_sums(values: Map, positions: Positions, reach: float) -> NDArray[np.float64]:
    rows, columns = np.mgrid[: values.shape[0], : values.shape[1]]
    squared = np.array([(rows - y) ** 2 + (columns - x) ** 2 for y, x in positions])
    owner = np.where(squared.min(axis=0) <= reach**2, squared.argmin(axis=0), -1)
    return np.array([values[owner == k].sum(dtype=np.float64) for k in range(len(positions))])


def scattered(seed: int, shape: tuple[int, int], n: int, *, beyond: float = 0.5) -> Positions:
    return np.random.default_rng(seed).uniform(-beyond, np.array(shape) - 1 + beyond, (n, 2))


@given(SHAPES, st.integers(0, 999), st.integers(0, 8), st.floats(0.5, 8), st.floats(1, 40))
def test_gaussians_equal_the_twin(shape: tuple[int, int], seed: int, n: int, sigma: float, reach: float) -> None:
    positions = scattered(seed, shape, n, beyond=3)
    slow = slow_gaussians(positions, shape, sigma, reach)
    np.testing.assert_allclose(gaussians(positions, shape, sigma, reach), slow, rtol=1e-4, atol=1e-9)


@settings(max_examples=100)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 4).map(float)),
    st.floats(0, 6),
    st.integers(-1, 3),
)
def test_maxima_of_any_plateaus_equal_the_twin(values: Map, distance: float, threshold: int) -> None:
    assert np.array_equal(local_maxima(values, threshold, distance), slow_maxima(values, threshold, distance))


@given(SHAPES, st.integers(0, 999), st.integers(1, 8), st.floats(0.5, 40))
def test_sums_equal_the_twin(shape: tuple[int, int], seed: int, n: int, reach: float) -> None:
    values = np.random.default_rng(seed).random(shape, np.float32)
    positions = scattered(seed + 1, shape, n, beyond=3)
    np.testing.assert_allclose(sums_around(values, positions, reach), slow_sums(values, positions, reach))


def test_of_two_equal_positions_the_first_owns_all() -> None:
    assert sums_around(np.ones((5, 5), np.float32), np.full((2, 2), 2.0), 1.0).tolist() == [5, 0]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_and_bands_change_nothing(threads: int) -> None:
    positions = scattered(0, LARGE, 60)
    values = gaussians(positions, LARGE, 3.0, 12.0, threads)
    np.testing.assert_allclose(values, slow_gaussians(positions, LARGE, 3.0, 12.0), rtol=1e-4, atol=1e-9)
    assert np.array_equal(values, gaussians(positions, LARGE, 3.0, 12.0))
    found = local_maxima(values, 0.0, 4.0, threads)
    assert np.array_equal(found, local_maxima(values, 0.0, 4.0))
    assert np.array_equal(found, slow_maxima(values, 0.0, 4.0))
    sums = sums_around(values, positions, 9.0, threads)
    assert np.array_equal(sums, sums_around(values, positions, 9.0))
    np.testing.assert_allclose(sums, slow_sums(values, positions, 9.0))


def test_nothing_to_do() -> None:
    none = np.empty((0, 2))
    assert not gaussians(none, (3, 4), 1.0, 4.0).any()
    assert gaussians(none, (0, 4), 1.0, 4.0).shape == (0, 4)
    assert len(sums_around(np.ones((3, 4), np.float32), none, 2.0)) == 0
    assert local_maxima(np.zeros((0, 4), np.float32), 0.0, 2.0).shape == (0, 4)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        gaussians(np.array([[np.nan, 0]]), (3, 3), 1.0, 4.0)
    for reach in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="reach"):
            gaussians(np.zeros((1, 2)), (3, 3), 1.0, reach)
    with pytest.raises(ValueError, match="length"):
        gaussians(np.zeros((1, 3)), (3, 3), 1.0, 4.0)
    with pytest.raises(ValueError, match="distance"):
        local_maxima(np.zeros((3, 3), np.float32), 0.0, -1.0)
    with pytest.raises(ValueError, match="shape"):
        _kernels.local_maxima(np.zeros((3, 3), np.float32), 0.0, 1.0, np.zeros((3, 4), np.uint8))
