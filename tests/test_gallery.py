"""The script that shows what a model finds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tifffile

from cellweave.core.errors import CellweaveError

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "_gallery.py"


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import _gallery

    return _gallery


def test_a_stack_without_axes_is_one_of_depths(gallery: ModuleType, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((5, 20, 30), np.uint8))
    image = gallery.read(tmp_path / "x.npy")
    assert image.size("Z") == 5
    assert gallery.flat(image)[0].axes == "CYX"
    (tmp_path / "y.tif").write_text("no image")
    with pytest.raises(CellweaveError, match=r"y\.tif"):
        gallery.read(tmp_path / "y.tif")


def test_labels_and_points_are_not_shown(gallery: ModuleType, tmp_path: Path) -> None:
    for name in ("images/x.tif", "labels/x.tif", "points/x.tif", "y.tif", "y_masks.tif", "y_overlay.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / name, np.zeros((9, 9), np.uint8))
    assert gallery.images(tmp_path) == [tmp_path / "images" / "x.tif", tmp_path / "y.tif"]


def test_an_unknown_model_is_told_in_a_line(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, tmp_path, "--model", "no such model", "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no such model" in done.stderr
    assert "Traceback" not in done.stderr
