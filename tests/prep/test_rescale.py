"""Resampling: equal to torch, band by band as the whole, averages kept; labels keep their ids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellweave.core.labels import resize_labels
from cellweave.prep.rescale import Resampling, resize
from drawing import crowd

LENGTHS = st.integers(1, 60)


def noise(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_torch(pixels: NDArray[np.float32], axis: int, n_out: int) -> NDArray[np.float64]:
    """One axis by torch, in float64 (float32 coordinates are off by up to 1e-3 px on long axes).

    The other axes become one of length 2 or more: torch 2.13 gives wrong rows for an output of one column.
    """
    moved = np.moveaxis(pixels, axis, 0).astype(np.float64)
    columns = np.pad(moved.reshape(len(moved), -1), ((0, 0), (0, 1)))
    options = {"mode": "bilinear", "antialias": True, "align_corners": False}
    batch = torch.from_numpy(columns)[None, None]
    found = torch.nn.functional.interpolate(batch, (n_out, columns.shape[1]), **options)[0, 0]  # type: ignore[arg-type]
    return np.moveaxis(found[:, :-1].numpy().reshape(n_out, *moved.shape[1:]), 0, axis)


@given(LENGTHS, LENGTHS, LENGTHS, LENGTHS)
def test_resizing_equals_torch(height: int, width: int, new_height: int, new_width: int) -> None:
    """To 1e-5, for values of size 1: `interpolate(bilinear, antialias=True)`."""
    pixels = noise(2, height, width)
    found = resize(pixels, new_height, new_width)
    assert found.dtype == np.float32
    expected = by_torch(by_torch(pixels, 1, new_height), 2, new_width)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("n_in", "n_out"), [(2000, 3), (3, 2000), (1999, 2000), (2000, 1999), (997, 1), (1, 997)])
def test_long_axes_equal_torch(n_in: int, n_out: int) -> None:
    pixels = noise(1, n_in, 2)
    np.testing.assert_allclose(resize(pixels, n_out, 2), by_torch(pixels, 1, n_out), rtol=0, atol=1e-5)


@given(LENGTHS, LENGTHS, st.data())
def test_a_band_is_the_whole_to_the_last_bit(n_in: int, n_out: int, data: st.DataObject) -> None:
    """Only the input samples that `source` names are given, and a few more."""
    resampling = Resampling(n_in, n_out)
    start = data.draw(st.integers(0, n_out - 1))
    stop = data.draw(st.integers(start + 1, n_out))
    pixels = noise(2, n_in, 3)
    whole = resampling.apply(pixels, 1)
    assert whole.shape == (2, n_out, 3)
    needed = resampling.source(start, stop)
    assert 0 <= needed.start < needed.stop <= n_in
    for spare in (0, 2):
        offset = max(0, needed.start - spare)
        band = pixels[:, offset : needed.stop + spare]
        assert np.array_equal(resampling.apply(band, 1, start, stop, offset=offset), whole[:, start:stop])


@given(LENGTHS, LENGTHS)
def test_what_source_leaves_out_is_not_looked_at(n_in: int, n_out: int) -> None:
    """NaN outside of it stays outside; and it names nothing in vain: NaN at its ends comes through."""
    resampling = Resampling(n_in, n_out)
    start, stop = n_out // 3, n_out // 3 + max(1, n_out // 3)
    needed = resampling.source(start, stop)
    pixels = np.full(n_in, np.nan, np.float32)
    pixels[needed] = 1
    np.testing.assert_allclose(resampling.apply(pixels[needed], 0, start, stop, offset=needed.start), 1, rtol=1e-6)
    for end in (needed.start, needed.stop - 1):
        broken = np.ones(n_in, np.float32)
        broken[end] = np.nan
        assert np.isnan(resampling.apply(broken, 0, start, stop)).any()


@given(LENGTHS, LENGTHS)
def test_weights_sum_to_one_and_are_not_negative(n_in: int, n_out: int) -> None:
    weights = Resampling(n_in, n_out).apply(np.eye(n_in, dtype=np.float32), 0)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)


@given(LENGTHS, LENGTHS, st.floats(-1e4, 1e4, width=32))
def test_a_constant_stays(n_in: int, n_out: int, value: float) -> None:
    found = Resampling(n_in, n_out).apply(np.full((n_in, 2), value, np.float32), 0)
    np.testing.assert_allclose(found, value, rtol=2e-6, atol=1e-30)


@given(st.integers(1, 12), st.integers(1, 12))
def test_shrinking_by_a_whole_factor_keeps_the_mean_of_what_repeats(factor: int, n: int) -> None:
    """Enlarging a step function by pixels and shrinking it back by the triangle averages neighbours only."""
    pixels = noise(n)
    back = Resampling(n * factor, n).apply(np.repeat(pixels, factor), 0)
    padded = np.pad(pixels, 1, mode="edge")
    low, high = (np.minimum.reduce, np.maximum.reduce)
    neighbours = [padded[:-2], padded[1:-1], padded[2:]]
    assert (back >= low(neighbours) - 1e-6).all()
    assert (back <= high(neighbours) + 1e-6).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float64, bool])
def test_any_type_gives_float32_and_stays_as_it_was(dtype: type) -> None:
    pixels = (noise(2, 9, 8) > 0).astype(dtype)
    before = pixels.copy()
    for height, width in ((9, 8), (4, 11)):
        found = resize(pixels, height, width)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, resize(pixels.astype(np.float32), height, width), atol=1e-6)
    assert np.array_equal(pixels, before)


def test_the_same_size_is_the_same_picture() -> None:
    pixels = noise(3, 7, 9)
    assert np.array_equal(resize(pixels, 7, 9), pixels)


def test_enlarging_a_ramp_keeps_it_a_ramp() -> None:
    """Pixel centers lie on half integers: sample k of n_out is at (k + 1/2) n_in / n_out - 1/2."""
    ramp = np.arange(20, dtype=np.float32)
    for n_out in (40, 33):
        at = np.clip((np.arange(n_out) + 0.5) * 20 / n_out - 0.5, 0, 19)
        np.testing.assert_allclose(Resampling(20, n_out).apply(ramp, 0), at, atol=1e-5)


# --- labels ---------------------------------------------------------------------------------------------------


@given(LENGTHS, LENGTHS, LENGTHS, LENGTHS)
def test_labels_take_the_nearest_pixel(height: int, width: int, new_height: int, new_width: int) -> None:
    labels = np.random.default_rng(0).integers(0, 2**31 - 1, (height, width)).astype(np.int32)
    before = labels.copy()
    found = resize_labels(labels, new_height, new_width)
    assert found.dtype == np.int32
    assert found.shape == (new_height, new_width)
    assert np.isin(found, labels).all()
    if new_height >= height and new_width >= width:
        assert np.isin(labels, found).all()  # enlarging loses no object
    assert np.array_equal(labels, before)
    for axis, n in ((0, height), (1, width)):
        m = found.shape[axis]
        index = resize_labels(np.indices(labels.shape)[axis].astype(np.int32), new_height, new_width)
        center = (np.arange(m) + 0.5) * n / m - 0.5
        distance = np.abs(np.moveaxis(index, axis, -1) - center)
        assert (distance <= 0.5 + 1e-9).all()


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_enlarged_labels_come_back(factor: int) -> None:
    labels = crowd(0)
    height, width = labels.shape
    large = resize_labels(labels, factor * height, factor * width)
    assert np.array_equal(large, np.kron(labels, np.ones((factor, factor), np.int32)))
    assert np.array_equal(resize_labels(large, height, width), labels)
    assert np.array_equal(resize_labels(labels, height, width), labels)


def test_labels_and_pixels_stay_aligned() -> None:
    """A disk as pixels and as labels, resized, still covers the same place."""
    labels = (np.hypot(*(np.mgrid[:61, :80] - np.array([30, 40])[:, None, None])) < 18).astype(np.int32)
    for height, width in ((30, 40), (200, 173)):
        pixels, resized = resize(labels.astype(np.float32), height, width), resize_labels(labels, height, width)
        assert ((pixels > 0.5) != (resized > 0)).mean() < 0.02
        for axis in (0, 1):
            at = np.arange(resized.shape[axis])
            middles = [np.average(at, weights=image.sum(axis=1 - axis)) for image in (pixels, resized)]
            assert middles[0] == pytest.approx(middles[1], abs=0.3)
