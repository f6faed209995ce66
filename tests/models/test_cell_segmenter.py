"""A `CellSegmenter` is saved and loaded as a model: the same bytes again, nothing altered unnoticed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cell_segmenters import branch, cell_segmenter
from cellweave.core.errors import InputError, ModelError, WriteError
from cellweave.core.image import Image
from cellweave.models import CellSegmenter, Segmenter, list_models, load_model, load_segmenter
from cellweave.models.folder import FORMAT, settings_hash
from cellweave.predict import segment
from cellweave.representations import DistanceFlows, StarConvex

INSIDE = ["README.md", "fluorescence", "general", "model.json", "omnipose"]
BRANCH = ["README.md", "model.json", "model.safetensors"]


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def system() -> CellSegmenter:
    return cell_segmenter()


@pytest.fixture
def saved(system: CellSegmenter, tmp_path: Path) -> Path:
    system.save(tmp_path / "m")
    return tmp_path / "m"


def images(domes: Callable[..., Any]) -> dict[str, Image]:
    """One image for each way to choose."""
    gray: NDArray[np.uint16] = domes(1)[0]
    return {"grayscale": Image(gray[None]), "fluorescence": Image(np.stack([gray, gray[::-1]]))}


@pytest.mark.parametrize("kind", ["grayscale", "fluorescence"])
def test_save_load_segment_gives_the_same_bytes(
    system: CellSegmenter, saved: Path, domes: Callable[..., Any], kind: str
) -> None:
    image = images(domes)[kind]
    before, after = (segment(image, model, device="cpu") for model in (system, CellSegmenter.load(saved)))
    assert before.count > 3
    assert before.branch == after.branch
    assert before.labels.tobytes() == after.labels.tobytes()
    assert before.maps.tobytes() == after.maps.tobytes()
    assert before.confidence.tobytes() == after.confidence.tobytes()


def test_every_setting_survives(system: CellSegmenter, tmp_path: Path) -> None:
    with_hash = system.save(tmp_path / "m")
    loaded = CellSegmenter.load(tmp_path / "m")
    assert (loaded.name, loaded.card, loaded.hash) == (system.name, system.card, with_hash.hash)
    assert len(loaded.hash) == 64
    assert list(loaded.branches) == list(with_hash.branches) == ["fluorescence", "general", "omnipose"]
    for name, model in loaded.branches.items():
        assert model.hash == with_hash.branches[name].hash
        assert model.representation == system.branches[name].representation
        assert model.name == system.branches[name].name
    assert system.hash == ""


def test_thresholds_survive_and_are_part_of_the_hash(system: CellSegmenter, tmp_path: Path) -> None:
    fitted = replace(system, lowest=0.62, margin=0.1).save(tmp_path / "m")
    loaded = CellSegmenter.load(tmp_path / "m")
    assert (loaded.lowest, loaded.margin, loaded.hash) == (0.62, 0.1, fitted.hash)
    assert fitted.hash != system.save(tmp_path / "other").hash
    assert "C(own) < 0.62 or C(omnipose) - C(own) > 0.1" in fitted.card_text()
    for wrong in ({"lowest": 1.2}, {"margin": -0.1}, {"lowest": float("nan")}):
        with pytest.raises(InputError, match="must be between 0 and 1"):
            replace(system, **wrong)


def test_the_hash_is_that_of_the_weights(system: CellSegmenter, tmp_path: Path) -> None:
    hashes = {system.save(tmp_path / "a").hash, replace(system, name="other", card={}).save(tmp_path / "b").hash}
    assert len(hashes) == 1
    swapped = replace(system, branches=system.branches | {"general": system.branches["fluorescence"]})
    assert swapped.save(tmp_path / "c").hash not in hashes


def test_a_folder_holds_a_folder_for_each_branch(saved: Path) -> None:
    assert names(saved) == INSIDE
    assert names(saved.parent) == ["m"]
    for name in ("fluorescence", "general", "omnipose"):
        assert names(saved / name) == BRANCH
        assert isinstance(load_model(saved / name), Segmenter)


def test_a_model_like_any_other(system: CellSegmenter, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLWEAVE_MODELS", str(saved.parent))
    assert ("m", "user") in [(entry.name, entry.origin) for entry in list_models()]
    for model in ("m", saved, str(saved)):
        loaded = load_model(model)
        assert isinstance(loaded, CellSegmenter)
        assert loaded.name == "tiny system"
    assert load_model(system) is system


def test_where_one_model_is_needed_the_branches_are_told(system: CellSegmenter, saved: Path) -> None:
    for model in (system, saved):
        with pytest.raises(ModelError, match=r"'tiny system' is a Cell Segmenter.*\(fluorescence, general, omnipose\)"):
            load_segmenter(model)
    assert load_segmenter(saved / "general").name == "branch 0"
    assert load_segmenter(system.branches["general"]) is system.branches["general"]


def test_the_other_class_cannot_load_it(saved: Path) -> None:
    with pytest.raises(ModelError, match=r"holds several models.*fluorescence, general, omnipose"):
        Segmenter.load(saved)
    with pytest.raises(ModelError, match="holds no cell-segmenter"):
        CellSegmenter.load(saved / "general")


def test_images_without_a_branch_of_their_own_have_the_general_one(system: CellSegmenter) -> None:
    found = {kind: system.name_of(kind) for kind in ("grayscale", "fluorescence", "brightfield")}
    assert found == {"grayscale": "general", "fluorescence": "fluorescence", "brightfield": "general"}
    assert system.branch("brightfield") is system.branches["general"]


def test_a_branch_for_each_modality_needs_no_general_one() -> None:
    one = branch(0)
    CellSegmenter({"grayscale": one, "fluorescence": one, "brightfield": one})
    for missing in ("grayscale", "fluorescence", "brightfield"):
        rest = {name: one for name in ("grayscale", "fluorescence", "brightfield", "omnipose") if name != missing}
        with pytest.raises(InputError, match=f"no branch for {missing} images; give one of the name '{missing}'"):
            CellSegmenter(rest)
    with pytest.raises(InputError, match="no branch for grayscale"):
        CellSegmenter({})


@pytest.mark.parametrize("name", ["cells", "", "../general", "General"])
def test_other_names_of_branches_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"choose from grayscale, fluorescence, brightfield, general, omnipose"):
        CellSegmenter({"general": branch(0), name: branch(0)})


def test_a_branch_must_tell_a_probability() -> None:
    class Nameless(DistanceFlows):
        map_names = ("flow_y", "flow_x", "guess", "boundary")

    with pytest.raises(InputError, match=r"'omnipose' has no map of the probability.*Nameless"):
        CellSegmenter({"general": branch(0), "omnipose": branch(0, StarConvex()).with_(representation=Nameless())})


@pytest.mark.parametrize("file", ["model.json", "general/model.json", "omnipose/model.safetensors"])
@pytest.mark.parametrize("place", [100, -3])
def test_altered_files_are_refused(saved: Path, file: str, place: int) -> None:
    content = bytearray((saved / file).read_bytes())
    content[place] ^= 1
    (saved / file).write_bytes(content)
    with pytest.raises(ModelError, match=str(saved)):
        CellSegmenter.load(saved)


def test_a_branch_that_another_took_the_place_of_is_noticed(saved: Path) -> None:
    """Each folder is whole in itself."""
    shutil.rmtree(saved / "general")
    shutil.copytree(saved / "fluorescence", saved / "general")
    Segmenter.load(saved / "general")
    with pytest.raises(ModelError, match=r"general/model\.json was altered or is damaged"):
        CellSegmenter.load(saved)


def test_other_thresholds_in_a_branch_are_noticed(saved: Path) -> None:
    model = Segmenter.load(saved / "omnipose")
    model.with_(representation=DistanceFlows(probability_threshold=0.9)).save(saved / "omnipose")
    with pytest.raises(ModelError, match=r"omnipose/model\.json was altered"):
        load_model(saved)


@pytest.mark.parametrize("file", ["model.json", "general/model.json", "general/model.safetensors"])
def test_a_missing_file_is_named(saved: Path, file: str) -> None:
    (saved / file).unlink()
    with pytest.raises(ModelError, match=f"{file.rpartition('/')[2]} is missing"):
        CellSegmenter.load(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"kind": "cell-segmenter"}', '{"kind": 3}', "\x00\xff"])
def test_settings_that_are_no_settings_are_refused(saved: Path, text: str) -> None:
    (saved / "model.json").write_bytes(text.encode("latin-1"))
    for load in (load_model, CellSegmenter.load):
        with pytest.raises(ModelError, match=str(saved)):
            load(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["branches"].update({"../general": s["branches"]["general"]}),
        lambda s: s["branches"].pop("general"),
        lambda s: s.update(branches=["general"]),
        lambda s: s.update(branches={"general": 3}),
        lambda s: s.pop("card"),
        lambda s: s.pop("name"),
        lambda s: s.update(lowest=3),
        lambda s: s.update(margin="much"),
        lambda s: s.update(kind="another"),
        lambda s: s.update(format=FORMAT + 1),
    ],
)
def test_settings_that_do_not_fit_are_refused(saved: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Even with the right hash, as a malicious or clumsy author could write it."""
    settings = json.loads((saved / "model.json").read_text())
    change(settings)
    settings["settings_sha256"] = settings_hash(settings)
    (saved / "model.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=str(saved)):
        load_model(saved)


def test_a_newer_format_asks_for_an_update(saved: Path) -> None:
    settings = json.loads((saved / "model.json").read_text()) | {"format": FORMAT + 1}
    (saved / "model.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=f"{saved} was made by a newer cellweave; update"):
        load_model(saved)


def test_the_card_is_not_needed(saved: Path) -> None:
    (saved / "README.md").unlink()
    (saved / "general" / "README.md").unlink()
    assert CellSegmenter.load(saved).name == "tiny system"


def test_saving_replaces_a_model_whole(saved: Path, system: CellSegmenter, tiny_model: Segmenter) -> None:
    general = CellSegmenter({"general": system.branches["general"]})
    general.save(saved)
    assert names(saved) == ["README.md", "general", "model.json"]
    tiny_model.save(saved)
    assert names(saved) == BRANCH
    general.save(saved)
    assert names(saved.parent) == ["m"]
    assert isinstance(load_model(saved), CellSegmenter)


@pytest.mark.parametrize(
    "target",
    ["cellweave.models.cell_segmenter.CellSegmenter.card_text", "cellweave.core.files.os.replace"],
)
def test_a_failed_save_leaves_the_old_model(
    saved: Path, system: CellSegmenter, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    before = contents(saved)
    with monkeypatch.context() as patch:
        patch.setattr(target, fail)
        for folder in (saved, saved.parent / "new"):
            with pytest.raises(WriteError, match=f"cannot write {folder}: the disk is full"):
                replace(system, name="second").save(folder)
    assert names(saved.parent) == ["m"]
    assert contents(saved) == before


def test_a_disk_that_fills_up_while_a_branch_is_written_is_told(
    saved: Path, system: CellSegmenter, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    before = contents(saved)
    with full_disk(len(before["general/model.safetensors"]) // 2), pytest.raises(WriteError, match=f"write {saved}:"):
        system.save(saved)
    assert names(saved.parent) == ["m"]
    assert contents(saved) == before


def test_the_card_lists_the_branches_with_their_cards(system: CellSegmenter, tmp_path: Path) -> None:
    with_facts = system.branches["omnipose"].with_(card={"Licence": "free", "Recipe": {"epochs": "7"}})
    model = replace(system, branches=system.branches | {"omnipose": with_facts}).save(tmp_path / "m")
    text = (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
    assert text == model.card_text() == CellSegmenter.load(tmp_path / "m").card_text()
    for part in (
        "# Model card: tiny system\n",
        "- Branches: fluorescence, general, omnipose\n",
        "- Training data: none\n",
        f"- Branches (SHA-256): {model.hash}\n",
        "## Recipe\n\n- epochs: 0\n",
        "## Branch general: branch 0\n",
        "## Branch omnipose: branch 2\n",
        "- Represents cells by: WatershedEnergy\n",
        "- Licence: free\n",
        "### Recipe\n\n- epochs: 7\n",
        *(f"- Weights (SHA-256): {b.hash}\n" for b in model.branches.values()),
    ):
        assert part in text


def test_a_copied_folder_works_anywhere(saved: Path, tmp_path: Path) -> None:
    shutil.move(saved, tmp_path / "elsewhere")
    assert CellSegmenter.load(tmp_path / "elsewhere").hash
