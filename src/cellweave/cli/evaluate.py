"""``cellweave evaluate``: label files against label files, or points against points, paired by name."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from cellweave.cli.batch import COUNTS, ENCODING, POINTS
from cellweave.cli.pairing import check_partners, files_by_name, is_file, name_of
from cellweave.core.errors import InputError
from cellweave.core.files import make_output_folder
from cellweave.core.labels import Labels
from cellweave.core.progress import console_progress
from cellweave.io import read_annotations, read_labels
from cellweave.metrics import evaluate, evaluate_points
from cellweave.metrics.counting import CountEvaluation
from cellweave.metrics.report import as_table, counts_table, points_table, to_csv, to_json
from cellweave.models.model_set import OBJECTS


class _Files(Sequence[Labels]):
    """Labels of files, each read when it is indexed."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> Labels:  # type: ignore[override]
        return read_labels(self._files[number])


def run(predicted: Path, truth: Path, out: Path | None, of_object: str | None = None) -> None:
    """Print a table; with `out`, write `evaluation.json` and `evaluation.csv` there; see `files_by_name`.

    Raises
    ------
    InputError
        When a file has no partner, or shapes differ; names the file.
    """
    if of_object not in (None, *OBJECTS):
        raise InputError(f"--object '{of_object}' is unknown; choose {' or '.join(OBJECTS)}, or leave it out")
    pairs = _pairs(predicted, truth, of_object)
    folder = make_output_folder(out) if out else None
    with console_progress():
        result = evaluate(
            _Files([t for _, _, t in pairs]),
            _Files([p for _, p, _ in pairs]),
            names=[name for name, _, _ in pairs],
        )
    Console().print(as_table(result))
    if folder:
        to_json(result, folder / "evaluation.json")
        to_csv(result, folder / "evaluation.csv")


def run_points(predicted: Path, truth: Path, out: Path | None, radius: float) -> None:
    """As `run`, for files of points; debris counts on neither side.

    In a folder that ``cellweave count`` wrote, the predicted counts are those of its table, which may be integrals.
    Where it wrote no points, as of an area, only the counts are compared.

    Raises
    ------
    InputError
        When an image has true points and no predicted ones; names the image.
    """
    counted, expected = _counts(predicted), read_annotations(truth)
    if not expected:
        raise InputError(f"{truth}: no image in it is annotated")
    if counted and not any(predicted.glob(f"*{POINTS}")):
        _run_counts(predicted, counted, {name: len(a.centres.cells) for name, a in expected.items()}, out)
        return
    found = read_annotations(predicted)
    counts = {name: len(a.centres.cells) for name, a in found.items()} | counted
    if len(found) == len(expected) == 1:
        counts = {name: counts[before] for name, before in zip(expected, found, strict=True)}
        found = dict(zip(expected, found.values(), strict=True))
    check_partners(predicted, "points", found.keys(), expected.keys(), "_points")
    folder = make_output_folder(out) if out else None
    names = sorted(expected)
    result = evaluate_points(
        [expected[name].centres.cells for name in names],
        [found[name].centres.cells for name in names],
        radius=radius,
        names=names,
        counts=[counts[name] for name in names],
    )
    Console().print(points_table(result))
    if folder:
        to_json(result, folder / "evaluation.json")
        to_csv(result, folder / "evaluation.csv")


def _run_counts(predicted: Path, counts: dict[str, float], expected: dict[str, int], out: Path | None) -> None:
    """`run_points` without points."""
    check_partners(predicted, "count", counts.keys(), expected.keys(), "_points")
    folder = make_output_folder(out) if out else None
    names = tuple(sorted(expected))
    result = CountEvaluation(names, tuple(expected[name] for name in names), tuple(counts[name] for name in names))
    Console().print(counts_table(result))
    if folder:
        to_json(result, folder / "evaluation.json")
        to_csv(result, folder / "evaluation.csv")


def _counts(folder: Path) -> dict[str, float]:
    """Counts by the name of the image, where ``cellweave count`` left them."""
    table = folder / COUNTS
    if not table.is_file():
        return {}
    try:
        with table.open(newline="", **ENCODING) as stream:
            return {row["name"]: float(row["count"]) for row in csv.DictReader(stream) if row["status"] != "failed"}
    except (ValueError, LookupError, TypeError, csv.Error) as error:
        raise InputError(f"{table} is damaged ({error!r}); count again with --overwrite") from error


def _pairs(predicted: Path, truth: Path, of_object: str | None) -> list[tuple[str, Path, Path]]:
    """Name, predicted and true labels."""
    if is_file(predicted) and is_file(truth):
        return [(name_of(truth), predicted, truth)]
    found, expected = (files_by_name(path, of_object=of_object) for path in (predicted, truth))
    endings = f"_labels, _masks{f', _{of_object}' if of_object else ' (of nuclei and cells: with --object)'}"
    check_partners(predicted, "labels", found.keys(), expected.keys(), endings)
    return [(name, found[name], expected[name]) for name in sorted(expected)]
