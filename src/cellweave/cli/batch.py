"""What commands over many files share: which files there are, what is done already, the record of the run."""

from __future__ import annotations

import csv
import glob
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Generic, TypeVar

from rich.console import Console

from cellweave import __version__
from cellweave.core.errors import CellweaveError, InputError
from cellweave.core.files import make_output_folder, remove, sha256, write_atomically
from cellweave.core.image import Image
from cellweave.core.progress import console_progress, report
from cellweave.io.filenames import IMAGE_SUFFIXES, images_in, stem_of

log = logging.getLogger(__name__)

Row = dict[str, Any]
Result = TypeVar("Result")

RUN, COUNTS, POINTS = "run.json", "counts.csv", "_points.csv"
"""Records of a run; the table of ``cellweave count``, and how the names of its files of points end."""
ENCODING: Any = {"encoding": "utf-8", "errors": "surrogateescape"}
"""File names may hold bytes that are no UTF-8."""
PLAIN: Any = {"markup": False, "highlight": False, "soft_wrap": True}
"""For lines with file names in them, to be shown as they are."""


@dataclass(frozen=True)
class Work(Generic[Result]):
    """What a command does with each of many files.

    Parameters
    ----------
    command
        Its name: "segment". A folder holds results of one command.
    done
        Its word for a file that is done: "segmented".
    settings
        What decides the results, as JSON has it; compared when a run is repeated in the same folder.
    do
        From a file to the result, and to the command's own columns of the table. What it raises is reported, and the
        other files go on.
    tell
        A line about a row, for people.
    writers
        By the ending of the name of a file to write: what writes a result there, and returns False when the result has
        nothing for it.
    table, columns
        Name of the table of all files, and the command's own columns.
    """

    command: str
    done: str
    settings: dict[str, Any]
    do: Callable[[Path], tuple[Result, Row]]
    tell: Callable[[Row], str]
    writers: Mapping[str, Callable[[Path, Result], object]]
    table: str
    columns: tuple[str, ...]

    @property
    def all_columns(self) -> tuple[str, ...]:
        """Of the table, in order."""
        return ("file", "name", "status", *self.columns, "seconds", "error", "outputs", "sha256")


def run_batch(inputs: Sequence[str], out: Path | None, work: Work[Result], *, overwrite: bool = False) -> list[Row]:
    """Do the work with every input and return the rows of this run; those of files that failed have this as status.

    A file counts as finished when its outputs exist and its content has not changed since; finished files are skipped
    unless `overwrite`. Outputs of an earlier run that a file no longer has are removed. Names and rows of the other
    files in the folder stay. Table and `run.json` are rewritten after every file, so that an interrupted run can go on.
    Without `out` nothing is written.

    Raises
    ------
    InputError
        When there is nothing to do, or the folder holds results of another command, or of other settings; with
        `overwrite`, only when files that are not among the inputs have other settings.
    WriteError
        When the folder cannot be written.
    """
    files = find_images(inputs)
    folder = make_output_folder(out) if out else None
    again = {os.path.abspath(file) for file in files} if overwrite else set[str]()
    before = _previous(folder, work, again) if folder else {}
    stems = [folder / stem for stem in _stems(files, before)] if folder else [None] * len(files)
    book = _Book(folder, work, {path: row for path, row in before.items() if path not in again})
    console = Console(stderr=True)
    try:
        with console_progress():
            for k, (file, stem) in enumerate(zip(files, stems, strict=True)):
                report("images", k, len(files), file.name)
                row = _one(file, stem, work, before.get(os.path.abspath(file)), overwrite)
                book.add(row)
                _say(console, row, work)
            report("images", len(files), len(files), "")
    except KeyboardInterrupt:
        rest = "; the same command goes on with the rest" if folder else ""
        console.print(f"Stopped. {len(book.rows)} of {len(files)} files are done{rest}.", **PLAIN)
        raise
    failed = sum(row["status"] == "failed" for row in book.rows)
    console.print(
        f"{len(files) - failed} of {len(files)} images {work.done}"
        + (f"; results are in {folder}" if folder else "")
        + (f"; {failed} failed" if failed else "")
        + (f", see {folder / work.table}" if failed and folder else ""),
        **PLAIN,
    )
    return book.rows


def _one(file: Path, stem: Path | None, work: Work[Result], before: Row | None, overwrite: bool) -> Row:
    """Do one file, or say why not."""
    start = time.monotonic()
    name = stem.name if stem else stem_of(file)
    row: Row = {"file": os.path.abspath(file), "name": name, "status": "done", "sha256": ""}
    try:
        if stem and file.exists():
            row["sha256"] = sha256(file)
        earlier = _outputs(stem, before) if stem and before else set()
        finished = before is not None and before["status"] != "failed" and before["sha256"] == row["sha256"]
        if before is not None and finished and not overwrite and all(path.exists() for path in earlier):
            return before | {"status": "skipped"}
        result, own = work.do(file)
        row |= own
        if stem:
            outputs = {stem.with_name(name + end): write for end, write in work.writers.items()}
            written = [path for path, write in outputs.items() if write(path, result) is not False]
            for path in (earlier | outputs.keys()).difference(written):
                remove(path)
            row["outputs"] = " ".join(path.name for path in written)
    except CellweaveError as error:
        row |= {"status": "failed", "error": str(error)}
    except Exception as error:  # a fault of ours in one file must not end the batch; it is reported
        log.debug("unexpected error", exc_info=True)
        row |= {"status": "failed", "error": f"unexpected {type(error).__name__}: {error}"}
    return row | {"seconds": round(time.monotonic() - start, 3)}


def _outputs(stem: Path, row: Row) -> set[Path]:
    """Files that a row of the table names; they begin with the stem, which may hold spaces."""
    return {stem.with_name(stem.name + end) for end in f" {row['outputs']}".split(f" {stem.name}")[1:]}


class _Book:
    """Table and run record of a folder, rewritten whole after every file; without a folder only the rows."""

    def __init__(self, folder: Path | None, work: Work[Any], before: dict[str, Row]) -> None:
        self._folder, self._work = folder, work
        self._all = dict(before)
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self._all[row["file"]] = row | {"status": "done" if row["status"] == "skipped" else row["status"]}
        if self._folder:
            write_atomically(self._folder / self._work.table, self._write_table)
            write_atomically(self._folder / RUN, self._write_run)

    def _write_table(self, path: Path) -> None:
        with path.open("w", newline="", **ENCODING) as stream:
            writer = csv.DictWriter(stream, self._work.all_columns, restval="")
            writer.writeheader()
            writer.writerows(self._all.values())

    def _write_run(self, path: Path) -> None:
        files = list(self._all.values())
        record = {
            "cellweave": __version__,
            "started": self._started,
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": self._work.command,
            "settings": self._work.settings,
            "inputs": [{"file": row["file"], "sha256": row["sha256"]} for row in files],
            "errors": [{"file": row["file"], "error": row["error"]} for row in files if row["status"] == "failed"],
        }
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _previous(folder: Path, work: Work[Any], again: Set[str]) -> dict[str, Row]:
    """Rows of earlier runs in this folder, by the path of the file; those in `again` will be replaced."""
    if not (folder / RUN).is_file():
        return {}
    table, chosen, rows = folder / work.table, work.settings, list[Row]()
    try:
        record = json.loads((folder / RUN).read_text(encoding="utf-8"))
        command, settings = str(record["command"]), dict(record["settings"])
        if command == work.command and table.is_file():
            rows = _read_table(table, work.all_columns)
    except (ValueError, LookupError, TypeError, csv.Error) as error:
        if again:
            return {}
        raise InputError(
            f"{folder} holds a damaged {RUN} or {table.name}; use --overwrite or another folder"
        ) from error
    if command != work.command:
        raise InputError(f"{folder} holds results of cellweave {command}; choose another folder with --out")
    changed = [name for name in chosen if settings.get(name) != chosen[name]]
    others = [row for row in rows if row["status"] == "done" and row["file"] not in again]
    if changed and others:
        was = ", ".join(f"{name}: {settings.get(name)} then, {chosen[name]} now" for name in changed)
        remedy = f"give {others[0]['file']} and the other images of this folder, too" if again else "use --overwrite"
        raise InputError(f"{folder} holds results of other settings ({was}); {remedy} or another folder")
    return {row["file"]: row for row in rows}


def _read_table(table: Path, columns: Sequence[str]) -> list[Row]:
    with table.open(newline="", **ENCODING) as stream:
        reader = csv.DictReader(stream)
        rows: list[Row] = list(reader)
    if reader.fieldnames != list(columns) or any(None in [*row, *row.values()] for row in rows):
        raise ValueError("the table has other columns")
    return rows


def _say(console: Console, row: Row, work: Work[Any]) -> None:
    name = Path(row["file"]).name
    if row["status"] == "failed":
        console.print(f"{name}: not {work.done}: {row['error']}", style="red", **PLAIN)
    elif row["status"] == "skipped":
        console.print(f"{name}: already done", **PLAIN)
    else:
        console.print(f"{name}: {work.tell(row)}, {row['seconds']:.1f} s", **PLAIN)


def plane_of(image: Image, text: str | None) -> Image:
    """The plane that ``t=0,z=5`` names."""
    return film_of(image, text).plane()


def film_of(image: Image, text: str | None) -> Image:
    """What ``t=0,z=5`` names; axes that it does not name stay."""
    chosen: dict[str, int] = {}
    for part in text.split(",") if text else []:
        axis, _, number = part.partition("=")
        if axis.strip() not in ("t", "z") or not number.strip().isdigit():
            raise InputError(f"--plane '{text}' is not understood; write t=0, z=5 or t=0,z=5")
        chosen[axis.strip()] = int(number)
    return image.select(**chosen)


def find_images(inputs: Sequence[str]) -> list[Path]:
    """Files named, images of folders (not of their sub-folders), and those that patterns match, each once."""
    found: dict[str, Path] = {}
    for text in inputs:
        path = Path(text)
        if path.is_dir() and path.suffix.lower() != ".zarr":
            files = images_in(path)
            if not files:
                raise InputError(f"{path}: no image in this folder; images end in {', '.join(IMAGE_SUFFIXES)}")
        elif glob.has_magic(text) and not path.exists():
            files = [Path(p) for p in sorted(glob.glob(text, recursive=True))]
            if not files:
                raise InputError(f"no file matches '{text}'")
        else:
            files = [path]
        for file in files:
            found.setdefault(os.path.abspath(file), file)
    return list(found.values())


def _stems(files: Sequence[Path], before: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A name for each file's outputs: its stem; with suffix, folder or number where another file has that name.

    A file keeps the name that it had in an earlier run in the same folder, and no other file gets it.
    """
    names = {path: str(row["name"]) for path, row in before.items()}
    taken = {name.casefold() for name in names.values()}
    rest = {path: file for file in files if (path := os.path.abspath(file)) not in names}
    for option in (stem_of, _name, lambda file: f"{file.parent.name}_{_name(file)}"):
        options = {path: option(file) for path, file in rest.items()}
        counts = Counter(name.casefold() for name in options.values())
        free = {p: name for p, name in options.items() if counts[name.casefold()] == 1 and name.casefold() not in taken}
        names |= free
        taken |= {name.casefold() for name in free.values()}
        rest = {path: file for path, file in rest.items() if path not in free}
    for path, file in rest.items():
        numbered = (f"{file.parent.name}_{_name(file)}_{n}" for n in count(1))
        names[path] = next(name for name in numbered if name.casefold() not in taken)
        taken.add(names[path].casefold())
    return [names[os.path.abspath(file)] for file in files]


def _name(file: Path) -> str:
    return file.name.replace(".", "_")
