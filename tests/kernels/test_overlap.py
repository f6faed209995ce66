"""The compiled pixel count equals its NumPy twin."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from cellweave._kernels import overlap_counts

BIGGEST = np.iinfo(np.int32).max


def counts_by_numpy(truth: NDArray[np.int32], predicted: NDArray[np.int32]) -> tuple[list[int], list[int], list[int]]:
    pairs = np.stack([truth.ravel(), predicted.ravel()], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    return found[:, 0].tolist(), found[:, 1].tolist(), counts.tolist()


def check(truth: NDArray[np.int32], predicted: NDArray[np.int32], threads: int = 0) -> None:
    result = overlap_counts(truth, predicted, threads)
    assert [a.dtype for a in result] == [np.int32, np.int32, np.int64]
    assert tuple(a.tolist() for a in result) == counts_by_numpy(truth, predicted)


@given(st.data(), st.tuples(st.integers(1, 6), st.integers(1, 40)), st.sampled_from([3, 1000, BIGGEST]))
def test_equals_numpy(data: st.DataObject, shape: tuple[int, int], highest: int) -> None:
    ids = st.integers(0, highest)
    check(data.draw(arrays(np.int32, shape, elements=ids)), data.draw(arrays(np.int32, shape, elements=ids)))


@pytest.mark.parametrize("highest", [2, 50, 40_000, BIGGEST])
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_equals_numpy_on_many_pieces_and_any_number_of_threads(highest: int, threads: int) -> None:
    rng = np.random.default_rng(highest)
    truth, predicted = rng.integers(0, highest, (2, 333, 201), dtype=np.int32)
    check(truth, predicted, threads)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (1, 1), (1, 40_000), (40_000, 1)])
def test_odd_shapes(shape: tuple[int, int]) -> None:
    labels = np.arange(shape[0] * shape[1], dtype=np.int32).reshape(shape)
    check(labels, labels[::-1].copy())


def test_shapes_must_be_equal() -> None:
    with pytest.raises(ValueError, match="shape"):
        overlap_counts(np.zeros((2, 3), np.int32), np.zeros((3, 2), np.int32))
