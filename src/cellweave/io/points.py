"""`read_points`, `read_annotations` and `write_points`: cell positions in every format."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cellweave.core.errors import CellweaveError, InputError, ReadError
from cellweave.core.files import atomic_path
from cellweave.core.points import Annotation, Points, Shape
from cellweave.io import coco, dots, label_studio
from cellweave.io.filenames import stem_of
from cellweave.io.marks import Marks, Rules, annotate
from cellweave.io.reading import read_image

log = logging.getLogger(__name__)

TABLES = (".csv", ".tsv", ".txt")
SUFFIXES = (*TABLES, ".json", *dots.SUFFIXES)
ENDINGS = ("_points", "_dots", "_cells")
"""What may follow the name of the image in the name of its file of points."""

_COLUMNS = {
    "column": ("x", "column", "col", "axis-1", "centroid_x"),
    "row": ("y", "row", "axis-0", "centroid_y"),
    "class": ("class", "label", "classification", "type", "category"),
    "confidence": ("confidence", "score", "probability"),
}

AnyPath = str | os.PathLike[str]


def read_points(
    path: AnyPath,
    *,
    image: str | None = None,
    shape: Shape | None = None,
    classes: Mapping[str, str] | None = None,
    same_within: float = 0.5,
    agree_within: float = 12.0,
) -> Points:
    """Read the cell positions of one image; see `read_annotations` for formats and rules.

    Of marks of other kinds, the centres of boxes and polygons are read where the image has no points. What was left
    out is logged as a warning; `read_annotations` gives it as a report.

    Parameters
    ----------
    path
        A file of points.
    image
        Name of the image (with or without suffix), when the file is about several.
    shape
        (height, width) of the image in px, when the file does not tell it: points outside can then be found.
    classes, same_within, agree_within
        As for `read_annotations`.

    Raises
    ------
    ReadError
        When the file cannot be read, is about other or several images, or about an image of another size.
    """
    rules = _rules(classes, same_within, agree_within)
    found = _by_image([Path(path)], rules)
    key = stem_of(Path(image)) if image and image not in found else image
    if key is None and len(found) == 1:
        key = next(iter(found))
    if key is None or key not in found:
        names = ", ".join(sorted(found)[:10]) or "none"
        which = f"has no points of the image '{image}'" if image else f"is about {len(found)} images"
        raise ReadError(f"{path}: {which}; choose with image=NAME out of: {names}")
    marks = found[key]
    if shape is not None:
        for m in marks:
            if m.shape not in (None, shape):
                raise ReadError(
                    f"{path}: image {key}: was annotated at {m.shape[0]} x {m.shape[1]} px (height x width), the image "
                    f"given has {shape[0]} x {shape[1]}; give the image that was annotated"
                )
            m.shape = shape
    return _annotate(marks, rules).centres


def read_annotations(
    paths: AnyPath | Sequence[AnyPath],
    *,
    classes: Mapping[str, str] | None = None,
    same_within: float = 0.5,
    agree_within: float = 12.0,
) -> dict[str, Annotation]:
    """Read what people marked in images: points, boxes, polygons and painted regions.

    Formats, told apart by content:

    - Label Studio exports (JSON, JSON-MIN): keypoints, rectangles, polygons, brushes; several people a task. The
      eight digits that an upload puts before the name of an image are taken off.
    - COCO JSON: keypoints (or ``point``, ``points``), else polygons, else boxes.
    - Tables (CSV, also with semicolons or tabs): ``x,y[,class[,confidence]]`` with or without a header, or columns
      named row, col, axis-0, axis-1 (napari), centroid_y, centroid_x (cellweave), class or label, confidence or score.
    - Dot images (PNG, TIFF, BMP, NPY): one pixel or blob a cell.

    Rules: nothing is dropped without a line in the annotation's `report`, which is also logged as a warning.

    - A point outside the image is left out.
    - Of points of one person closer than `same_within`, the first stays.
    - Points of several people are paired one to one within `agree_within`; a pair is one cell at the mean place, with
      the class most gave, and its confidence is the share of the people who marked it. Someone who marked only boxes or
      regions has no say; someone who found the image empty has.
    - Class names that are known ('Live Cell', 'Dead cell/debris', 'Background') become `LIVE`, `DEBRIS` and
      `BACKGROUND`; marks without class are `LIVE`; others keep their name and are reported.

    Parameters
    ----------
    paths
        A file, several, or a folder of them. Annotations of the same image in several files are joined.
    classes
        Name in the file -> class, for names that are not known. In dot images the name is the pixel value.
    same_within, agree_within
        Distances in px; the second should be about half the diameter of a cell.

    Returns
    -------
    dict
        Name of the image without folder and suffix -> `Annotation`. Images that no one annotated are not in it.

    Raises
    ------
    ReadError
        When a file cannot be read or is damaged, or images of one name have different sizes; names file and place.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    files = [file for path in given for file in point_files(Path(path))]
    rules = _rules(classes, same_within, agree_within)
    return {name: _annotate(marks, rules) for name, marks in _by_image(files, rules).items()}


def _rules(classes: Mapping[str, str] | None, same_within: float, agree_within: float) -> Rules:
    if not (same_within >= 0 and agree_within > 0):
        raise InputError(f"distances are positive px; same_within is {same_within}, agree_within is {agree_within}")
    return Rules(classes, same_within, agree_within)


def point_files(path: Path) -> list[Path]:
    """The file, or the files of points of a folder: those with one of `ENDINGS`, if any; tables and JSON before dots.

    Raises
    ------
    ReadError
        When a folder has none.
    """
    if not path.is_dir():
        return [path]
    files = [p for p in sorted(path.iterdir()) if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    tables = [p for p in files if p.suffix.lower() in (*TABLES, ".json")] or files
    marked = [p for p in tables if stem_of(p).endswith(ENDINGS)] or tables
    if not marked:
        raise ReadError(f"{path}: no file of points in this folder; they end in {', '.join(SUFFIXES)}")
    return marked


def _by_image(files: list[Path], rules: Rules) -> dict[str, list[Marks]]:
    by_image: dict[str, list[Marks]] = defaultdict(list)
    for file in files:
        marks, notes = _find(file, rules)
        for m in marks:
            by_image[m.image].append(m)
        for note in notes:
            log.warning("%s", note)
    return dict(by_image)


def _annotate(marks: list[Marks], rules: Rules) -> Annotation:
    annotation = annotate(marks, rules)
    if not annotation.report.clean or annotation.report.notes:
        log.warning("%s", annotation.report)
    return annotation


def _find(path: Path, rules: Rules) -> tuple[list[Marks], list[str]]:
    suffix = path.suffix.lower()
    if not path.is_file():
        raise ReadError(f"{path}: there is no such file; check the name and the folder")
    if suffix == ".json":
        return _find_json(path)
    if suffix in TABLES:
        return [_read_table(path)], []
    if suffix not in dots.SUFFIXES:
        raise ReadError(f"{path}: points are read from CSV, JSON and dot images (PNG, TIFF), not from '{suffix}'")
    marks = dots.find(path, read_image(path), dict(rules.classes or {}))
    marks.image = _image_of(path)
    return [marks], []


def _image_of(path: Path) -> str:
    stem = stem_of(path)
    for ending in ENDINGS:
        if stem.endswith(ending):
            return stem.removesuffix(ending).removesuffix(".ome")
    return stem


def _find_json(path: Path) -> tuple[list[Marks], list[str]]:
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise ReadError(f"{path}: cannot be opened ({error.strerror}); check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise ReadError(f"{path}: is no valid JSON ({error}); export it again") from error
    try:
        if label_studio.recognises(data):
            return label_studio.find(path, data)
        if coco.recognises(data):
            return coco.find(path, data)
    except CellweaveError:
        raise
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ReadError(f"{path}: an entry is not of the form it should have ({error!r}); export it again") from error
    raise ReadError(
        f"{path}: is neither a Label Studio export (a list of tasks with data and annotations) nor COCO (images, "
        "annotations, categories); export it as one of them, or as CSV"
    )


def _read_table(path: Path) -> Marks:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            first = next((line for line in stream if line.strip()), "")
            delimiter = next((d for d in "\t;," if d in first), ",")
            stream.seek(0)
            rows = [row for row in csv.reader(stream, delimiter=delimiter) if any(map(str.strip, row))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ReadError(f"{path}: is no table of text ({error}); save it as CSV (UTF-8)") from error
    except OSError as error:
        raise ReadError(f"{path}: cannot be opened ({error.strerror}); check its permissions") from error
    if not rows:
        raise ReadError(f"{path}: the file is empty; a table of no points has the header line x,y")
    header = [cell.strip().casefold() for cell in rows[0]]
    columns = {ours: header.index(n) for ours, names in _COLUMNS.items() for n in names[::-1] if n in header}
    start = 1
    if "row" not in columns or "column" not in columns:
        if any(_number(cell) is None for cell in header[:2]) or len(header) < 2:
            raise ReadError(
                f"{path}: the columns are {', '.join(header[:8])}; name them x,y[,class] or row,col[,class], or give "
                "only numbers x,y without a header"
            )
        columns, start = dict(zip(("column", "row", "class", "confidence"), range(len(header)), strict=False)), 0
    marks = Marks(path, _image_of(path))
    for number, row in enumerate(rows[start:], start=start + 1):
        cells = {name: row[k].strip() if k < len(row) else "" for name, k in columns.items()}
        y, x = _number(cells["row"]), _number(cells["column"])
        confidence = _number(cells["confidence"]) if cells.get("confidence") else None
        if y is None or x is None or (cells.get("confidence") and confidence is None):
            raise ReadError(
                f"{path}: row {number} ({delimiter.join(row)}) has no numbers for x and y; mend or delete it"
            )
        if confidence is not None and not 0 <= confidence <= 1:
            raise ReadError(f"{path}: row {number} has the confidence {confidence:g}; it must be between 0 and 1")
        marks.points.append((y, x, cells.get("class", ""), confidence))
    return marks


def _number(text: str) -> float | None:
    try:
        value = float(text.replace(",", "."))  # 3,5: as tables with semicolons have it
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def write_points(path: AnyPath, points: Points) -> None:
    """Write points as CSV with the columns x, y, class and, where there is one, confidence.

    Numbers are written in full, so that `read_points` gives the same points back (the size of the image is not in the
    file). An existing file is replaced, whole or not at all.

    Raises
    ------
    InputError
        When the name does not end in .csv.
    WriteError
        When the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".csv":
        raise InputError(f"{path}: points are written as .csv, not as '{path.suffix}'")
    columns: dict[str, list[Any]] = {
        "x": points.positions[:, 1].tolist(),
        "y": points.positions[:, 0].tolist(),
        "class": points.classes.tolist(),
    }
    if points.confidence is not None:
        columns["confidence"] = points.confidence.tolist()
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
