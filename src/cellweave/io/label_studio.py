"""Exports of Label Studio (JSON and JSON-MIN): keypoints, rectangles, polygons and brushes.

Published descriptions: the JSON of results at https://labelstud.io/guide/export and https://labelstud.io/tags (sizes in
percent of the image, origin at its top left corner); the packing of brushes at
https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import ReadError
from cellweave.core.points import Shape
from cellweave.io.marks import Marks, picture_name, size_of

NAME = "Label Studio"
_PICTURE = re.compile(r"\.(png|jpe?g|tiff?|bmp|gif|webp|npy|zarr)$", re.IGNORECASE)
_KINDS = ("keypoint", "rectangle", "polygon", "brush")


def recognises(data: Any) -> bool:
    """Whether parsed JSON is a list of tasks, or one task."""
    tasks = data if isinstance(data, list) else [data]
    return bool(tasks) and all(isinstance(t, dict) and (_is_task(t) or _is_minimal(t)) for t in tasks)


def _is_task(task: dict[str, Any]) -> bool:
    return isinstance(task.get("data"), dict) and ("annotations" in task or "completions" in task)


def _is_minimal(task: dict[str, Any]) -> bool:
    return "annotation_id" in task or "annotator" in task


def find(path: Path, data: Any) -> tuple[list[Marks], list[str]]:
    """The marks of every annotation of every task, and what was seen besides.

    Raises
    ------
    ReadError
        Names the file, the task and what is wrong with it.
    """
    marks: list[Marks] = []
    notes: list[str] = []
    for number, task in enumerate(data if isinstance(data, list) else [data], start=1):
        where = f"{path}: task {task.get('id', number)}"
        image = _image_name(task, where)
        annotations = _annotations(task)
        people = Counter[str]()
        for annotation in annotations:
            if annotation.get("was_cancelled"):
                notes.append(f"{where} (image {image}): a skipped annotation was left out")
                continue
            person = _person(annotation)
            people[person] += 1
            if people[person] > 1:
                person = f"{person} ({people[person]})"
            marks.append(_marks(path, where, image, person, annotation.get("result") or []))
        if not people:
            notes.append(f"{where} (image {image}): no one annotated it, it was left out")
    return marks, notes


def _annotations(task: dict[str, Any]) -> list[dict[str, Any]]:
    if _is_task(task):
        return list(task.get("annotations", task.get("completions")) or [])
    regions = [r for value in task.values() if isinstance(value, list) for r in value if isinstance(r, dict)]
    return [{"completed_by": task.get("annotator"), "result": [{**r, "value": r} for r in regions]}]


def _person(annotation: dict[str, Any]) -> str:
    person = annotation.get("completed_by")
    if isinstance(person, dict):
        person = person.get("email") or person.get("id")
    return "" if person is None else str(person)


def _image_name(task: dict[str, Any], where: str) -> str:
    """Name of the picture without folder, suffix and the eight digits that an upload puts before it."""
    values = task["data"] if _is_task(task) else task
    texts = [value for value in values.values() if isinstance(value, str)]
    texts = [t for t in texts if _PICTURE.search(t.split("?d=")[-1].split("?")[0])] or [
        t for t in [task.get("file_upload")] if isinstance(t, str)
    ]
    if not texts:
        raise ReadError(f"{where}: does not say which image it is about; export it with its data (JSON, not JSON-MIN)")
    text = unquote(texts[0].split("?d=")[-1].split("?")[0])
    return picture_name(text, uploaded=text == task.get("file_upload"))


def _marks(path: Path, where: str, image: str, person: str, results: list[Any]) -> Marks:
    marks = Marks(path, image, annotator=person)
    others = Counter[str]()
    for result in results:
        value = result.get("value")
        kind = _kind(value, result) if isinstance(value, dict) else None
        if kind is None:
            others[str(result.get("type", "unknown"))] += 1
            continue
        try:
            shape = size_of(result["original_height"], result["original_width"])
            _add(marks, kind, value, shape)
        except ReadError as error:
            raise ReadError(f"{where}: region {result.get('id', '?')}: {error}") from error
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise ReadError(
                f"{where}: region {result.get('id', '?')} ({kind}) is incomplete ({error!r}); export the project again"
            ) from error
        if result.get("image_rotation"):
            raise ReadError(
                f"{where}: the image was turned by {result['image_rotation']} degrees while it was annotated; turn the "
                "image file itself and annotate that"
            )
        if marks.shape not in (None, shape):
            raise ReadError(f"{where}: marks on images of {marks.shape} and {shape} px (height, width) in one task")
        marks.shape = shape
    if others:
        kinds = ", ".join(f"{n} of the kind '{kind}'" for kind, n in others.items())
        marks.notes.append(f"marks that are not read: {kinds}")
    return marks


def _kind(value: dict[str, Any], result: dict[str, Any]) -> str | None:
    by_label = (kind for kind in _KINDS if f"{kind}labels" in value)
    return next(by_label, result.get("type") if result.get("type") in _KINDS else None)


def _add(marks: Marks, kind: str, value: dict[str, Any], shape: Shape) -> None:
    height, width = shape
    names = value.get(f"{kind}labels") or value.get("labels") or [""]
    name = str(names[0])
    if len(names) > 1:
        marks.notes.append(f"a mark with the labels {', '.join(map(str, names))} was read as '{name}'")
    if kind == "keypoint":
        marks.points.append((_row(value["y"], height), _row(value["x"], width), name, None))
    elif kind == "rectangle":
        marks.boxes.append((*_box(value, shape), name))
    elif kind == "polygon":
        corners = [(_row(y, height), _row(x, width)) for x, y in value["points"]]
        if len(corners) < 3:
            raise ReadError(f"a polygon of {len(corners)} corners; it needs 3: delete it or finish it")
        marks.polygons.append((np.array(corners, np.float64), name))
    else:
        if value.get("format") != "rle":
            raise ReadError(f"a brush in the format '{value.get('format')}'; only 'rle' is known")
        marks.regions.append((decode_brush(value["rle"], shape), name))


def _row(percent: float, size: int) -> float:
    """Percent of the image's height (width) to a row (column): pixel centres on whole numbers."""
    return float(percent) / 100 * size - 0.5


def _box(value: dict[str, Any], shape: Shape) -> tuple[float, float, float, float]:
    """The upright box around a rectangle that is turned about its first corner."""
    height, width = shape
    angle = np.deg2rad(float(value.get("rotation") or 0))
    h, w = float(value["height"]) / 100 * height, float(value["width"]) / 100 * width
    along, down = np.array([np.sin(angle), np.cos(angle)]) * w, np.array([np.cos(angle), -np.sin(angle)]) * h
    first = np.array([_row(value["y"], height), _row(value["x"], width)])
    corners = first + np.array([0 * along, along, down, along + down])
    (y0, x0), (y1, x1) = corners.min(axis=0), corners.max(axis=0)
    return float(y0), float(x0), float(y1), float(x1)


def decode_brush(rle: list[int], shape: Shape) -> NDArray[np.bool_]:
    """Painted pixels (Y, X) of a brush, from the bytes of its run lengths.

    The bytes are a stream of bits, the most significant first: number of words (32 bits), bits a word less one (5),
    bits of the four kinds of lengths less one (4 x 4); then, until all words are there: 1 for a run or 0 for single
    words, kind of length (2), length less one, and the word of the run or the single words. The words are the
    red, green, blue and opacity of every pixel; painted is what is not fully transparent.

    Raises
    ------
    ReadError
        When the bytes are not of this format or not of an image of this (height, width).
    """
    height, width = shape
    try:
        data = bytes(rle)
    except (TypeError, ValueError) as error:
        raise ReadError("the run lengths of a brush are numbers from 0 to 255; these are not") from error
    bits = _Bits(data)
    n, word = bits.take(32), bits.take(5) + 1
    if n != 4 * height * width:
        raise ReadError(
            f"a brush of {n} words; an image of {height} x {width} px has {4 * height * width}: it is damaged, or of "
            "another image"
        )
    lengths = [bits.take(4) + 1 for _ in range(4)]
    painted = np.zeros(n, np.bool_)
    done = 0
    while done < n:
        run, kind = bits.take(1), bits.take(2)
        end = done + bits.take(lengths[kind]) + 1
        if end > n:
            raise ReadError("a brush has more words than pixels: it is damaged; export the project again")
        painted[done:end] = bits.take(word) > 0 if run else bits.take_words(end - done, word)
        done = end
    return np.ascontiguousarray(painted.reshape(height, width, 4)[:, :, 3])


class _Bits:
    """Reads a stream of bits, the most significant first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def _advance(self, n: int) -> int:
        start = self._place
        self._place += n
        if self._place > 8 * len(self._data):
            raise ReadError("a brush ends in the middle: it is damaged; export the project again")
        return start

    def take(self, n: int) -> int:
        """A number of `n` bits, at most 32."""
        start = self._advance(n)
        eight = self._data[start // 8 : start // 8 + 8].ljust(8, b"\0")
        return int.from_bytes(eight, "big") >> (64 - start % 8 - n) & ((1 << n) - 1)

    def take_words(self, n: int, size: int) -> NDArray[np.bool_]:
        """Which of `n` words of `size` bits are not 0."""
        start = self._advance(n * size)
        part = np.frombuffer(self._data[start // 8 : (start + n * size + 7) // 8], np.uint8)
        flat = np.unpackbits(part)[start % 8 : start % 8 + n * size]
        return np.asarray(flat.reshape(n, size).any(axis=1))
