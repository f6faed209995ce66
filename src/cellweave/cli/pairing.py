"""Files of several folders that belong together, by the name they share."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from cellweave.core.errors import InputError


def is_file(path: Path) -> bool:
    """Whether a path is one image: a file, or a Zarr folder."""
    return path.is_file() or path.suffix.lower() == ".zarr"


def name_of(path: Path, endings: tuple[str, ...]) -> str:
    """The name of a file without its suffix and any of these endings."""
    stem = path.stem.removesuffix(".ome")
    while ending := next((e for e in endings if stem.endswith(e) and stem != e), None):
        stem = stem.removesuffix(ending)
    return stem


def files_by_name(
    path: Path, suffixes: tuple[str, ...], endings: tuple[str, ...], *, labels: bool = True
) -> dict[str, Path]:
    """The files of a folder by `name_of`; of `labels` only those with one of the endings, where any has one.

    Raises
    ------
    InputError
        When there is no such folder, no such file in it, or two of one name.
    """
    if is_file(path):
        return {name_of(path, endings): path}
    if not path.is_dir():
        raise InputError(f"{path}: there is no such file or folder")
    files = [p for p in sorted(path.iterdir()) if p.suffix.lower() in suffixes and not p.name.startswith(".")]
    if labels:
        files = [p for p in files if p.stem.removesuffix(".ome").endswith(endings)] or files
    if not files:
        raise InputError(f"{path}: no {'label ' * labels}image in this folder; they end in {', '.join(suffixes)}")
    named: dict[str, Path] = {}
    for file in files:
        if (other := named.setdefault(name_of(file, endings), file)) is not file:
            raise InputError(f"{path}: {other.name} and {file.name} have one name; move one of them away")
    return named


def check_partners(path: Path, what: str, found: Set[str], expected: Set[str], endings: str) -> None:
    """Refuse a folder in which some of the expected names are missing.

    Raises
    ------
    InputError
        With the names.
    """
    missing = sorted(expected - found)
    if missing:
        raise InputError(
            f"{path}: no {what} for {', '.join(missing[:5])}{' and more' if len(missing) > 5 else ''}; "
            f"names must agree up to {endings} and the suffix"
        )
