"""What all nets do alike: refuse inputs of a wrong shape, and turn features into a style vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cellweave.core.errors import InputError


def check_input(x: Tensor, in_channels: int, stride: int) -> None:
    """Refuse what is not (B, in_channels, Y, X) with Y and X multiples of `stride`.

    Raises
    ------
    InputError
        With the shape that is needed.
    """
    if x.ndim != 4 or x.shape[1] != in_channels:
        raise InputError(
            f"input of shape {tuple(x.shape)}: this network takes (B, {in_channels}, Y, X); "
            f"choose {in_channels} channels, or a model made for other ones"
        )
    height, width = x.shape[2:]
    if height % stride or width % stride or 0 in (height, width):
        need = [max(1, -(-side // stride)) * stride for side in (height, width)]
        raise InputError(
            f"tile is {height} x {width}; this network needs multiples of {stride}; pad it to {need[0]} x {need[1]}"
        )


def pooled_style(features: Sequence[Tensor]) -> Tensor:
    """(B, S) float32 of unit norm: the means of the maps (B, C, y, x) of some scales, one scale after the other."""
    return F.normalize(torch.cat([f.float().mean(dim=(2, 3)) for f in features], dim=1), dim=1)
