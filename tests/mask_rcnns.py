"""A small Mask R-CNN, and images of squares for it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cellweave.core.image import Image
from cellweave.core.points import Points
from cellweave.predict.mask_rcnn import MOST, Architecture
from cellweave.predict.torchvision_ops import load_torchvision


def small_net(architecture: Architecture) -> nn.Module:
    """As `Architecture.build`, with four convolutions for a backbone and small heads."""
    torchvision = load_torchvision()
    detection, pool = torchvision.models.detection, torchvision.ops.MultiScaleRoIAlign
    layers: list[nn.Module] = []
    for before, after, stride in ((3, 16, 2), (16, 16, 2), (16, 24, 1), (24, 24, 1)):
        layers += [nn.Conv2d(before, after, 3, stride, 1), nn.GroupNorm(4, after), nn.ReLU()]
    backbone: Any = nn.Sequential(*layers)
    backbone.out_channels = 24
    parts = detection.faster_rcnn, detection.mask_rcnn
    net: nn.Module = detection.MaskRCNN(
        backbone,
        min_size=architecture.tile,
        max_size=architecture.tile,
        rpn_anchor_generator=detection.anchor_utils.AnchorGenerator(((architecture.side,),), ((1.0,),)),
        rpn_pre_nms_top_n_train=300,
        rpn_post_nms_top_n_train=100,
        rpn_pre_nms_top_n_test=MOST,
        rpn_post_nms_top_n_test=MOST,
        box_detections_per_img=MOST,
        box_roi_pool=pool(["0"], 7, 2),
        box_head=parts[0].TwoMLPHead(24 * 49, 64),
        box_predictor=parts[0].FastRCNNPredictor(64, 2),
        mask_roi_pool=pool(["0"], 14, 2),
        mask_head=parts[1].MaskRCNNHeads(24, (16,), 1),
        mask_predictor=parts[1].MaskRCNNPredictor(16, 16, 2),
    )
    net.transform.postprocess = lambda found, *_: found
    return net


def squares(
    seed: int, shape: tuple[int, int] = (120, 140), side: float = 16, n: int = 30, apart: float = 20
) -> tuple[Image, Points]:
    """An image of bright squares whose centres are `apart`, some cut by the border, and the centres."""
    rng = np.random.default_rng(seed)
    positions: NDArray[np.float64] = np.empty((0, 2))
    for candidate in rng.uniform(0, np.array(shape) - 1, (n * 10, 2)):
        if len(positions) < n and not (np.abs(positions - candidate) < apart).all(axis=1).any():
            positions = np.concatenate([positions, candidate[None]])
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    picture = rng.normal(60, 8, shape)
    for y, x in positions:
        picture[(np.abs(rows - y) < side / 2) & (np.abs(columns - x) < side / 2)] += 100
    return Image.from_array(picture.clip(0, 255).astype(np.uint8)), Points(positions, shape=shape)
