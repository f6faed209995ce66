"""An evaluation as table, JSON and CSV."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cellweave.core.errors import WriteError
from cellweave.metrics import Evaluation, as_table, evaluate, to_csv, to_json


@pytest.fixture
def evaluation() -> Evaluation:
    truth = np.zeros((30, 30), np.int32)
    truth[2:12, 2:12], truth[15:25, 15:25] = 1, 2
    empty = np.zeros_like(truth)
    return evaluate([truth, empty], [np.where(truth == 1, 1, 0), truth], names=["one, of two", "Zellen ö"])


def test_json_holds_every_figure(evaluation: Evaluation, tmp_path: Path) -> None:
    to_json(evaluation, tmp_path / "e.json")
    found = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert found == evaluation.to_dict()
    assert found["total"]["precision@0.5"] == 1 / 3
    assert found["images"][1]["count_error"] is None
    assert [row["image"] for row in found["images"]] == ["one, of two", "Zellen ö"]


def test_csv_has_a_line_an_image_then_mean_and_total(evaluation: Evaluation, tmp_path: Path) -> None:
    to_csv(evaluation, tmp_path / "e.csv")
    with (tmp_path / "e.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["image"] for row in rows] == ["one, of two", "Zellen ö", "mean", "total"]
    assert rows[1]["count_error"] == ""
    assert float(rows[3]["f1@0.5"]) == evaluation.total.at(0.5).f1


def test_an_unwritable_folder_is_named(evaluation: Evaluation, tmp_path: Path) -> None:
    for write in (to_json, to_csv):
        with pytest.raises(WriteError, match="nowhere"):
            write(evaluation, tmp_path / "nowhere" / "e")
    assert list(tmp_path.iterdir()) == []


def test_table_shows_every_threshold(evaluation: Evaluation) -> None:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(as_table(evaluation))
    text = capture.get()
    assert "2 images, 2 true objects, 3 predicted" in text
    assert all(f"{iou:.2f}" in text for iou in evaluation.thresholds)
    assert "AJI" in text
    assert f"{evaluation.mean['ap@0.5']:.3f}" in text


def test_public_names() -> None:
    import cellweave.metrics as metrics

    assert set(metrics.__all__) >= {"match", "evaluate", "Match", "Evaluation"}
    assert all(hasattr(metrics, name) for name in metrics.__all__)
