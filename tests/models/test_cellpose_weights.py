"""Weights of Cellpose: the same maps as the real package, and a plain refusal for every other file."""

from __future__ import annotations

import os
import pickle
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from cellweave.core.errors import ModelError
from cellweave.models.cellpose_weights import load_cellpose_size_model, load_cellpose_weights

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDEN = REPOSITORY / "tests" / "golden" / "cellpose_maps.npz"
SEEDED = runpy.run_path(str(REPOSITORY / "scripts" / "peer" / "seeded.py"))
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    """What cellpose 3.1.1.3 computed; scripts/peer/golden_cellpose.py tells how."""
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def shapes(golden: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a real Cellpose state dict."""
    sizes = [tuple(int(n) for n in text.split(",") if n) for text in golden["shapes"]]
    return dict(zip(golden["names"].tolist(), sizes, strict=True))


def make_state(shapes: dict[str, tuple[int, ...]], seed: int) -> State:
    return {name: torch.from_numpy(value) for name, value in SEEDED["seeded_weights"](shapes, seed).items()}


@pytest.fixture(scope="module")
def whole(shapes: dict[str, tuple[int, ...]], golden: dict[str, Any]) -> State:
    return make_state(shapes, int(golden["weights_seed"]))


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def save(state: Any, name: str = "model") -> Path:
        torch.save(state, tmp_path / name)
        return tmp_path / name

    return save


def maps_of(path: Path, image: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    with torch.no_grad():
        maps, style, _ = load_cellpose_weights(path).net(torch.from_numpy(image))
    return maps.numpy(), style.numpy()


def test_state_dict_has_313_names(shapes: dict[str, tuple[int, ...]]) -> None:
    assert len(shapes) == 313


@pytest.mark.parametrize("k", [0, 1])
def test_maps_equal_those_of_the_real_package(
    k: int, golden: dict[str, Any], whole: State, save: Callable[..., Path]
) -> None:
    image = SEEDED["seeded_image"](tuple(golden["image_shapes"][k]), int(golden["image_seeds"][k]))
    maps, style = maps_of(save(whole), image)
    assert golden[f"maps_{k}"].std() > 1  # the figure below means something
    assert np.abs(maps - golden[f"maps_{k}"]).max() <= 1e-4
    assert np.abs(style - golden[f"style_{k}"]).max() <= 1e-5


def test_diameters_come_from_the_file(whole: State, save: Callable[..., Path]) -> None:
    whole = {**whole, "diam_mean": torch.tensor([22.5])}
    loaded = load_cellpose_weights(save(whole, "CP_20260101_mine"))
    assert (loaded.diam_mean, loaded.diam_labels) == (22.5, 24.5)
    assert not loaded.net.training


@pytest.mark.parametrize(
    ("name", "diameter"),
    [
        *((name, 30) for name in ("cyto", "cytotorch_0", "cyto2torch_3", "cyto3", "my_nuclei")),
        *((name, 17) for name in ("nuclei", "nucleitorch_0")),
    ],
)
def test_files_without_diameters_have_that_of_their_name(
    name: str, diameter: float, whole: State, save: Callable[..., Path]
) -> None:
    old = {key: value for key, value in whole.items() if not key.startswith("diam_")}
    loaded = load_cellpose_weights(save(old, name))
    assert (loaded.diam_mean, loaded.diam_labels) == (diameter, None)


def test_official_name_overrules_the_diameter_in_the_file(whole: State, save: Callable[..., Path]) -> None:
    loaded = load_cellpose_weights(save(whole, "nucleitorch_0"))
    assert (loaded.diam_mean, loaded.diam_labels) == (17, 24.5)


@pytest.mark.parametrize("legacy", [False, True])
def test_other_ways_of_saving_give_the_same_network(
    legacy: bool, whole: State, tmp_path: Path, save: Callable[..., Path]
) -> None:
    image = SEEDED["seeded_image"]((1, 2, 16, 16), 3)
    parallel = {f"module.{name}": value for name, value in whole.items()}
    path = tmp_path / "parallel"
    torch.save(parallel, path, _use_new_zipfile_serialization=not legacy)
    assert np.array_equal(maps_of(path, image)[0], maps_of(save(whole), image)[0])


def test_half_precision_weights_are_read(whole: State, save: Callable[..., Path]) -> None:
    half = {name: value.half() if value.is_floating_point() else value for name, value in whole.items()}
    net = load_cellpose_weights(save(half)).net
    assert {p.dtype for p in net.parameters()} == {torch.float32}


@pytest.mark.parametrize(("channels", "maps"), [(1, 3), (3, 4), (5, 3)])
def test_other_numbers_of_channels_and_maps(
    channels: int, maps: int, shapes: dict[str, tuple[int, ...]], save: Callable[..., Path]
) -> None:
    shapes = dict(shapes)
    for name, shape in shapes.items():
        if name.startswith(("downsample.down.res_down_0.proj", "downsample.down.res_down_0.conv.conv_0.")):
            shapes[name] = tuple(channels if n == 2 else n for n in shape)
        elif name.startswith("output.2"):
            shapes[name] = (maps, *shape[1:])
    net = load_cellpose_weights(save(make_state(shapes, 1))).net
    assert (net.in_channels, net.out_maps) == (channels, maps)
    assert net(torch.zeros(1, channels, 8, 8)).maps.shape == (1, maps, 8, 8)


def without(state: State, *names: str) -> State:
    return {key: value for key, value in state.items() if key not in names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "output.2.bias"), "lacks output.2.bias;"),
        (lambda s: without(s, *list(s)[:9]), "lacks .*, .*, .* and .* more"),
        (lambda s: {**s, "boundary.weight": torch.zeros(1)}, "has the unknown boundary.weight"),
        (
            lambda s: {**without(s, "output.2.bias"), "b": torch.zeros(1)},
            "lacks output.2.bias and has the unknown b",
        ),
        (lambda s: {**s, "output.0.bias": torch.zeros(5)}, "of another shape are output.0.bias"),
        (
            lambda s: {**s, "output.2.weight": torch.zeros(2, 32, 1, 1)},
            "restoration models .* choose a segmentation",
        ),
        (
            lambda s: {"W2": torch.zeros(4), "encoder.pos_embed": torch.zeros(1)},
            "Cellpose 4 .* choose a segmentation",
        ),
        (
            lambda s: {**s, "downsample.down.res_down_0.conv.conv_0.2.weight": torch.zeros(32, 2, 3, 3, 3)},
            "3-D convolutions",
        ),
        (lambda s: {**s, "diam_mean": torch.tensor([float("nan")])}, "diam_mean is nan"),
        (lambda s: {**s, "diam_labels": torch.zeros(0)}, "diam_labels is 0"),
        (lambda s: {"epoch": 3, "net": s}, "more or less than the weights of one network"),
        (lambda s: [1, 2], "more or less than the weights of one network"),
        (lambda s: {}, "lacks "),
    ],
)
def test_other_networks_are_refused(
    change: Callable[[State], Any], message: str, whole: State, save: Callable[..., Path]
) -> None:
    path = save(change(whole))
    with pytest.raises(ModelError, match=message) as caught:
        load_cellpose_weights(path)
    assert str(path) in str(caught.value)


def write_size_model(path: Path) -> None:
    save_pickled(path, {"A": np.zeros(256), "smean": np.zeros(256)})


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: p.write_bytes(b""), "it is empty"),
        (lambda p: p.write_text("<html>404: not found</html>"), "starts with b'<html>40'"),
        (write_size_model, "NumPy file"),
        (lambda p: save_file({"a": torch.zeros(3)}, p), "safetensors"),
        (lambda p: p.mkdir(), "cannot read"),
        (lambda p: None, "cannot read .*: No such file"),
        (lambda p: p.write_bytes(pickle.dumps({"a": 1})), "damaged"),
        (lambda p: p.write_bytes(b"PK\x03\x04"), "damaged or cut short"),
        (lambda p: torch.save(torch.nn.Linear(1, 1), p), "other objects than weights"),
    ],
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_other_files_are_refused(write: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path)
    with pytest.raises(ModelError, match=message) as caught:
        load_cellpose_weights(path)
    assert str(path) in str(caught.value)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_the_file_is_not_run(zipped: bool, tmp_path: Path) -> None:
    torch.save({"output.2.weight": Bomb(tmp_path / "ran")}, tmp_path / "m", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match="could run code"):
        load_cellpose_weights(tmp_path / "m")
    assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A state dict of tiny arrays in PyTorch's two file formats: quick to damage and to read."""
    folder = tmp_path_factory.mktemp("weights")
    for name, zipped in (("zip", True), ("old", False)):
        state = {"output.2.weight": torch.zeros(3, 4, 1, 1), "diam_mean": torch.ones(1)}
        torch.save(state, folder / name, _use_new_zipfile_serialization=zipped)
    return [folder / "zip", folder / "old"]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_are_refused_by_name(small_files: list[Path], tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(small_files)).read_bytes())
    for _ in range(data.draw(st.integers(0, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with pytest.raises(ModelError, match=str(path)):  # whole or not, it is no Cellpose network
        load_cellpose_weights(path)


def size_content(rng: np.random.Generator) -> dict[str, Any]:
    """What Cellpose saves as a size model."""
    a, mean = rng.normal(size=(2, 256))
    return {"A": a, "smean": mean.astype(np.float32), "diam_mean": 30.0, "ymean": np.float64(-0.3)}


def save_pickled(path: Path, content: Any) -> Path:
    with path.open("wb") as stream:
        np.save(stream, content, allow_pickle=True)
    return path


def test_size_model_estimates_what_cellpose_would(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    content = size_content(rng)
    model = load_cellpose_size_model(save_pickled(tmp_path / "size_cyto3.npy", content))
    style = rng.normal(size=256) / 16
    estimate = np.exp(content["A"] @ (style - content["smean"]) + np.log(30) - 0.3)
    assert model.predict(style) == pytest.approx(estimate)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: {key: value for key, value in c.items() if key != "smean"},
        lambda c: {**c, "A": np.zeros(255)},
        lambda c: {**c, "A": np.full(256, np.nan)},
        lambda c: {**c, "diam_mean": 0.0},
        lambda c: {**c, "ymean": np.zeros(2)},
        list,
        lambda c: np.zeros(3),
    ],
)
def test_other_npy_files_are_no_size_models(change: Callable[[Any], Any], tmp_path: Path) -> None:
    path = save_pickled(tmp_path / "size.npy", change(size_content(np.random.default_rng(0))))
    with pytest.raises(ModelError, match=f"{path} is damaged or no size model"):
        load_cellpose_size_model(path)


def test_code_in_a_size_model_is_not_run(tmp_path: Path) -> None:
    content = {**size_content(np.random.default_rng(0)), "A": Bomb(tmp_path / "ran")}
    with pytest.raises(ModelError, match="nothing in it was run"):
        load_cellpose_size_model(save_pickled(tmp_path / "size.npy", content))
    assert not (tmp_path / "ran").exists()


def test_cut_or_missing_size_models_are_refused(tmp_path: Path) -> None:
    path = save_pickled(tmp_path / "size.npy", size_content(np.random.default_rng(0)))
    content = path.read_bytes()
    for length in [0, 3, 60, 128, 140, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(ModelError, match="damaged"):
            load_cellpose_size_model(path)
    with pytest.raises(ModelError, match=r"cannot read .*: No such file"):
        load_cellpose_size_model(tmp_path / "absent.npy")


@pytest.fixture(scope="module")
def run_peer() -> Callable[..., dict[str, Any]]:
    """The peer package itself, where its environment was made."""
    peer = runpy.run_path(str(REPOSITORY / "benchmarks" / "peer.py"))
    if peer["find_peer"]() is None:
        pytest.skip("needs the peer: set CELLWEAVE_PEER_PYTHON, or run scripts/bench once, which makes .venv-peer")
    return peer["run_peer"]  # type: ignore[no-any-return]


@pytest.mark.peer
def test_maps_equal_those_of_the_peer_live(
    run_peer: Callable[..., Any], shapes: dict[str, tuple[int, ...]], save: Callable[..., Path]
) -> None:
    image = SEEDED["seeded_image"]((2, 2, 224, 136), 5)
    theirs = run_peer("net_maps", x=image, weights_seed=77, repeats=1)
    maps, style = maps_of(save(make_state(shapes, 77)), image)
    assert np.abs(maps - theirs["maps"]).max() <= 1e-4
    assert np.abs(style - theirs["style"]).max() <= 1e-5


@pytest.mark.peer
def test_golden_masks_are_what_the_peer_computes(run_peer: Callable[..., Any]) -> None:
    with np.load(GOLDEN.with_name("cellpose_dynamics.npz")) as golden:
        flows = run_peer("labels_to_flows", labels=golden["labels"], repeats=1)["flows"]
        noisy = {name: golden[f"noisy_{name}"].astype(np.float32) for name in ("flows", "cellprob")}
        masks = run_peer("compute_masks", **noisy, repeats=1)["masks"]
        assert np.abs(flows - golden["flows"]).max() < 1e-6
        assert np.array_equal(masks > 0, golden["noisy_masks"] > 0)
        assert len(np.unique(masks)) == len(np.unique(golden["noisy_masks"]))


@pytest.mark.peer
def test_whole_pipeline_of_the_peer_runs_and_is_timed(run_peer: Callable[..., Any]) -> None:
    image = SEEDED["seeded_image"]((64, 72), 6)
    result = run_peer("segment", image=image, diameter=30, weights_seed=1, repeats=1)
    assert result["masks"].shape == (64, 72)
    assert 0 < result["net_seconds"] < result["seconds"]


@pytest.mark.peer
def test_the_peers_failure_is_told(run_peer: Callable[..., Any]) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)net_maps failed .*weights_seed"):
        run_peer("net_maps", x=np.zeros(3))
