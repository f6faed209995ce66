"""Bad input of every kind is told in a line that names it, or handled; nothing crashes or is left half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image as Picture

import cellweave
from cellweave.core.errors import CellweaveError, InputError, ModelError, ReadError, WriteError
from cellweave.core.image import Image
from cellweave.io import read_labels
from cellweave.models import Segmenter

Run = Callable[..., Any]


@pytest.fixture
def segment(run_cli: Run, tmp_path: Path, model_folder: Path) -> Run:
    """``cellweave segment ARGUMENTS --out OUT``; ends with a readable line, never with a traceback."""

    def run(*arguments: object, out: Path | None = None) -> Any:
        done = run_cli(
            "segment", *arguments, "--out", out or tmp_path / "out", "--model", model_folder, "--device", "cpu"
        )
        assert "Traceback" not in done.err
        assert "unexpected" not in done.err
        return done

    return run


@pytest.fixture
def good(tmp_path: Path, domes: Callable[..., Any]) -> Path:
    """A file that works, with 3 cells."""
    tifffile.imwrite(tmp_path / "good.tif", domes(0, (100, 120), 3)[0])
    return tmp_path / "good.tif"


def truncated_tiff(folder: Path) -> Path:
    tifffile.imwrite(folder / "cut.tif", np.random.default_rng(0).integers(0, 99, (200, 200), np.uint16))
    content = (folder / "cut.tif").read_bytes()
    (folder / "cut.tif").write_bytes(content[: len(content) // 2])
    return folder / "cut.tif"


def text_named_tif(folder: Path) -> Path:
    (folder / "notes.tif").write_text("Dear diary, today I imaged some cells.\n")
    return folder / "notes.tif"


def zero_byte_png(folder: Path) -> Path:
    (folder / "zero.png").touch()
    return folder / "zero.png"


def complex_pixels(folder: Path) -> Path:
    np.save(folder / "complex.npy", np.zeros((20, 20), complex))
    return folder / "complex.npy"


@pytest.mark.parametrize("make", [truncated_tiff, text_named_tif, zero_byte_png, complex_pixels])
def test_files_that_are_no_image(make: Callable[[Path], Path], segment: Run, good: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    file = make(tmp_path / "in")
    with pytest.raises(ReadError, match=file.name):
        cellweave.read_image(file).read()
    done = segment(file, good)
    assert done.status == 1
    assert f"{file.name}: not segmented: " in done.err
    assert "good.tif: 3 cells" in done.err
    assert not list((tmp_path / "out").glob(f"{file.stem}*"))


def test_an_empty_folder(segment: Run, run_cli: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = segment(tmp_path / "empty")
    assert done.status == 1
    assert f"{tmp_path / 'empty'}: no image in this folder" in done.err
    done = run_cli("train", tmp_path / "empty", "--out", tmp_path / "run")
    assert done.status == 1
    assert f"{tmp_path / 'empty'}: the folder is empty" in done.err
    done = run_cli("evaluate", tmp_path / "empty", tmp_path / "empty")
    assert done.status == 1
    assert "no label image in this folder" in done.err


def odd_images() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    with_nan = rng.random((60, 60)).astype(np.float32)
    with_nan[20:30], with_nan[40, 40], with_nan[41, 41] = np.nan, np.inf, -np.inf
    return {
        "no cells": rng.normal(1000, 3, (100, 100)).astype(np.uint16),
        "constant": np.full((80, 70), 5, np.uint8),
        "NaN and inf": with_nan,
        "1 x 1": np.ones((1, 1), np.uint16),
        "3 x 40000": rng.integers(0, 99, (3, 40_000)).astype(np.uint8),
    }


@pytest.mark.parametrize("name", odd_images())
def test_images_of_little_use_are_segmented_all_the_same(name: str, segment: Run, tmp_path: Path) -> None:
    pixels = odd_images()[name]
    np.save(tmp_path / "x.npy", pixels)
    done = segment(tmp_path / "x.npy", "--save", "labels,png,zarr,overlay,table")
    assert done.status == 0, done.err
    labels = read_labels(tmp_path / "out" / "x_labels.tif")
    assert labels.shape == pixels.shape
    if name in ("constant", "1 x 1"):
        assert labels.max() == 0
    rows = (tmp_path / "out" / "x_cells.csv").read_text().splitlines()
    assert len(rows) == 1 + labels.max()


@pytest.mark.parametrize("name", odd_images())
def test_images_of_little_use_for_the_embedded_model(name: str, default_model: Segmenter) -> None:
    result = cellweave.segment(odd_images()[name], default_model, device="cpu")
    assert result.labels.max() == result.count
    if name in ("constant", "1 x 1"):
        assert result.count == 0


@pytest.fixture
def seven(tmp_path: Path, domes: Callable[..., Any]) -> Path:
    """Seven channels with names."""
    pixels = np.stack([domes(k, (80, 90), 2)[0] for k in range(7)])
    names = ["DAPI", "GFP", "RFP", "Cy5", "CD4", "CD8", "PanCK"]
    tifffile.imwrite(tmp_path / "seven.tif", pixels, imagej=True, metadata={"axes": "CYX", "Labels": names})
    return tmp_path / "seven.tif"


def test_seven_channels_where_two_are_needed(segment: Run, seven: Path, tmp_path: Path) -> None:
    done = segment(seven)
    assert done.status == 1
    assert "seven.tif has 7 channels: 1 (DAPI), 2 (GFP)" in done.err
    assert "--channels" in done.err
    done = segment(seven, "--channels", "PanCK,DAPI", out=tmp_path / "chosen")
    assert done.status == 0, done.err
    with pytest.raises(InputError, match="7 channels"):
        cellweave.segment(Image(np.zeros((7, 20, 20))), segmenter_of(tmp_path))


def segmenter_of(folder: Path) -> Segmenter:
    from cellweave.nets import FastUNet
    from cellweave.representations import DiffusionFlows

    return Segmenter(FastUNet(widths=(2, 2, 2, 2)), DiffusionFlows(), 24.0, name=folder.name)


def test_an_unknown_channel_name(segment: Run, seven: Path) -> None:
    done = segment(seven, "--channels", "mCherry,DAPI")
    assert done.status == 1
    assert "there is no channel 'mCherry'" in done.err
    assert "1 (DAPI), 2 (GFP)" in done.err


def training_folder(folder: Path, domes: Callable[..., Any], **labels: np.ndarray[Any, Any]) -> Path:
    """Two good pairs, and one for each of `labels`."""
    folder.mkdir()
    for k in range(2):
        picture, truth = domes(k, (64, 64), 3)
        tifffile.imwrite(folder / f"good{k}.tif", picture)
        tifffile.imwrite(folder / f"good{k}_masks.tif", truth.astype(np.uint16))
    for name, array in labels.items():
        tifffile.imwrite(folder / f"{name}.tif", domes(5, (64, 64), 3)[0])
        tifffile.imwrite(folder / f"{name}_masks.tif", array)
    return folder


def test_a_float_label_image(run_cli: Run, domes: Callable[..., Any], tmp_path: Path) -> None:
    probabilities = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    folder = training_folder(tmp_path / "data", domes, soft=probabilities)
    from cellweave.train import check_folder

    report = check_folder(folder)
    assert len(report.usable) == 2
    assert "soft_masks.tif" in report.text()
    assert "fractions or NaN" in report.text()
    done = run_cli("evaluate", folder / "soft_masks.tif", folder / "good0_masks.tif")
    assert done.status == 1
    assert "soft_masks.tif" in done.err
    assert "whole numbers" in done.err
    with pytest.raises(InputError, match="fractions or NaN"):
        cellweave.evaluate(probabilities, probabilities)
    with pytest.raises(InputError, match="fractions or NaN"):
        cellweave.write_labels(tmp_path / "x.tif", probabilities)  # type: ignore[arg-type]
    assert not (tmp_path / "x.tif").exists()


def test_a_label_image_of_another_shape(run_cli: Run, domes: Callable[..., Any], tmp_path: Path) -> None:
    folder = training_folder(tmp_path / "data", domes, half=domes(5, (32, 32), 1)[1].astype(np.uint8))
    from cellweave.train import Example, check_folder
    from cellweave.train.api import train
    from cellweave.train.config import TrainConfig

    report = check_folder(folder)
    assert len(report.usable) == 2
    assert "is 32 x 32, but half.tif is 64 x 64" in report.text()
    done = run_cli("evaluate", folder / "half_masks.tif", folder / "good0_masks.tif")
    assert done.status == 1
    assert "shape" in done.err
    bad = Example("half", Image(domes(5, (64, 64), 3)[0][None]), domes(5, (64, 62), 2)[1])
    with pytest.raises(InputError, match="half: the image is 64 x 64 px, its labels 64 x 62"):
        train([bad], TrainConfig(out=tmp_path / "run", epochs=1))


@pytest.mark.parametrize("damage", ["missing", "tampered", "settings"])
def test_a_model_folder_with_a_missing_or_tampered_file(
    run_cli: Run, good: Path, tiny_model: Segmenter, tmp_path: Path, damage: str
) -> None:
    tiny_model.save(tmp_path / "m")
    weights, settings = tmp_path / "m" / "model.safetensors", tmp_path / "m" / "model.json"
    if damage == "missing":
        weights.unlink()
    elif damage == "tampered":
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    else:
        settings.write_text(json.dumps(json.loads(settings.read_text()) | {"diameter": 99.0}))
    done = run_cli("segment", good, "--out", tmp_path / "out", "--model", tmp_path / "m")
    assert done.status == 1
    assert str(tmp_path / "m") in done.err
    assert ("missing" if damage == "missing" else "altered or is damaged") in done.err
    assert not list((tmp_path / "out").glob("*"))
    with pytest.raises(ModelError):
        cellweave.load_model(tmp_path / "m")


FULL_DISK = """
import resource, sys
from cellweave.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
main()
"""


@pytest.mark.skipif(os.name == "nt", reason="this system has no limits on file sizes")
def test_a_full_disk(tmp_path: Path, model_folder: Path, domes: Callable[..., Any], segment: Run) -> None:
    """Files over 20 kB cannot be written: the overlay of the larger image. The smaller one fits."""
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "small.tif", domes(0, (64, 64), 1)[0])
    noise = np.random.default_rng(0).integers(0, 999, (400, 400)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "in" / "large.tif", noise)
    command: list[Any] = [sys.executable, "-c", FULL_DISK, "20000", "segment", tmp_path / "in"]
    command += ["--out", tmp_path / "out", "--model", model_folder, "--device", "cpu", "--diameter", "24"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "large.tif: not segmented: cannot write" in done.stderr
    assert "large_overlay.png" in done.stderr
    assert "Traceback" not in done.stderr
    left = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert [name for name in left if name.startswith("small")] == [
        "small_cells.csv",
        "small_labels.tif",
        "small_overlay.png",
    ]
    assert "large_overlay.png" not in left
    assert [name for name in left if name.startswith(".")] == []
    assert segment(tmp_path / "in", "--diameter", "24").status == 0  # with space again, the rest is done


@pytest.mark.parametrize("save", ["labels", "png", "zarr", "overlay", "table"])
def test_a_disk_that_is_full_from_the_start(
    segment: Run,
    tmp_path: Path,
    domes: Callable[..., Any],
    full_disk: Callable[[int], AbstractContextManager[None]],
    save: str,
) -> None:
    np.save(tmp_path / "x.npy", domes(0, (300, 300), 12)[0])
    with full_disk(40):
        done = segment(tmp_path / "x.npy", "--save", save)
    assert done.status == 1
    assert "cannot write" in done.err
    assert sorted((tmp_path / "out").glob("*")) == []
    assert sorted((tmp_path / "out").glob(".*")) == []


def test_training_on_a_full_disk(
    run_cli: Run, domes: Callable[..., Any], tmp_path: Path, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    folder = training_folder(tmp_path / "data", domes)
    with full_disk(300):
        done = run_cli("train", folder, "--out", tmp_path / "run", "--epochs", 1, "--crop", 32)
    assert done.status == 1
    assert "cellweave: cannot write" in done.err
    assert "Traceback" not in done.err
    assert list((tmp_path / "run").rglob(".*")) == []


def unwritable(folder: Path) -> Path:
    """A folder that even the administrator cannot make: one below a file."""
    (folder / "file").touch()
    return folder / "file" / "out"


def test_an_output_folder_that_cannot_be_written(
    segment: Run, run_cli: Run, good: Path, domes: Callable[..., Any], tmp_path: Path
) -> None:
    out = unwritable(tmp_path)
    done = segment(good, out=out)
    assert done.status == 1
    assert f"cannot write to the folder {out}" in done.err
    done = run_cli("train", training_folder(tmp_path / "data", domes), "--out", out)
    assert done.status == 1
    assert f"cannot write to the folder {out}" in done.err
    with pytest.raises(WriteError, match="file"):
        cellweave.write_labels(out / "x.tif", np.zeros((4, 4), np.int32))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the administrator may write anywhere")
def test_an_output_folder_without_permission(segment: Run, good: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    done = segment(good, out=tmp_path / "locked")
    assert done.status == 1
    assert "no permission to write there" in done.err


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"echo gotcha > '{self.path}'",)


def test_a_seg_npy_whose_pickle_would_run_a_command(
    run_cli: Run, domes: Callable[..., Any], tmp_path: Path, model_folder: Path
) -> None:
    (tmp_path / "data").mkdir()
    picture, truth = domes(0, (64, 64), 3)
    Picture.fromarray(picture).save(tmp_path / "data" / "x.png")
    trap = tmp_path / "gotcha"
    np.save(tmp_path / "data" / "x_seg.npy", {"masks": truth, "filename": Command(trap)})  # type: ignore[arg-type]
    with pytest.raises(CellweaveError, match=r"refused, because it names .*system"):
        read_labels(tmp_path / "data" / "x_seg.npy")
    for arguments in (
        ("train", tmp_path / "data", "--out", tmp_path / "run"),
        ("evaluate", tmp_path / "data" / "x_seg.npy", tmp_path / "data" / "x_seg.npy"),
        ("info", tmp_path / "data" / "x_seg.npy"),
        ("segment", tmp_path / "data" / "x_seg.npy", "--out", tmp_path / "out", "--model", model_folder),
    ):
        done = run_cli(*arguments)
        assert done.status == 1
        assert "Traceback" not in done.err
        assert not trap.exists()
