"""How sure a branch is of its foreground, and which branch is believed (Cell Segmenter, Sec. 2.2.3)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FOREGROUND = 0.5
LOWEST, MARGIN = 0.8, 0.05
"""Under `LOWEST` the watershed branch is not believed; `MARGIN` is by how much the other must be surer of itself."""


def quality(probability: NDArray[Any]) -> float:
    r"""Mean foreground confidence of a map m of the probability that a pixel is of a cell (Cell Segmenter, Eq. 6).

    .. math:: C(m) = \sum_{ij} m_{ij} 1(m_{ij} > 0.5) / \sum_{ij} 1(m_{ij} > 0.5)

    Parameters
    ----------
    probability
        (Y, X) numbers in 0..1, not logits. NaN is no foreground. The sum is taken in float64.

    Returns
    -------
    float
        Over 0.5, at most 1; 0 where no pixel is over 0.5, which the paper leaves open.
    """
    probability = np.asarray(probability)
    foreground = probability[probability > FOREGROUND]
    return float(foreground.mean(dtype=np.float64)) if foreground.size else 0.0


def choose_branch(awf: float, omni: float) -> Literal["awf", "omnipose"]:
    """The branch whose cells count: Omnipose where C(AWF) < 0.8 or C(Omni) - C(AWF) > 0.05, else the watershed's.

    Cell Segmenter, Sec. 2.2.3; the paper asks only for grayscale images (`cellweave.prep.modality`). Deviation: where
    the watershed branch sees no foreground, of which C tells nothing, Omnipose must be sure of its own,
    C(Omni) >= 0.8, so that one doubtful pixel makes no cells in an empty image.

    Parameters
    ----------
    awf, omni
        `quality` of the anchor-based watershed branch and of the Omnipose branch.
    """
    if awf == 0:
        return "omnipose" if omni >= LOWEST else "awf"
    return "omnipose" if awf < LOWEST or omni - awf > MARGIN else "awf"
