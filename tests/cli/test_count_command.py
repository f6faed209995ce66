"""``cellweave count``: a table, points that `evaluate` reads, and pictures, for many files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image as Picture

import cellweave
from cellweave.core.errors import ModelError
from cellweave.io import read_image, read_points, render_points, write_points
from cellweave.models import CountCalibration, Segmenter
from cellweave.models.folder import write_settings
from cellweave.predict.mask_rcnn import Architecture, Detections, Detector
from dots import dots_model, dots_picture, scattered

Run = Callable[..., Any]
SHAPE, CELLS = (100, 130), {"a": 5, "b": 7, "c": 3}


@pytest.fixture(scope="session")
def dots_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`dots_model`, saved."""
    folder = tmp_path_factory.mktemp("models") / "dots"
    dots_model().with_(count_calibration=CountCalibration((0.5,) * 20)).save(folder)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three pictures of dots, and beside their folder the truth."""
    for name in ("in", "truth"):
        (tmp_path / name).mkdir()
    for k, (name, n) in enumerate(CELLS.items()):
        points = scattered(k, SHAPE, n)
        assert len(points) == n
        tifffile.imwrite(tmp_path / "in" / f"{name}.tif", dots_picture(points))
        write_points(tmp_path / "truth" / f"{name}.csv", points)
    return tmp_path / "in"


@pytest.fixture
def count(run_cli: Run, tmp_path: Path, dots_folder: Path) -> Run:
    """``cellweave count ... --out OUT --model DOTS --device cpu``."""

    def run(*arguments: object, model: Path = dots_folder, out: Path | None = None) -> Any:
        out = out or tmp_path / "out"
        return run_cli("count", *arguments, "--out", out, "--model", model, "--device", "cpu")

    return run


def test_a_mask_rcnn_counts(count: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it finds has its own tests: here it finds two cells, or none."""

    def find(image: Any, detector: Detector, *, confidence: float = 0.5, **_: Any) -> Detections:
        points = scattered(0, SHAPE, 2 if confidence < 0.9 else 0)
        return Detections(points, np.zeros(SHAPE, np.int32), np.zeros((len(points), 4), np.float32))

    monkeypatch.setattr("cellweave.predict.mask_rcnn.detect", find)
    monkeypatch.setattr(Detector, "load", lambda folder: Detector(torch.nn.Identity(), Architecture(), hash="1234"))
    folder = tmp_path / "detector"
    folder.mkdir()
    write_settings(folder, {"format": 1, "kind": "mask-rcnn", "name": "x"})
    done = count(images, model=folder)
    assert done.status == 0, done.err
    assert "a Mask R-CNN tells no interval" in done.err + done.out
    rows = table(tmp_path / "out")
    assert [(row["count"], row["low"], row["unsure"]) for row in rows.values()] == [("2.0", "", "")] * 3
    assert len(read_points(tmp_path / "out" / "a_points.csv")) == 2
    assert (tmp_path / "out" / "a_counted.png").is_file()
    assert count(images, "--min-confidence", 0.95, model=folder, out=tmp_path / "none").status == 0
    assert table(tmp_path / "none")["a"]["count"] == "0.0"
    for options, words in (
        (("--diameter", 30), "leave out diameter"),
        (("--augment",), "leave out"),
        (("--save", "density"), "no density"),
    ):
        done = count(images, *options, model=folder, out=tmp_path / words.split()[0])
        assert done.status == 1
        assert words in done.err
    with pytest.raises(ModelError, match="holds a Mask R-CNN, which only counts; use it with cellweave count"):
        Segmenter.load(folder)


def table(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "counts.csv").open(newline="", encoding="utf-8") as stream:
        return {row["name"]: row for row in csv.DictReader(stream)}


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_folder(count: Run, images: Path, tmp_path: Path, dots_folder: Path) -> None:
    done = count(images)
    assert done.status == 0, done.err
    out = tmp_path / "out"
    files = [f"{name}{ending}" for name in CELLS for ending in ("_counted.png", "_points.csv")]
    assert names(out) == sorted([*files, "counts.csv", "run.json"])
    rows = table(out)
    for name, n in CELLS.items():
        image = read_image(images / f"{name}.tif")
        expected = cellweave.count(image, dots_folder, device="cpu")
        row = rows[name]
        assert row["status"] == "done"
        assert float(row["count"]) == pytest.approx(expected.count, abs=0.006)
        assert float(row["low"]) == pytest.approx(expected.low, abs=0.006)
        assert float(row["high"]) == pytest.approx(expected.high, abs=0.006)
        assert int(row["points"]) == n == len(expected.points)
        assert row["remarks"] == ""
        assert row["outputs"] == f"{name}_points.csv {name}_counted.png"
        points = read_points(out / f"{name}_points.csv")
        assert np.array_equal(points.positions, expected.points.positions)
        assert np.array_equal(points.confidence, expected.points.confidence)
        with Picture.open(out / f"{name}_counted.png") as picture:
            assert np.array_equal(np.array(picture), render_points(image, expected.points, expected.unsure))
    assert "a.tif: 5 cells (" in done.err
    assert "3 of 3 images counted" in done.err
    for text in ("a.tif", "90 % interval", "total"):
        assert text in done.out


def test_evaluate_reads_what_count_writes(count: Run, run_cli: Run, images: Path, tmp_path: Path) -> None:
    count(images)
    figures = tmp_path / "figures"
    done = run_cli("evaluate", "--points", tmp_path / "out", tmp_path / "truth", "--radius", 2, "--out", figures)
    assert done.status == 0, done.err
    found = json.loads((figures / "evaluation.json").read_text())
    assert found["total"]["f1"] == 1
    counts = {name: float(row["count"]) for name, row in table(tmp_path / "out").items()}
    assert {row["image"]: row["n_predicted"] for row in found["images"]} == counts
    mae = np.mean([abs(counts[name] - n) for name, n in CELLS.items()])
    assert found["counts"]["mae"] == pytest.approx(mae)
    assert 0 < mae < 0.6
    (tmp_path / "out" / "counts.csv").write_text("name,count,status\na,many,done\n")
    done = run_cli("evaluate", "--points", tmp_path / "out", tmp_path / "truth")
    assert done.status == 1
    assert "counts.csv is damaged" in done.err


def test_without_a_folder_the_counts_are_shown(run_cli: Run, images: Path, tmp_path: Path, dots_folder: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    (images / "bad.tif").write_text("hello")
    done = run_cli("count", images, "--model", dots_folder, "--device", "cpu", "--interval", "0")
    assert done.status == 1
    assert "bad.tif: not counted: " in done.err
    assert "3 of 4 images counted; 1 failed\n" in done.err
    assert [line.split()[1:4:2] for line in done.out.splitlines() if ".tif" in line] == [
        ["a.tif", "5"],
        ["b.tif", "7"],
        ["c.tif", "3"],
    ]
    assert "interval" not in done.out
    assert "bad.tif" not in done.out
    assert sorted(tmp_path.rglob("*")) == sorted([*before, images / "bad.tif"])


def test_a_bad_file_is_reported_and_the_others_go_on(count: Run, images: Path, tmp_path: Path) -> None:
    (images / "b2.tif").write_bytes((images / "b.tif").read_bytes()[:999])
    done = count(images, images / "nowhere.tif")
    assert done.status == 1
    rows = table(tmp_path / "out")
    assert {name for name, row in rows.items() if row["status"] == "failed"} == {"b2", "nowhere"}
    assert all(rows[name]["error"] for name in ("b2", "nowhere"))
    assert [float(rows[name]["count"]) > 0 for name in CELLS] == [True] * 3


def test_the_run_is_on_record_and_goes_on(count: Run, images: Path, tmp_path: Path, dots_folder: Path) -> None:
    first = count(images / "a.tif", "--interval", "0.8")
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["settings"]["model_hash"] == Segmenter.load(dots_folder).hash
    assert record["settings"]["interval"] == 0.8
    assert [Path(entry["file"]).name for entry in record["inputs"]] == ["a.tif"]
    again = count(images, "--interval", "0.8")
    assert again.status == 0, again.err
    assert again.err.count("already done") == 1
    row = [next(line for line in text.out.splitlines() if "a.tif" in line) for text in (first, again)]
    assert row[0].split() == row[1].split()
    other = count(images)
    assert other.status == 1
    assert "interval: 0.8 then, 0.9 now" in other.err
    assert count(images, "--overwrite").status == 0


def test_the_density_is_saved(count: Run, images: Path, tmp_path: Path, model_folder: Path) -> None:
    done = count(images / "a.tif", "--save", "density")
    assert done.status == 0, done.err
    assert names(tmp_path / "out") == ["a_density.tif", "counts.csv", "run.json"]
    density = tifffile.imread(tmp_path / "out" / "a_density.tif")
    assert density.dtype == np.float32
    assert density.shape == SHAPE
    assert density.sum() == pytest.approx(float(table(tmp_path / "out")["a"]["count"]), abs=0.006)
    assert count(tmp_path / "out", out=tmp_path / "out").status == 1  # our own files are no inputs
    done = count(images / "a.tif", "--save", "density", model=model_folder, out=tmp_path / "objects")
    assert done.status == 1
    assert "has no density" in done.err


def test_only_the_table(count: Run, images: Path, tmp_path: Path) -> None:
    assert count(images, "--save", "table").status == 0
    assert names(tmp_path / "out") == ["counts.csv", "run.json"]


def test_objects_are_counted(count: Run, tmp_path: Path, model_folder: Path, domes: Callable[..., Any]) -> None:
    tifffile.imwrite(tmp_path / "x.tif", domes(0, (100, 120), 4)[0])
    done = count(tmp_path / "x.tif", model=model_folder)
    assert done.status == 0, done.err
    row = table(tmp_path / "out")["x"]
    assert (float(row["count"]), row["points"]) == (4, "4")
    assert float(row["low"]) < 4 < float(row["high"])
    assert "not calibrated" in row["remarks"]
    assert "x.tif: 4 cells (" in done.err
    least = count(tmp_path / "x.tif", "--min-confidence", 1, model=model_folder, out=tmp_path / "none")
    assert "0 cells" in least.err
    assert "4 more under the least confidence" in least.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--save", "labels"], "choose from table, points, picture, density"),
        (["--save", ""], "choose from"),
        (["--interval", "1.5"], "between 0 and 1"),
        (["--interval", "-1"], "between 0 and 1"),
        (["--plane", "q"], "is not understood"),
    ],
)
def test_wrong_arguments_are_told(count: Run, images: Path, arguments: list[str], said: str) -> None:
    done = count(images, *arguments)
    assert done.status == 1
    assert said in done.err
    assert "Traceback" not in done.err


def test_segment_names_this_command(run_cli: Run, images: Path, tmp_path: Path, dots_folder: Path) -> None:
    done = run_cli("segment", images, "--out", tmp_path / "s", "--model", dots_folder, "--device", "cpu")
    assert done.status == 1
    assert "cellweave count" in done.err
