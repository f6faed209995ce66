"""Points in tables, COCO files and dot images."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image as Picture

from cellweave.core.errors import InputError, ReadError, WriteError
from cellweave.core.measure import measure
from cellweave.core.points import DEBRIS, LIVE, Points
from cellweave.io import read_annotations, read_points, write_labels, write_points, write_table


@st.composite
def some_points(draw: st.DrawFn) -> Points:
    """Points no two of which are alike, with or without confidence."""
    n = draw(st.integers(0, 8))
    places = draw(arrays(np.float64, (n, 2), elements=st.floats(-0.5, 1e6, allow_subnormal=False)))
    places[:, 0] += np.arange(n) * 2e6
    names = draw(st.lists(st.sampled_from([LIVE, DEBRIS, "a, b", 'say "x"', "Zelle ö", "-1"]), min_size=n, max_size=n))
    confidence = draw(st.none() | arrays(np.float64, n, elements=st.floats(0, 1)))
    return Points(places, np.array(names, np.str_), confidence)


@given(some_points())
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, points: Points) -> None:
    path = tmp_path_factory.getbasetemp() / "round.csv"
    write_points(path, points)
    found = read_points(path)
    assert found.positions.tolist() == points.positions.tolist()
    assert found.classes.tolist() == points.classes.tolist()
    if points.confidence is None or not len(points):
        assert found.confidence is None
    else:
        assert found.confidence is not None
        assert found.confidence.tolist() == points.confidence.tolist()


def test_points_are_written_whole_or_not_at_all(
    tmp_path: Path, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    path = tmp_path / "p.csv"
    write_points(path, Points(np.ones((1, 2))))
    before = path.read_bytes()
    with full_disk(1000), pytest.raises(WriteError, match=r"p\.csv"):
        write_points(path, Points(np.random.default_rng(0).uniform(0, 9, (500, 2))))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["p.csv"]
    with pytest.raises(InputError, match=r"written as \.csv"):
        write_points(tmp_path / "p.json", Points(np.ones((1, 2))))


@pytest.mark.parametrize(
    "text",
    [
        "x,y\n3,7\n1.5,0\n",
        "3,7\n1.5,0\n",
        "\ufeffX;Y\n3;7\n1,5;0\n",
        "row\tcol\n7\t3\n0\t1.5\n",
        "index,axis-0,axis-1\n0,7.0,3.0\n1,0.0,1.5\n",
        " ,Area,Mean,X,Y\n1,0,87,3,7\n2,0,91,1.5,0\n",
        "3, 7, live\r\n\r\n1.5, 0, Live Cell\r\n",
    ],
    ids=["named", "bare", "semicolons", "rows", "napari", "ImageJ", "classes"],
)
def test_tables_of_many_programs(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.csv").write_text(text, encoding="utf-8", newline="")
    found = read_points(tmp_path / "p.csv")
    assert found.positions.tolist() == [[7, 3], [0, 1.5]]
    assert found.classes.tolist() == [LIVE, LIVE]


def test_the_table_of_cells_is_a_table_of_points(tmp_path: Path, cells: NDArray[np.int32]) -> None:
    write_table(tmp_path / "field_cells.csv", measure(cells, confidence=np.linspace(0, 1, cells.max())))
    found = read_annotations(tmp_path)
    assert list(found) == ["field"]
    assert np.allclose(found["field"].points.positions, Points.from_labels(cells).positions, atol=1e-6)
    assert found["field"].points.confidence is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("\n \n", "empty"),
        ("a,b\n1,2\n", "the columns are a, b; name them x,y"),
        ("5\n", "name them"),
        ("x,y\n1,2\n3,\n", "row 3 .*no numbers"),
        ("x,y\n1,nan\n", "row 2"),
        ("1,2\nx,y\n", "row 2"),
        ("x,y,confidence\n1,2,1.5\n", "confidence 1.5"),
        ("x,y\n1,\0\n", "row 2|no table"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ReadError, match=rf"bad\.csv: .*({message})"):
        read_points(tmp_path / "bad.csv")


def test_bad_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"x,y\n\xff\xfe\x00")
    (tmp_path / "b.json").write_bytes(b"[{")
    (tmp_path / "c.json").write_bytes(b'{"points": []}')
    (tmp_path / "d.xyz").write_bytes(b"1,2")
    (tmp_path / "empty").mkdir()
    for name, message in [
        ("a.csv", "no table of text"),
        ("b.json", "no valid JSON"),
        ("c.json", "neither a Label Studio export"),
        ("d.xyz", "points are read from"),
        ("e.csv", "there is no such file"),
        ("empty", "no file of points in this folder"),
    ]:
        with pytest.raises(ReadError, match=f"{name}: .*{message}"):
            read_annotations(tmp_path / name)


def test_the_size_of_the_image_finds_points_outside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "p.csv").write_text("x,y\n3,7\n90,7\n-4,7\n")
    assert len(read_points(tmp_path / "p.csv")) == 2  # only what is left of any image is surely outside
    found = read_points(tmp_path / "p.csv", shape=(20, 30))
    assert found.positions.tolist() == [[7, 3]]
    assert found.shape == (20, 30)
    assert "2 outside the image, left out (row 7.0 column 90.0" in caplog.text
    with pytest.raises(InputError, match="distances are positive"):
        read_points(tmp_path / "p.csv", agree_within=0)


def coco(**changes: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "plate/a.png", "width": 100, "height": 50}, {"id": 8, "file_name": "b.png"}],
        "categories": [
            {"id": 1, "name": "cell", "keypoints": ["centre"]},
            {"id": 2, "name": "debris"},
            {"id": 3, "name": "default", "keypoints": ["Live Cell", "Dead cell"]},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "keypoints": [10, 20, 2], "bbox": [5, 15, 10, 10]},
            {"id": 2, "image_id": 7, "category_id": 2, "keypoints": [30, 40, 1, 0, 0, 0]},
            {"id": 3, "image_id": 7, "category_id": 3, "keypoints": [50, 5, 2, 60, 6, 2]},
            {"id": 4, "image_id": 7, "category_id": 1, "point": [1, 2]},
            {"id": 5, "image_id": 7, "category_id": 1, "points": [[3, 4], [5, 6]]},
            {"id": 6, "image_id": 7, "category_id": 1},
        ],
    } | changes


def test_coco_keypoints(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(coco()))
    found = read_annotations(tmp_path / "c.json")
    assert list(found) == ["a", "b"]
    a = found["a"]
    assert a.shape == (50, 100)
    assert a.points.positions.tolist() == [[20, 10], [40, 30], [5, 50], [6, 60], [2, 1], [4, 3], [6, 5]]
    assert a.points.classes.tolist() == [LIVE, DEBRIS, LIVE, DEBRIS, LIVE, LIVE, LIVE]
    assert "1 keypoints without a position" in str(a.report)
    assert "1 annotations without keypoints, box or polygon" in str(a.report)
    assert len(found["b"].points) == 0


def test_coco_boxes_and_polygons_begin_at_the_corner_of_a_pixel(tmp_path: Path) -> None:
    outline = [0, 0, 10, 0, 10, 4, 0, 4]
    annotations = [
        {"id": 1, "image_id": 7, "category_id": 1, "bbox": [0, 0, 10, 4], "segmentation": [], "score": 0.5},
        {"id": 2, "image_id": 7, "category_id": 2, "bbox": [0, 0, 10, 4], "segmentation": [outline, [1, 1, 2, 2]]},
    ]
    (tmp_path / "c.json").write_text(json.dumps(coco(annotations=annotations)))
    found = read_annotations(tmp_path / "c.json")["a"]
    assert found.boxes.tolist() == [[-0.5, -0.5, 3.5, 9.5]]
    assert np.allclose(found.centres.positions, [(1.5, 4.5), (1.5, 4.5)])
    assert found.centres.classes.tolist() == [LIVE, DEBRIS]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [{"id": 1}]}, "'images' or 'categories' is incomplete"),
        ({"annotations": [{"id": 3, "image_id": 99}]}, "annotation 3: is of the image 99"),
        ({"annotations": [{"id": 3, "image_id": 7, "keypoints": [1, 2]}]}, "annotation 3: is incomplete"),
        ({"annotations": [{"id": 3, "image_id": 7, "bbox": [1, 2]}]}, "annotation 3: is incomplete"),
        ({"annotations": [3]}, "annotation 1: is incomplete"),
    ],
)
def test_bad_coco_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (tmp_path / "c.json").write_text(json.dumps(coco(**changes)))
    with pytest.raises(ReadError, match=rf"c\.json: .*{message}"):
        read_annotations(tmp_path / "c.json")


PLACES = [(3, 4), (10, 25), (19, 0)]


def dots(value: int = 255, dtype: type = np.uint8) -> NDArray[Any]:
    picture = np.zeros((20, 30), dtype)
    for row, column in PLACES:
        picture[row, column] = value
    return picture


def test_dot_images(tmp_path: Path) -> None:
    red = np.zeros((20, 30, 3), np.uint8)
    red[dots() > 0] = 255, 0, 0
    on_white = np.full((20, 30, 3), 255, np.uint8)
    on_white[dots() > 0] = 0, 0, 200
    Picture.fromarray(dots()).save(tmp_path / "gray.png")
    Picture.fromarray(255 - dots()).save(tmp_path / "black_dots.png")
    Picture.fromarray(red).save(tmp_path / "red.png")
    Picture.fromarray(on_white).save(tmp_path / "on_white.png")
    tifffile.imwrite(tmp_path / "sixteen.tif", dots(1, np.uint16))
    tifffile.imwrite(tmp_path / "float.tif", dots(1, np.float32))
    Picture.fromarray(dots() > 0).save(tmp_path / "bits_dots.png")
    for path in sorted(tmp_path.iterdir()):
        found = read_points(path)
        assert found.positions.tolist() == [list(place) for place in PLACES], path.name
        assert found.shape == (20, 30)
    assert list(read_annotations(tmp_path / "bits_dots.png")) == ["bits"]


def test_blobs_are_read_at_their_centre_and_touching_ids_apart(tmp_path: Path, cells: NDArray[np.int32]) -> None:
    write_labels(tmp_path / "cells.tif", cells)
    found, expected = read_points(tmp_path / "cells.tif"), Points.from_labels(cells)
    assert len(found) == len(expected)
    order = np.lexsort(expected.positions.T)
    assert np.allclose(found.positions[np.lexsort(found.positions.T)], expected.positions[order])


def test_pixel_values_can_be_classes(tmp_path: Path) -> None:
    picture = dots(1)
    picture[10, 25] = 2
    Picture.fromarray(picture).save(tmp_path / "d.png")
    found = read_points(tmp_path / "d.png", classes={"1": LIVE, "2": DEBRIS})
    assert found.classes.tolist() == [LIVE, DEBRIS, LIVE]
    assert read_points(tmp_path / "d.png").classes.tolist() == [LIVE] * 3


def test_an_image_without_dots(tmp_path: Path) -> None:
    Picture.fromarray(np.zeros((5, 6), np.uint8)).save(tmp_path / "d.png")
    assert len(read_points(tmp_path / "d.png")) == 0


def test_pictures_that_are_no_dots_are_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (80, 90, 3)).astype(np.uint8)
    Picture.fromarray(noise).save(tmp_path / "photo.png")
    Picture.fromarray(dots()).save(tmp_path / "smeared.jpg")
    (tmp_path / "smeared.jpg").rename(tmp_path / "smeared.png")
    tifffile.imwrite(tmp_path / "heat.tif", np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30))
    for name, message in [("photo.png", "like a photograph"), ("smeared.png", "JPEG"), ("heat.tif", "fractions")]:
        with pytest.raises(ReadError, match=f"{name}: .*{message}"):
            read_points(tmp_path / name)


@pytest.mark.shared_data
def test_the_sets_of_points(shared_data: Path) -> None:
    """Their numbers of cells; none is twice at one place, though some are a pixel apart."""
    for name, expected in [("vgg_points", 35192), ("mbm_points", 5544), ("adi_points", 31001)]:
        found = read_annotations(shared_data / name / "points")
        assert sum(len(a.points) for a in found.values()) == expected
        assert all(a.report.clean for a in found.values())
