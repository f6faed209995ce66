"""OME-Zarr 0.4 and 0.5 written with zarr directly, as the specification says; labels beside an image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellweave.core.errors import ReadError, WriteError
from cellweave.io import read_image, read_labels, write_labels

RNG = np.random.default_rng(0)
PIXELS: NDArray[np.uint16] = RNG.integers(0, 60_000, (2, 3, 40, 52)).astype(np.uint16)


def write_image(
    path: Path,
    array: NDArray[Any],
    axes: str,
    *,
    version: str = "0.5",
    scale: float = 0.5,
    unit: str | None = "micrometer",
    levels: int = 1,
) -> None:
    """An OME-Zarr image as other programs write it."""
    form = 2 if version == "0.4" else 3
    kinds = {"t": "time", "c": "channel"}
    described = [
        {"name": a, "type": kinds.get(a, "space")} | ({"unit": unit} if unit and a in "zyx" else {}) for a in axes
    ]
    datasets = []
    for i in range(levels):
        factors = [scale * 2**i if a in "yx" else 1.0 for a in axes]
        datasets.append({"path": f"s{i}", "coordinateTransformations": [{"type": "scale", "scale": factors}]})
    channels = [{"label": name, "color": "00FF00"} for name in ("DAPI", "GFP")]
    ome = {
        "multiscales": [{"axes": described, "datasets": datasets, "name": "image"}],
        "omero": {"channels": channels},
    }
    if form == 2:
        ome["multiscales"][0]["version"] = version  # type: ignore[index]
    attributes = ome if form == 2 else {"ome": {"version": version, **ome}}
    group = zarr.create_group(path, zarr_format=form, attributes=attributes)
    for i in range(levels):
        level = array[..., :: 2**i, :: 2**i]
        chunks = tuple(1 if a in "tcz" else 16 for a in axes)
        group.create_array(f"s{i}", shape=level.shape, dtype=level.dtype, chunks=chunks)[:] = level


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_reading(tmp_path: Path, version: str) -> None:
    write_image(tmp_path / "a.zarr", PIXELS, "czyx", version=version, levels=2)
    image = read_image(tmp_path / "a.zarr")
    assert (image.axes, image.shape, image.dtype) == ("CZYX", PIXELS.shape, np.uint16)
    assert image.channel_names == ("DAPI", "GFP")
    assert image.pixel_size_um == (0.5, 0.5)
    assert image.facts["format"] == f"OME-Zarr {version} (Zarr {2 if version == '0.4' else 3})"
    assert image.facts["pyramid levels"] == "2 x 3 x 40 x 52; 2 x 3 x 20 x 26"
    assert np.array_equal(np.asarray(image), PIXELS)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_region_is_a_crop_of_the_whole(tmp_path: Path, version: str, data: st.DataObject) -> None:
    if not (tmp_path / "a.zarr").exists():
        write_image(tmp_path / "a.zarr", PIXELS, "czyx", version=version)
    image = read_image(tmp_path / "a.zarr").plane(z=1)
    y, x = (sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in (40, 52))
    assert np.array_equal(image.read(slice(*y), slice(*x)), PIXELS[:, 1, y[0] : y[1], x[0] : x[1]])


def test_axes_in_another_order(tmp_path: Path) -> None:
    write_image(tmp_path / "a.zarr", PIXELS.transpose(2, 3, 1, 0), "yxzc")
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.zarr")), PIXELS)


def test_single_times_and_depths_are_dropped(tmp_path: Path) -> None:
    write_image(tmp_path / "a.zarr", PIXELS[None, :, :1], "tczyx")
    image = read_image(tmp_path / "a.zarr")
    assert image.axes == "CYX"
    assert np.array_equal(image.read(), PIXELS[:, 0])


@pytest.mark.parametrize(("unit", "um"), [("nanometer", 5e-4), ("millimeter", 500.0), (None, None), ("second", None)])
def test_units(tmp_path: Path, unit: str | None, um: float | None) -> None:
    write_image(tmp_path / "a.zarr", PIXELS, "czyx", unit=unit)
    assert read_image(tmp_path / "a.zarr").pixel_size_um == (None if um is None else pytest.approx((um, um)))


def test_scale_of_the_whole_multiplies(tmp_path: Path) -> None:
    write_image(tmp_path / "a.zarr", PIXELS, "czyx")
    metadata = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())
    image = metadata["attributes"]["ome"]["multiscales"][0]
    image["coordinateTransformations"] = [{"type": "scale", "scale": [1, 1, 3, 2]}]
    (tmp_path / "a.zarr" / "zarr.json").write_text(json.dumps(metadata))
    assert read_image(tmp_path / "a.zarr").pixel_size_um == (1.5, 1.0)


def test_unknown_axes_are_not_guessed(tmp_path: Path) -> None:
    write_image(tmp_path / "a.zarr", PIXELS, "czyx")
    path = tmp_path / "a.zarr" / "zarr.json"
    path.write_text(path.read_text().replace('"name": "z"', '"name": "angle"'))
    with pytest.raises(ReadError, match=r"a\.zarr.*axes="):
        read_image(tmp_path / "a.zarr")
    assert read_image(tmp_path / "a.zarr", axes="CTYX").axes == "TCYX"


@pytest.mark.parametrize("form", [2, 3])
def test_plain_arrays(tmp_path: Path, form: int) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=PIXELS[0, 0], zarr_format=form)
    assert np.array_equal(read_image(tmp_path / "a.zarr").read()[0], PIXELS[0, 0])
    zarr.create_array(tmp_path / "b.zarr", data=PIXELS[0], zarr_format=form)
    with pytest.raises(ReadError, match="axes='CYX'"):
        read_image(tmp_path / "b.zarr")
    names = (
        {"dimension_names": ("z", "y", "x")} if form == 3 else {"attributes": {"_ARRAY_DIMENSIONS": ["z", "y", "x"]}}
    )
    zarr.create_array(tmp_path / "c.zarr", data=PIXELS[0], zarr_format=form, **names)
    assert read_image(tmp_path / "c.zarr").axes == "CZYX"


def test_collections_and_plates(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "a.zarr", zarr_format=2, attributes={"bioformats2raw.layout": 3})
    write_image(tmp_path / "a.zarr" / "0", PIXELS, "czyx", version="0.4")
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.zarr")), PIXELS)
    zarr.create_group(tmp_path / "plate.zarr", zarr_format=2, attributes={"plate": {"wells": []}})
    with pytest.raises(ReadError, match=r"plate.*A/1/0"):
        read_image(tmp_path / "plate.zarr")
    zarr.create_group(tmp_path / "group.zarr", zarr_format=3)
    write_image(tmp_path / "group.zarr" / "inner", PIXELS, "czyx")
    with pytest.raises(ReadError, match="sub-groups: inner"):
        read_image(tmp_path / "group.zarr")


def test_folders_that_are_not_zarr(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(ReadError, match=r"a\.zarr: is a folder without zarr metadata"):
        read_image(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "zarr.json").write_text("{ not json")
    with pytest.raises(ReadError, match=r"a\.zarr: cannot be read as OME-Zarr"):
        read_image(tmp_path / "a.zarr")
    with pytest.raises(ReadError, match=r"a\.zarr: cannot be read as OME-Zarr"):
        read_labels(tmp_path / "a.zarr")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_truncated_chunk_is_told_when_it_is_read(tmp_path: Path, version: str) -> None:
    write_image(tmp_path / "a.zarr", PIXELS, "czyx", version=version)
    chunks = [
        p for p in (tmp_path / "a.zarr" / "s0").rglob("*") if p.is_file() and not p.name.startswith((".", "zarr"))
    ]
    for chunk in chunks:
        chunk.write_bytes(chunk.read_bytes()[:20])
    image = read_image(tmp_path / "a.zarr")
    with pytest.raises(ReadError, match=r"a\.zarr: the pixels cannot be read"):
        image.plane(z=0).read()


def test_complex_pixels_are_refused(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=np.zeros((8, 8), np.complex64))
    with pytest.raises(ReadError, match="complex64"):
        read_image(tmp_path / "a.zarr")


def test_metadata_that_does_not_fit_the_pixels(tmp_path: Path) -> None:
    write_image(tmp_path / "a.zarr", PIXELS, "czyx")
    path = tmp_path / "a.zarr" / "zarr.json"
    metadata = json.loads(path.read_text())
    del metadata["attributes"]["ome"]["multiscales"][0]["axes"][0]
    path.write_text(json.dumps(metadata))
    with pytest.raises(ReadError, match="3 axes, its pixels have 4"):
        read_image(tmp_path / "a.zarr")


def test_labels_alone(tmp_path: Path, cells: NDArray[np.int32]) -> None:
    path = tmp_path / "a.zarr"
    write_labels(path, cells, pixel_size_um=(0.5, 0.25))
    assert np.array_equal(read_labels(path), cells)
    assert np.array_equal(read_labels(path / "labels" / "cells"), cells)
    image = read_image(path / "labels" / "cells")
    assert image.pixel_size_um == (0.5, 0.25)
    assert image.dtype == np.uint16
    root, labels, inner = (
        dict(zarr.open_group(p, mode="r").attrs)["ome"] for p in (path, path / "labels", path / "labels/cells")
    )
    assert root == {"version": "0.5"}
    assert labels == {"version": "0.5", "labels": ["cells"]}
    assert inner["version"] == "0.5"
    assert "image-label" in inner
    assert inner["multiscales"][0]["axes"] == [{"name": n, "type": "space", "unit": "micrometer"} for n in "yx"]
    assert zarr.open_group(path / "labels" / "cells", mode="r")["0"].metadata.dimension_names == ("y", "x")
    with pytest.raises(ReadError, match="sub-groups: labels/cells"):
        read_image(path)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_labels_join_an_image(tmp_path: Path, version: str) -> None:
    path = tmp_path / "a.zarr"
    write_image(path, PIXELS, "czyx", version=version, levels=3)
    labels = RNG.integers(0, 99, (40, 52)).astype(np.int32)
    write_labels(path, labels * 2)
    write_labels(path, labels)
    assert np.array_equal(read_labels(path), labels)
    assert np.array_equal(np.asarray(read_image(path)), PIXELS), "the image is as it was"
    assert read_image(path).facts["labels"] == "cells"
    group = zarr.open_group(path / "labels" / "cells", mode="r")
    assert group.metadata.zarr_format == (2 if version == "0.4" else 3)
    ome = dict(group.attrs) if version == "0.4" else dict(group.attrs)["ome"]
    assert ome["image-label"]["source"] == {"image": "../../"}
    assert [group[d["path"]].shape for d in ome["multiscales"][0]["datasets"]] == [(40, 52), (20, 26), (10, 13)]
    scales = [d["coordinateTransformations"][0]["scale"] for d in ome["multiscales"][0]["datasets"]]
    assert scales == [[0.5, 0.5], [1.0, 1.0], [2.0, 2.0]]
    assert set(np.unique(group["2"][:])) <= set(np.unique(labels))
    assert not [p for p in (path / "labels").iterdir() if ".part-" in p.name]


def test_labels_join_other_labels(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write_image(path, PIXELS, "czyx")
    zarr.create_group(path / "labels", attributes={"ome": {"version": "0.5", "labels": ["nuclei"]}})
    write_image(path / "labels" / "nuclei", PIXELS[0, 0] % 9, "yx")
    write_labels(path, np.ones((40, 52), np.int32))
    with pytest.raises(ReadError, match=r"2 label images.*nuclei.*cells"):
        read_labels(path)
    assert np.array_equal(read_labels(path / "labels" / "nuclei"), PIXELS[0, 0] % 9)
    assert read_labels(path / "labels" / "cells").min() == 1


def test_labels_replace_no_other_folder(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "precious").touch()
    with pytest.raises(WriteError, match="not an OME-Zarr group"):
        write_labels(tmp_path / "a.zarr", np.ones((4, 4), np.int32))
    assert (tmp_path / "a.zarr" / "precious").exists()
    write_image(tmp_path / "b.zarr", PIXELS, "czyx")
    with pytest.raises(WriteError, match="40 x 52, the labels are 4 x 4"):
        write_labels(tmp_path / "b.zarr", np.ones((4, 4), np.int32))
    assert not (tmp_path / "b.zarr" / "labels").exists()
