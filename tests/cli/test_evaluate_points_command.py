"""``cellweave evaluate --points``."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cellweave.core.points import DEBRIS, LIVE, Points
from cellweave.io import write_points

Run = Callable[..., Any]


def put(folder: Path, **files: list[tuple[float, float]]) -> Path:
    """A CSV each, the last point of each is debris."""
    folder.mkdir(exist_ok=True)
    for name, places in files.items():
        classes = np.array([LIVE] * (len(places) - 1) + [DEBRIS])
        write_points(folder / f"{name}.csv", Points(np.array(places, float), classes))
    return folder


def test_folders_are_compared_without_debris(run_cli: Run, tmp_path: Path) -> None:
    truth = put(tmp_path / "t", a=[(5, 5), (50, 50), (90, 90)], b=[(1, 1), (7, 7)])
    found = put(tmp_path / "p", a_points=[(5, 9), (80, 50), (50, 57), (0, 0)], b_points=[(1, 1), (9, 9)], c=[(1, 1)])
    (found / "c.csv").rename(found / "c_points.csv")
    done = run_cli("evaluate", "--points", found, truth, "--radius", 5, "--out", tmp_path / "out")
    assert done.status == 0, done.err
    assert "2 images, points within 5 px" in done.out
    figures = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert figures["total"] | {"tp": 2, "fp": 2, "fn": 1, "n_true": 3, "n_predicted": 4} == figures["total"]
    assert figures["counts"]["mae"] == 0.5
    with (tmp_path / "out" / "evaluation.csv").open() as stream:
        assert [row["image"] for row in csv.DictReader(stream)] == ["a", "b", "total"]
    wide = run_cli("evaluate", "--points", found, truth)
    assert "points within 12 px" in wide.out


def test_two_files_of_any_name(run_cli: Run, tmp_path: Path) -> None:
    folder = put(tmp_path, one=[(5, 5), (1, 1)], two=[(5, 6), (1, 1)])
    done = run_cli("evaluate", folder / "one.csv", folder / "two.csv", "--points")
    assert done.status == 0, done.err
    assert "1.000" in done.out


def test_an_image_without_prediction_is_named(run_cli: Run, tmp_path: Path) -> None:
    truth, found = put(tmp_path / "t", a=[(5, 5)], b=[(1, 1)]), put(tmp_path / "p", a=[(5, 5)])
    done = run_cli("evaluate", "--points", found, truth)
    assert done.status == 1
    assert "no points for b" in done.err


def test_a_radius_is_for_points(run_cli: Run, tmp_path: Path) -> None:
    done = run_cli("evaluate", tmp_path, tmp_path, "--radius", 5)
    assert done.status == 1
    assert "add --points" in done.err
    done = run_cli("evaluate", put(tmp_path / "t", a=[(5, 5)]), tmp_path / "t", "--points", "--radius", 0)
    assert done.status == 1
    assert "positive" in done.err
