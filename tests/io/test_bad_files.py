"""Whatever is wrong with a file, the error is ours and names the file, the fact and the remedy."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from cellweave.core.errors import InputError, ReadError
from cellweave.io import read_image, read_labels


@pytest.mark.parametrize("read", [read_image, read_labels])
@pytest.mark.parametrize("suffix", ["tif", "png", "jpg", "bmp", "npy", "xyz"])
def test_missing_and_empty_files(tmp_path: Path, suffix: str, read: object) -> None:
    path = tmp_path / f"a.{suffix}"
    with pytest.raises(ReadError, match=rf"a\.{suffix}: there is no such file; check"):
        read(path)  # type: ignore[operator]
    path.touch()
    with pytest.raises(ReadError, match=rf"a\.{suffix}: the file is empty \(0 bytes\); copy"):
        read(path)  # type: ignore[operator]


@pytest.mark.parametrize("read", [read_image, read_labels])
@pytest.mark.parametrize("suffix", ["tif", "tiff", "png", "jpg", "bmp", "npy"])
def test_a_text_with_the_name_of_an_image(tmp_path: Path, suffix: str, read: object) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_text("This is not an image.\n" * 20)
    with pytest.raises(ReadError, match=rf"a\.{suffix}: is named like .*'This is not .*renamed or damaged"):
        read(path)  # type: ignore[operator]


def test_an_unknown_format(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("hello")
    with pytest.raises(ReadError, match=r"a\.xyz: is none of the formats.*TIFF, PNG.*save it as one"):
        read_image(tmp_path / "a.xyz")


def test_a_folder_of_files(tmp_path: Path) -> None:
    (tmp_path / "a.tif").touch()
    for read in (read_image, read_labels):
        with pytest.raises(ReadError, match="is a folder without zarr metadata; give the image files"):
            read(tmp_path)


@pytest.mark.parametrize("name", ["a.png", "a.dat", "a", "a.npy"])
def test_the_content_counts_and_not_the_name(tmp_path: Path, name: str) -> None:
    array = np.arange(63, dtype=np.uint8).reshape(7, 9)
    tifffile.imwrite(tmp_path / "tiff", array)
    Pillow.fromarray(array).save(tmp_path / "png", format="PNG")
    for kind in ("tiff", "png"):
        os.replace(tmp_path / kind, tmp_path / name)
        assert np.array_equal(read_image(tmp_path / name).read()[0], array)
        assert np.array_equal(read_labels(tmp_path / name), array)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0")
    (tmp_path / "a.tif").chmod(0)
    with pytest.raises(ReadError, match=r"a\.tif: cannot be opened.*permissions"):
        read_image(tmp_path / "a.tif")


def outcome(read: Callable[[], object]) -> str:
    """The text of our error, or nothing when there is none; any other error fails the test."""
    try:
        read()
    except (ReadError, InputError) as error:
        return str(error)
    return ""


HEADS = [b"II*\0", b"MM\0*", b"II+\0", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"\x93NUMPY", b""]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(head=st.sampled_from(HEADS), rest=st.binary(max_size=300), suffix=st.sampled_from(["tif", "png", "npy", "dat"]))
def test_any_bytes_are_an_image_or_our_error(tmp_path: Path, head: bytes, rest: bytes, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(head + rest)
    for said in (outcome(lambda: np.asarray(read_image(path))), outcome(lambda: read_labels(path))):
        assert said == "" or str(path) in said


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), form=st.sampled_from(["ome", "imagej", "tiles"]))
def test_any_damage_of_a_tiff_is_pixels_or_our_error(tmp_path: Path, data: st.DataObject, form: str) -> None:
    whole = tmp_path / f"{form}.tif"
    if not whole.exists():
        options = {"ome": {"ome": True}, "imagej": {"imagej": True}, "tiles": {"tile": (16, 16), "compression": "zlib"}}
        tifffile.imwrite(whole, np.zeros((40, 40), np.uint16), **options[form])
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(8, min(1500, len(content) - 1)))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.tif"
    path.write_bytes(content)

    def read() -> None:
        image = read_image(path)
        np.asarray(image.data[tuple(slice(0, 40) for _ in image.shape)])

    said = outcome(read)
    assert said == "" or str(path) in said


def test_labels_that_are_no_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tifffile.imwrite(tmp_path / "float.tif", rng.random((8, 8), np.float32))
    with pytest.raises(ReadError, match=r"float\.tif: label images hold whole numbers.*probability"):
        read_labels(tmp_path / "float.tif")
    tifffile.imwrite(tmp_path / "nan.tif", np.full((8, 8), np.nan, np.float32))
    with pytest.raises(ReadError, match="NaN"):
        read_labels(tmp_path / "nan.tif")
    tifffile.imwrite(tmp_path / "negative.tif", np.full((8, 8), -1, np.int16))
    with pytest.raises(ReadError, match="found -1"):
        read_labels(tmp_path / "negative.tif")
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((3, 8, 8), np.uint16), imagej=True)
    with pytest.raises(ReadError, match=r"stack\.tif: a label image has 2 dimensions.*3 x 8 x 8"):
        read_labels(tmp_path / "stack.tif")
    Pillow.fromarray(rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(tmp_path / "colour.png")
    with pytest.raises(ReadError, match=r"colour\.png: a label image has 2 dimensions.*8 x 8 x 3.*without colours"):
        read_labels(tmp_path / "colour.png")


def test_labels_of_odd_kinds(tmp_path: Path) -> None:
    whole = np.arange(12.0).reshape(3, 4)
    tifffile.imwrite(tmp_path / "whole floats.tif", whole)
    assert np.array_equal(read_labels(tmp_path / "whole floats.tif"), whole)
    tifffile.imwrite(tmp_path / "wide.tif", np.ones((1, 40_000), np.uint8))
    assert read_labels(tmp_path / "wide.tif").shape == (1, 40_000)
    tifffile.imwrite(tmp_path / "dot.tif", np.ones((1, 1), np.uint8))
    assert read_labels(tmp_path / "dot.tif").shape == (1, 1)
    tifffile.imwrite(tmp_path / "white.tif", whole.astype(np.uint8), photometric="miniswhite")
    assert np.array_equal(read_labels(tmp_path / "white.tif"), whole), "ids are never inverted"


@pytest.mark.parametrize("shape", [(1, 1), (3, 40_000), (40_000, 3)])
@pytest.mark.parametrize("suffix", ["tif", "png", "npy"])
def test_odd_sizes(tmp_path: Path, shape: tuple[int, int], suffix: str) -> None:
    array = np.random.default_rng(0).integers(0, 60_000, shape).astype(np.uint16)
    path = tmp_path / f"a.{suffix}"
    if suffix == "tif":
        tifffile.imwrite(path, array)
    elif suffix == "png":
        Pillow.fromarray(array).save(path)
    else:
        np.save(path, array)
    assert np.array_equal(read_image(path).read()[0], array)
