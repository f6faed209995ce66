"""``cellweave segment``: many files, one summary; a bad file is reported and the others go on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cellweave import __version__
from cellweave.cli.batch import Row, Work, film_of, run_batch
from cellweave.cli.film import WRITERS, Film, check_outputs, segment_film
from cellweave.core.errors import InputError
from cellweave.io import read_image, write_labels, write_overlay, write_table
from cellweave.io.raster import write_picture
from cellweave.models import CellSegmenter, Segmenter, load_model
from cellweave.predict import Segmentation, diagnostics_picture, segment_frames
from cellweave.predict import segment as segment_image
from cellweave.prep import Preparation

SUMMARY = "summary.csv"
COLUMNS = ("frames", "cells", "dropped", "diameter", "median_area", "mean_confidence", "branch", "why")

OUTPUTS: dict[str, tuple[str, Callable[[Path, Segmentation], object]]] = {
    "labels": (
        "_labels.tif",
        lambda path, s: write_labels(path, s.labels, pixel_size_um=s.image.pixel_size_um),
    ),
    "png": ("_labels.png", lambda path, s: write_labels(path, s.labels)),
    "zarr": (
        "_labels.zarr",
        lambda path, s: write_labels(path, s.labels, pixel_size_um=s.image.pixel_size_um),
    ),
    "overlay": ("_overlay.png", lambda path, s: write_overlay(path, s.image, s.labels)),
    "table": ("_cells.csv", lambda path, s: write_table(path, s.table)),
    "diagnostics": ("_diagnostics.png", lambda path, s: write_picture(path, diagnostics_picture(s))),
}
"""By the word in ``--save``: the ending of the file's name, and what writes it."""


@dataclass(frozen=True)
class Settings:
    """What decides the results; written to `run.json`, and compared when a run is repeated in the same folder."""

    model: str = "default"
    channels: str | None = None
    diameter: str | None = None
    save: tuple[str, ...] = ("labels", "overlay", "table")
    plane: str | None = None
    axes: str | None = None
    augment: bool = False
    min_confidence: float = 0.0
    decoding: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.save if kind not in OUTPUTS]
        if unknown or not self.save:
            raise InputError(f"--save: '{', '.join(unknown)}' is unknown; choose from {', '.join(OUTPUTS)}")


def run(
    inputs: Sequence[str],
    out: Path,
    settings: Settings,
    *,
    device: str,
    overwrite: bool,
    prepared: Preparation | None = None,
) -> int:
    """Segment every input and return the number of files that failed; see `run_batch`."""
    model = _with_decoding(load_model(settings.model), settings)
    before = prepared or Preparation()

    options: dict[str, Any] = {
        "diameter": settings.diameter,
        "channels": settings.channels,
        "device": device,
        "augment": settings.augment,
        "min_confidence": settings.min_confidence,
    }

    def do(file: Path) -> tuple[Segmentation | Film, Row]:
        raw = film_of(read_image(file, axes=settings.axes), settings.plane)
        image, measured = before.of(raw), before.measured(raw)
        if image.size("T") > 1:
            check_outputs(image, settings.save)
            film = segment_film(segment_frames(image, model, **options), out, measured)
            return film, film.row
        result = replace(segment_image(image, model, **options), image=measured.plane())
        return result, _row(result)

    work = Work(
        "segment",
        "segmented",
        json.loads(json.dumps(asdict(settings) | {"model_hash": model.hash, "version": __version__} | before.record)),
        do,
        _told,
        {OUTPUTS[kind][0]: partial(_write, kind) for kind in settings.save},
        SUMMARY,
        COLUMNS,
    )
    return sum(row["status"] == "failed" for row in run_batch(inputs, out, work, overwrite=overwrite))


def _write(kind: str, path: Path, result: Segmentation | Film) -> None:
    if isinstance(result, Film):
        WRITERS[kind](path, result)
    else:
        OUTPUTS[kind][1](path, result)


def _row(result: Segmentation) -> Row:
    return {
        "cells": result.count,
        "dropped": result.dropped,
        "diameter": round(result.diameter, 2),
        "median_area": float(np.median(result.table["area"])) if result.count else "",
        "mean_confidence": round(float(result.confidence.mean()), 4) if result.count else "",
        "branch": result.branch.name if result.branch else "",
        "why": result.branch.why if result.branch else "",
    }


def _told(row: Row) -> str:
    cells = "1 cell" if row["cells"] == 1 else f"{row['cells']} cells"
    if row["dropped"]:
        cells += f" ({row['dropped']} more under the least confidence)"
    branch = f", branch {row['branch']}" if row["branch"] else ""
    frames = f" in {row['frames']} frames" if row.get("frames") else ""
    return f"{cells}{frames}, diameter {row['diameter']:g} px{branch}"


def _with_decoding(model: Segmenter | CellSegmenter, settings: Settings) -> Segmenter | CellSegmenter:
    if not settings.decoding:
        return model
    if isinstance(model, CellSegmenter):
        return replace(
            model, branches={name: _decoded_with(b, settings.decoding) for name, b in model.branches.items()}
        )
    return _decoded_with(model, settings.decoding)


def _decoded_with(model: Segmenter, decoding: dict[str, float]) -> Segmenter:
    representation: Any = model.representation
    name, known = type(representation).__name__, {field.name for field in fields(representation)}
    for option in decoding:
        if option not in known:
            flag = f"--{option.replace('_', '-')}"
            raise InputError(f"{flag} does not apply to the model {model.name}, which represents cells by {name}")
    return model.with_(representation=replace(representation, **decoding))
