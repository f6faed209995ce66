"""Tables as CSV: one row an object, one column a measurement."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError, ReadError
from cellweave.core.files import write_atomically
from cellweave.core.measure import Table


def write_table(path: str | os.PathLike[str], table: Table) -> None:
    """Write columns of equal length as CSV (UTF-8, one header line, empty for NaN, 9 significant digits).

    Raises
    ------
    InputError
        When the columns differ in length.
    WriteError
        When the file cannot be written.
    """
    lengths = {name: len(column) for name, column in table.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"{path}: the columns of a table have one length, these have {lengths}")
    columns = [_texts(np.asarray(column)) for column in table.values()]

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(table)
            writer.writerows(zip(*columns, strict=True))

    write_atomically(path, write)


def _texts(column: NDArray[Any]) -> list[str]:
    if column.dtype.kind != "f":
        return [str(value) for value in column.tolist()]
    return ["" if value != value else f"{value:.9g}" for value in column.tolist()]


def read_table(path: str | os.PathLike[str]) -> Table:
    """Read a CSV with a header line. Columns become int64, float64 (empty = NaN), or texts.

    Raises
    ------
    ReadError
        When the file is missing, has no header, or a row has another number of cells.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.reader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ReadError(f"{path}: cannot be read as a CSV table ({error}); check its name and content") from error
    if not rows or not rows[0]:
        raise ReadError(f"{path}: the table is empty; its first line must name the columns")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(rows[0]):
            raise ReadError(f"{path}: line {number} has {len(row)} cells, the header has {len(rows[0])}; repair it")
    columns = zip(*rows[1:], strict=True) if len(rows) > 1 else ([] for _ in rows[0])
    return {name: _values(list(column)) for name, column in zip(rows[0], columns, strict=True)}


def _values(texts: list[str]) -> NDArray[Any]:
    for convert in (_integers, _floats):
        try:
            return convert(texts)
        except (ValueError, OverflowError):
            continue
    return np.array(texts, dtype=np.str_)


def _integers(texts: list[str]) -> NDArray[Any]:
    return np.array([int(text) for text in texts], dtype=np.int64)


def _floats(texts: list[str]) -> NDArray[Any]:
    return np.array([float(text or "nan") for text in texts], dtype=np.float64)
