"""Saving and loading models: the same bytes again, nothing half-written, nothing altered unnoticed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from cellweave.core.errors import CellweaveError, InputError, ModelError, WriteError
from cellweave.models import Calibration, Segmenter, SizeModel
from cellweave.models import segmenter as module
from cellweave.models.folder import settings_hash
from cellweave.nets import CellposeUNet, FastUNet
from cellweave.predict import predict_maps, segment
from cellweave.prep import Channels, Normalisation
from cellweave.representations import DiffusionFlows, Heatmap, WatershedEnergy

FILES = ["README.md", "model.json", "model.safetensors"]


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def saved(tiny_model: Segmenter, tmp_path: Path) -> Path:
    tiny_model.save(tmp_path / "m")
    return tmp_path / "m"


def full_model() -> Segmenter:
    """A model of which every setting differs from its default."""
    torch.manual_seed(5)
    rng = np.random.default_rng(0)
    return Segmenter(
        FastUNet(in_channels=2, out_maps=3, widths=(4, 5, 6, 7)).eval(),
        DiffusionFlows(probability_threshold=0.3, flow_threshold=0.0, min_size=3, steps=77, center="box"),
        31.5,
        normalisation=Normalisation(lower=2.0, upper=98.5, clip=None),
        channels=Channels.parse("merged:DAPI,2"),
        size_model=SizeModel(rng.normal(size=22), rng.random(22), 3.25),
        calibration=Calibration(2.1 / 3, -0.1 - 0.2),
        name="zelle – 细胞",
        card={"Training data": "drawn", "Recipe": {"epochs": "3"}, "Figures": [{"Images": "all", "n": 2}]},
    )


def test_save_load_segment_gives_the_same_bytes(tiny_model: Segmenter, saved: Path, domes: Callable[..., Any]) -> None:
    picture, _ = domes(1)
    before, after = (segment(picture, model, device="cpu") for model in (tiny_model, Segmenter.load(saved)))
    assert before.count > 5
    assert before.labels.tobytes() == after.labels.tobytes()
    assert before.maps.tobytes() == after.maps.tobytes()
    assert before.confidence.tobytes() == after.confidence.tobytes()
    assert before.diameter == after.diameter


@pytest.mark.parametrize("net", [FastUNet(widths=(4, 4, 4, 4)), CellposeUNet(widths=(4, 6))])
def test_every_net_is_saved_with_its_statistics(net: torch.nn.Module, tmp_path: Path) -> None:
    net.train()(torch.rand(2, 2, 32, 32))  # batch norms learn something
    Segmenter(net, DiffusionFlows(), 24.0).save(tmp_path / "m")
    loaded = Segmenter.load(tmp_path / "m").net
    assert type(loaded) is type(net)
    assert not loaded.training
    for name, value in net.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_every_setting_survives(tmp_path: Path) -> None:
    model = full_model()
    with_hash = model.save(tmp_path / "m")
    loaded = Segmenter.load(tmp_path / "m")
    for name in ("representation", "diameter", "normalisation", "channels", "calibration", "name", "card"):
        assert getattr(loaded, name) == getattr(model, name), name
    assert model.size_model is not None
    assert loaded.size_model is not None
    for name in ("coefficients", "mean_style", "mean_log_diameter"):
        assert np.array_equal(getattr(loaded.size_model, name), getattr(model.size_model, name)), name
    assert loaded.hash == with_hash.hash != ""
    assert model.hash == ""  # the model that was saved is not changed


def test_saving_what_was_loaded_gives_the_same_files(tmp_path: Path) -> None:
    full_model().save(tmp_path / "a")
    Segmenter.load(tmp_path / "a").save(tmp_path / "b")
    assert names(tmp_path / "b") == FILES
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_channels_last_weights_are_saved_right(tiny_model: Segmenter, tmp_path: Path) -> None:
    """Prediction puts the net into another memory layout; files must not depend on it."""
    tiny_model.save(tmp_path / "a")
    predict_maps(np.random.default_rng(0).random((32, 32)), tiny_model, diameter=24, device="cpu")
    tiny_model.save(tmp_path / "b")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_with_replaces_fields_and_leaves_the_model(tiny_model: Segmenter) -> None:
    other = tiny_model.with_(diameter=30.0)
    assert (other.diameter, tiny_model.diameter) == (30.0, 24.0)
    assert other.net is tiny_model.net


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(ModelError, match=f"{saved}.*{name} is missing"):
        Segmenter.load(saved)


def test_the_card_is_not_needed(saved: Path) -> None:
    (saved / "README.md").unlink()
    assert Segmenter.load(saved).name == "tiny"


@pytest.mark.parametrize("place", [0, 100, -1])
def test_altered_weights_are_refused(saved: Path, place: int) -> None:
    content = bytearray((saved / "model.safetensors").read_bytes())
    content[place] ^= 1
    (saved / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors was altered or is damaged") as caught:
        Segmenter.load(saved)
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize("keep", [0, 7, 500])
def test_weights_cut_short_are_refused(saved: Path, keep: int) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors was altered or is damaged"):
        Segmenter.load(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.update(diameter=25.0),
        lambda s: s["representation"].update(probability_threshold=0.1),
        lambda s: s["card"].update(Licence="anything goes"),
        lambda s: s.update(sha256="0" * 64),
        lambda s: s.update(extra=1),
    ],
)
def test_altered_settings_are_refused(saved: Path, change: Callable[[dict[str, Any]], None]) -> None:
    settings = json.loads((saved / "model.json").read_text())
    change(settings)
    (saved / "model.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=r"model\.json was altered or is damaged") as caught:
        Segmenter.load(saved)
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"format": "one"}', '{"format": 1}', "\x00\xff"])
def test_settings_that_are_no_settings_are_refused(saved: Path, text: str) -> None:
    (saved / "model.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=str(saved)):
        Segmenter.load(saved)


def test_a_newer_format_asks_for_an_update(saved: Path) -> None:
    settings = json.loads((saved / "model.json").read_text())
    (saved / "model.json").write_text(json.dumps(settings | {"format": module.FORMAT + 1}))
    with pytest.raises(ModelError, match=f"{saved} was made by a newer cellweave; update"):
        Segmenter.load(saved)


def rewrite(folder: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Alter settings and arrays and mend the hashes, as a malicious or clumsy author could."""
    arrays, settings = load_file(folder / "model.safetensors"), json.loads((folder / "model.json").read_text())
    change(settings, arrays)
    save_file(arrays, folder / "model.safetensors")
    settings["sha256"] = module.sha256(folder / "model.safetensors")
    settings["settings_sha256"] = settings_hash(settings)
    (folder / "model.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    "change",
    [
        lambda s, a: s["net"].update(name="os.system"),
        lambda s, a: s["net"].update(widths=[4, 4, 4, 4]),
        lambda s, a: s["net"].update(widths=3),
        lambda s, a: s["net"].update(surprise=1),
        lambda s, a: s["representation"].update(name="Nothing"),
        lambda s, a: s["representation"].update(steps=0),
        lambda s, a: s["normalisation"].update(lower=200),
        lambda s, a: s.update(diameter="large"),
        lambda s, a: s.update(calibration={"slope": -1.0, "intercept": 0.0}),
        lambda s, a: s.update(calibration={"slope": 1.0, "intercept": 0.0, "surprise": 1}),
        lambda s, a: s.update(calibration={"slope": "steep", "intercept": 0.0}),
        lambda s, a: s.update(calibration=3),
        lambda s, a: s.update(channels=7),
        lambda s, a: s.update(channels="a,b,c"),
        lambda s, a: s.pop("card"),
        lambda s, a: a.pop("net.head.weight"),
        lambda s, a: a.update({"net.head.weight": np.zeros((2, 2), np.float32)}),
        lambda s, a: a.update({"net.unknown": np.zeros(2, np.float32)}),
        lambda s, a: a.update({"size.coefficients": np.zeros(2)}),
    ],
)
def test_files_that_do_not_fit_together_are_refused(
    saved: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]
) -> None:
    rewrite(saved, change)
    with pytest.raises(ModelError, match=str(saved)):
        Segmenter.load(saved)


def test_models_of_before_there_were_calibrations(saved: Path, domes: Callable[..., Any]) -> None:
    picture, _ = domes(1)
    with_none = segment(picture, Segmenter.load(saved), device="cpu")
    rewrite(saved, lambda s, a: s.pop("calibration"))
    old = Segmenter.load(saved)
    assert old.calibration is None
    result = segment(picture, old, device="cpu")
    assert result.confidence.tobytes() == with_none.confidence.tobytes()
    assert np.array_equal(result.confidence, old.representation.decode_scored(result.maps)[1])


def test_a_calibrated_model_gives_the_same_confidence_when_loaded(
    tiny_model: Segmenter, tmp_path: Path, domes: Callable[..., Any]
) -> None:
    picture, _ = domes(1)
    plain = segment(picture, tiny_model, device="cpu")
    calibrated = tiny_model.with_(calibration=Calibration(2.24, 1.56))
    calibrated.save(tmp_path / "m")
    before, after = (segment(picture, model, device="cpu") for model in (calibrated, Segmenter.load(tmp_path / "m")))
    assert np.array_equal(before.labels, plain.labels)
    assert not np.array_equal(before.confidence, plain.confidence)
    assert before.confidence.tobytes() == after.confidence.tobytes()
    assert np.array_equal(before.confidence, Calibration(2.24, 1.56).apply(plain.confidence))
    assert np.array_equal(before.table["confidence"], before.confidence)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.json is missing"):
        Segmenter.load(tmp_path / "absent")


def test_saving_replaces_a_model_whole(saved: Path, tiny_model: Segmenter) -> None:
    (saved / "notes.txt").write_text("mine")
    tiny_model.with_(name="second").save(saved)
    assert names(saved) == FILES
    assert names(saved.parent) == ["m"]
    assert Segmenter.load(saved).name == "second"


@pytest.mark.parametrize("fault", ["hash", "card", "rename"])
def test_a_failed_save_leaves_the_old_model(
    saved: Path, tiny_model: Segmenter, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    target = {
        "hash": "cellweave.models.segmenter.sha256",
        "card": "cellweave.models.segmenter._card_text",
        "rename": "cellweave.core.files.os.replace",
    }[fault]
    before = {name: (saved / name).read_bytes() for name in FILES}
    with monkeypatch.context() as patch:
        patch.setattr(target, fail)
        with pytest.raises(WriteError, match=f"{saved}.*disk is full"):
            tiny_model.with_(name="second").save(saved)
        with pytest.raises(WriteError):
            tiny_model.save(saved.parent / "new")
    assert names(saved.parent) == ["m"]
    assert {name: (saved / name).read_bytes() for name in FILES} == before


def test_a_disk_that_fills_up_while_weights_are_written_is_told(
    saved: Path, tiny_model: Segmenter, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    before = (saved / "model.safetensors").read_bytes()
    for folder in (saved, saved.parent / "new"):
        with full_disk(len(before) // 2), pytest.raises(WriteError, match=str(folder)):
            tiny_model.save(folder)
    assert names(saved.parent) == ["m"]
    assert (saved / "model.safetensors").read_bytes() == before


def test_saving_where_there_is_no_folder_is_told(tiny_model: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file"):
        tiny_model.save(tmp_path / "file" / "m")


def test_saving_over_a_file_is_refused(tiny_model: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "m").write_text("mine")
    with pytest.raises(WriteError, match="m"):
        tiny_model.save(tmp_path / "m")
    assert (tmp_path / "m").read_text() == "mine"
    assert names(tmp_path) == ["m"]


def test_saving_in_a_new_folder_makes_its_parents(tiny_model: Segmenter, tmp_path: Path) -> None:
    tiny_model.save(tmp_path / "a" / "b")
    assert names(tmp_path / "a" / "b") == FILES


def test_nothing_is_pickled(saved: Path) -> None:
    """JSON, text and safetensors: a header of JSON, then plain numbers."""
    json.loads((saved / "model.json").read_text())
    content = (saved / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} <= {"F32", "F64", "I64"}


def test_the_card_tells_what_the_model_is(tmp_path: Path) -> None:
    model = full_model().save(tmp_path / "m")
    text = (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
    assert text == model.card_text() == Segmenter.load(tmp_path / "m").card_text()
    for part in (
        "# Model card: zelle – 细胞",
        "- Net: FastUNet",
        "- Represents cells by: DiffusionFlows",
        "- Training diameter: 31.5 px",
        "- Channels: merged:DAPI,2",
        f"- Weights (SHA-256): {model.hash}",
        "- Training data: drawn",
        "## Recipe\n\n- epochs: 3",
        "## Figures\n\n| Images | n |\n| --- | --- |\n| all | 2 |",
    ):
        assert part in text


def test_a_copied_folder_works_anywhere(saved: Path, tmp_path: Path) -> None:
    shutil.move(saved, tmp_path / "elsewhere")
    assert Segmenter.load(tmp_path / "elsewhere").hash


def test_model_errors_are_ours() -> None:
    assert issubclass(ModelError, CellweaveError)


def test_boxes_and_a_diameter_do_not_go_together(tiny_model: Segmenter) -> None:
    boxes = tiny_model.with_(representation=WatershedEnergy(), diameter=0.0)
    with pytest.raises(InputError, match=r"diameter of 30 px, but maps of WatershedEnergy cannot be resized"):
        boxes.with_(diameter=30.0)


def test_a_model_outlines_cells_or_finds_positions(tiny_model: Segmenter) -> None:
    maps = np.zeros((1, 20, 30), np.float32)
    assert tiny_model.outlines is tiny_model.representation
    with pytest.raises(InputError, match="outlines cells"):
        _ = tiny_model.positions
    counting = tiny_model.with_(representation=Heatmap(), name="clicks")
    assert counting.positions is counting.representation
    assert len(counting.positions.decode(maps)) == 0
    for ask in (lambda: counting.outlines, lambda: counting.decode_scored(maps)):
        with pytest.raises(InputError, match=r"'clicks' finds where cells are, not their outlines"):
            ask()
