"""What the representations by flows share: vectors in the first two maps, probabilities in the others."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from cellweave import _kernels
from cellweave.core.labels import Labels
from cellweave.core.output import NetOutput
from cellweave.representations.known import known_mean, split_known

FLOW_FACTOR = 5.0
"""Flows are multiplied by this in the loss, to weigh as much as cross-entropies (Cellpose, "U-net architecture")."""


def flow_loss(output: NetOutput, target: torch.Tensor) -> torch.Tensor:
    """``|y01 - 5 flow|^2 + sum of BCE(sigmoid(y_k), map k)`` over the other maps, each a mean over known pixels."""
    outputs = output.maps.float()
    target, known = split_known(target)
    loss = known_mean(F.mse_loss(outputs[:, :2], FLOW_FACTOR * target[:, :2], reduction="none"), known)
    for k in range(2, target.shape[1]):
        error = F.binary_cross_entropy_with_logits(outputs[:, k], target[:, k], reduction="none")
        loss = loss + known_mean(error, known)
    return loss


def flow_maps(output: NetOutput) -> torch.Tensor:
    """Outputs (B, M, Y, X), flows times 5 and logits, to maps."""
    outputs = output.maps.float()
    return torch.cat([outputs[:, :2] / FLOW_FACTOR, torch.sigmoid(outputs[:, 2:])], dim=1)


def turned(maps: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Flow vectors of (B, M, Y, X) turned by `matrix` (B, 2, 2); their length is kept."""
    flows = torch.einsum("bij,bjyx->biyx", matrix.to(maps), maps[:, :2])
    before, after = (torch.hypot(v[:, :1], v[:, 1:2]) for v in (maps, flows))
    return torch.cat([flows * (before / after.clamp(min=1e-6)), maps[:, 2:]], dim=1)


def bounding_boxes(labels: Labels, n: int) -> NDArray[np.int32]:
    """First and last + 1 row and column of objects 1..n: (n, 4) ``y0, x0, y1, x1``."""
    boxes = np.empty((n, 4), np.int32)
    _kernels.bounding_boxes(labels, boxes)
    return boxes
