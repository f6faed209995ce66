"""Star-convex polygons: laws, odd images, the loss, moved maps, and a model that predicts them."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, zoom

from cellweave.core.errors import InputError
from cellweave.core.labels import resize_labels
from cellweave.metrics import match
from cellweave.models import Segmenter
from cellweave.nets import FastUNet, NetOutput
from cellweave.predict import predict_maps, segment
from cellweave.representations import REPRESENTATIONS, StarConvex, border_probability, star_distances
from drawing import crowd, ellipse, tiles, voronoi
from outputs import output

Labels = NDArray[np.int32]
SMALL = arrays(np.int32, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 3))
PICTURES = st.integers(0, 20).map(lambda seed: crowd(seed, (48, 56)))


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


# --- law 1: decoding gives the cells back ---------------------------------------------------------------------


@given(
    st.floats(2, 8),
    st.floats(1, 3),
    st.floats(0, 3.2),
    *[st.floats(26, 28)] * 2,
    st.sampled_from([(16, 0.7), (32, 0.9)]),
)
def test_ellipses_come_back(b: float, ratio: float, angle: float, y: float, x: float, rays: tuple[int, float]) -> None:
    """Ellipses of a width of 4 px and more, at most 3 times as long; IoU 0.9 with 32 rays, 0.7 with 16."""
    labels = ellipse((54, 54), y, x, ratio * b, b, angle).astype(np.int32)
    star = StarConvex(n_rays=rays[0])
    decoded, confidence = star.decode_scored(star.encode(labels))
    assert decoded.max() == 1
    assert iou(decoded > 0, labels > 0) >= rays[1]
    assert confidence.tolist() == [1.0]


@pytest.mark.parametrize("seed", range(4))
def test_cells_that_fill_the_image_come_back(seed: int) -> None:
    labels = voronoi(seed)
    found = match(labels, StarConvex().decode(StarConvex().encode(labels)), iou=0.8)
    assert found.f1 == 1


@pytest.mark.parametrize("height", range(1, 8))
@pytest.mark.parametrize("width", range(1, 8))
def test_walls_of_tiles_come_back(height: int, width: int) -> None:
    labels = tiles(4, 5, height, width)
    assert match(labels, StarConvex().decode(StarConvex().encode(labels)), iou=0.9).f1 == 1


@pytest.mark.shared_data
@pytest.mark.parametrize(("dataset", "images", "least"), [("dsb2018", 20, 0.97), ("usiigaci_phase", 3, 0.6)])
def test_decoding_gives_real_labels_back(shared_data: Path, dataset: str, images: int, least: float) -> None:
    """F1@0.7 over every k-th image: nuclei are star-convex, cells with long protrusions are not."""
    from PIL import Image as PillowImage

    files = sorted((shared_data / dataset / "labels").glob("*.png"))
    matched = objects = 0
    for file in files[:: len(files) // images][:images]:
        labels = np.asarray(PillowImage.open(file)).astype(np.int32)
        found = match(labels, StarConvex().decode(StarConvex().encode(labels)), iou=0.7)
        matched, objects = matched + 2 * found.tp, objects + 2 * found.tp + found.fp + found.fn
    assert objects > 2 * 100
    assert matched / objects >= least


# --- what `encode` gives --------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.one_of(SMALL, PICTURES), st.sampled_from([3, 8, 32]))
def test_maps_are_a_probability_and_distances(labels: Labels, n_rays: int) -> None:
    before = labels.copy()
    star = StarConvex(n_rays=n_rays)
    maps = star.encode(labels)
    assert maps.dtype == np.float32
    assert maps.shape == (len(star.map_names), *labels.shape) == (1 + n_rays, *labels.shape)
    assert np.array_equal(maps[0], border_probability(labels))
    assert np.array_equal(maps[1:], star_distances(labels, n_rays=n_rays))
    assert ((maps > 0) == (labels > 0)).all()
    assert maps[0].max(initial=0) <= 1
    assert all(maps[0][labels == k].max() == pytest.approx(1) for k in np.unique(labels[labels > 0]))
    assert (maps[1:, labels > 0] >= 0.5).all()
    assert np.array_equal(labels, before)


def test_probability_is_the_normalised_distance_to_other_objects() -> None:
    labels = voronoi(2)
    for k in range(1, labels.max() + 1):
        inside = labels == k
        distance = distance_transform_edt(inside)[inside]
        np.testing.assert_allclose(border_probability(labels)[inside], distance / distance.max(), rtol=1e-5)


def test_probability_and_distances_equal_stardists() -> None:
    """Of StarDist 0.9.2; scripts/peer/golden_star_convex.py made the file."""
    with np.load(Path(__file__).resolve().parents[1] / "golden" / "stardist.npz") as golden:
        maps = StarConvex().encode(golden["labels"])
        np.testing.assert_allclose(maps[0], golden["probability"], atol=2e-7)
        assert np.array_equal(maps[1:], golden["distances"])


@pytest.mark.parametrize("n_rays", [8, 12, 32])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("flip", [False, True])
@settings(max_examples=10)
@given(st.one_of(SMALL, PICTURES))
def test_flips_and_quarter_turns_commute_with_encode(turns: int, flip: bool, n_rays: int, labels: Labels) -> None:
    """Turning the labels turns the maps and changes the order of the rays."""
    star = StarConvex(n_rays=n_rays)
    turned = np.rot90(labels[:, ::-1] if flip else labels, turns)
    maps = star.encode(labels)
    pixels = np.rot90(maps[:, :, ::-1] if flip else maps, turns, axes=(1, 2))
    matrix = np.linalg.matrix_power([[0, -1], [1, 0]], turns) @ np.diag([1, -1 if flip else 1])
    expected = star.transform(torch.from_numpy(pixels.copy())[None], torch.from_numpy(matrix)[None].float())[0].numpy()
    np.testing.assert_allclose(star.encode(turned), expected, rtol=1e-5)
    assert np.array_equal(np.sort(expected[1:], axis=0), np.sort(pixels[1:], axis=0))  # only their order has changed


@settings(max_examples=20)
@given(st.one_of(SMALL, PICTURES), st.sampled_from([40, 5000, 2**31 - 1]), st.integers(0, 10_000))
def test_ids_do_not_matter(labels: Labels, highest: int, seed: int) -> None:
    ids = 1 + np.random.default_rng(seed).choice(highest, 40, replace=False)
    other = np.array([0, *ids], np.int32)[labels]
    assert np.array_equal(StarConvex().encode(other), StarConvex().encode(labels))


# --- moved and resized maps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7])
def test_lengths_scale_with_the_matrix(angle: float, scale: float) -> None:
    """A wavering outline given as a function of the angle, turned, enlarged and mirrored."""
    star = StarConvex(n_rays=64)
    angles = 2 * np.pi * np.arange(64) / 64

    def outline(at: NDArray[np.float64]) -> NDArray[np.float64]:
        return 10 + 2 * np.cos(2 * at) + np.sin(at)

    maps = np.concatenate([[0.7], outline(angles)]).astype(np.float32)[None, :, None, None]
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # of (dy, dx), by +angle
    for matrix, expected in (
        (scale * turn, scale * outline(angles - angle)),
        (scale * turn @ np.diag([-1, 1]), scale * outline(angle - angles)),
    ):
        moved = star.transform(torch.from_numpy(maps), torch.from_numpy(matrix)[None].float())[0, :, 0, 0].numpy()
        assert moved[0] == np.float32(0.7)
        np.testing.assert_allclose(moved[1:], expected, rtol=2e-3)


def test_a_stretched_circle_is_an_ellipse() -> None:
    star, angles = StarConvex(n_rays=128), 2 * np.pi * np.arange(128) / 128
    maps = torch.full((1, 129, 1, 1), 5.0)
    moved = star.transform(maps, torch.diag(torch.tensor([3.0, 1.0]))[None])[0, 1:, 0, 0].numpy()
    np.testing.assert_allclose(moved, 5 / np.hypot(np.sin(angles) / 3, np.cos(angles)), rtol=1e-5)


def test_each_picture_of_a_batch_moves_by_its_own_matrix() -> None:
    star, maps = StarConvex(n_rays=8), torch.rand(2, 9, 3, 4)
    matrices = torch.stack([torch.eye(2), 2 * torch.eye(2)])
    moved = star.transform(maps, matrices)
    torch.testing.assert_close(moved[0], maps[0])
    torch.testing.assert_close(moved[1, 1:], 2 * maps[1, 1:])
    torch.testing.assert_close(moved[1, 0], maps[1, 0])


def test_rescaled_maps_fit_the_resized_labels() -> None:
    star, labels = StarConvex(), voronoi(0)
    maps = star.encode(labels)
    before = maps.copy()
    large = star.rescale(np.stack([zoom(m, 3, order=1, grid_mode=True, mode="nearest") for m in maps]), 3.0)
    found = match(resize_labels(labels, 270, 300), star.decode(large), iou=0.85)
    assert found.f1 == 1
    assert np.array_equal(star.rescale(maps, 2.0)[0], maps[0])
    assert np.array_equal(maps, before)


# --- decoding -------------------------------------------------------------------------------------------------


def test_ids_follow_the_probability_and_the_better_polygon_lies_on_top() -> None:
    star, maps = StarConvex(n_rays=8), np.zeros((9, 20, 40), np.float32)
    for k, (x, probability) in enumerate([(8, 0.7), (15, 0.9), (30, 0.8)]):
        maps[0, 10, x], maps[1:, 10, x] = probability, 5 + k
    labels, confidence = star.decode_scored(maps)
    np.testing.assert_allclose(confidence, [0.9, 0.8, 0.7])
    assert [labels[10, x] for x in (15, 30, 6)] == [1, 2, 3]
    assert labels[10, 12] == 1  # both polygons reach here


def test_thresholds() -> None:
    star, maps = StarConvex(n_rays=8), np.zeros((9, 30, 30), np.float32)
    maps[0, 15, [10, 14]], maps[1:, 15, [10, 14]] = [0.75, 0.5], 6
    assert star.decode(maps).max() == 1  # exactly 0.5 is not above 0.5
    lower = StarConvex(n_rays=8, probability_threshold=0.4, nms_threshold=1)
    assert lower.decode_scored(maps)[1].tolist() == [0.75, 0.5]
    assert StarConvex(n_rays=8, probability_threshold=0.4).decode(maps).max() == 1
    assert StarConvex(n_rays=8, probability_threshold=0.8).decode(maps).max() == 0


def test_a_polygon_under_another_gets_no_id() -> None:
    star, maps = StarConvex(n_rays=8, nms_threshold=1), np.zeros((9, 30, 30), np.float32)
    maps[0, 15, [15, 16]], maps[1:, 15, 15], maps[1:, 15, 16] = [0.9, 0.8], 9, 3
    labels, confidence = star.decode_scored(maps)
    assert np.unique(labels).tolist() == [0, 1]
    np.testing.assert_allclose(confidence, [0.9])


@settings(max_examples=30)
@given(
    arrays(
        np.float32,
        st.tuples(st.just(5), st.integers(0, 7), st.integers(0, 7)),
        elements=st.one_of(st.floats(-1, 2, width=32), st.floats(width=32)),
    )
)
def test_any_numbers_decode(maps: NDArray[np.float32]) -> None:
    """NaN, infinity and the largest numbers included; nothing is changed in place."""
    before = maps.copy()
    labels, confidence = StarConvex(n_rays=4).decode_scored(maps)
    assert labels.dtype == np.int32
    assert labels.shape == maps.shape[1:]
    assert np.array_equal(np.unique(labels[labels > 0]), np.arange(1, len(confidence) + 1))
    assert confidence.dtype == np.float32
    assert ((confidence > 0.5) & (confidence <= 1)).all()
    assert (np.diff(confidence) <= 0).all()
    assert np.array_equal(maps, before, equal_nan=True)


ODD = {
    "nothing": np.zeros((7, 9), np.int32),
    "one pixel of a cell": np.ones((1, 1), np.int32),
    "a cell of one pixel": np.pad(np.ones((1, 1), np.int32), 4),
    "a whole image": np.ones((6, 5), np.int32),
    "one row": np.repeat(np.array([0, 1, 2, 0, 3], np.int32), [4, 9, 7, 3, 11])[None],
    "one column": np.repeat(np.array([1, 2, 0, 3], np.int32), [7, 9, 1, 5])[:, None],
    "corners": np.pad(np.zeros((12, 14), np.int32), 4, constant_values=5) * 0
    + np.kron(np.array([[1, 0, 2], [0, 0, 0], [3, 0, 4]], np.int32), np.ones((5, 5), np.int32))[
        np.ix_(np.r_[0:5, np.repeat(7, 10), 10:15], np.r_[0:5, np.repeat(7, 12), 10:15])
    ],
}


@pytest.mark.parametrize("labels", ODD.values(), ids=ODD)
def test_odd_images_come_back(labels: Labels) -> None:
    decoded, confidence = StarConvex().decode_scored(StarConvex().encode(labels))
    assert decoded.shape == labels.shape
    assert len(confidence) == len(np.unique(labels[labels > 0]))
    assert np.array_equal(decoded > 0, labels > 0)
    assert match(labels, decoded, iou=0.9).fp == 0


def test_no_pixels() -> None:
    for shape in ((0, 0), (0, 5), (5, 0)):
        maps = StarConvex().encode(np.zeros(shape, np.int32))
        assert maps.shape == (33, *shape)
        labels, confidence = StarConvex().decode_scored(maps)
        assert labels.shape == shape
        assert len(confidence) == 0


def test_70000_cells_within_ten_seconds() -> None:
    labels = tiles(265, 265, 4, 4)
    started = time.process_time()
    decoded, confidence = StarConvex().decode_scored(StarConvex().encode(labels))
    assert time.process_time() - started < 10
    assert len(confidence) == 70_225
    assert np.array_equal(np.unique(decoded), np.arange(1, 70_226))
    assert np.array_equal(np.kron(decoded[1::4, 1::4], np.ones((4, 4), np.int32)), decoded)


@pytest.mark.parametrize(
    "options",
    [{"n_rays": 2}, {"probability_threshold": 1.5}, {"nms_threshold": -0.1}, {"nms_threshold": float("nan")}],
)
def test_bad_parameters_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        StarConvex(**options)  # type: ignore[arg-type]


def test_bad_maps_are_refused() -> None:
    for shape in ((3, 8, 8), (33, 8), (32, 8, 8)):
        with pytest.raises(InputError, match="32 rays"):
            StarConvex().decode(np.zeros(shape, np.float32))
    with pytest.raises(InputError, match="out_maps=33"):
        StarConvex().from_output(output(torch.zeros(1, 3, 8, 8)))


# --- the loss -------------------------------------------------------------------------------------------------


def test_the_loss_is_the_papers() -> None:
    torch.manual_seed(0)
    star = StarConvex(n_rays=6)
    target = torch.from_numpy(StarConvex(n_rays=6).encode(crowd(0, (32, 32))))[None]
    outputs = torch.randn(1, 7, 32, 32)
    p, found = target[:, 0], torch.sigmoid(outputs[:, 0])
    entropy = -(p * found.log() + (1 - p) * (1 - found).log()).mean()
    error = (10 * outputs[:, 1:] - target[:, 1:]).abs().mean(dim=1)
    inside, outside = (p * error).sum() / p.sum(), ((p == 0) * (10 * outputs[:, 1:]).abs().mean(dim=1)).mean()
    torch.testing.assert_close(star.loss(output(outputs), target), entropy + 0.2 * (inside + 1e-4 * outside))


def test_the_loss_is_least_at_the_target() -> None:
    star, labels = StarConvex(), crowd(1, (32, 32))
    target = torch.from_numpy(star.encode(labels))[None]
    exact = torch.cat([torch.logit(target[:, :1], eps=1e-6), target[:, 1:] / 10], dim=1).requires_grad_()
    least = star.loss(output(exact), target)
    torch.testing.assert_close(star.from_output(output(exact)), target, atol=1e-5, rtol=1e-5)
    for seed in range(5):
        torch.manual_seed(seed)
        assert star.loss(output(exact + 0.05 * torch.randn_like(exact)), target) > least
    assert torch.isfinite(torch.autograd.grad(least, exact)[0]).all()


def test_a_picture_without_cells_has_a_loss() -> None:
    outputs = torch.randn(2, 33, 16, 16)
    assert torch.isfinite(StarConvex().loss(output(outputs), torch.zeros(2, 33, 16, 16)))


# --- a model --------------------------------------------------------------------------------------------------


class Disks(torch.nn.Module):
    """Where the picture is bright there is the middle of a cell whose radius is 8 px."""

    in_channels, out_maps, widths, stride, radius, tile = 2, 9, (1,), 2, 0, 2048

    def forward(self, x: torch.Tensor) -> NetOutput:
        maps = torch.cat([20 * x[:, :1] - 10, torch.full_like(x[:, :1], 0.8).expand(-1, 8, -1, -1)], dim=1)
        return NetOutput(maps, x.mean(dim=(2, 3)))


@pytest.mark.parametrize("diameter", [8.0, 16.0, 32.0, 48.0])
def test_lengths_follow_the_resized_image(diameter: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The net says 8 px at its own diameter, 16; in the image that is half the diameter given."""
    monkeypatch.setattr("cellweave.core.device.inference_dtype", lambda device: torch.float32)
    model = Segmenter(Disks(), StarConvex(n_rays=8), 16.0)  # type: ignore[arg-type]
    maps = predict_maps(np.zeros((96, 96), np.uint16), model, diameter=diameter, device="cpu")
    np.testing.assert_allclose(maps[1:], diameter / 2, rtol=1e-5)


@pytest.fixture(scope="module")
def star_model() -> Segmenter:
    """Random weights whose maps vary with the picture."""
    torch.manual_seed(5)
    net = FastUNet(out_maps=33, widths=(6, 8, 8, 8))
    for parameter in net.parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter)
    with torch.no_grad():
        net.head.weight[:4] *= 0.1
        net.head.weight[4:] *= 0.002
        net.head.bias.copy_(torch.cat([torch.full((4,), -0.5), torch.full((128,), 0.8)]))
    return Segmenter(net.eval(), StarConvex(), 24.0, name="stars")


def picture(seed: int) -> NDArray[np.uint16]:
    return np.asarray(1000 * zoom(np.random.default_rng(seed).random((42, 24)), 8, order=1), np.uint16)


@pytest.mark.parametrize("diameter", [17.0, 24.0, 40.0])
def test_tiled_is_untiled(star_model: Segmenter, diameter: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellweave.core.device.inference_dtype", lambda device: torch.float32)
    pixels = picture(1)
    whole = predict_maps(pixels, star_model, diameter=diameter, tile=4096, device="cpu")
    tiled = predict_maps(pixels, star_model, diameter=diameter, tile=320, device="cpu")
    assert whole.shape == (33, *pixels.shape)
    np.testing.assert_allclose(tiled, whole, atol=2e-3)
    first, second = star_model.representation.decode(whole), star_model.representation.decode(tiled)
    assert first.max() > 10
    assert np.mean((first > 0) != (second > 0)) < 2e-3


def test_flips_are_averaged_with_their_rays_in_order(star_model: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellweave.core.device.inference_dtype", lambda device: torch.float32)
    pixels = picture(2)[:160, :160]
    maps = predict_maps(pixels, star_model, diameter=24, augment=True, device="cpu")
    mirrored = predict_maps(pixels[:, ::-1].copy(), star_model, diameter=24, augment=True, device="cpu")
    rays = (16 - np.arange(32)) % 32  # pi - angle
    np.testing.assert_allclose(mirrored[0, :, ::-1], maps[0], atol=1e-4)
    np.testing.assert_allclose(mirrored[1:][rays][:, :, ::-1], maps[1:], atol=1e-3)


def test_a_saved_model_segments_the_same(star_model: Segmenter, tmp_path: Path) -> None:
    star_model.save(tmp_path / "stars")
    loaded = Segmenter.load(tmp_path / "stars")
    assert loaded.representation == star_model.representation
    assert REPRESENTATIONS["StarConvex"] is StarConvex
    found = segment(picture(3), star_model, diameter=24, device="cpu")
    again = segment(picture(3), loaded, diameter=24, device="cpu")
    assert found.count > 10
    assert np.array_equal(found.labels, again.labels)
    assert np.array_equal(found.confidence, again.confidence)
