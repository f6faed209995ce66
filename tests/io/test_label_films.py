"""Labels of time lapses come back as they were written, here and in other programs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from cellweave.core.errors import InputError, ReadError, WriteError
from cellweave.io import read_image, read_label_film, read_labels, write_label_film, write_labels

films = arrays(np.int32, array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.integers(0, 70_000))


@pytest.fixture
def film(cells: NDArray[np.int32]) -> NDArray[np.int32]:
    """(T, Y, X)."""
    return np.stack([np.roll(cells, 3 * t, axis=1) for t in range(5)])


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(films)
@pytest.mark.parametrize("suffix", ["tif", "zarr"])
def test_round_trip(tmp_path: Path, suffix: str, labels: NDArray[np.int32]) -> None:
    path = tmp_path / f"{os.urandom(4).hex()}.{suffix}"
    write_label_film(path, labels)
    found = read_label_film(path)
    assert len(found) == len(labels)
    assert found[0].dtype == np.int32
    np.testing.assert_array_equal(found[:], labels)
    np.testing.assert_array_equal(found[-1], labels[-1])


def test_other_programs_read_them(tmp_path: Path, film: NDArray[np.int32]) -> None:
    for suffix in ("tif", "zarr"):
        write_label_film(tmp_path / f"a.{suffix}", film, pixel_size_um=(0.5, 0.25), interval_s=90.0)
        image = read_image(tmp_path / ("a.tif" if suffix == "tif" else "a.zarr/labels/cells"))
        assert (image.axes, image.shape) == ("TCYX", (5, 1, 128, 128))
        assert (image.pixel_size_um, image.interval_s) == ((0.5, 0.25), 90.0)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.is_ome
        assert (tif.series[0].axes, len(tif.pages)) == ("TYX", 5)
        np.testing.assert_array_equal(tif.asarray(), film)
        pixels = ElementTree.fromstring(tif.ome_metadata or "").find("{*}Image/{*}Pixels")
        assert pixels is not None
        wanted = {"SizeT": "5", "SizeC": "1", "SizeZ": "1", "TimeIncrement": "90.0", "TimeIncrementUnit": "s"}
        assert {name: pixels.get(name) for name in wanted} == wanted
    group: Any = zarr.open(tmp_path / "a.zarr", mode="r")["labels/cells"]  # type: ignore[index]
    np.testing.assert_array_equal(group["0"][:], film)
    assert group["0"].chunks == (1, 128, 128)
    multiscale = group.attrs["ome"]["multiscales"][0]
    assert [axis["name"] for axis in multiscale["axes"]] == ["t", "y", "x"]
    assert multiscale["axes"][0] == {"name": "t", "type": "time", "unit": "second"}
    assert multiscale["datasets"][0]["coordinateTransformations"][0]["scale"] == [90.0, 0.5, 0.25]


def test_files_are_the_same_each_time(tmp_path: Path, film: NDArray[np.int32]) -> None:
    write_label_film(tmp_path / "a.tif", film)
    before = (tmp_path / "a.tif").read_bytes()
    write_label_film(tmp_path / "a.tif", film)
    assert (tmp_path / "a.tif").read_bytes() == before


def test_beside_the_film_in_an_ome_zarr(tmp_path: Path, film: NDArray[np.int32]) -> None:
    """An image of two levels with channels, in the version 0.4 of the format."""
    path = tmp_path / "film.zarr"
    axes = [{"name": n, "type": t} for n, t in zip("tcyx", ("time", "channel", "space", "space"), strict=True)]
    sets = [
        {"path": str(i), "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 2**i, 2**i]}]} for i in (0, 1)
    ]
    attributes: Any = {"multiscales": [{"version": "0.4", "axes": axes, "datasets": sets}]}
    group = zarr.create_group(path, zarr_format=2, attributes=attributes)
    for i in (0, 1):
        group.create_array(str(i), shape=(5, 2, 128 >> i, 128 >> i), dtype=np.uint16)
    with pytest.raises(WriteError, match="5 x 128 x 128, the labels are 4 x 128 x 128"):
        write_label_film(path, film[:4])
    write_label_film(path, film)
    np.testing.assert_array_equal(read_label_film(path)[:], film)
    level: Any = zarr.open(path, mode="r")["labels/cells/1"]  # type: ignore[index]
    np.testing.assert_array_equal(level[:], film[:, 1::2, 1::2])


def test_one_plane_is_a_film_of_one_frame(tmp_path: Path, cells: NDArray[np.int32]) -> None:
    write_labels(tmp_path / "a.png", cells)
    found = read_label_film(tmp_path / "a.png")
    assert len(found) == 1
    np.testing.assert_array_equal(found[0], cells)


def test_frames_are_taken_one_by_one(tmp_path: Path, film: NDArray[np.int32]) -> None:
    class Frames:
        """Any sequence will do."""

        asked: ClassVar[list[int]] = []

        def __len__(self) -> int:
            return len(film)

        def __getitem__(self, t: int) -> NDArray[np.int32]:
            self.asked.append(t)
            return film[t]

        def __iter__(self) -> Iterator[Any]:
            raise AssertionError("not at once")

    write_label_film(tmp_path / "a.tif", Frames())  # type: ignore[arg-type]
    assert set(Frames.asked) == set(range(5))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), film)


def test_refuses(tmp_path: Path, film: NDArray[np.int32]) -> None:
    with pytest.raises(InputError, match=r"\.tif or \.zarr"):
        write_label_film(tmp_path / "a.png", film)
    with pytest.raises(InputError, match="no frame"):
        write_label_film(tmp_path / "a.tif", [])
    with pytest.raises(InputError, match="frame 1 is 127 x 128"):
        write_label_film(tmp_path / "a.tif", [film[0], film[1][1:]])
    with pytest.raises(InputError, match="frame 1"):
        write_label_film(tmp_path / "a.tif", [film[0], film[1] - 1])
    write_label_film(tmp_path / "b.tif", film)
    with pytest.raises(ReadError, match="2 dimensions"):
        read_labels(tmp_path / "b.tif")
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((3, 2, 8, 8), np.uint8), metadata={"axes": "TCYX"}, ome=True)
    with pytest.raises(ReadError, match="TCYX"):
        read_label_film(tmp_path / "c.tif")
    tifffile.imwrite(tmp_path / "d.tif", np.full((3, 8, 8), 0.5, np.float32), metadata={"axes": "TYX"}, ome=True)
    with pytest.raises(ReadError, match=r"d\.tif, frame 2"):
        read_label_film(tmp_path / "d.tif")[2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.tif", "c.tif", "d.tif"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, full_disk: Callable[[int], AbstractContextManager[None]]) -> None:
    noise = np.random.default_rng(0).integers(0, 60_000, (6, 100, 100), dtype=np.int32)
    with full_disk(30_000), pytest.raises(WriteError, match=r"a\.tif"):
        write_label_film(tmp_path / "a.tif", noise)
    assert list(tmp_path.iterdir()) == []


# --- the time between frames -----------------------------------------------------------------------------------


def test_the_interval_in_files_of_others(tmp_path: Path) -> None:
    pixels = np.zeros((4, 2, 16, 20), np.uint16)
    tifffile.imwrite(
        tmp_path / "imagej.tif", pixels, imagej=True, metadata={"axes": "TCYX", "finterval": 2.5, "tunit": "min"}
    )
    tifffile.imwrite(
        tmp_path / "ome.tif",
        pixels,
        ome=True,
        metadata={"axes": "TCYX", "TimeIncrement": 500.0, "TimeIncrementUnit": "ms"},
    )
    tifffile.imwrite(tmp_path / "plain.tif", pixels, ome=True, metadata={"axes": "TCYX"})
    expected = {"imagej.tif": 150.0, "ome.tif": 0.5, "plain.tif": None}
    assert {name: read_image(tmp_path / name).interval_s for name in expected} == expected
    assert read_image(tmp_path / "ome.tif").plane(t=1).interval_s == 0.5
