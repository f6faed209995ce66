"""Points found against true ones, and counts against counts."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from rich.console import Console
from scipy.optimize import linear_sum_assignment

from cellweave.core.errors import InputError
from cellweave.core.points import Points
from cellweave.metrics import (
    CountEvaluation,
    PointEvaluation,
    count_errors,
    counts_table,
    evaluate_points,
    match_points,
    points_table,
    to_csv,
    to_json,
)

Positions = NDArray[np.float64]
places = arrays(np.float64, st.tuples(st.integers(0, 12), st.just(2)), elements=st.integers(0, 20).map(float))
counts = st.lists(st.tuples(st.integers(0, 500), st.floats(0, 500)), min_size=1, max_size=10)


def tp_by_dense_assignment(truth: Positions, found: Positions, radius: float) -> tuple[int, float]:
    """Most pairs within the radius and their least distance, from the full matrix."""
    d = np.hypot(*(truth[:, np.newaxis] - found[np.newaxis]).transpose(2, 0, 1))
    costs = np.where(d <= radius, d / radius / (2 * max(d.shape, default=1)), 1.0) if d.size else d
    i, j = linear_sum_assignment(costs)
    near = d[i, j] <= radius
    return int(near.sum()), float(d[i, j][near].sum())


@given(places, places, st.integers(1, 12))
def test_equals_the_dense_assignment(truth: Positions, found: Positions, radius: int) -> None:
    m = match_points(truth, found, radius=radius)
    tp, distance = tp_by_dense_assignment(truth, found, radius)
    assert (m.tp, m.fp, m.fn) == (tp, len(found) - tp, len(truth) - tp)
    assert m.distance_sum == pytest.approx(distance)
    assert m.precision == (tp / len(found) if len(found) else float(not len(truth)))
    assert m.recall == (tp / len(truth) if len(truth) else float(not len(found)))
    both = m.precision + m.recall
    assert m.f1 == pytest.approx(2 * m.precision * m.recall / both if both else 0)


@given(places, places, st.integers(1, 12))
def test_exchange_exchanges_precision_and_recall(truth: Positions, found: Positions, radius: int) -> None:
    one, other = match_points(truth, found, radius=radius), match_points(found, truth, radius=radius)
    assert (one.precision, one.recall, one.f1) == (other.recall, other.precision, other.f1)


@given(places, places, st.integers(1, 12))
def test_a_larger_radius_never_finds_less(truth: Positions, found: Positions, radius: int) -> None:
    assert match_points(truth, found, radius=radius).tp <= match_points(truth, found, radius=radius + 1).tp


@given(places, st.integers(1, 5))
def test_points_are_found_in_themselves(truth: Positions, radius: int) -> None:
    m = match_points(truth, truth, radius=radius)
    assert (m.precision, m.recall, m.f1, m.mean_distance) == (1, 1, 1, 0)


def test_nothing_to_find() -> None:
    none, one = np.empty((0, 2)), np.zeros((1, 2))
    assert match_points(none, none).f1 == 1
    assert (match_points(none, one).precision, match_points(none, one).recall) == (0, 0)
    assert (match_points(one, none).precision, match_points(one, none).recall) == (0, 0)


def test_the_radius_belongs_to_the_circle() -> None:
    assert match_points(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]]), radius=5).tp == 1
    assert match_points(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]]), radius=4.999).tp == 0


@given(counts)
def test_count_errors_are_the_definitions(pairs: list[tuple[int, float]]) -> None:
    errors = count_errors(*zip(*pairs, strict=True))
    n = len(pairs)
    assert errors.n_images == n
    assert errors.mae == pytest.approx(sum(abs(p - t) for t, p in pairs) / n)
    assert errors.rmse == pytest.approx((sum((p - t) ** 2 for t, p in pairs) / n) ** 0.5)
    assert errors.bias == pytest.approx(sum(p - t for t, p in pairs) / n)
    assert errors.mae <= errors.rmse + 1e-9
    shares = [abs(p - t) / t for t, p in pairs if t]
    if shares:
        assert errors.mape == pytest.approx(sum(shares) / len(shares))
        assert errors.total_error == pytest.approx(abs(sum(p - t for t, p in pairs)) / sum(t for t, _ in pairs))
    else:
        assert errors.mape is None
        assert errors.total_error is None


@pytest.mark.parametrize(
    ("truth", "predicted"), [([], []), ([1], [1, 2]), ([1.0], [np.nan]), ([-1], [1]), ([[1]], [[1]])]
)
def test_impossible_counts(truth: list[float], predicted: list[float]) -> None:
    with pytest.raises(InputError, match="counts"):
        count_errors(truth, predicted)


@pytest.fixture
def evaluation() -> PointEvaluation:
    rng = np.random.default_rng(0)
    truth = [Points(rng.uniform(0, 99, (n, 2)), shape=(100, 100)) for n in (20, 0, 5)]
    found = [Points(rng.uniform(0, 99, (n, 2)), shape=(100, 100)) for n in (25, 3, 0)]
    return evaluate_points(truth, found, radius=10, names=["a, b", "none", "[c]"])


def test_the_total_adds_images(evaluation: PointEvaluation) -> None:
    total, parts = evaluation.total, [s.detection for s in evaluation.images]
    assert (total.n_true, total.n_predicted) == (25, 28)
    assert total.detection.tp == sum(d.tp for d in parts) > 0
    assert total.detection.fn == 25 - total.detection.tp
    assert total.detection.precision == total.detection.tp / 28
    assert [s.count_error for s in evaluation.images] == [0.25, None, 1.0]
    assert evaluation.counts.mae == 13 / 3


def test_counts_may_be_other_than_the_points() -> None:
    points = Points(np.array([[1.0, 1.0], [5.0, 5.0]]))
    result = evaluate_points(points, points, counts=[np.float32(2.5)])
    assert result.total.n_predicted == 2.5
    assert result.counts.mae == 0.5
    assert result.total.detection.f1 == 1
    json.dumps(result.to_dict())


def test_files_hold_every_figure(evaluation: PointEvaluation, tmp_path: Path) -> None:
    to_json(evaluation, tmp_path / "e.json")
    found = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert found == evaluation.to_dict()
    assert found["counts"]["mae"] == evaluation.counts.mae
    to_csv(evaluation, tmp_path / "e.csv")
    with (tmp_path / "e.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["image"] for row in rows] == ["a, b", "none", "[c]", "total"]
    assert rows[1]["count_error"] == ""
    assert float(rows[3]["f1"]) == evaluation.total.detection.f1


def test_the_table_shows_images_total_and_counts(evaluation: PointEvaluation) -> None:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(points_table(evaluation))
    text = capture.get()
    for part in ("3 images, points within 10 px", "a, b", "[c]", "total", "MAE 4.33", "MAPE 62.5 %", "bias +1.00"):
        assert part in text


def test_what_does_not_fit_is_named() -> None:
    a, b = Points(np.zeros((1, 2)), shape=(10, 10)), Points(np.zeros((1, 2)), shape=(10, 11))
    with pytest.raises(InputError, match=r"image x: .* 10 x 10 px.* 10 x 11"):
        evaluate_points([a], [b], names=["x"])
    with pytest.raises(InputError, match="2 images and found points of 1"):
        evaluate_points([a, a], [a])
    with pytest.raises(InputError, match="2 names for 1"):
        evaluate_points([a], [a], names=["x", "y"])
    with pytest.raises(InputError, match="radius"):
        evaluate_points([a], [a], radius=0)
    with pytest.raises(InputError, match="no images"):
        evaluate_points([], [])


def test_counts_alone_have_the_errors_of_counts(tmp_path: Path) -> None:
    alone = CountEvaluation(("a", "b"), (10, 0), (12.5, 1.0))
    points = [Points(np.zeros((n, 2))) for n in alone.truth]
    empty = [Points(np.empty((0, 2)))] * 2
    assert alone.counts == evaluate_points(points, empty, counts=alone.predicted).counts
    assert alone.rows()[-1] == {"image": "total", "n_true": 10, "n_predicted": 13.5}
    to_json(alone, tmp_path / "e.json")
    assert json.loads((tmp_path / "e.json").read_text(encoding="utf-8")) == alone.to_dict()
    to_csv(alone, tmp_path / "e.csv")
    assert (tmp_path / "e.csv").read_text().splitlines()[1] == "a,10,12.5"
    console = Console(width=120)
    with console.capture() as capture:
        console.print(counts_table(alone))
    for part in ("2 images, counts only", "12.5", "13.5", "total", "MAE 1.75"):
        assert part in capture.get()
