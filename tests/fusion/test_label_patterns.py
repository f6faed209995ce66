"""The compiled search for combinations of ids equals its NumPy twin."""

import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray

from cellweave._kernels import label_patterns
from cellweave.core.errors import InputError
from cellweave.fusion.patterns import find_patterns
from fusion.raters import label_stacks


def by_numpy(labels: NDArray[np.int32]) -> tuple[list[list[int]], list[int]]:
    flat = labels.reshape(len(labels), -1)
    code = np.zeros(flat.shape[1], np.int64)
    for image in flat:
        _, place = np.unique(image, return_inverse=True)
        _, code = np.unique(code * flat.size + place, return_inverse=True)
    _, first, counts = np.unique(code, return_index=True, return_counts=True)
    order = np.argsort(first)
    return flat.T[first[order]].tolist(), counts[order].tolist()


def check(labels: NDArray[np.int32], threads: int = 0) -> None:
    index = np.empty(labels.shape[1:], np.int32)
    ids, counts = label_patterns(list(labels), index, threads)
    assert (ids.dtype, counts.dtype) == (np.int32, np.int64)
    assert (ids.tolist(), counts.tolist()) == by_numpy(labels)
    assert (ids[index] == np.moveaxis(labels, 0, -1)).all()


@given(label_stacks())
def test_equals_numpy(labels: NDArray[np.int32]) -> None:
    check(labels)


@pytest.mark.parametrize("highest", [2, 40, np.iinfo(np.int32).max])
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_equals_numpy_on_many_pieces_and_any_number_of_threads(highest: int, threads: int) -> None:
    rng = np.random.default_rng(1)
    check(rng.integers(0, highest, (3, 400, 411), dtype=np.int32), threads)
    check(np.repeat(rng.integers(0, highest, (2, 400, 7), dtype=np.int32), 60, axis=2), threads)


@pytest.mark.parametrize("shape", [(1, 0, 0), (2, 0, 5), (1, 1, 1), (2, 1, 70_000)])
def test_odd_shapes(shape: tuple[int, int, int]) -> None:
    index = np.empty(shape[1:], np.int32)
    labels = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    ids, counts = label_patterns(list(labels), index)
    assert (len(ids), counts.sum()) == (labels[0].size, labels[0].size)
    assert (index.ravel() == np.arange(labels[0].size)).all()


def test_shapes_must_be_equal() -> None:
    with pytest.raises(ValueError, match="shape"):
        label_patterns([np.zeros((2, 3), np.int32), np.zeros((3, 2), np.int32)], np.zeros((2, 3), np.int32))


@given(label_stacks())
def test_masks_know_foreground_only(labels: NDArray[np.int32]) -> None:
    masks, whole = find_patterns(labels, masks=True), find_patterns((labels > 0).astype(np.int32))
    assert (masks.labels == whole.labels).all()
    assert (masks.index == whole.index).all()


def test_values_go_to_pixels_and_to_the_raters_that_were_given() -> None:
    patterns = find_patterns([None, np.array([[0, 5, 5]]), np.ones((1, 3)), np.ones((1, 3))], [1, 2, 0, 3])
    assert patterns.raters.tolist() == [1, 3]
    assert patterns.weights.tolist() == [2, 3]
    assert patterns.image(np.array([7, 8])).tolist() == [[7, 8, 8]]
    assert np.isnan(patterns.of_given(np.array([1.0, 2.0]))).tolist() == [True, False, True, False]


def test_float_labels_of_another_order_and_type_are_taken() -> None:
    labels = np.asfortranarray(np.array([[0.0, 2.0], [3.0, 0.0]]))
    assert find_patterns([labels, labels.astype(np.uint16)]).labels.tolist() == [[0, 0], [2, 2], [3, 3]]


def test_input_errors_say_the_fact() -> None:
    image = np.ones((2, 3), np.int32)
    with pytest.raises(InputError, match="rater 0 has shape \\(2, 3\\) and rater 2 \\(3, 2\\)"):
        find_patterns([image, None, image.T])
    with pytest.raises(InputError, match="all of 2 raters are missing"):
        find_patterns([None, image], [1, 0])
    with pytest.raises(InputError, match="all of 0 raters"):
        find_patterns([])
    with pytest.raises(InputError, match="not negative"):
        find_patterns([image, image], [1, -1])
    with pytest.raises(InputError, match="finite"):
        find_patterns([image, image], [1, np.nan])
    with pytest.raises(InputError, match="one number for each"):
        find_patterns([image, image], [1])
    with pytest.raises(InputError, match=r"rater 1: .* fractions or NaN"):
        find_patterns([image, np.full((2, 3), np.nan)])
