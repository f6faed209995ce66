"""``cellweave count``: many files, one table of counts; a bad file is reported and the others go on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cellweave import __version__
from cellweave.cli.batch import COUNTS, POINTS, Row, Work, plane_of, run_batch
from cellweave.core.errors import InputError
from cellweave.core.files import write_atomically
from cellweave.core.points import Points
from cellweave.io import read_image, write_points, write_points_overlay
from cellweave.models.count_calibration import check_level
from cellweave.predict import Count, load_counter
from cellweave.predict import count as count_image
from cellweave.predict.counters import check_options

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("count", "low", "high", "points", "dropped", "debris", "unsure", "crowded", "remarks")


def _write_points(path: Path, result: Count) -> bool:
    if result.points is None:
        return False
    write_points(path, result.points)
    return True


def _write_density(path: Path, result: Count) -> None:
    """(Y, X) float32: cells a pixel."""
    import tifffile

    density = result.density
    write_atomically(path, lambda part: tifffile.imwrite(part, density, photometric="minisblack", compression="zlib"))


def _write_picture(path: Path, result: Count) -> None:
    points = Points(np.empty((0, 2))) if result.points is None else result.points
    write_points_overlay(path, result.image, points, result.shaded)


OUTPUTS: dict[str, tuple[str, Callable[[Path, Count], object]]] = {
    "points": (POINTS, _write_points),
    "picture": ("_counted.png", _write_picture),
    "density": ("_density.tif", _write_density),
}
"""By the word in ``--save``: the ending of the file's name, and what writes it. The table is written always."""


@dataclass(frozen=True)
class Settings:
    """What decides the results; written to `run.json`, and compared when a run is repeated in the same folder."""

    model: str = "default"
    channels: str | None = None
    diameter: str | None = None
    save: tuple[str, ...] = ("table", "points", "picture")
    plane: str | None = None
    axes: str | None = None
    augment: bool = False
    interval: float = 0.9
    min_confidence: float = 0.0

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.save if kind not in ("table", *OUTPUTS)]
        if unknown or not self.save:
            raise InputError(f"--save: '{', '.join(unknown)}' is unknown; choose from table, {', '.join(OUTPUTS)}")
        if self.interval:
            check_level(self.interval)


def run(inputs: Sequence[str], out: Path | None, settings: Settings, *, device: str, overwrite: bool) -> int:
    """Count every input, print a table, and return the number of files that failed; see `run_batch`."""
    from rich.console import Console

    model = load_counter(settings.model)
    check_options(model, diameter=settings.diameter, augment=settings.augment)

    def do(file: Path) -> tuple[Count, Row]:
        image = plane_of(read_image(file, axes=settings.axes), settings.plane)
        result = count_image(
            image,
            model,
            diameter=settings.diameter,
            channels=settings.channels,
            device=device,
            augment=settings.augment,
            interval=settings.interval or None,
            min_confidence=settings.min_confidence,
        )
        return result, _row(result)

    work = Work(
        "count",
        "counted",
        json.loads(json.dumps(asdict(settings) | {"model_hash": model.hash, "version": __version__})),
        do,
        _told,
        dict(OUTPUTS[kind] for kind in settings.save if kind in OUTPUTS),
        COUNTS,
        COLUMNS,
    )
    rows = run_batch(inputs, out, work, overwrite=overwrite)
    Console().print(_table(rows, settings.interval))
    return sum(row["status"] == "failed" for row in rows)


def _row(result: Count) -> Row:
    return {
        "count": round(result.count, 2),
        "low": "" if result.low is None else round(result.low, 2),
        "high": "" if result.high is None else round(result.high, 2),
        "points": "" if result.points is None else len(result.points.cells),
        "dropped": result.dropped,
        "debris": result.debris,
        "unsure": _share(result.unsure),
        "crowded": _share(result.crowded),
        "remarks": "; ".join(result.remarks),
    }


def _share(region: NDArray[np.bool_] | None) -> float | str:
    return "" if region is None else round(float(region.mean()), 4)


def _told(row: Row) -> str:
    text = f"{_cells(row)} cells"
    if row["low"] != "":
        text += f" ({_between(row)})"
    if row["dropped"]:
        text += f", {row['dropped']} more under the least confidence"
    if row["debris"]:
        text += f", {row['debris']} dead or debris"
    return text + (f"; {row['remarks']}" if row["remarks"] else "")


def _cells(row: Row) -> str:
    return f"{float(row['count']):,.0f}"


def _between(row: Row) -> str:
    """The interval in whole cells, never narrower than it is."""
    return f"{np.floor(float(row['low'])):,.0f} to {np.ceil(float(row['high'])):,.0f}"


def _table(rows: Sequence[Row], interval: float) -> Table:
    """The counts for the screen, and their sum."""
    from rich.table import Table
    from rich.text import Text

    done = [row for row in rows if row["status"] != "failed"]
    table = Table("image", show_footer=len(done) > 1)
    table.columns[0].footer = "total"
    table.add_column("cells", justify="right", footer=f"{sum(float(row['count']) for row in done):,.0f}")
    if interval:
        table.add_column(f"{100 * interval:.4g} % interval", justify="right")
    table.add_column("unsure", justify="right")
    table.add_column("remarks")
    for row in done:
        bounds = [_between(row) if row["low"] != "" else ""] if interval else []
        table.add_row(
            Text(Path(row["file"]).name),
            _cells(row),
            *bounds,
            f"{100 * float(row['unsure']):.0f} %" if row["unsure"] != "" else "",
            Text(str(row["remarks"])),
        )
    return table
