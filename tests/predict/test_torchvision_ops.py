"""torchvision imports and computes beside any PyTorch; what stands in for its operators does as they are documented."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cellweave.core.errors import MissingExtraError
from cellweave.predict.torchvision_ops import load_torchvision, nms, roi_align


def roi_align_twin(
    maps: np.ndarray, rois: np.ndarray, scale: float, bins: tuple[int, int], ratio: int, aligned: bool
) -> np.ndarray:
    """RoIAlign sample by sample."""
    (height, width), offset = maps.shape[2:], 0.5 if aligned else 0.0
    out = np.zeros((len(rois), maps.shape[1], *bins))
    for k, (index, *corners) in enumerate(rois.tolist()):
        x0, y0, x1, y1 = (scale * v - offset for v in corners)
        h, w = y1 - y0, x1 - x0
        if not aligned:
            h, w = max(h, 1.0), max(w, 1.0)
        rows, columns = (ratio, ratio) if ratio > 0 else (math.ceil(h / bins[0]), math.ceil(w / bins[1]))
        for i, j, a, b in np.ndindex(*bins, rows, columns):
            y = y0 + h / bins[0] * (i + (a + 0.5) / rows)
            x = x0 + w / bins[1] * (j + (b + 0.5) / columns)
            if not (-1 <= y <= height and -1 <= x <= width):
                continue
            y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
            low, left = int(y), int(x)
            below, right = min(low + 1, height - 1), min(left + 1, width - 1)
            m, dy, dx = maps[int(index)], y - low, x - left
            value = (1 - dy) * ((1 - dx) * m[:, low, left] + dx * m[:, low, right])
            out[k, :, i, j] += value + dy * ((1 - dx) * m[:, below, left] + dx * m[:, below, right])
        out[k] /= max(rows * columns, 1)
    return out


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([-1, 0, 1, 2, 3]), st.booleans(), st.sampled_from([1.0, 0.5, 0.25]))
def test_roi_align_equals_its_slow_twin(seed: int, ratio: int, aligned: bool, scale: float) -> None:
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(2, 2, *rng.integers(1, 12, 2)))
    rois = np.column_stack([rng.integers(0, 2, 3), rng.uniform(-4, 12, (3, 2)), rng.uniform(-4, 16, (3, 2))])
    rois[:, 3:] = np.maximum(rois[:, 3:], rois[:, 1:3] + rng.choice([0.0, 0.3, 3.0]))
    bins = (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
    found = roi_align(torch.from_numpy(maps), torch.from_numpy(rois), scale, *bins, ratio, aligned)
    np.testing.assert_allclose(found.numpy(), roi_align_twin(maps, rois, scale, bins, ratio, aligned), atol=1e-9)


def test_roi_align_of_a_ramp_is_the_coordinate_of_each_bin() -> None:
    ramp = torch.arange(12.0).expand(1, 1, 9, 12)
    found = roi_align(ramp, torch.tensor([[0, 2.0, 1.0, 8.0, 7.0]]), 1.0, 2, 3, 2, True)
    # Pixel k is centred on k + 0.5 of the boxes' coordinates: the bins' centres 3, 5, 7 are pixels 2.5, 4.5, 6.5.
    assert torch.allclose(found, torch.tensor([2.5, 4.5, 6.5]).expand(1, 1, 2, 3))


def test_roi_align_passes_gradients_on() -> None:
    maps, others = torch.randn(2, 2, 2, 5, 6, dtype=torch.float64)
    maps.requires_grad_()
    rois = torch.tensor([[1, 0.3, 0.2, 4.0, 4.5], [0, 2.0, 1.0, 5.5, 3.0]], dtype=torch.float64)
    passed = torch.randn(2, 2, 2, 2, dtype=torch.float64)
    (slope,) = torch.autograd.grad(roi_align(maps, rois, 1.0, 2, 2, -1, False), maps, passed)
    expected = (roi_align(others, rois, 1.0, 2, 2, -1, False) * passed).sum()  # it is linear in the maps
    assert torch.isclose((slope * others).sum(), expected)
    none = roi_align(maps, rois[:0], 1.0, 2, 2, 2, False)
    assert none.shape == (0, 2, 2, 2)
    none.sum().backward()


def test_torchvision_works_with_its_own_operators_or_with_these() -> None:
    ops = pytest.importorskip("torchvision.ops") if "torchvision" in sys.modules else load_torchvision().ops
    torch.manual_seed(0)
    maps, rois = torch.randn(1, 4, 20, 24), torch.tensor([[0, 1.0, 2.0, 20.0, 17.0], [0, 3.0, 3.0, 9.0, 8.0]])
    for ratio, aligned in ((2, True), (-1, True), (2, False)):
        found = ops.roi_align(maps, rois, (5, 7), 1.0, ratio, aligned)
        expected = roi_align_twin(maps.numpy(), rois.numpy(), 1.0, (5, 7), ratio, aligned)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    boxes, scores = torch.tensor([[0, 0, 10, 10.0], [1, 1, 11, 11], [20, 20, 30, 30]]), torch.tensor([0.5, 0.9, 0.7])
    assert ops.nms(boxes, scores, 0.5).tolist() == [1, 2]
    assert ops.nms(boxes, scores, 0.9).tolist() == [1, 2, 0]
    assert ops.batched_nms(boxes, scores, torch.tensor([0, 1, 0]), 0.5).tolist() == [1, 2, 0]


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_nms_equals_the_definition(seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 30, (25, 2)), rng.choice([0.0, 4.0, 9.0, 11.0], (25, 2))
    boxes = np.column_stack([corner, corner + size]).astype(np.float32)
    scores = rng.choice(np.linspace(0, 1, 9), 25).astype(np.float32)
    kept: list[int] = []
    for k in np.argsort(-scores, kind="stable"):
        shared = np.clip(np.minimum(boxes[k, 2:], boxes[kept, 2:]) - np.maximum(boxes[k, :2], boxes[kept, :2]), 0, None)
        both = shared.prod(axis=1)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        if not (both > np.float32(threshold) * (area[k] + area[kept] - both) + 1e-6).any():
            kept.append(int(k))
    assert nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold).tolist() == kept


def test_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(MissingExtraError, match=r"cellweave\[detect\]"):
        load_torchvision.__wrapped__()
