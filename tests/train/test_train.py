"""`train`: labelled images in, a model folder with its card out, and never silent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

import cellweave
from cellweave.core.errors import InputError, ModelError
from cellweave.core.image import Image
from cellweave.core.labels import median_diameter
from cellweave.core.progress import showing
from cellweave.metrics import evaluate
from cellweave.models import Segmenter, load_model
from cellweave.nets import CellposeUNet, FastUNet, NestedUNet
from cellweave.predict import segment
from cellweave.prep import Channels, Normalisation
from cellweave.train import Example, TrainConfig, train
from cellweave.train.api import start
from cellweave.train.loop import FEWEST_STEPS
from cellweave.train.sizes import train_size_model

Told = list[tuple[float, str, int, int, str]]


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Narrow nets, and one thread, so that sums are added in one order."""
    nets = {
        "FastUNet": lambda **options: FastUNet(widths=(4, 8, 8, 8), **options),
        "CellposeUNet": lambda **options: CellposeUNet(widths=(4, 6, 8), **options),
        "NestedUNet": NestedUNet,
    }
    monkeypatch.setattr("cellweave.train.api.NETS", nets)
    monkeypatch.setattr("cellweave.train.sizes.VIEWS", 4)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def examples(domes: Callable[..., Any]) -> list[Example]:
    """Six pictures of cells of 18 to 32 px in two groups."""
    made = []
    for k in range(6):
        size = 18 + 14 * k / 5
        picture, labels = domes(k, (100, 110), 6, size)
        made.append(Example(f"dome{k}", Image(picture[None], source=f"{k}.tif"), labels, "small" if k < 3 else "large"))
    return made


def config(out: Path, **options: Any) -> TrainConfig:
    settings = {"epochs": 2, "batch_size": 4, "crop": 64, "device": "cpu", "validation": 0.34} | options
    return TrainConfig(out=out, **settings)


def quietly(*arguments: Any, **options: Any) -> tuple[Segmenter, Told]:
    """`train`, and everything it reported with the time."""
    told: Told = []
    with showing(lambda *state: told.append((time.monotonic(), *state))):
        model = train(*arguments, **options)
    return model, told


def write_folder(folder: Path, examples: list[Example]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for example in examples:
        tifffile.imwrite(folder / f"{example.name}.tif", example.image.read()[0])
        tifffile.imwrite(folder / f"{example.name}_masks.tif", example.labels.astype(np.uint16))
    return folder


def empty(name: str = "empty") -> Example:
    noise = np.random.default_rng(0).integers(90, 110, (80, 90)).astype(np.uint16)
    return Example(name, Image(noise[None]), np.zeros((80, 90), np.int32))


def test_a_trained_model_finds_cells(examples: list[Example], tmp_path: Path, domes: Callable[..., Any]) -> None:
    model, _ = quietly(examples, config(tmp_path / "run", epochs=25, learning_rate=0.01))
    pictures = [domes(100 + k, (100, 110), 6, 24) for k in range(4)]
    found = [segment(picture, model, diameter=24, device="cpu").labels for picture, _ in pictures]
    assert evaluate([labels for _, labels in pictures], found).total.at(0.5).f1 > 0.8


def test_what_a_run_leaves(examples: list[Example], tmp_path: Path) -> None:
    model, _ = quietly(write_folder(tmp_path / "data", examples), config(tmp_path / "my run"))
    out = tmp_path / "my run"
    assert {"best.pt", "cache", "checkpoint.pt", "config.json", "data.txt", "log.csv", "model"} <= {
        p.name for p in out.iterdir()
    }
    assert model.name == "my run"
    assert model.hash == Segmenter.load(out / "model").hash
    assert model.diameter == 24
    assert TrainConfig.from_json((out / "config.json").read_text()) == config(out)
    assert "6 of 6 image pairs can be used" in (out / "data.txt").read_text()
    assert {p.name for p in (out / "cache").iterdir()} == {
        f"{part}.{suffix}" for part in ("training", "validation") for suffix in ("f16", "json")
    }
    assert list(out.rglob(".*")) == []


def test_the_card_tells_data_recipe_and_figures(examples: list[Example], tmp_path: Path) -> None:
    card = {"Licence": "CC0", "Data": "drawn for a test"}
    model, _ = quietly(examples, config(tmp_path / "run", seed=3), card=card)
    assert model.card["Made by"] == f"cellweave {cellweave.__version__}"
    n = [int(e.labels.max()) for e in examples]
    first, second = (model.card[part].split(", ") for part in ("Training data", "Validation data"))
    assert (first[0], second[0]) == ("4 images", "2 images")
    assert int(first[1].split()[0]) + int(second[1].split()[0]) == sum(n)
    assert model.card["Licence"] == "CC0"
    recipe = model.card["Recipe"]
    assert (recipe["seed"], recipe["epochs"], recipe["recipe"]) == ("3", "2", "adamw")
    assert not {"out", "device"} & recipe.keys()
    figures = model.card["Figures on the validation images"]
    assert sum(row["n"] for row in figures) == 2
    for row in figures:
        assert row["Images"] in ("small", "large")
        for way in ("given", "estimated"):
            assert 0 <= row[f"F1@0.5, diameter {way}"] <= 1
    text = (tmp_path / "run" / "model" / "README.md").read_text()
    for part in ("- Licence: CC0", "- Training data: 4 images, ", "- seed: 3", "| Images | n |"):
        assert part in text


def test_the_seed_decides_everything(examples: list[Example], tmp_path: Path) -> None:
    first, second, other = (
        quietly(examples, config(tmp_path / n, seed=s, validation=0))[0] for n, s in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first.hash == second.hash
    assert (tmp_path / "a" / "model" / "model.safetensors").read_bytes() == (
        tmp_path / "b" / "model" / "model.safetensors"
    ).read_bytes()
    assert other.hash != first.hash


def test_validation_images_can_be_given(examples: list[Example], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "held out", examples[4:])
    for validation in (examples[4:], folder, str(folder)):
        model, _ = quietly(examples[:4], config(tmp_path / "run", overwrite=True), validation=validation)
        assert model.card["Training data"].startswith("4 images")
        assert model.card["Validation data"].startswith("2 images")
    assert "2 of 2 image pairs" in (tmp_path / "run" / "validation" / "data.txt").read_text()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_images_are_enough(examples: list[Example], tmp_path: Path, n: int) -> None:
    model, _ = quietly(examples[:n], config(tmp_path / "run", validation=0.1))
    assert model.card["Training data"].startswith(f"{n} images")
    assert model.card["Validation data"].startswith("none")
    assert "Figures on the validation images" not in model.card


def test_images_without_cells_teach_background(examples: list[Example], tmp_path: Path) -> None:
    model, _ = quietly([*examples, empty()], config(tmp_path / "run", validation=0))
    assert model.card["Training data"] == f"7 images, {sum(e.labels.max() for e in examples)} cells"


def test_validation_images_without_cells(examples: list[Example], tmp_path: Path) -> None:
    model, _ = quietly(examples, config(tmp_path / "run"), validation=[empty("one"), empty("two")])
    assert model.card["Validation data"] == "2 images, 0 cells"
    assert model.size_model is not None


def test_images_of_all_kinds_together(examples: list[Example], tmp_path: Path) -> None:
    """One gray, one with two channels, one colour photograph."""
    gray = examples[0]
    pixels = examples[1].image.read()
    pair = replace(examples[1], image=Image(np.concatenate([pixels, pixels // 2])))
    colours = np.repeat((examples[2].image.read() // 8).astype(np.uint8), 3, axis=0)
    colours[0] //= 2
    photo = replace(examples[2], image=Image(colours, color=True))
    model, _ = quietly([gray, pair, photo], config(tmp_path / "run"))
    for example in (gray, pair, photo):
        segment(example.image, model, device="cpu")


def test_channels_are_kept_in_the_model(examples: list[Example], tmp_path: Path) -> None:
    names = ("DAPI", "actin", "other")
    several = [replace(e, image=Image(np.repeat(e.image.read(), 3, axis=0), channel_names=names)) for e in examples[:3]]
    with pytest.raises(InputError, match=r"3 channels: 1 \(DAPI\)"):
        quietly(several, config(tmp_path / "run"))
    model, _ = quietly(several, config(tmp_path / "run", channels="actin,DAPI"))
    assert model.channels == Channels.parse("actin,DAPI")
    with pytest.raises(InputError, match="no channel 'CD4'"):
        quietly(several, config(tmp_path / "other", channels="CD4"))


def test_a_base_model_is_fine_tuned(
    examples: list[Example], tmp_path: Path, tiny_model: Segmenter, domes: Callable[..., Any]
) -> None:
    base = tiny_model.with_(diameter=28.0, normalisation=Normalisation(lower=2.0), channels=Channels.parse("gray"))
    base.save(tmp_path / "base")
    before = {p.name: p.read_bytes() for p in (tmp_path / "base").iterdir()}
    settings = config(tmp_path / "run", base=str(tmp_path / "base"), learning_rate=1e-4)
    model, _ = quietly(examples, settings)
    assert (model.diameter, model.normalisation, model.channels) == (28.0, base.normalisation, base.channels)
    assert isinstance(model.net, FastUNet)
    assert model.net.widths == (16, 8, 8, 8)
    assert 0 < (model.net.head.bias - tiny_model.net.head.bias).abs().max() < 0.1  # type: ignore[union-attr, operator]
    assert {p.name: p.read_bytes() for p in (tmp_path / "base").iterdir()} == before
    picture, labels = domes(50, (100, 110), 6, 24)
    assert evaluate(labels, segment(picture, model, diameter=24, device="cpu").labels).total.at(0.5).f1 > 0.8
    resized, _ = quietly(examples, config(tmp_path / "run2", base=str(tmp_path / "base"), diameter=20.0))
    assert resized.diameter == 20


def test_an_unknown_base_is_told_before_the_data_is_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'no such model'"):
        quietly([], config(tmp_path / "run", base="no such model"))


def test_cellposes_network_from_scratch(examples: list[Example], tmp_path: Path) -> None:
    model, _ = quietly(examples, config(tmp_path / "run", net="CellposeUNet", recipe="sgd", validation=0))
    assert isinstance(model.net, CellposeUNet)
    assert model.diameter == 30
    assert load_model(tmp_path / "run" / "model").hash == model.hash


def test_nothing_is_silent_for_more_than_five_seconds(examples: list[Example], tmp_path: Path) -> None:
    """Each stage reports before its first step, and each of its steps."""
    start = time.monotonic()
    _, told = quietly(write_folder(tmp_path / "data", examples), config(tmp_path / "run"))
    tasks = list(dict.fromkeys(task for _, task, *_ in told))
    assert [t for t in tasks if t not in ("evaluating", "rows of tiles")] == [
        "checking the data",
        "reading the data",
        "preparing targets",
        "preparing the validation",
        "training",
        "training the size model",
        "calibrating the confidence",
        "measuring the model",
    ]
    counts = {task: sum(t == task for _, t, *_ in told) for task in tasks}
    assert counts["checking the data"] == counts["reading the data"] == 7
    assert counts["preparing targets"] == 5 + 3
    assert counts["training"] == 2 * (FEWEST_STEPS + 1)
    assert counts["training the size model"] >= 5
    assert counts["measuring the model"] == 3
    moments = [start, *(moment for moment, *_ in told)]
    assert max(np.diff(moments)) < 5
    for task in tasks:
        first = next((done, total) for _, t, done, total, _ in told if t == task)
        last = [(done, total) for _, t, done, total, _ in told if t == task][-1]
        assert first[0] <= 1
        assert last[0] == last[1]


def test_progress_is_shown_where_nobody_listens(
    examples: list[Example], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(examples, config(tmp_path / "run", epochs=1))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("preparing targets: 0/4 dome")
    for task in ("training: 8/8 epoch 1/1", "training the size model: 4/4", "measuring the model: 2/2"):
        assert task in err


class Stop(Exception):
    """Raised in the middle of a run."""


def test_a_stopped_run_goes_on_to_the_same_model(examples: list[Example], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 4, "learning_rate": 0.01, "validation": 0}
    unbroken, _ = quietly(examples, config(tmp_path / "a", **settings))

    def sink(task: str, done: int, total: int, note: str) -> None:
        if task == "training" and done == 2 * FEWEST_STEPS + 2:
            raise Stop

    with pytest.raises(Stop), showing(sink):
        train(examples, config(tmp_path / "b", **settings))
    assert not (tmp_path / "b" / "model").exists()
    resumed, told = quietly(examples, config(tmp_path / "b", **settings), resume=True)
    assert resumed.hash == unbroken.hash
    first = next(done for _, task, done, *_ in told if task == "training")
    assert first == 2 * FEWEST_STEPS + 1


@pytest.mark.parametrize(("cores", "drawers"), [(1, 1), (4, 3), (200, 16)])
def test_processes_that_draw_leave_a_core_to_the_training(
    examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, drawers: int
) -> None:
    asked: list[int] = []

    def workers(_: object, count: int) -> None:
        asked.append(count)
        raise Stop

    monkeypatch.setattr("cellweave.train.api.cores", lambda: cores)
    monkeypatch.setattr("cellweave.train.api.Workers", workers)
    with pytest.raises(Stop):
        quietly(examples, config(tmp_path / "run", simulated=0.5, validation=0))
    assert asked == [drawers]


def test_a_refused_resume_leaves_the_record_of_the_run(examples: list[Example], tmp_path: Path) -> None:
    quietly(examples, config(tmp_path / "run", epochs=1))
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(InputError, match="other settings"):
        quietly(examples, config(tmp_path / "run", epochs=5), resume=True)
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_resuming_with_other_images_is_refused(examples: list[Example], tmp_path: Path) -> None:
    """Of those learned from, or judged by. A checkpoint of an earlier version does not know them, and is believed."""
    settings = config(tmp_path / "run", epochs=1)
    quietly(examples[:4], settings, validation=examples[4:])
    relabelled = [replace(examples[0], labels=examples[0].labels * (examples[0].labels > 1)), *examples[1:4]]
    for training, validation in ((relabelled, examples[4:]), (examples[:4], examples[5:]), (examples[:4], [])):
        with pytest.raises(InputError, match=r"checkpoint\.pt: images or labels have changed since"):
            quietly(training, settings, validation=validation, resume=True)
    quietly(examples[:4], settings, validation=examples[4:], resume=True)
    content = torch.load(settings.out / "checkpoint.pt", weights_only=True)
    del content["data"]
    torch.save(content, settings.out / "checkpoint.pt")
    quietly(examples[:4], settings, validation=examples[5:], resume=True)


def test_a_run_is_replaced_only_if_that_is_said(examples: list[Example], tmp_path: Path) -> None:
    """The refusal comes before the data are read, and the record of the run stays."""
    quietly(examples, config(tmp_path / "run", epochs=1))
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(InputError, match="run holds a run already"):
        quietly(tmp_path / "no such folder", config(tmp_path / "run", epochs=2))
    assert (tmp_path / "run" / "config.json").read_bytes() == before
    assert "overwrite" not in before.decode()
    again, _ = quietly(examples, config(tmp_path / "run", epochs=2, overwrite=True))
    assert again.card["Recipe"]["epochs"] == "2"
    assert "overwrite" not in again.card["Recipe"]


def test_no_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no training image"):
        quietly([], config(tmp_path / "run"))
    with pytest.raises(InputError, match="no labelled cell"):
        quietly([empty()], config(tmp_path / "run"))


def test_a_folder_without_a_usable_pair_is_told_with_the_reasons(examples: list[Example], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", examples[:2])
    for file in folder.glob("*_masks.tif"):
        tifffile.imwrite(file, np.random.default_rng(0).random((100, 110)).astype(np.float32))
    with pytest.raises(InputError, match=r"(?s)no image can be used.*0 of 2 image pairs.*fractions or NaN"):
        quietly(folder, config(tmp_path / "run"))
    assert "0 of 2 image pairs" in (tmp_path / "run" / "data.txt").read_text()


def test_bad_pairs_are_left_out_and_reported(examples: list[Example], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", examples[:4])
    (folder / "dome0.tif").write_bytes(b"")
    model, _ = quietly(folder, config(tmp_path / "run", validation=0))
    assert model.card["Training data"].startswith("3 images")
    assert "dome0.tif" in (tmp_path / "run" / "data.txt").read_text()


def test_the_size_model_tells_sizes(
    tiny_model: Segmenter, domes: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On pictures it has not seen, of cells whose sizes differ by a factor of four."""
    monkeypatch.setattr("cellweave.train.sizes.VIEWS", 10)

    def example(seed: int, size: float) -> Example:
        picture, labels = domes(seed, (160, 170), 60, size)
        return Example(str(seed), Image(picture[None]), labels)

    sizes = np.geomspace(12, 48, 12)
    training = [example(k, size) for k, size in enumerate(sizes)]
    size_model = train_size_model(tiny_model, training, device="cpu")
    assert size_model is not None
    sized = tiny_model.with_(size_model=size_model)
    errors = []
    for k, size in enumerate((14, 20, 28, 40)):
        test = example(100 + k, size)
        found = cellweave.predict.estimate_diameter(test.image, sized, device="cpu")
        errors.append(abs(np.log2(found / median_diameter(test.labels))))
    assert np.median(errors) < 0.4  # a third; of the constant guess it is 0.5 at best
    assert train_size_model(tiny_model, training[:1], device="cpu", seed=1) is not None
    assert train_size_model(tiny_model, [empty()], device="cpu") is None


def test_the_same_seed_gives_the_same_size_model(tiny_model: Segmenter, examples: list[Example]) -> None:
    first, second, other = (train_size_model(tiny_model, examples, seed=s, device="cpu") for s in (1, 1, 2))
    assert first is not None
    assert second is not None
    assert other is not None
    assert np.array_equal(first.coefficients, second.coefficients)
    assert not np.array_equal(first.coefficients, other.coefficients)


def test_settings_must_fit_the_net(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="crop is 240; NestedUNet needs a multiple of 32, for example 256"):
        train([], TrainConfig(tmp_path, net="NestedUNet", crop=240))
    with pytest.raises(InputError, match="'superposed' adds pictures up, which densities alone can follow"):
        train([], TrainConfig(tmp_path, augmentation="superposed"))
    with pytest.raises(InputError, match="WatershedEnergy finds cells of any size"):
        TrainConfig(tmp_path, representation="WatershedEnergy", diameter=30)
    with pytest.raises(InputError, match="imagenet is for a new NestedUNet"):
        TrainConfig(tmp_path, imagenet="weights.pth")


def test_a_nested_net_starts_from_imagenet(tmp_path: Path) -> None:
    weights = {name: torch.rand_like(value.float()) for name, value in NestedUNet(3).encoder.state_dict().items()}
    torch.save(weights, tmp_path / "weights.pth")
    begun = start(TrainConfig(tmp_path, net="NestedUNet", imagenet=str(tmp_path / "weights.pth")))
    name = "features.4.block.2.fc1.weight"
    assert torch.equal(begun.net.encoder.state_dict()[name], weights[name])  # type: ignore[union-attr,operator]
