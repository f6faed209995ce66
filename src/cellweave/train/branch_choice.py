"""How sure both branches of a Cell Segmenter are where each is right, and thresholds of the choice that fit that."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cellweave.core.progress import report
from cellweave.metrics import match
from cellweave.models import CellSegmenter
from cellweave.models.cell_segmenter import OMNIPOSE
from cellweave.predict import predict_maps
from cellweave.predict.branches import foreground
from cellweave.predict.quality import fit_thresholds, quality
from cellweave.train.samples import Example

log = logging.getLogger(__name__)

FEWEST = 16
"""Images under which the paper's thresholds stay."""


def judge_branches(
    model: CellSegmenter, examples: Sequence[Example], *, device: str = "auto"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """F1 at IoU 0.5 and `quality`, (2, N) each: of the watershed branch, and of Omnipose, on N grayscale images."""
    f1, sure = np.empty((2, len(examples))), np.empty((2, len(examples)))
    for k, example in enumerate(examples):
        report("both branches", k, len(examples), example.name)
        for row, branch in enumerate((model.branch("grayscale"), model.branches[OMNIPOSE])):
            maps = predict_maps(example.image, branch, device=device)
            f1[row, k] = match(example.outlines, branch.decode_scored(maps)[0], 0.5).f1
            sure[row, k] = quality(foreground(branch, maps))
    report("both branches", len(examples), len(examples), "")
    return f1, sure


def with_fitted_thresholds(model: CellSegmenter, held_out: Sequence[Example], *, device: str = "auto") -> CellSegmenter:
    """The model with the thresholds that choose best between its branches on these grayscale images.

    They must be held out of all trainings. Without an Omnipose branch, or with fewer than 16 images, nothing changes.
    """
    if OMNIPOSE not in model.branches or len(held_out) < FEWEST:
        return model
    lowest, margin = fit_thresholds(*judge_branches(model, held_out, device=device))
    log.info("omnipose counts where the other branch has a confidence under %g, or %g less", lowest, margin)
    return replace(model, lowest=lowest, margin=margin)
