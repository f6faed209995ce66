"""CLAHE: OpenCV's numbers, a brute-force twin, and the depth of the pixels kept."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.prep import clahe
from cellweave.prep.clahe import equalised


def texture(height: int, width: int, dtype: type = np.uint8, seed: int = 0) -> NDArray[np.generic]:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    values = 60 + 40 * np.sin(columns / 17) * np.cos(rows / 23) + rng.normal(0, 8, (height, width))
    return np.clip(values * (1 if dtype == np.uint8 else 200), 0, np.iinfo(dtype).max).astype(dtype)


def slow(pixels: NDArray[np.generic], tiles: tuple[int, int], clip_limit: float) -> NDArray[np.float64]:
    """The definition, a pixel at a time, before the last rounding; sizes that tiles divide."""
    levels, (height, width) = int(np.iinfo(pixels.dtype).max) + 1, pixels.shape
    tall, wide = height // tiles[0], width // tiles[1]
    most = max(int(clip_limit * tall * wide / levels), 1)
    curves = {}
    for r in range(tiles[0]):
        for c in range(tiles[1]):
            counts = [0] * levels
            for value in pixels[r * tall : (r + 1) * tall, c * wide : (c + 1) * wide].ravel():
                counts[int(value)] += 1
            excess = sum(max(n - most, 0) for n in counts)
            counts = [min(n, most) + excess // levels for n in counts]
            rest = excess % levels
            for i in range(rest):
                counts[i * max(levels // rest, 1)] += 1
            factor = np.float32((levels - 1) / (tall * wide))
            curves[r, c] = [round(float(n * factor)) for n in np.cumsum(counts)]
    out = np.empty(pixels.shape)
    for y in range(height):
        for x in range(width):
            place = ((y / tall - 0.5, tiles[0]), (x / wide - 0.5, tiles[1]))
            (r, c), total = [int(np.floor(p)) for p, _ in place], 0.0
            for dr in (0, 1):
                for dc in (0, 1):
                    part = (place[0][0] - r if dr else r + 1 - place[0][0]) * (
                        place[1][0] - c if dc else c + 1 - place[1][0]
                    )
                    tile = min(max(r + dr, 0), tiles[0] - 1), min(max(c + dc, 0), tiles[1] - 1)
                    total += part * curves[tile][int(pixels[y, x])]
            out[y, x] = total
    return out


@pytest.mark.parametrize("tiles", [(1, 1), (2, 3), (4, 4)])
@pytest.mark.parametrize("clip_limit", [1.0, 3.0, 40.0])
def test_equals_the_definition_pixel_by_pixel(tiles: tuple[int, int], clip_limit: float) -> None:
    pixels = texture(32, 36)
    found = clahe(pixels, tiles=tiles, clip_limit=clip_limit)
    assert np.abs(found.astype(float) - slow(pixels, tiles, clip_limit)).max() <= 0.51


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(240, 320), (237, 311)])
@pytest.mark.parametrize("clip_limit", [1.0, 2.0, 40.0])
def test_equals_opencv_within_one_level(dtype: type, shape: tuple[int, int], clip_limit: float) -> None:
    pixels = texture(*shape, dtype=dtype)
    expected = cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=(8, 8)).apply(pixels)
    found = clahe(pixels, clip_limit=clip_limit)
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


def test_sixteen_bits_are_not_reduced() -> None:
    """Two grey values that share their upper byte come out far apart."""
    pixels = np.random.default_rng(0).integers(25600, 25856, (256, 256)).astype(np.uint16)
    found = clahe(pixels, tiles=(2, 2), clip_limit=np.inf)
    assert found.dtype == np.uint16
    assert len(np.unique(found)) > 256
    assert found.max() - found.min() > 60000


def test_one_tile_without_limit_is_plain_equalisation() -> None:
    pixels = texture(50, 60, np.uint16)
    order = np.sort(pixels.ravel())
    expected = np.rint(65535 * np.searchsorted(order, pixels, side="right") / pixels.size)
    assert np.abs(clahe(pixels, tiles=(1, 1), clip_limit=np.inf) - expected).max() <= 1


@given(st.integers(1, 40), st.integers(1, 40), st.data(), st.sampled_from([np.uint8, np.uint16]))
def test_any_size_and_tiles(height: int, width: int, data: st.DataObject, dtype: type) -> None:
    pixels = texture(height, width, dtype)
    before = pixels.copy()
    tiles = data.draw(st.tuples(st.integers(1, height), st.integers(1, width)))
    found = clahe(pixels, tiles=tiles)
    assert found.shape == pixels.shape
    assert found.dtype == dtype
    np.testing.assert_array_equal(pixels, before)


def test_channels_are_equalised_one_by_one() -> None:
    pixels = np.stack([texture(40, 48, seed=s) for s in (1, 2)])
    np.testing.assert_array_equal(clahe(pixels), np.stack([clahe(c) for c in pixels]))


def test_times_are_equalised_one_by_one_whatever_the_kind_of_index() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 1, 20, 30), dtype=np.uint8)
    lazy = equalised(Image(pixels, "TCYX"), tiles=(2, 2)).data
    expected = np.stack([clahe(one, tiles=(2, 2)) for one in pixels])
    assert np.array_equal(lazy[:, :, :, :], expected)
    for t in (0, 1, np.int64(0), np.int64(1)):
        assert np.array_equal(lazy[t, 0, 5:9, :], expected[t, 0, 5:9])


def test_order_of_grey_values_is_kept_within_one_tile() -> None:
    pixels = texture(64, 64)
    found = clahe(pixels, tiles=(1, 1), clip_limit=2.0)
    order = np.argsort(pixels.ravel(), kind="stable")
    assert (np.diff(found.ravel()[order].astype(int)) >= 0).all()


def test_constant_image_stays_constant() -> None:
    assert len(np.unique(clahe(np.full((64, 64), 7, np.uint8)))) == 1


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (np.zeros((8, 8), np.float32), {}, "float32"),
        (np.zeros(8, np.uint8), {}, "shape"),
        (np.zeros((4, 8), np.uint8), {}, "do not fit"),
        (np.zeros((8, 8), np.uint8), {"tiles": (0, 1)}, "do not fit"),
        (np.zeros((8, 8), np.uint8), {"clip_limit": 0.0}, "over 0"),
        (np.zeros((8, 8), np.uint8), {"clip_limit": np.nan}, "over 0"),
    ],
)
def test_refuses(pixels: NDArray[np.generic], options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        clahe(pixels, **options)


def test_a_clip_limit_without_influence_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    pixels = texture(96, 96, np.uint16, seed=5)
    for limit in (1.0, 50.0, 100.0, 100.0, 113.0):
        np.testing.assert_array_equal(clahe(pixels, tiles=(4, 4), clip_limit=limit), clahe(pixels, tiles=(4, 4)))
    assert caplog.text.count("under 228 are all the same; yours is 100") == 1
    assert (clahe(pixels, tiles=(4, 4), clip_limit=228) != clahe(pixels, tiles=(4, 4))).any()
    before = caplog.text
    clahe(texture(96, 96), tiles=(4, 4), clip_limit=0.5)
    assert caplog.text == before
