"""``cellweave count``: many files, one table of counts; a bad file is reported and the others go on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellweave import __version__
from cellweave.cli.batch import COUNTS, Row, Work, plane_of, run_batch
from cellweave.core.errors import InputError
from cellweave.core.files import write_atomically
from cellweave.core.image import Image
from cellweave.core.points import Points
from cellweave.io import read_image, write_points, write_points_overlay
from cellweave.models import load_model
from cellweave.models.count_calibration import check_level
from cellweave.models.folder import kind_of
from cellweave.predict import Count
from cellweave.predict import count as count_image
from cellweave.predict.mask_rcnn import KIND, Detector, detect

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("count", "low", "high", "points", "dropped", "debris", "unsure", "crowded", "remarks")


@dataclass(frozen=True)
class Detected:
    """What a Mask R-CNN found: points alone, without a density, an interval or a map of doubt."""

    image: Image
    points: Points


def _write_density(path: Path, result: Count | Detected) -> None:
    """(Y, X) float32: cells a pixel."""
    import tifffile

    if isinstance(result, Detected):
        raise InputError("a Mask R-CNN has no density; leave it out of --save")
    density = result.density
    write_atomically(path, lambda part: tifffile.imwrite(part, density, photometric="minisblack", compression="zlib"))


def _write_picture(path: Path, result: Count | Detected) -> None:
    shaded = result.unsure if isinstance(result, Count) else None
    write_points_overlay(path, result.image, result.points, shaded)


OUTPUTS: dict[str, tuple[str, Callable[[Path, Count | Detected], object]]] = {
    "points": ("_points.csv", lambda path, c: write_points(path, c.points)),
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

    model = Detector.load(settings.model) if kind_of(Path(settings.model)) == KIND else load_model(settings.model)
    if isinstance(model, Detector) and (settings.diameter or settings.augment):
        raise InputError(f"{settings.model} is a Mask R-CNN; leave out --diameter and --augment")

    def do(file: Path) -> tuple[Count | Detected, Row]:
        image = plane_of(read_image(file, axes=settings.axes), settings.plane)
        if isinstance(model, Detector):
            least = {"confidence": settings.min_confidence} if settings.min_confidence else {}
            points = detect(image, model, channels=settings.channels, device=device, **least).points
            return Detected(image, points), _detected(len(points))
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
        "points": len(result.points.cells),
        "dropped": result.dropped,
        "debris": result.debris,
        "unsure": round(float(result.unsure.mean()), 4),
        "crowded": round(float(result.crowded.mean()), 4),
        "remarks": "; ".join(result.remarks),
    }


def _detected(n: int) -> Row:
    remarks = "a Mask R-CNN tells no interval"
    return dict.fromkeys(COLUMNS, "") | {"count": n, "points": n, "dropped": 0, "debris": 0, "remarks": remarks}


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
        table.add_column(f"{interval:.4g} interval", justify="right")
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
