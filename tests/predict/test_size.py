"""The estimated diameter: right at any size, wherever the cells are, and cheap whatever the image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellweave.core.image import Image
from cellweave.models import Segmenter, SizeModel
from cellweave.nets import NetOutput
from cellweave.predict import estimate_diameter, predict_maps, segment
from cellweave.predict.maps import Runner
from cellweave.predict.size import SMALLEST, WINDOW, WINDOWS, ZOOMS, Vote, _elect, _votes, views
from cellweave.prep.rescale import resize
from cellweave.representations import DiffusionFlows

BUDGET = WINDOWS * WINDOW**2 * len(ZOOMS)
"""Pixels that an estimate may cost."""


def cells_of(size: float, domes: Callable[..., Any]) -> NDArray[np.float32]:
    """About 30 domes of this diameter in px."""
    picture, truth = domes(1, (190, 200), 30, 24)
    assert truth.max() > 25
    return resize(picture, round(190 * size / 24), round(200 * size / 24))


@pytest.mark.parametrize("size", [7.0, 12.0, 24.0, 40.0, 90.0, 300.0])
def test_the_net_alone_tells_sizes(tiny_model: Segmenter, domes: Callable[..., Any], size: float) -> None:
    """Without a size model."""
    assert tiny_model.size_model is None
    assert estimate_diameter(cells_of(size, domes), tiny_model, device="cpu") == pytest.approx(size, rel=0.2)


@pytest.mark.parametrize("factor", [0.5, 0.7, 1.4, 2.0, 3.0])
def test_a_resized_image_has_a_resized_estimate(
    tiny_model: Segmenter, domes: Callable[..., Any], factor: float
) -> None:
    picture, _ = domes(2, (220, 260), 30, 26)
    larger = resize(picture, round(220 * factor), round(260 * factor))
    found = estimate_diameter(larger, tiny_model, device="cpu")
    assert found == pytest.approx(factor * estimate_diameter(picture, tiny_model, device="cpu"), rel=0.12)


@pytest.mark.parametrize("size", [9.0, 20.0, 45.0])
def test_the_embedded_model_tells_sizes_of_what_it_never_saw(
    default_model: Segmenter, domes: Callable[..., Any], size: float
) -> None:
    picture = cells_of(size, domes)
    for model in (default_model, default_model.with_(size_model=None)):
        assert estimate_diameter(picture, model, device="cpu") == pytest.approx(size, rel=0.42)


@pytest.mark.parametrize("side", [600, 2600])  # read whole, and in regions
def test_cells_in_one_corner_are_found(tiny_model: Segmenter, domes: Callable[..., Any], side: int) -> None:
    picture, _ = domes(4, (240, 240), 12, 40)
    image = np.full((side, side), 100, np.uint16)
    image[-240:, :240] = picture
    image[0, :40] = 60_000
    assert estimate_diameter(image, tiny_model, device="cpu") == pytest.approx(40, rel=0.25)


def blank_images() -> dict[str, NDArray[Any]]:
    return {
        "one pixel": np.array([[7]], np.uint8),
        "constant": np.full((300, 200), 9, np.uint16),
        "zero": np.zeros((2100, 2200), np.uint8),
        "all NaN": np.full((50, 60), np.nan, np.float32),
    }


@pytest.mark.parametrize("name", blank_images())
def test_nothing_to_see_is_the_training_diameter(tiny_model: Segmenter, name: str) -> None:
    image = blank_images()[name]
    sized = tiny_model.with_(size_model=size_model_for(tiny_model, 100.0))
    for model in (tiny_model, sized):
        assert estimate_diameter(image, model, device="cpu") == min(24.0, max(image.shape))


@pytest.mark.parametrize("shape", [(1, 500), (500, 1), (3, 3), (16, 17), (2, 5000), (2049, 2049)])
def test_odd_shapes_have_an_estimate(tiny_model: Segmenter, shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).random(shape, np.float32)
    sized = tiny_model.with_(size_model=size_model_for(tiny_model, 30.0))
    for model in (tiny_model, sized):
        found = estimate_diameter(noise, model, device="cpu")
        assert min(24 / SMALLEST, max(shape)) <= found <= max(shape)


def size_model_for(model: Segmenter, diameter: float) -> SizeModel:
    """Answers always the same."""
    n = sum(model.net.widths)  # type: ignore[arg-type, union-attr]
    return SizeModel(np.zeros(n), np.zeros(n), float(np.log(diameter)))


@pytest.mark.parametrize("answer", [12.0, 24.0, 48.0])
def test_the_size_model_is_asked_at_every_zoom(tiny_model: Segmenter, answer: float) -> None:
    """And believed the more, the nearer its answer is to the training diameter."""
    runner = Runner(tiny_model, torch.device("cpu"), augment=False)
    model = tiny_model.with_(size_model=size_model_for(tiny_model, answer))
    window = np.zeros((2, 64, 64), np.float32)
    objects, answers = _votes([(zoom, window) for zoom in ZOOMS], runner, model)
    assert not objects
    assert [float(v.octaves[0]) for v in answers] == pytest.approx([np.log2(answer / 24 / zoom) for zoom in ZOOMS])
    weight = 1.0 if answer == 24 else np.exp(-0.5)
    assert [float(v.weight[0]) for v in answers] == pytest.approx([weight] * len(ZOOMS))


class Counting(torch.nn.Module):
    """A net that takes no time and counts the pixels it is given."""

    in_channels, out_maps, widths, stride, radius, tile = 2, 3, (1,), 16, 128, 2048

    def __init__(self) -> None:
        super().__init__()
        self.pixels = 0

    def forward(self, x: torch.Tensor) -> NetOutput:
        self.pixels += x[:, 0].numel()
        maps = torch.stack([x[:, 0], x[:, 1], 4 * x[:, 0] - 2], dim=1)
        return NetOutput(maps, torch.nn.functional.normalize(x.mean(dim=(2, 3)) + 1, dim=1))


@pytest.mark.parametrize("side", [40, 256, 1024, 2500])
def test_the_estimate_costs_a_bounded_number_of_net_pixels(domes: Callable[..., Any], side: int) -> None:
    """At 1024 x 1024 and the training diameter, under half of what the maps cost."""
    net = Counting()
    model = Segmenter(net, DiffusionFlows(), 24.0)
    picture = np.tile(domes(5, (125, 125), 12, 24)[0], (20, 20))[:side, :side]
    estimate_diameter(picture, model, device="cpu")
    spent, net.pixels = net.pixels, 0
    assert 0 < spent <= BUDGET
    if side >= 1024:
        predict_maps(picture, model, diameter=24, device="cpu")
        assert spent <= 0.25 * net.pixels


class Endless:
    """A lazy array (1, 60000, 60000) of a repeated picture that counts the pixels read from it."""

    shape, dtype = (1, 60_000, 60_000), np.dtype(np.uint16)

    def __init__(self, picture: NDArray[np.uint16]) -> None:
        self.picture, self.pixels = picture, 0

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[np.uint16]:
        rows, columns = (np.arange(self.shape[k])[key[k]] % self.picture.shape[k - 1] for k in (1, 2))
        self.pixels += len(rows) * len(columns)
        return self.picture[np.ix_(rows, columns)][None]


def test_little_is_read_of_a_huge_image(
    tiny_model: Segmenter, domes: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellweave.prep.normalise.SAMPLE", 300_000)
    lazy = Endless(domes(6, (307, 307), 25, 36)[0])  # a prime: rows at equal distances differ
    assert estimate_diameter(Image(lazy), tiny_model, device="cpu") == pytest.approx(36, rel=0.2)
    assert lazy.pixels < 4 * 1024**2 + 16**2 * 64**2 + 400_000


def test_the_estimate_is_the_same_every_time_and_for_every_tile(
    tiny_model: Segmenter, domes: Callable[..., Any]
) -> None:
    picture, _ = domes(7, (330, 400), 40, 17)
    before = picture.copy()
    estimates = {segment(picture, tiny_model, device="cpu", tile=tile).diameter for tile in (None, 320, 512, None)}
    assert estimates == {segment(picture, tiny_model, device="cpu").diameter}
    assert np.array_equal(picture, before)


def test_the_number_of_threads_hardly_matters(
    tiny_model: Segmenter, domes: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellweave.core.device.inference_dtype", lambda device: torch.float32)
    picture, _ = domes(8, (330, 400), 40, 30)
    before, found = torch.get_num_threads(), []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            found.append(estimate_diameter(picture, tiny_model, device="cpu"))
    finally:
        torch.set_num_threads(before)
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@settings(max_examples=25)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 3), st.integers(0, 99))
def test_windows_are_few_and_small_and_show_something(height: int, width: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    regions = [rng.random((2, height, width), np.float32) for _ in range(n)]
    seen = list(views(regions))
    assert [zoom for zoom, _ in seen] == list(ZOOMS)
    for _, windows in seen:
        assert len(windows) <= WINDOWS
        for window in windows:
            assert window.shape[0] == 2
            assert 0 < max(window.shape[1:]) <= WINDOW
            assert window.std() > 0
    if min(height, width) > 1:
        assert seen[2][1]
    assert not any(windows for _, windows in views([np.full_like(r, 0.5) for r in regions]))


def test_windows_are_where_the_contrast_is() -> None:
    region = np.zeros((2, 512, 512), np.float32)
    region[0, 300:420, 40:160] = np.random.default_rng(0).random((120, 120))
    region[0, 10, 10] = 3.0  # a hot pixel is not much to see
    for zoom, windows in views([region]):
        assert windows[0].mean() > 0.1 * min(1.0, (120 * zoom / min(128, 512 * zoom)) ** 2), zoom


def vote(octaves: list[float], weight: float = 0.05) -> Vote:
    return Vote(np.array(octaves), np.full(len(octaves), weight))


def test_no_vote_is_no_change() -> None:
    assert _elect([], []) == 0.0
    assert _elect([vote([1.0], 0.0)], []) == 0.0


@given(st.floats(-1.5, 4), st.booleans(), st.booleans())
def test_a_single_opinion_wins(octave: float, found: bool, told: bool) -> None:
    votes = [vote([octave])]
    if found or told:
        assert _elect(votes * found, votes * told) == pytest.approx(octave, abs=0.01)


@given(st.lists(st.floats(-0.5, 1.5), min_size=1, max_size=5), st.floats(0, 2))
def test_shifted_votes_shift_the_answer(octaves: list[float], shift: float) -> None:
    """By a little less than votes do on a grid of 0.05 octaves, unless two answers are as good."""
    before = _elect([vote(octaves)], [vote(octaves[:1], 1.0)])
    after = _elect([vote([o + shift for o in octaves])], [vote([octaves[0] + shift], 1.0)])
    assert after - shift == pytest.approx(before, abs=0.06)


def test_agreement_beats_a_louder_stranger() -> None:
    """Two kinds of evidence that agree win against one that is alone, on either side."""
    alone, together = vote([3.0], 0.1), vote([1.0], 0.06)
    assert _elect([alone, together], [vote([1.1], 0.8), vote([-1.0], 0.9)]) == pytest.approx(1.05, abs=0.15)
