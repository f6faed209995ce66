"""Label Studio exports: what its own converter made, brushes against a twin, people who disagree, the thesis' files."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from cellweave.core.errors import ReadError
from cellweave.core.points import BACKGROUND, DEBRIS, LIVE, Points, nearest_pairs
from cellweave.io import read_annotations, read_points
from cellweave.io.label_studio import decode_brush

HEIGHT, WIDTH = 120, 160
Mask = NDArray[np.bool_]


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    """See scripts/peer/golden_label_studio.py."""
    path = Path(__file__).parents[1] / "golden" / "label_studio.json"
    return dict(json.loads(path.read_text(encoding="utf-8")))


def masks() -> dict[str, Mask]:
    """As in the script."""
    rows, columns = np.mgrid[:150, :170]
    small = (rows[:40, :50] - 20) ** 2 + (columns[:40, :50] - 25) ** 2 < 12**2
    return {
        "empty": np.zeros((150, 170), bool),
        "full": np.ones((150, 170), bool),
        "disk": (rows - 70) ** 2 + (columns - 90) ** 2 < 40**2,
        "stripes": rows % 7 < 3,
        "checks": ((rows + columns) % 2 == 0)[:31, :17],
        "small disk": small,
        "corner": (rows < 1)[:9, :8] & (columns < 1)[:9, :8],
        "coloured disk": small,
    }


@pytest.mark.parametrize("name", masks())
def test_brushes_of_the_converter(golden: dict[str, Any], name: str) -> None:
    expected = masks()[name]
    rle = list(base64.b64decode(golden["brushes"][name]))
    assert (decode_brush(rle, (expected.shape[0], expected.shape[1])) == expected).all()


def pack(words: NDArray[np.uint8], lengths: tuple[int, ...], cuts: set[int]) -> list[int]:
    """The twin: every run as a run where it is longer than one word, else single words; `cuts` ends runs early."""
    bits = f"{len(words):032b}{7:05b}" + "".join(f"{n - 1:04b}" for n in lengths)
    k = 0
    while k < len(words):
        end = k + 1
        while end < len(words) and words[end] == words[k] and end not in cuts and end - k < 2 ** max(lengths):
            end += 1
        run = end - k > 1
        if not run:
            while end < len(words) and words[end] != words[end - 1] and end not in cuts and end - k < 2 ** max(lengths):
                end += 1
        kind = next(i for i, n in enumerate(lengths) if end - k <= 2**n)
        bits += f"{int(run)}{kind:02b}{end - k - 1:0{lengths[kind]}b}"
        bits += f"{words[k]:08b}" if run else "".join(f"{w:08b}" for w in words[k:end])
        k = end
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


@given(
    arrays(
        np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(4)), elements=st.sampled_from([0, 9, 255])
    ),
    st.tuples(*[st.integers(1, 16)] * 4),
    st.sets(st.integers(0, 144)),
)
def test_brushes_of_any_lengths(pixels: NDArray[np.uint8], lengths: tuple[int, ...], cuts: set[int]) -> None:
    rle = pack(pixels.ravel(), lengths, cuts)
    assert (decode_brush(rle, (pixels.shape[0], pixels.shape[1])) == (pixels[:, :, 3] > 0)).all()


@given(st.lists(st.integers(0, 255), max_size=60))
def test_damaged_brushes_are_refused(words: list[int]) -> None:
    with pytest.raises(ReadError, match="brush"):
        decode_brush([0, 0, 0, 143, *words[:40]], (6, 6))


def test_a_brush_that_ends_early_or_is_of_another_image(golden: dict[str, Any]) -> None:
    rle = list(base64.b64decode(golden["brushes"]["disk"]))
    with pytest.raises(ReadError, match="ends in the middle"):
        decode_brush(rle[:-40], (150, 170))
    with pytest.raises(ReadError, match="of 102000 words; an image of 10 x 20 px has 800"):
        decode_brush(rle, (10, 20))
    for bad in ([1, 2, 300], ["a"], None):
        with pytest.raises(ReadError, match="0 to 255"):
            decode_brush(bad, (1, 1))  # type: ignore[arg-type]


def save(folder: Path, data: object, name: str = "export.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_keypoints_are_percent_of_the_image(golden: dict[str, Any], tmp_path: Path) -> None:
    found = read_annotations(save(tmp_path, golden["tasks"]))
    assert sorted(found) == ["boxes", "points"]  # without the digits of the upload
    points = found["points"].points
    assert points.shape == (HEIGHT, WIDTH)
    assert np.allclose(points.positions, [(0.375 * 120 - 0.5, 0.125 * 160 - 0.5), (1.2 - 0.5, 158.4 - 0.5)])
    assert points.counts() == {LIVE: 2}
    assert found["points"].annotators == ("1",)


def test_boxes_and_polygons(golden: dict[str, Any], tmp_path: Path) -> None:
    found = read_annotations(save(tmp_path, golden["tasks"]))["boxes"]
    assert np.allclose(found.boxes, [(23.5, 15.5, 35.5, 23.5), (35.5, 111.5, 41.5, 131.5)])
    assert found.box_classes.tolist() == [LIVE, DEBRIS]
    assert len(found.points) == 0
    assert np.allclose(found.centres.positions, [(29.5, 19.5), (38.5, 121.5), (71.5, 87.5)])
    assert found.centres.classes.tolist() == [LIVE, DEBRIS, LIVE]


def test_the_converters_forms_say_the_same(golden: dict[str, Any], tmp_path: Path) -> None:
    """JSON, JSON-MIN and COCO of one project, the last two made by label-studio-converter."""
    tasks = read_annotations(save(tmp_path, golden["tasks"]))
    minimal = read_annotations(save(tmp_path, golden["minimal"]))
    coco = read_annotations(save(tmp_path, golden["coco"]))
    assert list(minimal) == list(tasks)
    assert list(coco) == ["boxes"]
    for name, other in [*minimal.items(), *coco.items()]:
        one, two = tasks[name].centres, other.centres
        assert one.shape == two.shape
        assert np.allclose(one.positions, two.positions)
        assert one.classes.tolist() == two.classes.tolist()
        assert np.allclose(tasks[name].boxes, other.boxes)


def region(kind: str, label: str, **value: Any) -> dict[str, Any]:
    """One result, with coordinates in px of an image of 100 x 100, whose percent they are."""
    return {
        "id": "r",
        "type": f"{kind}labels",
        "original_width": 100,
        "original_height": 100,
        "image_rotation": 0,
        "value": {**value, f"{kind}labels": [label]},
    }


def click(row: float, column: float, label: str = "Live Cell") -> dict[str, Any]:
    """A keypoint that is read at this row and column."""
    return region("keypoint", label, x=column + 0.5, y=row + 0.5, width=0.3)


def task(*people: list[dict[str, Any]], image: str = "/data/upload/3/0011aabb-cells.tif") -> dict[str, Any]:
    """A task with one annotation a person."""
    return {
        "id": 5,
        "data": {"img": image},
        "annotations": [{"id": k, "completed_by": k, "result": results} for k, results in enumerate(people, start=1)],
    }


def test_classes_are_known_in_any_writing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["Live Cell", " live  cell", "LIVE", "Dead cell/debris", "Dead cell", "dead-debris", "Background", "Zelle"]
    path = save(tmp_path, [task([click(10, 10 * k, name) for k, name in enumerate(names)])])
    found = read_annotations(path)["cells"]
    assert found.points.classes.tolist() == [LIVE] * 3 + [DEBRIS] * 3 + ["Zelle"]
    assert np.allclose(found.background_points, [(10, 60)])
    assert found.report.unknown_classes == {"Zelle": 1}
    assert "'Zelle' (1)" in caplog.text
    assert read_annotations(path, classes={"zelle": LIVE})["cells"].report.clean


def test_points_outside_are_left_out_and_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path, [task([click(50, 50), click(50, 120), click(-3, 50)])])
    found = read_annotations(path)["cells"]
    assert len(found.points) == 1
    assert np.allclose([place[:2] for place in found.report.outside], [(50, 120), (-3, 50)])
    assert "2 outside the image" in caplog.text
    assert str(path) in caplog.text


def test_clicks_on_the_very_edge_are_inside(tmp_path: Path) -> None:
    edge = [region("keypoint", "Live", x=x, y=y, width=1) for x, y in [(0, 0), (100, 100), (0, 100)]]
    found = read_annotations(save(tmp_path, [task(edge)]))["cells"]
    assert found.report.clean
    assert np.rint(found.points.positions).tolist() == [[0, 0], [99, 99], [99, 0]]


def test_a_double_click_is_one_point(tmp_path: Path) -> None:
    path = save(tmp_path, [task([click(50, 50), click(50.2, 50), click(50, 51), click(50, 50, "Background")])])
    found = read_annotations(path)["cells"]
    assert np.allclose(found.points.positions, [(50, 50), (50, 51)])
    assert len(found.report.duplicates) == 1
    assert len(found.background_points) == 1
    assert len(read_annotations(path, same_within=2)["cells"].points) == 1


def test_several_people_are_joined(tmp_path: Path) -> None:
    """The first two agree on a cell, and differ on its class; the third saw only it; one cell is the second's alone."""
    path = save(
        tmp_path,
        [
            task(
                [click(50, 50), click(20, 20)],
                [click(56, 50, "Dead cell"), click(20, 24), click(80, 80)],
                [click(53, 50, "Dead cell")],
            )
        ],
    )
    found = read_annotations(path)["cells"]
    assert np.allclose(found.points.positions, [(53, 50), (20, 22), (80, 80)])
    assert found.points.classes.tolist() == [DEBRIS, LIVE, LIVE]
    assert found.points.confidence is not None
    assert found.points.confidence.tolist() == pytest.approx([1, 2 / 3, 1 / 3])
    assert found.annotators == ("1", "2", "3")
    assert "3 people marked 2, 3, 1 points, which are 3 cells" in str(found.report)
    assert "1 with different classes" in str(found.report)
    apart = read_annotations(path, agree_within=2)["cells"]
    assert len(apart.points) == 6


def test_who_saw_nothing_has_a_say_and_who_drew_boxes_has_none(tmp_path: Path) -> None:
    box = region("rectangle", "Live cell", x=10, y=10, width=5, height=5, rotation=0)
    found = read_annotations(save(tmp_path, [task([click(5, 5)], [], [box])]))["cells"]
    assert found.points.confidence is not None
    assert found.points.confidence.tolist() == [0.5]
    assert len(found.boxes) == 1


def test_an_image_without_cells_is_annotated_and_one_without_annotation_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    skipped = task([click(5, 5)], image="/data/upload/1/00000000-skipped.png")
    skipped["annotations"][0]["was_cancelled"] = True
    path = save(tmp_path, [task([]), task(image="/data/upload/1/00000000-later.png"), skipped])
    found = read_annotations(path)
    assert list(found) == ["cells"]
    assert len(found["cells"].points) == 0
    assert "image later): no one annotated it" in caplog.text
    assert "image skipped): a skipped annotation was left out" in caplog.text


def test_background_is_one_region(tmp_path: Path) -> None:
    corners = [[10, 10], [30, 10], [30, 20], [10, 20]]
    painted = np.zeros((100, 100, 4), np.uint8)
    painted[60:70, 40:45] = 255
    marks = [
        region("polygon", "Background", points=corners),
        region("rectangle", "background", x=50, y=50, width=10, height=4, rotation=0),
        region("brush", "Background", format="rle", rle=pack(painted.ravel(), (3, 4, 8, 16), set())),
        region("brush", "Live", format="rle", rle=pack(painted.ravel(), (3, 4, 8, 16), set())),
    ]
    found = read_annotations(save(tmp_path, [task(marks)]))["cells"]
    expected = np.zeros((100, 100), bool)
    expected[10:20, 10:30] = expected[50:54, 50:60] = expected[60:70, 40:45] = True
    assert found.background is not None
    assert (found.background == expected).all()
    assert sorted(found.regions) == [BACKGROUND, LIVE]
    assert len(found.boxes) == len(found.polygons) == 0


def test_a_turned_rectangle_keeps_its_centre(tmp_path: Path) -> None:
    """A quarter turn about the first corner: 20 wide and 10 high becomes 10 wide and 20 high, to the left."""
    marks = [region("rectangle", "Live", x=50, y=50, width=20, height=10, rotation=90)]
    found = read_annotations(save(tmp_path, [task(marks)]))["cells"]
    assert np.allclose(found.boxes, [(49.5, 39.5, 69.5, 49.5)])


def test_marks_of_other_kinds_are_counted(tmp_path: Path) -> None:
    marks = [click(1, 1), {"type": "choices", "value": {"choices": ["good"]}}, {"type": "relation"}]
    report = read_annotations(save(tmp_path, [task(marks)]))["cells"].report
    assert "1 of the kind 'choices', 1 of the kind 'relation'" in str(report)


def test_files_of_one_image_are_joined(tmp_path: Path) -> None:
    save(tmp_path, [task([click(1, 1)])], "points.json")
    save(tmp_path, [task([click(9, 9, "Background")], image="/data/upload/8/ffffffff-cells.tif")], "ground.json")
    found = read_annotations(tmp_path)
    assert list(found) == ["cells"]
    assert len(found["cells"].points) == len(found["cells"].background_points) == 1
    assert found["cells"].points.confidence is None
    other = task([click(1, 1)])
    other["annotations"][0]["result"][0]["original_width"] = 90
    save(tmp_path, [other], "other.json")
    with pytest.raises(ReadError, match=r"image cells: .* 100 x 100 and 100 x 90"):
        read_annotations(tmp_path)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("/data/upload/1/b07bc20f-1.jpg", "1"),
        ("/data/local-files/?d=plate%201/deadbeef-B02.tif", "deadbeef-B02"),
        ("s3://bucket/run/cells_01.png", "cells_01"),
        ("https://host/a.b.png?token=3/4", "a.b"),
        ("C:\\images\\cells.bmp", "cells"),
        ("/data/upload/1/b07bc20f-1.ome.tif", "1"),
    ],
)
def test_names_of_images(tmp_path: Path, image: str, name: str) -> None:
    assert list(read_annotations(save(tmp_path, [task([click(1, 1)], image=image)]))) == [name]


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    good = task([click(1, 1)])

    def refused(change: dict[str, Any], message: str) -> None:
        bad = deepcopy(good)
        bad["annotations"][0]["result"][0] |= change
        with pytest.raises(ReadError, match=message):
            read_annotations(save(tmp_path, [bad]))

    refused({"image_rotation": 90}, "task 5: the image was turned by 90 degrees")
    refused({"original_width": None}, r"task 5: region r \(keypoint\) is incomplete")
    refused({"value": {"keypointlabels": ["Live"], "x": 3}}, "incomplete .*'y'")
    refused({"value": {"polygonlabels": ["Live"], "points": [[1, 1]]}}, "polygon of 1 corners")
    refused({"value": {"brushlabels": ["Live"], "format": "png"}}, "'png'")
    nameless = deepcopy(good)
    nameless["data"] = {}
    with pytest.raises(ReadError, match="task 5: does not say which image"):
        read_annotations(save(tmp_path, [nameless]))


def replaced(data: Any, place: list[int], by: Any) -> Any:
    """`data` with something else at a place within it."""
    if not place or not isinstance(data, dict | list) or not data:
        return by
    keys = list(data) if isinstance(data, dict) else list(range(len(data)))
    key = keys[place[0] % len(keys)]
    changed = deepcopy(data)
    changed[key] = replaced(data[key], place[1:], by)
    return changed


@settings(max_examples=200)
@given(
    st.sampled_from(["tasks", "minimal", "coco"]),
    st.lists(st.integers(0, 20), min_size=1, max_size=8),
    st.sampled_from([None, 3, -1.5, float("nan"), float("inf"), 1e300, "x", "", [], [1], {}, {"a": 1}, True]),
)
def test_any_damage_is_read_or_refused(
    golden: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, form: str, place: list[int], by: Any
) -> None:
    path = save(tmp_path_factory.getbasetemp(), replaced(golden[form], place, by), "damaged.json")
    with suppress(ReadError):
        found = read_annotations(path)
        assert all(np.isfinite(a.centres.positions).all() for a in found.values())


def test_read_points_chooses_an_image(golden: dict[str, Any], tmp_path: Path) -> None:
    path = save(tmp_path, golden["tasks"])
    assert len(read_points(path, image="points.png")) == len(read_points(path, image="points.ome.tif")) == 2
    assert len(read_points(path, image="boxes", shape=(HEIGHT, WIDTH))) == 3
    with pytest.raises(ReadError, match="is about 2 images; choose with image=NAME out of: boxes, points"):
        read_points(path)
    with pytest.raises(ReadError, match="no points of the image 'other'"):
        read_points(path, image="other")
    with pytest.raises(ReadError, match=r"image points: was annotated at 120 x 160 px .* 160 x 120"):
        read_points(path, image="points", shape=(WIDTH, HEIGHT))


@pytest.mark.shared_data
def test_the_files_of_the_thesis(shared_data: Path) -> None:
    """Its numbers of clicks; points and boxes of image 1 are one person's, made apart, of the same cells."""
    found = read_annotations(shared_data / "phase_points" / "label_studio")
    assert {name: a.points.counts() for name, a in found.items()} == {
        "1": {LIVE: 1755, DEBRIS: 11},
        "2": {LIVE: 1187, DEBRIS: 11},
        "4": {LIVE: 974, DEBRIS: 6},
    }
    assert all(a.report.clean and a.shape == (1536, 2048) for a in found.values())
    first = found["1"]
    assert len(first.background_points) == 156
    assert first.box_classes.tolist().count(LIVE) == 941
    centres = Points(first.boxes.reshape(-1, 2, 2).mean(axis=1))
    near, _, _ = nearest_pairs(centres.positions, first.points.positions, 26)
    assert len(near) > 0.9 * len(centres)
    wrong = nearest_pairs(centres.positions[:, ::-1], first.points.positions, 12)[0]
    right = nearest_pairs(centres.positions, first.points.positions, 12)[0]
    assert len(right) > 1.5 * len(wrong)
