"""Targets that are NaN where no one looked: such pixels have no weight in any loss; without NaN nothing changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cellweave.core.output import NetOutput
from cellweave.representations import DiffusionFlows, DistanceFlows, Representation, StarConvex, WatershedEnergy
from cellweave.representations.boxes import detection_loss, true_boxes
from cellweave.representations.known import known_mean, split_known
from drawing import crowd, draw, ellipse
from outputs import output

SHAPE = (64, 96)
HALF = slice(SHAPE[1] // 2, None)
ALL = [DiffusionFlows(), DistanceFlows(), StarConvex(n_rays=8), WatershedEnergy()]
PIXELWISE = ALL[:3]


def targets(representation: Representation) -> torch.Tensor:
    """(2, T, Y, X) of two crowds."""
    return torch.from_numpy(np.stack([representation.targets(crowd(k, SHAPE)) for k in (0, 1)]))


def outputs(representation: Representation, *, learn: bool = False) -> NetOutput:
    """Random numbers as a net gives them."""
    torch.manual_seed(0)
    maps = torch.randn(2, len(representation.map_names) - representation.points, *SHAPE, requires_grad=learn)
    boxes = torch.randn(2, 3, 6, SHAPE[0] // 8, SHAPE[1] // 8, requires_grad=learn) if representation.points else None
    return output(maps, boxes)


def plain_loss(representation: Representation, given: NetOutput, target: torch.Tensor) -> torch.Tensor:
    """The loss as it was before truths could be unknown."""
    maps = given.maps
    if isinstance(representation, StarConvex):
        probability, distances, predicted = target[:, 0], target[:, 1:], 10.0 * maps[:, 1:]
        found = F.binary_cross_entropy_with_logits(maps[:, 0], probability)
        inside = (probability * (predicted - distances).abs().mean(dim=1)).mean() / (probability.mean() + 1e-7)
        outside = ((probability == 0) * predicted.abs().mean(dim=1)).mean()
        return found + 0.2 * (inside + 1e-4 * outside)
    if isinstance(representation, WatershedEnergy):
        assert given.boxes is not None
        foreground = F.binary_cross_entropy_with_logits(maps[:, 0], (target[:, 1] > 0).float())
        segmentation = foreground + F.mse_loss(maps[:, 1], target[:, 0])
        return 32 * (detection_loss(given.boxes, true_boxes(target[:, 1], target[:, 2])) + 0.1 * segmentation)
    loss = F.mse_loss(maps[:, :2], 5.0 * target[:, :2])
    for k in range(2, target.shape[1]):
        loss = loss + F.binary_cross_entropy_with_logits(maps[:, k], target[:, k])
    return loss


@pytest.mark.parametrize("representation", ALL)
def test_where_all_is_known_nothing_changes(representation: Representation) -> None:
    given, target = outputs(representation), targets(representation)
    assert torch.equal(representation.loss(given, target), plain_loss(representation, given, target))
    half = target.half()  # as targets are kept
    assert torch.equal(representation.loss(given, half.float()), plain_loss(representation, given, half.float()))


@pytest.mark.parametrize("representation", PIXELWISE)
def test_the_loss_is_that_of_the_known_part(representation: Representation) -> None:
    given, target = outputs(representation), targets(representation)
    known = target.clone()
    known[..., HALF] = math.nan
    left = output(given.maps[..., : HALF.start])
    torch.testing.assert_close(representation.loss(given, known), representation.loss(left, target[..., : HALF.start]))


@pytest.mark.parametrize("representation", ALL)
def test_the_net_learns_nothing_where_no_one_looked(representation: Representation) -> None:
    given, target = outputs(representation, learn=True), targets(representation)
    target[1, -1, :, HALF] = math.nan  # one unknown map is enough
    loss = representation.loss(given, target)
    loss.backward()
    assert torch.isfinite(loss)
    assert given.maps.grad is not None
    assert torch.isfinite(given.maps.grad).all()
    assert not given.maps.grad[1, ..., HALF].any()
    assert given.maps.grad[0, ..., HALF].any()
    if given.boxes is not None:
        assert given.boxes.grad is not None
        assert torch.isfinite(given.boxes.grad).all()
        assert given.boxes.grad[1, ..., : HALF.start // 8 - 1].any()


@pytest.mark.parametrize("representation", ALL)
def test_nothing_known_at_all_is_no_error(representation: Representation) -> None:
    given = outputs(representation, learn=True)
    loss = representation.loss(given, torch.full_like(targets(representation), math.nan))
    assert loss.item() == 0
    loss.backward()
    for numbers in (given.maps, given.boxes):
        assert numbers is None or numbers.grad is None or not numbers.grad.any()


@pytest.mark.parametrize("representation", ALL)
def test_unknown_pixels_stay_unknown_when_an_image_is_turned(representation: Representation) -> None:
    target = targets(representation)
    target[1, :, :, HALF] = math.nan
    matrix = torch.tensor([[0.6, -0.8], [0.8, 0.6]]).expand(2, 2, 2)
    turned = representation.transform(target, matrix)
    assert turned[1, :, :, HALF].isnan().all()
    assert torch.isfinite(turned[0]).all()
    assert torch.isfinite(turned[1, :, :, : HALF.start]).all()


def test_boxes_that_touch_unknown_pixels_do_not_count() -> None:
    labels = draw([ellipse((64, 64), 12, y, 6, 6) for y in (10, 32, 54)] + [ellipse((64, 64), 46, 30, 8, 8)])
    code, size = torch.from_numpy(WatershedEnergy().targets(labels))[1:, None]
    known = torch.ones(1, 64, 64, dtype=torch.bool)
    assert true_boxes(code, size, known).counts.tolist() == [True] * 4
    boxes = true_boxes(code, size).boxes.long()
    known[0, 12, boxes[0, 3]] = False  # beside the first, on its right
    known[0, 0, 61:] = False  # near the third, which begins in row 6
    known[0, boxes[3, 0], boxes[3, 1]] = False  # in the corner of the last box, outside of its object
    assert true_boxes(code, size, known).counts.tolist() == [False, True, True, False]


def test_anchors_where_nothing_is_known_are_not_told_that_there_is_no_cell() -> None:
    labels = draw([ellipse((64, 64), 14, 14, 8, 8)])
    code, size = torch.from_numpy(WatershedEnergy().targets(labels))[1:, None]
    known = torch.ones(1, 64, 64, dtype=torch.bool)
    known[:, 40:, 41:] = False
    numbers = torch.zeros(1, 3, 6, 8, 8, requires_grad=True)
    detection_loss(numbers, true_boxes(code, size, known), known=known).backward()
    assert numbers.grad is not None
    told = numbers.grad[0, :, 4].ne(0).all(dim=0)
    assert not told[5:, 5:].any()
    assert told[:5].all()
    assert told[:, :5].all()


def test_a_mean_over_all_pixels_is_the_mean() -> None:
    torch.manual_seed(0)
    values = torch.randn(3, 2, 17, 19)
    known = torch.ones(3, 17, 19, dtype=torch.bool)
    assert torch.equal(known_mean(values, known), values.mean())
    assert torch.equal(known_mean(values.sum(dim=1), known), values.sum(dim=1).mean())
    known[:, 5:] = False
    torch.testing.assert_close(known_mean(values, known), values[:, :, :5].mean())
    target, where = split_known(torch.tensor([[[[1.0, math.nan]], [[2.0, 3.0]]]]))
    assert target.tolist() == [[[[1.0, 0.0]], [[2.0, 0.0]]]]
    assert where.tolist() == [[[True, False]]]
