"""Tiles cover an axis, their shares sum to one, and what lacks context counts nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellweave.predict.tiling import Tiles, plan, plan_windows

strides = st.sampled_from([1, 2, 8, 16])


@st.composite
def plans(draw: st.DrawFn) -> tuple[Tiles, dict[str, int]]:
    stride = draw(strides)
    options = {
        "tile": draw(st.integers(1, 3000)),
        "stride": stride,
        "margin": draw(st.integers(0, 140)),
        "ramp": draw(st.integers(1, 48)),
    }
    length = stride * draw(st.integers(1, 6000 // stride))
    return plan(length, **options), options | {"length": length}


@given(plans())
def test_tiles_are_on_the_grid_and_cover_the_axis(made: tuple[Tiles, dict[str, int]]) -> None:
    tiles, given_ = made
    stride = given_["stride"]
    assert tiles.length == given_["length"]
    assert tiles.size % stride == 0
    assert all(start % stride == 0 for start in tiles.starts)
    assert tiles.starts[0] == 0
    assert tiles.starts[-1] + tiles.size == tiles.length
    steps = np.diff(tiles.starts)
    assert (steps > 0).all()
    assert (steps <= tiles.size).all()
    assert tiles.weights.shape == (len(tiles.starts), tiles.size)


@given(plans())
def test_shares_sum_to_one_everywhere(made: tuple[Tiles, dict[str, int]]) -> None:
    tiles, _ = made
    total = np.zeros(tiles.length)
    for start, weights in zip(tiles.starts, tiles.weights, strict=True):
        total[start : start + tiles.size] += weights
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert tiles.weights.min() >= 0


@given(plans())
def test_the_margin_next_to_a_neighbour_counts_nothing(made: tuple[Tiles, dict[str, int]]) -> None:
    tiles, given_ = made
    margin = given_["margin"]
    if len(tiles.starts) > 1 and margin:
        assert not tiles.weights[1:, :margin].any()
        assert not tiles.weights[:-1, -margin:].any()


@given(plans())
def test_tiles_are_no_larger_than_asked_where_the_margins_leave_room(made: tuple[Tiles, dict[str, int]]) -> None:
    tiles, given_ = made
    stride = given_["stride"]
    least = 2 * given_["margin"] + given_["ramp"] + 2 * stride
    assert tiles.size < max(given_["tile"] + stride, least)


@given(plans())
def test_no_seam(made: tuple[Tiles, dict[str, int]]) -> None:
    """The share of a tile never jumps, except at the borders of the image."""
    tiles, given_ = made
    steepest = np.abs(np.diff(tiles.weights, axis=1)).max(initial=0)
    assert steepest <= np.pi / given_["ramp"] + 1e-6


def test_one_tile_counts_fully_up_to_the_borders() -> None:
    tiles = plan(320, tile=400, stride=16, margin=128, ramp=32)
    assert tiles.starts == (0,)
    assert (tiles.weights == 1).all()


@pytest.mark.parametrize(("length", "n"), [(400, 1), (416, 2), (528, 2), (544, 3), (656, 3), (672, 4)])
def test_as_few_tiles_as_cover_the_axis(length: int, n: int) -> None:
    """Tiles of 400 share 272 px with each neighbour, so that each one more brings 128 px."""
    assert len(plan(length, tile=400, stride=16, margin=120, ramp=32).starts) == n


@given(st.integers(1, 200), st.integers(1, 700), st.sampled_from([1, 8, 32]))
def test_windows_share_every_pixel_and_one_owns_it(units: int, tile: int, stride: int) -> None:
    tiles = plan_windows(units * stride, tile=tile, stride=stride)
    shares, owners = np.zeros(tiles.length), np.zeros(tiles.length)
    for start, weights, owned in zip(tiles.starts, tiles.weights, tiles.owned, strict=True):
        shares[start : start + tiles.size] += weights
        owners[start : start + tiles.size] += owned
        assert ((owned == 0) | (weights >= 1 / len(tiles.starts) - 1e-6)).all()
    np.testing.assert_allclose(shares, 1, atol=1e-6)
    assert (owners == 1).all()


def test_windows_overlap_by_an_eighth_and_follow_the_gaussian() -> None:
    tiles = plan_windows(1200, tile=640, stride=16)
    assert (tiles.size, tiles.starts) == (640, (0, 560))
    at = 600  # in both
    first, second = (np.exp(-0.5 * ((at + 0.5 - s - 320) / 80) ** 2) for s in tiles.starts)
    assert tiles.weights[0, at] == pytest.approx(first / (first + second), rel=1e-5)
