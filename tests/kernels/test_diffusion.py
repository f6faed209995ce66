"""Diffusion flows and flow errors equal their slow twins, on any number of threads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from cellweave import _kernels
from drawing import crowd, draw, ellipse, rod, tiles, voronoi
from kernels import twins

Labels = NDArray[np.int32]

# Both sides compute in float64 and round to float32; the order of their sums differs.
TOLERANCE = 1e-6


def flows_of(labels: Labels, from_box: bool, threads: int = 0) -> NDArray[np.float32]:
    flows = np.zeros((2, *labels.shape), np.float32)
    _kernels.diffusion_flows(labels, twins.bounding_boxes(labels, labels.max()), from_box, flows, threads)
    return flows


def errors_of(labels: Labels, maps: NDArray[np.float32], from_box: bool, threads: int = 0) -> NDArray[np.float64]:
    scores = np.zeros((labels.max(), 3))
    boxes = twins.bounding_boxes(labels, labels.max())
    _kernels.flow_errors(labels, boxes, maps, from_box, scores, threads)
    return scores


def bowl() -> Labels:
    """A crescent whose mean position and middle lie outside of it, far from each other."""
    return draw([rod((40, 40), 20, 20, 50, 2.5, 0.4, 3.5)])


PICTURES = {
    "crowd": lambda: crowd(1),
    "voronoi": lambda: voronoi(2, (60, 64), 20),
    "crescent": bowl,
    "ring": lambda: (ellipse((31, 33), 15, 16, 12, 13) & ~ellipse((31, 33), 15, 16, 7, 7)).astype(np.int32),
    "squares": lambda: tiles(3, 3, 5, 8),
    "one row": lambda: np.repeat(np.arange(6, dtype=np.int32), [3, 1, 2, 7, 20, 5])[None],
    "one column": lambda: np.repeat(np.arange(4, dtype=np.int32), [0, 4, 1, 9])[:, None],
    "one pixel": lambda: np.ones((1, 1), np.int32),
    "whole image": lambda: np.ones((17, 24), np.int32),
    "background": lambda: np.zeros((5, 4), np.int32),
    "parts": lambda: np.array([[1, 0, 1, 2], [0, 0, 2, 2], [1, 1, 0, 0]], np.int32),
    "an id is missing": lambda: np.array([[0, 3, 3], [1, 3, 3]], np.int32),
}


@pytest.mark.parametrize("from_box", [False, True])
@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
def test_flows_equal_numpy(picture: Callable[[], Labels], from_box: bool) -> None:
    labels = picture()
    flows = flows_of(labels, from_box)
    np.testing.assert_allclose(flows, twins.diffusion_flows(labels, from_box), rtol=0, atol=TOLERANCE)
    lengths = np.hypot(*flows)
    np.testing.assert_allclose(lengths[lengths > 0], 1, atol=1e-6)
    assert not lengths[labels == 0].any()


@given(arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3)), st.booleans())
def test_flows_of_scattered_pixels_equal_numpy(labels: Labels, from_box: bool) -> None:
    np.testing.assert_allclose(
        flows_of(labels, from_box), twins.diffusion_flows(labels, from_box), rtol=0, atol=TOLERANCE
    )


def test_the_two_centers_differ() -> None:
    labels = bowl()
    assert not np.array_equal(twins.centers(labels > 0, False), twins.centers(labels > 0, True))
    assert np.abs(flows_of(labels, False) - flows_of(labels, True)).max() > 0.5


def test_flows_lead_to_the_center() -> None:
    """What any normalised heat flow must do, said without heat: it never points away from a disk's middle."""
    labels = ellipse((41, 41), 20, 20, 15, 15).astype(np.int32)
    flows = flows_of(labels, False)
    inward = np.stack([20 - np.mgrid[:41, :41][0], 20 - np.mgrid[:41, :41][1]])
    length = np.hypot(*inward)
    cosine = (flows * inward).sum(axis=0)[(labels > 0) & (length > 0)] / length[(labels > 0) & (length > 0)]
    assert cosine.min() > 0.9
    assert not flows[:, 20, 20].any()


def test_background_is_not_written() -> None:
    labels = crowd(3)
    flows = np.full((2, *labels.shape), 7, np.float32)
    _kernels.diffusion_flows(labels, twins.bounding_boxes(labels, labels.max()), False, flows)
    assert (flows[:, labels == 0] == 7).all()
    assert np.abs(flows[:, labels > 0]).max() <= 1


@pytest.mark.parametrize("from_box", [False, True])
@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
def test_flow_errors_equal_numpy(picture: Callable[[], Labels], from_box: bool) -> None:
    labels = picture()
    maps = np.random.default_rng(0).normal(0, 1, (3, *labels.shape)).astype(np.float32)
    found = errors_of(labels, maps, from_box)
    np.testing.assert_allclose(found, twins.flow_errors(labels, maps, from_box), rtol=1e-9, atol=1e-12)


def test_flow_error_of_exact_flows_is_zero_and_of_opposite_flows_is_four() -> None:
    labels = crowd(4)
    flows = flows_of(labels, False)
    moving = [np.hypot(*flows)[labels == k].mean() for k in range(1, labels.max() + 1)]
    same = np.stack([*flows, np.ones(labels.shape, np.float32)])
    opposite = np.stack([*-flows, np.full(labels.shape, 0.25, np.float32)])
    np.testing.assert_allclose(errors_of(labels, same, False), [[0, 1, 1]] * labels.max(), atol=1e-12)
    np.testing.assert_allclose(errors_of(labels, opposite, False)[:, 0], 4 * np.array(moving), rtol=1e-5)
    assert (errors_of(labels, opposite, False)[:, 1] == 0.25).all()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(threads: int) -> None:
    labels = tiles(20, 20, 4, 5)
    maps = np.random.default_rng(1).normal(0, 1, (3, *labels.shape)).astype(np.float32)
    assert np.array_equal(flows_of(labels, False, threads), flows_of(labels, False))
    assert np.array_equal(errors_of(labels, maps, True, threads), errors_of(labels, maps, True))


def test_wrong_arrays_are_refused() -> None:
    labels, boxes = np.ones((4, 5), np.int32), np.array([[0, 0, 4, 5]], np.int32)
    flows, maps, scores = np.zeros((2, 4, 5), np.float32), np.zeros((3, 4, 5), np.float32), np.zeros((1, 3))
    for wrong in (
        (labels.astype(np.int64), boxes, flows),
        (labels.astype(np.float32), boxes, flows),
        (labels[0], boxes, flows),
        (labels, boxes.astype(np.int64), flows),
        (labels, boxes, flows.astype(np.float64)),
        (np.asfortranarray(labels), boxes, flows),
        (labels, boxes, flows[:, :, ::-1]),
    ):
        with pytest.raises(TypeError):
            _kernels.diffusion_flows(wrong[0], wrong[1], False, wrong[2])
    for wrong in (
        (labels, boxes[:, :3].copy(), flows),
        (labels, boxes, maps),
        (labels, boxes, np.zeros((2, 4, 4), np.float32)),
        (np.ones((5, 5), np.int32), boxes, flows),
    ):
        with pytest.raises(ValueError, match=r"shape|length"):
            _kernels.diffusion_flows(wrong[0], wrong[1], False, wrong[2])
    for wrong in (
        (labels, boxes, flows, scores),
        (labels, boxes, np.zeros((3, 5, 4), np.float32), scores),
        (labels, boxes, maps, np.zeros((2, 3))),
        (labels, boxes, maps, np.zeros((1, 2))),
    ):
        with pytest.raises(ValueError, match=r"shape|length"):
            _kernels.flow_errors(wrong[0], wrong[1], wrong[2], False, wrong[3])
    read_only = flows.copy()
    read_only.flags.writeable = False
    with pytest.raises(TypeError):
        _kernels.diffusion_flows(labels, boxes, False, read_only)
