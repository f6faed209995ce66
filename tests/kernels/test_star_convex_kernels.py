"""Distances along rays, suppression and painting of polygons equal their slow twins, and what StarDist computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from cellweave import _kernels
from drawing import crowd, voronoi
from kernels import star_twins as twins

Labels = NDArray[np.int32]
Points = NDArray[np.int32]
Distances = NDArray[np.float32]


def star_distances(labels: Labels, n_rays: int, threads: int = 0) -> Distances:
    distances = np.full((n_rays, *labels.shape), -7, np.float32)
    _kernels.star_distances(labels, distances, threads)
    return distances


def star_nms(points: Points, distances: Distances, threshold: float = 0.4, threads: int = 0) -> list[bool]:
    keep = np.full(len(points), 7, np.uint8)
    _kernels.star_nms(points, distances, threshold, keep, threads)
    return keep.astype(bool).tolist()


def star_paint(points: Points, distances: Distances, shape: tuple[int, int], threads: int = 0) -> Labels:
    labels = np.full(shape, -7, np.int32)
    _kernels.star_paint(points, distances, labels, threads)
    return labels


def blobs(
    seed: int, n: int, n_rays: int = 32, *, side: float = 60, radius: float = 9, noise: float = 0.1
) -> tuple[Points, Distances]:
    """Round, wavering polygons at random places."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-2, side, (n, 2)).astype(np.int32)
    angles = 2 * np.pi * np.arange(n_rays) / n_rays
    waves = 1 + rng.uniform(0, 0.4, (n, 1)) * np.cos(2 * angles + rng.uniform(0, 6, (n, 1)))
    distances = radius * rng.uniform(0.4, 1.6, (n, 1)) * waves * (1 + noise * rng.normal(size=(n, n_rays)))
    return points, distances.clip(0).astype(np.float32)


# --- distances ------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(arrays(np.int32, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.integers(0, 2)), st.integers(3, 9))
def test_distances_of_any_small_labels_equal_the_twin(labels: Labels, n_rays: int) -> None:
    assert np.array_equal(star_distances(labels, n_rays), twins.star_distances(labels, n_rays))


@pytest.mark.parametrize("n_rays", [3, 8, 12])
def test_distances_of_cells_equal_the_twin(n_rays: int) -> None:
    labels = crowd(3, (40, 44))
    assert np.array_equal(star_distances(labels, n_rays), twins.star_distances(labels, n_rays))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_distances(threads: int) -> None:
    labels = voronoi(1)
    assert np.array_equal(star_distances(labels, 32, threads), star_distances(labels, 32))


# --- areas and suppression ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_the_twins_area_is_the_shared_area(seed: int) -> None:
    """Two computations that have nothing in common agree; rounding the crossings changes little."""
    shapes = [twins.corners(p, d) for p, d in zip(*blobs(seed, 8, 12, side=20), strict=True)]
    for a in shapes:
        for b in shapes:
            exact = float(twins.shared_area(a, b, rounded=False))
            assert exact == pytest.approx(twins.fan_area(a, b), abs=1e-6)
            assert float(twins.shared_area(a, b)) == pytest.approx(exact, abs=15)
        assert twins.shared_area(a, a) == pytest.approx(float(abs(twins.area(a))), abs=3)  # 3: loops of rounded corners


PAIRS = st.tuples(
    arrays(np.int32, (2, 2), elements=st.integers(3, 12)),
    st.integers(3, 10).flatmap(
        lambda n: arrays(
            np.float32, (2, n), elements=st.one_of(st.integers(0, 6).map(float), st.floats(0, 9, width=32))
        )
    ),
)


@settings(max_examples=150)
@given(PAIRS)
def test_overlap_of_any_two_polygons_equals_the_twin(pair: tuple[Points, Distances]) -> None:
    """Corners on edges, edges on edges, polygons without area: the second is kept up to its overlap, and not below."""
    points, distances = pair
    overlap = twins.overlap(*(twins.corners(p, d) for p, d in zip(points, distances, strict=True)))
    assert star_nms(points, distances, float(overlap)) == [True, True]
    if overlap > 0:
        assert star_nms(points, distances, float(np.nextafter(overlap, np.float32(0)))) == [True, False]


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.4, 0.7, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_suppression_equals_brute_force(seed: int, threshold: float) -> None:
    points, distances = blobs(seed, 60, 16)
    keep = star_nms(points, distances, threshold)
    assert keep == twins.star_nms(points, distances, threshold)
    assert sum(keep) >= 1
    assert sum(keep) < 60 or threshold == 1


def test_suppression_among_polygons_of_all_sizes() -> None:
    """Some span the whole field of squares, others a pixel."""
    points, distances = blobs(4, 50, 8, side=300)
    distances *= np.random.default_rng(4).choice(np.float32([0.05, 1, 3, 40]), (50, 1))
    assert star_nms(points, distances) == twins.star_nms(points, distances, 0.4)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_and_pieces_do_not_change_suppression(threads: int) -> None:
    """The kernel works through pieces of 256 polygons and more; a plain loop over pairs says the same."""
    points, distances = blobs(5, 3000, 16, side=250)
    keep = star_nms(points, distances, threads=threads)
    kept: list[int] = []
    for k in range(700):
        near = [i for i in kept if np.abs(points[i] - points[k]).max() < 60]
        alone = all(star_nms(points[[i, k]], distances[[i, k]])[1] for i in near)
        assert keep[k] == alone
        if alone:
            kept.append(k)
    assert keep == star_nms(points, distances)


def test_large_polygons_and_far_away() -> None:
    """Beyond what products of 32 bits hold."""
    circle = np.full((3, 32), 50_000, np.float32)
    points = np.array([[1_000_000, 2_000_000], [1_030_000, 2_000_000], [1_090_000, 2_000_000]], np.int32)
    assert star_nms(points, circle) == [True, False, True]
    assert star_nms(points, circle, 0.7) == [True, True, True]


def test_numbers_that_are_none_do_no_harm() -> None:
    points, distances = blobs(6, 40, 8)
    distances[::3, 2] = [np.nan, np.inf, -np.inf, 1e38] * 3 + [np.nan] * 2
    assert star_nms(points, distances)[0]


def test_no_polygons() -> None:
    points, distances = np.zeros((0, 2), np.int32), np.zeros((0, 32), np.float32)
    assert star_nms(points, distances) == []
    assert not star_paint(points, distances, (4, 5)).any()


# --- painting -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rays", [3, 7, 32])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_painting_equals_scikit_image(seed: int, n_rays: int) -> None:
    points, distances = blobs(seed, 30, n_rays, side=70)
    assert np.array_equal(star_paint(points, distances, (66, 59)), twins.star_paint(points, distances, (66, 59)))


@settings(max_examples=100)
@given(
    st.integers(1, 3).flatmap(lambda n: arrays(np.float32, (n, 4), elements=st.integers(1, 12).map(lambda v: v / 2)))
)
def test_painting_of_corners_on_pixels(distances: Distances) -> None:
    """Corners, edges and whole polygons that lie on rows and columns of pixels."""
    points = np.array([[5, 5], [3, 8], [9, 2]], np.int32)[: len(distances)]
    painted, expected = star_paint(points, distances, (13, 12)), twins.star_paint(points, distances, (13, 12))
    assert np.array_equal(painted, expected)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_the_picture(threads: int) -> None:
    points, distances = blobs(7, 200, side=300, radius=20)
    assert np.array_equal(star_paint(points, distances, (301, 290), threads), star_paint(points, distances, (301, 290)))


# --- StarDist -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[np.generic]]:
    """What StarDist 0.9.2 computes; see scripts/peer/golden_star_convex.py for the keys."""
    with np.load(Path(__file__).resolve().parents[1] / "golden" / "stardist.npz") as file:
        return dict(file)


def test_distances_equal_stardists(golden: dict[str, NDArray[np.generic]]) -> None:
    assert np.array_equal(star_distances(golden["labels"], 32), golden["distances"])  # type: ignore[arg-type]


@pytest.mark.parametrize("order", ["", "shuffled"])
def test_the_same_polygons_survive_as_in_stardist(golden: dict[str, NDArray[np.generic]], order: str) -> None:
    which = golden["shuffled"] if order else np.arange(len(golden["points"]))
    points, distances = golden["points"][which].astype(np.int32), golden["point_distances"][which].astype(np.float32)
    for threshold, expected in zip((0.3, 0.4, 0.5), golden["keep_shuffled" if order else "keep"], strict=True):
        assert star_nms(points, distances, threshold) == expected.tolist()


def test_the_same_picture_as_stardists(golden: dict[str, NDArray[np.generic]]) -> None:
    kept = golden["keep"][1].astype(bool)
    points, distances = golden["points"][kept].astype(np.int32), golden["point_distances"][kept].astype(np.float32)
    assert np.array_equal(star_paint(points, distances, golden["painted"].shape), golden["painted"])
