"""How well a trained model counts, and how far its counts may be off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellweave.core.errors import CellweaveError
from cellweave.core.points import Points
from cellweave.core.progress import report
from cellweave.metrics.counting import RADIUS, evaluate_points
from cellweave.models import Segmenter
from cellweave.models.count_calibration import CountCalibration
from cellweave.predict.counting import count
from cellweave.train.samples import Example


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
        found = count(example.image, segmenter, device=device)
    except CellweaveError as error:
        raise type(error)(f"{example.name}: {error}") from error
    known = np.ones(found.maps.shape[1:], bool) if example.known is None else example.known
    number, spread = found.within(known)
    row, column = np.rint(found.points.cells.positions).astype(int).T
    return Judged(example, found.points.cells[known[row, column]], number, spread)


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
