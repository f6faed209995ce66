"""``cellweave data audit``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

Run = Callable[..., Any]


@pytest.fixture
def data(tmp_path: Path, domes: Callable[..., Any]) -> Path:
    """A pair of files with good labels, and one with labels of another picture."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, seed, other in (("good", 1, 1), ("wr[on]g", 2, 3)):
        tifffile.imwrite(folder / f"{name}.tif", domes(seed)[0])
        tifffile.imwrite(folder / f"{name}_masks.tif", domes(other)[1].astype(np.uint16))
    return folder


def test_audit(run_cli: Run, data: Path, model_folder: Path, tmp_path: Path) -> None:
    """Images whose labels are doubtful are listed for a person, and are no failure."""
    out = tmp_path / "out"
    done = run_cli("data", "audit", data, "--model", model_folder, "--out", out, "--device", "cpu")
    assert done.status == 0, done.err
    assert "Images under 0.1: 1 of 2; look at them and decide" in done.out
    assert "wr[on]g: F1 0.0" in done.out
    assert str(out / "audit.csv") in done.out
    assert (out / "noisy" / "wr[on]g.png").is_file()
    assert "auditing: 2/2" in done.err
    assert "auditing" not in done.out


def test_nothing_is_written_without_out(run_cli: Run, data: Path, model_folder: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    done = run_cli("data", "audit", data, "--model", model_folder, "--device", "cpu", "--channels", "gray")
    assert done.status == 0, done.err
    assert "audit.csv" not in done.out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bad_file_is_reported_and_the_status_is_1(run_cli: Run, data: Path, model_folder: Path) -> None:
    (data / "bad.tif").write_bytes(b"II*\0 no more")
    tifffile.imwrite(data / "bad_masks.tif", np.ones((8, 8), np.uint8))
    done = run_cli("data", "audit", data, "--model", model_folder, "--device", "cpu")
    assert done.status == 1
    assert "Left out (1)" in done.out
    assert "bad.tif" in done.out
    assert "F1@0.5 of the model" in done.out


def test_no_data(run_cli: Run, tmp_path: Path) -> None:
    done = run_cli("data", "audit", tmp_path / "none")
    assert (done.status, done.out) == (1, "")
    assert "there is no such folder" in done.err
    assert "audit" in run_cli("data", "--help").out
