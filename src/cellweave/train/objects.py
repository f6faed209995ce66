"""Data sets with several objects: images of named channels, with the nuclei and the cells of each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.core.labels import Labels, diameters
from cellweave.core.names import plain
from cellweave.core.progress import report
from cellweave.io import read_image, read_labels
from cellweave.models.model_set import OBJECTS
from cellweave.predict.fused import named, with_channels
from cellweave.prep import Preparation, empty_channels
from cellweave.train.pairs import DataReport, check_pairs, match_folders

IMAGES = "images"
LAYOUT = """\
  DATA/images/x.tif + DATA/nuclei/x.tif + DATA/cells/x.tif (or one of the two), for one cell line
  DATA/CELL_LINE/images/... and so on, for several"""


@dataclass(frozen=True)
class Field:
    """One image whose channels have names, and its true objects: labels by "nuclei" and "cells".

    Channels without signal, whose pixels are all equal, are not there: nothing could be learned from them.
    """

    name: str
    image: Image
    labels: dict[str, Labels]

    @property
    def reporters(self) -> tuple[str, ...]:
        """Names of the channels."""
        return self.image.channel_names


def has_objects(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds images/ and nuclei/ or cells/."""
    root = Path(folder)
    return (root / IMAGES).is_dir() and any((root / name).is_dir() for name in OBJECTS)


def cell_line_folders(data: str | os.PathLike[str], cell_line: str | None = None) -> dict[str, Path]:
    """Folders of a data set by cell line: itself, named `cell_line`, or its sub-folders, of which that one is chosen.

    Raises
    ------
    InputError
        When nothing of the layout is there, or a data set of one line was given no name for it.
    """
    root = Path(data)
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder; give one with images, nuclei and cells")
    if has_objects(root):
        if not cell_line:
            raise InputError(f"{root}: of which cell line are these images? Say it, for example --cell-line U2OS")
        return {cell_line: root}
    found = {path.name: path for path in sorted(root.iterdir()) if path.is_dir() and has_objects(path)}
    if not found:
        raise InputError(f"{root}: no images with nuclei or cells are there. Understood are:\n{LAYOUT}")
    if cell_line and cell_line not in found:
        raise InputError(f"{root} has no folder of the cell line '{cell_line}'; it has {', '.join(found)}")
    return {cell_line: found[cell_line]} if cell_line else found


def check_objects(folder: Path) -> dict[str, DataReport]:
    """`check_pairs` of each kind of object in a folder with images/ and nuclei/ or cells/."""
    reports = {}
    for name in OBJECTS:
        if (folder / name).is_dir():
            pairs, problems = match_folders(folder / IMAGES, folder / name)
            reports[name] = check_pairs(pairs, missing=problems)
    return reports


def read_fields(
    folder: Path, reporters: Sequence[str] = (), prepared: Preparation | None = None
) -> tuple[list[Field], str]:
    """The images of a folder that have objects and can be used, in the order of their names; and the report.

    Parameters
    ----------
    folder
        With images/ and nuclei/ or cells/.
    reporters
        Names of the channels in their order, empty for one to leave out; without it, those that the files tell.
    prepared
        What is done to the images.

    Raises
    ------
    InputError
        When no image can be used, or channels have no names, or two have one; names the file.
    """
    reports = check_objects(folder)
    text = "\n\n".join(f"{folder / name}\n{found.text()}" for name, found in reports.items())
    files: dict[str, tuple[Path, dict[str, Path]]] = {}
    for name, found in reports.items():
        for pair in found.usable:
            files.setdefault(pair.name, (pair.image, {}))[1][name] = pair.labels
    if not files:
        raise InputError(f"{folder}: no image can be used for training\n{text}")
    fields = []
    for k, (stem, (image, labels)) in enumerate(sorted(files.items())):
        report("reading the data", k, len(files), stem)
        truth = {name: read_labels(path) for name, path in labels.items()}
        picture = _lit(_named((prepared or Preparation()).of(read_image(image).plane()), reporters))
        if picture is not None:
            fields.append(Field(stem, picture, truth))
    report("reading the data", len(files), len(files))
    if not fields:
        raise InputError(f"{folder}: no channel of any image shows anything; all pixels are equal")
    return fields, text


def _named(image: Image, reporters: Sequence[str]) -> Image:
    if reporters:
        image = named(image, reporters)
        image = with_channels(image, [k for k, name in enumerate(image.channel_names) if name])
    names = tuple(name.strip() for name in image.channel_names)
    if not all(names) or len({plain(name) for name in names}) < len(names):
        raise InputError(
            f"{image.source or 'image'}: its channels are named {', '.join(map(repr, names))}; each needs a name of "
            "its own: save them in the file (OME-TIFF), or give them in their order: --reporters P1,P2,P3"
        )
    return replace(image, channel_names=names, color=False)


def _lit(image: Image) -> Image | None:
    """The channels in which two finite pixels differ; None where there is no such channel."""
    empty = empty_channels(image)
    lit = [channel for channel in range(image.n_channels) if channel not in empty]
    return with_channels(image, lit) if lit else None


def object_diameters(fields: Sequence[Field], name: str) -> NDArray[np.float64]:
    """Diameters in px of all objects of this name."""
    return np.concatenate([np.zeros(0), *(diameters(one.labels[name]) for one in fields if name in one.labels)])
