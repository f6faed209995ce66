"""``cellweave train --method area|blobs|mask-rcnn``, then ``count``, then ``evaluate``: one way for all."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import cellweave
from cellweave.io import read_image
from cellweave.predict import load_counter
from cellweave.predict.mask_rcnn import Architecture
from clicks import write_dots
from mask_rcnns import small_net
from sams import save_small_sam

Run = Callable[..., Any]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_dots(tmp_path / "data", range(4))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.setattr(Architecture, "build", small_net)


def table(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "counts.csv").open(newline="", encoding="utf-8") as stream:
        return {row["name"]: row for row in csv.DictReader(stream)}


@pytest.mark.parametrize("method", ["area", "blobs"])
def test_train_count_and_evaluate(run_cli: Run, data: Path, tmp_path: Path, method: str) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    done = run_cli("train", data, "--target", "points", "--method", method, "--out", run)
    assert done.status == 0, done.err
    assert f"cellweave count IMAGES --out RESULTS --model {run / 'model'}" in done.out
    done = run_cli("count", data / "images", "--out", out, "--model", run / "model")
    assert done.status == 0, done.err
    assert "no interval" in done.err
    rows = table(out)
    for name, row in rows.items():
        found = cellweave.count(read_image(data / "images" / f"{name}.tif"), run / "model")
        assert float(row["count"]) == pytest.approx(found.count, abs=0.006)
        assert (row["low"], row["unsure"]) == ("", "")
        assert row["points"] == ("" if found.points is None else str(len(found.points)))
        endings = ["_counted.png"] if method == "area" else ["_points.csv", "_counted.png"]
        assert row["outputs"] == " ".join(name + ending for ending in endings)
    assert json.loads((out / "run.json").read_text())["settings"]["model_hash"] == load_counter(run / "model").hash
    figures = tmp_path / "figures"
    done = run_cli("evaluate", "--points", out, data / "points", "--out", figures)
    assert done.status == 0, done.err
    found = json.loads((figures / "evaluation.json").read_text())
    assert {row["image"]: row["n_predicted"] for row in found["images"]} == {
        name: float(row["count"]) for name, row in rows.items()
    }
    assert found["counts"]["mape"] < 0.6
    assert ("f1" in found["total"]) == (method == "blobs")
    assert ("counts only" in done.out) == (method == "area")
    assert (figures / "evaluation.csv").read_text().splitlines()[-1].startswith("total,")
    card = run_cli("models", "info", run / "model")
    assert f"Counts by: {method}" in card.out
    done = run_cli("segment", data / "images", "--out", tmp_path / "s", "--model", run / "model")
    assert done.status == 1
    assert "only counts; use it with cellweave count" in done.err
    (out / "counts.csv").write_text("name,count,status\nd000,3,done\n")
    done = run_cli("evaluate", "--points", out, data / "points")
    assert (done.status, "no count for d001" in done.err) == ((1, True) if method == "area" else (0, False))


def test_an_area_has_no_density_and_no_flips(run_cli: Run, data: Path, tmp_path: Path) -> None:
    run_cli("train", data, "--target", "points", "--method", "area", "--out", tmp_path / "run")
    model = tmp_path / "run" / "model"
    for options, words in (
        (("--save", "density", "--out", tmp_path / "a"), "has no density"),
        (("--augment",), "leave out diameter and augment"),
        (("--diameter", 20), "leave out diameter and augment"),
        (("--min-confidence", 0.5), "leave out min_confidence"),
    ):
        done = run_cli("count", data / "images", "--model", model, *options)
        assert done.status == 1
        assert words in done.err
    assert run_cli("count", data / "images", "--save", "points", "--out", tmp_path / "b", "--model", model).status == 0
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["counts.csv", "run.json"]


def test_counters_are_carried_as_other_models(
    run_cli: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELLWEAVE_MODELS", str(tmp_path / "mine"))
    run_cli("train", data, "--target", "points", "--method", "area", "--out", tmp_path / "run")
    assert run_cli("models", "add", tmp_path / "run" / "model", "--name", "cover").status == 0
    assert run_cli("models", "export", "cover", tmp_path / "cover.zip").status == 0
    assert run_cli("models", "import", tmp_path / "cover.zip", "--name", "again").status == 0
    done = run_cli("count", data / "images" / "d000.tif", "--model", "again")
    assert done.status == 0, done.err
    settings = tmp_path / "run" / "model" / "model.json"
    settings.write_text(settings.read_text().replace('"images": 4', '"images": 5'))
    done = run_cli("models", "add", tmp_path / "run" / "model")
    assert done.status == 1
    assert "was altered" in done.err


def test_a_mask_rcnn_is_trained_stopped_and_resumed(run_cli: Run, data: Path, tmp_path: Path, small: None) -> None:
    options = ("--target", "points", "--method", "mask-rcnn", "--diameter", 12, "--crop", 64, "--batch-size", 1)
    start = ("train", data, *options, "--epochs", 1, "--device", "cpu", "--out")
    done = run_cli(*start, tmp_path / "run")
    assert done.status == 0, done.err
    assert f"cellweave count IMAGES --out RESULTS --model {tmp_path / 'run' / 'model'}" in done.out
    settings = json.loads((tmp_path / "run" / "model" / "model.json").read_text())
    assert settings["card"]["Steps"] == 8
    assert settings["architecture"] == {"side": 12, "tile": 64, "backbone": "resnet50", "pretrained": False}
    assert "4 of 4 annotated images" in (tmp_path / "run" / "data.txt").read_text()
    content = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert content["state"]["step"] == 8
    done = run_cli(*start, tmp_path / "run")
    assert done.status == 1
    assert "holds a run already" in done.err
    assert run_cli(*start, tmp_path / "run", "--resume").status == 0  # it is finished
    assert run_cli(*start, tmp_path / "run", "--overwrite").status == 0
    done = run_cli(*start, tmp_path / "other", "--resume")
    assert done.status == 1
    assert "nothing to resume" in done.err
    done = run_cli("count", data / "images", "--model", tmp_path / "run" / "model", "--device", "cpu")
    assert done.status == 0, done.err
    assert "a Mask R-CNN tells no interval" in done.err


def test_sam_counts(run_cli: Run, data: Path, tmp_path: Path) -> None:
    folder = save_small_sam(tmp_path / "sam")
    done = run_cli("count", data / "images" / "d000.tif", "--model", folder, "--device", "cpu")
    assert done.status == 0, done.err
    assert "SAM tells no interval" in done.err
    done = run_cli("segment", data / "images", "--out", tmp_path / "s", "--model", folder)
    assert done.status == 1
    assert "a SAM, which only counts" in done.err


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("area", ("--epochs", 3), "area does not use --epochs"),
        ("area", ("--resume",), "--resume"),
        ("blobs", ("--diameter", 20, "--base", "default"), "--base, --diameter"),
        ("blobs", ("--validation", "x"), "--validation"),
        ("mask-rcnn", ("--sigma", 4, "--patience", 3), "--patience, --sigma"),
        ("mask-rcnn", ("--strategy", "universal"), "--strategy"),
        ("mask-rcnn", ("--resume", "--overwrite"), "leave one of them out"),
        ("mask-rcnn", ("--net", "CellposeUNet"), "choose resnet50 or resnet18"),
        ("area", ("--channels", "1,2"), "write gray:NAME"),
        ("area", ("--target", "labels", "--sparse"), "sparse is for points"),
        ("mask-rcnn", ("--target", "dots"), "target is 'dots'"),
        ("stardist", (), "there are cell-segmenter, area, blobs, mask-rcnn"),
    ],
)
def test_wrong_options_are_named(
    run_cli: Run, data: Path, tmp_path: Path, method: str, options: tuple[Any, ...], words: str
) -> None:
    done = run_cli("train", data, "--target", "points", "--method", method, "--out", tmp_path / "run", *options)
    assert done.status == 1
    assert words in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "run" / "model").exists()
