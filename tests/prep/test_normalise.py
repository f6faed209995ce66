"""Percentile normalisation: NumPy's percentiles, whatever the pixels hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.prep import Normalisation, normalise


def normalised(pixels: NDArray[np.generic], rule: Normalisation | None = None) -> NDArray[np.float32]:
    rule = rule or Normalisation()
    image = Image(pixels)
    found = rule.apply(image.read(), rule.limits(image))
    assert found.dtype == np.float32
    assert found.shape == pixels.shape
    return found


def noise(*shape: int, dtype: type = np.uint16, seed: int = 0) -> NDArray[np.generic]:
    return (1000 * np.random.default_rng(seed).gamma(2, 1, shape)).astype(dtype)


# --- the formula ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize(("lower", "upper"), [(1, 99), (0, 100), (0.3, 99.8)])
def test_percentiles_are_numpys(dtype: type, lower: float, upper: float) -> None:
    """Per channel: (x - p1) / (p99 - p1)."""
    pixels = noise(3, 40, 50, dtype=dtype)
    rule = Normalisation(lower, upper, clip=None)
    expected = np.percentile(pixels.reshape(3, -1).astype(float), [lower, upper], axis=1).T
    np.testing.assert_allclose(rule.limits(Image(pixels)), expected, rtol=1e-6)
    low, high = expected[:, 0, None, None], expected[:, 1, None, None]
    np.testing.assert_allclose(normalised(pixels, rule), (pixels - low) / (high - low), rtol=1e-5, atol=1e-5)


@given(
    arrays(
        st.sampled_from([np.uint8, np.uint16, np.int32, np.float32]), st.integers(1, 300), elements=st.integers(0, 255)
    ),
    st.lists(st.floats(0, 100), min_size=1, max_size=4),
)
def test_counted_percentiles_are_numpys(values: NDArray[np.generic], shares: list[float]) -> None:
    assert np.allclose(normalise.percentiles(values, shares), np.percentile(values, shares), rtol=1e-12, atol=1e-12)


def test_one_percent_lies_below_zero_and_one_percent_above_one() -> None:
    found = normalised(noise(1, 200, 200, dtype=np.float32), Normalisation(clip=None))
    assert (found < 0).mean() == pytest.approx(0.01, abs=1e-3)
    assert (found > 1).mean() == pytest.approx(0.01, abs=1e-3)


def test_each_channel_has_its_own_scale() -> None:
    pixels = noise(2, 30, 30, dtype=np.float64)
    pixels[1] = 7 + 1e-4 * pixels[0]
    found = normalised(pixels)
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)


def test_hot_pixels_are_cut() -> None:
    pixels = noise(1, 30, 30)
    pixels[0, 3, 4], pixels[0, 5, 6] = 65535, 0
    assert normalised(pixels).max() == 3
    assert normalised(pixels).min() >= -1
    assert normalised(pixels, Normalisation(clip=(0, 1))).max() == 1
    assert normalised(pixels, Normalisation(clip=(0, 1))).min() == 0
    assert normalised(pixels, Normalisation(clip=None)).max() > 5


@given(
    arrays(
        np.int64, st.tuples(st.integers(1, 2), st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 300)
    ),
    st.integers(1, 200),
    st.integers(0, 5000),
)
def test_gain_and_offset_do_not_matter(x: NDArray[np.int64], gain: int, offset: int) -> None:
    """a * x + b of any camera, in any type that holds it."""
    expected = normalised(x.astype(np.uint16))
    for dtype in (np.uint16, np.int32, np.uint32, np.float32, np.float64):
        np.testing.assert_allclose(normalised((gain * x + offset).astype(dtype)), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize(("dtype", "offset"), [(np.uint32, 4_000_000_000), (np.int64, 10**15), (np.float64, 1e12)])
def test_small_contrast_on_a_large_offset_is_kept(dtype: type, offset: float) -> None:
    """float32 could not tell these values apart."""
    pixels = noise(1, 20, 20)
    np.testing.assert_allclose(normalised(pixels.astype(dtype) + dtype(offset)), normalised(pixels), atol=1e-3)


@given(arrays(np.uint8, (1, 9, 9)), st.integers(0, 10_000))
def test_the_order_of_pixels_does_not_matter(pixels: NDArray[np.uint8], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(81)
    mixed = pixels.reshape(1, 81)[:, order].reshape(1, 9, 9)
    assert np.array_equal(normalised(mixed), normalised(pixels).reshape(1, 81)[:, order].reshape(1, 9, 9))


@given(arrays(np.uint16, (1, 6, 7)))
def test_brighter_stays_brighter(pixels: NDArray[np.uint16]) -> None:
    found = normalised(pixels).ravel()
    order = np.argsort(pixels.ravel(), kind="stable")
    assert (np.diff(found[order]) >= 0).all()


# --- pixels that spoil percentiles ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int16, np.uint32, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [0, 1, 100])
def test_a_constant_channel_is_zero(dtype: type, value: int) -> None:
    pixels = np.full((2, 5, 6), value, dtype)
    rule = Normalisation()
    assert np.ptp(rule.limits(Image(pixels)), axis=1).tolist() == [0, 0]
    assert not normalised(pixels).any()


def test_a_constant_channel_leaves_the_other_alone() -> None:
    pixels = noise(2, 30, 30)
    expected = normalised(pixels[1:])
    pixels[0] = 77
    found = normalised(pixels)
    assert not found[0].any()
    assert np.array_equal(found[1:], expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_pixels_that_are_not_finite_do_not_count_and_become_zero(bad: float, dtype: type) -> None:
    pixels = np.random.default_rng(0).normal(10, 3, (1, 30, 30)).astype(dtype)
    where = np.random.default_rng(1).random((1, 30, 30)) < 0.3
    rule = Normalisation()
    broken = np.where(where, dtype(bad), pixels)
    limits = rule.limits(Image(broken))
    np.testing.assert_allclose(limits[0], np.percentile(pixels[~where].astype(float), [1, 99]), rtol=2e-3)
    found = normalised(broken)
    assert np.isfinite(found).all()
    assert not found[where].any()
    assert np.array_equal(found[~where], rule.apply(pixels, limits)[~where])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_channel_of_nothing_but_nan_is_zero(bad: float) -> None:
    assert not normalised(np.full((1, 4, 5), bad, np.float32)).any()


def test_saturated_pixels() -> None:
    """Half of the image at the sensor's limit: that is 1, and the rest keeps its contrast."""
    pixels = noise(1, 40, 40)
    pixels[0, :20] = 65535
    found = normalised(pixels)
    assert (found[0, :20] == 1).all()
    assert len(np.unique(found[0, 20:])) > 400
    assert not np.isnan(found).any()


def test_a_few_cells_in_an_empty_image_are_seen() -> None:
    """Both percentiles are 0 where fewer than 1 % of the pixels have a signal; the extremes take their place."""
    pixels = np.zeros((1, 50, 50), np.uint16)
    pixels[0, 10:14, 10:14] = 500
    pixels[0, 11, 11] = 1000
    assert Normalisation().limits(Image(pixels)).tolist() == [[0, 1000]]
    found = normalised(pixels)
    assert found[0, 11, 11] == 1
    assert found[0, 10, 10] == 0.5
    assert found[0, 0, 0] == 0


def test_bool_images() -> None:
    pixels = np.zeros((1, 10, 10), bool)
    pixels[0, :4] = True
    assert np.array_equal(normalised(pixels), pixels)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 7), (2, 7, 1), (1, 3, 40_000)])
def test_odd_shapes(shape: tuple[int, int, int]) -> None:
    found = normalised(noise(*shape))
    assert np.isfinite(found).all()


@given(
    arrays(
        np.float64,
        (1, 4, 5),
        elements=st.one_of(st.floats(), st.floats(-1, 1), st.sampled_from([np.nan, np.inf, 1e308, -1e308])),
    )
)
def test_any_numbers_give_finite_pixels_within_the_clip(pixels: NDArray[np.float64]) -> None:
    found = normalised(pixels)
    assert np.isfinite(found).all()
    assert found.min() >= -1
    assert found.max() <= 3


def test_inputs_are_not_changed() -> None:
    pixels = np.array([[[1.0, np.nan, 3.0, np.inf]]], np.float32)
    before = pixels.copy()
    pixels.flags.writeable = False
    normalised(pixels)
    assert np.array_equal(pixels, before, equal_nan=True)
    limits = np.array([[1.0, 3.0]])
    Normalisation().apply(pixels, limits)
    assert limits.tolist() == [[1, 3]]


# --- several images, large images -----------------------------------------------------------------------------


def test_a_dataset_has_one_scale() -> None:
    dim, bright = noise(2, 30, 40, seed=1), noise(2, 20, 50, seed=2) * np.uint16(5)
    limits = Normalisation().limits(Image(dim), Image(bright))
    for channel in range(2):
        together = np.concatenate([dim[channel].ravel(), bright[channel].ravel()])
        np.testing.assert_allclose(limits[channel], np.percentile(together, [1, 99]))
    assert Normalisation().apply(dim, limits).mean() < Normalisation().apply(bright, limits).mean()
    assert np.array_equal(Normalisation().limits(Image(bright), Image(dim)), limits)


def test_a_dataset_needs_the_same_channels() -> None:
    with pytest.raises(InputError, match="same number of channels"):
        Normalisation().limits(Image(noise(1, 4, 4)), Image(noise(2, 4, 4)))


class Rows:
    """A lazy array that counts the pixels that are read of it."""

    def __init__(self, pixels: NDArray[np.generic]) -> None:
        self.pixels, self.shape, self.dtype, self.read = pixels, pixels.shape, pixels.dtype, 0

    def __getitem__(self, key: tuple[int | slice, ...]) -> NDArray[np.generic]:
        found = self.pixels[key]
        self.read += found.size
        return found


def check_share_below(limits: NDArray[np.float64], pixels: NDArray[np.generic], within: float) -> None:
    """About 1 and 99 of 100 pixels of each channel lie below its limits."""
    for channel, (low, high) in zip(pixels, limits, strict=True):
        assert (channel < low).mean() == pytest.approx(0.01, abs=within)
        assert (channel < high).mean() == pytest.approx(0.99, abs=within)


def test_large_images_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalise, "SAMPLE", 20_000)
    pixels = noise(2, 500, 400)
    rows = Rows(pixels)
    limits = Normalisation().limits(Image(rows))
    assert rows.read <= 2 * 20_000
    check_share_below(limits, pixels, within=0.004)


@pytest.mark.parametrize("shape", [(1, 1, 5000), (1, 2, 5000), (1, 3, 40_000), (2, 5000, 1), (1, 70, 70)])
def test_images_with_few_long_rows_are_sampled_too(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(normalise, "SAMPLE", 1000)
    pixels = noise(*shape)
    check_share_below(Normalisation().limits(Image(pixels)), pixels, within=0.02)
    check_share_below(Normalisation().limits(*[Image(pixels)] * 10), pixels, within=0.06)


@pytest.mark.parametrize(("lower", "upper"), [(-1, 99), (1, 101), (50, 50), (99, 1), (float("nan"), 99)])
def test_wrong_percentiles_are_refused(lower: float, upper: float) -> None:
    with pytest.raises(InputError, match="0 <= lower < upper <= 100"):
        Normalisation(lower, upper)


@given(st.floats(0, 49), st.floats(51, 100))
def test_any_percentiles(lower: float, upper: float) -> None:
    pixels = noise(1, 11, 11)
    assume(lower < upper)
    expected = np.percentile(pixels, [lower, upper])
    np.testing.assert_allclose(Normalisation(lower, upper).limits(Image(pixels))[0], expected)
