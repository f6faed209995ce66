"""``cellweave train``: a folder in, a model out that ``cellweave segment`` uses."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from cellweave.io import read_labels
from cellweave.metrics import evaluate
from cellweave.models import Segmenter
from cellweave.nets import FastUNet
from cellweave.representations import Heatmap
from clicks import write_dots

Run = Callable[..., Any]


@pytest.fixture
def data(tmp_path: Path, domes: Callable[..., Any]) -> Path:
    """Eight pictures of bright domes with their labels, as people name them."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for k in range(8):
        picture, labels = domes(k, (128, 128), 9)
        tifffile.imwrite(folder / "images" / f"{k}.tif", picture)
        tifffile.imwrite(folder / "masks" / f"{k}.tif", labels.astype(np.uint16))
    return folder


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A net that trains in no time."""
    monkeypatch.setattr(
        "cellweave.train.api.NETS", {"FastUNet": lambda **options: FastUNet(widths=(2, 2, 2, 2), **options)}
    )
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_train_then_segment(run_cli: Run, data: Path, tmp_path: Path, domes: Callable[..., Any]) -> None:
    """The whole way of a user with eight annotated images; the diameter of new ones is not told."""
    out = tmp_path / "run"
    done = run_cli("train", data, "--out", out, "--epochs", 8, "--crop", 64, "--device", "cpu")
    assert done.status == 0, done.err
    assert f"cellweave segment IMAGES --out RESULTS --model {out / 'model'}" in done.out
    for task in ("checking the data: 0/8", "preparing targets: 0/7", "training: 1/64 epoch 1/8", "training: 64/64"):
        assert task in done.err
    assert "8 of 8 image pairs can be used" in (out / "data.txt").read_text()
    assert Segmenter.load(out / "model").size_model is not None

    (tmp_path / "new").mkdir()
    truth = []
    for k in range(3):
        picture, labels = domes(20 + k, (128, 128), 9)
        tifffile.imwrite(tmp_path / "new" / f"{k}.tif", picture)
        truth.append(labels)
    done = run_cli("segment", tmp_path / "new", "--out", tmp_path / "out", "--model", out / "model", "--device", "cpu")
    assert done.status == 0, done.err
    found = [read_labels(tmp_path / "out" / f"{k}_labels.tif") for k in range(3)]
    assert evaluate(truth, found).total.at(0.5).f1 > 0.8
    done = run_cli("models", "info", out / "model")
    assert "- Training data: 7 images, 63 cells" in done.out


@pytest.mark.usefixtures("narrow")
def test_resume_and_other_options(run_cli: Run, data: Path, tmp_path: Path) -> None:
    options = ("--epochs", 2, "--crop", 32, "--batch-size", 2, "--recipe", "sgd", "--learning-rate", "0.01")
    options += ("--diameter", 20, "--seed", 5, "--patience", 9, "--channels", "gray", "--device", "cpu")
    out = tmp_path / "run"
    done = run_cli("train", data, "--out", out, "--resume", *options)
    assert done.status == 1
    assert "nothing to resume" in done.err
    assert run_cli("train", data, "--out", out, "--validation", data, *options).status == 0
    model = Segmenter.load(out / "model")
    assert model.diameter == 20
    assert str(model.channels) == "gray"
    assert model.card["Validation data"].startswith("8 images")
    recipe = {k: model.card["Recipe"][k] for k in ("epochs", "crop", "recipe", "learning_rate", "seed", "patience")}
    assert recipe == {
        "epochs": "2",
        "crop": "32",
        "recipe": "sgd",
        "learning_rate": "0.01",
        "seed": "5",
        "patience": "9",
    }
    with (out / "log.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 2
    assert run_cli("train", data, "--out", out, "--validation", data, "--resume", *options).status == 0
    done = run_cli("train", data, "--out", out, "--resume", *options, "--seed", 6)
    assert done.status == 1
    assert "other settings (seed=5)" in done.err
    done = run_cli("train", data, "--out", out, *options)
    assert done.status == 1
    assert "holds a run already; go on with it by --resume, replace it by --overwrite" in done.err
    assert run_cli("train", data, "--out", out, *options, "--overwrite").status == 0
    done = run_cli("train", data, "--out", out, *options, "--overwrite", "--resume")
    assert "leave one of them out" in done.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--crop", "50"], "crop is 50; it must be a multiple of 16"),
        (["--batch-size", "0"], "batch_size is 0; it must be a whole number from 1"),
        (["--accumulate", "0"], "accumulate is 0"),
        (["--recipe", "lion"], "recipe is 'lion'; choose from adamw, sgd"),
        (["--net", "UNet"], "net is 'UNet'; choose from FastUNet, CellposeUNet"),
        (["--representation", "Boxes"], "representation is 'Boxes'"),
        (["--learning-rate", "-1"], "learning_rate is -1.0"),
        (["--seed", "-1"], "seed is -1"),
        (["--simulated", "1"], "simulated is 1.0; it is a share"),
        (["--recipes", "yeast"], "recipes are yeast, but simulated is 0"),
        (["--recipes", "unicorns", "--simulated", "0.5"], "recipes: there is no 'unicorns'; choose from"),
        (["--weights", "1"], "write one number for each of the 1 DATA folders"),
        (["--base", "nothing"], "'nothing'"),
        (["--device", "tpu", "--epochs", "1"], "'tpu' is unknown"),
        (["--channels", "DAPI"], "no channel 'DAPI'"),
        (["--channels", "a,b,c"], "name 3 channels"),
    ],
)
@pytest.mark.usefixtures("narrow")
def test_wrong_options_are_told_in_a_line(
    run_cli: Run, data: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    done = run_cli("train", data, "--out", tmp_path / "run", *options)
    assert done.status == 1
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_folder_that_is_not_there(run_cli: Run, tmp_path: Path) -> None:
    done = run_cli("train", tmp_path / "nowhere", "--out", tmp_path / "run")
    assert done.status == 1
    assert f"{tmp_path / 'nowhere'}: there is no such folder" in done.err


@pytest.fixture
def more(data: Path, tmp_path: Path) -> Path:
    """A second data set: two of the first one's pictures."""
    for kind in ("images", "masks"):
        (tmp_path / "more" / kind).mkdir(parents=True)
        for k in range(2):
            shutil.copy(data / kind / f"{k}.tif", tmp_path / "more" / kind)
    return tmp_path / "more"


QUICK = ("--epochs", 1, "--crop", 32, "--batch-size", 2, "--device", "cpu")


@pytest.mark.usefixtures("narrow")
def test_several_folders_are_mixed_by_weights(run_cli: Run, data: Path, more: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run_cli("train", data, more, "--weights", "0.25,0.75", "--accumulate", 2, "--out", out, *QUICK)
    assert done.status == 0, done.err
    for folder, n in ((data, 8), (more, 2)):
        assert f"{n} of {n} image pairs can be used" in (out / f"data-{folder.name}.txt").read_text()
    config = json.loads((out / "config.json").read_text())
    assert config["weights"] == {"data": 0.25, "more": 0.75}
    assert config["accumulate"] == 2
    assert Segmenter.load(out / "model").card["Training data"].startswith("9 images")
    for weights, said in (("0.5", "each of the 2 DATA folders"), ("a,b", "--weights 'a,b'"), ("0,0", "weight 0")):
        done = run_cli("train", data, more, "--weights", weights, "--out", tmp_path / "other", *QUICK)
        assert done.status == 1
        assert said in done.err


@pytest.mark.usefixtures("narrow")
def test_two_folders_of_one_name_are_told(run_cli: Run, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "data"
    other.parent.mkdir()
    shutil.copytree(data, other)
    done = run_cli("train", data, other, "--out", tmp_path / "run", *QUICK)
    assert done.status == 1
    assert "two data folders have one name" in done.err


@pytest.mark.usefixtures("narrow")
def test_simulated_pictures_can_be_mixed_in(run_cli: Run, more: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("cellweave.train.simulated.Workers.size", 4)
    options = ("--simulated", 0.5, "--recipes", "bacteria", "--validation", more)
    done = run_cli("train", more, "--out", tmp_path / "run", *options, *QUICK)
    assert done.status == 0, done.err
    recipe = Segmenter.load(tmp_path / "run" / "model").card["Recipe"]
    assert recipe["simulated"] == "0.5"
    assert "simulating pictures" in done.err


@pytest.mark.usefixtures("narrow")
def test_shards_for_a_bare_machine(run_cli: Run, more: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("cellweave.train.api.PACKED", 2)
    out = tmp_path / "run"
    options = ("--simulated", 0.5, "--recipes", "bacteria", "--prepare-only")
    done = run_cli("train", more, "--out", out, *options, *QUICK)
    assert done.status == 0, done.err
    assert "python -m cellweave.train.bare SHARDS RUN" in done.out
    assert "--resume in the place of --prepare-only" in done.out
    parts = {file.name.partition("-")[0] for file in (out / "shards").glob("*.npz")}
    assert parts == {"training", "simulated"}
    assert not (out / "model").exists()


@pytest.mark.usefixtures("narrow")
def test_points_then_count(run_cli: Run, tmp_path: Path, more: Path) -> None:
    data, out = write_dots(tmp_path / "clicks", range(6)), tmp_path / "run"
    (data / "points" / "d001.csv").write_text("nonsense")
    options = ("--epochs", 1, "--crop", 48, "--batch-size", 2, "--device", "cpu", "--validation", data)
    options += ("--sparse", "--sigma", 3, "--debris", "--recipe", "adam", "--augmentation", "square")
    done = run_cli("train", data, "--out", out, "--target", "points", *options)
    assert done.status == 0, done.err
    assert f"cellweave count IMAGES --out RESULTS --model {out / 'model'}" in done.out
    told = (out / "data.txt").read_text()
    assert "5 of 6 annotated images can be used" in told
    assert "points/d001.csv" in told
    model = Segmenter.load(out / "model")
    assert isinstance(model.representation, Heatmap)
    assert (model.representation.sigma, model.representation.debris) == (3, True)
    assert "MAE" in model.card_text()
    done = run_cli("count", data / "images", "--out", tmp_path / "out", "--model", out / "model", "--device", "cpu")
    assert done.status == 0, done.err
    assert len((tmp_path / "out" / "counts.csv").read_text().splitlines()) >= 7
    tuned = ("--base", out / "model", "--out", tmp_path / "tuned")
    done = run_cli("train", more, *tuned, *QUICK)
    assert done.status == 0, done.err
    assert "cellweave count IMAGES" in done.out  # the base says it, not an option
    done = run_cli("segment", data / "images", "--out", tmp_path / "no", "--model", out / "model", "--device", "cpu")
    assert done.status == 1
    assert "not their outlines; use it to count (cellweave count)" in done.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--target", "points", "--method", "cell-segmenter"), "--target points is one training"),
        (("--target", "clicks"), "target is 'clicks'"),
        (("--sparse",), "sparse is for points"),
        (("--target", "points", "--diameter", 20), "points tell no sizes"),
    ],
)
def test_wrong_options_of_points(run_cli: Run, tmp_path: Path, options: tuple[Any, ...], words: str) -> None:
    done = run_cli("train", tmp_path, "--out", tmp_path / "run", *options)
    assert done.status == 1
    assert words in done.err
