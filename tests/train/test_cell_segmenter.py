"""The training of the Cell Segmenter: the paper's settings, the stages, and a model at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.io import read_table
from cellweave.models import CellSegmenter, load_model
from cellweave.nets import AnchorUNet
from cellweave.predict import segment
from cellweave.train import Example, TrainConfig, cell_segmenter, train_cell_segmenter
from cellweave.train.api import start
from cellweave.train.cell_segmenter import stage_configs
from cellweave.train.config import rate_at
from cellweave.train.samples import Preparation, prepare

pytestmark = pytest.mark.usefixtures("one_thread")
TUNED = ("grayscale", "fluorescence", "brightfield")


def config(out: Path, **options: Any) -> TrainConfig:
    quick: dict[str, Any] = {"epochs": 3, "batch_size": 2, "crop": 32, "width": 0.0625, "validation": 0.3}
    return TrainConfig(out=out, device="cpu", **(quick | options))


@pytest.fixture
def examples(domes: Callable[..., Any]) -> list[Example]:
    """Three gray pictures and three with two channels, one object of which is in two pieces, one a crumb."""
    made = []
    for k in range(6):
        picture, labels = domes(k, (50, 60), 3, 16.0)
        pixels = picture[None] if k < 3 else np.stack([picture, picture[::-1]])
        made.append(Example(f"{k}", Image(pixels), labels, "gray" if k < 3 else "two"))
    made[0].labels[:3, :3] = made[0].labels[-3:, -3:] = 90
    made[4].labels[0, 0] = 91
    return made


def test_the_settings_are_those_of_the_paper(tmp_path: Path) -> None:
    """Tables 2, 3 and 4."""
    paper = TrainConfig(out=tmp_path, epochs=300, batch_size=32, crop=640, patience=5, diameter=9, net="CellposeUNet")
    stages = stage_configs(paper)
    assert list(stages) == ["general", *TUNED, "omnipose"]
    base = str(tmp_path / "general" / "model")
    for name, epochs, rate, warmup, representation in (
        ("general", 300, 0.01, 3, "WatershedEnergy"),
        *((name, 50, 0.001, 1, "WatershedEnergy") for name in TUNED),
        ("omnipose", 100, 0.001, 3, "DistanceFlows"),
    ):
        stage = stages[name]
        assert (stage.epochs, stage.peak_rate, stage.representation) == (epochs, rate, representation)
        assert (stage.recipe, stage.net, stage.batch_size, stage.crop) == ("cosine", "AnchorUNet", 32, 640)
        assert (stage.patience, stage.diameter, stage.base) == (None, None, None if name == "general" else base)
        assert stage.out == tmp_path / name
        assert rate_at(stage, warmup / 2) == pytest.approx(rate / 2)
        assert rate_at(stage, warmup) == pytest.approx(rate, rel=0.01)
        assert rate_at(stage, 0.5 * epochs) == pytest.approx(rate / 2)
        assert rate_at(stage, epochs) == pytest.approx(0)


def test_short_trainings_and_other_rates(tmp_path: Path) -> None:
    stages = stage_configs(config(tmp_path, epochs=4, learning_rate=0.1, simulated=0.5, recipes=("bacteria",)))
    assert [stage.epochs for stage in stages.values()] == [4, 1, 1, 1, 1]
    assert [stage.peak_rate for stage in stages.values()] == pytest.approx([0.1, 0.01, 0.01, 0.01, 0.01])
    assert [stage.simulated for stage in stages.values()] == [0.5, 0, 0, 0, 0.5]
    assert [stage.recipes for stage in stages.values()] == [("bacteria",), (), (), (), ("bacteria", "filaments")]
    assert [stage.width for stage in stages.values()] == [0.0625] * 5


def test_all_stages(
    examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, domes: Callable[..., Any]
) -> None:
    """From examples to a saved model; what is finished is not made again; a branch that is lost is."""
    monkeypatch.setattr(cell_segmenter, "FEWEST_IMAGES", 2)
    made: list[str] = []
    run_stage, label = cell_segmenter.run_stage, cell_segmenter.pseudo_labels
    shown: dict[str, list[str]] = {}

    def counted(training: list[Example], held_out: list[Example], settings: TrainConfig, **options: Any) -> Any:
        shown[settings.out.name] = [f"{e.group} {e.name}" for e in training]
        before = (settings.out / "log.csv").stat().st_mtime_ns if (settings.out / "log.csv").exists() else 0
        model = run_stage(training, held_out, settings, **options)
        made.extend([settings.out.name] * ((settings.out / "log.csv").stat().st_mtime_ns != before))
        return model

    def taught(model: Any, images: Any, out: Path, **options: Any) -> Any:
        """As of a model that has learned something: one object in each picture."""
        patches = label(model, images, out, min_confidence=0.0, **options)
        picture, labels = domes(9, (50, 60), 3, 16.0)
        patch = Example("patch", Image(np.stack([picture, picture[::-1]])), labels, "pseudo", 0.7)
        return replace(patches, examples=[patch, replace(patch, name="other", image=Image(picture[None]))])

    monkeypatch.setattr(cell_segmenter, "run_stage", counted)
    monkeypatch.setattr(cell_segmenter, "pseudo_labels", taught)
    (tmp_path / "new").mkdir()
    tifffile.imwrite(tmp_path / "new" / "x.tif", domes(7, (40, 40), 1, 16.0)[0])
    out = tmp_path / "run"
    held_out = [replace(e, name=f"held out {e.name}") for e in (examples[1], examples[3])]
    options: dict[str, Any] = {"validation": held_out, "unlabelled": tmp_path / "new"}
    model = train_cell_segmenter(examples, config(out), card={"Licence": "CC0"}, **options)

    assert made == ["general", "grayscale", "fluorescence", "omnipose"]
    assert shown["general"] == ["gray 0", "gray 1", "gray 2", "two 3", "two 4", "two 5"]
    assert shown["grayscale"] == ["gray 0", "gray 1", "gray 2", "pseudo other"]
    assert shown["fluorescence"] == ["two 3", "two 4", "two 5", "pseudo patch"]
    assert shown["omnipose"] == ["gray 0", "gray 1", "gray 2"]
    weights = TrainConfig.from_json((out / "grayscale" / "config.json").read_text()).weights
    assert weights == pytest.approx({"gray": 24 / 24.7, "pseudo": 0.7 / 24.7})

    saved = load_model(out / "model")
    assert isinstance(saved, CellSegmenter)
    assert saved.hash == model.hash
    assert list(saved.branches) == ["grayscale", "fluorescence", "general", "omnipose"]
    assert {type(b.representation).__name__ for n, b in saved.branches.items() if n != "omnipose"} == {
        "WatershedEnergy"
    }
    assert type(saved.branches["omnipose"].representation).__name__ == "DistanceFlows"
    assert saved.branches["general"].net.widths == (4, 8, 16, 32)
    assert segment(held_out[0].image, saved, device="cpu").labels.shape == (50, 60)

    cleaned = read_table(out / "cleaning.csv")
    faults = {
        str(row[0]): row[1:] for row in zip(*(cleaned[c] for c in ("image", "split", "pieces", "removed")), strict=True)
    }
    assert faults["0"] == (1, 2, 0)
    assert faults["4"] == (0, 0, 1)
    card = saved.card
    assert card["Licence"] == "CC0"
    assert "1 not in one piece were split, 1 removed" in card["Cleaning of labels"]
    assert [row["Branch"] for row in card["Branches"]] == ["general", "grayscale", "fluorescence", "omnipose"]
    assert [row["Pseudo-labelled patches"] for row in card["Branches"]] == [0, 1, 1, 0]
    assert all("h on" in row["Time"] for row in card["Branches"])
    assert {row["Images"] for row in card["Figures on the validation images"]} == {"gray", "two"}
    assert {row["Images"] for row in card["Figures by modality"]} == {"grayscale", "fluorescence"}

    made.clear()
    assert train_cell_segmenter(examples, config(out), resume=True, **options).hash == model.hash
    assert made == []
    (out / "omnipose" / "stage.json").unlink()
    (out / "omnipose" / "model").rename(tmp_path / "aside")
    (out / "omnipose" / "checkpoint.pt").unlink()
    assert train_cell_segmenter(examples, config(out), resume=True, **options).hash == model.hash
    assert made == ["omnipose"]
    with pytest.raises(InputError, match=r"cell-segmenter\.json was started with other settings \(unlabelled=True\)"):
        train_cell_segmenter(examples, config(out), resume=True, validation=held_out)


def test_what_does_not_fit_is_told(examples: list[Example], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"crop is 48; .* multiple of 32"):
        train_cell_segmenter(examples, config(tmp_path, crop=48))
    with pytest.raises(InputError, match="not from default"):
        train_cell_segmenter(examples, config(tmp_path, base="default"))
    with pytest.raises(InputError, match="nothing to resume"):
        train_cell_segmenter(examples, config(tmp_path), resume=True)


def test_the_encoder_may_start_from_imagenet(tmp_path: Path) -> None:
    torch.manual_seed(7)
    state = AnchorUNet().encoder.state_dict() | {"fc.weight": torch.zeros(3, 3), "fc.bias": torch.zeros(3)}
    torch.save(state, tmp_path / "resnet18.pt")
    general = stage_configs(config(tmp_path / "run", width=1.0))["general"]
    base = cell_segmenter._from_imagenet(general, tmp_path / "resnet18.pt", tmp_path / "start")
    begun = start(replace(general, base=base))
    assert torch.equal(begun.net.state_dict()["encoder.layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])
    assert type(begun.representation).__name__ == "WatershedEnergy"
    assert begun.diameter == 0
    assert replace(general, base=base).peak_rate == 0.01


@pytest.mark.parametrize("net", ["FastUNet", "CellposeUNet", "AnchorUNet"])
def test_nets_of_any_width(tmp_path: Path, net: Any) -> None:
    full = start(TrainConfig(out=tmp_path, net=net, representation=None if net != "AnchorUNet" else "WatershedEnergy"))
    narrow = start(
        TrainConfig(out=tmp_path, net=net, width=0.25, representation=type(full.representation).__name__)  # type: ignore[arg-type]
    )
    assert narrow.net.widths == tuple(n // 4 for n in full.net.widths)  # type: ignore[union-attr, arg-type]
    assert start(TrainConfig(out=tmp_path, net="FastUNet", width=1e-9)).net.widths == (2, 2, 2, 2)
    with pytest.raises(InputError, match=r"width is 0\.0; it must be a number above 0"):
        TrainConfig(out=tmp_path, width=0.0)
    with pytest.raises(InputError, match="warmup is 100; it must be fewer epochs than the 100"):
        TrainConfig(out=tmp_path, warmup=100)


def test_large_cells_are_shown_at_several_zooms_as_often_as_others(tmp_path: Path) -> None:
    y, x = np.mgrid[:230, :230]
    large = (np.hypot(y - 115, x - 115) < 110).astype(np.int32)
    small = np.kron(np.arange(1, 5, dtype=np.int32).reshape(2, 2), np.ones((15, 15), np.int32))
    examples = [
        Example(name, Image(np.ones((1, *labels.shape), np.uint8)), labels, weight=0.8)
        for name, labels in (("large", large), ("small", small))
    ]
    model = start(config(tmp_path, net="AnchorUNet", representation="WatershedEnergy"))
    preparation = Preparation(0.0, model.channels, model.normalisation, model.representation)
    facts = prepare(examples, preparation, tmp_path / "x.f16").facts
    assert [(fact.shape[0], fact.weight) for fact in facts[:4]] == [(230, 0.2), (115, 0.2), (58, 0.2), (29, 0.2)]
    assert [(fact.shape[0], fact.weight) for fact in facts[4:]] == [(30, 0.8)]


def test_the_command(run_cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it calls, with what; the trainings themselves are tested above and with self-training."""
    called: list[tuple[str, Any, TrainConfig, dict[str, Any]]] = []

    def noting(name: str, *, extra: int = 0) -> Callable[..., None]:
        def note(data: Any, config: TrainConfig, *more: Any, **options: Any) -> None:
            assert len(more) == extra
            called.append((name, data, config, options | dict.fromkeys(more, "unlabelled")))

        return note

    for name, extra in (("train_cell_segmenter", 0), ("self_train", 1)):
        monkeypatch.setattr(f"cellweave.cli.train.{name}", noting(name, extra=extra))
    new, out, weights = tmp_path / "new", tmp_path / "run", tmp_path / "resnet18.pt"
    options = ("--out", out, "--epochs", 5, "--width", 0.5, "--unlabelled", new)
    done = run_cli("train", "a", "--method", "cell-segmenter", "--imagenet", weights, "--resume", *options)
    assert done.status == 0, done.err
    assert f"--model {out / 'model'}" in done.out
    assert run_cli("train", "a", "b", "--oversample", 30, *options).status == 0
    (first, data, settings, given), (second, both, _, others) = called
    assert (first, data, settings.epochs, settings.width) == ("train_cell_segmenter", Path("a"), 5, 0.5)
    assert given == {"validation": None, "unlabelled": new, "oversample": 8, "resume": True, "imagenet": weights}
    assert (second, both, others) == (
        "self_train",
        [Path("a"), Path("b")],
        {new: "unlabelled", "validation": None, "oversample": 30, "resume": False},
    )
    for wrong, said in (
        (("--method", "magic"), "--method 'magic' is unknown; there are cell-segmenter, area"),
        (("--imagenet", weights), "imagenet is for a new NestedUNet and for the method cell-segmenter"),
        (("--prepare-only", "--method", "cell-segmenter"), "--prepare-only is for one training"),
        (("--prepare-only", "--unlabelled", new), "--prepare-only is for one training"),
    ):
        done = run_cli("train", "a", "--out", out, *wrong)
        assert done.status == 1
        assert said in done.err
    assert len(called) == 2
