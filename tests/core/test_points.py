"""`Points`, pairing of positions, and the centre of a polygon."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from cellweave.core import points as module
from cellweave.core.errors import InputError
from cellweave.core.measure import measure
from cellweave.core.points import DEBRIS, LIVE, Points, PointsReport, centroid, inside, nearest_pairs

Positions = NDArray[np.float64]
grids = arrays(np.float64, st.tuples(st.integers(0, 6), st.just(2)), elements=st.integers(0, 8).map(float))


def test_points_without_classes_are_live() -> None:
    points = Points(np.array([[1.0, 2.0], [3.0, 4.0]]), shape=(10, 20))
    assert len(points) == 2
    assert points.classes.tolist() == [LIVE, LIVE]
    assert points.counts() == {LIVE: 2}
    assert points.confidence is None


def test_no_points() -> None:
    points = Points(np.array([]))
    assert points.positions.shape == (0, 2)
    assert points.counts() == {}
    assert len(points.cells) == len(points.of(LIVE)) == 0


def test_classes_are_chosen_and_debris_is_no_cell() -> None:
    names = np.array([LIVE, DEBRIS, "mitotic"])
    points = Points(np.arange(6.0).reshape(3, 2), names, np.array([0.1, 0.2, 0.3]), (10, 10))
    assert points.cells.classes.tolist() == [LIVE, "mitotic"]
    assert points.of(DEBRIS, "mitotic").positions.tolist() == [[2, 3], [4, 5]]
    chosen = points[np.array([2, 0])]
    assert chosen.confidence is not None
    assert chosen.confidence.tolist() == [0.3, 0.1]
    assert chosen.shape == (10, 10)


def test_the_arrays_are_copies_that_cannot_be_written() -> None:
    given_positions = np.ones((2, 2))
    points = Points(given_positions, confidence=np.ones(2))
    given_positions[:] = 7
    assert (points.positions == 1).all()
    for array in (points.positions, points.classes, points.confidence):
        assert array is not None
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.zeros((2, 3))}, r"\(N, 2\)"),
        ({"positions": np.array([[0, 0], [1, np.nan]])}, "point 1 .* not finite"),
        ({"classes": np.array(["live"])}, "1 class names for 2 points"),
        ({"classes": np.array(["live", " live"])}, "one line of text"),
        ({"classes": np.array(["live", ""])}, "one line of text"),
        ({"confidence": np.array([0.5])}, "one number a point"),
        ({"confidence": np.array([0.5, np.nan])}, "between 0 and 1"),
        ({"shape": (9, 9)}, "1 of 2 points lie outside the image of 9 x 9 px .* row 9, column 0"),
        ({"shape": (0, 9)}, r"\(height, width\)"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, object], message: str) -> None:
    fine: dict[str, object] = {"positions": np.array([[0.0, 0.0], [9.0, 0.0]])}
    with pytest.raises(InputError, match=message):
        Points(**(fine | change))  # type: ignore[arg-type]


def test_the_image_ends_half_a_pixel_beyond_its_centres() -> None:
    places = np.array([[-0.5, -0.5], [9.4999, 19.4999], [9.5, 0], [0, 19.5], [-0.51, 0]])
    assert inside(places, (10, 20)).tolist() == [True, True, False, False, False]


def test_from_labels_are_the_centroids(cells: NDArray[np.int32]) -> None:
    points, table = Points.from_labels(cells), measure(cells)
    assert points.shape == cells.shape
    assert (points.positions[:, 0] == table["centroid_y"]).all()
    assert (points.positions[:, 1] == table["centroid_x"]).all()


def best_by_trying_all(first: Positions, second: Positions, radius: float) -> tuple[int, float]:
    """Most pairs, then the least sum of distances, over all one-to-one matchings."""
    if len(first) > len(second):
        first, second = second, first
    best = (0, 0.0)
    for chosen in permutations(range(len(second)), len(first)):
        d = np.hypot(*(first - second[list(chosen)]).T) if len(first) else np.empty(0)
        d = d[d <= radius]
        best = max(best, (len(d), -round(float(d.sum()), 9)))
    return best[0], -best[1]


@given(grids, grids, st.integers(1, 6))
def test_pairs_are_the_best_of_all(first: Positions, second: Positions, radius: int) -> None:
    i, j, distances = nearest_pairs(first, second, radius)
    assert (distances <= radius).all()
    assert np.allclose(distances, np.hypot(*(first[i] - second[j]).T))
    assert len(set(i.tolist())) == len(set(j.tolist())) == len(i)
    assert (np.diff(i) > 0).all()
    n, total = best_by_trying_all(first, second, radius)
    assert len(i) == n
    assert distances.sum() == pytest.approx(total)


@given(grids, grids, st.integers(1, 6), st.integers(0, 1000))
def test_exchange_and_order_do_not_matter(first: Positions, second: Positions, radius: int, seed: int) -> None:
    mixed = np.random.default_rng(seed).permutation(second)
    a, b = nearest_pairs(first, second, radius)[2], nearest_pairs(mixed, first, radius)[2]
    assert len(a) == len(b)
    assert a.sum() == pytest.approx(b.sum())


def test_a_nearer_pair_yields_to_one_pair_more() -> None:
    """Alone, 0 would pair with 1 (1 px); but then 3 px away another stays without partner."""
    first, second = np.array([[0.0, 0.0], [0.0, 4.0]]), np.array([[0.0, 1.0], [0.0, -3.0]])
    i, j, distances = nearest_pairs(first, second, 3)
    assert (i.tolist(), j.tolist(), distances.tolist()) == ([0, 1], [1, 0], [3, 3])


def test_parts_of_any_number_give_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    from cellweave.core import assignment

    rng = np.random.default_rng(3)
    first, second = rng.uniform(0, 100, (2, 300, 2))
    whole = nearest_pairs(first, second, 5)
    monkeypatch.setattr(assignment, "PART", 1)
    single = nearest_pairs(first, second, 5)
    monkeypatch.setattr(assignment, "PART", 10**9)
    together = nearest_pairs(first, second, 5)
    for other in (single, together):
        assert len(other[0]) == len(whole[0])
        assert other[2].sum() == pytest.approx(whole[2].sum())


def test_twenty_thousand_points() -> None:
    """Every point is found again though each moved, and none of a matrix of 20,000 x 20,000 is made."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.mgrid[:142, :142], axis=-1).reshape(-1, 2)[:20000] * 20.0
    order = rng.permutation(len(grid))
    angles = rng.uniform(0, 2 * np.pi, len(grid))
    moved = grid + rng.uniform(0, 9, (len(grid), 1)) * np.column_stack([np.sin(angles), np.cos(angles)])
    i, j, _ = nearest_pairs(grid, moved[order], 9.01)
    assert len(i) == len(grid)
    assert (order[j] == i).mean() > 0.99


def test_a_radius_must_be_sensible(monkeypatch: pytest.MonkeyPatch) -> None:
    places = np.zeros((4, 2))
    for radius in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="positive"):
            nearest_pairs(places, places, radius)
    monkeypatch.setattr(module, "MAX_PAIRS", 15)
    with pytest.raises(InputError, match="16 pairs of points lie within 5 px"):
        nearest_pairs(places, places, 5)


@given(arrays(np.float64, (3, 2), elements=st.integers(-50, 50).map(float)), st.integers(0, 2))
def test_the_centre_of_a_triangle_is_its_mean_corner(corners: Positions, start: int) -> None:
    assert np.allclose(centroid(np.roll(corners, start, axis=0)), corners.mean(axis=0))


def test_the_centre_of_a_square_with_many_corners_on_one_side() -> None:
    side = [(0.0, x) for x in np.linspace(0, 10, 30)]
    assert np.allclose(centroid(np.array([*side, (10.0, 10.0), (10.0, 0.0)])), (5, 5))


def test_the_report_says_what_was_left_out() -> None:
    assert PointsReport("a.csv").clean
    assert str(PointsReport("a.csv")) == "a.csv: nothing to report"
    report = PointsReport("a.csv", outside=((1.0, 2.0, LIVE),) * 5, unknown_classes={"Zelle": 3})
    assert not report.clean
    assert "5 outside the image, left out (row 1.0 column 2.0, " in str(report)
    assert "'Zelle' (3)" in str(report)
    assert "classes=" in str(report)
