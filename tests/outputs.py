"""What a net would give, for tests of representations."""

from __future__ import annotations

import torch

from cellweave.core.output import NetOutput


def output(maps: torch.Tensor, boxes: torch.Tensor | None = None) -> NetOutput:
    """An output with these maps (B, M, Y, X) and an empty style."""
    return NetOutput(maps, maps.new_zeros(len(maps), 0), boxes)
