"""Diffusion flows: the laws of `encode` and `decode`, agreement with cellpose 3.1.1.3, the loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image as PillowImage
from scipy.ndimage import find_objects
from scipy.ndimage import label as components

from cellweave.core.errors import InputError
from cellweave.metrics import match
from cellweave.representations import DiffusionFlows
from cellweave.representations.diffusion_flows import diffusion_flows
from drawing import crowd, ellipse, like_a_network, rod, tiles, voronoi
from kernels import twins
from outputs import output

Labels = NDArray[np.int32]
Maps = NDArray[np.float32]

PICTURES = st.builds(lambda make, seed: make(seed), st.sampled_from([crowd, voronoi]), st.integers(0, 10_000))
CENTERS = st.sampled_from(["mean", "box"])
SMALL = arrays(np.int32, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.integers(0, 4))
NOISY = st.builds(
    lambda seed, amount: like_a_network(crowd(seed, (64, 72)), seed, amount),
    st.integers(0, 10_000),
    st.sampled_from([0.05, 0.2, 0.5]),
)


def same_cells(a: Labels, b: Labels) -> bool:
    """Equal but for the numbers of the objects."""
    found = match(a, b, iou=1.0)
    return found.fp == found.fn == 0


def count(labels: Labels) -> int:
    return int(labels.max(initial=0))


# --- decode(encode(labels)) is labels ------------------------------------------------------------------------


@settings(max_examples=25)
@given(PICTURES, CENTERS)
def test_decoding_gives_the_labels_back(labels: Labels, center: str) -> None:
    """Every object, with at least 99 of 100 pixels, at the default parameters; at least 999 of 1000 pixels in all."""
    flows = DiffusionFlows(center=center)  # type: ignore[arg-type]
    found = match(labels, flows.decode(flows.encode(labels)), iou=0.99)
    assert found.f1 == 1
    decoded = flows.decode(flows.encode(labels))
    assert np.count_nonzero((decoded > 0) != (labels > 0)) <= labels.size / 1000


@pytest.mark.parametrize("height", range(1, 11))
def test_every_small_rectangle_is_found(height: int) -> None:
    """Alone, whatever its symmetry: steps across a middle between two pixels swing and must still end in one."""
    for width in range(-(-15 // height), 26):
        labels = np.zeros((height + 4, width + 5), np.int32)
        labels[2:-2, 2:-3] = 1
        assert np.array_equal(DiffusionFlows().decode(DiffusionFlows().encode(labels)), labels), width


@given(st.floats(2, 9), st.floats(2, 9), st.floats(0, 3.2), *[st.sampled_from([11, 11.25, 11.5])] * 2)
def test_every_small_ellipse_is_found(a: float, b: float, angle: float, y: float, x: float) -> None:
    labels = ellipse((24, 24), y, x, a, b, angle).astype(np.int32)
    assume(labels.sum() >= 15)
    assert np.array_equal(DiffusionFlows().decode(DiffusionFlows().encode(labels)), labels)


@given(
    st.floats(8, 60),
    st.floats(1.2, 4),
    st.floats(0, 3.2),
    st.floats(-3.5, 3.5),
    st.tuples(st.floats(15, 40), st.floats(15, 40)),
    CENTERS,
)
def test_every_bent_rod_is_found(
    length: float, half_width: float, angle: float, bend: float, at: tuple[float, float], center: str
) -> None:
    labels = rod((56, 56), *at, length, half_width, angle, bend).astype(np.int32)
    assume(labels.sum() >= 15 and components(labels, np.ones((3, 3)))[1] == 1)
    flows = DiffusionFlows(center=center)  # type: ignore[arg-type]
    assert match(labels, flows.decode(flows.encode(labels)), iou=0.9).f1 == 1


@pytest.mark.parametrize("height", range(3, 8))
@pytest.mark.parametrize("width", range(5, 10))
def test_touching_tiles_are_told_apart(height: int, width: int) -> None:
    labels = tiles(3, 4, height, width)
    assert np.array_equal(DiffusionFlows().decode(DiffusionFlows().encode(labels)), labels)


@pytest.mark.parametrize("center", ["mean", "box"])
def test_rings_and_crescents_stay_whole(center: str) -> None:
    """Several pixels, far from each other, are equally near to the middle of a ring; only one takes the heat."""
    ring = (ellipse((48, 48), 23, 23, 17, 17) & ~ellipse((48, 48), 23, 23, 9, 9)).astype(np.int32)
    assert len(twins.nearest_pixels(ring > 0, from_box=center == "box")) > 1
    flows = DiffusionFlows(center=center)  # type: ignore[arg-type]
    decoded = flows.decode(flows.encode(ring))
    assert count(decoded) == 1
    assert (decoded[ring > 0] == 1).all()
    assert decoded[23, 23] == 1  # a hole that a cell encloses is filled
    crescent = np.triu(ring)
    assert np.array_equal(flows.decode(flows.encode(crescent)) > 0, crescent > 0)


def real_labels(path: Path) -> Labels:
    """The largest part of each object of a label file, where it has 15 px or more."""
    raw = np.asarray(PillowImage.open(path)).astype(np.int32)
    labels = np.zeros_like(raw)
    for k, box in enumerate(find_objects(raw), start=1):
        if box is None:
            continue
        parts, n = components(raw[box] == k, np.ones((3, 3)))
        sizes = np.bincount(parts.ravel(), minlength=n + 1)[1:]
        if sizes.max() >= 15:
            labels[box][parts == sizes.argmax() + 1] = k
    return labels


@pytest.mark.shared_data
@pytest.mark.parametrize(("dataset", "images", "least"), [("dsb2018", 30, 0.998), ("usiigaci_phase", 3, 0.995)])
def test_decoding_gives_real_labels_back(shared_data: Path, dataset: str, images: int, least: float) -> None:
    """F1@0.9 over every k-th image; what is missing are slivers and cells with lobes that hang on one pixel."""
    files = sorted((shared_data / dataset / "labels").glob("*.png"))
    matched = objects = 0
    for file in files[:: len(files) // images][:images]:
        labels = real_labels(file)
        found = match(labels, DiffusionFlows().decode(DiffusionFlows().encode(labels)), iou=0.9)
        matched, objects = matched + 2 * found.tp, objects + 2 * found.tp + found.fp + found.fn
    assert objects > 2 * 150
    assert matched / objects >= least


# --- what `encode` gives --------------------------------------------------------------------------------------


@given(st.one_of(SMALL, PICTURES))
@settings(max_examples=20)
def test_maps_are_unit_flows_and_the_inside(labels: Labels) -> None:
    before = labels.copy()
    maps = DiffusionFlows().encode(labels)
    assert maps.dtype == np.float32
    assert maps.shape == (len(DiffusionFlows.map_names), *labels.shape)
    assert np.array_equal(maps[2], labels > 0)
    length = np.hypot(maps[0], maps[1])
    assert np.all((length == 0) | (np.abs(length - 1) < 1e-6))
    assert not length[labels == 0].any()
    assert np.array_equal(labels, before)


def one_center(labels: Labels, center: str) -> bool:
    """All pixels that are equally near to the center touch, so that mirroring cannot choose another."""
    objects = [labels[box] == k for k, box in enumerate(find_objects(labels), start=1) if box is not None]
    near = [twins.nearest_pixels(inside, center == "box") for inside in objects]
    return all((np.ptp(pixels, axis=0) <= 1).all() for pixels in near)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("flip", [False, True])
@settings(max_examples=20)
@given(st.one_of(SMALL, PICTURES), CENTERS)
def test_flips_and_quarter_turns_commute_with_encode(turns: int, flip: bool, labels: Labels, center: str) -> None:
    """Turning the labels turns the maps, their vectors with them; flips to the last bit."""
    assume(one_center(labels, center))
    flows = DiffusionFlows(center=center)  # type: ignore[arg-type]
    turned = np.rot90(labels[:, ::-1] if flip else labels, turns)
    pixels = np.rot90(flows.encode(labels)[:, :, ::-1] if flip else flows.encode(labels), turns, axes=(1, 2))
    # A quarter turn (counter-clockwise, as rot90) takes direction (dy, dx) to (-dx, dy).
    matrix = np.linalg.matrix_power([[0, -1], [1, 0]], turns) @ np.diag([1, -1 if flip else 1])
    expected = flows.transform(torch.from_numpy(pixels.copy())[None], torch.from_numpy(matrix)[None].float())[0].numpy()
    np.testing.assert_allclose(flows.encode(turned), expected, rtol=0, atol=1e-5)
    if turns % 2 == 0:
        exact = np.concatenate([np.diag(matrix)[:, None, None] * pixels[:2], pixels[2:]])
        assert np.array_equal(flows.encode(turned), exact)


# --- odd images -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0, 1e30, -1e30, np.nan, np.inf, -np.inf])
def test_constant_maps(value: float) -> None:
    """Everything goes one way or nowhere: no cells, except where nothing is asked of them."""
    maps = np.full((3, 20, 30), value, np.float32)
    decoded, confidence = DiffusionFlows(check_border=True).decode_scored(maps)
    assert count(decoded) == len(confidence) == 0
    decoded, confidence = DiffusionFlows(flow_threshold=0).decode_scored(maps)
    assert count(decoded) == (0.5 < value < np.inf)
    assert np.isfinite(confidence).all()


def test_no_flow_at_all_is_a_cell_a_pixel_only_if_cells_may_be_that_small() -> None:
    maps = np.zeros((3, 5, 6), np.float32)
    maps[2] = 0.75
    assert count(DiffusionFlows().decode(maps)) == 0
    decoded, confidence = DiffusionFlows(min_size=1).decode_scored(maps)
    assert decoded.ravel().tolist() == list(range(1, 31))
    assert (confidence == 0.75).all()


# --- what `decode` gives --------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(NOISY, st.lists(st.floats(0.01, 4.5), min_size=2, max_size=5))
def test_a_lower_flow_threshold_never_adds_objects(maps: Maps, thresholds: list[float]) -> None:
    """0 keeps every object; each higher threshold keeps those of all lower ones."""
    everything = DiffusionFlows(flow_threshold=0).decode(maps)
    counts = [count(DiffusionFlows(flow_threshold=t).decode(maps)) for t in sorted(thresholds)]
    assert counts == sorted(counts)
    assert counts[-1] <= count(everything)
    assert np.array_equal(DiffusionFlows(flow_threshold=1e9).decode(maps), everything)


def test_objects_with_wrong_flows_are_dropped() -> None:
    labels = tiles(1, 3, 12, 13)
    maps = DiffusionFlows().encode(labels)
    maps[:2, labels == 2] *= 0.3  # all still lead to the middle; the error is 0.7 ** 2 = 0.49
    assert count(DiffusionFlows(flow_threshold=0.5, check_border=True).decode(maps)) == 3
    without = DiffusionFlows(flow_threshold=0.4, check_border=True).decode(maps)
    assert np.array_equal(without > 0, labels % 2 == 1)


@pytest.mark.parametrize(("side", "kept"), [("top", 1), ("left", 1), ("bottom", 1), ("right", 1), ("inside", 0)])
def test_objects_that_the_border_cuts_are_not_checked(side: str, kept: int) -> None:
    """The flows of a cut cell lead to its middle outside of the image, so its own shape cannot judge them."""
    labels = np.zeros((40, 50), np.int32)
    y, x = {"top": (0, 20), "left": (20, 0), "bottom": (28, 20), "right": (20, 38), "inside": (20, 20)}[side]
    labels[y : y + 12, x : x + 12] = 1
    maps = DiffusionFlows().encode(labels)
    maps[:2] *= 0.3
    assert count(DiffusionFlows(flow_threshold=0.4).decode(maps)) == kept
    assert count(DiffusionFlows(flow_threshold=0.4, check_border=True).decode(maps)) == 0


@pytest.mark.parametrize("size", [1, 4, 10, 11, 15, 16, 40])
def test_min_size_is_the_smallest_that_stays(size: int) -> None:
    labels = np.zeros((9, size + 6), np.int32)
    labels[4, 3 : 3 + size] = 1
    maps = DiffusionFlows().encode(labels)
    assert np.array_equal(DiffusionFlows(min_size=size).decode(maps), labels)
    assert np.array_equal(DiffusionFlows(min_size=0).decode(maps), labels)
    assert count(DiffusionFlows(min_size=size + 1).decode(maps)) == 0


def test_min_size_counts_filled_holes() -> None:
    labels = np.zeros((11, 11), np.int32)
    labels[2:9, 2:9] = 1
    maps = DiffusionFlows().encode(labels)
    maps[2, 3, 4] = 0
    assert np.array_equal(DiffusionFlows(min_size=49).decode(maps), labels)
    assert count(DiffusionFlows(min_size=50).decode(maps)) == 0


def test_the_probability_threshold() -> None:
    labels = tiles(1, 3, 12, 13)
    maps = DiffusionFlows().encode(labels)
    maps[2] = np.array([0, 0.3, 0.6, 0.9], np.float32)[labels]
    for threshold, expected in ((0.2, [1, 2, 3]), (0.5, [2, 3]), (0.7, [3]), (0.95, [])):
        decoded = DiffusionFlows(probability_threshold=threshold).decode(maps)
        assert np.array_equal(decoded > 0, np.isin(labels, expected))


def test_the_score_is_the_probability_lowered_by_short_flows_and_the_flow_error() -> None:
    labels = crowd(2)
    maps = DiffusionFlows().encode(labels)
    decoded, confidence = DiffusionFlows().decode_scored(maps)
    np.testing.assert_allclose(confidence, 1, atol=1e-6)
    maps[2] *= 0.75
    np.testing.assert_allclose(DiffusionFlows().decode_scored(maps)[1], 0.75, atol=1e-6)
    maps[:2] *= 0.5  # the squared length of the difference is 1/4, where there is a flow
    found = DiffusionFlows(check_border=True).decode_scored(maps)[1]
    moving = [np.hypot(*DiffusionFlows().encode(labels)[:2])[decoded == k].mean() for k in range(1, count(decoded) + 1)]
    np.testing.assert_allclose(found, 0.75 * 0.5 * np.exp(-0.25 * np.array(moving)), rtol=1e-5)


@pytest.mark.parametrize("center", ["mean", "box"])
def test_each_object_has_its_own_confidence(center: str) -> None:
    """Whatever order the piles of path ends had, and with some objects dropped."""
    labels = crowd(4)
    flows = DiffusionFlows(center=center, check_border=True, min_size=100)  # type: ignore[arg-type]
    maps = flows.encode(labels)
    maps[2] = np.linspace(0.55, 1, labels.max() + 1)[labels] * (labels > 0)
    decoded, confidence = flows.decode_scored(maps)
    assert 5 < count(decoded) < count(labels)
    for k, found in enumerate(confidence, start=1):
        assert found == pytest.approx(maps[2, decoded == k].mean(), abs=1e-6)


def test_confidence_falls_with_noise() -> None:
    labels = crowd(3)
    means = [
        DiffusionFlows(flow_threshold=0).decode_scored(like_a_network(labels, 0, amount))[1].mean()
        for amount in (0, 0.1, 0.3, 0.6)
    ]
    assert 1 > means[0] > means[1] > means[2] > means[3] > 0


def test_steps_limit_how_far_a_path_goes() -> None:
    labels = np.ones((9, 120), np.int32)
    maps = DiffusionFlows().encode(labels)
    assert np.array_equal(DiffusionFlows().decode(maps), labels)
    assert not np.array_equal(DiffusionFlows(steps=2).decode(maps), labels)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"probability_threshold": -0.1}, "between 0 and 1"),
        ({"probability_threshold": 1.5}, "between 0 and 1"),
        ({"probability_threshold": float("nan")}, "between 0 and 1"),
        ({"flow_threshold": -1.0}, "negative"),
        ({"flow_threshold": float("nan")}, "negative"),
        ({"min_size": -1}, "negative"),
        ({"steps": 0}, "at least 1"),
        ({"center": "median"}, "'mean' or 'box'"),
    ],
)
def test_wrong_parameters_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DiffusionFlows(**wrong)  # type: ignore[arg-type]


# --- agreement with cellpose 3.1.1.3 --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[np.generic]]:
    """See scripts/peer/golden_dynamics.py for the keys."""
    with np.load(Path(__file__).parents[1] / "golden" / "cellpose_dynamics.npz") as file:
        return dict(file)


def peer_maps(flows: NDArray[np.generic], logits: NDArray[np.generic]) -> Maps:
    """Maps of what the peer decodes: flows times 5 and logits."""
    outputs = torch.from_numpy(np.concatenate([flows, logits[None]]).astype(np.float32))
    return DiffusionFlows().from_output(output(outputs[None]))[0].numpy()


def test_flows_equal_the_peers(golden: dict[str, NDArray[np.generic]]) -> None:
    """To 1e-6; where two touching pixels are equally near to the center, the peer takes one of them and we both."""
    labels, expected = golden["labels"].astype(np.int32), golden["flows"]
    flows = diffusion_flows(labels)
    shared = 0
    for k, box in enumerate(find_objects(labels), start=1):
        inside = labels[box] == k
        ours, theirs = (f[:, box[0], box[1]] * inside for f in (flows, expected))
        sources = twins.centers(inside, from_box=False)
        if len(sources) == 1:
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
            continue
        shared += 1
        one = [twins.flows_of_object(inside, source[None]) * inside for source in sources]
        assert min(np.abs(f - theirs).max() for f in one) < 1e-6  # the peer's flows are those of one source
        assert np.hypot(*(ours - theirs))[inside].mean() < 0.1  # a unit vector turns by under 0.1 on average
    assert shared == 4
    assert not flows[:, labels == 0].any()


@pytest.mark.parametrize(
    ("flows", "logits", "masks", "parameters"),
    [
        ("flows", "exact_cellprob", "exact_masks", {}),
        ("noisy_flows", "noisy_cellprob", "noisy_masks", {}),
        ("noisy_flows", "noisy_cellprob", "low_masks", {"probability_threshold": 1 / (1 + np.exp(2))}),
    ],
)
def test_masks_match_the_peers(
    golden: dict[str, NDArray[np.generic]], flows: str, logits: str, masks: str, parameters: dict[str, float]
) -> None:
    """F1@0.9 of the two is at least 0.99, and 998 of 1000 pixels are in the same object."""
    factor = 5 if flows == "flows" else 1
    decoded = DiffusionFlows(**parameters, check_border=True).decode(peer_maps(factor * golden[flows], golden[logits]))  # type: ignore[arg-type]
    found = match(golden[masks], decoded, iou=0.9)
    assert count(golden[masks].astype(np.int32)) > 40
    assert found.f1 >= 0.99
    partner = np.zeros(count(decoded) + 1, int)
    partner[found.predicted_ids] = found.truth_ids
    assert np.mean(partner[decoded] == golden[masks]) >= 0.998


def test_without_a_flow_check_the_sound_objects_match_the_peers(golden: dict[str, NDArray[np.generic]]) -> None:
    """Objects whose flows lead anywhere fall apart in other ways; the others are the same."""
    decoded = DiffusionFlows(flow_threshold=0).decode(peer_maps(golden["noisy_flows"], golden["noisy_cellprob"]))
    theirs, sound = golden["unchecked_masks"].astype(np.int32), golden["noisy_masks"]
    found = match(theirs, decoded, iou=0.9)
    matched = np.isin(theirs, found.truth_ids)
    assert matched[sound > 0].mean() >= 0.998
    assert match(theirs, decoded, iou=0.5).f1 >= 0.95


def test_flow_errors_equal_the_peers(golden: dict[str, NDArray[np.generic]]) -> None:
    """To 1e-6; to 0.01 where two pixels are equally near to the center."""
    raw, maps = golden["raw_masks"].astype(np.int32), peer_maps(golden["noisy_flows"], golden["noisy_cellprob"])
    errors = DiffusionFlows(check_border=True)._scores(raw, maps, count(raw))[:, 0]
    for k, box in enumerate(find_objects(raw), start=1):
        tied = len(twins.centers(raw[box] == k, from_box=False)) > 1
        assert abs(errors[k - 1] - golden["raw_errors"][k - 1]) <= (0.01 if tied else 1e-6)
    assert np.array_equal(errors > 0.4, golden["raw_errors"] > 0.4)


# --- the loss, and values of maps -----------------------------------------------------------------------------

TARGET = torch.tensor([[[[1.0, 0.0]], [[0.0, -1.0]], [[1.0, 0.0]]]])


def test_the_loss_by_hand() -> None:
    outputs = torch.tensor([[[[4.0, 1.0]], [[2.0, -5.0]], [[0.0, 2.0]]]])
    flows = ((4 - 5) ** 2 + 1**2 + 2**2 + 0**2) / 4
    inside = (-np.log(0.5) - np.log(1 - 1 / (1 + np.exp(-2)))) / 2
    assert DiffusionFlows().loss(output(outputs), TARGET).item() == pytest.approx(flows + inside, rel=1e-6)


def test_the_loss_is_smallest_at_the_target() -> None:
    target = torch.from_numpy(DiffusionFlows().encode(crowd(0)))[None]
    best = torch.cat([5 * target[:, :2], 2000 * (target[:, 2:] - 0.5)], dim=1).requires_grad_()
    loss = DiffusionFlows().loss(output(best), target)
    loss.backward()
    assert loss.item() == 0
    assert best.grad is not None
    assert not best.grad.any()
    for k in range(3):
        worse = best.detach().clone()
        worse[:, k] = 0 if k == 2 else worse[:, k] + 0.1
        assert DiffusionFlows().loss(output(worse), target).item() > 0


def test_the_gradient_of_the_loss() -> None:
    """Flows: 2 (y - 5 f) / n; probability: (sigmoid(y) - inside) / n."""
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(2, 3, 4, 5, generator=generator).requires_grad_()
    target = torch.randn(2, 3, 4, 5, generator=generator)
    target[:, 2] = (target[:, 2] > 0).float()
    DiffusionFlows().loss(output(outputs), target).backward()
    assert outputs.grad is not None
    found, values = outputs.grad, outputs.detach()
    torch.testing.assert_close(found[:, :2], 2 * (values[:, :2] - 5 * target[:, :2]) / target[:, :2].numel())
    torch.testing.assert_close(found[:, 2], (values[:, 2].sigmoid() - target[:, 2]) / target[:, 2].numel())


def test_the_loss_of_huge_outputs_is_finite() -> None:
    outputs = torch.full_like(TARGET, 1e4)
    outputs[:, 2] *= -1
    assert torch.isfinite(DiffusionFlows().loss(output(outputs), TARGET))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_outputs_become_maps(dtype: torch.dtype) -> None:
    outputs = torch.tensor([[[[5.0, -2.5]], [[0.0, 10.0]], [[0.0, -100.0]]]], dtype=dtype)
    maps = DiffusionFlows().from_output(output(outputs))
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, torch.tensor([[[[1.0, -0.5]], [[0.0, 2.0]], [[0.5, 0.0]]]]))
    assert outputs[0, 0, 0, 0] == 5


@given(
    arrays(np.float32, (2, 3, 4, 5), elements=st.floats(-2, 2, width=32)),
    arrays(np.float32, (2, 2, 2), elements=st.floats(-2, 2, width=32)),
)
def test_transform_turns_vectors_and_keeps_their_length(maps: Maps, matrix: NDArray[np.float32]) -> None:
    assume((np.abs(np.linalg.det(matrix)) > 0.1).all())
    moved = DiffusionFlows().transform(torch.from_numpy(maps), torch.from_numpy(matrix)).numpy()
    assert np.array_equal(moved[:, 2], maps[:, 2])
    before, after = np.hypot(maps[:, 0], maps[:, 1]), np.hypot(moved[:, 0], moved[:, 1])
    large = before > 1e-3
    np.testing.assert_allclose(after[large], before[large], rtol=1e-4)
    assert (after[~large] <= 1.001e-3).all()
    wanted = np.einsum("bij,bjyx->biyx", matrix.astype(float), maps[:, :2].astype(float))
    cross = moved[:, 0] * wanted[:, 1] - moved[:, 1] * wanted[:, 0]
    dot = moved[:, 0] * wanted[:, 0] + moved[:, 1] * wanted[:, 1]
    assert (np.abs(cross) <= 1e-4 * np.hypot(*wanted.swapaxes(0, 1)) + 1e-6).all()
    assert (dot[large] > 0).all()


def test_a_shear_turns_vectors_by_its_matrix() -> None:
    maps = torch.zeros(1, 3, 1, 1)
    maps[0, 0], maps[0, 2] = 2, 0.25
    moved = DiffusionFlows().transform(maps, torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]))
    torch.testing.assert_close(moved[0, :, 0, 0], torch.tensor([2**0.5, 2**0.5, 0.25]))


PARAMETERS: list[Callable[[], DiffusionFlows]] = [DiffusionFlows, lambda: DiffusionFlows(center="box", min_size=0)]


@pytest.mark.parametrize("make", PARAMETERS)
def test_it_is_a_frozen_value(make: Callable[[], DiffusionFlows]) -> None:
    assert make() == make()
    assert hash(make()) == hash(make())
    with pytest.raises(AttributeError):
        make().min_size = 3  # type: ignore[misc]
