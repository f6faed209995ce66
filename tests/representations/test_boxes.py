"""Boxes: decoding, complete IoU, anchors, the loss and non-maximum suppression equal their slow twins."""

from __future__ import annotations

import math
import time
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from cellweave import _kernels
from cellweave.core.errors import InputError
from cellweave.nets import AnchorUNet
from cellweave.representations.boxes import (
    ANCHORS,
    GRID,
    TrueBoxes,
    assign_anchors,
    complete_iou,
    decode_boxes,
    detection_loss,
    non_maximum_suppression,
    true_boxes,
)

Boxes = NDArray[np.float32]
Box = tuple[float, float, float, float]


def overlap(a: Boxes, b: Boxes) -> float:
    """IoU of two boxes, 0 when nothing is shared."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if height <= 0 or width <= 0:
        return 0.0
    shared = height * width
    return float(shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared))


# --- non-maximum suppression ----------------------------------------------------------------------------------


def slow_suppression(boxes: Boxes, scores: Boxes, iou: float) -> list[int]:
    """Every box against every better one that was kept."""
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        box = boxes[i]
        usable = np.isfinite(box).all() and np.isfinite(scores[i]) and box[2] > box[0] and box[3] > box[1]
        if usable and not any(overlap(boxes[k], box) > iou for k in kept):
            kept.append(int(i))
    return kept


def crowd(seed: int, n: int, side: float) -> tuple[Boxes, Boxes]:
    """Boxes of all sizes, many around the same centers; scores with ties."""
    rng = np.random.default_rng(seed)
    cells = max(1, n // 8)
    center, sides = rng.uniform(0, side, (cells, 2)), np.exp(rng.uniform(np.log(3), np.log(300), (cells, 1)))
    which = rng.integers(0, cells, n)
    sides = sides[which] * np.exp(rng.normal(0, 0.2, (n, 2)))
    center = center[which] + rng.normal(0, 0.15, (n, 2)) * sides
    boxes = np.concatenate([center - sides / 2, center + sides / 2], axis=1)
    return boxes.astype(np.float32), (rng.integers(0, 50, n) / 50).astype(np.float32)


corners = st.integers(0, 7).map(float)
numbers = st.one_of(corners, st.floats(-1e6, 1e6, width=32), st.sampled_from([math.nan, math.inf, -math.inf]))
thresholds = st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 0.6, 0.9, 1.0])


@settings(max_examples=200)
@given(st.data(), st.integers(0, 25), thresholds)
def test_suppression_of_any_few_boxes_equals_the_twin(data: st.DataObject, n: int, iou: float) -> None:
    boxes = data.draw(arrays(np.float32, (n, 4), elements=st.one_of(corners, numbers)))
    scores = data.draw(arrays(np.float32, n, elements=st.sampled_from([0.0, 0.25, 1.0, -2.0, math.nan])))
    assert non_maximum_suppression(boxes, scores, iou=iou).tolist() == slow_suppression(boxes, scores, iou)


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.integers(1, 300), st.sampled_from([30.0, 500.0, 5000.0]), thresholds)
def test_suppression_in_crowds_equals_the_twin(seed: int, n: int, side: float, iou: float) -> None:
    boxes, scores = crowd(seed, n, side)
    assert non_maximum_suppression(boxes, scores, iou=iou).tolist() == slow_suppression(boxes, scores, iou)


def test_suppression_over_many_pieces_equals_the_twin() -> None:
    """More boxes than the kernel compares at once."""
    boxes, scores = crowd(1, 1500, 1200.0)
    kept = non_maximum_suppression(boxes, scores, iou=0.3)
    assert kept.tolist() == slow_suppression(boxes, scores, 0.3)
    assert 50 < len(kept) < 1000


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_change_nothing(threads: int) -> None:
    boxes, scores = crowd(2, 20_000, 2000.0)
    order = np.argsort(-scores, kind="stable")
    keep, expected = np.empty(len(order), np.uint8), np.zeros(len(order), bool)
    _kernels.box_nms(boxes[order], 0.6, keep, threads)
    expected[non_maximum_suppression(boxes, scores, iou=0.6)] = True
    assert np.array_equal(keep.view(bool), expected[order])


def test_a_dropped_box_drops_none() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 4, 10, 14], [0, 8, 10, 18]], np.float32)
    assert non_maximum_suppression(boxes, np.array([0.9, 0.8, 0.7]), iou=0.3).tolist() == [0, 2]
    assert non_maximum_suppression(boxes, np.array([0.8, 0.9, 0.7]), iou=0.3).tolist() == [1]


def test_ties_go_by_index_and_the_threshold_itself_is_no_overlap() -> None:
    boxes = np.array([[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 4], [0, 0, 4, 4]], np.float32)
    assert non_maximum_suppression(boxes, np.ones(4), iou=0.5).tolist() == [0, 2, 3]
    assert non_maximum_suppression(boxes, np.ones(4), iou=0.49).tolist() == [0, 3]
    assert non_maximum_suppression(boxes, np.ones(4), iou=1).tolist() == [0, 1, 2, 3]


def test_boxes_without_area_or_with_nan_are_left_out() -> None:
    boxes = np.array([[0, 0, 2, 0], [0, 0, np.nan, 2], [3, 3, 1, 5], [0, 0, 2, np.inf], [0, 0, 2, 2], [5, 5, 6, 6]])
    scores = np.array([1, 1, 1, 1, 0.5, np.nan])
    before = boxes.copy()
    kept = non_maximum_suppression(boxes, scores, iou=0.5)
    assert kept.tolist() == [4]
    assert kept.dtype == np.int64
    assert np.array_equal(boxes, before, equal_nan=True)
    assert non_maximum_suppression(np.empty((0, 4)), np.empty(0), iou=0.5).shape == (0,)


def test_boxes_anywhere_and_of_any_size() -> None:
    """Far apart, huge and tiny: neither memory nor the result depends on the extent."""
    boxes = [[y, x, y + s, x + s] for y, x, s in product((-3e8, 0, 1e12), (0, 7e15), (1e-20, 1, 3e6, 1e18))]
    boxes = np.array(boxes + boxes, np.float32)
    scores = np.linspace(1, 0, len(boxes)).astype(np.float32)
    assert non_maximum_suppression(boxes, scores, iou=0.6).tolist() == slow_suppression(boxes, scores, 0.6)


def test_fifty_thousand_boxes() -> None:
    """5,000 cells that do not touch, ten boxes each: exact, in far less than a second of processor time."""
    rng = np.random.default_rng(0)
    side = rng.uniform(8, 40, (5000, 1, 1))
    corner = 60.0 * np.stack(np.divmod(np.arange(5000), 70), axis=1)[:, None] + 10 + rng.uniform(-3, 3, (5000, 10, 2))
    boxes = np.concatenate([corner, corner + side], axis=2).astype(np.float32)
    scores = rng.random((5000, 10), np.float32)
    expected = [10 * k + i for k in range(5000) for i in slow_suppression(boxes[k], scores[k], 0.6)]
    start = time.process_time()
    kept = non_maximum_suppression(boxes.reshape(-1, 4), scores.ravel(), iou=0.6)
    assert time.process_time() - start < 1
    assert sorted(kept.tolist()) == sorted(expected)
    assert (np.diff(scores.ravel()[kept]) <= 0).all()


@pytest.mark.parametrize(
    ("boxes", "scores", "iou", "message"),
    [
        (np.zeros((3, 5)), np.zeros(3), 0.5, r"\(3, 5\).*\(N, 4\): y0, x0, y1, x1"),
        (np.zeros((3, 4)), np.zeros(2), 0.5, r"\(3, 4\) and scores \(2,\)"),
        (np.zeros(4), np.zeros(1), 0.5, r"\(4,\)"),
        (np.zeros((1, 4)), np.zeros(1), 1.5, "iou is 1.5.*between 0 and 1"),
        (np.zeros((1, 4)), np.zeros(1), math.nan, "iou is nan"),
    ],
)
def test_wrong_arguments_of_suppression(boxes: Boxes, scores: Boxes, iou: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        non_maximum_suppression(boxes, scores, iou=iou)


# --- decoding -------------------------------------------------------------------------------------------------


def sigmoid(t: float) -> float:
    return 1 / (1 + math.exp(-t))


def slow_box(t: list[float], anchor: int, row: int, column: int) -> Box:
    """A box by the formulas, one number after the other."""
    y, x = (2 * sigmoid(t[0]) - 0.5 + row) * 8, (2 * sigmoid(t[1]) - 0.5 + column) * 8
    height, width = (side * (2 * sigmoid(v)) ** 2 for side, v in zip(ANCHORS[anchor], t[2:4], strict=True))
    return y - height / 2, x - width / 2, y + height / 2, x + width / 2


def test_decoding_equals_the_formulas() -> None:
    torch.manual_seed(0)
    numbers = torch.randn(2, 3, 6, 3, 4, dtype=torch.float64) * 2
    boxes, scores = decode_boxes(numbers)
    assert boxes.shape == (2, 36, 4)
    assert boxes.dtype == scores.dtype == torch.float32
    for n, (image, anchor, row, column) in enumerate(product(range(2), range(3), range(3), range(4))):
        t = numbers[image, anchor, :, row, column].tolist()
        assert boxes[image, n % 36].tolist() == pytest.approx(slow_box(t, anchor, row, column), abs=1e-3)
        assert scores[image, n % 36].item() == pytest.approx(sigmoid(t[4]) * sigmoid(t[5]), rel=1e-5)


def test_zeros_are_the_anchors_in_the_middle_of_their_cells() -> None:
    boxes, scores = decode_boxes(torch.zeros(1, 3, 6, 2, 2))
    assert boxes[0, 3].tolist() == [12 - 11, 12 - 11, 12 + 11, 12 + 11]
    assert boxes[0, 8].tolist() == [4 - 99.5, 4 - 95, 4 + 99.5, 4 + 95]
    assert (scores == 0.25).all()


@pytest.mark.parametrize("shape", [(1, 3, 5, 2, 2), (1, 2, 6, 2, 2), (3, 6, 2, 2)])
def test_heads_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    truth = TrueBoxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.bool))
    with pytest.raises(InputError, match=r"\(B, 3, 6, Y / 8, X / 8\)"):
        decode_boxes(torch.zeros(shape))
    with pytest.raises(InputError, match=r"\(B, 3, 6, Y / 8, X / 8\)"):
        detection_loss(torch.zeros(shape), truth)


# --- complete IoU ---------------------------------------------------------------------------------------------


def slow_complete_iou(a: Box, b: Box, weight: float | None = None) -> float:
    """By the equations; `weight` takes the place of the trade-off, which gradients hold constant."""
    iou = overlap(np.array(a), np.array(b))
    distance = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
    diagonal = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    shapes = [math.atan((box[3] - box[1]) / (box[2] - box[0])) for box in (a, b)]
    v = 4 / math.pi**2 * (shapes[0] - shapes[1]) ** 2
    if weight is None:
        weight = v / (1 - iou + v) if v else 0.0
    return iou - distance / diagonal - weight * v


sides = st.floats(1, 50)
boxes_drawn = st.tuples(st.floats(-20, 20), st.floats(-20, 20), sides, sides).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@given(boxes_drawn, boxes_drawn)
def test_complete_iou_equals_the_equations(a: Box, b: Box) -> None:
    ours = complete_iou(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)).item()
    assert ours == pytest.approx(slow_complete_iou(a, b), abs=1e-6)
    assert -2 < ours < 1 + 1e-9


@given(boxes_drawn, boxes_drawn, st.integers(0, 3))
def test_gradient_of_complete_iou_is_the_slope(a: Box, b: Box, k: int) -> None:
    """Finite differences of the equations, with the trade-off held."""
    iou = overlap(np.array(a), np.array(b))
    v = 4 / math.pi**2 * np.diff([math.atan((box[3] - box[1]) / (box[2] - box[0])) for box in (a, b)])[0] ** 2
    weight = v / (1 - iou + v + 1e-7)
    x = torch.tensor(a, dtype=torch.float64, requires_grad=True)
    complete_iou(x, torch.tensor(b, dtype=torch.float64)).backward()
    assert x.grad is not None
    slopes = []
    for step in (1e-5, -1e-5):  # on both sides, as the IoU has corners
        moved = tuple(value + step * (i == k) for i, value in enumerate(a))
        slopes.append((slow_complete_iou(moved, b, weight) - slow_complete_iou(a, b, weight)) / step)  # type: ignore[arg-type]
    slope = x.grad[k].item()
    assert min(slopes) - 1e-3 <= slope <= max(slopes) + 1e-3


@given(boxes_drawn, boxes_drawn, st.floats(0.5, 20), st.floats(-100, 100))
def test_complete_iou_does_not_depend_on_place_scale_and_axes(a: Box, b: Box, zoom: float, shift: float) -> None:
    x, y = torch.tensor([a, b], dtype=torch.float64)
    value = complete_iou(x, y)
    torch.testing.assert_close(complete_iou(x * zoom + shift, y * zoom + shift), value, atol=1e-5, rtol=0)
    swap = [1, 0, 3, 2]
    torch.testing.assert_close(complete_iou(x[swap], y[swap]), value, atol=1e-5, rtol=0)


def test_complete_iou_by_hand() -> None:
    one = torch.tensor([0.0, 0.0, 2.0, 2.0])
    assert complete_iou(one, one).item() == pytest.approx(1)
    assert complete_iou(one, one + 2).item() == pytest.approx(-(4 + 4) / (16 + 16))
    v = 4 / math.pi**2 * (math.atan(1) - math.atan(2)) ** 2
    expected = 1 / 2 - 1**2 / (2**2 + 4**2) - v / (1 - 1 / 2 + v) * v
    assert complete_iou(one, torch.tensor([0.0, 0.0, 2.0, 4.0])).item() == pytest.approx(expected)


def test_gradients_are_finite_for_any_numbers() -> None:
    truth = TrueBoxes(torch.tensor([[4.0, 4, 20, 20]]), torch.tensor([0]), torch.tensor([True]))
    for value in (-300.0, -30.0, 30.0, 300.0):
        numbers = torch.full((1, 3, 6, 4, 4), value, requires_grad=True)
        loss = detection_loss(numbers, truth)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(numbers.grad).all()


# --- assignment -----------------------------------------------------------------------------------------------


def slow_assignment(boxes: list[Box], rows: int, columns: int) -> set[tuple[int, int, int, int]]:
    found = set()
    for n, (y0, x0, y1, x1) in enumerate(boxes):
        worst = []
        for height, width in ANCHORS:
            a, b = (y1 - y0) / height, (x1 - x0) / width
            worst.append(max(a, 1 / a, b, 1 / b))
        anchors = [k for k in range(3) if worst[k] < 4] or [worst.index(min(worst))]
        y, x = (y0 + y1) / 16, (x0 + x1) / 16
        row, column = math.floor(y), math.floor(x)
        cells = [(row, column)]
        if y - row != 0.5:
            cells.append((row + (1 if y - row > 0.5 else -1), column))
        if x - column != 0.5:
            cells.append((row, column + (1 if x - column > 0.5 else -1)))
        found |= {(n, k, r, c) for k in anchors for r, c in cells if 0 <= r < rows and 0 <= c < columns}
    return found


pixel_boxes = st.tuples(st.integers(0, 63), st.integers(0, 95), st.integers(1, 64), st.integers(1, 96)).map(
    lambda b: (float(b[0]), float(b[1]), float(min(64, b[0] + b[2])), float(min(96, b[1] + b[3])))
)


@given(st.lists(pixel_boxes, max_size=6))
def test_assignment_equals_the_rule(boxes: list[Box]) -> None:
    box, anchor, cell = assign_anchors(torch.tensor(boxes).reshape(-1, 4), 8, 12)
    found = list(zip(box.tolist(), anchor.tolist(), *cell.T.tolist(), strict=True))
    assert len(set(found)) == len(found)
    assert set(found) == slow_assignment(boxes, 8, 12)
    assert set(box.tolist()) == set(range(len(boxes)))


@given(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(6, 200), st.integers(6, 200)))
def test_assigned_anchors_can_give_the_box(corner: tuple[int, int, int, int]) -> None:
    """Numbers exist that decode to the box, in each assigned place."""
    y, x, height, width = corner
    true = torch.tensor([[y, x, y + height, x + width]], dtype=torch.float32)
    _, anchor, cell = assign_anchors(true, 32, 32)
    for k, (row, column) in zip(anchor.tolist(), cell.tolist(), strict=True):
        sides = torch.tensor([height, width]) / torch.tensor(ANCHORS[k])
        if sides.max() > 3.9:
            continue
        center = (true[0, :2] + true[0, 2:]) / 2 / GRID - torch.tensor([row, column])
        t = torch.logit(torch.cat([(center + 0.5) / 2, sides.sqrt() / 2]))
        assert slow_box(t.tolist(), k, row, column) == pytest.approx(true[0].tolist(), abs=1e-2)


def test_boxes_that_no_anchor_fits_take_the_nearest() -> None:
    _, anchor, _ = assign_anchors(torch.tensor([[0.0, 0.0, 3.0, 3.0], [0.0, 10.0, 20.0, 290.0]]), 40, 40)
    assert anchor.tolist() == [0, 1, 1, 1]  # 3 x 3 px in the corner: no cells before its own; 20 x 280 px


# --- true boxes -----------------------------------------------------------------------------------------------


def slow_true_boxes(labels: NDArray[np.int64]) -> dict[tuple[int, int], Box]:
    found = {}
    for image, picture in enumerate(labels):
        for code in np.unique(picture[picture > 0]):
            y, x = np.nonzero(picture == code)
            found[image, int(code)] = (float(y.min()), float(x.min()), float(y.max() + 1), float(x.max() + 1))
    return found


@given(arrays(np.int64, st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)), elements=st.integers(0, 4)))
def test_true_boxes_equal_the_twin(labels: NDArray[np.int64]) -> None:
    expected = slow_true_boxes(labels)
    for code in (torch.from_numpy(labels), torch.from_numpy(labels).half()):
        found = true_boxes(code, torch.ones(labels.shape))
        assert [tuple(box) for box in found.boxes.tolist()] == list(expected.values())
        assert found.image.tolist() == [image for image, _ in expected]


def test_objects_of_which_little_is_left_do_not_count() -> None:
    """One of 100 px each, of which 19, 20, 100 and 7 px are in the crop; and one of 25."""
    code, size = torch.zeros(1, 40, 20), torch.full((1, 40, 20), 10.0)
    code[0, 0, :19], code[0, 2, :20], code[0, 4:14, :10], code[0, 15, :7], code[0, 20:25, 5:10] = 1, 2, 3, 4, 5
    size[0, 20:25] = 5
    found = true_boxes(code, size)
    assert found.counts.tolist() == [False, True, True, False, True]
    assert found.boxes[4].tolist() == [20, 5, 25, 10]
    assert true_boxes(code, size / 3).counts[:2].tolist() == [False, False]  # more than there can be
    assert not true_boxes(code, size * 10).counts.any()


def test_objects_with_one_code_do_not_count() -> None:
    """The box of both would hold everything between them."""
    code, size = torch.zeros(2, 30, 30), torch.zeros(2, 30, 30)
    code[0, :4, :4], size[0, :4, :4] = 7, 4
    code[0, 20:29, 20:29], size[0, 20:29, 20:29] = 7, 9
    code[1, 5:9, 5:9], size[1, 5:9, 5:9] = 7, 4
    found = true_boxes(code, size)
    assert found.counts.tolist() == [False, True]
    assert found.image.tolist() == [0, 1]


def test_no_objects() -> None:
    found = true_boxes(torch.zeros(2, 8, 8), torch.zeros(2, 8, 8))
    assert found.boxes.shape == (0, 4)
    numbers = torch.randn(2, 3, 6, 1, 1, requires_grad=True)
    loss = detection_loss(numbers, found)
    loss.backward()
    assert loss.item() == 0
    assert not numbers.grad.any()


# --- loss -----------------------------------------------------------------------------------------------------


def truth_of(*boxes: tuple[int, Box, bool]) -> TrueBoxes:
    return TrueBoxes(
        torch.tensor([b for _, b, _ in boxes]).reshape(-1, 4),
        torch.tensor([image for image, _, _ in boxes], dtype=torch.long),
        torch.tensor([counts for _, _, counts in boxes], dtype=torch.bool),
    )


def cross_entropy(logit: float, target: float) -> float:
    return -target * math.log(sigmoid(logit)) - (1 - target) * math.log(1 - sigmoid(logit))


def slow_loss(numbers: torch.Tensor, truth: TrueBoxes, box: float, objectness: float) -> float:
    """One anchor after the other."""
    batch, _, _, rows, columns = numbers.shape
    values = numbers.double().tolist()
    target: dict[tuple[int, int, int, int], float] = {}
    ignored, missed = set(), []
    boxes = [tuple(b) for b in truth.boxes.tolist()]
    for n, anchor, row, column in sorted(slow_assignment(boxes, rows, columns)):  # type: ignore[arg-type]
        place = int(truth.image[n]), anchor, row, column
        if not truth.counts[n]:
            ignored.add(place)
            continue
        t = [values[place[0]][anchor][k][row][column] for k in range(6)]
        iou = slow_complete_iou(slow_box(t, anchor, row, column), boxes[n])  # type: ignore[arg-type]
        missed.append(1 - iou + cross_entropy(t[5], 1))
        target[place] = max(iou, target.get(place, 0.0))
    total = weights = 0.0
    for image in range(batch):
        n_k = int(truth.counts[truth.image == image].sum())
        if n_k:
            places = [
                p for p in product([image], range(3), range(rows), range(columns)) if p in target or p not in ignored
            ]
            wrong = [cross_entropy(values[i][a][4][r][c], target.get((i, a, r, c), 0)) for i, a, r, c in places]
            total, weights = total + sum(wrong) / len(wrong) / n_k, weights + 1 / n_k
    found = objectness * total / weights if weights else 0.0
    return found + (box * sum(missed) / len(missed) if missed else 0.0)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 2), pixel_boxes, st.booleans()), max_size=8), st.integers(0, 1000))
def test_loss_equals_the_twin(boxes: list[tuple[int, Box, bool]], seed: int) -> None:
    torch.manual_seed(seed)
    numbers, truth = torch.randn(3, 3, 6, 8, 12), truth_of(*boxes)
    ours = detection_loss(numbers, truth, box=0.3, objectness=0.7).item()
    assert ours == pytest.approx(slow_loss(numbers, truth, 0.3, 0.7), rel=1e-3, abs=1e-5)


def test_weights_of_images_by_hand() -> None:
    """Images of 1, 3 and 0 boxes: weights 1 / (1 + 1/3), 1/3 / (1 + 1/3) and 0."""
    one, apart = (2.0, 2.0, 20.0, 20.0), [(2.0, 2.0, 20.0, 20.0), (30.0, 2.0, 50.0, 22.0), (30.0, 40.0, 48.0, 60.0)]
    truth = truth_of((0, one, True), *((1, b, True) for b in apart))
    logits = torch.tensor([-1.0, -2.0, 3.0], requires_grad=True)
    numbers = torch.full((3, 3, 6, 8, 8), -20.0)  # boxes without extent: their CIoU is no target
    numbers[:, :, 4] = logits[:, None, None, None]
    loss = detection_loss(numbers, truth, box=0.0)
    wrong = F.softplus(logits.detach())
    assert loss.item() == pytest.approx((0.75 * wrong[0] + 0.25 * wrong[1]).item(), rel=1e-5)
    loss.backward()
    expected = torch.tensor([0.75, 0.25, 0]) * torch.sigmoid(logits.detach())
    torch.testing.assert_close(logits.grad, expected)


def test_rests_of_cells_are_neither_found_nor_missed() -> None:
    """Objectness at a box that does not count changes nothing; elsewhere it does."""
    box = (40.0, 40.0, 60.0, 60.0)
    truth = truth_of((0, (2.0, 2.0, 20.0, 20.0), True), (0, box, False))
    numbers = torch.randn(1, 3, 6, 8, 8, requires_grad=True)
    detection_loss(numbers, truth).backward()
    grad = numbers.grad
    assert grad is not None
    _, anchor, cell = assign_anchors(torch.tensor([box]), 8, 8)
    assert not grad[0, anchor, :, cell[:, 0], cell[:, 1]].any()
    left = torch.ones(3, 8, 8, dtype=torch.bool)
    left[anchor, cell[:, 0], cell[:, 1]] = False
    assert grad[0, :, 4][left].all()


def test_order_of_boxes_and_storage_change_nothing() -> None:
    torch.manual_seed(0)
    numbers, boxes = torch.randn(2, 18, 8, 8), torch.rand(9, 2) * 40
    sides = torch.rand(9, 2) * 20 + 3
    truth = TrueBoxes(torch.cat([boxes, boxes + sides], 1), torch.arange(9) % 2, torch.arange(9) > 1)
    turned = TrueBoxes(*(part.flip(0) for part in truth))
    loss = detection_loss(numbers.unflatten(1, (3, 6)), truth)
    other = numbers.to(memory_format=torch.channels_last).unflatten(1, (3, 6))
    torch.testing.assert_close(detection_loss(other, turned), loss)
    half = detection_loss(numbers.bfloat16().unflatten(1, (3, 6)), truth)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(loss.item(), rel=0.05)


def test_a_right_head_has_the_least_loss() -> None:
    """Numbers that decode to the boxes, with sure objectness, lose nearly nothing."""
    truth = truth_of((0, (8.0, 8.0, 30.0, 30.0), True))
    numbers = torch.zeros(1, 3, 6, 8, 8)
    numbers[:, :, 4] = -20
    index, anchor, cell = assign_anchors(truth.boxes, 8, 8)
    for k, (row, column) in zip(anchor.tolist(), cell.tolist(), strict=True):
        center = torch.tensor([19.0, 19.0]) / GRID - torch.tensor([row, column])
        sides = 22 / torch.tensor(ANCHORS[k])
        numbers[0, k, :4, row, column] = torch.logit(torch.cat([(center + 0.5) / 2, sides.sqrt() / 2]))
        numbers[0, k, 4:, row, column] = 20
    assert len(index) > 1
    assert detection_loss(numbers, truth).item() < 1e-4


def test_a_small_net_learns_the_boxes_of_one_image(one_thread: None) -> None:
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    code = torch.zeros(1, 96, 96)
    for k, (row, column, radius) in enumerate([(20, 22, 12), (60, 30, 9), (40, 66, 15), (80, 80, 10), (14, 80, 8)]):
        code[0][((y - row) ** 2 + (x - column) ** 2) < radius**2] = k + 1
    size = torch.bincount(code.long().ravel()).float().sqrt()[code.long()]
    image = 0.2 + 0.6 * (code > 0).float().expand(3, -1, -1)[None] + 0.05 * torch.randn(1, 3, 96, 96)
    truth = true_boxes(code, size)
    net = AnchorUNet(widths=(8, 16, 16, 16)).train()
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    losses = []
    for _ in range(150):
        loss = detection_loss(net(image).boxes, truth, box=0.5, objectness=10.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]
    with torch.no_grad():
        boxes, scores = (part[0].numpy() for part in decode_boxes(net(image).boxes))
    boxes, scores = boxes[scores > 0.2], scores[scores > 0.2]
    found = boxes[non_maximum_suppression(boxes, scores, iou=0.4)]
    assert len(found) == 5
    assert all(max(overlap(box, true) for box in found) > 0.6 for true in truth.boxes.numpy())
