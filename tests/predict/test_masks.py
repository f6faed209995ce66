"""Masks to labels: every pixel to the best mask, objects in one piece, leftovers dropped."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import label

from cellweave.predict.masks import Mask, cut, mask_iou, masks_to_labels, suppress


def random_masks(seed: int, n: int = 12, shape: tuple[int, int] = (40, 50)) -> tuple[list[Mask], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    whole, masks = [], []
    for k in range(n):
        y, x, radius = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(2, 9)
        pixels = np.hypot(rows - y, columns - x) < radius
        mask = cut(pixels, float(rng.choice([0.2, 0.5, 0.9])), k)
        if mask is not None:
            whole.append(pixels)
            masks.append(mask)
    return masks, whole


def pasted(mask: Mask, shape: tuple[int, int]) -> np.ndarray:
    out = np.zeros(shape, bool)
    top, left, bottom, right = mask.box
    out[top:bottom, left:right] = mask.pixels
    return out


@given(st.integers(0, 2**32 - 1))
def test_a_mask_is_cut_to_its_box_and_knows_its_iou(seed: int) -> None:
    masks, whole = random_masks(seed, 4)
    for first, pixels in zip(masks, whole, strict=True):
        assert (pasted(first, pixels.shape) == pixels).all()
        assert first.pixels[0].any()
        assert first.pixels[:, -1].any()
        for second, others in zip(masks, whole, strict=True):
            assert mask_iou(first, second) == (pixels & others).sum() / (pixels | others).sum()
    assert cut(np.zeros((3, 3), bool), 1.0) is None


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_suppression_keeps_the_best_of_alike_masks(seed: int, iou: float) -> None:
    masks, _ = random_masks(seed)
    expected: list[Mask] = []
    for mask in sorted(masks, key=lambda m: -m.score):
        if all(mask_iou(mask, other) <= iou for other in expected):
            expected.append(mask)
    assert [m.source for m in suppress(masks, iou=iou)] == [m.source for m in expected]


@given(st.integers(0, 2**32 - 1))
def test_every_pixel_belongs_to_its_best_mask(seed: int) -> None:
    masks, _ = random_masks(seed)
    labels, kept = masks_to_labels(masks, (40, 50), min_size=5)
    assert np.unique(labels[labels > 0]).tolist() == list(range(1, len(kept) + 1))
    assert [m.score for m in kept] == sorted((m.score for m in kept), reverse=True)
    taken = np.zeros(labels.shape, bool)
    for k, mask in enumerate(kept, 1):
        mine = labels == k
        free = pasted(mask, labels.shape) & ~taken
        assert not (mine & ~free).any()
        assert label(mine)[1] == 1
        assert mine.sum() >= max(5, mask.pixels.sum() / 2)
        assert mine.sum() == np.bincount(label(free)[0].ravel())[1:].max()
        taken |= mine


def test_what_is_left_of_a_mask_must_be_half_of_it() -> None:
    better, worse, small = np.zeros((3, 10, 20), bool)
    better[:, :10], worse[:, 5:14], small[0, 15:18] = True, True, True
    masks = [cut(worse, 0.5, 0), cut(better, 0.9, 1), cut(small, 0.8, 2)]
    labels, kept = masks_to_labels([m for m in masks if m], (10, 20), min_size=4)
    assert [m.source for m in kept] == [1]  # 4 of 9 columns are left to the first, and the third has 3 pixels
    assert (labels == better).all()
    labels, kept = masks_to_labels([m for m in masks if m], (10, 20), min_size=3)
    assert [m.source for m in kept] == [1, 2]
    assert masks_to_labels([], (4, 5))[0].shape == (4, 5)
