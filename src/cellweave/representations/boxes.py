"""Boxes of cells: what the numbers of a detection head mean, its loss, and non-maximum suppression.

A box is ``y0, x0, y1, x1`` in px, pixel k spanning k to k + 1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from cellweave import _kernels
from cellweave.core.errors import InputError

GRID = 8
"""Side in px of a cell of the grid that anchors stand on."""
ANCHORS = ((22.0, 22.0), (46.0, 46.0), (199.0, 190.0))
"""Height and width in px of the anchors in each cell, those of the published settings."""
LARGEST_RATIO = 4.0
"""An anchor is for boxes whose height and width are within this factor of its own."""
SMALLEST_SHARE, LARGEST_SHARE = 0.2, 1.5
"""An object counts when this share of its pixels is in the picture."""


class TrueBoxes(NamedTuple):
    """Boxes of the objects in a batch of images.

    Parameters
    ----------
    boxes
        (N, 4) float32, px.
    image
        (N,) int64: the image of each box.
    counts
        (N,) bool: whether the box counts in the loss. The others are neither found nor missed.
    """

    boxes: torch.Tensor
    image: torch.Tensor
    counts: torch.Tensor


def true_boxes(code: torch.Tensor, size: torch.Tensor, known: torch.Tensor | None = None) -> TrueBoxes:
    """Bounding boxes of the objects of a batch of crops.

    A box counts unless less than 20 % of its object's pixels are left in the crop (Hu et al. 2022, Sec. 3.2.2). Two
    objects of one image that share a code, of which much more is there than one object has, do not count either; nor
    does a box that touches pixels where the truth is not known, since its object may go on there.

    Parameters
    ----------
    code
        (B, Y, X) whole numbers of any dtype, 0 = background: the number of each pixel's object.
    size
        (B, Y, X): square root of the area in px that the pixel's whole object has.
    known
        (B, Y, X) bool: where the truth is known; None for everywhere.

    Returns
    -------
    TrueBoxes
        By image and code.
    """
    image, y, x = (code > 0).nonzero(as_tuple=True)
    pixel_code = code[image, y, x].long()
    codes = int(pixel_code.max()) + 1 if len(pixel_code) else 1
    key = image * codes + pixel_code
    n = len(code) * codes
    share = torch.zeros(n, device=code.device)
    share.index_add_(0, key, size[image, y, x].float().clamp(min=1).pow(-2))
    ends = []
    for position, extent in ((y, code.shape[1]), (x, code.shape[2])):
        first, last = key.new_full((n,), extent), key.new_full((n,), -1)
        ends.append((first.scatter_reduce_(0, key, position, "amin"), last.scatter_reduce_(0, key, position, "amax")))
    (top, bottom), (left, right) = ends
    found = (bottom >= 0).nonzero()[:, 0]
    boxes = torch.stack([top, left, bottom + 1, right + 1], dim=1)[found].float()
    counts = (share[found] >= SMALLEST_SHARE) & (share[found] <= LARGEST_SHARE)
    if known is not None:
        counts &= ~_touched(boxes.long(), found // codes, ~known)
    return TrueBoxes(boxes, found // codes, counts)


def _touched(boxes: torch.Tensor, image: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """(N,) whether each box (N, 4) of an image (N,) holds pixels of `where` (B, Y, X), or lies beside some."""
    sums = F.pad(where.long().cumsum(1).cumsum(2), (1, 0, 1, 0))
    top, left = (boxes[:, :2] - 1).clamp(min=0).unbind(1)
    bottom, right = torch.minimum(boxes[:, 2:] + 1, boxes.new_tensor(where.shape[1:])).unbind(1)
    around = sums[image, bottom, right] - sums[image, top, right] - sums[image, bottom, left] + sums[image, top, left]
    return around > 0


def decode_boxes(numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of a detection head to boxes and scores.

    With the numbers ``ty, tx, th, tw, objectness, class`` of an anchor in a cell of the grid and s the logistic
    function, the center is ``(2 s(t) - 0.5 + cell) * 8``, a side ``anchor * (2 s(t))**2`` and the score
    ``s(objectness) * s(class)``: a box can lie up to half a cell beyond its own cell, and have up to four times the
    sides of its anchor.

    Parameters
    ----------
    numbers
        (B, 3, 6, Y / 8, X / 8), see `NetOutput.boxes`.

    Returns
    -------
    boxes, scores
        (B, N, 4) in px, which may reach beyond the image, and (B, N) in 0..1, float32; N = 3 * Y / 8 * X / 8.

    Raises
    ------
    InputError
        For another number of anchors or numbers.
    """
    numbers = _checked(numbers).movedim(2, -1)
    _, _, rows, columns, _ = numbers.shape
    anchors = numbers.new_tensor(ANCHORS)[:, None, None]
    y = torch.arange(rows, device=numbers.device)[:, None].expand(rows, columns)
    x = torch.arange(columns, device=numbers.device).expand(rows, columns)
    boxes = _to_boxes(numbers[..., :4], anchors, torch.stack([y, x], dim=-1))
    scores = torch.sigmoid(numbers[..., 4]) * torch.sigmoid(numbers[..., 5])
    return boxes.flatten(1, 3), scores.flatten(1)


def complete_iou(predicted: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Complete IoU of pairs of boxes (..., 4), -2 to 1 (Zheng et al. 2020, Eq. 5 and 9-11; Zheng et al. 2021).

    ``IoU - d**2 / c**2 - a * v`` with d the distance of both centers, c the diagonal of the smallest box around both,
    ``v = 4 / pi**2 * (atan(w / h) - atan(w' / h'))**2`` and ``a = v / (1 - IoU + v)``, which counts as a constant in
    gradients. The paper of 2021 sets a = 0 below an IoU of 0.5; detectors, and this function, do not.
    """
    tiny = 1e-7
    sides, true_sides = predicted[..., 2:] - predicted[..., :2], truth[..., 2:] - truth[..., :2]
    shared = torch.minimum(predicted[..., 2:], truth[..., 2:]) - torch.maximum(predicted[..., :2], truth[..., :2])
    intersection = _area(shared.clamp(min=0))
    iou = intersection / (_area(sides) + _area(true_sides) - intersection + tiny)
    around = torch.maximum(predicted[..., 2:], truth[..., 2:]) - torch.minimum(predicted[..., :2], truth[..., :2])
    apart = (predicted[..., :2] + predicted[..., 2:] - truth[..., :2] - truth[..., 2:]) / 2
    distance = apart.pow(2).sum(dim=-1) / (around.pow(2).sum(dim=-1) + tiny)
    shapes = [torch.atan(s[..., 1] / (s[..., 0] + tiny)) for s in (sides, true_sides)]
    v = 4 / math.pi**2 * (shapes[0] - shapes[1]).pow(2)
    with torch.no_grad():
        a = v / (1 - iou + v + tiny)
    return iou - distance - a * v


def assign_anchors(boxes: torch.Tensor, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The anchors of a grid that shall find each box (the rule of YOLOv5).

    Those are the anchors whose height and width are both within a factor of 4 of the box's; in the cell of the box's
    center, and in the next cell up or down and the next left or right, whichever of both is nearer, if it is in the
    grid. Deviation: a box without such an anchor, small or long, takes the one of the least ratio; else cells like it
    would be taught to be background.

    Parameters
    ----------
    boxes
        (N, 4) in px, with centers in the grid.
    rows, columns
        Cells of the grid.

    Returns
    -------
    box, anchor, cell
        (M,), (M,) and (M, 2), int64: number of the box and of the anchor, row and column of the cell.
    """
    ratio = (boxes[:, None, 2:] - boxes[:, None, :2]) / boxes.new_tensor(ANCHORS)
    ratio = torch.maximum(ratio, 1 / ratio).amax(dim=2)
    box, anchor = ((ratio < LARGEST_RATIO) | (ratio == ratio.amin(dim=1, keepdim=True))).nonzero(as_tuple=True)
    center = (boxes[box, :2] + boxes[box, 2:]) / (2 * GRID)
    cell = center.floor()
    step = torch.sign(center - cell - 0.5)
    still = torch.zeros_like(step[:, 0])
    steps = torch.stack([torch.stack(s, dim=1) for s in ((still, still), (step[:, 0], still), (still, step[:, 1]))])
    cells = cell + steps
    inside = ((cells >= 0) & (cells < cells.new_tensor([rows, columns]))).all(dim=2)
    inside[1:] &= steps[1:].any(dim=2)  # a center in the middle of its cell has no nearer neighbour
    which = inside.nonzero()[:, 1]
    return box[which], anchor[which], cells[inside].long()


def detection_loss(
    numbers: torch.Tensor,
    truth: TrueBoxes,
    *,
    known: torch.Tensor | None = None,
    box: float = 0.05,
    objectness: float = 1.0,
) -> torch.Tensor:
    """Loss of a detection head (Hu et al. 2022, Eq. 2-4, the rest as YOLOv5).

    ``objectness * sum_k(w_k * o_k) + box * (mean(1 - CIoU) + mean(BCE(class, 1)))``. Means are over the anchors that
    `assign_anchors` gives to true boxes. o_k is the mean over all anchors of image k of the binary cross entropy of the
    objectness, whose target is the CIoU (0 where negative) at assigned anchors, the best of several, and else 0: the
    confidence of a box is how well it fits (Redmon et al. 2016). w_k is 1 / n_k for n_k boxes, 0 without any, divided
    by the sum over the batch.

    Boxes that do not count are in neither mean nor in n_k, and anchors that only they have are left out of o_k: the net
    is not told that the rest of a cell at the border of a crop is background. Left out, too, are anchors of no box in
    cells of the grid where the truth is not known wholly. The paper's Eq. 4 has no class term; with
    one class it is small, and lifts the score to the objectness.

    Parameters
    ----------
    numbers
        (B, 3, 6, Y / 8, X / 8), see `NetOutput.boxes`.
    truth
        See `true_boxes`.
    known
        (B, Y, X) bool: where the truth is known; None for everywhere.
    box, objectness
        Balance factors.

    Returns
    -------
    torch.Tensor
        Scalar, float32; 0 when no box counts.

    Raises
    ------
    InputError
        For another number of anchors or numbers.
    """
    numbers = _checked(numbers)
    batch, anchor_count, _, rows, columns = numbers.shape
    index, anchor, cell = assign_anchors(truth.boxes, rows, columns)
    image, counts = truth.image[index], truth.counts[index]
    assigned = numbers[image, anchor, :, cell[:, 0], cell[:, 1]]
    overlap = complete_iou(_to_boxes(assigned[:, :4], numbers.new_tensor(ANCHORS)[anchor], cell), truth.boxes[index])
    missed = (1 - overlap + F.softplus(-assigned[:, 5]))[counts]

    slot = ((image * anchor_count + anchor) * rows + cell[:, 0]) * columns + cell[:, 1]
    logits = numbers[:, :, 4].reshape(-1)
    target, weight = torch.zeros_like(logits), torch.ones_like(logits)
    target.scatter_reduce_(0, slot[counts], overlap.detach()[counts].clamp(min=0), "amax")
    if known is not None:
        free = -F.max_pool2d(-known[:, None].float(), GRID).expand(-1, anchor_count, -1, -1)
        weight = free.flatten().to(logits)
    weight[slot[~counts]] = 0
    weight[slot[counts]] = 1
    wrong = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="none")
    by_image = wrong.view(batch, -1).sum(dim=1) / weight.view(batch, -1).sum(dim=1).clamp(min=1)

    n = torch.bincount(truth.image[truth.counts], minlength=batch)
    share = torch.where(n > 0, 1 / n.clamp(min=1), 0)
    share = share / share.sum().clamp(min=torch.finfo(share.dtype).tiny)
    return objectness * (share * by_image).sum() + box * missed.sum() / max(len(missed), 1)


def non_maximum_suppression(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], *, iou: float
) -> NDArray[np.int64]:
    """The boxes that no better one overlaps by more than `iou`.

    Boxes come in the order of their scores, equal ones in that of their indices; each is kept unless its IoU with one
    that was kept is above `iou`. The paper (Sec. 2.4) does so within patches of the image first when there are very
    many boxes, and so loses some to others that are dropped themselves afterwards. This is exact for any number of
    boxes: it compares only neighbours of like size, and runs on all cores.

    Parameters
    ----------
    boxes
        (N, 4) float, px. Boxes without an area, or with a NaN or an infinite number or score, are left out.
    scores
        (N,) float.
    iou
        0 to 1.

    Returns
    -------
    numpy.ndarray
        Indices of the boxes that are kept, (K,) int64, the best first.

    Raises
    ------
    InputError
        For other shapes, or an `iou` outside of 0..1.
    """
    boxes, scores = np.asarray(boxes, np.float32), np.asarray(scores, np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise InputError(
            f"boxes have shape {boxes.shape} and scores {scores.shape}; they must be (N, 4): y0, x0, y1, x1, and (N,)"
        )
    if not 0 <= iou <= 1:
        raise InputError(f"iou is {iou}; it must be between 0 and 1")
    usable = np.isfinite(boxes).all(axis=1) & np.isfinite(scores) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    order = np.flatnonzero(usable)
    order = order[np.argsort(-scores[order], kind="stable")]
    keep = np.empty(len(order), np.uint8)
    _kernels.box_nms(np.ascontiguousarray(boxes[order]), iou, keep)
    kept: NDArray[np.int64] = order[keep.view(bool)].astype(np.int64)
    return kept


def _checked(numbers: torch.Tensor) -> torch.Tensor:
    """Numbers of a detection head as float32."""
    if numbers.ndim != 5 or numbers.shape[1:3] != (len(ANCHORS), 6):
        raise InputError(
            f"the net's boxes have shape {tuple(numbers.shape)}; they must be (B, {len(ANCHORS)}, 6, Y / 8, X / 8): "
            "anchors, then ty, tx, th, tw, objectness and class"
        )
    return numbers.float()


def _area(sides: torch.Tensor) -> torch.Tensor:
    return sides[..., 0] * sides[..., 1]


def _to_boxes(t: torch.Tensor, anchors: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Boxes (..., 4) of numbers ``ty, tx, th, tw`` (..., 4) for anchors (..., 2) in cells (..., 2)."""
    t = 2 * torch.sigmoid(t)
    center, half = (t[..., :2] - 0.5 + cells) * GRID, anchors * t[..., 2:].pow(2) / 2
    return torch.cat([center - half, center + half], dim=-1)
