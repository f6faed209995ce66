"""Finding models by name, in folders, and as Cellpose weights."""

from __future__ import annotations

import hashlib
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from cellweave.core.errors import ModelError
from cellweave.models import Segmenter, list_models, load_model, registry
from cellweave.models.cellpose_weights import _peer_name
from cellweave.nets import CellposeUNet


@pytest.fixture(autouse=True)
def nothing_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the folders of the test count, and no name is by chance a file of the current folder."""
    monkeypatch.setenv("CELLWEAVE_MODELS", str(tmp_path / "mine"))
    monkeypatch.setenv("CELLPOSE_LOCAL_MODELS_PATH", str(tmp_path / "cellpose"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def cellpose_file(path: Path, seed: int = 0) -> CellposeUNet:
    """Weights as Cellpose saves them, and the network that they are of."""
    torch.manual_seed(seed)
    net = CellposeUNet().eval()
    state = {_peer_name(name): value for name, value in net.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state | {"diam_mean": torch.tensor([22.0]), "diam_labels": torch.tensor([18.0])}, path)
    return net


def found() -> list[tuple[str, str]]:
    return [(entry.name, entry.origin) for entry in list_models() if entry.origin != "embedded"]


def test_a_loaded_model_is_returned_as_it_is(tiny_model: Segmenter) -> None:
    assert load_model(tiny_model) is tiny_model


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder(model_folder: Path, kind: type) -> None:
    assert load_model(kind(model_folder)).name == "tiny"


def test_the_users_models_are_found_by_name(tmp_path: Path, model_folder: Path) -> None:
    assert found() == []
    shutil.copytree(model_folder, tmp_path / "mine" / "neurons")
    shutil.copytree(model_folder, tmp_path / "mine" / "b cells")
    (tmp_path / "mine" / "not a model").mkdir()
    (tmp_path / "mine" / "file.txt").touch()
    assert found() == [("b cells", "user"), ("neurons", "user")]
    assert load_model("b cells").hash == load_model(model_folder).hash


def test_without_the_variable_the_systems_data_folder_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CELLWEAVE_MODELS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = registry.user_folder()
    assert folder.name == "models"
    assert folder.parent.name == "cellweave"


def test_a_path_wins_over_a_name(tmp_path: Path, tiny_model: Segmenter, model_folder: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "mine" / "twice")
    tiny_model.with_(name="of this folder").save("twice")
    assert load_model("twice").name == "of this folder"


def test_a_folder_without_a_model_does_not_hide_a_name(tmp_path: Path, model_folder: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "mine" / "nuclei")
    for name in ("nuclei", "results"):
        Path(name).mkdir()
    assert load_model("nuclei").name == "tiny"
    with pytest.raises(ModelError, match=r"results.*model\.json is missing"):
        load_model("results")


def test_an_embedded_model_wins_over_the_users(
    tmp_path: Path, model_folder: Path, tiny_model: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "EMBEDDED", tmp_path / "embedded")
    tiny_model.with_(name="shipped").save(tmp_path / "embedded" / "default")
    shutil.copytree(model_folder, tmp_path / "mine" / "default")
    assert [(e.name, e.origin) for e in list_models()] == [("default", "embedded"), ("default", "user")]
    assert load_model().name == "shipped"


def test_an_unknown_name_lists_those_that_are_known(tmp_path: Path, model_folder: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "mine" / "neurons")
    cellpose_file(tmp_path / "cellpose" / "cyto3")
    with pytest.raises(ModelError, match=r"no model or model folder 'neuron'") as caught:
        load_model("neuron")
    assert "neurons" in str(caught.value)
    assert "cyto3" in str(caught.value)


def test_cellpose_names_without_their_file_tell_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'cyto2'") as caught:
        load_model("cyto2")
    assert str(tmp_path / "cellpose") in str(caught.value)


@pytest.mark.parametrize(
    ("file", "name", "diameter"),
    [("cyto3", "cyto3", 30.0), ("cyto2torch_0", "cyto2", 30.0), ("nucleitorch_0", "nuclei", 17.0)],
)
def test_official_cellpose_weights_are_found_by_name(tmp_path: Path, file: str, name: str, diameter: float) -> None:
    net = cellpose_file(tmp_path / "cellpose" / file)
    assert found() == [(name, "Cellpose weights")]
    model = load_model(name)
    assert model.diameter == diameter
    assert model.normalisation.clip is None  # as Cellpose normalises
    image = torch.rand(1, 2, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.net(image).maps, net(image).maps)
    content = (tmp_path / "cellpose" / file).read_bytes()
    assert model.hash == hashlib.sha256(content).hexdigest()
    assert str(tmp_path) in model.card_text()


def test_the_first_of_several_cellpose_files_counts(tmp_path: Path) -> None:
    cellpose_file(tmp_path / "cellpose" / "cyto2")
    cellpose_file(tmp_path / "cellpose" / "cyto2torch_0", seed=1)
    assert [(e.name, e.path.name) for e in list_models() if e.origin == "Cellpose weights"] == [("cyto2", "cyto2")]


def test_a_users_own_cellpose_weights_by_path(tmp_path: Path) -> None:
    cellpose_file(tmp_path / "CP_20260101_mine")
    model = load_model(tmp_path / "CP_20260101_mine")
    assert (model.name, model.diameter) == ("CP_20260101_mine", 22.0)


def test_cellpose_weights_can_be_saved_as_a_model(tmp_path: Path) -> None:
    cellpose_file(tmp_path / "weights")
    model = load_model(tmp_path / "weights")
    model.save(tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    assert isinstance(loaded.net, CellposeUNet)
    image = np.random.default_rng(0).random((1, 2, 32, 32)).astype(np.float32)
    with torch.no_grad():
        assert torch.equal(model.net(torch.from_numpy(image)).maps, loaded.net(torch.from_numpy(image)).maps)


def test_other_files_and_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    with pytest.raises(ModelError, match="file is no PyTorch file"):
        load_model(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ModelError, match=r"folder: the file model\.json is missing"):
        load_model(tmp_path / "folder")


def test_embedded_models_are_there_and_whole() -> None:
    embedded = [entry for entry in list_models() if entry.origin == "embedded"]
    if not embedded:
        pytest.skip("no model is embedded in this checkout yet; scripts/train-default makes it")
    assert [entry.name for entry in embedded] == ["cellpose-unet", "default"]
    for entry in embedded:
        model = load_model(entry.name)
        assert model.hash
        assert model.card
        assert model.size_model is not None


def test_models_in_the_wheel_are_small() -> None:
    settings = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    left_out = settings["tool"]["scikit-build"]["wheel"]["exclude"]
    for entry in list_models():
        if entry.origin == "embedded" and f"cellweave/models/embedded/{entry.name}/*" not in left_out:
            assert sum(file.stat().st_size for file in entry.path.iterdir()) <= 16_000_000
