"""PNG, JPEG and BMP: all bits stay, transparency goes, orientation is applied."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from cellweave.core.errors import ReadError
from cellweave.io import read_image, read_labels

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 255, (13, 17)).astype(np.uint8)
RGB = RNG.integers(0, 255, (13, 17, 3)).astype(np.uint8)


def png(pixels: NDArray[np.uint8], depth: int, kind: int) -> bytes:
    """A PNG of any bit depth, straight from the specification; `pixels` are the packed bytes of each row."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    width = pixels.shape[1] * 8 // depth
    header = struct.pack(">IIBBBBB", width, pixels.shape[0], depth, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_gray_and_colour(tmp_path: Path, suffix: str) -> None:
    Pillow.fromarray(GRAY).save(tmp_path / f"gray.{suffix}")
    Pillow.fromarray(RGB).save(tmp_path / f"rgb.{suffix}")
    gray, rgb = read_image(tmp_path / f"gray.{suffix}"), read_image(tmp_path / f"rgb.{suffix}")
    assert (gray.axes, gray.shape, gray.color, gray.pixel_size_um) == ("CYX", (1, 13, 17), False, None)
    assert np.array_equal(gray.read()[0], GRAY)
    assert rgb.color
    assert rgb.channel_names == ("red", "green", "blue")
    assert np.array_equal(rgb.read(), RGB.transpose(2, 0, 1))
    assert np.array_equal(rgb.read(slice(3, 7), slice(2, 9)), RGB.transpose(2, 0, 1)[:, 3:7, 2:9])


def test_jpeg(tmp_path: Path) -> None:
    y, x = np.mgrid[:40, :60]
    smooth = np.stack([y * 4, x * 4, 200 - y - x], -1).astype(np.uint8)
    Pillow.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    image = read_image(tmp_path / "a.jpg")
    assert image.facts["format"] == "JPEG"
    assert np.abs(image.read().astype(int) - smooth.transpose(2, 0, 1)).max() < 20


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_png_of_16_bits_keeps_all_bits(tmp_path: Path, samples: int) -> None:
    array = RNG.integers(0, 65_535, (13, 17, samples)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(array[..., 0] if samples == 1 else array))
    image = read_image(tmp_path / "a.png")
    kept = 3 if samples >= 3 else 1
    assert (image.dtype, image.shape, image.color) == (np.uint16, (kept, 13, 17), samples >= 3)
    assert np.array_equal(image.read(), array[..., :kept].transpose(2, 0, 1))
    assert image.facts["bits"] == "16"


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_dropped(tmp_path: Path, mode: str) -> None:
    picture = Pillow.fromarray(RGB).convert(mode)
    picture.putalpha(Pillow.fromarray(GRAY))
    picture.save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.n_channels == (1 if mode == "LA" else 3)
    assert np.array_equal(image.read(), np.asarray(picture).transpose(2, 0, 1)[:-1])


def test_colour_tables(tmp_path: Path) -> None:
    indices = RNG.integers(0, 7, (13, 17)).astype(np.uint8)
    table = RNG.integers(0, 255, (7, 3)).astype(np.uint8)
    picture = Pillow.fromarray(indices).convert("P")
    picture.putpalette(table.tobytes())
    picture.save(tmp_path / "colours.png")
    colours = read_image(tmp_path / "colours.png")
    assert colours.color
    assert np.array_equal(colours.read(slice(2, 9)), table[indices].transpose(2, 0, 1)[:, 2:9])
    assert np.array_equal(read_labels(tmp_path / "colours.png"), indices), "of labels, the indices are the ids"
    picture.putpalette(np.repeat(table[:, :1], 3, axis=1).tobytes())
    picture.save(tmp_path / "grays.png")
    grays = read_image(tmp_path / "grays.png")
    assert not grays.color
    assert np.array_equal(grays.read()[0], table[indices, 0])


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_keep_their_values(tmp_path: Path, depth: int) -> None:
    packed = RNG.integers(0, 255, (5, 4)).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(png(packed, depth, 0))
    bits = np.unpackbits(packed, axis=1).reshape(5, -1, depth)
    expected = bits @ (1 << np.arange(depth)[::-1])
    assert np.array_equal(read_image(tmp_path / "a.png").read()[0], expected)
    assert np.array_equal(read_labels(tmp_path / "a.png"), expected)


@pytest.mark.parametrize(("orientation", "turn"), [(3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1))])
def test_the_orientation_of_a_camera_is_applied(tmp_path: Path, orientation: int, turn: object) -> None:
    array = np.zeros((16, 32), np.uint8)
    array[:8, :8] = 255
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    Pillow.fromarray(array).save(tmp_path / "a.jpg", exif=exif, quality=100)
    found = read_image(tmp_path / "a.jpg").read()[0]
    assert np.abs(found.astype(int) - turn(array)).max() < 10  # type: ignore[operator]


def test_resolution_of_a_microscope_and_of_a_printer(tmp_path: Path) -> None:
    Pillow.fromarray(GRAY).save(tmp_path / "a.png", dpi=(101_600, 50_800))
    assert read_image(tmp_path / "a.png").pixel_size_um == pytest.approx((0.5, 0.25), rel=1e-4)
    Pillow.fromarray(GRAY).save(tmp_path / "b.jpg", dpi=(72, 72))
    image = read_image(tmp_path / "b.jpg")
    assert image.pixel_size_um is None
    assert "72 dpi" in image.facts["resolution"]


def test_cmyk_jpeg_becomes_red_green_blue(tmp_path: Path) -> None:
    Pillow.fromarray(RGB).convert("CMYK").save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").color


def test_a_very_large_png_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Pillow.fromarray(RGB).save(tmp_path / "a.png")
    Pillow.fromarray(RGB).save(tmp_path / "a.jpg")
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 50)
    assert np.array_equal(read_image(tmp_path / "a.png").read(), RGB.transpose(2, 0, 1))
    with pytest.raises(ReadError, match=r"a\.jpg.*tiled TIFF"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_a_truncated_picture_is_an_error(tmp_path: Path, suffix: str) -> None:
    array = RNG.integers(0, 255, (64, 64, 3)).astype(np.uint8)
    Pillow.fromarray(array).save(tmp_path / f"whole.{suffix}")
    data = (tmp_path / f"whole.{suffix}").read_bytes()
    path = tmp_path / f"cut.{suffix}"
    for share in (0.01, 0.1, 0.5, 0.9):
        path.write_bytes(data[: max(4, int(share * len(data)))])
        with pytest.raises(ReadError, match=rf"cut\.{suffix}"):
            read_image(path)


def test_a_truncated_16_bit_png_is_an_error(tmp_path: Path) -> None:
    data = imagecodecs.png_encode(RNG.integers(0, 65_535, (64, 64)).astype(np.uint16))
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ReadError, match=r"cut\.png.*copy it again"):
        read_image(tmp_path / "cut.png")


@pytest.mark.shared_data
def test_real_16_bit_pictures(shared_data: Path) -> None:
    path = sorted((shared_data / "bbbc039" / "images").glob("*.png"))[0]
    image = read_image(path)
    assert image.dtype == np.uint16
    assert np.array_equal(image.read()[0], imagecodecs.png_decode(path.read_bytes()))
