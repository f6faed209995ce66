"""``cellweave train --strategy``: defaults of the recipe, a set at the end, mistakes told before a training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from cellweave.io import write_labels
from cellweave.models.model_set import ModelSet
from cellweave.train import strategies

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def data(tmp_path: Path, domes: Callable[..., Any]) -> Path:
    folder = tmp_path / "data"
    for name in ("images", "cells"):
        (folder / name).mkdir(parents=True)
    for k in range(2):
        picture, labels = domes(k, (80, 80), 4)
        tifffile.imwrite(folder / "images" / f"{k}.tif", np.stack([picture, picture // 2]), metadata={"axes": "CYX"})
        write_labels(folder / "cells" / f"{k}.tif", labels)
    return folder


def test_a_set_is_made(data: Path, tmp_path: Path, model_folder: Path, run_cli: Callable[..., Any]) -> None:
    options = ("--strategy", "channel-wise", "--cell-line", "U2OS", "--reporters", "ERK, AKT", "--base", model_folder)
    out = tmp_path / "run"
    done = run_cli("train", data, "--out", out, *options, "--epochs", 1, "--batch-size", 1, "--crop", 32)
    assert done.status == 0, done.err
    assert f"--model-set {out / 'set'} --cell-line U2OS" in done.out
    made = ModelSet.load(out / "set")
    assert made.reporters("cells", "U2OS") == ("ERK", "AKT")
    recipe = made.model(made.keys[0]).card["Recipe"]
    assert (recipe["augmentation"], recipe["patience"]) == ("microscopy", "20")


def test_the_recipe_is_that_of_the_paper(
    data: Path, tmp_path: Path, run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def stop(*arguments: Any, **options: Any) -> None:
        asked.append(arguments[2])
        raise KeyboardInterrupt

    import cellweave.cli.strategy

    monkeypatch.setattr(cellweave.cli.strategy, "train_strategy", stop)
    run_cli("train", data, "--out", tmp_path / "run", "--strategy", "grayscale", "--cell-line", "A")
    run_cli("train", data, "--out", tmp_path / "run", "--strategy", "grayscale", "--augmentation", "none")
    assert (asked[0].base, asked[0].patience, asked[0].augmentation) == ("default", 20, "microscopy")
    assert asked[1].augmentation == "none"
    assert strategies.PATIENCE == 20


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--strategy", "all"), "choose from channel-wise"),
        (("--cell-line", "U2OS"), "are for --strategy"),
        (("--reporters", "A,B"), "are for --strategy"),
        (("--strategy", "universal", "--method", "cell-segmenter"), "leave out --method"),
        (("--strategy", "universal", "--prepare-only"), "leave out --method, --unlabelled and --strategy"),
        (("--strategy", "universal"), "--cell-line U2OS"),
        (("--augmentation", "more"), "augmentation is 'more'"),
    ],
)
def test_mistakes_are_told(
    data: Path, tmp_path: Path, run_cli: Callable[..., Any], options: tuple[str, ...], said: str
) -> None:
    done = run_cli("train", data, "--out", tmp_path / "run", *options)
    assert done.status == 1
    assert said in " ".join(done.err.split())
