"""Random views: pixels and maps stay together, flows turn with the picture, one seed gives one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.core.labels import median_diameter, relabel
from cellweave.prep import Channels, Normalisation
from cellweave.representations import DiffusionFlows, Heatmap
from cellweave.train import augment
from cellweave.train.augment import (
    AUGMENTATIONS,
    Augmentation,
    Contrast,
    View,
    batch,
    change_contrast,
    on_image,
    random_brightness,
    random_contrast,
    random_stain,
    random_view,
    sampling_weights,
    square_view,
    superpose,
    take_views,
)
from cellweave.train.samples import COLOURS, Example, Facts, Preparation, Samples, joined, prepare

pytestmark = pytest.mark.usefixtures("one_thread")

FLOWS = DiffusionFlows()
STILL = Augmentation("any", "none")
PLAIN = Contrast(1.0, False, False, 1.0, 0.0, (0.0, 0.0), 0.0, 0.0)


def make_samples(*arrays: NDArray[Any]) -> Samples:
    """Samples of arrays (3 + M, Y, X): colours, then maps."""
    values = [np.array(np.moveaxis(a, 0, -1).reshape(-1, len(a)), np.float16, order="C") for a in arrays]
    facts = [Facts(str(k), "", a.shape[1:], ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), False) for k, a in enumerate(arrays)]
    return Samples(np.concatenate(values), tuple(facts))


def view_of(samples: Samples, view: View, crop: int, k: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Colours and maps of one view of sample k."""
    values = torch.from_numpy(samples.values)
    colours, maps = take_views(values, [int(samples.starts[k])], [samples.facts[k].shape], [view], crop)
    return colours[0].numpy(), maps[0].numpy()


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(params=["kernel", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Crops are cut by the compiled kernel and by PyTorch."""
    if request.param == "torch":
        monkeypatch.setattr(augment, "_kernel", lambda: None)
    return str(request.param)


def slow_view(array: NDArray[Any], view: View, crop: int) -> NDArray[np.float64]:
    """`take_views` of one sample (3 + M, Y, X), pixel by pixel."""
    height, width = array.shape[1:]
    back = np.linalg.inv(view.matrix)
    out = np.zeros((len(array), crop, crop))
    for i in range(crop):
        for j in range(crop):
            y, x = np.array(view.center) + back @ (i - (crop - 1) / 2, j - (crop - 1) / 2)
            if 0 <= y < height and 0 <= x < width:  # pixel k is from k to k + 1
                out[COLOURS:, i, j] = array[COLOURS:, int(y), int(x)]
            for row in (int(np.floor(y - 0.5)), int(np.floor(y - 0.5)) + 1):
                for column in (int(np.floor(x - 0.5)), int(np.floor(x - 0.5)) + 1):
                    share = (1 - abs(y - 0.5 - row)) * (1 - abs(x - 0.5 - column))
                    if 0 <= row < height and 0 <= column < width:
                        out[:COLOURS, i, j] += share * array[:COLOURS, row, column]
    return out


@pytest.mark.parametrize("seed", range(8))
def test_a_view_is_that_of_its_slow_twin(way: str, seed: int) -> None:
    """Of several samples of any size, also smaller than the crop."""
    draw = rng(seed)
    arrays = [draw.normal(size=(5 + seed % 3, *draw.integers(1, 60, 2))).astype(np.float16) for _ in range(4)]
    samples = make_samples(*arrays)
    views = [random_view(a.shape[1:], 20, draw) for a in arrays]
    values = torch.from_numpy(samples.values)
    colours, maps = take_views(values, samples.starts[:-1].tolist(), [f.shape for f in samples.facts], views, 20)
    assert colours.dtype == maps.dtype == torch.float32
    assert colours.shape == (4, COLOURS, 20, 20)
    for array, view, c, m in zip(arrays, views, colours, maps, strict=True):
        slow = slow_view(array.astype(np.float64), view, 20)
        np.testing.assert_allclose(c, slow[:COLOURS], atol=1e-4)
        same = (m.numpy() == slow[COLOURS:].astype(np.float32)).all(axis=0)
        assert same.mean() > 0.999  # float32 may put a point on the border of two pixels on the other side


def test_kernel_and_torch_cut_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = rng(0)
    arrays = [draw.normal(size=(6, *draw.integers(1, 300, 2))) for _ in range(30)]
    arrays[0][:, ::2] = 6e-6  # too small for the normal numbers of float16
    samples = make_samples(*arrays)
    views = [random_view(f.shape, 64, draw) for f in samples.facts]
    views[3] = View(np.eye(2), (32.0, 32.0))
    arguments = (samples.starts[:-1].tolist(), [f.shape for f in samples.facts], views, 64)
    values = torch.from_numpy(samples.values)
    fast = take_views(values, *arguments)
    monkeypatch.setattr(augment, "_kernel", lambda: None)
    for a, b in zip(fast, take_views(values, *arguments), strict=True):
        assert torch.equal(a, b)


def test_unknown_pixels_stay_unknown_and_what_is_outside_is_known(way: str) -> None:
    """The first pixel is unknown: it stands in for those outside while they are looked up."""
    array = rng(0).normal(size=(COLOURS + 2, 40, 30)).astype(np.float16)
    array[COLOURS:, :7, :11] = np.nan
    samples = make_samples(array)
    view = View(np.array([[0.0, -1.0], [1.0, 0.0]]), (20.0, 15.0))
    colours, maps = take_views(torch.from_numpy(samples.values), [0], [(40, 30)], [view], 64)
    assert torch.isfinite(colours).all()
    assert int(maps[0, 0].isnan().sum()) == 7 * 11
    assert torch.equal(maps[0, 0].isnan(), maps[0, 1].isnan())
    assert maps[0, :, 0].tolist() == [[0.0] * 64] * 2


def test_the_kernel_reads_nothing_outside_of_the_values() -> None:
    values = torch.zeros((100, 6), dtype=torch.float16)
    for start, shape in ((-1, (2, 2)), (97, (2, 2)), (0, (11, 10)), (0, (-1, 10))):
        with pytest.raises(ValueError, match="lies outside"):
            take_views(values, [start], [shape], [View(np.eye(2), (1.0, 1.0))], 4)


@pytest.fixture(scope="module")
def cells_samples(domes: Callable[..., Any]) -> Samples:
    """Pixels are the foreground, maps the flows and then the ids, which say what moved where."""
    _, labels = domes(0, (200, 220), 22, 30)
    zero = np.zeros_like(labels)[None]
    return make_samples(np.concatenate([labels[None] > 0, zero, zero, FLOWS.encode(labels), labels[None]]))


@pytest.mark.parametrize("seed", range(6))
def test_maps_of_a_view_are_those_of_its_labels(cells_samples: Samples, seed: int) -> None:
    """Encoding the turned labels gives the turned maps: the flows point to the middle of the same cells."""
    view = random_view((200, 220), 240, rng(seed))
    _, maps = view_of(cells_samples, view, 240)
    labels = maps[3].astype(np.int32)
    assert len(np.unique(labels)) > 4
    matrix = torch.from_numpy(view.matrix.astype(np.float32))
    turned = FLOWS.transform(torch.from_numpy(maps[None, :3]), matrix[None])[0].numpy()
    assert np.array_equal(turned[2] > 0.5, labels > 0)
    expected = FLOWS.encode(relabel(labels)[0])
    whole = ~np.isin(labels, np.unique(np.concatenate([labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()])))
    cosine = (turned[:2] * expected[:2]).sum(axis=0)[whole]
    assert len(cosine) > 1000
    assert np.median(cosine) > np.cos(np.radians(8))
    assert np.mean(cosine > np.cos(np.radians(30))) > 0.93


@pytest.mark.parametrize("seed", range(6))
def test_pixels_and_maps_of_a_view_are_aligned(cells_samples: Samples, seed: int) -> None:
    colours, maps = view_of(cells_samples, random_view((200, 220), 160, rng(seed)), 160)
    inside, probability = colours[0], maps[2]
    assert 0.1 < probability.mean() < 0.9
    surely = (inside < 0.01) | (inside > 0.99)
    assert surely.mean() > 0.8
    assert np.array_equal(inside[surely] > 0.5, probability[surely] > 0.5)
    assert np.abs((inside > 0.5) != (probability > 0.5)).mean() < 0.01


@pytest.mark.parametrize("seed", range(8))
def test_the_matrix_says_where_pixels_went(seed: int) -> None:
    """Ramps in y and x: their gradients in the view are the rows of the inverse matrix."""
    y, x = np.mgrid[:400, :400] / 8.0
    samples = make_samples(np.stack([y, x, y, y]))
    view = random_view((400, 400), 64, rng(seed))
    middle = view_of(samples, view, 64)[0][:2, 24:40, 24:40] * 8
    gradients = np.array([[np.diff(plane, axis=axis).mean() for axis in (0, 1)] for plane in middle])
    np.testing.assert_allclose(gradients, np.linalg.inv(view.matrix), atol=0.05)


def test_views_differ_in_angle_flip_and_zoom() -> None:
    matrices = np.array([random_view((300, 300), 32, rng(seed)).matrix for seed in range(200)])
    zooms = np.sqrt(np.abs(np.linalg.det(matrices)))
    assert zooms.min() >= 2**-augment.OCTAVES - 1e-6
    assert zooms.max() <= 2**augment.OCTAVES + 1e-6
    assert np.log2(zooms).std() > 0.4
    flipped = np.linalg.det(matrices) < 0
    assert 0.3 < flipped.mean() < 0.7
    angles = np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])
    assert np.histogram(angles, 4, (-np.pi, np.pi))[0].min() > 20
    stretches = [np.divide(*np.linalg.svd(m)[1]) for m in matrices]
    sheared = ((0.1 + np.sqrt(0.1**2 + 4)) / 2) ** 2  # ratio of the singular values of the largest shear
    assert max(stretches) <= np.exp(0.2) * sheared + 1e-4


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (20, 20), (64, 64), (700, 40)])
def test_views_of_images_smaller_than_the_crop(way: str, shape: tuple[int, int]) -> None:
    """Outside of the image is zero and background."""
    samples = make_samples(np.ones((6, *shape)))
    for seed in range(5):
        colours, maps = view_of(samples, random_view(shape, 96, rng(seed)), 96)
        assert colours.shape == (3, 96, 96)
        assert set(np.unique(maps)) <= {0, 1}
        assert colours.min() >= 0
        assert colours.max() <= 1 + 1e-6
    if min(shape) >= 20:
        assert maps.any()


def test_large_images_fill_their_views() -> None:
    """The crop's middle keeps half a crop from the border; only turned corners may stick out."""
    samples = make_samples(np.ones((4, 600, 500)))
    shares = [float(view_of(samples, random_view((600, 500), 64, rng(s)), 64)[1].mean()) for s in range(60)]
    assert min(shares) > 0.75
    assert np.mean(np.array(shares) == 1) > 0.5


def test_views_reach_every_part_of_an_image() -> None:
    y, x = np.mgrid[:256, :256]
    samples = make_samples(np.stack([y, y, y, y, x, np.ones_like(x)]))
    seen = np.zeros((256, 256), bool)
    for seed in range(150):
        _, maps = view_of(samples, random_view((256, 256), 64, rng(seed)), 64)
        inside = maps[2] > 0
        seen[maps[0][inside].astype(int), maps[1][inside].astype(int)] = True
    for k in range(4):
        for m in range(4):
            assert seen[64 * k : 64 * k + 64, 64 * m : 64 * m + 64].mean() > 0.2


@pytest.fixture
def samples(tmp_path: Path, domes: Callable[..., Any]) -> Samples:
    """A gray image, a two-channel image, and a stained photograph."""
    examples = []
    for k, channels in enumerate((1, 2, 3)):
        picture, labels = domes(k, (100, 110), 6)
        pixels = np.stack([picture * (c + 1) for c in range(channels)]) // 16
        image = Image(pixels.astype(np.uint8), color=channels == 3)
        examples.append(Example(str(k), image, labels))
    return prepare(examples, Preparation(24.0, Channels(), Normalisation(), FLOWS), tmp_path / "samples.f16")


def some(
    samples: Samples, chosen: list[int], crop: int, seed: tuple[int, ...], **options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return batch(samples, torch.from_numpy(samples.values), chosen, crop, seed, FLOWS, **options)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_same_seed_gives_the_same_batch(samples: Samples, name: str) -> None:
    way = AUGMENTATIONS[name]
    first, second = (some(samples, [0, 1, 2], 64, (3, 1, 4), augmentation=way) for _ in range(2))
    assert first[0].shape == (3, 2, 64, 64)
    assert first[1].shape == (3, 3, 64, 64)
    assert first[0].dtype == first[1].dtype == torch.float32
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
    other = some(samples, [0, 1, 2], 64, (3, 1, 5), augmentation=way)
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("name", ["standard", "microscopy"])
def test_pixels_change_without_geometry(samples: Samples, name: str) -> None:
    way = AUGMENTATIONS[name]
    ways = (way, replace(way, pixels="none"))
    with_, without = (some(samples, [0, 1, 2], 64, (0,), augmentation=one) for one in ways)
    assert torch.equal(with_[1], without[1])
    assert not torch.equal(with_[0], without[0])


def test_batches_leave_the_samples_as_they_are(samples: Samples) -> None:
    before = np.array(samples.values)
    for seed in range(5):
        some(samples, [0, 1, 2], 64, (seed,))
    assert np.array_equal(before, samples.values)


def test_without_contrast_planes_are_weighted_colours(samples: Samples) -> None:
    planes, _ = some(samples, [2], 64, (7,), augmentation=STILL)
    view = random_view(samples.facts[2].shape, 64, np.random.default_rng([7, 0]))
    colours, _ = view_of(samples, view, 64, 2)
    np.testing.assert_allclose(planes[0], np.einsum("pc,cyx->pyx", samples.facts[2].weights, colours), atol=1e-6)


def test_without_augmentation_crops_are_cut_as_they_are(samples: Samples) -> None:
    planes, maps = some(samples, [1] * 4, 32, (5,), augmentation=AUGMENTATIONS["none"])
    array = samples.array(1).astype(np.float32)
    for one, map_ in zip(planes.numpy(), maps.numpy(), strict=True):
        places = [
            (y, x)
            for y in range(array.shape[1] - 31)
            for x in range(array.shape[2] - 31)
            if np.array_equal(array[COLOURS:, y : y + 32, x : x + 32], map_)
        ]
        assert places
        y, x = places[0]
        around = array[0, max(0, y - 1) : y + 34, max(0, x - 1) : x + 34]
        assert around.min() - 1e-3 <= one[0].min() <= one[0].max() <= around.max() + 1e-3


def test_square_views_are_pixels_of_the_image(samples: Samples) -> None:
    """All eight turns and flips, by whole pixels: what is shown is there, and as often."""
    array = np.arange(90 * 70, dtype=np.float32).reshape(90, 70) % 2048  # whole numbers that float16 holds
    one = make_samples(np.concatenate([array[None]] * (COLOURS + 1)))
    found = set()
    for k in range(60):
        view = square_view((90, 70), 32, rng(k))
        colours, maps = take_views(torch.from_numpy(one.values), [0], [(90, 70)], [view], 32)
        assert torch.equal(colours[0, :1], maps[0])
        (y, x), shown = (round(c) - 16 for c in view.center), maps[0, 0].numpy()
        part = array[y : y + 32, x : x + 32]
        ways = [np.rot90(p, turns) for p in (part, part.T) for turns in range(4)]
        same = [way for way, turned in enumerate(ways) if np.array_equal(turned, shown)]
        assert len(same) == 1
        found.update(same)
    assert found == set(range(8))
    small = square_view((21, 33), 64, rng(0))
    colours, maps = take_views(torch.from_numpy(one.values), [0], [(21, 33)], [small], 64)
    assert torch.equal(colours[0, :1], maps[0])  # also where the middle of an image is no corner of pixels


def test_square_crops_have_another_brightness_and_contrast() -> None:
    changes = [random_brightness(rng(k)) for k in range(100)]
    planes = torch.linspace(0, 1, 64).view(1, 1, 8, 8).repeat(100, 1, 1, 1)
    changed = change_contrast(planes, changes, torch.Generator())
    expected = torch.tensor([[c.gain, c.offset] for c in changes])
    torch.testing.assert_close(changed[:, 0, 0, 0], expected[:, 1])
    torch.testing.assert_close(changed[:, 0, 7, 7], expected.sum(dim=1))
    assert 0.8 <= expected[:, 0].min() < 0.85 < 1.15 < expected[:, 0].max() <= 1.2
    assert -0.2 <= expected[:, 1].min() < -0.15 < 0.15 < expected[:, 1].max() <= 0.2


@pytest.mark.parametrize("seed", range(8))
def test_what_lies_on_the_image_is_that_of_a_slow_twin(seed: int) -> None:
    draw = rng(seed)
    shapes = [(int(y), int(x)) for y, x in draw.integers(1, 60, (4, 2))]
    views = [random_view(shape, 16, draw, overhang=20.0 * (seed % 2)) for shape in shapes]
    found = on_image(shapes, views, 16)
    for one, view, shape in zip(found, views, shapes, strict=True):
        back = np.linalg.inv(view.matrix)
        for i, j in np.ndindex(18, 18):
            place = np.array(view.center) + back @ (i - 8.5, j - 8.5)
            assert one[i, j] == ((place >= 0) & (place < shape)).all()


def heatmap_batch(side: int, seed: int, crop: int = 64) -> tuple[torch.Tensor, torch.Tensor, NDArray[np.bool_]]:
    """Planes, targets and what lies on the image, of square views of a bright image."""
    one = make_samples(np.full((COLOURS + 1, side, side), 0.5))
    way = AUGMENTATIONS["square"]
    values = torch.from_numpy(one.values)
    planes, maps = batch(one, values, [0] * 16, crop, (seed,), Heatmap(2.0), augmentation=way)
    views = [square_view((side, side), crop, np.random.default_rng([seed, k]), overhang=32.0) for k in range(16)]
    return planes, maps, on_image([(side, side)] * 16, views, crop)


def test_near_edges_within_the_image_nothing_is_known() -> None:
    """Beyond its border the image is 0 there as it is in a prediction: it is known."""
    planes, maps, seen = heatmap_batch(200, 0)
    unknown = maps[:, 0].isnan().numpy()
    assert not unknown[:, 6:-6, 6:-6].any()
    for one, there in zip(unknown, seen, strict=True):
        for turns in range(4):
            edge, beyond = np.rot90(one, turns), np.rot90(there, turns)
            assert (edge[:6, 6:-6] == beyond[0, 7:-7]).all()
    reaches = [not there.all() for there in seen]
    assert 0.1 < np.mean(reaches) < 0.9
    outside = torch.from_numpy(~seen[:, 1:-1, 1:-1])
    assert outside.any()
    assert (planes[:, 0][outside] == 0).all()
    assert (planes[:, 0][~outside] > 0.1).all()


def test_images_in_one_crop_are_known_to_the_border() -> None:
    _, maps, seen = heatmap_batch(60, 1)
    whole = seen[:, 1:-1, 1:-1].sum(axis=(1, 2)) == 60 * 60
    assert 0.3 < whole.mean() < 0.9
    assert torch.isfinite(maps[torch.from_numpy(whole)]).all()


def test_a_small_crop_has_a_middle_that_is_known() -> None:
    one = make_samples(np.full((COLOURS + 1, 500, 500), 0.5))
    values = torch.from_numpy(one.values)
    _, maps = batch(one, values, [0] * 4, 32, (0,), Heatmap(9.0), augmentation=AUGMENTATIONS["none"])
    assert torch.isfinite(maps[:, 0, 8:-8, 8:-8]).all()


def test_flows_in_a_batch_have_unit_length_inside_cells(samples: Samples) -> None:
    _, maps = some(samples, [0, 1, 2], 64, (1,))
    length = maps[:, :2].norm(dim=1)
    inside = maps[:, 2] > 0.5
    assert inside.float().mean() > 0.05
    assert ((length[inside] - 1).abs() < 0.02).float().mean() > 0.95
    assert (length[~inside] == 0).all()


def test_the_second_plane_of_a_gray_image_stays_empty(samples: Samples) -> None:
    for seed in range(30):
        planes, _ = some(samples, [0, 1], 64, (seed,))
        assert not planes[0, 1].any()
        assert planes[0, 0].any()
        assert torch.isfinite(planes).all()
    seconds = [bool(some(samples, [1], 64, (seed,))[0][0, 1].any()) for seed in range(60)]
    assert 0.7 < np.mean(seconds) < 1  # now and then a net must do without the nucleus


def changed(planes: torch.Tensor, *changes: Contrast, seed: int = 0) -> torch.Tensor:
    return change_contrast(planes, changes, torch.Generator().manual_seed(seed))


def test_contrast_keeps_the_picture_recognisable() -> None:
    coarse = torch.rand((200, 2, 10, 10), generator=torch.Generator().manual_seed(0))
    picture = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)
    before = picture.clone()
    after = changed(picture, *(random_contrast(rng(seed)) for seed in range(200)))
    assert torch.equal(picture, before)
    assert after.shape == picture.shape
    assert torch.isfinite(after).all()
    pairs = zip(after[:, 0], picture[:, 0], strict=True)
    correlations = np.array([np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in pairs])
    inverted = np.mean(correlations < 0)
    assert 0.005 < inverted < 0.12
    assert np.median(correlations) > 0.9
    assert np.min(np.abs(correlations)) > 0.2


def test_each_change_of_contrast_is_its_formula() -> None:
    """One crop a change, and one without any between them."""
    picture = torch.rand((6, 2, 16, 20), generator=torch.Generator().manual_seed(0)) * 2 - 0.5
    p = picture.double().numpy()
    options = [{"gamma": 1.5}, {"invert": True}, {"gain": 1.2}, {}, {"offset": 0.1}, {"shading": (0.3, -0.2)}]
    after = changed(picture, *(Contrast(**(vars(PLAIN) | o)) for o in options)).numpy()
    inside = np.clip(p[0], 0, 1)
    slope = np.exp(0.3 * np.linspace(-1, 1, 16)[:, None] - 0.2 * np.linspace(-1, 1, 20))
    expected = [inside**1.5 + p[0] - inside, 1 - p[1], 1.2 * p[2], p[3], p[4] + 0.1, p[5] * slope]
    np.testing.assert_allclose(after, expected, atol=1e-5)


def test_blur_and_noise_have_their_widths() -> None:
    point = torch.zeros((1, 2, 41, 41))
    point[0, 0, 20, 20] = 1
    spread = changed(point, Contrast(**(vars(PLAIN) | {"blur": 1.2})))[0, 0].double().numpy()
    assert spread.sum() == pytest.approx(1, abs=1e-5)
    distance = np.arange(41) - 20.0
    assert (spread.sum(axis=1) * distance**2).sum() == pytest.approx(1.2**2, rel=0.02)
    flat = torch.ones((1, 2, 200, 200))
    noisy = changed(flat, Contrast(**(vars(PLAIN) | {"noise": 0.05})))
    assert float(noisy.std()) == pytest.approx(0.05, rel=0.03)


def test_the_second_plane_is_only_dropped_where_there_is_a_first() -> None:
    picture = torch.ones((2, 2, 8, 8))
    picture[1, 0] = 0
    drop = Contrast(**(vars(PLAIN) | {"drop_second": True}))
    after = changed(picture, drop, drop)
    assert [bool(plane.any()) for plane in after[:, 1]] == [False, True]


def test_values_outside_the_common_range_survive_gamma() -> None:
    picture = torch.linspace(-1, 3, 2 * 50).reshape(1, 2, 5, 10).expand(50, 2, 5, 10)
    assert torch.isfinite(changed(picture, *(random_contrast(rng(seed)) for seed in range(50)))).all()


def test_stains_are_mixed_at_random_half_of_the_time() -> None:
    weights = np.array([[0, 1, 0], [0, 0, 1]], np.float32)
    kept = 0
    for seed in range(200):
        mixed, gamma = random_stain(weights, rng(seed))
        assert mixed.shape == (2, 3)
        np.testing.assert_allclose(mixed.sum(axis=1), 1, atol=1e-6)
        assert (mixed >= 0).all()
        assert all(2**-0.5 <= g <= 2**0.5 for g in gamma)
        kept += np.array_equal(mixed, weights)
    assert 70 < kept < 130


def test_only_stained_samples_are_mixed(samples: Samples) -> None:
    """The planes of a photograph change their ratio; a gray image has one plane, whatever it lies beside."""
    ratios = []
    for seed in range(40):
        planes, _ = some(samples, [0, 2], 48, (seed,))
        assert not planes[0, 1].any()
        ratios.append(float(planes[1, 0].std() / planes[1, 1].std().clamp(min=1e-3)))
    plain, _ = some(samples, [2], 48, (0,), augmentation=STILL)
    assert np.std(ratios) > 0.05 * float(plain[0, 0].std() / plain[0, 1].std())


@pytest.mark.parametrize("groups", [["a"], ["a", "a", "b"], ["a"] * 100 + ["b"] * 4 + ["c"]])
def test_a_group_of_n_samples_gets_a_share_of_the_root_of_n(groups: list[str]) -> None:
    weights = sampling_weights(groups)
    assert weights.sum() == pytest.approx(1)
    total = sum(groups.count(g) ** 0.5 for g in set(groups))
    for group in set(groups):
        share = weights[[g == group for g in groups]]
        assert np.ptp(share) == 0
        assert share.sum() == pytest.approx(groups.count(group) ** 0.5 / total)


GROUPS = ["a"] * 9 + ["b"] * 4 + ["c"]


@pytest.mark.parametrize(
    ("given", "shares"),
    [
        ({"a": 0.5}, {"a": 0.5, "b": 0.5 * 2 / 3, "c": 0.5 / 3}),
        ({"a": 0.5, "b": 0.5}, {"a": 0.5, "b": 0.5, "c": 0}),
        ({"a": 1.0, "b": 2.0, "c": 1.0}, {"a": 0.25, "b": 0.5, "c": 0.25}),
        ({"a": 0.0}, {"a": 0, "b": 2 / 3, "c": 1 / 3}),
        ({"a": 3.0, "b": 1.0}, {"a": 0.75, "b": 0.25, "c": 0}),
        ({}, {"a": 3 / 6, "b": 2 / 6, "c": 1 / 6}),
    ],
)
def test_named_groups_get_their_shares(given: dict[str, float], shares: dict[str, float]) -> None:
    weights = sampling_weights(GROUPS, given)
    assert weights.sum() == pytest.approx(1)
    for group, share in shares.items():
        mine = weights[[g == group for g in GROUPS]]
        assert mine.sum() == pytest.approx(share)
        assert np.ptp(mine) == pytest.approx(0)


def test_weights_that_cannot_be_met_are_told() -> None:
    with pytest.raises(InputError, match="weights name x, y; the groups of images are a, b, c"):
        sampling_weights(GROUPS, {"y": 1.0, "a": 0.1, "x": 0.2})
    with pytest.raises(InputError, match="every group of images has weight 0"):
        sampling_weights(GROUPS, dict.fromkeys("abc", 0.0))


def test_median_diameter_of_a_prepared_sample_is_the_training_diameter(
    tmp_path: Path, domes: Callable[..., Any]
) -> None:
    picture, labels = domes(0, (300, 300), 10, 60)
    samples = prepare(
        [Example("x", Image(picture[None]), labels)],
        Preparation(20.0, Channels(), Normalisation(), FLOWS),
        tmp_path / "x.f16",
    )
    array = samples.array(0)
    np.testing.assert_allclose(array.shape[1:], 100, atol=2)
    assert median_diameter(FLOWS.decode(array[COLOURS:].astype(np.float32))) == pytest.approx(20, rel=0.05)


def test_samples_are_joined_in_order() -> None:
    parts = [make_samples(np.full((4, k + 1, 2), float(k))) for k in range(3)]
    whole = joined(parts)
    assert len(whole) == 3
    for k, part in enumerate(parts):
        assert np.array_equal(whole.array(k), part.array(0))


def sums_and_parts(seed: int, side: int = 90, n: int = 16) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """Planes and densities of crops, half of them sums, and of the same crops alone; without brightness."""
    values = rng(seed).uniform(0, 0.6, (COLOURS + 1, side, side))
    values[:COLOURS] = values[0]
    one = make_samples(values)
    ways = (replace(AUGMENTATIONS["superposed"], pixels="none", superposed=share) for share in (0.5, 0.0))
    sums, parts = (
        batch(one, torch.from_numpy(one.values), [0] * n, 64, (seed,), Heatmap(2.0), augmentation=way) for way in ways
    )
    return sums, parts


def test_superposed_crops_are_sums_of_light_and_of_densities() -> None:
    (planes, maps), (lone_planes, lone_maps) = sums_and_parts(3)
    changed = [k for k in range(16) if not torch.equal(planes[k], lone_planes[k])]
    assert 4 <= len(changed) <= 12
    for k in range(16):
        other = (k + 1) % 16
        inside = lone_planes[k] > 0
        if k in changed:
            light = lone_planes[k] + torch.where(inside, lone_planes[other], 0.0)
            top = torch.quantile(light.flatten(1), 0.99, dim=1).clamp(min=1)
            torch.testing.assert_close(planes[k], light / top[:, None, None])
            added = torch.where(inside[0], lone_maps[other], 0.0)
            torch.testing.assert_close(maps[k], lone_maps[k] + added, equal_nan=True)
        else:
            torch.testing.assert_close(maps[k], lone_maps[k], equal_nan=True)


def test_a_lone_crop_is_never_added_to_itself() -> None:
    (planes, maps), (lone_planes, lone_maps) = sums_and_parts(1, n=1)
    assert torch.equal(planes, lone_planes)
    torch.testing.assert_close(maps, lone_maps, equal_nan=True)
    three = torch.rand(3, 2, 8, 8)
    assert all(a is b for a, b in zip(superpose(three, three, three[:, :1] > 0, []), (three, three), strict=True))
