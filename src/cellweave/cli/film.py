"""``cellweave segment`` of time lapses: one frame in memory at a time, one file for all frames."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellweave.cli.batch import Row
from cellweave.core.errors import CellweaveError, InputError, WriteError
from cellweave.core.image import Image
from cellweave.core.labels import Labels
from cellweave.core.measure import Table
from cellweave.io import render_overlay, write_label_film, write_table
from cellweave.io.overlay import LONGEST_SIDE, montage
from cellweave.io.raster import write_picture
from cellweave.predict import Frames
from cellweave.predict.frames import spread

SHOWN = 9
"""Frames in the overlay picture of a film, evenly spaced."""


class LabelStore(Sequence[Labels]):
    """Label images of one size in a temporary file in `folder`, which is gone with this object."""

    def __init__(self, folder: Path, shape: tuple[int, int]) -> None:
        self._folder, self._shape, self._number = folder, shape, 0
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  it lives as long as the object

    def append(self, labels: Labels) -> None:
        try:
            self._file.seek(0, 2)
            self._file.write(np.ascontiguousarray(labels, np.int32).data)
            self._file.flush()
        except OSError as error:
            raise WriteError(f"cannot write to the folder {self._folder}: {error.strerror}") from error
        self._number += 1

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, t: Any) -> Any:
        if not 0 <= t < self._number:
            raise IndexError(t)
        size = 4 * self._shape[0] * self._shape[1]
        self._file.seek(t * size)
        return np.frombuffer(self._file.read(size), np.int32).reshape(self._shape)


@dataclass(frozen=True)
class Film:
    """Results of a time lapse.

    Parameters
    ----------
    image
        What was segmented.
    labels
        (Y, X) for each frame; nothing for one that could not be segmented.
    table
        One row a cell, frame by frame: the column ``frame``, from 0, then those of the object table.
    overlay
        Some frames, side by side.
    row
        The film's row in the summary.
    failed
        Frames that could not be segmented.
    """

    image: Image
    labels: LabelStore
    table: Table
    overlay: NDArray[np.uint8]
    row: Row
    failed: frozenset[int] = frozenset()


WRITERS: dict[str, Callable[[Path, Film], object]] = {
    **dict.fromkeys(
        ("labels", "zarr"),
        lambda path, film: write_label_film(
            path, film.labels, pixel_size_um=film.image.pixel_size_um, interval_s=film.image.interval_s
        ),
    ),
    "overlay": lambda path, film: write_picture(path, film.overlay),
    "table": lambda path, film: write_table(path, film.table),
}
"""By the word in ``--save``."""


def check_outputs(image: Image, kinds: Sequence[str]) -> None:
    """Raise an `InputError` when something is to be saved that a time lapse does not have."""
    missing = [kind for kind in kinds if kind not in WRITERS]
    if missing:
        raise InputError(
            f"{image.source} has {image.size('T')} time points, and of these {' and '.join(missing)} cannot be saved; "
            f"choose from {', '.join(WRITERS)}, or one frame with --plane t=0"
        )


def segment_film(frames: Frames, folder: Path, measured: Image) -> Film:
    """Segment every frame; those that fail are empty in the labels, and told in the row, whose status is failed then.

    Intensities are those of `measured`, an image of the same time points.

    Raises
    ------
    CellweaveError
        That of the first frame, when no frame can be segmented.
    """
    image, n = frames.image, len(frames)
    labels = LabelStore(folder, (image.height, image.width))
    shown = spread(n, SHOWN)
    side = LONGEST_SIDE // int(np.ceil(np.sqrt(len(shown))))
    empty = np.zeros((image.height, image.width), np.int32)
    tables: list[Table] = []
    pictures: dict[str, NDArray[np.uint8]] = {}
    failed: dict[int, CellweaveError] = {}
    row: Row = {
        "frames": n,
        "cells": 0,
        "dropped": 0,
        "median_area": "",
        "mean_confidence": "",
        "branch": "",
        "why": "",
    }
    diameters: list[float] = []
    for t in range(n):
        try:
            found = replace(frames[t], image=measured.plane(t=t))
        except WriteError:
            raise
        except CellweaveError as error:
            failed[t] = error
            labels.append(empty)
            continue
        labels.append(found.labels)
        tables.append({"frame": np.full(found.count, t), **found.table})
        row |= {"cells": row["cells"] + found.count, "dropped": row["dropped"] + found.dropped}
        diameters.append(found.diameter)
        row |= {"branch": found.branch.name, "why": found.branch.why} if found.branch else {}
        if t in shown or not pictures:
            pictures[f"t={t}"] = render_overlay(found.image, found.labels, longest_side=side)
    if len(failed) == n:
        raise failed[0]
    table = {name: np.concatenate([part[name] for part in tables]) for name in tables[0]}
    row["diameter"] = round(float(np.median(diameters)), 2)
    if row["cells"]:
        row["median_area"] = float(np.median(table["area"]))
        row["mean_confidence"] = round(float(table["confidence"].mean()), 4)
    if failed:
        numbers = ", ".join(map(str, failed))
        why = f"frames {numbers} of {n} ({next(iter(failed.values()))}); they are empty in the results of the others"
        row |= {"status": "failed", "error": why}
    return Film(image, labels, table, montage(list(pictures.values()), list(pictures)), row, frozenset(failed))
