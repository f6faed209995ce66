"""``cellweave fuse select``: a table for each object, and the best of it in the set."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from cellweave.core.files import sha256
from cellweave.io import write_labels
from cellweave.models import Choice, ModelSet, Segmenter, Training, load_set
from cellweave.predict import channel_choice

Run = Callable[..., Any]


@pytest.fixture
def zoo(tmp_path: Path, tiny_model: Segmenter) -> ModelSet:
    models = ModelSet.create(tmp_path / "zoo")
    for name in ("nuclei", "cells"):
        for reporter in ("ERK", "AKT"):
            where = {"object": name, "cell_line": "U2OS", "reporter": reporter}
            models = models.add(tiny_model, **where, training=Training(24.0))
    return models


@pytest.fixture
def data(tmp_path: Path, domes: Callable[..., Any]) -> Path:
    """Two images: ERK shows half of the cells, AKT all; one labelled for nuclei and cells, one for nuclei."""
    root = tmp_path / "data"
    for folder in ("images", "nuclei", "cells"):
        (root / folder).mkdir(parents=True)
    for seed in (1, 2):
        picture, labels = domes(seed, (110, 120), 6)
        half = np.where(labels > 3, 100, picture)
        tifffile.imwrite(
            root / "images" / f"{seed}.ome.tif",
            np.stack([half, picture]).astype(np.uint16),
            metadata={"axes": "CYX", "Channel": {"Name": ["erk", "akt"]}},
            photometric="minisblack",
        )
        write_labels(root / "nuclei" / f"{seed}.tif", labels)
        if seed == 1:
            write_labels(root / "cells" / f"{seed}.tif", labels)
    return root


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_best_goes_into_the_set(run_cli: Run, zoo: ModelSet, data: Path) -> None:
    done = run_cli("fuse", "select", zoo.root, data, "--cell-line", "u2os", "--device", "cpu")
    assert done.status == 0, done.err
    for name, images in (("nuclei", 2), ("cells", 1)):
        choice = load_set(zoo.root).choice(name, "U2OS")
        assert choice.reporters == ("AKT",)
        assert choice.scores["images"] == images
        table = rows(zoo.root / f"choice_{name}_U2OS.csv")
        assert len(table) == 2 + 5
        assert [row["chosen"] for row in table] == ["1"] + ["0"] * 6
        assert (table[0]["reporters"], table[0]["method"]) == ("AKT", "")
        assert float(table[0]["f1"]) == pytest.approx(choice.scores["f1"], abs=1e-4)
        assert f"{name} of U2OS: AKT, with F1" in done.out
    for text in ("F1", "precision", "STAPLE", "flow fusion"):
        assert text in done.out
    load_set(zoo.root).check()


def test_images_of_the_trainings_are_told(run_cli: Run, tmp_path: Path, tiny_model: Segmenter, data: Path) -> None:
    """By what is in the files, not by their names."""
    known = {"old name": sha256(data / "images" / "2.ome.tif"), "1": "00"}
    own = ModelSet.create(tmp_path / "own")
    own.add(tiny_model, object="nuclei", cell_line="U2OS", reporter="AKT", training=Training(24.0, known))
    done = run_cli("fuse", "select", own.root, data, "--device", "cpu")
    assert done.status == 0, done.err
    assert "1 of the 2 images for nuclei are of those that the models learned from or were chosen by (2)" in done.err


def test_one_object_into_another_folder(run_cli: Run, zoo: ModelSet, data: Path, tmp_path: Path) -> None:
    done = run_cli(
        *("fuse", "select", zoo.root, data, "--object", "cells", "--methods", "staple,flow fusion"),
        *("--out", tmp_path / "tables", "--device", "cpu"),
    )
    assert done.status == 0, done.err
    assert [p.name for p in (tmp_path / "tables").iterdir()] == ["choice_cells_U2OS.csv"]
    assert {row["method"] for row in rows(tmp_path / "tables" / "choice_cells_U2OS.csv")} == {
        "",
        "staple",
        "flow_fusion",
    }
    assert load_set(zoo.root).choice("nuclei", "U2OS") == Choice()


def test_objects_without_labels(run_cli: Run, zoo: ModelSet, data: Path) -> None:
    shutil.rmtree(data / "cells")
    done = run_cli("fuse", "select", zoo.root, data, "--methods", "flow_fusion", "--device", "cpu")
    assert done.status == 0, done.err
    assert "No labels of cells" in done.err
    assert load_set(zoo.root).choice("cells", "U2OS") == Choice()
    done = run_cli("fuse", "select", zoo.root, data, "--object", "cells", "--device", "cpu")
    assert done.status == 1
    assert "has no labels of cells" in done.err


def test_a_greedy_search_is_told(run_cli: Run, zoo: ModelSet, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_choice, "MOST_CHANNELS", 1)
    done = run_cli("fuse", "select", zoo.root, data, "--object", "nuclei", "--device", "cpu")
    assert done.status == 0, done.err
    assert "subsets are searched greedily" in done.err
    assert "not all 3 of them were scored" in done.err


def test_folders_of_cell_lines_and_channels_without_names(
    run_cli: Run, zoo: ModelSet, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "lines").mkdir()
    shutil.move(data, tmp_path / "lines" / "u2 os")
    arguments = ("fuse", "select", zoo.root, tmp_path / "lines", "--methods", "flow_fusion", "--device", "cpu")
    assert run_cli(*arguments, "--object", "cells").status == 0
    assert load_set(zoo.root).choice("cells", "U2OS").reporters == ("AKT",)
    turned = run_cli(*arguments, "--object", "cells", "--reporters", "AKT,ERK")
    assert turned.status == 0, turned.err
    assert load_set(zoo.root).choice("cells", "U2OS").reporters == ("ERK",)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cell-line", "HeLa"], "no models for the cell line 'HeLa'"),
        (["--object", "membranes"], "--object 'membranes' is unknown"),
        (["--methods", "mean"], "'mean' is unknown"),
        (["--reporters", "A,B"], "has no model for nuclei of U2OS with the channels A, B"),
        (["--reporters", "A"], "2 channels"),
    ],
)
def test_what_is_wrong_is_said(run_cli: Run, zoo: ModelSet, data: Path, arguments: list[str], said: str) -> None:
    before = load_set(zoo.root)
    done = run_cli("fuse", "select", zoo.root, data, "--device", "cpu", *arguments)
    assert done.status == 1
    assert said in done.err
    assert load_set(zoo.root) == before
