"""`predict_maps`: the same maps for any tile and batch size, read and kept in bands."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellweave.core.device import inference_dtype
from cellweave.core.errors import CellweaveError, InputError, ModelError
from cellweave.core.image import Image
from cellweave.core.progress import showing
from cellweave.models import Segmenter
from cellweave.nets import CellposeUNet, FastUNet, NetOutput
from cellweave.predict import estimate_diameter, predict_maps, segment
from cellweave.prep import Channels
from cellweave.prep.channels import apply_weights
from cellweave.prep.rescale import resize
from cellweave.representations import DiffusionFlows


@pytest.fixture
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Laws of equality hold in float32; bfloat16 has three digits."""
    monkeypatch.setattr("cellweave.core.device.inference_dtype", lambda device: torch.float32)


@pytest.fixture(scope="module")
def random_model() -> Segmenter:
    """Random weights: every scale matters in every map, and so does the second plane."""
    torch.manual_seed(3)
    net = FastUNet(widths=(6, 8, 8, 8))
    for parameter in net.parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter)
    return Segmenter(net.eval(), DiffusionFlows(), 24.0)


class Local(torch.nn.Module):
    """A net that takes no time: each map is a plane, or their sum."""

    in_channels, out_maps, widths, stride, radius, tile = 2, 3, (1,), 2, 0, 2048

    def forward(self, x: torch.Tensor) -> NetOutput:
        maps = torch.stack([x[:, 0], x[:, 1], x[:, 0] + x[:, 1]], dim=1)
        return NetOutput(maps, torch.nn.functional.normalize(x.mean(dim=(2, 3)) + 1, dim=1))


class Recorder:
    """A lazy array that notes what is read."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array, self.rows = array, []
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[Any]:
        part = self.array[key]
        self.rows.append(part.shape[1])
        return part


def local_model(**options: Any) -> Segmenter:
    return Segmenter(Local(), DiffusionFlows(), **({"diameter": 24.0} | options))


def picture(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.uint16]:
    """Smooth noise."""
    coarse = np.random.default_rng(seed).random([max(2, n // 6) if n > 4 else n for n in shape[-2:]])
    return np.asarray(1000 * resize(coarse, *shape[-2:]) + 50, np.uint16)


def maps_at_once(image: Image, model: Segmenter, diameter: float) -> NDArray[np.float32]:
    """The same in one piece, step after step."""
    limits = model.normalisation.limits(image)
    planes = apply_weights(model.normalisation.apply(image.read(), limits), model.channels.weights(image))
    height, width = (max(1, round(n * model.diameter / diameter)) for n in planes.shape[1:])
    small = resize(planes, height, width)
    stride = int(model.net.stride)  # type: ignore[arg-type]
    padded = np.pad(small, ((0, 0), (0, -height % stride), (0, -width % stride)))
    with torch.no_grad():
        output = model.net(torch.from_numpy(padded[None]))
    maps = model.representation.from_output(output)[0, :, :height, :width].numpy()
    return resize(maps, image.height, image.width)


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("diameter", [11.0, 24.0, 37.3, 60.0])
@pytest.mark.parametrize("tile", [None, 320, 352])
def test_bands_and_tiles_equal_the_whole(random_model: Segmenter, diameter: float, tile: int | None) -> None:
    pixels = np.stack([picture((303, 158), 1), picture((303, 158), 2)])
    image = Image(pixels)
    expected = maps_at_once(image, random_model, diameter)
    maps = predict_maps(image, random_model, diameter=diameter, tile=tile, device="cpu")
    assert maps.dtype == np.float32
    assert maps.shape == (3, 303, 158)
    assert expected.std() > 0.1
    np.testing.assert_allclose(maps, expected, atol=1e-4)


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("diameter", [12.0, 24.0, 48.0])
def test_tiled_is_untiled(tiny_model: Segmenter, domes: Callable[..., Any], diameter: float) -> None:
    pixels, truth = domes(4, (round(16 * diameter), round(24 * diameter)), 40, diameter)
    whole = predict_maps(pixels, tiny_model, diameter=diameter, tile=4096, device="cpu")
    labels = tiny_model.representation.decode(whole)
    assert labels.max() == truth.max() == 40
    for tile in (384, 512):
        maps = predict_maps(pixels, tiny_model, diameter=diameter, tile=tile, device="cpu")
        np.testing.assert_allclose(maps, whole, atol=1e-4)
        assert np.array_equal(tiny_model.representation.decode(maps), labels)


@pytest.mark.usefixtures("float32")
def test_tiled_is_untiled_for_the_embedded_model(default_model: Segmenter) -> None:
    from skimage.data import immunohistochemistry

    image = Image.from_array(immunohistochemistry())
    whole = predict_maps(image, default_model, diameter=22, tile=4096, device="cpu")
    maps = predict_maps(image, default_model, diameter=22, tile=400, device="cpu")
    np.testing.assert_allclose(maps, whole, atol=1e-4)
    labels, others = default_model.representation.decode(whole), default_model.representation.decode(maps)
    assert labels.max() > 10
    assert np.array_equal(labels > 0, others > 0)
    assert np.array_equal(labels, others)


@given(st.integers(1, 70), st.integers(1, 90), st.floats(6, 90), st.integers(2, 60))
def test_any_size_zoom_and_tile(height: int, width: int, diameter: float, tile: int) -> None:
    """With a net that only looks at one pixel, in as many bands as there can be."""
    model, image = local_model(), Image(picture((height, width))[None])
    maps = predict_maps(image, model, diameter=diameter, tile=tile, device="cpu")
    tolerance = 1e-4 if inference_dtype(torch.device("cpu")) == torch.float32 else 0.02
    np.testing.assert_allclose(maps, maps_at_once(image, model, diameter), atol=tolerance)


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("shape", [(16, 16), (224, 130), (100, 224)])
def test_a_net_that_sees_the_whole_tile(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = Segmenter(CellposeUNet(widths=(4, 6, 8)).eval(), DiffusionFlows(), 30.0)
    image = Image(picture(shape)[None])
    np.testing.assert_allclose(
        predict_maps(image, model, diameter=30, device="cpu"), maps_at_once(image, model, 30), atol=1e-5
    )
    larger = predict_maps(Image(picture((300, 500))[None]), model, diameter=30, device="cpu")
    assert np.isfinite(larger).all()


def fail_above(net: torch.nn.Module, largest: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The net runs out of memory with batches of more than `largest` tiles; tells the sizes it was given."""
    sizes: list[int] = []
    forward = net.forward

    def limited(x: torch.Tensor) -> NetOutput:
        sizes.append(len(x))
        if len(x) > largest:
            raise error
        result = forward(x)
        assert isinstance(result, NetOutput)
        return result

    monkeypatch.setattr(net, "forward", limited)
    return sizes


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("MPS backend out of memory"),
]


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize(
    ("error", "largest"), [*zip(OUT_OF_MEMORY, (2, 2, 2, 2), strict=True), (MemoryError(), 1), (MemoryError(), 5)]
)
def test_batches_halve_until_they_fit_and_change_nothing(
    random_model: Segmenter, monkeypatch: pytest.MonkeyPatch, error: Exception, largest: int
) -> None:
    image = picture((32, 1400))
    options: dict[str, Any] = {"diameter": 24, "tile": 320, "device": "cpu"}
    expected = predict_maps(image, random_model, **options)
    sizes = fail_above(random_model.net, largest, error, monkeypatch)
    maps = predict_maps(image, random_model, **options)
    np.testing.assert_allclose(maps, expected, atol=1e-4)
    fitting = max(n for n in (8, 4, 2, 1) if n <= largest)
    assert sizes[:2] == [8, 4]
    assert max(sizes[3:]) == fitting  # once it has failed, a size is not tried again
    assert sum(n for n in sizes if n <= largest) == 35  # tiles


def test_one_tile_that_does_not_fit_is_told(random_model: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_above(random_model.net, 0, OUT_OF_MEMORY[0], monkeypatch)
    with pytest.raises(CellweaveError, match=r"one tile of 32 x 320 px does not fit.*tile=160"):
        predict_maps(picture((32, 1400)), random_model, diameter=24, tile=320, device="cpu")


def test_other_faults_of_the_net_are_not_hidden(random_model: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = fail_above(random_model.net, 0, RuntimeError("shapes do not match"), monkeypatch)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        predict_maps(picture((32, 32)), random_model, diameter=24, device="cpu")
    assert sizes == [1]


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("axes", [(1,), (2,), (1, 2)])
def test_flip_averaging_commutes_with_flips(random_model: Segmenter, axes: tuple[int, ...]) -> None:
    pixels = np.stack([picture((48, 96), 1), picture((48, 96), 2)])
    signs = np.array([-1.0 if 1 in axes else 1.0, -1.0 if 2 in axes else 1.0, 1.0])[:, None, None]

    def difference(augment: bool) -> float:
        options: dict[str, Any] = {"diameter": 24, "device": "cpu", "augment": augment}
        maps = predict_maps(Image(pixels), random_model, **options)
        flipped = predict_maps(Image(np.flip(pixels, axes)), random_model, **options)
        return float(np.abs(np.flip(flipped, axes) * signs - maps).max())

    assert difference(augment=True) < 1e-5
    assert difference(augment=False) > 0.01


@pytest.mark.usefixtures("float32")
def test_flip_averaging_is_the_mean_of_four_flips(random_model: Segmenter) -> None:
    pixels = picture((32, 64))[None]
    total = np.zeros((3, 32, 64))
    for axes in ((), (1,), (2,), (1, 2)):
        maps = predict_maps(Image(np.flip(pixels, axes)), random_model, diameter=24, device="cpu")
        signs = np.array([-1.0 if 1 in axes else 1.0, -1.0 if 2 in axes else 1.0, 1.0])[:, None, None]
        total += np.flip(maps, axes) * signs / 4
    maps = predict_maps(Image(pixels), random_model, diameter=24, device="cpu", augment=True)
    np.testing.assert_allclose(maps, total, atol=1e-5)


@pytest.mark.usefixtures("float32")
def test_several_models_are_averaged_at_the_level_of_maps(random_model: Segmenter, tiny_model: Segmenter) -> None:
    image = picture((90, 100))
    other = tiny_model.with_(diameter=30.0, channels=Channels.parse("merged"))
    alone = [predict_maps(image, model, diameter=28, device="cpu") for model in (random_model, other)]
    together = predict_maps(image, [random_model, other], diameter=28, device="cpu")
    np.testing.assert_allclose(together, (alone[0] + alone[1]) / 2, atol=1e-6)


def test_models_are_given_in_any_form(tiny_model: Segmenter, model_folder: Path) -> None:
    image = picture((40, 40))
    expected = predict_maps(image, tiny_model, diameter=24, device="cpu")
    models: list[Any] = [model_folder, str(model_folder), [tiny_model], (model_folder, str(model_folder))]
    for model in models:
        assert np.array_equal(predict_maps(image, model, diameter=24, device="cpu"), expected), model


def test_no_model_and_models_that_cannot_be_averaged(tiny_model: Segmenter) -> None:
    class Other(DiffusionFlows):
        pass

    for models in ([], [tiny_model, tiny_model.with_(representation=Other())]):
        with pytest.raises(InputError, match="averaging needs"):
            predict_maps(picture((20, 20)), models, diameter=24)
    with pytest.raises(ModelError, match="'nowhere'"):
        predict_maps(picture((20, 20)), "nowhere", diameter=24)


def test_the_same_input_gives_the_same_bytes(tiny_model: Segmenter) -> None:
    image = picture((100, 700))
    runs = [predict_maps(image, tiny_model, diameter=24, tile=320, device="cpu").tobytes() for _ in range(2)]
    assert runs[0] == runs[1]


def test_only_a_band_is_read_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellweave.prep.normalise.SAMPLE", 3000)
    pixels = picture((1500, 60))[None]
    for diameter, zoom in ((24.0, 1.0), (12.0, 2.0), (48.0, 0.5)):
        lazy = Recorder(pixels)
        maps = predict_maps(Image(lazy), local_model(), diameter=diameter, tile=128, device="cpu")
        assert max(lazy.rows) <= 128 / zoom + 4
        assert len(lazy.rows) > 10
        assert maps.shape == (3, 1500, 60)


def test_the_embedded_nets_bands_are_a_tile_high(tiny_model: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellweave.prep.normalise.SAMPLE", 3000)
    lazy = Recorder(picture((2000, 40))[None])
    segment(Image(lazy), tiny_model, diameter=24, device="cpu", tile=320)
    assert max(lazy.rows) <= 320


def test_memory_is_one_copy_of_the_maps_and_a_few_bands() -> None:
    """NumPy's memory; the peak of the whole process is among the benchmarks."""
    height, width = 4000, 600
    image = Image(picture((height, width))[None])
    predict_maps(Image(picture((64, 64))[None]), local_model(), diameter=24, device="cpu")
    for diameter in (24.0, 20.0):
        tracemalloc.start()
        maps = predict_maps(image, local_model(), diameter=diameter, tile=256, device="cpu")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        samples = 3 * image.height * image.width * 8  # percentiles look at all pixels of an image of this size
        assert peak < maps.nbytes + samples


def test_progress_is_told_for_each_row_of_tiles(tiny_model: Segmenter) -> None:
    told: list[tuple[str, int, int]] = []
    with showing(lambda task, done, total, note: told.append((task, done, total))):
        predict_maps(picture((700, 30)), tiny_model, diameter=24, tile=320, device="cpu")
    assert [t for t in told if t[0] == "rows of tiles"]
    assert {total for task, _, total in told if task == "rows of tiles"} == {13}


@pytest.mark.parametrize("diameter", [0, -3.0, float("nan"), float("inf")])
def test_diameters_that_are_none_are_refused(tiny_model: Segmenter, diameter: float) -> None:
    with pytest.raises(InputError, match="positive number of pixels"):
        predict_maps(picture((20, 20)), tiny_model, diameter=diameter)


def test_a_diameter_that_would_blow_the_image_up_is_refused(tiny_model: Segmenter) -> None:
    with pytest.raises(InputError, match=r"0\.01 px, so the image would be enlarged 2400 times"):
        predict_maps(picture((20, 20)), tiny_model, diameter=0.01)
    assert predict_maps(picture((20, 20)), tiny_model, diameter=0.75, device="cpu").shape == (3, 20, 20)


@pytest.mark.usefixtures("float32")
def test_the_number_of_threads_changes_no_label(tiny_model: Segmenter, domes: Callable[..., Any]) -> None:
    pixels, truth = domes(11, (200, 260), 25)
    before = torch.get_num_threads()
    found = []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            found.append(predict_maps(pixels, tiny_model, diameter=24, device="cpu"))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    first, second = (tiny_model.representation.decode(maps) for maps in found)
    assert first.max() == truth.max()
    assert np.array_equal(first, second)


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "i4", "f4", "f8", "?"])
def test_pixels_of_any_type_and_layout_are_left_alone(tiny_model: Segmenter, dtype: str) -> None:
    image = (picture((64, 80)) // 8).astype(dtype)[::2, ::-2]
    before = image.copy()
    image.setflags(write=False)
    maps = predict_maps(image, tiny_model, diameter=24, device="cpu")
    assert np.isfinite(maps).all()
    assert np.array_equal(image, before)
    assert np.array_equal(maps, predict_maps(before, tiny_model, diameter=24, device="cpu"))


def test_stacks_must_be_cut_into_planes(tiny_model: Segmenter) -> None:
    stack = Image(np.zeros((1, 4, 30, 30), np.uint8), "CZYX")
    with pytest.raises(InputError, match=r"4 depths.*plane\(z=0\)"):
        predict_maps(stack, tiny_model, diameter=24)
    assert predict_maps(stack.plane(z=2), tiny_model, diameter=24, device="cpu").shape == (3, 30, 30)
    assert predict_maps(Image(np.zeros((1, 1, 1, 30, 30)), "TCZYX"), tiny_model, diameter=24).shape == (3, 30, 30)


def test_channels_of_the_call_win_over_the_models(random_model: Segmenter) -> None:
    pixels = np.stack([picture((48, 48), 1), picture((48, 48), 2)])
    swapped = predict_maps(Image(pixels), random_model, diameter=24, channels="2,1", device="cpu")
    expected = predict_maps(Image(pixels[::-1]), random_model, diameter=24, device="cpu")
    assert np.array_equal(swapped, expected)
    own = random_model.with_(channels=Channels.parse("2,1"))
    assert np.array_equal(predict_maps(Image(pixels), own, diameter=24, device="cpu"), expected)


def test_a_device_that_is_not_there_is_told(tiny_model: Segmenter) -> None:
    with pytest.raises(InputError, match="'tpu' is unknown"):
        predict_maps(picture((20, 20)), tiny_model, diameter=24, device="tpu")


def test_maps_without_a_diameter_are_those_at_the_estimate(tiny_model: Segmenter, domes: Callable[..., Any]) -> None:
    image = domes(12, (150, 160), 20, 18)[0]
    estimate = estimate_diameter(image, tiny_model, device="cpu")
    assert estimate == pytest.approx(18, rel=0.2)
    found, expected = (predict_maps(image, tiny_model, diameter=d, device="cpu") for d in (None, estimate))
    assert np.array_equal(found, expected)
