"""An `Evaluation` of labels or a `PointEvaluation` on screen and on disk."""

from __future__ import annotations

import csv
import json
import os
from typing import TYPE_CHECKING

from cellweave.core.files import atomic_path
from cellweave.metrics.counting import CountErrors, CountEvaluation, PointEvaluation
from cellweave.metrics.evaluation import Evaluation

if TYPE_CHECKING:
    from rich.table import Table

MAX_LINES = 20
AnyEvaluation = Evaluation | PointEvaluation | CountEvaluation


def to_json(evaluation: AnyEvaluation, path: str | os.PathLike[str]) -> None:
    """Write `to_dict` of the evaluation as JSON.

    Raises
    ------
    WriteError
        When the file cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(evaluation.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def to_csv(evaluation: AnyEvaluation, path: str | os.PathLike[str]) -> None:
    """Write `rows` of the evaluation as CSV: a line an image, then the summaries; empty where no figure is.

    Raises
    ------
    WriteError
        When the file cannot be written.
    """
    rows = evaluation.rows()
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def as_table(evaluation: Evaluation) -> Table:
    """The summary as a table for the screen: a line a threshold, the other figures below."""
    from rich.table import Table

    total, mean = evaluation.total, evaluation.mean
    n = len(evaluation.images)
    images = "1 image" if n == 1 else f"{n} images"
    table = Table(
        title=f"{images}, {total.n_true:,} true objects, {total.n_predicted:,} predicted",
        caption=(
            f"Foreground: Jaccard {total.jaccard:.3f}, Dice {total.dice:.3f}. AJI {total.aji:.3f}. "
            f"Boundary F {total.boundary_f:.3f} (within {evaluation.boundary_tolerance:g} px)."
        ),
    )
    table.add_column("IoU >=")
    for heading in ("precision", "recall", "F1", "AP", "PQ", *(["AP, mean of images"] if n > 1 else [])):
        table.add_column(heading, justify="right")
    for d in total.detections:
        figures = [d.precision, d.recall, d.f1, d.average_precision, d.panoptic_quality]
        cells = [f"{figure:.3f}" for figure in figures]
        if n > 1:
            cells.append(f"{mean[f'ap@{d.iou:g}']:.3f}")
        table.add_row(f"{d.iou:.2f}", *cells)
    return table


def points_table(evaluation: PointEvaluation) -> Table:
    """Found against true points for the screen: a line an image (of many, only the total), count errors below."""
    from rich.table import Table
    from rich.text import Text

    n = len(evaluation.images)
    table = Table(
        title=f"{'1 image' if n == 1 else f'{n} images'}, points within {evaluation.radius:g} px",
        caption=_told(evaluation.counts),
    )
    table.add_column("image")
    for heading in ("true", "found", "precision", "recall", "F1", "distance, px"):
        table.add_column(heading, justify="right")
    shown = evaluation.images if n <= MAX_LINES else ()
    for scores in (*shown, *([evaluation.total] if n > 1 else [])):
        d = scores.detection
        figures = [f"{figure:.3f}" for figure in (d.precision, d.recall, d.f1)]
        table.add_row(
            Text(scores.name), f"{scores.n_true:,}", f"{scores.n_predicted:,.6g}", *figures, f"{d.mean_distance:.2f}"
        )
    return table


def counts_table(evaluation: CountEvaluation) -> Table:
    """As `points_table`, of counts alone."""
    from rich.table import Table
    from rich.text import Text

    rows = evaluation.rows()
    n = len(rows) - 1
    table = Table(title=f"{'1 image' if n == 1 else f'{n} images'}, counts only", caption=_told(evaluation.counts))
    table.add_column("image")
    for heading in ("true", "counted"):
        table.add_column(heading, justify="right")
    for row in rows[:1] if n == 1 else rows if n <= MAX_LINES else rows[-1:]:
        table.add_row(Text(str(row["image"])), f"{row['n_true']:,}", f"{row['n_predicted']:,.6g}")
    return table


def _told(errors: CountErrors) -> str:
    mape = "none" if errors.mape is None else f"{100 * errors.mape:.1f} %"
    return f"Counts: MAE {errors.mae:.2f}, RMSE {errors.rmse:.2f}, MAPE {mape}, bias {errors.bias:+.2f}."
