"""What every network returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class NetOutput(NamedTuple):
    """Maps, style and, from a net that detects, boxes of a batch of tiles.

    Parameters
    ----------
    maps
        (B, M, Y, X), as large as the input. For `DiffusionFlows` M is 3: flow down (dy), flow right (dx),
        both times 5, and the logit of the cell probability.
    style
        (B, S): one vector of unit length a tile, from which the size model tells the diameter.
    boxes
        (B, A, 6, Y / 8, X / 8): raw numbers of A anchors in each cell of a grid, see
        `cellweave.representations.boxes`; None from a net that does not detect.
    """

    maps: Tensor
    style: Tensor
    boxes: Tensor | None = None
