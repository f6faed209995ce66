"""`match` against brute force, the published definition and its laws."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from cellweave.core.errors import InputError
from cellweave.metrics import Match, match

Labels = NDArray[np.int32]
FIGURES = ("precision", "recall", "f1", "average_precision", "panoptic_quality", "mean_matched_iou")

small_labels = arrays(np.int32, (4, 7), elements=st.integers(0, 5))
thresholds = st.sampled_from([0.05, 0.1, 0.25, 1 / 3, 0.4, 0.5, 0.55, 0.75, 1.0])


def iou_matrix(truth: Labels, predicted: Labels) -> NDArray[np.float64]:
    """IoU of every true with every predicted object, from masks."""
    rows = [truth == i for i in np.unique(truth) if i]
    columns = [predicted == i for i in np.unique(predicted) if i]
    return np.array([[(t & p).sum() / (t | p).sum() for p in columns] for t in rows]).reshape(len(rows), len(columns))


def best_by_trying_all(ious: NDArray[np.float64], threshold: float) -> tuple[int, float]:
    """Most pairs at or above the threshold, then the highest sum of IoU, over all one-to-one matchings."""
    if ious.shape[0] > ious.shape[1]:
        ious = ious.T
    best = (0, 0.0)
    for columns in permutations(range(ious.shape[1]), ious.shape[0]):
        values = ious[range(ious.shape[0]), list(columns)]
        values = values[values >= threshold]
        best = max(best, (len(values), round(float(values.sum()), 12)))
    return best


def tp_as_published(ious: NDArray[np.float64], threshold: float) -> int:
    """TP of the Cellpose and StarDist papers: optimal assignment of the dense matrix, then the threshold."""
    if 0 in ious.shape:
        return 0
    costs = -(ious >= threshold).astype(float) - ious / (2 * min(ious.shape))
    return int((ious[linear_sum_assignment(costs)] >= threshold).sum())


@given(small_labels, small_labels, thresholds)
def test_equals_brute_force(truth: Labels, predicted: Labels, iou: float) -> None:
    ious = iou_matrix(truth, predicted)
    found = match(truth, predicted, iou)
    tp, iou_sum = best_by_trying_all(ious, iou)
    assert (found.tp, found.fp, found.fn) == (tp, ious.shape[1] - tp, ious.shape[0] - tp)
    assert found.iou_sum == pytest.approx(iou_sum)
    assert found.tp == tp_as_published(ious, iou)


@given(small_labels, small_labels, thresholds)
def test_pairs_are_one_to_one_and_reach_the_threshold(truth: Labels, predicted: Labels, iou: float) -> None:
    found = match(truth, predicted, iou)
    assert len(set(found.truth_ids.tolist())) == len(set(found.predicted_ids.tolist())) == found.tp
    assert (np.diff(found.truth_ids) > 0).all()
    for t, p, value in zip(found.truth_ids, found.predicted_ids, found.ious, strict=True):
        assert value == ((truth == t) & (predicted == p)).sum() / ((truth == t) | (predicted == p)).sum() >= iou


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("iou", [0.02, 0.1, 0.2, 0.3])
def test_tp_of_crowded_images_equals_the_dense_assignment(seed: int, iou: float) -> None:
    """Small tiles under shifted tiles: every object competes for several others."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:60, :60]
    truth = (y // 6 * 10 + x // 6 + 1).astype(np.int32)
    noisy_y, noisy_x = y + rng.integers(0, 5, y.shape), x + rng.integers(0, 5, x.shape)
    predicted = (noisy_y // 7 * 10 + noisy_x // 7 + 1).astype(np.int32)
    assert match(truth, predicted, iou).tp == tp_as_published(iou_matrix(truth, predicted), iou)


@given(small_labels, small_labels, thresholds, st.permutations(range(1, 6)), st.integers(1, 400_000_000))
def test_ids_do_not_matter(truth: Labels, predicted: Labels, iou: float, order: list[int], step: int) -> None:
    lookup = np.array([0, *order], np.int32) * np.int32(step)
    a, b = match(truth, predicted, iou), match(lookup[truth], predicted, iou)
    assert (a.tp, a.fp, a.fn) == (b.tp, b.fp, b.fn)
    assert a.iou_sum == pytest.approx(b.iou_sum)


@given(small_labels, small_labels, thresholds)
def test_swapping_the_images_swaps_precision_and_recall(truth: Labels, predicted: Labels, iou: float) -> None:
    a, b = match(truth, predicted, iou), match(predicted, truth, iou)
    assert (a.precision, a.recall) == (b.recall, b.precision)
    assert (a.f1, a.average_precision) == (b.f1, b.average_precision)
    assert a.panoptic_quality == pytest.approx(b.panoptic_quality)


@given(small_labels)
def test_equal_labels_are_perfect(labels: Labels) -> None:
    found = match(labels, labels, 1.0)
    assert [getattr(found, name) for name in FIGURES] == [1.0] * 6
    assert found.tp == np.count_nonzero(np.unique(labels))


def test_figures_follow_their_definitions() -> None:
    truth = np.zeros((10, 30), np.int32)
    truth[:, :10], truth[:, 10:20], truth[:4, 20:] = 1, 2, 3
    predicted = np.zeros_like(truth)
    predicted[:, :10], predicted[:, 12:20], predicted[6:, 20:25], predicted[6:, 25:] = 7, 8, 9, 10
    found = match(truth, predicted)
    assert (found.tp, found.fp, found.fn) == (2, 2, 1)
    assert found.truth_ids.tolist() == [1, 2]
    assert found.predicted_ids.tolist() == [7, 8]
    assert found.ious.tolist() == [1.0, 0.8]
    values = [found.precision, found.recall, found.f1, found.average_precision, found.mean_matched_iou]
    assert values == pytest.approx([2 / 4, 2 / 3, 4 / 7, 2 / 5, 0.9])
    assert found.panoptic_quality == pytest.approx(1.8 / (2 + 1.5))
    assert found.panoptic_quality == pytest.approx(found.mean_matched_iou * found.f1)


def test_an_iou_equal_to_the_threshold_matches_once() -> None:
    """A cell cut into equal halves: both have an IoU of exactly 0.5, one of them counts."""
    truth = np.ones((10, 20), np.int32)
    halves = truth.copy()
    halves[:, 10:] = 2
    assert (match(truth, halves).tp, match(truth, halves).fp) == (1, 1)
    assert (match(halves, truth).tp, match(halves, truth).fn) == (1, 1)
    assert match(truth, halves, 0.51).tp == 0


def test_more_pairs_win_over_a_better_pair() -> None:
    """True A overlaps P best, but only if A takes Q can B have P."""
    truth = np.array([[1] * 6 + [2] * 4], np.int32)
    predicted = np.array([[5] * 2 + [6] * 8], np.int32)
    assert match(truth, predicted, 0.2).tp == 2
    assert match(truth, predicted, 0.2).predicted_ids.tolist() == [5, 6]


@pytest.mark.parametrize(
    ("truth", "predicted", "expected"),
    [
        (np.zeros((5, 5)), np.zeros((5, 5)), [1.0] * 6),
        (np.zeros((5, 5)), np.ones((5, 5)), [0.0] * 6),
        (np.ones((5, 5)), np.zeros((5, 5)), [0.0] * 6),
        (np.ones((1, 1)), np.ones((1, 1)), [1.0] * 6),
        (np.zeros((0, 7)), np.zeros((0, 7)), [1.0] * 6),
    ],
    ids=["both empty", "no truth", "no prediction", "one pixel", "no pixels"],
)
def test_empty_images(truth: Labels, predicted: Labels, expected: list[float]) -> None:
    assert [getattr(match(truth, predicted), name) for name in FIGURES] == expected


def test_70_000_cells() -> None:
    rows, columns = np.mgrid[:1060, :1060] // 4
    truth = (rows * 265 + columns + 1).astype(np.int32)
    predicted = truth.copy()
    predicted[::4, ::4] = 0
    predicted[:4, :4] = 0
    found = match(truth, predicted)
    assert (found.tp, found.fp, found.fn) == (265 * 265 - 1, 0, 1)
    assert found.mean_matched_iou == pytest.approx(15 / 16)


def test_inputs_stay_as_they_are(cells: Labels) -> None:
    before = cells.copy()
    cells.flags.writeable = False
    assert match(cells, cells[::-1]).truth_ids.dtype == np.int64
    assert (cells == before).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int64, np.float32])
def test_any_whole_numbers_are_labels(cells: Labels, dtype: type) -> None:
    assert match(cells.astype(dtype), np.asfortranarray(cells)).tp == cells.max()


def test_other_shapes_are_refused_with_both() -> None:
    with pytest.raises(InputError, match=r"\(4, 5\).*\(5, 4\)"):
        match(np.zeros((4, 5), int), np.zeros((5, 4), int))


@pytest.mark.parametrize("which", ["truth", "predicted"])
def test_float_images_are_refused(which: str) -> None:
    images = {"truth": np.zeros((4, 4)), "predicted": np.zeros((4, 4))}
    images[which] = np.full((4, 4), 0.5)
    with pytest.raises(InputError, match=f"{which}.*whole numbers"):
        match(images["truth"], images["predicted"])


@pytest.mark.parametrize("iou", [0, -0.1, 1.01, float("nan")])
def test_impossible_thresholds_are_refused(iou: float) -> None:
    with pytest.raises(InputError, match="threshold"):
        match(np.zeros((4, 4)), np.zeros((4, 4)), iou)


def test_match_shows_what_it_found() -> None:
    found = match(np.ones((2, 2)), np.ones((2, 2)))
    assert isinstance(found, Match)
    assert "tp=1" in repr(found)
