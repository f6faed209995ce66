"""Labels come back as they were written, in every format; a failure leaves nothing behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image as Pillow

from cellweave.core.errors import InputError, WriteError
from cellweave.io import read_image, read_labels, write_labels
from cellweave.io import tiff as tiff_module

SUFFIXES = ["tif", "tiff", "png", "npy", "zarr"]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 65_535)))
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip(tmp_path: Path, suffix: str, labels: NDArray[np.int32]) -> None:
    path = tmp_path / f"{os.urandom(4).hex()}.{suffix}"
    write_labels(path, labels)
    found = read_labels(path)
    assert found.dtype == np.int32
    assert np.array_equal(found, labels)


@pytest.mark.parametrize("suffix", ["tif", "npy", "zarr"])
def test_round_trip_of_70_000_cells(tmp_path: Path, suffix: str) -> None:
    labels = np.arange(1, 70_001, dtype=np.int32).repeat(7).reshape(700, 700)
    path = tmp_path / f"a.{suffix}"
    write_labels(path, labels)
    assert np.array_equal(read_labels(path), labels)
    largest = np.array([[0, 2**31 - 1]], np.int32)
    write_labels(tmp_path / f"b.{suffix}", largest)
    assert np.array_equal(read_labels(tmp_path / f"b.{suffix}"), largest)


def test_other_programs_read_them(tmp_path: Path, cells: NDArray[np.int32]) -> None:
    for suffix in SUFFIXES:
        write_labels(tmp_path / f"a.{suffix}", cells)
    assert np.array_equal(tifffile.imread(tmp_path / "a.tif"), cells)
    assert np.array_equal(np.asarray(Pillow.open(tmp_path / "a.tif")), cells)
    assert np.array_equal(np.asarray(Pillow.open(tmp_path / "a.png")), cells)
    assert np.array_equal(np.load(tmp_path / "a.npy"), cells)
    assert np.array_equal(zarr.open(tmp_path / "a.zarr", mode="r")["labels/cells/0"][:], cells)  # type: ignore[index]


def test_types_on_disk(tmp_path: Path) -> None:
    for highest, dtype in ((0, np.uint16), (65_535, np.uint16), (65_536, np.uint32)):
        labels = np.full((5, 6), highest, np.int32)
        write_labels(tmp_path / "a.tif", labels)
        write_labels(tmp_path / f"{highest}.zarr", labels)
        assert tifffile.imread(tmp_path / "a.tif").dtype == dtype
        assert read_image(tmp_path / f"{highest}.zarr" / "labels" / "cells").dtype == dtype
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.is_ome
        assert tif.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert not tif.is_bigtiff


def test_a_large_tiff_is_a_bigtiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_module, "_BIG", 100)
    labels = np.arange(600, dtype=np.int32).reshape(20, 30)
    write_labels(tmp_path / "a.tif", labels)
    assert read_image(tmp_path / "a.tif").facts["format"] == "OME-TIFF (BigTIFF)"
    assert np.array_equal(read_labels(tmp_path / "a.tif"), labels)


@pytest.mark.parametrize("suffix", ["tif", "png", "zarr"])
def test_the_pixel_size_is_kept(tmp_path: Path, suffix: str, cells: NDArray[np.int32]) -> None:
    path = tmp_path / f"a.{suffix}"
    write_labels(path, cells, pixel_size_um=(0.65, 0.325))
    where = path / "labels" / "cells" if suffix == "zarr" else path
    assert read_image(where).pixel_size_um == pytest.approx((0.65, 0.325), rel=1e-5)
    write_labels(tmp_path / f"b.{suffix}", cells)
    where = tmp_path / f"b.{suffix}"
    assert read_image(where / "labels" / "cells" if suffix == "zarr" else where).pixel_size_um is None


def test_the_same_labels_give_the_same_bytes(tmp_path: Path, cells: NDArray[np.int32]) -> None:
    for suffix in ("tif", "png", "npy"):
        (tmp_path / "x").mkdir(exist_ok=True)
        write_labels(tmp_path / f"a.{suffix}", cells, pixel_size_um=(0.5, 0.5))
        write_labels(tmp_path / "x" / f"a.{suffix}", cells.copy(), pixel_size_um=(0.5, 0.5))
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / "x" / f"a.{suffix}").read_bytes()


def test_png_tells_where_its_ids_end(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.png: PNG holds ids up to 65535.*65536.*\.tif"):
        write_labels(tmp_path / "a.png", np.array([[65_536]], np.int32))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.bmp"])
def test_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"\.tif, \.png, \.npy or \.zarr"):
        write_labels(tmp_path / name, np.ones((3, 3), np.int32))


@pytest.mark.parametrize("labels", [np.zeros((3, 3, 3), int), np.full((3, 3), 0.5), np.full((3, 3), -1)])
def test_other_arrays_are_refused(tmp_path: Path, labels: NDArray[np.int32]) -> None:
    with pytest.raises(InputError):
        write_labels(tmp_path / "a.tif", labels)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_folder_that_is_not_there(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(WriteError, match=rf"absent.a\.{suffix}"):
        write_labels(tmp_path / "absent" / f"a.{suffix}", np.ones((3, 3), np.int32))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_nothing(tmp_path: Path, suffix: str, small_disk: Path | None) -> None:
    """On a real file system of 64 kB, where the test may mount one."""
    labels = np.random.default_rng(0).integers(0, 60_000, (400, 400)).astype(np.int32)
    if small_disk is None:
        pytest.skip("needs the right to mount a small disk")
    (small_disk / "old.txt").write_text("old")
    with pytest.raises(WriteError, match=rf"a\.{suffix}: the disk is full"):
        write_labels(small_disk / f"a.{suffix}", labels)
    assert [p.name for p in small_disk.iterdir()] == ["old.txt"]
    write_labels(small_disk / f"b.{suffix}", labels[:20, :20])
    assert np.array_equal(read_labels(small_disk / f"b.{suffix}"), labels[:20, :20])


@pytest.mark.parametrize("suffix", ["tif", "png", "npy"])
def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, suffix: str, cells: NDArray[np.int32], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a.{suffix}"
    write_labels(path, cells)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tifffile, "imwrite", fail)
    monkeypatch.setattr(Pillow.Image, "save", fail)
    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", fail)
    with pytest.raises(WriteError, match="disk is full"):
        write_labels(path, cells * 2)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert np.array_equal(read_labels(path), cells)
