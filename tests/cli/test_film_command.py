"""``cellweave segment film.tif``: T is read, segmented frame by frame, and written back as T."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image as Picture

import cellweave
from cellweave.io import read_image, read_label_film, read_labels, read_table
from cellweave.predict import segment_frames

Run = Callable[..., Any]


@pytest.fixture
def segment(run_cli: Run, tmp_path: Path, model_folder: Path) -> Run:
    def run(*arguments: object) -> Any:
        return run_cli("segment", *arguments, "--out", tmp_path / "out", "--model", model_folder, "--device", "cpu")

    return run


@pytest.fixture(scope="module")
def film(domes: Callable[..., Any]) -> NDArray[np.uint16]:
    """(T, Y, X): 2, 3 and 4 cells."""
    return np.stack([domes(t, (90, 110), 2 + t)[0] for t in range(3)])


def row_of(folder: Path) -> dict[str, str]:
    with (folder / "summary.csv").open(newline="") as stream:
        return next(csv.DictReader(stream))


def written(tmp_path: Path, film: NDArray[Any], kind: str) -> Path:
    """The film as other programs write it; the last three have two channels, of which the first is empty."""
    two = np.stack([np.zeros_like(film), film], axis=1)
    path = tmp_path / f"film_{kind}"
    if kind == "imagej":
        path = path.with_suffix(".tif")
        meta: Any = {"axes": "TYX", "finterval": 30.0, "unit": "um"}
        tifffile.imwrite(path, film, imagej=True, resolution=(2.0, 2.0), metadata=meta)
    elif kind == "ome":
        path = path.with_suffix(".ome.tif")
        meta = {"axes": "TYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "TimeIncrement": 30.0}
        tifffile.imwrite(path, film, ome=True, compression="zlib", tile=(32, 32), metadata=meta)
    elif kind == "hyperstack":
        path = path.with_suffix(".tif")
        meta = {"axes": "TCYX", "finterval": 30.0, "unit": "um"}
        tifffile.imwrite(path, two, imagej=True, resolution=(2.0, 2.0), metadata=meta)
    elif kind == "pages":
        path = path.with_suffix(".tif")
        with tifffile.TiffWriter(path) as writer:
            for frame in film:
                writer.write(frame, contiguous=False, metadata=None)
    elif kind == "zarr":
        path = path.with_suffix(".zarr")
        axes = [{"name": "t", "type": "time", "unit": "second"}, {"name": "c", "type": "channel"}]
        axes += [{"name": n, "type": "space", "unit": "micrometer"} for n in "yx"]
        scale = {"type": "scale", "scale": [30.0, 1.0, 0.5, 0.5]}
        sets = [{"path": "0", "coordinateTransformations": [scale]}]
        ome: Any = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": sets}]}
        group = zarr.create_group(path, attributes={"ome": ome})
        group.create_array("0", data=two, chunks=(1, 1, 64, 64))
    return path


@pytest.mark.parametrize("kind", ["imagej", "ome", "hyperstack", "pages", "zarr"])
def test_films_of_other_programs(
    segment: Run, tmp_path: Path, film: NDArray[np.uint16], kind: str, model_folder: Path
) -> None:
    path = written(tmp_path, film, kind)
    channels = "gray:2" if kind in ("hyperstack", "zarr") else None
    axes = "TYX" if kind == "pages" else None
    options = [*(["--channels", channels] if channels else []), *(["--axes", axes] if axes else [])]
    done = segment(path, "--save", "labels,zarr,overlay,table", "--diameter", "24", *options)
    assert done.status == 0, done.err
    assert "9 cells in 3 frames" in done.err
    out = tmp_path / "out"
    frames = segment_frames(
        read_image(path, axes=axes), str(model_folder), diameter=24, device="cpu", channels=channels
    )
    expected = list(frames)
    labels = np.stack([found.labels for found in expected])
    stem = f"film_{kind}"
    with tifffile.TiffFile(out / f"{stem}_labels.tif") as tif:
        assert (tif.series[0].axes, tif.series[0].shape) == ("TYX", (3, 90, 110))
        np.testing.assert_array_equal(tif.asarray(), labels)
    back = read_label_film(out / f"{stem}_labels.tif").image
    assert (back.pixel_size_um, back.interval_s) == ((None, None) if kind == "pages" else ((0.5, 0.5), 30.0))
    group: Any = zarr.open(out / f"{stem}_labels.zarr", mode="r")
    np.testing.assert_array_equal(group["labels/cells/0"][:], labels)
    table = read_table(out / f"{stem}_cells.csv")
    assert list(table)[:2] == ["frame", "id"]
    assert np.bincount(table["frame"]).tolist() == [2, 3, 4]
    for t, found in enumerate(expected):
        np.testing.assert_array_equal(table["id"][table["frame"] == t], found.table["id"])
        np.testing.assert_allclose(table["area"][table["frame"] == t], found.table["area"])
    with Picture.open(out / f"{stem}_overlay.png") as picture:
        assert picture.size == (2 * 110 + 4, 2 * 110 + 4)
    row = row_of(out)
    assert (row["status"], row["frames"], row["cells"]) == ("done", "3", "9")


def test_one_plane_of_it(segment: Run, tmp_path: Path, film: NDArray[np.uint16], model_folder: Path) -> None:
    path = written(tmp_path, film, "ome")
    assert segment(path, "--plane", "t=1", "--save", "labels,png").status == 0
    expected = cellweave.segment(read_image(path).plane(t=1), str(model_folder), device="cpu")
    np.testing.assert_array_equal(read_labels(tmp_path / "out" / "film_ome_labels.png"), expected.labels)
    assert row_of(tmp_path / "out")["frames"] == ""


def test_a_depth_must_be_chosen(segment: Run, tmp_path: Path, film: NDArray[np.uint16]) -> None:
    stacks = np.stack([np.zeros_like(film), film], axis=1)
    tifffile.imwrite(tmp_path / "a.tif", stacks, imagej=True, metadata={"axes": "TZYX"})
    done = segment(tmp_path / "a.tif")
    assert done.status == 1
    assert "2 depths" in done.err
    assert "--plane z=0" in done.err
    assert segment(tmp_path / "a.tif", "--plane", "z=1", "--overwrite").status == 0
    assert row_of(tmp_path / "out")["cells"] == "9"


def test_a_bad_frame_is_told_and_the_others_are_there(segment: Run, tmp_path: Path, film: NDArray[np.uint16]) -> None:
    path = tmp_path / "film.tif"
    tifffile.imwrite(path, film, compression="zlib", metadata={"axes": "TYX"}, ome=True, rowsperstrip=90)
    with tifffile.TiffFile(path) as tif:
        start, size = tif.pages[1].dataoffsets[0], tif.pages[1].databytecounts[0]  # type: ignore[union-attr]
    content = bytearray(path.read_bytes())
    content[start : start + size] = b"\xff" * size
    path.write_bytes(content)
    done = segment(path)
    assert done.status == 1
    assert "frames 1 of 3" in done.err
    row = row_of(tmp_path / "out")
    assert (row["status"], row["cells"]) == ("failed", "6")
    labels = read_label_film(tmp_path / "out" / "film_labels.tif")
    assert [int(frame.max()) for frame in labels] == [2, 0, 4]
    assert np.bincount(read_table(tmp_path / "out" / "film_cells.csv")["frame"]).tolist() == [2, 0, 4]


def test_empty_frames_are_no_fault(segment: Run, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 40, 50), np.uint8), imagej=True, metadata={"axes": "TYX"})
    assert segment(tmp_path / "a.tif").status == 0
    assert row_of(tmp_path / "out")["cells"] == "0"
    assert len(read_table(tmp_path / "out" / "a_cells.csv")["frame"]) == 0
    assert read_label_film(tmp_path / "out" / "a_labels.tif")[:][2].max() == 0


def test_what_a_film_does_not_have_and_what_is_done(segment: Run, tmp_path: Path, film: NDArray[np.uint16]) -> None:
    path = written(tmp_path, film, "imagej")
    done = segment(path, "--save", "png,diagnostics")
    assert done.status == 1
    assert "png and diagnostics cannot be saved" in done.err
    assert segment(path, "--overwrite").status == 0
    assert "already done" in segment(path).err
    assert not [p.name for p in (tmp_path / "out").iterdir() if p.name.startswith(("tmp", "."))]


@pytest.mark.shared_data
def test_a_real_film(segment: Run, tmp_path: Path, shared_data: Path) -> None:
    """Five frames of phase contrast; written as a film, they give the labels of the single frames."""
    folder = shared_data / "unlabelled" / "images"
    frames = np.stack([np.asarray(read_image(folder / f"T98G_phase_t0{t}.png"))[0, :160, :200] for t in range(1, 6)])
    tifffile.imwrite(tmp_path / "film.tif", frames, imagej=True, metadata={"axes": "TYX", "finterval": 600.0})
    done = segment(tmp_path / "film.tif", "--diameter", "40")
    assert done.status == 0, done.err
    labels = read_label_film(tmp_path / "out" / "film_labels.tif")
    assert len(labels) == 5
    assert labels.image.interval_s == 600.0
    model = tmp_path / "out" / "run.json"
    assert model.exists()
    for t in (0, 4):
        tifffile.imwrite(tmp_path / f"one{t}.tif", frames[t])
    assert segment(tmp_path / "one0.tif", tmp_path / "one4.tif", "--diameter", "40").status == 0
    for t in (0, 4):
        np.testing.assert_array_equal(read_labels(tmp_path / "out" / f"one{t}_labels.tif"), labels[t])
