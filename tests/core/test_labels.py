"""Label images are checked once, numbered in order, and measured in px."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.core.labels import areas, as_labels, diameters, median_diameter, relabel

shapes = array_shapes(min_dims=2, max_dims=2, max_side=9)
any_labels = arrays(np.int32, shapes, elements=st.sampled_from([0, 0, 1, 2, 5, 70_000, 2**31 - 1]))


@pytest.mark.parametrize("dtype", ["u1", ">u2", "<u4", "i4", "i8", "u8", "f4", "f8", "?"])
def test_whole_numbers_of_any_type_are_labels(dtype: str) -> None:
    array = np.array([[0, 1], [1, 0]], dtype)
    labels = as_labels(array)
    assert labels.dtype == np.int32
    assert np.array_equal(labels, array)
    labels[0, 0] = 9
    assert array[0, 0] == 0


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros(4), r"2 dimensions \(Y, X\), this one has shape \(4,\)"),
        (np.zeros((2, 3, 4), int), r"shape \(2, 3, 4\)"),
        (np.array([[0.5, 1]]), "fractions or NaN"),
        (np.array([[np.nan, 1]]), "fractions or NaN"),
        (np.array([[np.inf, 1]]), "fractions or NaN"),
        (np.array([[-1, 1]]), "found -1 to 1"),
        (np.array([[2**31, 1]]), "found 1 to 2147483648"),
        (np.array([[2.0**40, 1]]), "between 0 and 2147483647"),
        (np.array([["a", "b"]]), "whole numbers"),
        (np.array([[1j, 0]]), "whole numbers"),
    ],
)
def test_other_arrays_are_refused_by_name(array: NDArray[Any], said: str) -> None:
    with pytest.raises(InputError, match=f"^mine: .*{said}"):
        as_labels(array, "mine")


def test_an_empty_array_is_a_label_image() -> None:
    assert as_labels(np.zeros((0, 5), np.uint8)).shape == (0, 5)


@given(any_labels)
def test_relabel_numbers_the_ids_in_their_order(labels: NDArray[np.int32]) -> None:
    before = labels.copy()
    found, old = relabel(labels)
    ids = np.unique(labels[labels > 0])
    assert np.array_equal(old, ids)
    expected = np.zeros_like(labels)
    for new, label in enumerate(ids, start=1):
        expected[labels == label] = new
    assert np.array_equal(found, expected)
    assert found.dtype == np.int32
    assert np.array_equal(labels, before)
    assert not np.shares_memory(found, labels)


@given(any_labels)
def test_areas_and_diameters_are_those_of_each_id(labels: NDArray[np.int32]) -> None:
    counted = [int((labels == label).sum()) for label in np.unique(labels) if label]
    assert areas(labels).tolist() == counted
    np.testing.assert_allclose(diameters(labels), [2 * (n / np.pi) ** 0.5 for n in counted])
    assert median_diameter(labels) == pytest.approx(np.median([2 * (n / np.pi) ** 0.5 for n in counted] or [0]))


def test_seventy_thousand_objects() -> None:
    labels = np.arange(280 * 280, dtype=np.int32).reshape(280, 280)
    shuffled = labels[::-1] * 7
    found, old = relabel(shuffled)
    assert found.max() == len(old) == 280 * 280 - 1
    assert np.array_equal(found, labels[::-1])


def test_a_disk_has_its_own_diameter() -> None:
    rows, columns = np.mgrid[-60:61, -60:61]
    assert median_diameter((np.hypot(rows, columns) < 50).astype(np.int32)) == pytest.approx(100, rel=0.01)
    assert median_diameter(np.zeros((4, 4), np.int32)) == 0
