"""`evaluate`: overlap, boundaries, counts, and the summary over images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from cellweave.core.errors import InputError
from cellweave.core.progress import showing
from cellweave.metrics import THRESHOLDS, Evaluation, evaluate, evaluate_image, match
from cellweave.metrics.boundary import boundary_pixels

Labels = NDArray[np.int32]
small_labels = arrays(np.int32, (5, 8), elements=st.integers(0, 4))


def masks(labels: Labels) -> list[NDArray[np.bool_]]:
    return [labels == i for i in np.unique(labels) if i]


def aji_as_published(truth: Labels, predicted: Labels) -> set[float]:
    """Algorithm 1 of Kumar et al. on masks, one value for every way to break ties."""
    components = masks(predicted)
    outcomes = [(0, 0, frozenset[int]())]
    for t in masks(truth):
        ious = [(t & p).sum() / (t | p).sum() for p in components]
        best = max(ious, default=0)
        choices = [k for k, value in enumerate(ious) if value == best > 0]
        step = [((t & components[k]).sum(), (t | components[k]).sum(), k) for k in choices] or [(0, t.sum(), -1)]
        outcomes = list({(c + dc, u + du, used | {k}) for c, u, used in outcomes for dc, du, k in step})
    values = set()
    for c, u, used in outcomes:
        u += sum(p.sum() for k, p in enumerate(components) if k not in used)
        values.add(c / u if u else 1.0)
    return values


@given(small_labels, small_labels)
def test_aji_is_that_of_the_published_algorithm(truth: Labels, predicted: Labels) -> None:
    values = aji_as_published(truth, predicted)
    assert any(evaluate(truth, predicted).total.aji == pytest.approx(value) for value in values)


@given(small_labels, small_labels, st.permutations(range(1, 5)), st.integers(0, 3))
def test_ids_and_orientation_do_not_matter(truth: Labels, predicted: Labels, order: list[int], turns: int) -> None:
    lookup = np.array([0, *order], np.int32) * 7
    a = evaluate_image(truth, predicted)
    b = evaluate_image(np.rot90(truth, turns), np.rot90(lookup[predicted], turns))
    assert a.row() == pytest.approx(b.row())


def test_aji_of_two_halves() -> None:
    """One of the halves is taken, the other counts as invented."""
    truth = np.ones((10, 20), np.int32)
    halves = truth.copy()
    halves[:, 10:] = 2
    assert evaluate(truth, halves).total.aji == pytest.approx(100 / 300)


def test_ties_of_the_aggregated_jaccard_index_leave_fewest_objects_untaken() -> None:
    """Two true cells of 2 px; both tie between the middle object and one of their own."""
    truth = np.array([[1, 1, 0, 2, 2], [0, 0, 0, 0, 0]], np.int32)
    predicted = np.array([[1, 2, 0, 2, 3], [0, 0, 0, 0, 0]], np.int32)
    predicted[1, 0], predicted[1, 4] = 1, 3
    values = aji_as_published(truth, predicted)
    assert len(values) > 1
    assert evaluate(truth, predicted).total.aji == max(values) == 2 / (3 + 3 + 2)


@given(small_labels, small_labels)
def test_foreground_equals_brute_force(truth: Labels, predicted: Labels) -> None:
    t, p = truth > 0, predicted > 0
    total = evaluate(truth, predicted).total
    if (t | p).any():
        assert total.jaccard == pytest.approx((t & p).sum() / (t | p).sum())
        assert total.dice == pytest.approx(2 * (t & p).sum() / (t.sum() + p.sum()))
    else:
        assert total.jaccard == total.dice == 1


@given(arrays(np.int32, (6, 9), elements=st.integers(0, 3)))
def test_boundary_pixels_have_a_neighbour_of_another_id(labels: Labels) -> None:
    expected = np.zeros(labels.shape, bool)
    for y, x in np.ndindex(labels.shape):
        around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        inside = [labels[r, c] for r, c in around if 0 <= r < 6 and 0 <= c < 9]
        expected[y, x] = labels[y, x] > 0 and any(v != labels[y, x] for v in inside)
    assert (boundary_pixels(labels) == expected).all()


@given(small_labels, small_labels, st.sampled_from([0.0, 1.0, 1.5, 2.0, 3.0]))
def test_boundary_f_equals_brute_force(truth: Labels, predicted: Labels, tolerance: float) -> None:
    value = evaluate(truth, predicted, boundary_tolerance=tolerance).total.boundary_f
    t, p = np.argwhere(boundary_pixels(truth)), np.argwhere(boundary_pixels(predicted))
    if len(t) == 0 and len(p) == 0:
        assert value == 1
    elif len(t) == 0 or len(p) == 0:
        assert value == 0
    else:
        near = np.sqrt(((t[:, None] - p[None]) ** 2).sum(-1)) <= tolerance
        recall, precision = near.any(1).mean(), near.any(0).mean()
        assert value == pytest.approx(2 * precision * recall / (precision + recall) if precision + recall else 0)


def test_boundary_tolerance_is_a_distance_in_pixels() -> None:
    truth = np.zeros((40, 40), np.int32)
    truth[10:30, 10:30] = 1
    shifted = np.roll(truth, 2, axis=1)
    assert evaluate(truth, shifted).total.boundary_f == 1
    assert evaluate(truth, shifted, boundary_tolerance=1).total.boundary_f < 1
    distance = distance_transform_edt(~boundary_pixels(truth))
    near = (distance[boundary_pixels(shifted)] <= 1).mean()
    assert evaluate(truth, shifted, boundary_tolerance=1).total.boundary_f == pytest.approx(near)


@given(small_labels, small_labels)
def test_each_threshold_equals_match(truth: Labels, predicted: Labels) -> None:
    evaluation = evaluate(truth, predicted)
    for iou in THRESHOLDS:
        one, of_many = match(truth, predicted, iou), evaluation.total.at(iou)
        assert (one.tp, one.fp, one.fn, one.iou_sum) == (of_many.tp, of_many.fp, of_many.fn, of_many.iou_sum)


def test_default_thresholds_are_half_to_95_percent() -> None:
    assert pytest.approx(np.arange(0.5, 0.951, 0.05)) == THRESHOLDS


def two_images() -> Evaluation:
    """An image with 1 of 1 cells found and one with 1 of 4."""
    few = np.zeros((20, 20), np.int32)
    few[2:8, 2:8] = 1
    many = np.zeros((20, 20), np.int32)
    many[:5, :5], many[:5, 8:12], many[10:16, :5], many[10:16, 8:12] = 1, 2, 3, 4
    return evaluate([few, many], [few, np.where(many == 3, 9, 0)], names=["few", "many"])


def test_total_adds_counts_and_mean_averages_images() -> None:
    evaluation = two_images()
    assert [s.name for s in evaluation.images] == ["few", "many"]
    total = evaluation.total
    assert (total.n_true, total.n_predicted) == (5, 2)
    assert (total.at(0.5).tp, total.at(0.5).fp, total.at(0.5).fn) == (2, 0, 3)
    assert total.at(0.5).average_precision == 2 / 5
    assert evaluation.mean["ap@0.5"] == (1 + 1 / 4) / 2
    assert total.count_error == 3 / 5
    assert evaluation.mean["count_error"] == (0 + 3 / 4) / 2


def test_total_of_tiles_is_that_of_the_whole() -> None:
    """Images side by side, with objects that do not touch the seam, are one image."""
    evaluation = two_images()
    few, many = np.zeros((2, 20, 20), np.int32)
    few[2:8, 2:8] = 1
    many[:5, :5], many[:5, 8:12], many[10:16, :5], many[10:16, 8:12] = 2, 3, 4, 5
    seam = np.zeros((20, 5), np.int32)
    truth = np.hstack([few, seam, many])
    predicted = np.where((truth == 1) | (truth == 4), truth, 0)
    whole = evaluate(truth, predicted).total.row()
    expected = evaluation.total.row()
    for key in ("boundary_f", "image"):  # the border of an image is no boundary
        whole.pop(key), expected.pop(key)
    assert whole == pytest.approx(expected)


def test_swapping_the_images_swaps_precision_and_recall(cells: Labels) -> None:
    other = np.roll(cells, 2, axis=0)
    other[other == 3] = 0
    a, b = evaluate(cells, other), evaluate(other, cells)
    for iou in a.thresholds:
        assert (a.total.at(iou).precision, a.total.at(iou).recall) == (
            b.total.at(iou).recall,
            b.total.at(iou).precision,
        )
    assert (a.total.jaccard, a.total.dice, a.total.boundary_f) == (
        b.total.jaccard,
        b.total.dice,
        b.total.boundary_f,
    )


EMPTY, FULL = np.zeros((6, 6), np.int32), np.pad(np.ones((4, 4), np.int32), 1)


@pytest.mark.parametrize(
    ("truth", "predicted", "value", "count_error"),
    [(EMPTY, EMPTY, 1.0, 0.0), (EMPTY, FULL, 0.0, None), (FULL, EMPTY, 0.0, 1.0), (FULL, FULL, 1.0, 0.0)],
    ids=["both empty", "no truth", "no prediction", "equal"],
)
def test_empty_images(truth: Labels, predicted: Labels, value: float, count_error: float | None) -> None:
    row = evaluate(truth, predicted).total.row()
    assert row.pop("count_error") == count_error
    figures = {k: v for k, v in row.items() if not k.startswith(("image", "n_", "tp@", "fp@", "fn@"))}
    assert figures == dict.fromkeys(figures, value)


def test_an_image_without_truth_does_not_spoil_the_mean() -> None:
    evaluation = evaluate([EMPTY, FULL], [FULL, FULL])
    assert evaluation.mean["count_error"] == 0.0
    assert evaluation.total.count_error == 1.0


def test_70_000_cells() -> None:
    rows, columns = np.mgrid[:1060, :1060] // 4
    truth = (rows * 265 + columns + 1).astype(np.int32)
    scores = evaluate(truth, np.roll(truth, 1, axis=0)).total
    assert scores.n_true == 70225
    assert scores.at(0.5).recall == pytest.approx(1, abs=0.01)
    assert scores.at(0.65).recall == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (400, 1), (0, 3)])
def test_thin_images(shape: tuple[int, int]) -> None:
    labels = (np.arange(shape[0] * shape[1]).reshape(shape) // 7 % 3).astype(np.int32)
    assert evaluate(labels, labels).total.boundary_f == 1
    assert evaluate(labels, labels).total.aji == 1


def test_images_are_read_one_after_the_other() -> None:
    read = list[str]()

    class Files(Sequence[Labels]):
        def __init__(self, side: str) -> None:
            self.side = side

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Labels:  # type: ignore[override]
            if index == 2:
                raise IndexError
            read.append(f"{self.side}{index}")
            return FULL

    assert evaluate(Files("t"), Files("p")).total.aji == 1
    assert read == ["t0", "p0", "t1", "p1"]


def test_wrong_shapes_name_the_image() -> None:
    with pytest.raises(InputError, match=r"image b: .*\(6, 6\).*\(6, 5\)"):
        evaluate([FULL, FULL], [FULL, FULL[:, :5]], names=["a", "b"])


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="2 true and 1 predicted"):
        evaluate([FULL, FULL], [FULL])
    with pytest.raises(InputError, match="1 names for 2 images"):
        evaluate([FULL, FULL], [FULL, FULL], names=["a"])
    with pytest.raises(InputError, match="no images"):
        evaluate([], [])
    with pytest.raises(InputError, match=r"threshold 1\.5"):
        evaluate(FULL, FULL, thresholds=(0.5, 1.5))
    with pytest.raises(InputError, match=r"0\.52 was not evaluated"):
        evaluate(FULL, FULL).total.at(0.52)


def test_progress_is_told_before_each_image() -> None:
    told: list[tuple[str, int, int, str]] = []
    with showing(lambda *state: told.append(state)):
        evaluate([FULL, FULL], [FULL, EMPTY], names=["a", "b"])
    assert told == [("evaluating", 0, 2, "a"), ("evaluating", 1, 2, "b"), ("evaluating", 2, 2, "")]


def test_images_of_other_thresholds_cannot_be_summed() -> None:
    a, b = evaluate_image(FULL, FULL), evaluate_image(FULL, FULL, thresholds=(0.5,))
    with pytest.raises(InputError, match="different IoU thresholds"):
        Evaluation((a, b), 2.0)


def test_golden_figures_of_cellpose() -> None:
    """AP, TP, FP, FN of cellpose 3.1.1.3 on synthetic labels (scripts/peer/golden_metrics.py made the file).

    Its aggregated Jaccard index is another figure: it divides the intersections of a one-to-one matching by
    the union of the two foregrounds, so it does not punish what Kumar et al. punish (pixels that belong to
    several unions, objects left over). It is never below ours here; we keep to the publication.
    """
    golden = np.load(Path(__file__).resolve().parents[1] / "golden" / "metrics.npz")
    evaluation = evaluate(list(golden["truth"]), list(golden["predicted"]), thresholds=golden["thresholds"])
    rows = [s.detections for s in evaluation.images]
    for key in ("tp", "fp", "fn"):
        assert ([[getattr(d, key) for d in row] for row in rows] == golden[key]).all()
    assert [[d.average_precision for d in row] for row in rows] == pytest.approx(golden["average_precision"], abs=1e-6)
    for scores, theirs, t, p in zip(
        evaluation.images,
        golden["aggregated_jaccard_index"],
        golden["truth"],
        golden["predicted"],
        strict=True,
    ):
        assert any(scores.aji == pytest.approx(value) for value in aji_as_published(t, p))
        assert scores.aji <= theirs
