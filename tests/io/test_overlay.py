"""The overlay shows the image and the outline of every cell, on images of any kind and size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow
from skimage.segmentation import find_boundaries

from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.io import overlay, render_overlay, write_overlay


def pixels_of(cells: NDArray[np.int32]) -> NDArray[np.float32]:
    noise = np.random.default_rng(0).random(cells.shape, np.float32)
    return np.asarray((cells > 0) * 800 + noise * 100 + 50, np.float32)


def drawn(picture: NDArray[np.uint8], image: Image) -> NDArray[np.bool_]:
    """Pixels that differ from the picture without cells."""
    none = np.zeros((image.height, image.width), np.int32)
    return np.asarray((picture != render_overlay(image, none)).any(axis=2))


def test_outlines_are_the_inner_boundaries(cells: NDArray[np.int32]) -> None:
    image = Image(pixels_of(cells)[None])
    picture = render_overlay(image, cells)
    assert (picture.shape, picture.dtype) == ((128, 128, 3), np.uint8)
    expected = find_boundaries(cells, connectivity=1, mode="inner") & (cells > 0)
    assert np.array_equal(drawn(picture, image), expected)


def test_no_cells_show_the_image_in_gray(cells: NDArray[np.int32]) -> None:
    picture = render_overlay(Image(pixels_of(cells)[None]), np.zeros_like(cells))
    assert (picture[..., 0] == picture[..., 1]).all()
    assert picture[cells > 0].mean() > 150
    assert picture[cells == 0].mean() < 50


def test_near_cells_have_different_colours() -> None:
    labels = np.kron(np.arange(1, 401).reshape(20, 20), np.ones((9, 9))).astype(np.int32)
    picture = render_overlay(Image(np.zeros((1, 180, 180), np.uint8)), labels)
    colours = picture[::9, ::9].astype(int)  # the corner of each cell lies on its outline
    assert (np.abs(np.diff(colours, axis=0)).sum(axis=2) > 0).all()
    assert (np.abs(np.diff(colours, axis=1)).sum(axis=2) > 0).all()
    assert (np.abs(colours[1:, 1:] - colours[:-1, :-1]).sum(axis=2) > 0).all()
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) >= 6


def test_a_photograph_is_shown_as_it_is(cells: NDArray[np.int32]) -> None:
    photograph = np.random.default_rng(0).integers(0, 255, (128, 128, 3)).astype(np.uint8)
    image = Image.from_array(photograph)
    picture = render_overlay(image, cells)
    untouched = ~(find_boundaries(cells, connectivity=1, mode="inner") & (cells > 0))
    assert np.array_equal(picture[untouched], photograph[untouched])


def test_a_photograph_of_16_bits_is_scaled(cells: NDArray[np.int32]) -> None:
    photograph = np.random.default_rng(0).integers(0, 4095, (3, 128, 128)).astype(np.uint16)
    picture = render_overlay(Image(photograph, color=True), np.zeros_like(cells))
    np.testing.assert_allclose(picture.transpose(2, 0, 1), photograph / 4095 * 255, atol=2)


def test_channels_are_a_composite_and_the_nucleus_is_blue(cells: NDArray[np.int32]) -> None:
    one = pixels_of(cells)
    for names in (("DAPI", "actin"), ("actin", "nucleus")):
        nucleus = 0 if names[0] == "DAPI" else 1
        channels = np.zeros((2, 128, 128), np.float32)
        channels[nucleus] = one
        picture = render_overlay(Image(channels, channel_names=names), np.zeros_like(cells))
        inside = picture[cells > 0].mean(axis=0)
        assert inside.argmax() == 2
        channels = channels[::-1]
        other = render_overlay(Image(channels, channel_names=names), np.zeros_like(cells))
        assert other[cells > 0].mean(axis=0).argmax() == 1


@pytest.mark.parametrize("channels", [1, 2, 3, 7, 12])
def test_any_number_of_channels(cells: NDArray[np.int32], channels: int) -> None:
    image = Image(np.stack([pixels_of(cells)] * channels))
    assert drawn(render_overlay(image, cells), image).any()


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 128, 128), np.uint8),
        np.full((1, 128, 128), 7.5),
        np.full((2, 128, 128), np.nan),
        np.full((1, 128, 128), np.inf),
        np.where(np.arange(128) % 3 == 0, np.nan, np.arange(128.0))[None, None].repeat(128, 1),
        np.ones((1, 128, 128), bool),
        np.full((1, 128, 128), 1e300),
    ],
)
def test_constant_and_missing_pixels(cells: NDArray[np.int32], pixels: NDArray[Any]) -> None:
    with np.errstate(all="raise", under="ignore"):
        image = Image(pixels)
        picture = render_overlay(image, cells)
    assert drawn(picture, image).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 3), (3, 40_000)])
def test_odd_sizes(shape: tuple[int, int]) -> None:
    picture = render_overlay(Image(np.ones((1, *shape), np.uint8)), np.ones(shape, np.int32))
    assert max(picture.shape[:2]) <= 4096


def test_a_huge_image_is_shrunk_and_every_cell_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay, "LONGEST_SIDE", 64)
    monkeypatch.setattr(overlay, "_BAND_PIXELS", 1000)
    labels = np.zeros((250, 190), np.int32)
    tops, lefts = np.mgrid[2:240:9, 2:180:9]
    for i, (top, left) in enumerate(zip(tops.ravel(), lefts.ravel(), strict=True), start=1):
        labels[top : top + 5, left : left + 5] = i
    image = Image(np.zeros((1, 250, 190), np.uint8))
    picture = render_overlay(image, labels)
    assert picture.shape == (63, 48, 3)
    outlined = drawn(picture, image)
    assert np.unique(overlay._outlines(labels, 4)).tolist() == [0, *range(1, labels.max() + 1)]
    assert np.array_equal(outlined, overlay._outlines(labels, 4) > 0)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_shrinking_is_the_mean_of_blocks_and_bands_change_nothing(factor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).random((2, 31, 23)).astype(np.float32)
    pixels[0, 5:12, 3:9] = np.nan
    image = Image(pixels)
    whole = overlay._reduced(image, factor)
    monkeypatch.setattr(overlay, "_BAND_PIXELS", 100)
    np.testing.assert_allclose(overlay._reduced(image, factor), whole, rtol=1e-6)
    padded = np.full((2, -(-31 // factor) * factor, -(-23 // factor) * factor), np.nan, np.float32)
    padded[:, :31, :23] = pixels
    blocks = padded.reshape(2, padded.shape[1] // factor, factor, padded.shape[2] // factor, factor)
    count = np.isfinite(blocks).sum(axis=(2, 4))
    mean = np.nansum(blocks, axis=(2, 4)) / np.where(count > 0, count, np.nan)
    np.testing.assert_allclose(whole, mean, rtol=1e-5)


def test_colours_suit_a_bright_image(cells: NDArray[np.int32]) -> None:
    bright = Image(np.where(cells > 0, 215, 230)[None].astype(np.uint8).repeat(3, 0), color=True)
    picture = render_overlay(bright, cells)
    assert picture[drawn(picture, bright)].mean() < 120


def test_sizes_must_agree(cells: NDArray[np.int32]) -> None:
    with pytest.raises(InputError, match="128 x 128, the image is 64 x 128"):
        render_overlay(Image(np.ones((1, 64, 128))), cells)
    with pytest.raises(InputError, match="3 depths"):
        render_overlay(Image(np.ones((1, 3, 128, 128)), axes="CZYX"), cells)


def test_writing(tmp_path: Path, cells: NDArray[np.int32]) -> None:
    image = Image(pixels_of(cells)[None])
    write_overlay(tmp_path / "a.png", image, cells)
    assert np.array_equal(np.asarray(Pillow.open(tmp_path / "a.png")), render_overlay(image, cells))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(InputError, match=r"a\.jpg: overlays are written as \.png"):
        write_overlay(tmp_path / "a.jpg", image, cells)


def test_inputs_are_not_changed(cells: NDArray[np.int32]) -> None:
    pixels = pixels_of(cells)[None]
    before, labels = pixels.copy(), cells.copy()
    render_overlay(Image(pixels), cells)
    assert np.array_equal(pixels, before)
    assert np.array_equal(labels, cells)


def test_large_cells_of_large_images_have_thick_outlines() -> None:
    labels = np.zeros((1600, 100), np.int32)
    labels[20:80, 20:80] = 1
    outlines = overlay._outlines(labels, 1)
    assert outlines[50, 20:24].tolist() == [1, 1, 0, 0]
    assert overlay._outlines(labels[:200], 1)[50, 20:24].tolist() == [1, 0, 0, 0]
