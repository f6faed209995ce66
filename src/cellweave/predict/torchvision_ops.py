"""torchvision beside a PyTorch that its compiled part does not fit.

The torchvision of PyPI is compiled against the PyTorch of PyPI, with CUDA. Beside a PyTorch for CPUs its compiled
operators cannot be loaded, and importing it fails ("operator torchvision::nms does not exist"). Those that Mask R-CNN
needs are few: here they are in PyTorch, and registered before torchvision is imported again. Where torchvision's own
load, they are used and nothing here plays a part.
"""

from __future__ import annotations

import logging
import sys
from functools import cache
from importlib import import_module
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cellweave.core.errors import MissingExtraError, require
from cellweave.representations.boxes import non_maximum_suppression

log = logging.getLogger(__name__)

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",  # only named by torchvision's import
    "roi_align": "(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
}


@cache
def load_torchvision() -> ModuleType:
    """Import torchvision; where its compiled operators do not load, with those of this module.

    Raises
    ------
    MissingExtraError
        When torchvision is not installed, or does not fit the PyTorch that is, for another reason than its operators.
    """
    try:
        return require("torchvision", extra="detect")
    except RuntimeError as error:
        reason = error
    if "does not exist" not in str(reason):
        raise _unfit(reason) from reason
    log.info("torchvision's compiled operators do not fit this PyTorch (%s); using slower ones", reason)
    _register()
    _forget()
    try:
        torchvision = import_module("torchvision")
        import_module("torchvision.ops")
        # Its functions ask this one whether operators are there; by now they are, those that are needed.
        for name in ("torchvision.extension", "torchvision.ops.roi_align"):
            sys.modules[name]._has_ops = lambda: True  # type: ignore[attr-defined]
    except (RuntimeError, ImportError, AttributeError, KeyError) as error:
        raise _unfit(error) from error
    return torchvision


def _unfit(error: BaseException) -> MissingExtraError:
    return MissingExtraError(
        f"the installed torchvision does not work beside PyTorch {torch.__version__} ({error}); "
        "install the one made for it: pip install 'cellweave[detect]'"
    )


def _forget() -> None:
    """What an import that failed has left behind."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


@cache
def _register() -> torch.library.Library:
    """Define the operators that are missing; they stay as long as the library that is returned."""
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + schema)  # type: ignore[no-untyped-call]
            if name == "nms":
                library.impl(name, nms, "CPU")  # type: ignore[no-untyped-call]
                library.impl(name, nms, "CUDA")  # type: ignore[no-untyped-call]
            if name == "roi_align":
                library.impl(name, roi_align, "CompositeImplicitAutograd")  # type: ignore[no-untyped-call]
    return library


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression as ``torchvision.ops.nms``, by the kernel of `non_maximum_suppression`.

    Parameters
    ----------
    boxes, scores
        (N, 4) and (N,). A box without area overlaps none, and is kept.
    iou_threshold
        Of two boxes with an IoU above this, the one with the lower score is left out.

    Returns
    -------
    torch.Tensor
        (K,) int64: the boxes that are kept, by falling score.
    """
    corners = boxes.detach().cpu().float().numpy()
    values = scores.detach().cpu().float().numpy()
    flat = (corners[:, 2:] <= corners[:, :2]).any(axis=1)
    kept = np.concatenate(
        [non_maximum_suppression(corners, values, iou=min(max(iou_threshold, 0.0), 1.0)), np.flatnonzero(flat)]
    )
    kept = np.sort(kept)
    return torch.from_numpy(kept[np.argsort(-values[kept], kind="stable")]).to(boxes.device)


def roi_align(
    input: Tensor,  # the names are torchvision's
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """RoIAlign (He et al. 2017, Sec. 3): the mean of bilinear samples in each bin of a box, as torchvision's operator.

    A bin has ``sampling_ratio`` squared samples, or ``ceil(size / bins)`` along each axis where that is 0 or less. A
    sample further than 1 px outside of the map counts as 0; the others are moved to the nearest place between pixel
    centres. Samples are products of rows and columns, so that a bin is one weighted sum of pixels.

    Parameters
    ----------
    input
        (N, C, H, W) maps.
    rois, spatial_scale
        (K, 5): index of the map, x0, y0, x1, y1, in units of which the scale makes map pixels.
    pooled_height, pooled_width, sampling_ratio
        Bins of a box, and samples of a bin along each axis.
    aligned
        False: boxes are shifted by half a pixel as in the first implementation, and at least one map pixel large.

    Returns
    -------
    torch.Tensor
        (K, C, pooled_height, pooled_width). Gradients flow to `input`.
    """
    n, channels, height, width = input.shape
    pooled = (pooled_height, pooled_width)
    if not len(rois):
        return (input.sum() * 0).expand(0, channels, *pooled)
    with torch.no_grad():
        exact = torch.promote_types(rois.dtype, torch.float32)
        corners = rois[:, 1:].to(exact) * spatial_scale - (0.5 if aligned else 0.0)
        start = corners[:, [1, 0]]
        size = corners[:, [3, 2]] - start
        if not aligned:
            size = size.clamp(min=1.0)
        bins = size / size.new_tensor(pooled)
        samples = torch.full_like(size, sampling_ratio) if sampling_ratio > 0 else bins.ceil()
        samples = samples.clamp(min=0).long()
    rows = input.permute(0, 2, 3, 1).reshape(n * height * width, channels)  # a row of values for each pixel
    done, order = [], []
    for counts in torch.unique(samples, dim=0):
        which = (samples == counts).all(dim=1).nonzero()[:, 0]
        with torch.no_grad():
            y = _samples(start[which, 0], bins[which, 0], pooled[0], int(counts[0]), height)
            x = _samples(start[which, 1], bins[which, 1], pooled[1], int(counts[1]), width)
            pixels = (y[0][:, :, None, :, None] * width + x[0][:, None, :, None, :]).flatten(3)
            pixels = pixels + (rois[which, 0].long() * height * width)[:, None, None, None]
            weights = (y[1][:, :, None, :, None] * x[1][:, None, :, None, :]).flatten(3).to(input.dtype)
        if pixels.shape[3]:
            flat = pixels.flatten(0, 2)
            means = F.embedding_bag(flat, rows, mode="sum", per_sample_weights=weights.flatten(0, 2))
        else:
            means = rows.new_zeros(len(which) * pooled[0] * pooled[1], channels)
        done.append(means.view(len(which), *pooled, channels))
        order.append(which)
    return torch.cat(done)[torch.argsort(torch.cat(order))].permute(0, 3, 1, 2)


def _samples(start: Tensor, size: Tensor, bins: int, count: int, length: int) -> tuple[Tensor, Tensor]:
    """Along one axis: the pixels (K, bins, 2 * count) that each bin's samples lie between, and their weights."""
    at = (torch.arange(count).to(start) + 0.5) / max(count, 1)
    position = start[:, None, None] + (torch.arange(bins).to(start)[:, None] + at) * size[:, None, None]
    counted = ((position >= -1) & (position <= length)) / max(count, 1)
    position = position.clamp(0, length - 1)
    low = position.floor().long().clamp(max=max(length - 2, 0))
    high = (low + 1).clamp(max=length - 1)
    share = position - low
    return torch.cat([low, high], dim=2), torch.cat([(1 - share) * counted, share * counted], dim=2)
