"""``cellweave link``: files of nuclei and of cells, paired by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console

from cellweave.cli.batch import PLAIN
from cellweave.cli.film import LabelStore
from cellweave.cli.pairing import check_partners, files_by_name, is_file, name_of
from cellweave.core.errors import CellweaveError, InputError
from cellweave.core.files import make_output_folder
from cellweave.core.image import Image
from cellweave.core.linking import NO_CELL, PARTS, link
from cellweave.core.measure import Table
from cellweave.io import read_image, read_label_film, write_label_film, write_labels, write_table
from cellweave.io.filenames import LABEL_ENDINGS

ENDINGS = ("_nuclei", "_cells", "_nucleus", "_cell")


def run(nuclei: Path, cells: Path, out: Path, image: Path | None, least_share: float) -> int:
    """Write ``NAME_linked.csv`` and the labels of `PARTS` for each pair of files; of films, frame by frame.

    A pair that cannot be linked is reported and the others go on.

    Returns
    -------
    int
        Number of pairs that failed.

    Raises
    ------
    InputError
        When a file has no partner; names the file.
    """
    names = _paired(nuclei, cells, image)
    folder = make_output_folder(out)
    console = Console(stderr=True)
    failed = 0
    for name, (nucleus_file, cell_file, *image_files) in names.items():
        try:
            picture = read_image(image_files[0]) if image_files else None
            found = _one(nucleus_file, cell_file, picture, folder / name, least_share)
        except CellweaveError as error:
            failed += 1
            console.print(f"{name}: not linked: {error}", style="red", **PLAIN)
            continue
        counts = {kind: int((found["kind"] == kind).sum()) for kind in ("anucleate", "multinucleated", NO_CELL)}
        console.print(
            f"{name}: {(found['cell'] > 0).sum()} cells, {found['n_nuclei'].sum()} nuclei; {counts['anucleate']} cells "
            f"without nucleus, {counts['multinucleated']} with several, {counts[NO_CELL]} nuclei outside every cell",
            **PLAIN,
        )
    return failed


def _one(nucleus_file: Path, cell_file: Path, image: Image | None, stem: Path, least_share: float) -> Table:
    nuclei, cells = read_label_film(nucleus_file), read_label_film(cell_file)
    n, seen = len(cells), cells.image if image is None else image
    if len(nuclei) != n or seen.size("T") != n:
        raise InputError(
            f"{nucleus_file} has {len(nuclei)} frames, {cell_file} {n}"
            + (f", {image.source} {seen.size('T')}" if image else "")
            + "; give labels of the same picture"
        )
    size = seen.pixel_size_um or cells.image.pixel_size_um
    parts = {part: LabelStore(stem.parent, (cells.image.height, cells.image.width)) for part in PARTS}
    tables = list[Table]()
    for t in range(n):
        try:
            both = link(nuclei[t], cells[t], image=image and image.plane(t=t), least_share=least_share)
        except InputError as error:
            raise InputError(f"{nucleus_file} and {cell_file}{f', frame {t}' if n > 1 else ''}: {error}") from error
        for part, store in parts.items():
            store.append(getattr(both, part))
        tables.append(({"frame": np.full(len(both.table["cell"]), t)} if n > 1 else {}) | both.table)
    for part, store in parts.items():
        path = stem.with_name(f"{stem.name}_{part}_labels.tif")
        if n > 1:
            write_label_film(path, store, pixel_size_um=size, interval_s=seen.interval_s)
        else:
            write_labels(path, store[0], pixel_size_um=size)
    table = {name: np.concatenate([part[name] for part in tables]) for name in tables[0]}
    write_table(stem.with_name(f"{stem.name}_linked.csv"), table)
    return table


def _paired(nuclei: Path, cells: Path, image: Path | None) -> dict[str, list[Path]]:
    """Files by the name they share; files given alone belong together whatever their names."""
    paths = [nuclei, cells, *([image] if image else [])]
    if all(is_file(path) for path in paths):
        return {name_of(cells, ENDINGS): paths}
    found = [files_by_name(path, ENDINGS, labels=path is not image) for path in paths]
    expected = found[1].keys()
    for path, files in zip(paths, found, strict=True):
        check_partners(path, "file", files.keys(), expected, ", ".join((*LABEL_ENDINGS, *ENDINGS)))
    return {name: [files[name] for files in found] for name in sorted(expected)}
