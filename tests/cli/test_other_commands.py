"""``cellweave evaluate``, ``models``, ``info``, and the help."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image as Picture

import cellweave
from cellweave.cli import evaluate as evaluate_command
from cellweave.io import read_labels, write_labels
from cellweave.metrics import evaluate

Run = Callable[..., Any]


def labels(seed: int, n: int = 6) -> NDArray[np.int32]:
    """Squares of 8 px, every seed with some of them moved."""
    rng = np.random.default_rng(seed)
    image = np.zeros((64, 64), np.int32)
    for k in range(n):
        y, x = divmod(k, 4)
        move = int(rng.integers(0, 7))
        image[16 * y + move : 16 * y + move + 8, 16 * x : 16 * x + 8] = k + 1
    return image


def put(folder: Path, files: dict[str, NDArray[np.int32]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in files.items():
        write_labels(folder / name, image)
    return folder


def test_evaluate_two_files(run_cli: Run, tmp_path: Path) -> None:
    put(tmp_path, {"p.tif": labels(0), "t.png": labels(1)})
    done = run_cli("evaluate", tmp_path / "p.tif", tmp_path / "t.png")
    assert done.status == 0, done.err
    expected = evaluate(labels(1), labels(0)).total
    assert 0 < expected.at(0.5).f1 < 1
    assert f"{expected.at(0.5).f1:.3f}" in done.out


def test_evaluate_reads_one_pair_after_the_other(run_cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("pred", "truth"):
        put(tmp_path / folder, {"a.png": labels(0), "b.png": labels(1)})
    read = list[Path]()
    monkeypatch.setattr(evaluate_command, "read_labels", lambda file: read.append(file) or read_labels(file))
    done = run_cli("evaluate", tmp_path / "pred", tmp_path / "truth")
    assert done.status == 0, done.err
    assert read == [tmp_path / folder / f"{name}.png" for name in "ab" for folder in ("truth", "pred")]


def test_evaluate_two_folders_and_write_the_figures(run_cli: Run, tmp_path: Path) -> None:
    """Truth as people name it, predictions as ``cellweave segment`` does; other predictions do not matter."""
    put(tmp_path / "truth", {"a_masks.png": labels(0), "b_masks.png": labels(1), "b c_masks.png": labels(2)})
    put(tmp_path / "pred", {"a_labels.tif": labels(3), "b_labels.tif": labels(1), "b c_labels.tif": labels(5)})
    put(tmp_path / "pred", {"more_labels.tif": labels(0)})
    (tmp_path / "pred" / "a_overlay.png").write_bytes(b"")
    done = run_cli("evaluate", tmp_path / "pred", tmp_path / "truth", "--out", tmp_path / "out" / "figures")
    assert done.status == 0, done.err
    expected = evaluate([labels(0), labels(2), labels(1)], [labels(3), labels(5), labels(1)], names=["a", "b c", "b"])
    found = json.loads((tmp_path / "out" / "figures" / "evaluation.json").read_text())
    by_name = {row["image"]: row for row in found["images"]}
    assert by_name.keys() == {"a", "b", "b c"}
    for scores in expected.images:
        assert by_name[scores.name]["f1@0.5"] == pytest.approx(scores.at(0.5).f1)
    assert found["total"]["ap@0.75"] == pytest.approx(expected.total.at(0.75).average_precision)
    with (tmp_path / "out" / "figures" / "evaluation.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 5


def f1(done: Any, out: Path) -> float:
    assert done.status == 0, done.err
    return float(json.loads((out / "evaluation.json").read_text())["total"]["f1@0.5"])


@pytest.mark.parametrize(
    "files", [("x_labels.tif", "x_labels.png"), ("x_labels.tif", "x_labels.zarr"), ("x_cp_masks.png", "x_seg.npy")]
)
def test_evaluate_takes_the_first_of_several_formats(run_cli: Run, tmp_path: Path, files: tuple[str, str]) -> None:
    """Here the second has nothing, so that the figures tell which was read."""
    put(tmp_path / "truth", {"x.tif": labels(0)})
    put(tmp_path / "pred", {files[0]: labels(0), files[1]: 0 * labels(0)})
    assert f1(run_cli("evaluate", tmp_path / "pred", tmp_path / "truth", "--out", tmp_path), tmp_path) == 1


def test_evaluate_refuses_different_labels_of_one_name(run_cli: Run, tmp_path: Path) -> None:
    """As where results lie beside images and true labels."""
    put(tmp_path / "truth", {"x.tif": labels(0)})
    put(tmp_path / "pred", {"x_masks.png": labels(0), "x_labels.tif": labels(1)})
    done = run_cli("evaluate", tmp_path / "pred", tmp_path / "truth")
    assert done.status == 1
    assert "x_labels.tif and x_masks.png have one name" in done.err


def test_evaluate_one_object_of_a_set(run_cli: Run, tmp_path: Path) -> None:
    """Results of ``segment --model-set``; the truth in a folder for each object, or in one."""
    pred, truth = tmp_path / "pred", tmp_path / "truth"
    put(pred, {"x_nuclei_labels.tif": labels(0), "x_cells_labels.tif": labels(1), "x_cytoplasm_labels.tif": labels(2)})
    put(pred, {"x_matched_nuclei_labels.tif": labels(3)})
    put(truth / "nuclei", {"x.tif": labels(0)})
    put(truth / "cells", {"x.tif": labels(1)})
    put(truth / "both", {"x_nuclei_masks.png": labels(0), "x_cells_masks.png": labels(1)})
    for name in ("nuclei", "cells"):
        for folder in (name, "both"):
            done = run_cli("evaluate", pred, truth / folder, "--object", name, "--out", tmp_path)
            assert f1(done, tmp_path) == 1
    done = run_cli("evaluate", pred, truth / "nuclei")
    assert done.status == 1
    assert "no labels for x" in done.err
    assert "--object" in done.err
    done = run_cli("evaluate", pred, truth / "nuclei", "--object", "nucleus")
    assert done.status == 1
    assert "choose nuclei or cells" in done.err
    done = run_cli("evaluate", "--points", pred, truth, "--object", "nuclei")
    assert done.status == 1
    assert "leave out --object" in done.err


def test_evaluate_tells_which_prediction_is_missing(run_cli: Run, tmp_path: Path) -> None:
    put(tmp_path / "truth", {f"{k}_masks.png": labels(k) for k in range(8)})
    put(tmp_path / "pred", {"3_labels.tif": labels(3)})
    done = run_cli("evaluate", tmp_path / "pred", tmp_path / "truth")
    assert done.status == 1
    assert "no labels for 0, 1, 2, 4, 5 and more" in done.err


@pytest.mark.parametrize(
    ("predicted", "truth", "said"),
    [
        ("none.tif", "t.tif", "none.tif: there is no such file or folder"),
        ("empty", "t.tif", "empty: no label image in this folder"),
        ("small.tif", "t.tif", "shape (64, 64) and the predicted ones (40, 64)"),
        ("text.tif", "t.tif", "text.tif"),
        ("float.tif", "t.tif", "fractions or NaN"),
        ("t.tif", "colour.png", "colour.png"),
    ],
)
def test_evaluate_tells_what_is_wrong(run_cli: Run, tmp_path: Path, predicted: str, truth: str, said: str) -> None:
    put(tmp_path, {"t.tif": labels(0), "small.tif": labels(0)[:40]})
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.tif").write_text("not an image")
    tifffile.imwrite(tmp_path / "float.tif", labels(0) / 3)
    Picture.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "colour.png")
    done = run_cli("evaluate", tmp_path / predicted, tmp_path / truth)
    assert done.status == 1
    assert said in done.err
    assert "Traceback" not in done.err


def test_evaluate_where_nothing_can_be_written(run_cli: Run, tmp_path: Path) -> None:
    put(tmp_path, {"t.tif": labels(0)})
    done = run_cli("evaluate", tmp_path / "t.tif", tmp_path / "t.tif", "--out", tmp_path / "t.tif" / "out")
    assert done.status == 1
    assert "cannot write to the folder" in done.err


def test_models_list(run_cli: Run, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("CELLWEAVE_MODELS", str(tmp_path / "mine"))
    shutil.copytree(model_folder, tmp_path / "mine" / "neurons [old]")
    done = run_cli("models", "list")
    assert done.status == 0, done.err
    [line] = [line for line in done.out.splitlines() if "neurons" in line]
    assert "neurons [old]" in line
    assert "user" in line
    assert str(tmp_path / "mine" / "neurons [old]") in line


def test_models_info_is_the_card(run_cli: Run, model_folder: Path) -> None:
    done = run_cli("models", "info", model_folder)
    assert done.status == 0
    assert done.out.strip() == (model_folder / "README.md").read_text().strip()
    done = run_cli("models", "info", "unheard of")
    assert done.status == 1
    assert "'unheard of'" in done.err


def test_info_of_several_files(run_cli: Run, tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "[x].tif",
        np.zeros((3, 20, 30), np.uint16),
        imagej=True,
        resolution=(4, 4),
        metadata={"axes": "CYX", "unit": "um", "Labels": ["DAPI", "GFP", "RFP"]},
    )
    Picture.fromarray(np.zeros((5, 6, 3), np.uint8)).save(tmp_path / "y.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG")
    done = run_cli("info", tmp_path / "[x].tif", tmp_path / "bad.png", tmp_path / "y.png")
    assert done.status == 1  # one of them cannot be read
    assert "bad.png" in done.err
    first, second = done.out.strip().split("\n\n")
    for part in ("[x].tif", "CYX (C 3, Y 20, X 30)", "uint16", "DAPI, GFP, RFP", "0.25 x 0.25 um"):
        assert part in first, part
    assert "red, green, blue photograph" in second
    assert "not in the file" in second
    assert run_cli("info", tmp_path / "y.png").status == 0


def test_info_with_axes(run_cli: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 20, 30)))
    done = run_cli("info", tmp_path / "x.npy")
    assert done.status == 1
    assert "--axes" in done.err
    done = run_cli("info", tmp_path / "x.npy", "--axes", "CYX")
    assert done.status == 0
    assert "CYX (C 2, Y 20, X 30)" in done.out


HELP = """
import sys
sys.argv = ["cellweave", *sys.argv[1:]]
from cellweave.cli import main
try:
    main()
finally:
    heavy = {"torch", "numpy", "scipy", "skimage"} & set(sys.modules)
    assert not heavy, heavy
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["segment", "--help"], ["train", "--help"], ["models", "--help"], []]
)
def test_help_needs_no_heavy_import(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", HELP, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode in ((0,) if arguments else (0, 2)), done.stderr
    assert "AssertionError" not in done.stderr
    text = done.stdout + done.stderr
    if arguments == ["--version"]:
        assert text.strip() == f"cellweave {cellweave.__version__}"
    else:
        assert "Usage: cellweave" in text
    if arguments in ([], ["--help"]):
        for command in ("segment", "train", "evaluate", "models", "info"):
            assert command in text


def test_every_option_has_a_help_text() -> None:
    import typer

    from cellweave.cli.app import app

    group = typer.main.get_command(app)
    commands = [*group.commands.values(), *group.commands["models"].commands.values()]  # type: ignore[attr-defined]
    assert len(commands) >= 7
    for command in commands:
        assert command.help, command.name
        for parameter in command.params:
            assert parameter.help, f"{command.name} {parameter.name}"


@pytest.mark.parametrize("arguments", [["segment"], ["segment", "x.tif"], ["nothing"], ["segment", "x", "--no-such"]])
def test_wrong_usage_is_status_2(run_cli: Run, arguments: list[str]) -> None:
    done = run_cli(*arguments)
    assert done.status == 2
    assert "Usage" in done.err
