"""``cellweave segment``: many files, one summary; a bad file is reported and the others go on."""

from __future__ import annotations

import csv
import glob
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from cellweave import __version__
from cellweave.core.errors import CellweaveError, InputError
from cellweave.core.files import make_output_folder, sha256, write_atomically
from cellweave.core.image import Image
from cellweave.core.progress import console_progress, report
from cellweave.io import read_image, write_labels, write_overlay, write_table
from cellweave.io.raster import write_picture
from cellweave.models import CellSegmenter, Segmenter, load_model
from cellweave.predict import Segmentation, diagnostics_picture
from cellweave.predict import segment as segment_image

log = logging.getLogger(__name__)

SUMMARY, RUN = "summary.csv", "run.json"
ENCODING: Any = {"encoding": "utf-8", "errors": "surrogateescape"}
"""File names may hold bytes that are no UTF-8."""
PLAIN: Any = {"markup": False, "highlight": False, "soft_wrap": True}
"""For lines with file names in them, to be shown as they are."""
IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".npy", ".zarr")
OUR_ENDINGS = ("_labels", "_overlay", "_diagnostics", "_masks", "_seg")

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


def run(inputs: Sequence[str], out: Path, settings: Settings, *, device: str, overwrite: bool) -> int:
    """Segment every input and return the number of files that failed.

    A file counts as finished when its outputs exist and its content has not changed since; finished files are skipped
    unless `overwrite`. Summary and `run.json` are rewritten after every file, so that an interrupted run can go on.

    Raises
    ------
    InputError
        When there is nothing to do, or the folder holds results of other settings.
    WriteError
        When the folder cannot be written.
    """
    files = _files(inputs)
    folder = make_output_folder(out)
    model = _with_decoding(load_model(settings.model), settings)
    chosen = json.loads(json.dumps(asdict(settings) | {"model_hash": model.hash, "version": __version__}))
    before = _previous(folder, chosen, overwrite)
    book = _Book(folder, chosen, before)
    console = Console(stderr=True)
    failed = 0
    try:
        with console_progress():
            for k, (file, stem) in enumerate(zip(files, _stems(files, before), strict=True)):
                report("images", k, len(files), file.name)
                row = _one(file, folder / stem, settings, model, device, None if overwrite else before.get(str(file)))
                book.add(row)
                failed += row["status"] == "failed"
                _say(console, row)
            report("images", len(files), len(files), "")
    except KeyboardInterrupt:
        console.print(
            f"Stopped. {len(book.rows)} of {len(files)} files are done; the same command goes on with the rest.",
            **PLAIN,
        )
        raise
    done = len(files) - failed
    console.print(
        f"{done} of {len(files)} images segmented; results are in {folder}"
        + (f"; {failed} failed, see {folder / SUMMARY}" if failed else ""),
        **PLAIN,
    )
    return failed


def _one(
    file: Path,
    stem: Path,
    settings: Settings,
    model: Segmenter | CellSegmenter,
    device: str,
    before: dict[str, Any] | None,
) -> dict[str, Any]:
    """Segment one file, or say why not. The row goes to the summary."""
    start = time.monotonic()
    row: dict[str, Any] = {"file": str(file), "name": stem.name, "status": "done", "sha256": ""}
    try:
        outputs = {kind: stem.with_name(stem.name + OUTPUTS[kind][0]) for kind in settings.save}
        if file.exists():
            row["sha256"] = sha256(file)
        finished = before is not None and before["status"] != "failed" and before["sha256"] == row["sha256"]
        if before is not None and finished and all(path.exists() for path in outputs.values()):
            return before | {"status": "skipped"}
        image = _plane(read_image(file, axes=settings.axes), settings.plane)
        result = segment_image(
            image,
            model,
            diameter=settings.diameter,
            channels=settings.channels,
            device=device,
            augment=settings.augment,
            min_confidence=settings.min_confidence,
        )
        for kind, path in outputs.items():
            OUTPUTS[kind][1](path, result)
        row |= {
            "cells": result.count,
            "dropped": result.dropped,
            "diameter": round(result.diameter, 2),
            "median_area": float(np.median(result.table["area"])) if result.count else "",
            "mean_confidence": round(float(result.confidence.mean()), 4) if result.count else "",
            "branch": result.branch.name if result.branch else "",
            "why": result.branch.why if result.branch else "",
            "outputs": " ".join(path.name for path in outputs.values()),
        }
    except CellweaveError as error:
        row |= {"status": "failed", "error": str(error)}
    except Exception as error:  # a fault of ours in one file must not end the batch; it is reported
        log.debug("unexpected error", exc_info=True)
        row |= {"status": "failed", "error": f"unexpected {type(error).__name__}: {error}"}
    return row | {"seconds": round(time.monotonic() - start, 3)}


COLUMNS = (
    "file",
    "name",
    "status",
    "cells",
    "dropped",
    "diameter",
    "median_area",
    "mean_confidence",
    "branch",
    "why",
    "seconds",
    "error",
    "outputs",
    "sha256",
)


class _Book:
    """Summary and run record of a folder, rewritten whole after every file."""

    def __init__(self, folder: Path, settings: dict[str, Any], before: dict[str, dict[str, Any]]) -> None:
        self._folder, self._settings = folder, settings
        self._all = dict(before)
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self.rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self._all[row["file"]] = row | {"status": "done" if row["status"] == "skipped" else row["status"]}
        write_atomically(self._folder / SUMMARY, self._write_summary)
        write_atomically(self._folder / RUN, self._write_run)

    def _write_summary(self, path: Path) -> None:
        with path.open("w", newline="", **ENCODING) as stream:
            writer = csv.DictWriter(stream, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows(self._all.values())

    def _write_run(self, path: Path) -> None:
        files = list(self._all.values())
        record = {
            "cellweave": __version__,
            "started": self._started,
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": self._settings,
            "inputs": [{"file": row["file"], "sha256": row["sha256"]} for row in files],
            "errors": [{"file": row["file"], "error": row["error"]} for row in files if row["status"] == "failed"],
        }
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _previous(folder: Path, chosen: dict[str, Any], overwrite: bool) -> dict[str, dict[str, Any]]:
    """Rows of an earlier run in this folder, by file."""
    if overwrite or not (folder / RUN).is_file() or not (folder / SUMMARY).is_file():
        return {}
    try:
        settings = dict(json.loads((folder / RUN).read_text(encoding="utf-8"))["settings"])
        with (folder / SUMMARY).open(newline="", **ENCODING) as stream:
            reader = csv.DictReader(stream)
            rows: list[dict[str, Any]] = list(reader)
        if reader.fieldnames != list(COLUMNS) or any(None in [*row, *row.values()] for row in rows):
            raise ValueError("the summary has other columns")
    except (ValueError, LookupError, TypeError, csv.Error) as error:
        raise InputError(f"{folder} holds a damaged {RUN} or {SUMMARY}; use --overwrite or another folder") from error
    changed = [name for name in chosen if settings.get(name) != chosen[name]]
    if changed and any(row["status"] == "done" for row in rows):
        was = ", ".join(f"{name}: {settings.get(name)} then, {chosen[name]} now" for name in changed)
        raise InputError(f"{folder} holds results of other settings ({was}); use --overwrite or another folder")
    return {row["file"]: row for row in rows}


def _say(console: Console, row: dict[str, Any]) -> None:
    name = Path(row["file"]).name
    if row["status"] == "failed":
        console.print(f"{name}: not segmented: {row['error']}", style="red", **PLAIN)
    elif row["status"] == "skipped":
        console.print(f"{name}: already done", **PLAIN)
    else:
        cells = "1 cell" if row["cells"] == 1 else f"{row['cells']} cells"
        if row["dropped"]:
            cells += f" ({row['dropped']} more under the least confidence)"
        branch = f", branch {row['branch']}" if row["branch"] else ""
        console.print(f"{name}: {cells}, diameter {row['diameter']:g} px{branch}, {row['seconds']:.1f} s", **PLAIN)


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


def _plane(image: Image, text: str | None) -> Image:
    """The plane that ``t=0,z=5`` names."""
    if not text:
        return image.plane()
    chosen: dict[str, int] = {}
    for part in text.split(","):
        axis, _, number = part.partition("=")
        if axis.strip() not in ("t", "z") or not number.strip().isdigit():
            raise InputError(f"--plane '{text}' is not understood; write t=0, z=5 or t=0,z=5")
        chosen[axis.strip()] = int(number)
    return image.plane(**chosen)


def _files(inputs: Sequence[str]) -> list[Path]:
    """Files named, those of folders (not their sub-folders), and those that patterns match, each once."""
    found: dict[Path, None] = {}
    for text in inputs:
        path = Path(text)
        if path.is_dir() and path.suffix.lower() != ".zarr":
            inside = [p for p in sorted(path.iterdir()) if _is_image(p)]
            if not inside:
                raise InputError(f"{path}: no image in this folder; images end in {', '.join(IMAGE_SUFFIXES)}")
            found |= dict.fromkeys(inside)
        elif glob.has_magic(text) and not path.exists():
            matched = [Path(p) for p in sorted(glob.glob(text, recursive=True))]
            if not matched:
                raise InputError(f"no file matches '{text}'")
            found |= dict.fromkeys(matched)
        else:
            found[path] = None
    return list(found)


def _is_image(path: Path) -> bool:
    ours = path.stem.endswith(OUR_ENDINGS) or path.name.startswith(".")
    return path.suffix.lower() in IMAGE_SUFFIXES and not ours


def _stems(files: Sequence[Path], before: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A name for each file's outputs: its stem; with suffix, folder or number where another file has that name.

    A file keeps the name that it had in an earlier run in the same folder, and no other file gets it.
    """
    names = {file: str(row["name"]) for file, row in before.items()}
    taken = {name.casefold() for name in names.values()}
    rest = [file for file in files if str(file) not in names]
    for option in (_stem, _name, lambda file: f"{file.parent.name}_{_name(file)}"):
        counts = Counter(option(file).casefold() for file in rest)
        free = {
            str(f): option(f) for f in rest if counts[option(f).casefold()] == 1 and option(f).casefold() not in taken
        }
        names |= free
        taken |= {name.casefold() for name in free.values()}
        rest = [file for file in rest if str(file) not in free]
    for file in rest:
        numbered = (f"{file.parent.name}_{_name(file)}_{n}" for n in count(1))
        names[str(file)] = next(name for name in numbered if name.casefold() not in taken)
        taken.add(names[str(file)].casefold())
    return [names[str(file)] for file in files]


def _name(file: Path) -> str:
    return file.name.replace(".", "_")


def _stem(file: Path) -> str:
    name = file.name
    for ending in (".ome.tiff", ".ome.tif", ".ome.zarr"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return file.stem
