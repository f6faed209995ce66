"""How well a trained model counts, and how far its counts may be off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import CellweaveError
from cellweave.core.points import Points
from cellweave.core.progress import report
from cellweave.metrics.counting import RADIUS, evaluate_points, match_points
from cellweave.models import Segmenter
from cellweave.models.count_calibration import CountCalibration
from cellweave.predict import predict_maps
from cellweave.predict.counting import count_in_maps
from cellweave.representations import Heatmap
from cellweave.train.samples import Example

THRESHOLDS, DISTANCES, CONFIDENCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), (3.0, 5.0, 8.0, 12.0), (0.0, 0.2, 0.35, 0.5)
"""Of `Heatmap`, which `fit_decoding` tries."""
FITTED = 32
"""So many images are enough for that."""
BETTER = 0.002
"""In F1: what is not better by so much leaves settings as they are."""


@dataclass(frozen=True)
class Judged:
    """What was counted in the known part of an annotated image.

    Parameters
    ----------
    example
        The image.
    cells
        Where cells were found.
    count, spread
        Number of cells, and its standard deviation before calibration.
    """

    example: Example
    cells: Points
    count: float
    spread: float

    @property
    def true(self) -> Points:
        """The true cells, all of which are in the known part."""
        return self.example.positions.cells


def fit_decoding(segmenter: Segmenter, examples: Sequence[Example], *, device: str = "auto") -> Segmenter:
    """The model with the threshold, least distance and least confidence of its heatmap that find cells best.

    That is with the highest F1 within `RADIUS` px over the first `FITTED` examples together, each in the part where the
    truth is known. Clicks that are off by some px flatten the peaks that a net learns, and people click cells no nearer
    to each other than they can tell: both are other for each set of data. Counts, which are integrals, stay.
    """
    heatmap, examples = segmenter.representation, examples[:FITTED]
    if not isinstance(heatmap, Heatmap):
        return segmenter
    usual = heatmap.threshold, heatmap.min_distance, heatmap.min_confidence
    pairs = dict.fromkeys([usual, *product(THRESHOLDS, DISTANCES, CONFIDENCES)], 0)
    both = pairs.copy()
    for k, example in enumerate(examples):
        report("fitting what counts as a cell", k, len(examples), example.name)
        maps, true = predict_maps(example.image, segmenter, device=device), example.positions.cells
        for threshold, distance in {settings[:2]: None for settings in pairs}:
            one = replace(heatmap, threshold=threshold, min_distance=distance, min_confidence=0.0)
            cells = _in_known(one.decode(maps).cells, example)
            assert cells.confidence is not None
            for settings in [s for s in pairs if s[:2] == (threshold, distance)]:
                found = match_points(true, cells[cells.confidence >= settings[2]])
                pairs[settings] += found.tp
                both[settings] += 2 * found.tp + found.fp + found.fn
    report("fitting what counts as a cell", len(examples), len(examples), "")
    f1 = {settings: 2 * n / max(1, both[settings]) for settings, n in pairs.items()}
    best = max(f1, key=lambda settings: f1[settings])
    if f1[best] < f1[usual] + BETTER:
        return segmenter
    fitted = replace(heatmap, threshold=best[0], min_distance=best[1], min_confidence=best[2])
    return segmenter.with_(representation=fitted)


def fit_gain(segmenter: Segmenter, examples: Sequence[Example], *, device: str = "auto") -> Segmenter:
    """The model with the gain of its heatmap that makes counts right on the mean of images the net did not learn from.

    A net that has learned from few images knows them too well, and counts too little or too much in all others. With
    true counts t and counts c of n images, each in the part where the truth is known, and with s the standard error of
    the ratio R (Cochran 1977, *Sampling Techniques*, chapter 6),

        R = sum t / sum c,    s^2 = sum (t - R c)^2 / (n (n - 1) mean(c)^2),
        gain = 1 + (R - 1) max(0, 1 - s^2 / (R - 1)^2):

    what may be chance is left out (James and Stein's estimate of one number, its positive part).
    """
    heatmap = segmenter.representation
    if not isinstance(heatmap, Heatmap) or len(examples) < 2:
        return segmenter
    true, counted = [], []
    for k, example in enumerate(examples):
        report("fitting the gain", k, len(examples), example.name)
        maps = predict_maps(example.image, segmenter, device=device)
        known = True if example.known is None else example.known
        true.append(len(example.positions.cells))
        counted.append(heatmap.count(np.where(known, maps, np.float32(0))))
    report("fitting the gain", len(examples), len(examples), "")
    gain = heatmap.gain * shrunk_ratio(np.array(true, np.float64), np.array(counted))
    return segmenter.with_(representation=replace(heatmap, gain=float(np.clip(gain, 0.5, 2))))


def shrunk_ratio(true: NDArray[np.float64], counted: NDArray[np.float64]) -> float:
    """The factor of `fit_gain`, of (N,) true counts and those counted; 1 where nothing was counted."""
    if not counted.sum() > 0:
        return 1.0
    n, ratio = len(true), true.sum() / counted.sum()
    error = np.sum((true - ratio * counted) ** 2) / (n * (n - 1) * counted.mean() ** 2)
    return float(1 + (ratio - 1) * max(0.0, 1 - error / (ratio - 1) ** 2)) if ratio != 1 else 1.0


def _in_known(points: Points, example: Example) -> Points:
    """The points where the truth is known."""
    if example.known is None:
        return points
    row, column = np.rint(points.positions).astype(int).T
    return points[example.known[row, column]]


def judge_counts(
    segmenter: Segmenter, examples: Sequence[Example], *, device: str = "auto"
) -> tuple[CountCalibration | None, list[dict[str, Any]]]:
    """Count images that the net did not learn from, each in the part where the truth is known.

    Returns
    -------
    The calibration of counts, None without images; and a row of figures for each group of examples.
    """
    judged = []
    for k, example in enumerate(examples):
        report("measuring the counts", k, len(examples), example.name)
        judged.append(_judge(example, segmenter, device))
    report("measuring the counts", len(examples), len(examples), "")
    if not judged:
        return None, []
    true, counted, spread = zip(*((len(j.true), j.count, j.spread) for j in judged), strict=True)
    groups = sorted({e.group for e in examples})
    rows = [_row(group, [j for j in judged if j.example.group == group]) for group in groups]
    return CountCalibration.of(true, counted, spread), rows


def _judge(example: Example, segmenter: Segmenter, device: str) -> Judged:
    try:
        found = count_in_maps(example.image, segmenter, device=device)
    except CellweaveError as error:
        raise type(error)(f"{example.name}: {error}") from error
    known = np.ones(found.maps.shape[1:], bool) if example.known is None else example.known
    number, spread = found.within(known)
    return Judged(example, _in_known(found.points.cells, example), number, spread)


def _row(group: str, judged: Sequence[Judged]) -> dict[str, Any]:
    found = evaluate_points(
        [j.true for j in judged],
        [j.cells for j in judged],
        names=[j.example.name for j in judged],
        counts=[j.count for j in judged],
    )
    errors = found.counts
    return {
        "Images": group or "all",
        "n": len(judged),
        "Cells": found.total.n_true,
        "Counted": round(found.total.n_predicted, 1),
        "MAE": round(errors.mae, 2),
        "RMSE": round(errors.rmse, 2),
        "MAPE": "" if errors.mape is None else f"{100 * errors.mape:.1f} %",
        f"F1 within {RADIUS:g} px": round(found.total.detection.f1, 3),
    }
