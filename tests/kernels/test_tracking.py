"""Tracking and clustering equal their slow twins, and sharing paths gives what plain Euler steps give."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from cellweave import _kernels
from cellweave.metrics import match
from cellweave.representations import DiffusionFlows
from drawing import crowd, like_a_network, tiles, voronoi
from kernels import twins

Labels = NDArray[np.int32]
Maps = NDArray[np.float32]


def track(maps: Maps, threshold: float = 0.5, steps: int = 200, threads: int = 0) -> Labels:
    ends = np.full(maps.shape[1:], -7, np.int32)
    _kernels.track(maps, threshold, steps, ends, threads)
    return ends


def cluster(ends: Labels, min_count: int = 10) -> tuple[Labels, int]:
    labels = np.full(ends.shape, -7, np.int32)
    return labels, _kernels.cluster(ends, min_count, labels)


def random_maps(seed: int, shape: tuple[int, int], size: float) -> Maps:
    """Flows that lead anywhere; about three quarters of the pixels are in cells."""
    rng = np.random.default_rng(seed)
    maps = rng.normal(0, size, (3, *shape)).astype(np.float32)
    maps[2] = rng.uniform(0.3, 1, shape)
    return maps


MAPS = {
    "exact": lambda: DiffusionFlows().encode(crowd(1)),
    "noisy": lambda: like_a_network(crowd(2), 0, 0.1),
    "very noisy": lambda: like_a_network(voronoi(3), 1, 0.3),
    "random": lambda: random_maps(4, (40, 50), 1),
    "long steps": lambda: random_maps(5, (30, 30), 40),
    "very long steps": lambda: random_maps(6, (30, 30), 1e37),
    "short steps": lambda: random_maps(7, (30, 30), 2e-3),
    "one row": lambda: random_maps(8, (1, 60), 1),
    "one column": lambda: random_maps(9, (60, 1), 1),
    "one pixel": lambda: np.ones((3, 1, 1), np.float32),
    "constant": lambda: np.full((3, 20, 20), 0.75, np.float32),
    "background": lambda: np.zeros((3, 8, 8), np.float32),
}


@pytest.mark.parametrize("steps", [1, 3, 200])
@pytest.mark.parametrize("name", MAPS)
def test_tracking_equals_numpy(name: str, steps: int) -> None:
    maps = MAPS[name]()
    assert np.array_equal(track(maps, steps=steps), twins.track(maps, 0.5, steps))


@given(
    arrays(
        np.float32,
        st.tuples(st.just(3), st.integers(1, 6), st.integers(1, 6)),
        elements=st.one_of(st.floats(-2, 2, width=32), st.floats(width=32)),
    )
)
def test_tracking_of_any_numbers_equals_numpy_and_stays_in_the_image(maps: Maps) -> None:
    """NaN, infinity and the largest numbers included."""
    ends = track(maps, steps=50)
    assert np.array_equal(ends, twins.track(maps, 0.5, 50))
    assert ((ends >= 0) == (maps[2] > 0.5)).all()
    assert ends.max() < ends.size


def test_a_path_ends_where_there_is_no_direction() -> None:
    maps = np.zeros((3, 1, 9), np.float32)
    maps[1], maps[2] = 1, 1
    assert track(maps).tolist() == [[8] * 9]
    maps[1, 0, 4] = np.nan
    ends = track(maps)[0]
    assert ends[4] == 4
    assert ends[5:].tolist() == [8] * 4
    assert all(2 <= end <= 4 for end in ends[:4])


def test_the_threshold_is_exclusive() -> None:
    maps = np.zeros((3, 2, 2), np.float32)
    maps[2] = [[0.5, 0.25], [0.50001, 1]]
    assert track(maps).tolist() == [[-1, -1], [2, 3]]
    assert track(maps, 0.25).tolist() == [[0, -1], [2, 3]]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(threads: int) -> None:
    maps = np.tile(like_a_network(crowd(5), 2, 0.2), (1, 3, 3))  # several pieces of work
    assert maps[0].size > 5 * (1 << 14)
    assert np.array_equal(track(maps, threads=threads), track(maps))


CROWDS = {
    "rods and ellipses": crowd,
    "a full image": voronoi,
}


@pytest.mark.parametrize("amount", [0, 0.05, 0.1])
@pytest.mark.parametrize("draw", CROWDS.values(), ids=CROWDS)
def test_sharing_paths_gives_the_cells_of_plain_steps(draw: Callable[[int], Labels], amount: float) -> None:
    """At least 995 of 1000 pixels are in the same cell, and F1@0.9 is at least 0.99, over several pictures."""
    same = pixels = objects = matched = 0.0
    for seed in range(4):
        labels = draw(seed)
        maps = like_a_network(labels, seed, amount) if amount else DiffusionFlows().encode(labels)
        shared, _ = cluster(track(maps))
        plain, _ = cluster(twins.euler(maps, 0.5, 200))
        keep = np.bincount(plain.ravel()) >= 15, np.bincount(shared.ravel()) >= 15
        plain, shared = np.where(keep[0][plain], plain, 0), np.where(keep[1][shared], shared, 0)
        found = match(plain, shared, iou=0.9)
        partner = np.zeros(shared.max() + 1, int)
        partner[found.predicted_ids] = found.truth_ids
        same += np.count_nonzero(partner[shared] == plain)
        pixels += plain.size
        matched, objects = matched + 2 * found.tp, objects + 2 * found.tp + found.fp + found.fn
    assert same / pixels >= 0.995
    assert matched / objects >= 0.99


@pytest.mark.parametrize("min_count", [0, 2, 10])
@pytest.mark.parametrize("name", MAPS)
def test_clustering_equals_numpy(name: str, min_count: int) -> None:
    ends = track(MAPS[name]())
    labels, n = cluster(ends, min_count)
    expected, m = twins.cluster(ends, min_count)
    assert n == m
    assert np.array_equal(labels, expected)


@given(st.data(), st.tuples(st.integers(1, 14), st.integers(1, 14)), st.integers(0, 12))
@settings(max_examples=100)
def test_clustering_of_any_ends_equals_numpy(data: st.DataObject, shape: tuple[int, int], min_count: int) -> None:
    """Few different ends, so that they pile up, equal piles too."""
    size = shape[0] * shape[1]
    goals = data.draw(st.lists(st.integers(-1, size - 1), min_size=1, max_size=12))
    ends = data.draw(arrays(np.int32, shape, elements=st.sampled_from(goals)))
    labels, n = cluster(ends, min_count)
    expected, m = twins.cluster(ends, min_count)
    assert n == m
    assert np.array_equal(labels, expected)


def test_a_pile_needs_more_ends_than_min_count() -> None:
    ends = np.zeros((2, 8), np.int32)
    ends[1, 3:] = -1
    assert (ends == 0).sum() == 11
    assert cluster(ends, 10)[1] == 1
    assert cluster(ends, 11)[1] == 0


def test_a_pile_grows_by_five_pixels_over_more_than_two_ends() -> None:
    goals = [20] * 12 + [x for x in range(12, 30) for _ in range(2 if x == 23 else 3)]
    ends = np.full((2, 40), -1, np.int32)
    ends.ravel()[: len(goals)] = goals
    labels, n = cluster(ends)
    assert n == 1
    assert set(ends[labels == 1]) == set(range(15, 23))  # 5 px to the left; to the right up to the pixel with 2 ends


def test_tiles_are_told_apart() -> None:
    labels = tiles(4, 5, 6, 7)
    found, _ = cluster(track(DiffusionFlows().encode(labels)))
    assert match(labels, found, iou=1.0).tp == 20


def test_wrong_arrays_are_refused() -> None:
    maps, ends, labels = np.ones((3, 4, 5), np.float32), np.zeros((4, 5), np.int32), np.zeros((4, 5), np.int32)
    for wrong in (
        (maps.astype(np.float64), ends),
        (maps[0], ends),
        (maps[:, :, ::-1], ends),
        (maps, ends.astype(np.int64)),
        (maps, ends.ravel()),
        (maps, np.asfortranarray(ends)),
    ):
        with pytest.raises(TypeError):
            _kernels.track(wrong[0], 0.5, 200, wrong[1])
    for wrong in ((maps[:2], ends), (maps, np.zeros((4, 4), np.int32)), (maps, np.zeros((5, 4), np.int32))):
        with pytest.raises(ValueError, match=r"shape|length"):
            _kernels.track(wrong[0], 0.5, 200, wrong[1])
    with pytest.raises(TypeError):
        _kernels.cluster(ends.astype(np.int64), 10, labels)
    with pytest.raises(TypeError):
        _kernels.cluster(ends, 10, labels.astype(np.float32))
    with pytest.raises(ValueError, match="shape"):
        _kernels.cluster(ends, 10, np.zeros((4, 4), np.int32))
