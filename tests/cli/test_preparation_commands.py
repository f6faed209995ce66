"""``cellweave illumination``, ``scaling`` and what ``segment`` does with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

import cellweave
from cellweave.core.measure import measure
from cellweave.io import read_image, read_labels, read_table
from cellweave.prep import FlatField, Scaling, corrected, equalised

Run = Callable[..., Any]


def gain_of(shape: tuple[int, int]) -> NDArray[np.float64]:
    rows, columns = np.linspace(-1, 1, shape[0])[:, None], np.linspace(-1, 1, shape[1])
    gain = np.exp(-0.5 * (rows**2 + columns**2))
    return np.asarray(gain / gain.mean())


@pytest.fixture
def images(tmp_path: Path, domes: Callable[..., Any]) -> Path:
    """25 images of a vignetted microscope; every second one has two frames."""
    folder = tmp_path / "in"
    folder.mkdir()
    gain = gain_of((90, 110))
    for k in range(25):
        pixels = (domes(k, (90, 110), 5)[0] * gain).astype(np.uint16)
        film = np.stack([pixels, np.roll(pixels, 0)]) if k % 2 else pixels
        metadata = {"axes": "TYX" if k % 2 else "YX"}
        tifffile.imwrite(folder / f"{k:02}.tif", film, imagej=True, metadata=metadata)
    return folder


@pytest.mark.parametrize("method", ["cidre", "flat-field"])
def test_illumination(run_cli: Run, images: Path, tmp_path: Path, method: str) -> None:
    done = run_cli("illumination", images, "--out", tmp_path / "field.npz", "--method", method, "--offset", 0)
    assert done.status == 0, done.err
    assert "channel 1: light from 0." in done.out
    assert "--illumination" in done.out
    field = FlatField.load(tmp_path / "field.npz")
    assert field.facts["frames"] == 37
    assert field.gain.shape == (1, 90, 110)
    assert np.corrcoef(field.gain[0].ravel(), gain_of((90, 110)).ravel())[0, 1] > 0.9


def test_reference(run_cli: Run, tmp_path: Path) -> None:
    gain = gain_of((40, 50))
    tifffile.imwrite(tmp_path / "bright.tif", (1000 * gain + 100).astype(np.float32))
    tifffile.imwrite(tmp_path / "dark.tif", np.full((40, 50), 100, np.uint16))
    options = ("--method", "reference", "--dark", tmp_path / "dark.tif", "--out", tmp_path / "field.npz")
    assert run_cli("illumination", tmp_path / "bright.tif", *options).status == 0
    np.testing.assert_allclose(FlatField.load(tmp_path / "field.npz").gain[0], gain, rtol=1e-4)
    wrong = run_cli("illumination", tmp_path / "bright.tif", "--dark", tmp_path, "--out", tmp_path / "x.npz")
    assert wrong.status == 1
    assert run_cli("illumination", tmp_path / "bright.tif", "--method", "x", "--out", tmp_path / "x.npz").status == 1
    assert not (tmp_path / "x.npz").exists()


def test_segment_with_all_of_it(run_cli: Run, images: Path, tmp_path: Path, model_folder: Path) -> None:
    field, scaling = tmp_path / "field.npz", tmp_path / "scaling.json"
    FlatField(gain_of((90, 110)), np.zeros((90, 110)), {"method": "known"}).save(field)
    prepared = ("--illumination", field, "--clahe", "2x2,3")
    done = run_cli("scaling", images, "--out", scaling, *prepared)
    assert done.status == 0, done.err
    assert "becomes 0" in done.out
    common = ("--model", model_folder, "--device", "cpu", "--diameter", "24", "--save", "labels,table")
    first = images / "00.tif"
    for options in ((), prepared[:2], prepared, (*prepared, "--scaling", scaling)):
        done = run_cli("segment", first, "--out", tmp_path / "out", "--overwrite", *common, *options)
        assert done.status == 0, done.err
        image = read_image(first)
        if options:
            image = corrected(image, FlatField.load(field), keep_dtype=len(options) > 2)
        measured = image
        if len(options) > 2:
            image = equalised(image, tiles=(2, 2), clip_limit=3.0)
        if len(options) > 4:
            image = Scaling.load(scaling).apply(image)
        expected = cellweave.segment(image, str(model_folder), diameter=24, device="cpu")
        np.testing.assert_array_equal(read_labels(tmp_path / "out" / "00_labels.tif"), expected.labels)
        found = read_table(tmp_path / "out" / "00_cells.csv")
        name = next(column for column in found if column.startswith("mean_"))
        brightness = measure(expected.labels, measured, expected.confidence)[name]
        np.testing.assert_allclose(found[name], brightness, rtol=1e-4)
    record = json.loads((tmp_path / "out" / "run.json").read_text())["settings"]
    assert record["illumination"] == FlatField.load(field).hash
    assert record["scaling"] == Scaling.load(scaling).hash
    assert record["measured_on"] == "pixels with even illumination"
    changed = run_cli("segment", first, "--out", tmp_path / "out", *common)
    assert changed.status == 1
    assert "illumination" in changed.err


def test_faults_are_told(run_cli: Run, images: Path, tmp_path: Path, model_folder: Path) -> None:
    common = ("segment", images / "00.tif", "--out", tmp_path / "out", "--model", model_folder, "--device", "cpu")
    assert "8x8" in run_cli(*common, "--clahe", "8").err
    assert "no such file" in run_cli(*common, "--illumination", tmp_path / "none.npz").err
    FlatField(np.ones((9, 9)), np.zeros((9, 9))).save(tmp_path / "small.npz")
    assert "do not fit" in run_cli(*common, "--illumination", tmp_path / "small.npz").err
