"""`ModelSet`: one folder that is always whole, whatever is added, removed or chosen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellweave.core.errors import InputError, ModelError, WriteError
from cellweave.core.names import same
from cellweave.models import Calibration, Choice, Key, ModelSet, Segmenter, Training, load_model, load_set
from cellweave.models.folder import settings_hash
from cellweave.models.model_set import ANY, AVERAGE, SET

MADE = Training(12.5, {"a": "01ef"})
ERK, AKT = Key("nuclei", "U2OS", "ERK"), Key("nuclei", "U2OS", "AKT")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def put(models: ModelSet, model: Segmenter, *keys: Key) -> ModelSet:
    for key in keys:
        models = models.add(model, **key._asdict())
    return models


@pytest.fixture
def zoo(tmp_path: Path, tiny_model: Segmenter) -> ModelSet:
    models = ModelSet.create(tmp_path / "zoo", card={"Data": "none"})
    models = models.add(tiny_model, **ERK._asdict(), training=MADE)
    return put(models, tiny_model, AKT, Key("cells", "U2OS", "ERK"), Key("nuclei", "A 375", "p38/JNK"))


def alter(zoo: ModelSet, change: Callable[[dict[str, Any]], None]) -> None:
    """Change `set.json` as someone would who knows how to sign it."""
    settings = json.loads((zoo.root / SET).read_text())
    change(settings)
    (zoo.root / SET).write_text(json.dumps(settings | {"settings_sha256": settings_hash(settings)}))


def test_loaded_is_what_was_written(zoo: ModelSet, tiny_model: Segmenter) -> None:
    zoo = zoo.choose("nuclei", "U2OS", Choice(("AKT",), "staple", {"f1": 0.5}, Calibration(2.0, -1.0)))
    loaded = ModelSet.load(zoo.root)
    assert loaded == zoo
    assert loaded.name == "zoo"
    assert loaded.cell_lines == ("U2OS", "A 375")
    assert loaded.objects("u2os") == ("nuclei", "cells")
    assert loaded.objects("A375") == ("nuclei",)
    assert loaded.reporters("nuclei", "U2OS") == ("ERK", "AKT")
    assert loaded.choice("nuclei", "u2os") == Choice(("AKT",), "staple", {"f1": 0.5}, Calibration(2.0, -1.0))
    assert loaded.choice("cells", "U2OS") == Choice()
    assert loaded.card == {"Data": "none"}
    assert (loaded.training(Key("nuclei", "u2os", "erk")), loaded.training(AKT)) == (MADE, Training())
    model = loaded.model(ERK)
    assert model is loaded.model(Key("nuclei", "u2os", "e r k"))
    assert len(model.hash) == 64
    for a, b in zip(model.net.state_dict().values(), tiny_model.net.state_dict().values(), strict=True):
        assert np.array_equal(a.numpy(), b.numpy())
    loaded.check()


def test_each_model_is_a_usual_model_folder(zoo: ModelSet) -> None:
    assert load_model(zoo.folder(ERK)).name == "tiny"
    assert sorted(p.name for p in zoo.root.iterdir()) == [
        "README.md",
        "cells_U2OS_ERK",
        "nuclei_A-375_p38-JNK",
        "nuclei_U2OS_AKT",
        "nuclei_U2OS_ERK",
        SET,
    ]


def test_the_hash_tells_every_change(zoo: ModelSet, tiny_model: Segmenter) -> None:
    seen = [zoo.hash]
    zoo = zoo.choose("nuclei", "U2OS", Choice(("AKT",)))
    seen.append(zoo.hash)
    zoo = zoo.add(tiny_model.with_(diameter=25.0), object="nuclei", cell_line="U2OS", reporter="ERK", overwrite=True)
    seen.append(zoo.hash)
    seen.append(zoo.remove(AKT).hash)
    assert len(set(seen)) == 4
    assert all(len(one) == 64 for one in seen)


def test_names_do_not_hang_on_case_and_spaces(zoo: ModelSet) -> None:
    assert same("p38 JNK", "P38JNK")
    assert not same("p38", "p-38")
    assert zoo.find(Key("nuclei", " u2 os", "erk")) == ERK
    assert zoo.find(Key("cells", "U2OS", "AKT")) is None
    assert zoo.cell_line("a375") == "A 375"


def test_a_model_is_replaced_only_when_asked(zoo: ModelSet, tiny_model: Segmenter) -> None:
    before = contents(zoo.root)
    other = tiny_model.with_(diameter=31.0)
    with pytest.raises(ModelError, match="has a model for nuclei, U2OS, ERK already"):
        zoo.add(other, object="nuclei", cell_line="u2os", reporter="erk")
    assert contents(zoo.root) == before
    zoo = zoo.add(other, object="nuclei", cell_line="u2os", reporter="erk", overwrite=True)
    assert zoo.keys == ModelSet.load(zoo.root).keys
    assert zoo.model(ERK).diameter == 31.0
    assert not (zoo.root / "nuclei_U2OS_ERK").exists()
    zoo.check()


def test_what_was_removed_is_gone(zoo: ModelSet) -> None:
    zoo = zoo.choose("nuclei", "U2OS", Choice(("ERK", "AKT"), "simple", {"f1": 0.9}))
    zoo = zoo.choose("cells", "U2OS", Choice(("ERK",)))
    folder = zoo.folder(ERK)
    zoo = zoo.remove(Key("nuclei", "u2os", "erk")).remove(Key("cells", "U2OS", "ERK"))
    assert not folder.exists()
    assert zoo == ModelSet.load(zoo.root)
    assert zoo.reporters("nuclei", "U2OS") == ("AKT",)
    assert zoo.choice("nuclei", "U2OS") == Choice(("AKT",), "simple")
    assert zoo.objects("U2OS") == ("nuclei",)
    assert ("cells", "U2OS") not in zoo.choices
    with pytest.raises(ModelError, match=r"no model for nuclei, U2OS, ERK; it has nuclei, U2OS, AKT; nuclei, A 375"):
        zoo.remove(ERK)


def test_a_choice_of_all_loses_its_figures_when_one_is_removed(zoo: ModelSet, tiny_model: Segmenter) -> None:
    zoo = zoo.choose("nuclei", "U2OS", Choice((), "simple", {"f1": 0.9}, Calibration()))
    assert zoo.remove(ERK).choice("nuclei", "U2OS") == Choice((), "simple")


def test_a_choice_is_gone_with_the_last_of_its_reporters(zoo: ModelSet, tiny_model: Segmenter) -> None:
    zoo = zoo.choose("nuclei", "U2OS", Choice(("ERK",), "simple", {"f1": 0.9}))
    assert ("nuclei", "U2OS") not in zoo.remove(ERK).choices
    universal = Key("nuclei", "U2OS", ANY)
    zoo = put(zoo, tiny_model, universal).choose("nuclei", "U2OS", Choice(("AKT", "new"), "simple", {"f1": 0.9}))
    zoo = zoo.remove(universal)
    assert zoo.choice("nuclei", "U2OS") == Choice(("AKT",), "simple")


def test_a_choice_loses_its_figures_when_its_models_change(zoo: ModelSet, tiny_model: Segmenter) -> None:
    zoo = zoo.choose("nuclei", "U2OS", Choice(("ERK",), "simple", {"f1": 0.9}, Calibration()))
    zoo = zoo.add(tiny_model, object="nuclei", cell_line="U2OS", reporter="p38")
    assert zoo.choice("nuclei", "U2OS").scores == {"f1": 0.9}
    zoo = zoo.add(tiny_model, object="nuclei", cell_line="u2os", reporter="erk", overwrite=True)
    assert zoo.choice("nuclei", "U2OS") == Choice(("ERK",), "simple")
    assert zoo.training(ERK) == Training()


def test_the_names_of_special_models_are_written_in_one_way(tmp_path: Path, tiny_model: Segmenter) -> None:
    models = put(
        ModelSet.create(tmp_path / "z"), tiny_model, Key("nuclei", "U2OS", "Any"), Key("cells", "U2OS", " AVERAGE")
    )
    assert models.keys == (Key("nuclei", "U2OS", ANY), Key("cells", "U2OS", AVERAGE))


def test_two_that_add_in_turn_lose_nothing(zoo: ModelSet, tiny_model: Segmenter) -> None:
    one, two = ModelSet.load(zoo.root), ModelSet.load(zoo.root)
    one.add(tiny_model, object="cells", cell_line="U2OS", reporter="AKT")
    two.add(tiny_model, object="cells", cell_line="U2OS", reporter="p38")
    assert ModelSet.load(zoo.root).reporters("cells", "U2OS") == ("ERK", "AKT", "p38")


@pytest.mark.parametrize("size", [200, 5000])
def test_a_full_disk_leaves_the_set_as_it_was(
    zoo: ModelSet, tiny_model: Segmenter, full_disk: Callable[[int], Any], size: int
) -> None:
    before = contents(zoo.root)
    for change in (
        lambda: zoo.add(tiny_model, object="cells", cell_line="U2OS", reporter="AKT"),
        lambda: zoo.add(tiny_model, object="nuclei", cell_line="U2OS", reporter="ERK", overwrite=True),
    ):
        with full_disk(size), pytest.raises(WriteError):
            change()
        assert contents(zoo.root) == before
    assert not [p for p in zoo.root.iterdir() if ".part-" in p.name]


def test_a_model_that_was_altered_is_refused(zoo: ModelSet) -> None:
    weights = zoo.folder(ERK) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    loaded = ModelSet.load(zoo.root)
    assert loaded.model(AKT).name == "tiny"
    with pytest.raises(ModelError, match="altered or is damaged"):
        loaded.model(ERK)
    with pytest.raises(ModelError, match="altered or is damaged"):
        loaded.check()


def test_a_model_of_another_folder_is_refused(zoo: ModelSet, tiny_model: Segmenter) -> None:
    """Whole in itself, but not the one that the set names."""
    tiny_model.with_(diameter=99.0).save(zoo.folder(ERK))
    with pytest.raises(ModelError, match=r"model\.json was altered"):
        ModelSet.load(zoo.root).model(ERK)


def test_a_missing_model_is_named(zoo: ModelSet) -> None:
    shutil.rmtree(zoo.folder(ERK))
    with pytest.raises(ModelError, match=r"nuclei_U2OS_ERK: the file model\.json is missing"):
        ModelSet.load(zoo.root).model(ERK)


def test_set_json_that_was_altered_is_refused(zoo: ModelSet) -> None:
    text = (zoo.root / SET).read_text()
    (zoo.root / SET).write_text(text.replace("nuclei_U2OS_ERK", "nuclei_U2OS_AKT"))
    with pytest.raises(ModelError, match=r"set\.json was altered"):
        ModelSet.load(zoo.root)
    (zoo.root / SET).write_text(text[:-20])
    with pytest.raises(ModelError, match="cannot be used"):
        ModelSet.load(zoo.root)


@pytest.mark.parametrize("folder", ["..", "../other", "/etc", "a/b", "a\\b", "", ".hidden", "C:x"])
def test_a_set_cannot_point_outside_its_folder(zoo: ModelSet, folder: str) -> None:
    alter(zoo, lambda settings: settings["models"][0].update(folder=folder))
    with pytest.raises(ModelError, match="is no name of a folder"):
        ModelSet.load(zoo.root)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["models"][0].update(object="mitochondria"),
        lambda s: s["models"][0].pop("sha256"),
        lambda s: s["models"][0]["training"].update(diameter=-1),
        lambda s: s["models"].append(3),
        lambda s: s.update(choices=[{"object": "nuclei", "cell_line": "U2OS", "reporters": [], "method": "magic"}]),
        lambda s: s.update(choices=[{"object": "nuclei", "cell_line": "U2OS", "reporters": [], "what": 1}]),
        lambda s: s.update(format=99),
    ],
)
def test_nonsense_in_set_json_is_refused(zoo: ModelSet, change: Callable[[dict[str, Any]], None]) -> None:
    alter(zoo, change)
    with pytest.raises(ModelError, match="zoo"):
        ModelSet.load(zoo.root)


def test_what_is_missing_is_named(zoo: ModelSet, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no models for the cell line 'HeLa'; it has U2OS, A 375"):
        zoo.cell_line("HeLa")
    with pytest.raises(ModelError, match=r"choose a cell line with --cell-line; it has U2OS, A 375"):
        zoo.cell_line()
    with pytest.raises(ModelError, match="no model for cells of A 375; it has nuclei, U2OS, ERK"):
        zoo.reporters("cells", "A 375")
    with pytest.raises(ModelError, match=r"reporter p38, JNK; it has ERK, AKT"):
        zoo.choose("nuclei", "U2OS", Choice(("ERK", "p38", "JNK")))
    with pytest.raises(ModelError, match="empty"):
        ModelSet.create(tmp_path / "new").cell_line("U2OS")


def test_with_one_cell_line_it_need_not_be_named(tmp_path: Path, tiny_model: Segmenter) -> None:
    assert put(ModelSet.create(tmp_path / "z"), tiny_model, ERK, AKT).cell_line() == "U2OS"


def test_a_model_for_any_channel_serves_every_choice(tmp_path: Path, tiny_model: Segmenter) -> None:
    models = put(ModelSet.create(tmp_path / "z"), tiny_model, Key("nuclei", "U2OS", ANY))
    assert models.choose("nuclei", "U2OS", Choice(("ERK", "new"))).choice("nuclei", "U2OS").reporters == ("ERK", "new")


@pytest.mark.parametrize(
    "key", [("nucleus", "U2OS", "ERK"), ("nuclei", " ", "ERK"), ("nuclei", "U2OS", ""), ("nuclei", "U2OS", "a\nb")]
)
def test_impossible_names(zoo: ModelSet, tiny_model: Segmenter, key: tuple[str, str, str]) -> None:
    before = contents(zoo.root)
    with pytest.raises(InputError):
        put(zoo, tiny_model, Key(*key))
    assert contents(zoo.root) == before


def test_names_in_other_scripts_get_folders_of_their_own(tmp_path: Path, tiny_model: Segmenter) -> None:
    models = put(
        ModelSet.create(tmp_path / "z"), tiny_model, Key("nuclei", "细胞", "α"), Key("nuclei", "细胞", "β"), ERK
    )
    assert len({models.folder(key) for key in models.keys}) == 3
    ModelSet.load(models.root).check()


@pytest.mark.parametrize("method", ["", "flow fusion", "mean"])
def test_unknown_methods(method: str) -> None:
    with pytest.raises(InputError, match=r"choose from flow_fusion, pixel_voting"):
        Choice(method=method)


@pytest.mark.parametrize("diameter", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_diameters(diameter: float) -> None:
    with pytest.raises(InputError, match="diameter"):
        Training(diameter)


def test_nothing_is_created_over_something(zoo: ModelSet, model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds a model set already"):
        ModelSet.create(zoo.root)
    shutil.copytree(model_folder, tmp_path / "m")
    with pytest.raises(ModelError, match="holds a model already"):
        ModelSet.create(tmp_path / "m")


def test_the_card_tells_models_and_choices(zoo: ModelSet) -> None:
    zoo = zoo.choose("nuclei", "U2OS", Choice(("AKT",), "staple", {"f1": 0.875}))
    card = (zoo.root / "README.md").read_text()
    assert card == zoo.card_text()
    for part in (
        "# Model set: zoo",
        "## nuclei of U2OS",
        "AKT, by STAPLE (f1 0.875)",
        "12.5 px",
        "made with 1 images",
        zoo.hash,
        "Data: none",
    ):
        assert part in card, part


def test_sets_are_found_by_name_and_by_folder(zoo: ModelSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CELLWEAVE_MODELS", str(tmp_path))
    assert load_set("zoo") == load_set(zoo.root) == load_set(zoo) == zoo
    with pytest.raises(ModelError, match=r"no model set 'zoos'.*known sets: zoo"):
        load_set("zoos")
    for name in ("zoo", zoo.root):
        with pytest.raises(ModelError, match="is a model set"):
            load_model(name)
