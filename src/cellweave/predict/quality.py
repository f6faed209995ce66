"""How sure a branch is of its foreground, and which branch is believed (Cell Segmenter, Sec. 2.2.3)."""

from __future__ import annotations

from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellweave.models.cell_segmenter import LOWEST, MARGIN

FOREGROUND = 0.5
LOWESTS, MARGINS = tuple(k / 100 for k in range(50, 100)), (0.0, 0.02, 0.05, 0.1, 0.2)
"""What `fit_thresholds` tries."""
BETTER = 0.002
"""In F1: what is not better by so much leaves the paper's thresholds."""


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


def choose_branch(
    awf: float, omni: float, *, lowest: float = LOWEST, margin: float = MARGIN
) -> Literal["awf", "omnipose"]:
    """The branch whose cells count: Omnipose where C(AWF) < 0.8 or C(Omni) - C(AWF) > 0.05, else the watershed's.

    Cell Segmenter, Sec. 2.2.3; the paper asks only for grayscale images (`cellweave.prep.modality`). Deviation: where
    the watershed branch sees no foreground, of which C tells nothing, Omnipose must be sure of its own,
    C(Omni) >= `lowest`, so that one doubtful pixel makes no cells in an empty image.

    Parameters
    ----------
    awf, omni
        `quality` of the anchor-based watershed branch and of the Omnipose branch.
    lowest, margin
        The two thresholds; of a model they are its own (`CellSegmenter`).
    """
    if awf == 0:
        return "omnipose" if omni >= lowest else "awf"
    return "omnipose" if awf < lowest or omni - awf > margin else "awf"


def fit_thresholds(f1: ArrayLike, sure: ArrayLike) -> tuple[float, float]:
    """``lowest`` and ``margin`` of `choose_branch` that give the highest mean F1.

    How sure a net is of its foreground depends on how long it was trained; the paper's 0.8 is that of its own nets.

    Parameters
    ----------
    f1, sure
        (2, N): F1 and `quality` of the watershed branch and of Omnipose on N images that neither learned from.

    Returns
    -------
    lowest, margin
        Of equally good ones those nearest to the paper's, and the paper's unless others are better by 0.002.
    """
    f1, sure = np.asarray(f1, np.float64), np.asarray(sure, np.float64)

    def mean(lowest: float, margin: float) -> float:
        chosen = [choose_branch(awf, omni, lowest=lowest, margin=margin) == "omnipose" for awf, omni in sure.T]
        return round(float(np.where(chosen, f1[1], f1[0]).mean()), 9)

    def rank(pair: tuple[float, float]) -> tuple[float, float, float]:
        return mean(*pair), -abs(pair[0] - LOWEST), -abs(pair[1] - MARGIN)

    best = max(product(LOWESTS, MARGINS), key=rank)
    return best if mean(*best) > mean(LOWEST, MARGIN) + BETTER else (LOWEST, MARGIN)
