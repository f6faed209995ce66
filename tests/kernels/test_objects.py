"""Boxes, numbering and holes equal their slow twins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from cellweave import _kernels
from drawing import crowd, ellipse, voronoi
from kernels import twins

Labels = NDArray[np.int32]
SHAPES = st.tuples(st.integers(0, 10), st.integers(0, 10))


def boxes_of(labels: Labels, n: int) -> Labels:
    boxes = np.full((n, 4), -7, np.int32)
    _kernels.bounding_boxes(labels, boxes)
    return boxes


def fill(labels: Labels) -> Labels:
    filled = labels.copy()
    _kernels.fill_holes(filled, boxes_of(labels, labels.max(initial=0)))
    return filled


@given(arrays(np.int32, SHAPES, elements=st.integers(0, 6)), st.integers(0, 8))
def test_boxes_equal_scipy(labels: Labels, n: int) -> None:
    """More ids than occur get empty boxes; ids over n are left out."""
    assert np.array_equal(boxes_of(labels, n), twins.bounding_boxes(labels, n))


def test_boxes_of_pictures_equal_scipy() -> None:
    for labels in (crowd(0), voronoi(0), np.ones((1, 1), np.int32), np.arange(1, 41, dtype=np.int32)[None]):
        assert np.array_equal(boxes_of(labels, labels.max()), twins.bounding_boxes(labels, labels.max()))


@given(arrays(np.int32, SHAPES, elements=st.integers(0, 6)), arrays(np.uint8, 6, elements=st.sampled_from([0, 1, 255])))
def test_renumber_equals_numpy(labels: Labels, keep: NDArray[np.uint8]) -> None:
    expected, old = twins.renumber(labels, keep)
    now, old_ids = labels.copy(), np.full(6, -7, np.int32)
    n = _kernels.renumber(now, keep, old_ids)
    assert n == len(old)
    assert old_ids[:n].tolist() == old
    assert np.array_equal(now, expected)


@given(arrays(np.int32, SHAPES, elements=st.integers(0, 3)))
def test_fill_holes_equals_scipy(labels: Labels) -> None:
    assert np.array_equal(fill(labels), twins.fill_holes(labels))


@given(st.integers(0, 2**32 - 1), st.floats(0.3, 0.95))
def test_fill_holes_of_sponges_equals_scipy(seed: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    labels = (voronoi(seed, (24, 30), 6) * (rng.random((24, 30)) < density)).astype(np.int32)
    assert np.array_equal(fill(labels), twins.fill_holes(labels))


def test_holes_are_filled_and_bays_are_not() -> None:
    labels = np.zeros((9, 20), np.int32)
    labels[1:8, 1:8] = 1
    labels[3:5, 3:5] = 0  # a hole
    labels[6, 6] = 0  # touches the outside by a corner only: 4-connected, so a hole
    labels[1:8, 10:18] = 2
    labels[3:6, 12:18] = 0  # a bay
    filled = fill(labels)
    assert (filled[1:8, 1:8] == 1).all()
    assert np.array_equal(filled[:, 9:], labels[:, 9:])


def test_a_hole_belongs_to_the_innermost_object_and_objects_keep_their_pixels() -> None:
    shape = (41, 41)
    labels = np.zeros(shape, np.int32)
    for k, radius in enumerate((18, 11), start=1):
        labels[ellipse(shape, 20, 20, radius, radius) & ~ellipse(shape, 20, 20, radius - 3, radius - 3)] = k
    labels[20, 20] = 3
    filled = fill(labels)
    assert np.array_equal(filled[labels > 0], labels[labels > 0])
    assert set(np.unique(filled[ellipse(shape, 20, 20, 11, 11)])) == {2, 3}
    assert (filled[ellipse(shape, 20, 20, 18, 18)] > 0).all()
    assert not filled[~ellipse(shape, 20, 20, 18, 18)].any()


def test_wrong_arrays_are_refused() -> None:
    """Nothing is converted: what was written to a converted copy would be lost."""
    labels, boxes = np.ones((4, 5), np.int32), np.zeros((1, 4), np.int32)
    keep, old = np.ones(1, np.uint8), np.zeros(1, np.int32)
    for wrong in (labels.astype(np.int64), labels.astype(np.uint32), labels[:, ::2], labels.ravel(), labels.tolist()):
        with pytest.raises(TypeError):
            _kernels.bounding_boxes(wrong, boxes)
        with pytest.raises(TypeError):
            _kernels.renumber(wrong, keep, old)
        with pytest.raises(TypeError):
            _kernels.fill_holes(wrong, boxes)
    for wrong in (boxes.astype(np.int64), boxes.ravel(), np.zeros((1, 8), np.int32)[:, ::2]):
        with pytest.raises(TypeError):
            _kernels.bounding_boxes(labels, wrong)
        with pytest.raises(TypeError):
            _kernels.fill_holes(labels, wrong)
    for flags in (keep.astype(bool), keep.astype(np.int32), keep[None]):
        with pytest.raises(TypeError):
            _kernels.renumber(labels, flags, old)
    for wrong in (np.zeros((1, 3), np.int32), np.zeros((4, 1), np.int32)):
        with pytest.raises(ValueError, match="length"):
            _kernels.bounding_boxes(labels, wrong)
        with pytest.raises(ValueError, match="length"):
            _kernels.fill_holes(labels, wrong)
    with pytest.raises(ValueError, match="length"):
        _kernels.renumber(labels, keep, np.zeros(2, np.int32))
