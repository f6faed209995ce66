"""What every network returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class NetOutput(NamedTuple):
    """Maps and style of a batch of tiles.

    Parameters
    ----------
    maps
        (B, M, Y, X), as large as the input. For `DiffusionFlows` M is 3: flow down (dy), flow right (dx),
        both times 5, and the logit of the cell probability.
    style
        (B, S): one vector of unit length a tile, from which the size model tells the diameter.
    """

    maps: Tensor
    style: Tensor
