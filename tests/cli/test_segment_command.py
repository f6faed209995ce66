"""``cellweave segment``: many files, one summary, nothing half-written, nothing done twice."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image as Picture

import cellweave
from cell_segmenters import cell_segmenter
from cellweave.core.image import Image
from cellweave.io import read_image, read_labels, read_table
from cellweave.models import CellSegmenter, Segmenter
from cellweave.predict import diagnostics_picture

ENDINGS = ("_labels.tif", "_overlay.png", "_cells.csv")
CELLWEAVE = (sys.executable, "-c", "from cellweave.cli import main; main()")
Run = Callable[..., Any]


@pytest.fixture
def segment(run_cli: Run, tmp_path: Path, model_folder: Path) -> Run:
    """``cellweave segment ... --out OUT --model TINY --device cpu``."""

    def run(*arguments: object, out: Path | None = None) -> Any:
        return run_cli(
            "segment", *arguments, "--out", out or tmp_path / "out", "--model", model_folder, "--device", "cpu"
        )

    return run


@pytest.fixture
def images(tmp_path: Path, domes: Callable[..., Any]) -> Path:
    """A folder with three images, of 4, 5 and 6 cells."""
    folder = tmp_path / "in"
    folder.mkdir()
    for k, name in enumerate(("a.tif", "b.png", "c.npy")):
        save(folder / name, domes(k, (100, 120), 4 + k)[0])
    return folder


def save(path: Path, pixels: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, pixels)
    elif path.suffix == ".png":
        Picture.fromarray(pixels).save(path)
    else:
        tifffile.imwrite(path, pixels, photometric="minisblack")
    return path


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def outputs(*stems: str) -> list[str]:
    return sorted(["run.json", "summary.csv", *(stem + ending for stem in stems for ending in ENDINGS)])


def summary(folder: Path) -> dict[str, dict[str, str]]:
    """Rows by the file's name."""
    with (folder / "summary.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        return {Path(row["file"]).name: row for row in csv.DictReader(stream)}


def times(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.iterdir() if p.name not in ("run.json", "summary.csv")}


def test_a_folder(segment: Run, images: Path, tmp_path: Path) -> None:
    done = segment(images)
    assert done.status == 0, done.err
    assert names(tmp_path / "out") == outputs("a", "b", "c")
    assert done.out == ""
    assert re.search(r"a\.tif: 4 cells, diameter 2\d(\.\d+)? px", done.err)
    assert f"3 of 3 images segmented; results are in {tmp_path / 'out'}" in done.err


def test_files_and_patterns(segment: Run, images: Path, tmp_path: Path) -> None:
    done = segment(images / "b.png", images / "[ac].*", images / "b.png")
    assert done.status == 0, done.err
    assert names(tmp_path / "out") == outputs("a", "b", "c")
    assert list(summary(tmp_path / "out")) == ["b.png", "a.tif", "c.npy"]


def test_the_labels_are_those_of_the_python_function(
    segment: Run, images: Path, tmp_path: Path, model_folder: Path
) -> None:
    segment(images)
    for name, stem in (("a.tif", "a"), ("b.png", "b"), ("c.npy", "c")):
        image = cellweave.read_image(images / name)
        result = cellweave.segment(image, str(model_folder), device="cpu")
        assert np.array_equal(read_labels(tmp_path / "out" / f"{stem}_labels.tif"), result.labels)
        assert tifffile.imread(tmp_path / "out" / f"{stem}_labels.tif").dtype == np.uint16
        table = read_table(tmp_path / "out" / f"{stem}_cells.csv")
        assert table.keys() == result.table.keys()
        np.testing.assert_allclose(table["area"], result.table["area"])
        with Picture.open(tmp_path / "out" / f"{stem}_overlay.png") as overlay:
            assert overlay.size == (120, 100)


def test_the_summary_has_a_row_for_each_image(segment: Run, images: Path, tmp_path: Path) -> None:
    segment(images)
    rows = summary(tmp_path / "out")
    assert {name: row["cells"] for name, row in rows.items()} == {"a.tif": "4", "b.png": "5", "c.npy": "6"}
    row = rows["a.tif"]
    assert (row["status"], row["error"]) == ("done", "")
    assert float(row["diameter"]) == pytest.approx(24, rel=0.2)
    assert row["outputs"] == "a_labels.tif a_overlay.png a_cells.csv"
    assert row["sha256"] == hashlib.sha256((images / "a.tif").read_bytes()).hexdigest()
    areas = read_table(tmp_path / "out" / "a_cells.csv")
    assert float(row["median_area"]) == np.median(areas["area"])
    assert float(row["mean_confidence"]) == pytest.approx(areas["confidence"].mean(), abs=1e-4)
    assert float(row["seconds"]) > 0


def test_the_run_is_on_record(segment: Run, images: Path, tmp_path: Path, model_folder: Path) -> None:
    (images / "bad.tif").write_text("hello")
    segment(images, "--diameter", "24", "--min-size", "20")
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["cellweave"] == cellweave.__version__
    settings = record["settings"]
    assert settings["model"] == str(model_folder)
    assert settings["model_hash"] == Segmenter.load(model_folder).hash
    assert settings["diameter"] == "24"
    assert settings["decoding"] == {"min_size": 20}
    assert settings["save"] == ["labels", "overlay", "table"]
    hashes = {Path(entry["file"]).name: entry["sha256"] for entry in record["inputs"]}
    assert hashes == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in images.iterdir()}
    assert [Path(entry["file"]).name for entry in record["errors"]] == ["bad.tif"]
    assert "bad.tif" in record["errors"][0]["error"]
    assert record["started"] <= record["updated"]


def test_a_least_confidence_is_that_of_the_python_function(
    segment: Run, images: Path, tmp_path: Path, model_folder: Path
) -> None:
    image = cellweave.read_image(images / "c.npy")
    confidence = cellweave.segment(image, str(model_folder), device="cpu").confidence
    least = round(float(np.median(confidence)), 3)
    expected = cellweave.segment(image, str(model_folder), device="cpu", min_confidence=least)
    assert 0 < expected.count < len(confidence) == 6
    done = segment(images / "c.npy", "--min-confidence", least)
    assert np.array_equal(read_labels(tmp_path / "out" / "c_labels.tif"), expected.labels)
    np.testing.assert_allclose(read_table(tmp_path / "out" / "c_cells.csv")["confidence"], expected.confidence)
    row = summary(tmp_path / "out")["c.npy"]
    assert (row["cells"], row["dropped"]) == (str(expected.count), str(6 - expected.count))
    assert f"({6 - expected.count} more under the least confidence)" in done.err
    assert json.loads((tmp_path / "out" / "run.json").read_text())["settings"]["min_confidence"] == least
    again = segment(images / "c.npy", "--min-confidence", "0.001")
    assert again.status == 1
    assert "holds results of other settings (min_confidence" in again.err


@pytest.mark.parametrize("least", ["-0.5", "1.01", "high"])
def test_a_least_confidence_is_a_probability(segment: Run, images: Path, least: str) -> None:
    done = segment(images, f"--min-confidence={least}")
    assert done.status == 2
    assert "--min-confidence" in done.err


def test_a_bad_file_is_reported_and_the_others_go_on(segment: Run, images: Path, tmp_path: Path) -> None:
    (images / "a2.tif").write_bytes((images / "a.tif").read_bytes()[:-5000])
    (images / "b2.png").write_bytes(b"")
    done = segment(images, images / "nowhere.tif")
    assert done.status == 1
    assert names(tmp_path / "out") == outputs("a", "b", "c")
    for name in ("a2.tif", "b2.png", "nowhere.tif"):
        assert f"{name}: not segmented: " in done.err
        assert summary(tmp_path / "out")[name]["status"] == "failed"
        assert summary(tmp_path / "out")[name]["error"]
    assert "3 of 6 images segmented" in done.err
    assert "3 failed" in done.err


def test_a_fault_of_ours_in_one_file_does_not_end_the_batch(
    segment: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surprising(path: Path, **options: Any) -> Image:
        if path.name == "b.png":
            raise ZeroDivisionError("surprise")
        return read_image(path, **options)

    monkeypatch.setattr("cellweave.cli.segment.read_image", surprising)
    done = segment(images)
    assert done.status == 1
    assert "b.png: not segmented: unexpected ZeroDivisionError: surprise" in done.err
    assert names(tmp_path / "out") == outputs("a", "c")


def test_finished_files_are_skipped(segment: Run, images: Path, tmp_path: Path) -> None:
    segment(images)
    before, table = times(tmp_path / "out"), (tmp_path / "out" / "summary.csv").read_text()
    done = segment(images)
    assert done.status == 0
    assert done.err.count("already done") == 3
    assert times(tmp_path / "out") == before
    assert (tmp_path / "out" / "summary.csv").read_text() == table


def test_what_is_missing_or_changed_is_done_again(
    segment: Run, images: Path, tmp_path: Path, domes: Callable[..., Any]
) -> None:
    segment(images)
    before = times(tmp_path / "out")
    (tmp_path / "out" / "a_overlay.png").unlink()
    save(images / "b.png", domes(9, (100, 120), 3)[0])
    done = segment(images)
    assert done.err.count("already done") == 1
    after = times(tmp_path / "out")
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] == before[name]} == {"c" + ending for ending in ENDINGS}
    assert summary(tmp_path / "out")["b.png"]["cells"] == "3"


def test_failed_files_are_tried_again(segment: Run, images: Path, tmp_path: Path, domes: Callable[..., Any]) -> None:
    content = (images / "a.tif").read_bytes()
    (images / "a.tif").write_bytes(content[:100])
    assert segment(images).status == 1
    assert segment(images).status == 1
    (images / "a.tif").write_bytes(content)
    done = segment(images)
    assert done.status == 0
    assert done.err.count("already done") == 2
    assert {row["status"] for row in summary(tmp_path / "out").values()} == {"done"}
    assert json.loads((tmp_path / "out" / "run.json").read_text())["errors"] == []


def test_new_files_join_the_summary(segment: Run, images: Path, tmp_path: Path) -> None:
    segment(images / "a.tif")
    segment(images / "b.png")
    assert list(summary(tmp_path / "out")) == ["a.tif", "b.png"]


def test_a_file_is_the_same_under_every_path(
    segment: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert segment(images / "a.tif", images / ".." / "in" / "a.tif").err.count("a.tif: ") == 1
    monkeypatch.chdir(images)
    assert "a.tif: already done" in segment("a.tif").err
    assert list(summary_by_path(tmp_path / "out")) == [str(images / "a.tif")]
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    shutil.copy(images / "b.png", "a.tif")
    assert segment("a.tif").status == 0
    assert [row["name"] for row in summary_by_path(tmp_path / "out").values()] == ["a", "a_tif"]


def test_overwriting_one_image_keeps_the_others(
    segment: Run, images: Path, tmp_path: Path, domes: Callable[..., Any]
) -> None:
    segment(images)
    before = times(tmp_path / "out")
    other = save(tmp_path / "day 2" / "a.tif", domes(0, (60, 60), 1)[0])
    assert segment(images / "b.png", other, "--overwrite").status == 0
    assert [row["name"] for row in summary_by_path(tmp_path / "out").values()] == ["a", "c", "b", "a_tif"]
    after = times(tmp_path / "out")
    assert {name for name in before if after[name] != before[name]} == {"b" + ending for ending in ENDINGS}
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert len(record["inputs"]) == 4
    done = segment(other, "--overwrite", "--diameter", "30")
    assert done.status == 1
    assert f"diameter: None then, 30 now); give {images / 'a.tif'} and the other images" in done.err
    assert times(tmp_path / "out") == after
    assert segment(images, other, "--overwrite", "--diameter", "30").status == 0
    assert names(tmp_path / "out") == outputs("a", "a_tif", "b", "c")


def test_results_of_another_command_stay(segment: Run, images: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    record = {"command": "count", "settings": {}}
    (tmp_path / "out" / "run.json").write_text(json.dumps(record))
    for options in ([], ["--overwrite"]):
        done = segment(images, *options)
        assert done.status == 1
        assert "holds results of cellweave count; choose another folder with --out" in done.err
    assert names(tmp_path / "out") == ["run.json"]
    segment(images / "a.tif", out=tmp_path / "mine")
    assert json.loads((tmp_path / "mine" / "run.json").read_text())["command"] == "segment"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--diameter", "30"], "diameter: None then, 30 now"),
        (["--min-size", "40"], "decoding"),
        (["--save", "labels"], "save"),
        (["--channels", "gray"], "channels"),
        (["--augment"], "augment"),
    ],
)
def test_results_of_other_settings_are_not_mixed(
    segment: Run, images: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    segment(images / "a.tif")
    before = times(tmp_path / "out")
    done = segment(images / "a.tif", *options)
    assert done.status == 1
    assert said in done.err
    assert "--overwrite" in done.err
    assert times(tmp_path / "out") == before
    again = segment(images / "a.tif", *options, "--overwrite")
    assert again.status == 0, again.err
    assert times(tmp_path / "out")["a_labels.tif"] != before["a_labels.tif"]


def test_another_model_of_the_same_name_is_noticed(
    run_cli: Run, images: Path, tmp_path: Path, tiny_model: Segmenter
) -> None:
    arguments = ("segment", images / "a.tif", "--out", tmp_path / "out", "--model", tmp_path / "m")
    tiny_model.save(tmp_path / "m")
    assert run_cli(*arguments).status == 0
    import copy

    net = copy.deepcopy(tiny_model.net)
    net.head.bias.data += 0.1  # type: ignore[union-attr, operator]
    tiny_model.with_(net=net).save(tmp_path / "m")
    done = run_cli(*arguments)
    assert done.status == 1
    assert "model_hash" in done.err


@pytest.mark.parametrize("file", ["run.json", "summary.csv"])
@pytest.mark.parametrize("content", ["", "{", "[1]", '{"settings": 3}', "file,cells\n1,2,3\n", "\x00"])
def test_a_damaged_record_is_told(segment: Run, images: Path, tmp_path: Path, file: str, content: str) -> None:
    segment(images / "a.tif")
    (tmp_path / "out" / file).write_text(content)
    done = segment(images / "a.tif")
    assert done.status == 1
    assert "Traceback" not in done.err
    assert "damaged" in done.err
    assert segment(images / "a.tif", "--overwrite").status == 0


def test_equal_stems_do_not_collide(segment: Run, images: Path, tmp_path: Path, domes: Callable[..., Any]) -> None:
    files = [
        save(tmp_path / folder / name, domes(k, (100, 120), 3 + k)[0])
        for k, (folder, name) in enumerate(
            [("p", "x.tif"), ("q", "x.tif"), ("p", "x.png"), ("r", "x.npy"), ("r/p", "x.tif"), ("p", "y.tif")]
        )
    ]
    assert segment(*files).status == 0
    found = sorted(n for n in names(tmp_path / "out") if n.endswith("_labels.tif"))
    assert len(found) == len(set(found)) == 6
    assert "y_labels.tif" in found
    rows = summary_by_path(tmp_path / "out")
    for k, file in enumerate(files):
        labels = read_labels(tmp_path / "out" / rows[str(file)]["outputs"].split()[0])
        assert labels.max() == 3 + k == int(rows[str(file)]["cells"])


def summary_by_path(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "summary.csv").open(newline="") as stream:
        return {row["file"]: row for row in csv.DictReader(stream)}


def test_equal_stems_of_two_runs_do_not_collide(segment: Run, tmp_path: Path, domes: Callable[..., Any]) -> None:
    """The second command must not replace the first one's results."""
    first = save(tmp_path / "day1" / "well.tif", domes(0, (100, 120), 3)[0])
    second = save(tmp_path / "day2" / "well.tif", domes(1, (100, 120), 5)[0])
    segment(first)
    segment(second)
    segment(second, first)
    rows = summary_by_path(tmp_path / "out")
    for file, n in ((first, 3), (second, 5)):
        assert read_labels(tmp_path / "out" / rows[str(file)]["outputs"].split()[0]).max() == n
    assert rows[str(first)]["name"] == "well"
    assert len(names(tmp_path / "out")) == 2 + 2 * 3


def test_names_that_differ_in_case_only_do_not_collide(segment: Run, tmp_path: Path, domes: Callable[..., Any]) -> None:
    """On file systems that do not tell them apart one would replace the other."""
    files = [save(tmp_path / f / n, domes(0, (60, 60), 1)[0]) for f, n in (("p", "X.tif"), ("q", "x.tif"))]
    segment(*files)
    found = [n.lower() for n in names(tmp_path / "out")]
    assert len(found) == len(set(found)) == 2 + 2 * 3


@pytest.mark.parametrize(
    "name", ["with space.tif", "a[1].tif", "[red].tif", "细胞 µ.tif", "50%.tif", "x.y.tif", "a'b\"c.tif", "T_cells.tif"]
)
def test_odd_file_names(segment: Run, tmp_path: Path, domes: Callable[..., Any], name: str) -> None:
    save(tmp_path / "in" / name, domes(0, (60, 60), 1)[0])
    stem = name.removesuffix(".tif")
    assert segment(tmp_path / "in" / name).status == 0
    assert names(tmp_path / "out") == outputs(stem)
    done = segment(tmp_path / "in")
    assert done.status == 0
    assert f"{name}: already done" in done.err


def test_file_names_that_are_no_utf8(tmp_path: Path, model_folder: Path, domes: Callable[..., Any]) -> None:
    try:
        save(tmp_path / "in" / os.fsdecode(b"caf\xe9.tif"), domes(0, (60, 60), 1)[0])
    except OSError:
        pytest.skip("this file system has only UTF-8 names")
    command = [*CELLWEAVE, "segment", tmp_path / "in", "--out", tmp_path / "out", "--model", model_folder]
    for said in ("1 cell", "already done"):
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert said in done.stderr.decode()


def test_ome_names_lose_both_suffixes(segment: Run, tmp_path: Path, domes: Callable[..., Any]) -> None:
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "x.ome.tif", domes(0, (60, 60), 1)[0], metadata={"axes": "YX"})
    segment(tmp_path / "in")
    assert names(tmp_path / "out") == outputs("x")


def test_our_own_outputs_and_labels_are_no_inputs(segment: Run, images: Path) -> None:
    neither = (
        "a_diagnostics.png",
        "a_counted.png",
        "a_density.tif",
        "a_cp_output.png",
        "a_flows.tif",
        "a_outlines.png",
    )
    labels = ("a_masks.png", "a_Mask.tif", "a_label.png", "a_labels.ome.tif", "a_cp_masks.png", "a_seg.npy")
    for name in (*neither, *labels, ".hidden.tif", "notes.txt"):
        (images / name).write_bytes(b"")
    first = segment(images, out=images)
    assert first.status == 0, first.err
    second = segment(images, out=images)
    assert second.status == 0
    assert second.err.count("already done") == 3


@pytest.mark.parametrize(
    ("save_", "endings"),
    [
        ("labels", ["_labels.tif"]),
        ("png", ["_labels.png"]),
        ("zarr", ["_labels.zarr"]),
        ("overlay", ["_overlay.png"]),
        ("table", ["_cells.csv"]),
        ("diagnostics", ["_diagnostics.png"]),
        (" table , labels,table", ["_cells.csv", "_labels.tif"]),
        ("labels,png,zarr", ["_labels.png", "_labels.tif", "_labels.zarr"]),
    ],
)
def test_what_is_saved_can_be_chosen(
    segment: Run, images: Path, tmp_path: Path, save_: str, endings: list[str]
) -> None:
    done = segment(images / "a.tif", "--save", save_)
    assert done.status == 0, done.err
    assert names(tmp_path / "out") == sorted(["a" + e for e in endings] + ["run.json", "summary.csv"])
    for ending in endings:
        if "labels" in ending:
            assert read_labels(tmp_path / "out" / f"a{ending}").max() == 4
    assert "already done" in segment(images / "a.tif", "--save", save_).err


def test_results_that_an_image_no_longer_has_are_removed(
    segment: Run, tmp_path: Path, domes: Callable[..., Any]
) -> None:
    file = save(tmp_path / "in" / "a b.tif", domes(0, (60, 60), 1)[0])
    segment(file, "--save", "labels,overlay,zarr")
    assert summary(tmp_path / "out")["a b.tif"]["outputs"] == "a b_labels.tif a b_overlay.png a b_labels.zarr"
    (tmp_path / "out" / "a b_notes.txt").touch()
    assert segment(file, "--save", "table", "--overwrite").status == 0
    assert names(tmp_path / "out") == ["a b_cells.csv", "a b_notes.txt", "run.json", "summary.csv"]


@pytest.mark.parametrize("save_", ["", "masks", "labels,pickle"])
def test_what_cannot_be_saved_is_told(segment: Run, images: Path, tmp_path: Path, save_: str) -> None:
    done = segment(images, "--save", save_)
    assert done.status == 1
    assert "choose from labels, png, zarr, overlay, table" in done.err
    assert not (tmp_path / "out").exists()


def test_a_plane_of_a_stack(segment: Run, tmp_path: Path, domes: Callable[..., Any]) -> None:
    stack = np.stack([domes(k, (100, 120), 2 + k)[0] for k in range(3)])
    file = tmp_path / "stack.tif"
    tifffile.imwrite(file, stack, imagej=True, metadata={"axes": "ZYX"})
    done = segment(file)
    assert done.status == 1
    assert "3 depths" in done.err
    assert "--plane z=0" in done.err
    done = segment(file, "--plane", "z=2", out=tmp_path / "z2")
    assert done.status == 0, done.err
    assert "stack.tif: 4 cells" in done.err
    for bad in ("z=3", "c=0", "z", "z=-1", "z=one"):  # in one folder: where nothing is done yet, settings may change
        done = segment(file, "--plane", bad, out=tmp_path / "bad")
        assert done.status == 1
        assert "outside 0..2" in done.err or "is not understood" in done.err
        assert "Traceback" not in done.err


def test_axes_for_files_that_do_not_tell_them(segment: Run, tmp_path: Path, domes: Callable[..., Any]) -> None:
    np.save(tmp_path / "x.npy", np.stack([domes(0, (100, 120), 3)[0], domes(1, (100, 120), 5)[0]]))
    done = segment(tmp_path / "x.npy", "--channels", "gray:2", out=tmp_path / "a")
    assert done.status == 1
    assert "--axes" in done.err
    done = segment(tmp_path / "x.npy", "--axes", "CYX", "--channels", "gray:2", out=tmp_path / "b")
    assert done.status == 0, done.err
    assert "x.npy: 5 cells" in done.err


def test_diameters_in_um(segment: Run, tmp_path: Path, domes: Callable[..., Any], images: Path) -> None:
    tifffile.imwrite(
        tmp_path / "x.tif", domes(0, (100, 120), 3)[0], imagej=True, resolution=(2, 2), metadata={"unit": "um"}
    )
    done = segment(tmp_path / "x.tif", images / "a.tif", "--diameter", "12um")
    assert done.status == 1
    assert "x.tif: 3 cells, diameter 24 px" in done.err
    assert "does not tell its pixel size" in done.err


def test_thresholds_are_those_of_the_decoder(segment: Run, images: Path, tmp_path: Path) -> None:
    done = segment(images / "a.tif", "--min-size", "100000", out=tmp_path / "a")
    assert "a.tif: 0 cells" in done.err
    row = summary(tmp_path / "a")["a.tif"]
    assert (row["cells"], row["median_area"], row["mean_confidence"]) == ("0", "", "")
    done = segment(images / "a.tif", "--probability-threshold", "2", out=tmp_path / "b")
    assert done.status == 1
    assert "must be between 0 and 1" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{in}", "--model", "nothing"], "'nothing'"),
        (["{in}", "--device", "tpu"], "'tpu' is unknown"),
        (["{in}", "--diameter", "large"], "'large' is not a positive size"),
        (["{in}", "--channels", "DAPI"], "no channel 'DAPI'"),
        (["{in}/*.jpg"], "no file matches"),
        (["{in}/none.tif"], "no such file"),
    ],
)
def test_wrong_arguments_are_told_in_a_line(
    run_cli: Run, images: Path, tmp_path: Path, model_folder: Path, arguments: list[str], said: str
) -> None:
    filled = [a.replace("{in}", str(images)) for a in arguments]
    model = [] if "--model" in arguments else ["--model", model_folder]
    done = run_cli("segment", *filled, *model, "--out", tmp_path / "out")
    assert done.status == 1
    assert said in done.err
    assert "Traceback" not in done.err


def test_an_interrupt_while_a_file_is_written_leaves_nothing_of_it(
    segment: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cellweave.core import files

    real, calls = files.os.replace, []

    def interrupted(source: Any, target: Any) -> None:
        calls.append(Path(target).name)
        if calls[-1] == "b_overlay.png":
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", interrupted)
        done = segment(images)
    assert done.status == 130
    assert "Stopped. 1 of 3 files are done" in done.err
    assert names(tmp_path / "out") == sorted([*outputs("a"), "b_labels.tif"])
    done = segment(images)
    assert done.status == 0
    assert done.err.count("already done") == 1
    assert names(tmp_path / "out") == outputs("a", "b", "c")


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_leaves_nothing_half_written_and_the_rerun_completes(
    segment: Run, tmp_path: Path, model_folder: Path, domes: Callable[..., Any]
) -> None:
    """A real process, stopped while it works on the second file."""
    save(tmp_path / "in" / "a.tif", domes(0, (100, 120), 4)[0])
    save(tmp_path / "in" / "b.tif", np.tile(domes(1, (500, 500), 60)[0], (4, 4)))
    save(tmp_path / "in" / "c.tif", domes(2, (100, 120), 5)[0])
    out = tmp_path / "out"
    command = [*CELLWEAVE, "segment", tmp_path / "in", "--out", out, "--model", model_folder, "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        deadline = time.monotonic() + 120
        while not (out / "run.json").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "Stopped. 1 of 3 files are done" in err
    assert [name for name in names(out) if name.startswith(".")] == []
    assert names(out) == outputs("a")
    record = json.loads((out / "run.json").read_text())
    assert [Path(entry["file"]).name for entry in record["inputs"]] == ["a.tif"]
    done = segment(tmp_path / "in")
    assert done.status == 0
    assert done.err.count("already done") == 1
    assert names(out) == outputs("a", "b", "c")
    assert int(summary(out)["b.tif"]["cells"]) == 16 * 60


def test_an_option_that_the_representation_lacks_is_refused(run_cli: Run, tmp_path: Path, images: Path) -> None:
    from cellweave.nets import FastUNet
    from cellweave.representations import StarConvex

    star = Segmenter(FastUNet(out_maps=33, widths=(2, 2, 2, 2)), StarConvex(), 24.0, name="star")
    star.save(tmp_path / "star")
    result = run_cli(
        "segment", images, "--out", tmp_path / "out", "--model", tmp_path / "star", "--flow-threshold", "0.3"
    )
    assert result.status == 1
    assert "--flow-threshold does not apply to the model star, which represents cells by StarConvex" in result.err


@pytest.fixture
def system_folder(tmp_path: Path) -> Path:
    """A Cell Segmenter, saved."""
    cell_segmenter().save(tmp_path / "system")
    return tmp_path / "system"


@pytest.fixture
def mixed(tmp_path: Path, domes: Callable[..., Any]) -> Path:
    """A gray TIFF, a PNG photograph of fluorescence, and a file that is no image."""
    gray = save(tmp_path / "mixed" / "gray.tif", domes(0, (100, 120), 5)[0])
    green = (domes(1, (100, 120), 5)[0] // 4).astype(np.uint8)
    save(gray.with_name("green.png"), np.stack([green // 8, green, green[::-1] // 2], axis=-1))
    gray.with_name("bad.tif").write_text("hello")
    return gray.parent


def test_a_cell_segmenter_is_a_model_like_any_other(
    run_cli: Run, mixed: Path, tmp_path: Path, system_folder: Path
) -> None:
    out = tmp_path / "out"
    save_ = "labels,overlay,table,diagnostics"
    command = ("segment", mixed, "--out", out, "--model", system_folder, "--device", "cpu", "--save", save_)
    done = run_cli(*command)
    assert done.status == 1
    assert "bad.tif: not segmented: " in done.err
    assert "2 of 3 images segmented" in done.err
    assert "green.png: " in done.err
    assert ", branch fluorescence, " in done.err
    endings = (*ENDINGS, "_diagnostics.png")
    assert names(out) == sorted(["run.json", "summary.csv", *(n + e for n in ("gray", "green") for e in endings)])
    rows = summary(out)
    for name, stem in (("gray.tif", "gray"), ("green.png", "green")):
        result = cellweave.segment(cellweave.read_image(mixed / name), system_folder, device="cpu")
        assert result.branch is not None
        assert (rows[name]["branch"], rows[name]["why"]) == (result.branch.name, result.branch.why)
        assert rows[name]["cells"] == str(result.count)
        assert np.array_equal(read_labels(out / f"{stem}_labels.tif"), result.labels)
        with Picture.open(out / f"{stem}_diagnostics.png") as picture:
            assert np.array_equal(np.asarray(picture), diagnostics_picture(result))
    assert rows["green.png"]["branch"] == "fluorescence"
    assert (rows["bad.tif"]["branch"], rows["bad.tif"]["status"]) == ("", "failed")
    record = json.loads((out / "run.json").read_text())
    assert record["settings"]["model_hash"] == CellSegmenter.load(system_folder).hash
    again = run_cli(*command)
    assert again.err.count("already done") == 2
    assert summary(out)["green.png"]["why"] == rows["green.png"]["why"]


def test_a_branch_is_a_model_too(run_cli: Run, images: Path, tmp_path: Path, system_folder: Path) -> None:
    done = run_cli("segment", images / "a.tif", "--out", tmp_path / "out", "--model", system_folder / "general")
    assert done.status == 0, done.err
    assert summary(tmp_path / "out")["a.tif"]["branch"] == ""


def test_an_unused_diameter_is_told_once(run_cli: Run, images: Path, tmp_path: Path) -> None:
    dataclasses.replace(cell_segmenter(), name="told once in a batch").save(tmp_path / "m")
    command = [*CELLWEAVE, "segment", images, "--out", tmp_path / "out", "--model", tmp_path / "m", "--diameter", "30"]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the diameter that was given is not used") == 1


def test_decoding_options_are_those_of_all_branches(
    run_cli: Run, images: Path, tmp_path: Path, system_folder: Path
) -> None:
    done = run_cli("segment", images, "--out", tmp_path / "out", "--model", system_folder, "--flow-threshold", "0.3")
    assert done.status == 1
    assert re.search(r"--flow-threshold does not apply to the model branch \d.*WatershedEnergy", done.err)


def test_a_damaged_branch_is_told(run_cli: Run, images: Path, tmp_path: Path, system_folder: Path) -> None:
    (system_folder / "omnipose" / "model.safetensors").write_bytes(b"")
    done = run_cli("segment", images, "--out", tmp_path / "out", "--model", system_folder)
    assert done.status == 1
    assert "omnipose: model.safetensors was altered or is damaged" in done.err


def test_info_shows_the_cards_of_all_branches(
    run_cli: Run, system_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELLWEAVE_MODELS", str(system_folder.parent))
    assert "system" in run_cli("models", "list").out
    done = run_cli("models", "info", "system")
    assert done.status == 0
    assert "# Model card: tiny system" in done.out
    for name in ("fluorescence", "general", "omnipose"):
        assert f"## Branch {name}: branch" in done.out


def test_training_starts_from_one_branch(run_cli: Run, images: Path, tmp_path: Path, system_folder: Path) -> None:
    done = run_cli("train", images, "--out", tmp_path / "run", "--base", system_folder)
    assert done.status == 1
    assert "give one of its branches (fluorescence, general, omnipose)" in done.err


def test_diagnostics_of_the_usual_model(run_cli: Run, images: Path, tmp_path: Path, default_model: Segmenter) -> None:
    done = run_cli("segment", images / "a.tif", "--out", tmp_path / "out", "--save", "diagnostics,labels")
    assert done.status == 0, done.err
    assert names(tmp_path / "out") == ["a_diagnostics.png", "a_labels.tif", "run.json", "summary.csv"]
    result = cellweave.segment(cellweave.read_image(images / "a.tif"), default_model)
    with Picture.open(tmp_path / "out" / "a_diagnostics.png") as picture:
        assert np.array_equal(np.asarray(picture), diagnostics_picture(result))
