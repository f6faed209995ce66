"""Folders of images and points: every layout and format, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as Picture

from cellweave.core.errors import InputError, ReadError
from cellweave.core.points import DEBRIS, LIVE
from cellweave.train.point_data import PointData, read_point_folder

SHAPE = (40, 60)
CLICKS = {"a": [(3, 4), (30, 20)], "b": [(50, 10)], "c": [(10, 10), (40, 30), (20, 35)]}
"""x and y by image."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """images/ with three pictures, without points."""
    (tmp_path / "images").mkdir()
    for k, name in enumerate(CLICKS):
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", np.full(SHAPE, k, np.uint8))
    return tmp_path


def write_tables(folder: Path, ending: str = "") -> None:
    folder.mkdir(exist_ok=True)
    for name, clicks in CLICKS.items():
        (folder / f"{name}{ending}.csv").write_text("x,y\n" + "".join(f"{x},{y}\n" for x, y in clicks))


def label_studio(clicks: dict[str, list[tuple[int, int]]], label: str = "Live Cell") -> str:
    tasks = []
    for k, (name, some) in enumerate(clicks.items()):
        result = [
            {
                "type": "keypointlabels",
                "original_width": SHAPE[1],
                "original_height": SHAPE[0],
                "value": {"x": 100 * (x + 0.5) / 60, "y": 100 * (y + 0.5) / 40, "width": 1, "keypointlabels": [label]},
            }
            for x, y in some
        ]
        tasks.append({"id": k, "data": {"img": f"/upload/1/0a1b2c3d-{name}.tif"}, "annotations": [{"result": result}]})
    return json.dumps(tasks)


def coco() -> str:
    images = [{"id": k, "file_name": f"{n}.tif", "width": 60, "height": 40} for k, n in enumerate(CLICKS)]
    marks = [
        {"id": 10 * k + j, "image_id": k, "category_id": 1, "keypoints": [x, y, 2], "num_keypoints": 1}
        for k, clicks in enumerate(CLICKS.values())
        for j, (x, y) in enumerate(clicks)
    ]
    kinds = [{"id": 1, "name": "cell", "keypoints": ["c"]}]
    return json.dumps({"images": images, "annotations": marks, "categories": kinds})


def write_dots(folder: Path, ending: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, clicks in CLICKS.items():
        marks = np.zeros(SHAPE, np.uint8)
        for x, y in clicks:
            marks[y, x] = 255
        imwrite = tifffile.imwrite if ending.endswith(".tif") else lambda f, m: Picture.fromarray(m).save(f)
        imwrite(folder / f"{name}{ending}", marks)


def found(data: PointData) -> dict[str, list[tuple[int, int]]]:
    """x and y to the nearest pixel, sorted, by image."""
    return {e.name: sorted((round(x), round(y)) for y, x in e.positions.positions) for e in data.examples}


EXPECTED = {name: sorted(clicks) for name, clicks in CLICKS.items()}


@pytest.mark.parametrize("place", ["points", "dots", "label_studio", "annotations", "Points"])
def test_tables_in_a_folder(root: Path, place: str) -> None:
    write_tables(root / place)
    data = read_point_folder(root, group="mine")
    assert found(data) == EXPECTED
    assert data.problems == ()
    for example in data.examples:
        assert example.positions.shape == SHAPE
        assert example.group == "mine"
        assert example.known is None


@pytest.mark.parametrize(
    "kind", ["table", "marked table", "named like the file", "dots", "dots beside", "Label Studio", "COCO"]
)
def test_points_of_ome_tiff_are_found(root: Path, kind: str) -> None:
    """The image is x, of x.ome.tif, too."""
    for file in (root / "images").iterdir():
        file.rename(file.with_suffix(".ome.tif"))
    folder = root / "points"
    folder.mkdir()
    if kind == "Label Studio":
        (folder / "all.json").write_text(label_studio(CLICKS).replace(".tif", ".ome.tif"))
    elif kind == "COCO":
        (folder / "all.json").write_text(coco().replace(".tif", ".ome.tif"))
    elif kind.startswith("dots"):
        write_dots(folder if kind == "dots" else root / "images", "_dots.ome.tif")
    else:
        write_tables(folder, {"table": "", "marked table": "_points", "named like the file": ".ome_points"}[kind])
    assert found(read_point_folder(root)) == EXPECTED


def test_dot_images(root: Path) -> None:
    write_dots(root / "dots", "_dots.png")
    assert found(read_point_folder(root)) == EXPECTED


def test_one_export_about_all_images(root: Path) -> None:
    (root / "label_studio").mkdir()
    (root / "label_studio" / "export.json").write_text(label_studio(CLICKS))
    data = read_point_folder(root)
    assert found(data) == EXPECTED
    assert all(e.positions.counts() == {LIVE: len(CLICKS[e.name])} for e in data.examples)


def test_coco(root: Path) -> None:
    (root / "points").mkdir()
    (root / "points" / "coco.json").write_text(coco())
    assert found(read_point_folder(root)) == EXPECTED


def test_an_export_beside_the_folder_of_images(root: Path) -> None:
    (root / "export.json").write_text(label_studio(CLICKS))
    assert found(read_point_folder(root)) == EXPECTED


def test_everything_in_one_folder(root: Path) -> None:
    write_tables(root / "images", "_points")
    assert found(read_point_folder(root / "images")) == EXPECTED
    assert found(read_point_folder(root)) == EXPECTED  # beside the images of images/, too
    for file in (root / "images").glob("*.csv"):
        file.unlink()
    marks = np.zeros(SHAPE, np.uint8)
    marks[4, 3] = 1
    tifffile.imwrite(root / "images" / "a_dots.tif", marks)
    data = read_point_folder(root / "images")
    assert found(data) == {"a": [(3, 4)]}
    assert [p.file.name for p in data.problems] == ["b.tif", "c.tif"]


def test_a_bad_file_is_reported_and_the_others_are_read(root: Path) -> None:
    write_tables(root / "points")
    (root / "points" / "b.csv").write_text("x,y\n1,2\nhere,there\n")
    (root / "images" / "c.tif").write_bytes(b"no picture")
    data = read_point_folder(root)
    assert found(data) == {"a": EXPECTED["a"]}
    told = {p.file.name: p for p in data.problems}
    assert told["b.csv"].excluded
    assert "no numbers" in told["b.csv"].what
    assert told["c.tif"].excluded
    assert not told["b.tif"].excluded
    text = data.text()
    assert "1 of 3 annotated images can be used" in text
    assert "Left out (2)" in text


def test_what_does_not_fit_is_told(root: Path) -> None:
    (root / "points").mkdir()
    (root / "points" / "a.csv").write_text("x,y\n1,2\n59.6,3\n3,-1\n")
    (root / "points" / "lost.csv").write_text("x,y\n1,2\n")
    (root / "points" / "c.csv").write_text("x,y\n")
    data = read_point_folder(root)
    assert found(data) == {"a": [(1, 2)], "c": []}
    told = [str(p) for p in data.problems]
    for words in (
        "images/a.tif: points outside of the image: 1",  # what the image's size tells
        "images/a.tif: 1 outside the image, left out (row -1.0 column 3.0)",  # what is outside of any
        "images/b.tif: has no points",
        "images/c.tif: has no cells",
        "lost: was marked, and there is no such image",
    ):
        assert any(words in line for line in told), (words, told)


def test_images_of_another_size_are_left_out(root: Path) -> None:
    tifffile.imwrite(root / "images" / "b.tif", np.zeros((20, 30), np.uint8))
    (root / "export.json").write_text(label_studio(CLICKS))
    data = read_point_folder(root)
    assert set(found(data)) == {"a", "c"}
    assert "was annotated at 40 x 60" in data.text()


def test_files_that_contradict_each_other_are_an_error(root: Path) -> None:
    (root / "points").mkdir()
    text = label_studio(CLICKS)
    (root / "points" / "1.json").write_text(text)
    (root / "points" / "2.json").write_text(text.replace('"original_width": 60', '"original_width": 61'))
    with pytest.raises(ReadError, match="40 x 61"):
        read_point_folder(root)


def test_sparse_points_tell_what_is_near_them(root: Path) -> None:
    write_tables(root / "points")
    for example in read_point_folder(root, sparse=True).examples:
        assert example.known is not None
        rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
        near = [np.hypot(rows - y, columns - x) <= 26 for x, y in CLICKS[example.name]]
        assert np.array_equal(example.known, np.any(near, axis=0))
    assert "% of the pixels; the others teach nothing" in read_point_folder(root, sparse=True).text()


@pytest.mark.parametrize(("apart", "advice"), [(9, "with --sigma 3.0 or less"), (2, "with --sigma 1.0"), (15, None)])
def test_the_report_tells_a_sigma_for_crowded_cells(root: Path, apart: int, advice: str | None) -> None:
    rows = "".join(f"{x},20\n" for x in range(5, 55, apart))
    (root / "points").mkdir()
    (root / "points" / "a.csv").write_text("x,y\n" + rows)
    text = read_point_folder(root).text()
    assert f"distance  {apart}.0 px to the nearest cell" in text
    assert (advice in text) if advice else "--sigma" not in text


def test_a_sparse_image_without_marks_teaches_nothing(root: Path) -> None:
    write_tables(root / "points")
    (root / "points" / "a.csv").write_text("x,y\n")
    assert set(found(read_point_folder(root, sparse=True))) == {"b", "c"}
    assert set(found(read_point_folder(root))) == {"a", "b", "c"}


def test_debris_is_kept_apart(root: Path) -> None:
    (root / "1.json").write_text(label_studio(CLICKS))
    (root / "2.json").write_text(label_studio({"a": [(50, 30)]}, "Dead cell/debris"))
    data = read_point_folder(root)
    assert data.examples[0].positions.counts() == {DEBRIS: 1, LIVE: 2}
    assert data.examples[0].n_cells == 2
    assert "and 1 of dead cells and debris" in data.text()


def test_folders_without_points(root: Path) -> None:
    with pytest.raises(InputError, match="there are no points"):
        read_point_folder(root)
    with pytest.raises(InputError, match="no such folder"):
        read_point_folder(root / "nowhere")


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "images", "cells"), [("mbm_points", 44, 5544), ("adi_points", 200, 31001), ("phase_points", 3, 3916)]
)
def test_real_data_sets(shared_data: Path, name: str, images: int, cells: int) -> None:
    data = read_point_folder(shared_data / name)
    assert len(data.examples) == images
    assert sum(e.n_cells for e in data.examples) == cells
    assert not any(p.excluded for p in data.problems)
