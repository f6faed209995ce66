"""Files of several folders that belong together, by the name they share."""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path

from cellweave.core.errors import InputError
from cellweave.io.filenames import (
    IMAGE_SUFFIXES,
    LABEL_ENDINGS,
    LOSSY_SUFFIXES,
    images_in,
    label_ending,
    label_precedence,
    pictures,
    stem_of,
)


def is_file(path: Path) -> bool:
    """Whether a path is one image: a file, or a Zarr folder."""
    return path.is_file() or path.suffix.lower() == ".zarr"


def name_of(path: Path, endings: Sequence[str] = ()) -> str:
    """The name of a file without its suffix, the endings of labels, and any of these endings."""
    stem, known = stem_of(path), sorted((*LABEL_ENDINGS, *endings), key=len, reverse=True)
    while ending := next((e for e in known if stem.lower().endswith(e) and len(stem) > len(e)), None):
        stem = stem[: -len(ending)]
    return stem


def files_by_name(
    path: Path, endings: Sequence[str] = (), *, labels: bool = True, of_object: str | None = None
) -> dict[str, Path]:
    """The images, or the label files, of a folder by `name_of`.

    Of label files only those with an ending are taken, where any has one; with `of_object`, "nuclei", only ``x_nuclei``
    and ``x_nuclei_labels``, where there are any. Of the same labels in several formats (``x_labels.tif`` and
    ``x_labels.png``, ``x_cp_masks.png`` and Cellpose's ``x_seg.npy``) the first by `label_precedence` is taken.

    Raises
    ------
    InputError
        When there is no such folder, no such file in it, or several of one name.
    """
    if of_object:
        endings = (*endings, f"_{of_object}")
    if is_file(path):
        return {name_of(path, endings): path}
    if not path.is_dir():
        raise InputError(f"{path}: there is no such file or folder")
    files = pictures(path) if labels else images_in(path)
    if labels:
        files = [p for p in files if p.suffix.lower() not in LOSSY_SUFFIXES]
        files = [p for p in files if name_of(p, endings) != stem_of(p)] or files
    if of_object:
        files = [p for p in files if _shows(p, of_object)] or files
    if not files:
        raise InputError(f"{path}: no {'label ' * labels}image in this folder; they end in {', '.join(IMAGE_SUFFIXES)}")
    named: dict[str, list[Path]] = {}
    for file in files:
        named.setdefault(name_of(file, endings), []).append(file)
    for same in named.values():
        if len({_source(file) for file in same}) > 1:
            names = " and ".join(file.name for file in same)
            raise InputError(f"{path}: {names} have one name; move all but one of them away")
    return {name: min(same, key=label_precedence) for name, same in named.items()}


def _shows(path: Path, of_object: str) -> bool:
    name = name_of(path).lower()
    return name.endswith(f"_{of_object}") and not name.endswith(f"_matched_{of_object}")


def _source(path: Path) -> tuple[str, str]:
    """Equal for the same labels in several formats: those of one ending, and both that Cellpose writes."""
    ending = label_ending(path).lower()
    if not ending:
        return path.name, ""
    return stem_of(path)[: -len(ending)], "_seg" if ending == "_cp_masks" else ending


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
