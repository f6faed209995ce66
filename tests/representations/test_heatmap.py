"""Heatmap: sums count, maxima are where the cells are, and the loss asks only where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.core.points import DEBRIS, LIVE, Points, nearest_pairs
from cellweave.nets import FastUNet
from cellweave.representations import REPRESENTATIONS, Heatmap, known_region
from cellweave.representations.heatmap import AROUND, CEILING, START
from outputs import output

SHAPES = st.tuples(st.integers(1, 150), st.integers(1, 150))
SEEDS = st.integers(0, 2**31)


def scattered(seed: int, shape: tuple[int, int], n: int, *, apart: float = 0.0) -> Points:
    """Up to `n` points anywhere on the image, none nearer than `apart` to another."""
    rng = np.random.default_rng(seed)
    kept = np.empty((0, 2))
    for at in rng.uniform(-0.5, np.array(shape) - 0.5, (n, 2)):
        if not apart or not (np.hypot(*(kept - at).T) < apart).any():
            kept = np.vstack([kept, at])
    return Points(kept, shape=shape)


def furthest_pair(true: Points, found: Points) -> float:
    """Largest distance of points that belong together; all must."""
    assert len(true) == len(found)
    distances = nearest_pairs(true.positions, found.positions, 5.0)[2] if len(true) else np.empty(0)
    assert len(distances) == len(true)
    return float(distances.max(initial=0))


# --- encode ---------------------------------------------------------------------------------------------------


@given(SHAPES, SEEDS, st.integers(0, 60), st.floats(1, 20))
def test_the_sum_is_the_number_of_cells(shape: tuple[int, int], seed: int, n: int, sigma: float) -> None:
    """Also on the border, in the corners and in images smaller than a Gaussian."""
    heatmap, points = Heatmap(sigma=sigma), scattered(seed, shape, n)
    maps = heatmap.encode(points)
    assert maps.shape == (1, *shape)
    assert maps.dtype == np.float32
    assert maps.min() >= 0
    assert heatmap.count(maps) == pytest.approx(n, rel=1e-5)


def test_a_lone_cell_is_a_gaussian() -> None:
    heatmap = Heatmap(sigma=4.0)
    maps = heatmap.encode(Points([[40.25, 33.5]], shape=(80, 70)))
    rows, columns = np.mgrid[:80, :70]
    bell = heatmap.unit * np.exp(-((rows - 40.25) ** 2 + (columns - 33.5) ** 2) / (2 * 4.0**2))
    np.testing.assert_allclose(maps[0], bell, atol=1e-3 * heatmap.unit)
    assert heatmap.targets(Points([[40, 33]], shape=(80, 70))).max() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("flip", [False, True])
def test_flips_and_quarter_turns_commute_with_encode_and_decode(turns: int, flip: bool) -> None:
    heatmap, points = Heatmap(), scattered(1, (90, 120), 25, apart=12)
    y, x = points.positions.T
    height, width = (90, 120)
    if flip:
        x = width - 1 - x
    for _ in range(turns):
        y, x, height, width = width - 1 - x, y, width, height
    moved = Points(np.stack([y, x], axis=1), shape=(height, width))
    maps = heatmap.encode(points)
    turned = np.rot90(maps[:, :, ::-1] if flip else maps, turns, axes=(1, 2))
    np.testing.assert_allclose(heatmap.encode(moved), turned, atol=1e-6)
    # Where neighbours pull a maximum between two pixels, either may be the highest one.
    back = heatmap.decode(maps)
    again = heatmap.decode(turned)
    assert len(again) == len(back)
    y, x = back.positions.T
    height, width = (90, 120)
    if flip:
        x = width - 1 - x
    for _ in range(turns):
        y, x, height, width = width - 1 - x, y, width, height
    expected = Points(np.stack([y, x], axis=1), shape=(height, width))
    assert furthest_pair(expected, again) < 1e-3


def test_order_of_points_does_not_matter() -> None:
    points = scattered(2, (60, 60), 40)
    np.testing.assert_allclose(Heatmap().encode(points), Heatmap().encode(points[::-1]), rtol=1e-5)


def test_debris_has_its_own_map_or_is_background() -> None:
    points = Points([[20, 20], [40, 40], [20, 60]], [LIVE, DEBRIS, "mitotic"], shape=(60, 80))
    maps = Heatmap(debris=True).encode(points)
    assert maps.sum(axis=(1, 2)) == pytest.approx([2, 1], rel=1e-5)
    assert maps[1].argmax() == 40 * 80 + 40
    np.testing.assert_array_equal(Heatmap().encode(points)[0], maps[0])
    assert Heatmap(debris=True).count(maps) == pytest.approx(2, rel=1e-5)
    found = Heatmap(debris=True).decode(maps)
    assert found.classes.tolist() == [LIVE, LIVE, DEBRIS]
    np.testing.assert_allclose(found.positions, [[20, 20], [20, 60], [40, 40]], atol=1e-3)


def test_the_shape_must_be_known() -> None:
    with pytest.raises(InputError, match="shape"):
        Heatmap().encode(Points([[1, 2]]))


# --- decode ---------------------------------------------------------------------------------------------------


@given(st.tuples(st.integers(3, 150), st.integers(3, 150)), SEEDS, st.sampled_from([3.0, 5.0, 7.0]))
def test_points_come_back(shape: tuple[int, int], seed: int, sigma: float) -> None:
    """To 0.1 px where they are 4 sigma apart, wherever they are (a side of 1 or 2 px tells no position)."""
    heatmap, points = Heatmap(sigma=sigma), scattered(seed, shape, 60, apart=4 * sigma)
    found = heatmap.decode(heatmap.encode(points))
    assert found.shape == shape
    assert furthest_pair(points, found) < 0.1
    assert found.confidence is not None
    assert found.confidence.min(initial=1) > 0.9


@given(SEEDS)
def test_near_points_come_back_nearly(seed: int) -> None:
    """At 3 sigma neighbours pull a maximum a little; those whose Gaussian is whole, that is."""
    points = scattered(seed, (160, 160), 200, apart=15)
    inner = Points(points.positions[((points.positions > 20) & (points.positions < 140)).all(axis=1)], shape=(160, 160))
    heatmap = Heatmap()
    assert furthest_pair(inner, heatmap.decode(heatmap.encode(inner))) < 0.5


@pytest.mark.parametrize(("distance", "pull"), [(15.0, 0.25), (16.0, 0.15), (20.0, 0.02)])
def test_how_far_a_neighbour_pulls(distance: float, pull: float) -> None:
    points = Points([[50, 50], [50, 50 + distance]], shape=(100, 120))
    found = Heatmap().decode(Heatmap().encode(points))
    assert pull / 3 < furthest_pair(points, found) < pull


@given(SEEDS)
def test_positions_do_not_depend_on_the_maps_height(seed: int) -> None:
    heatmap, points = Heatmap(), scattered(seed, (80, 80), 20, apart=20)
    maps = heatmap.encode(points)
    np.testing.assert_allclose(heatmap.decode(0.7 * maps).positions, heatmap.decode(maps).positions, atol=1e-3)


@given(SEEDS, st.integers(40, 90))
def test_tiles_give_the_points_of_the_whole(seed: int, tile: int) -> None:
    """Each tile has 6 sigma around it, and owns the points on its own pixels."""
    heatmap, rng = Heatmap(sigma=2.0, min_distance=4.0), np.random.default_rng(seed)
    maps = heatmap.encode(scattered(seed, (120, 140), 150)) + rng.uniform(0, 0.1 * heatmap.unit, (1, 120, 140))
    whole, halo = heatmap.decode(maps), 13
    found = []
    for top in range(0, 120, tile):
        for left in range(0, 140, tile):
            y, x = max(0, top - halo), max(0, left - halo)
            part = heatmap.decode(maps[:, y : top + tile + halo, x : left + tile + halo])
            at = part.positions + np.array([y, x])
            own = ((at >= [top - 0.5, left - 0.5]) & (at < [top + tile - 0.5, left + tile - 0.5])).all(axis=1)
            assert part.confidence is not None
            found.append(np.column_stack([at, part.confidence])[own])
    assert whole.confidence is not None
    expected = np.column_stack([whole.positions, whole.confidence])
    together = np.concatenate(found)
    np.testing.assert_allclose(together[np.lexsort(together.T)], expected[np.lexsort(expected.T)], rtol=1e-9, atol=1e-9)


def test_confidence_is_the_part_of_a_cell() -> None:
    heatmap = Heatmap()
    maps = heatmap.encode(Points([[30, 30]], shape=(60, 120)))
    maps += 0.5 * heatmap.encode(Points([[30, 90]], shape=(60, 120)))
    assert heatmap.decode(maps).confidence == pytest.approx([1, 0.5], abs=0.01)
    assert heatmap.decode(2 * maps).confidence == pytest.approx([1, 1], abs=0.01)
    split = heatmap.encode(Points([[30, 30], [30, 45]], shape=(60, 120))) / 2  # one cell, found twice
    assert heatmap.decode(split).confidence == pytest.approx([0.5, 0.5], abs=0.01)
    assert AROUND >= 3


def test_threshold_is_a_share_of_a_lone_peak() -> None:
    maps = Heatmap().encode(Points([[30, 30]], shape=(60, 60)))
    assert len(Heatmap(threshold=0.5).decode(0.51 * maps)) == 1
    assert len(Heatmap(threshold=0.5).decode(0.49 * maps)) == 0


def test_doubtful_maxima_can_be_left_out() -> None:
    one = Heatmap().encode(Points([[30, 30]], shape=(60, 60)))
    assert len(Heatmap(min_confidence=0.7).decode(0.6 * one)) == 0
    assert Heatmap(min_confidence=0.5).decode(0.6 * one).confidence == pytest.approx([0.6], abs=0.01)
    assert Heatmap(min_confidence=0.7).count(0.6 * one) == pytest.approx(0.6, abs=0.01)


def test_only_the_highest_within_the_distance_is_found() -> None:
    maps = np.zeros((1, 40, 40), np.float32)
    maps[0, 10, 10], maps[0, 10, 16] = 0.02, 0.01
    assert len(Heatmap(min_distance=5.9).decode(maps)) == 2
    assert len(Heatmap(min_distance=6).decode(maps)) == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 2), (3, 40)])
def test_thin_images(shape: tuple[int, int]) -> None:
    heatmap, points = Heatmap(), Points([[0, shape[1] // 2]], shape=shape)
    found = heatmap.decode(heatmap.encode(points))
    assert len(found) == 1
    assert abs(found.positions[0, 1] - shape[1] // 2) < 0.51
    assert heatmap.count(heatmap.encode(points)) == pytest.approx(1)


@pytest.mark.parametrize("shape", [(64, 48), (1, 1), (0, 10)])
@pytest.mark.parametrize("debris", [False, True])
def test_nothing_is_no_points(shape: tuple[int, int], debris: bool) -> None:
    heatmap = Heatmap(debris=debris)
    maps = np.zeros((1 + debris, *shape), np.float32)
    found = heatmap.decode(maps)
    assert len(found) == 0
    assert found.shape == (shape if all(shape) else None)
    assert heatmap.count(maps) == 0


def test_constant_and_broken_values() -> None:
    heatmap = Heatmap()
    assert len(heatmap.decode(np.ones((1, 30, 30), np.float32))) == 1
    maps = heatmap.encode(Points([[30, 30]], shape=(60, 60)))
    kept = maps.copy()
    maps[0, 2, 2], maps[0, 2, 3], maps[0, 3, 3] = np.nan, np.inf, -np.inf
    assert heatmap.count(maps) == pytest.approx(1, rel=1e-5)
    assert heatmap.decode(maps).positions == pytest.approx(np.array([[30, 30]]), abs=1e-3)
    assert np.isnan(maps[0, 2, 2])
    heatmap.decode(kept)
    np.testing.assert_array_equal(kept, heatmap.encode(Points([[30, 30]], shape=(60, 60))))


def test_seventy_thousand_cells() -> None:
    heatmap, shape = Heatmap(sigma=1.5, min_distance=2.0), (2660, 2660)
    grid = np.stack(np.meshgrid(np.arange(266), np.arange(266)), axis=-1).reshape(-1, 2) * 10 + 4.6
    points = Points(grid, shape=shape)
    maps = heatmap.encode(points)
    assert heatmap.count(maps) == pytest.approx(len(grid), rel=1e-5)
    assert furthest_pair(points, heatmap.decode(maps)) < 0.1


@pytest.mark.parametrize("shape", [(2, 30, 30), (30, 30), (1, 1, 30, 30)])
def test_other_maps_are_refused(shape: tuple[int, ...]) -> None:
    for call in (Heatmap().decode, Heatmap().count):
        with pytest.raises(InputError, match=r"\(1, Y, X\)"):
            call(np.zeros(shape, np.float32))


# --- loss and output ------------------------------------------------------------------------------------------


def exact(maps: NDArray[np.float32] | torch.Tensor, heatmap: Heatmap) -> torch.Tensor:
    """What a net must give for these densities."""
    share = torch.as_tensor(maps).double() / (CEILING * heatmap.unit)
    return torch.logit(share.clamp(1e-9, 1 - 1e-9)) - START


@pytest.mark.parametrize("debris", [False, True])
def test_output_of_a_perfect_net_is_the_density(debris: bool) -> None:
    heatmap = Heatmap(debris=debris)
    maps = heatmap.encode(Points([[9, 9], [12, 9], [30, 31]], [LIVE, LIVE, DEBRIS], shape=(40, 48)))
    back = heatmap.from_output(output(exact(maps, heatmap)[None]))
    assert back.dtype == torch.float32
    np.testing.assert_allclose(back[0].numpy(), maps, rtol=1e-3, atol=1e-7)


def test_a_fresh_net_says_nearly_empty() -> None:
    heatmap = Heatmap()
    assert 0 < heatmap.from_output(output(torch.zeros(1, 1, 4, 4))).max() < 0.2 * heatmap.unit


def test_the_gain_is_that_of_the_cells() -> None:
    maps = output(torch.randn(2, 2, 8, 9))
    plain, more = (Heatmap(debris=True, gain=gain).from_output(maps) for gain in (1.0, 1.25))
    torch.testing.assert_close(more[:, 0], 1.25 * plain[:, 0])
    torch.testing.assert_close(more[:, 1], plain[:, 1])


def test_loss_is_mse_and_scaled_bce() -> None:
    heatmap = Heatmap()
    torch.manual_seed(0)
    y, t = torch.randn(2, 1, 8, 8).double(), torch.rand(2, 1, 8, 8).double() * 3
    p = torch.sigmoid(y - 4)
    mse = ((8 * p - t) ** 2).mean()
    bce = -(t / 8 * p.log() + (1 - t / 8) * (1 - p).log()).mean()
    assert heatmap.loss(output(y), t).item() == pytest.approx((mse + 8 * bce).item(), rel=1e-5)


@given(SEEDS, st.floats(0.01, 3))
def test_loss_is_least_at_the_mean_of_the_truths(seed: int, step: float) -> None:
    """A net that cannot tell which of several targets is right is best where it gives their mean."""
    heatmap, rng = Heatmap(), np.random.default_rng(seed)
    targets = torch.from_numpy(rng.uniform(0, 4, (5, 1, 3, 3)) * (rng.random((5, 1, 3, 3)) < 0.5))
    best = exact(targets.mean(dim=0) * heatmap.unit, heatmap)[None].clamp(min=-20)
    other = best + step * torch.from_numpy(rng.normal(size=best.shape))
    here, there = (heatmap.loss(output(y.expand(5, 1, 3, 3)), targets) for y in (best, other))
    assert here <= there + 1e-6


@pytest.mark.parametrize("debris", [False, True])
def test_unknown_pixels_have_no_weight(debris: bool) -> None:
    """Neither values nor gradients there count; a NaN in one map is enough."""
    heatmap = Heatmap(debris=debris)
    torch.manual_seed(0)
    target = torch.rand(2, 1 + debris, 16, 16)
    unknown = torch.rand(2, 16, 16) < 0.4
    target[:, -1][unknown] = math.nan
    y = torch.randn(2, 1 + debris, 16, 16, requires_grad=True)
    loss = heatmap.loss(output(y), target)
    loss.backward()
    assert y.grad is not None
    assert torch.isfinite(loss)
    assert torch.equal((y.grad != 0).any(dim=1), ~unknown)
    kept = [torch.stack([m[:, one][~unknown] for one in range(1 + debris)]) for m in (y.detach(), target)]
    alone = heatmap.loss(output(kept[0][None, :, None]), kept[1][None, :, None])
    assert loss.item() == pytest.approx(alone.item(), rel=1e-5)


def test_nothing_known_is_no_loss() -> None:
    y = torch.zeros(1, 1, 4, 4, requires_grad=True)
    loss = Heatmap().loss(output(y), torch.full((1, 1, 4, 4), math.nan))
    loss.backward()
    assert loss.item() == 0
    assert y.grad is not None
    assert not y.grad.any()


def test_targets_bear_half_precision() -> None:
    points = scattered(3, (200, 200), 80)
    half = Heatmap().targets(points).astype(np.float16).astype(np.float64)
    assert half.sum() * Heatmap().unit == pytest.approx(len(points), rel=1e-4)


def test_another_number_of_maps_is_refused() -> None:
    for call in (Heatmap().from_output, lambda o: Heatmap().loss(o, torch.zeros(1, 1, 4, 4))):
        with pytest.raises(InputError, match="out_maps=1"):
            call(output(torch.zeros(1, 2, 4, 4)))


@pytest.mark.parametrize("sigma", [3.0, 5.0])
def test_transform_and_rescale_keep_the_count(sigma: float) -> None:
    heatmap = Heatmap(sigma=sigma)
    maps = heatmap.encode(Points([[30, 30]], shape=(60, 60)))
    double = maps.repeat(2, axis=1).repeat(2, axis=2)
    assert heatmap.count(heatmap.rescale(double, 2.0)) == pytest.approx(1, rel=1e-5)
    matrix = torch.tensor([[[0.0, 2.0], [-2.0, 0.0]]])
    assert heatmap.transform(torch.from_numpy(double)[None], matrix).sum() == pytest.approx(1, rel=1e-5)
    unknown = torch.full((1, 1, 2, 2), math.nan)
    assert heatmap.transform(unknown, matrix).isnan().all()


def test_a_small_net_learns_to_count() -> None:
    """A few steps on two pictures of dots, the second of which is known in part."""
    torch.manual_seed(0)
    heatmap, shape = Heatmap(sigma=3.0), (64, 64)
    points = [scattered(k, shape, 14, apart=8) for k in (5, 6)]
    images = torch.from_numpy(np.stack([Heatmap(sigma=2.0).targets(p) for p in points]))
    targets = torch.from_numpy(np.stack([heatmap.targets(p) for p in points]))
    targets[1, :, :20] = math.nan
    net = FastUNet(1, 1, widths=(8, 8, 8, 8))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        heatmap.loss(net(images), targets).backward()
        optimizer.step()
    with torch.no_grad():
        maps = heatmap.from_output(net(images)).numpy()
    for one, true in zip(maps, points, strict=True):
        assert heatmap.count(one) == pytest.approx(len(true), rel=0.15)
        found = heatmap.decode(one)
        assert len(nearest_pairs(true.positions, found.positions, 3.0)[2]) >= 0.85 * len(true)


# --- settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"sigma": 0.5},
        {"sigma": math.nan},
        {"threshold": 0.0},
        {"threshold": 1.1},
        {"min_distance": -1.0},
        {"gain": 0.3},
    ],
)
def test_senseless_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Heatmap(**wrong)  # type: ignore[arg-type]


def test_it_has_a_name_and_sizes_stay() -> None:
    assert REPRESENTATIONS["Heatmap"] is Heatmap
    assert Heatmap.octaves == 0
    assert Heatmap(debris=True).map_names == ("density", "debris")


# --- the known region -----------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), SEEDS, st.integers(0, 5), st.floats(0, 30))
def test_known_region_is_within_the_radius(shape: tuple[int, int], seed: int, n: int, radius: float) -> None:
    points = scattered(seed, shape, n)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    near = np.zeros(shape, bool)
    for y, x in points.positions:
        near |= (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    assert np.array_equal(known_region(points, None, shape, radius), near)
    background = np.random.default_rng(seed).random(shape) < 0.2
    assert np.array_equal(known_region(points, background, shape, radius), near | background)


def test_known_region_takes_whole_pixels_and_debris() -> None:
    points = Points([[50, 60]], [DEBRIS], shape=(100, 120))
    assert known_region(points, None, (100, 120)).sum() == sum(
        (y - 50) ** 2 + (x - 60) ** 2 <= 26**2 for y in range(100) for x in range(120)
    )


def test_known_region_refusals() -> None:
    points = Points([[1, 1]], shape=(4, 5))
    with pytest.raises(InputError, match="same size"):
        known_region(points, np.zeros((5, 4), bool), (4, 5))
    for radius in (-1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="radius"):
            known_region(points, None, (4, 5), radius)
