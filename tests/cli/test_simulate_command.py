"""``cellweave simulate``: folders that ``train`` takes, films with lineages, stacks."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from cellweave.io import read_image, read_labels
from cellweave.simulate import RECIPES, Scene, picture
from cellweave.train.pairs import check_folder

Run = Callable[..., Any]


def test_pairs_that_train_takes(run_cli: Run, tmp_path: Path) -> None:
    out = tmp_path / "data"
    done = run_cli("simulate", "anything", "--out", out, "--n", 4, "--size", "96x80", "--seed", 5, "--diameter", 16)
    assert done.status == 0, done.err
    assert f"cellweave train {out} --out RUN" in done.out
    assert "simulating: 4/4" in done.err
    report = check_folder(out, min_objects=1)
    assert len(report.usable) == 4
    assert report.ok
    lines = (out / "scenes.jsonl").read_text().splitlines()
    for number, line in enumerate(lines):
        entry = json.loads(line)
        made = picture("anything", number, seed=5, size=(96, 80), diameter=16)
        assert Scene.from_json(json.dumps(entry["scene"])) == made.scene
        image = read_image(out / "images" / f"{entry['name']}.tif")
        assert np.array_equal(image.read(), made.pixels)
        assert image.color == made.color
        assert image.channel_names == made.channel_names
        assert np.array_equal(read_labels(out / "labels" / f"{entry['name']}.tif"), made.labels)


def test_films_have_a_lineage(run_cli: Run, tmp_path: Path) -> None:
    done = run_cli("simulate", "bacteria", "--out", tmp_path, "--n", 2, "--size", 64, "--diameter", 14, "--frames", 3)
    assert done.status == 0, done.err
    assert len(list((tmp_path / "images").iterdir())) == len(list((tmp_path / "labels").iterdir())) == 6
    with (tmp_path / "lineage.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for film in {row["film"] for row in rows}:
        seen = set()
        for moment in range(3):
            seen |= set(np.unique(read_labels(tmp_path / "labels" / f"{film}_t{moment:04d}.tif")).tolist())
        assert seen - {0} == {int(row["id"]) for row in rows if row["film"] == film}


def test_stacks(run_cli: Run, tmp_path: Path) -> None:
    done = run_cli("simulate", "nuclei", "--out", tmp_path, "--n", 1, "--size", 64, "--diameter", 18, "--depth", 5)
    assert done.status == 0, done.err
    assert "cellweave train" not in done.out
    image = read_image(tmp_path / "images" / "nuclei_0000.tif")
    assert image.axes == "CZYX"
    assert image.shape == (1, 5, 64, 64)
    assert tifffile.imread(tmp_path / "labels" / "nuclei_0000.tif").shape == (5, 64, 64)


def test_without_a_recipe_they_are_listed(run_cli: Run) -> None:
    done = run_cli("simulate")
    assert done.status == 0
    for name, recipe in RECIPES.items():
        assert f"{name} " in done.out
        assert recipe.summary in done.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["yeasts", "--out", "OUT"], "no recipe 'yeasts'; choose one of nuclei"),
        (["yeast"], "--out FOLDER"),
        (["yeast", "--out", "OUT", "--size", "big"], "--size big"),
        (["yeast", "--out", "OUT", "--size", "0"], "--size 0"),
        (["yeast", "--out", "OUT", "--n", "0"], "--n 0: give 1 or more"),
        (["yeast", "--out", "OUT", "--seed", "-1"], "--seed -1: give 0 or more"),
        (["yeast", "--out", "OUT", "--frames", "2", "--depth", "2"], "choose one"),
        (["yeast", "--out", "OUT", "--diameter", "-4"], "diameter -4"),
        (["stained_tissue", "--out", "OUT", "--depth", "2"], "labels nuclei"),
    ],
)
def test_mistakes_are_told_in_one_line(run_cli: Run, tmp_path: Path, options: list[str], said: str) -> None:
    done = run_cli("simulate", *[str(tmp_path / "out") if option == "OUT" else option for option in options])
    assert done.status == 1
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_folder_with_pictures_is_not_mixed_with_new_ones(run_cli: Run, tmp_path: Path) -> None:
    first = run_cli("simulate", "yeast", "--out", tmp_path, "--n", 1, "--size", 32)
    assert first.status == 0, first.err
    again = run_cli("simulate", "yeast", "--out", tmp_path, "--n", 1, "--size", 32)
    assert again.status == 1
    assert "has files already" in again.err
