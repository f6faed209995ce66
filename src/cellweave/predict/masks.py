"""From overlapping masks with scores to labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellweave.core.labels import Labels

SMALLEST = 20
"""Fewest pixels of an object."""
LEFT = 0.5
"""An object stays when at least this share of its mask is left to it."""


class Mask(NamedTuple):
    """One object of an image.

    Parameters
    ----------
    top, left
        Where `pixels` begin, in px.
    pixels
        (y, x) bool: the object's bounding box.
    score
        The higher, the better.
    source
        Number of the prompt that it comes from.
    """

    top: int
    left: int
    pixels: NDArray[np.bool_]
    score: float
    source: int = 0

    @property
    def box(self) -> tuple[int, int, int, int]:
        """First row and column, last row and column + 1."""
        return self.top, self.left, self.top + self.pixels.shape[0], self.left + self.pixels.shape[1]


def cut(pixels: NDArray[np.bool_], score: float, source: int = 0, *, top: int = 0, left: int = 0) -> Mask | None:
    """The mask of (y, x) pixels that begin at `top` and `left` of the image; None when there are none."""
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        return None
    inner = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
    return Mask(top + int(rows[0]), left + int(columns[0]), inner, score, source)


def mask_iou(first: Mask, second: Mask) -> float:
    """Intersection over union of two masks."""
    top, left = max(first.top, second.top), max(first.left, second.left)
    bottom, right = (min(a, b) for a, b in zip(first.box[2:], second.box[2:], strict=True))
    if top >= bottom or left >= right:
        return 0.0
    parts = [m.pixels[top - m.top : bottom - m.top, left - m.left : right - m.left] for m in (first, second)]
    shared = np.count_nonzero(parts[0] & parts[1])
    return float(shared / (first.pixels.sum() + second.pixels.sum() - shared))


def suppress(masks: Sequence[Mask], *, iou: float) -> list[Mask]:
    """The masks whose IoU with no better one that is kept is above `iou`, the best first; of equals, the first."""
    kept: list[Mask] = []
    boxes = np.zeros((len(masks), 4), np.int64)
    for mask in sorted(masks, key=lambda m: -m.score):
        box = np.array(mask.box)
        others = boxes[: len(kept)]
        near = ((others[:, :2] < box[2:]) & (others[:, 2:] > box[:2])).all(axis=1)
        if not any(mask_iou(mask, kept[k]) > iou for k in np.flatnonzero(near)):
            boxes[len(kept)] = box
            kept.append(mask)
    return kept


def masks_to_labels(
    masks: Sequence[Mask], shape: tuple[int, int], *, min_size: int = SMALLEST
) -> tuple[Labels, list[Mask]]:
    """Labels in which every pixel belongs to the best of its masks.

    Masks come in the order of their scores, equal ones in the given order. Each takes those of its pixels that are
    still free, and of these the largest 4-connected piece. It stays when that is half of the mask or more, and at least
    `min_size` pixels; otherwise its pixels are free again.

    Returns
    -------
    (Y, X) int32 with ids 1..n, and the masks that stay in the order of the ids, as they were given.
    """
    from scipy.ndimage import label

    labels = np.zeros(shape, np.int32)
    kept: list[Mask] = []
    for mask in sorted(masks, key=lambda m: -m.score):
        top, left, bottom, right = mask.box
        window = labels[top:bottom, left:right]
        pieces, n = label(mask.pixels & (window == 0))
        if n == 0:
            continue
        sizes = np.bincount(pieces.ravel())[1:]
        best = int(sizes.argmax())
        if sizes[best] >= max(min_size, LEFT * np.count_nonzero(mask.pixels)):
            kept.append(mask)
            window[pieces == best + 1] = len(kept)
    return labels, kept
