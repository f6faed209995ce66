"""``cellweave fuse select``: the subset of channels and the method of fusion that segment labelled images best."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cellweave.cli.batch import PLAIN
from cellweave.cli.preparation import told_difference
from cellweave.core.errors import InputError
from cellweave.core.files import make_output_folder, sha256, write_atomically
from cellweave.core.names import same
from cellweave.core.progress import console_progress
from cellweave.models import Key, ModelSet, load_set
from cellweave.models.model_set import FUSION_METHODS, OBJECTS, spoken
from cellweave.predict.channel_choice import IOU, MOST_CHANNELS, ChannelChoice, Scored, choose_channels
from cellweave.prep import Preparation
from cellweave.train.objects import Field, cell_line_folders, has_objects, read_fields

SHOWN = 10


def run(
    model_set: str,
    data: Path,
    *,
    cell_line: str | None,
    object: str | None,
    reporters: Sequence[str],
    methods: Sequence[str],
    prepared: Preparation,
    out: Path | None,
    device: str,
) -> None:
    """Score, print a table for each object, write it as CSV, and write the best into the set.

    Raises
    ------
    InputError
        When the data has no labels of the object, or no image a channel with a model.
    ModelError
        When the set has no model for the object or cell line.
    """
    models = load_set(model_set)
    line = models.cell_line(cell_line)
    if object not in (None, *OBJECTS):
        raise InputError(f"--object '{object}' is unknown; choose {' or '.join(OBJECTS)}, or leave it out")
    wanted = (object,) if object else models.objects(line)
    keys = [Key(name, line, reporter) for name in wanted for reporter in models.reporters(name, line)]
    folder = make_output_folder(out or models.root)
    console, errors = Console(highlight=False), Console(stderr=True)
    if different := told_difference(models, keys, prepared):
        errors.print(different, **PLAIN)
    with console_progress():
        fields, _ = read_fields(_folder(data, line), reporters, prepared)
    for name in wanted:
        labelled = [field for field in fields if name in field.labels]
        if not labelled:
            if object:
                raise InputError(f"{data} has no labels of {name}; put them into its folder {name}")
            errors.print(f"No labels of {name} in {data}: their channels stay as they are.", **PLAIN)
            continue
        with console_progress():
            found = choose_channels(
                [field.image for field in labelled],
                [field.labels[name] for field in labelled],
                models,
                object=name,
                cell_line=line,
                methods=methods or FUSION_METHODS,
                device=device,
            )
        if learned := learned_images(labelled, models, name, line):
            errors.print(
                f"{len(learned)} of the {len(labelled)} images for {name} are of those that the models learned from or "
                f"were chosen by ({', '.join(learned[:5])}{' and more' if len(learned) > 5 else ''}): the figures are "
                "too good; give others.",
                **PLAIN,
            )
        for why in found.left_out:
            errors.print(f"An image is left out: {why}", **PLAIN)
        if found.greedy:
            errors.print(
                f"{len(found.reporters)} channels: over {MOST_CHANNELS}, subsets are searched greedily, from the best "
                f"channel on; not all {2 ** len(found.reporters) - 1} of them were scored.",
                **PLAIN,
            )
        place = re.sub(r"[^\w.-]+", "-", line)
        file = folder / f"choice_{name}_{place}.csv"
        write_atomically(file, partial(_write, found))
        models = models.choose(name, line, found.choice)
        console.print(_table(found))
        console.print(_said(found, models.name, file), soft_wrap=True, markup=False)


def learned_images(fields: Sequence[Field], models: ModelSet, name: str, line: str) -> list[str]:
    """Names of the images that a model for this object and cell line was made with, by what is in the files."""
    keys = [Key(name, line, reporter) for reporter in models.reporters(name, line)]
    known = {digest for key in keys for digest in models.training(key).images.values()}
    return [one.name for one in fields if known and sha256(one.image.source) in known]


def _folder(data: Path, line: str) -> Path:
    """That of the cell line, whose name may have other case or spaces."""
    if data.is_dir() and not has_objects(data):
        line = next((name for name in cell_line_folders(data) if same(name, line)), line)
    return cell_line_folders(data, line)[line]


def _write(found: ChannelChoice, path: Path) -> None:
    rows = [
        {"object": found.object, "cell_line": found.cell_line} | row.row() | {"chosen": int(row is found.best)}
        for row in found.rows
    ]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _table(found: ChannelChoice) -> Table:
    """The best rows; then, as in Table 4 of the paper, single channels, all of them, and the best without its own."""
    table = Table(
        "channels", "fusion", "F1", "precision", "recall", "Jaccard", title=f"{found.object} of {found.cell_line}"
    )
    rest = tuple(name for name in found.reporters if name not in found.best.reporters)
    shown = list(found.rows[:SHOWN])
    others = [row for row in found.rows if len(row.reporters) == 1] + found.of(found.reporters) + found.of(rest)[:1]
    for row in shown:
        _line(table, row, bold=row is found.best)
    if more := [row for row in dict.fromkeys(others) if row not in shown]:
        table.add_section()
        for row in more:
            _line(table, row)
    return table


def _line(table: Table, row: Scored, *, bold: bool = False) -> None:
    found = row.total.at(IOU)
    method = spoken(row.method) if len(row.reporters) > 1 else ""
    figures = (f"{value:.4f}" for value in (found.f1, found.precision, found.recall, row.total.jaccard))
    table.add_row(Text(", ".join(row.reporters)), method, *figures, style="bold" if bold else None)


def _said(found: ChannelChoice, name: str, file: Path) -> str:
    best = found.best
    how = f", by {spoken(best.method)}" if len(best.reporters) > 1 else ""
    sure = f"; the confidence of its objects is {'' if found.calibration else 'not '}calibrated"
    return (
        f"{found.object} of {found.cell_line}: {', '.join(best.reporters)}{how}, with F1 {best.f1:.4f} on "
        f"{found.n_images} images, is now the choice of the model set '{name}'; all {len(found.rows)} rows are in "
        f"{file}{sure if len(best.reporters) > 1 else ''}"
    )
