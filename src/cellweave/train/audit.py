"""What is wrong with annotated images before a training: faults of labels, and images whose labels seem noise.

Nothing is changed. A trained model that finds almost none of the labelled objects (F1 near zero) says that the labels
are wrong, or that the model does not know such images: a person decides (Cell Segmenter, Sec. 2.1).
"""

from __future__ import annotations

import csv
import logging
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cellweave.core.cleaning import CleaningReport, clean_labels
from cellweave.core.errors import CellweaveError
from cellweave.core.files import make_output_folder, write_atomically
from cellweave.core.image import Image
from cellweave.core.labels import Labels, median_diameter
from cellweave.core.progress import report
from cellweave.io import read_image, read_labels, render_overlay
from cellweave.io.raster import write_picture
from cellweave.metrics import match
from cellweave.models import Segmenter, load_model
from cellweave.predict import Segmentation, segment
from cellweave.prep.modality import Modality, modality
from cellweave.train.pairs import LINES_SHOWN, DataReport, Pair, check_folder

log = logging.getLogger(__name__)

IOU = 0.5
NOISY = 0.1
"""F1 at `IOU` under which an image is listed."""
TABLE, TEXT, PICTURES = "audit.csv", "audit.txt", "noisy"
COLUMNS = (
    "name",
    "modality",
    "objects",
    "split",
    "pieces",
    "removed",
    "kept",
    "diameter",
    "found",
    "f1",
    "noisy",
    "image",
    "labels",
    "error",
)


@dataclass(frozen=True)
class ImageAudit:
    """What was found in one pair of files.

    Parameters
    ----------
    pair
        The files.
    modality
        What the image is (`cellweave.prep.modality`); None where it could not be read.
    cleaning
        What `clean_labels` would change.
    diameter
        Median of the cleaned objects in px; 0 without any.
    found, f1
        Objects that the model finds at that diameter (at an estimated one where it is 0), and its F1 at IoU 0.5
        against the cleaned labels; None where it could not run.
    error
        What went wrong; empty when nothing did.
    """

    pair: Pair
    modality: Modality | None = None
    cleaning: CleaningReport | None = None
    diameter: float = 0.0
    found: int | None = None
    f1: float | None = None
    error: str = ""

    @property
    def noisy(self) -> bool:
        """Whether model and labels do not agree at all: F1 under `NOISY`."""
        return self.f1 is not None and self.f1 < NOISY

    def row(self) -> dict[str, Any]:
        """By the names of `COLUMNS`; without what is not known."""
        known: dict[str, Any] = {"modality": self.modality, "found": self.found, "error": self.error}
        if self.f1 is not None:
            known |= {"f1": round(self.f1, 4), "noisy": int(self.noisy)}
        if self.cleaning is not None:
            counts = self.cleaning.as_dict()
            known |= {name: counts[name] for name in ("objects", "split", "pieces", "removed", "kept")}
            known["diameter"] = round(self.diameter, 2)
        return known | {"name": self.pair.name, "image": self.pair.image, "labels": self.pair.labels}


@dataclass(frozen=True, eq=False)
class Audit:
    """What `audit` found: the check of the data, one entry a usable pair, and the name of the model."""

    data: DataReport
    images: tuple[ImageAudit, ...]
    model: str

    @property
    def noisy(self) -> list[ImageAudit]:
        """Images for a person to look at, the worst first."""
        return sorted((i for i in self.images if i.noisy), key=lambda i: i.f1 or 0.0)

    @property
    def failed(self) -> int:
        """Number of files that could not be used, and of images on which something went wrong."""
        return sum(p.excluded for p in self.data.problems) + sum(bool(i.error) for i in self.images)

    def rows(self) -> list[dict[str, Any]]:
        """One row an image, in the order of the names, then one for each file that could not be used."""
        left_out = [p for p in self.data.problems if p.excluded]
        return [i.row() for i in self.images] + [{"name": p.file.name, "error": str(p)} for p in left_out]

    def text(self) -> str:
        """All of it in words."""
        kinds = Counter(i.modality for i in self.images if i.modality)
        lines = [self.data.text()]
        if kinds:
            lines += ["", "Modality", *(f"  {kind:<13} {n}" for kind, n in kinds.most_common())]
        return "\n".join([*lines, *self._cleaning(), *self._failures(), *self._agreement()])

    def _cleaning(self) -> list[str]:
        changed = [(i.pair.name, i.cleaning) for i in self.images if i.cleaning and i.cleaning.changed]
        head = f"Label cleaning would change {len(changed)} of {len(self.images)} images"
        return ["", head, *_shortened([f"  {name}: {cleaning}" for name, cleaning in changed])]

    def _failures(self) -> list[str]:
        lines = [f"  {i.pair.name}: {i.error}" for i in self.images if i.error]
        return ["", f"Not audited ({len(lines)})", *_shortened(lines)] if lines else []

    def _agreement(self) -> list[str]:
        scores = [i.f1 for i in self.images if i.f1 is not None]
        if not scores:
            return []
        noisy = self.noisy
        lines = [
            "",
            f"F1@{IOU:g} of the model '{self.model}': median {np.median(scores):.2f}, "
            f"from {min(scores):.2f} to {max(scores):.2f}",
            f"Images under {NOISY:g}: {len(noisy)} of {len(scores)}" + ("; look at them and decide" if noisy else ""),
        ]
        for i in noisy:
            labelled = i.cleaning.kept if i.cleaning else 0
            lines.append(f"  {i.pair.name}: F1 {i.f1:.2f}, {labelled} labelled, {i.found} found")
        if len(noisy) > len(scores) / 2:
            lines.append("  These are most images: the model may not know such cells. Give one that does (--model).")
        return lines


def audit(
    data: str | os.PathLike[str],
    model: str | Segmenter = "default",
    *,
    channels: str | None = None,
    device: str = "auto",
    out: str | os.PathLike[str] | None = None,
) -> Audit:
    """Check a folder of images and labels, clean a copy of its labels, and compare them with what a model finds.

    A file that cannot be used is reported, and the others go on. Progress is told, see `cellweave.core.progress`.

    Parameters
    ----------
    data
        As for `find_pairs`.
    model
        Trained, on other images: its name, its folder, or itself. It is told the diameter of the labelled objects.
    channels, device
        As for `segment`.
    out
        Folder for `audit.csv`, `audit.txt`, and for each image that is listed `noisy/NAME.png`: outlines of the labels
        (left) and of what the model finds (right).

    Raises
    ------
    InputError
        When there is no such folder, or no image in it has labels.
    ModelError
        When there is no such model.
    WriteError
        When `out` cannot be written.
    """
    segmenter = load_model(model)
    find = partial(segment, model=segmenter, channels=channels, device=device)
    folder = make_output_folder(out) if out is not None else None
    checked = check_folder(data)
    images = []
    for done, pair in enumerate(checked.usable):
        report("auditing", done, len(checked.usable), pair.name)
        images.append(_audit_one(pair, find, folder and folder / PICTURES))
    report("auditing", len(images), len(images))
    result = Audit(checked, tuple(images), segmenter.name)
    if folder is not None:
        _write(result, folder)
    return result


def _audit_one(pair: Pair, find: Callable[..., Segmentation], pictures: Path | None) -> ImageAudit:
    """One pair, as far as it goes; `find` is `segment` with its model."""
    known: dict[str, Any] = {}
    try:
        image, labels = read_image(pair.image).plane(), read_labels(pair.labels)
        known["modality"] = modality(image)
        labels, known["cleaning"] = clean_labels(labels)
        known["diameter"] = median_diameter(labels)
        result = find(image, diameter=known["diameter"] or None)
        known |= {"found": result.count, "f1": match(labels, result.labels, IOU).f1}
        found = ImageAudit(pair, **known)
        if found.noisy and pictures is not None:
            _draw(make_output_folder(pictures) / f"{pair.name}.png", image, labels, result.labels)
    except CellweaveError as error:
        return ImageAudit(pair, **known, error=str(error))
    except Exception as error:  # a fault of ours in one file must not end the audit; it is reported
        log.debug("unexpected error", exc_info=True)
        return ImageAudit(pair, **known, error=f"unexpected {type(error).__name__}: {error}")
    return found


def _draw(path: Path, image: Image, labels: Labels, found: Labels) -> None:
    """Labels on the left, what the model finds on the right."""
    left, right = render_overlay(image, labels), render_overlay(image, found)
    gap = np.full((len(left), 8, 3), 255, np.uint8)
    write_picture(path, np.concatenate([left, gap, right], axis=1))


def _write(found: Audit, folder: Path) -> None:
    encoding: Any = {"encoding": "utf-8", "errors": "surrogateescape"}  # file names may hold any bytes

    def table(path: Path) -> None:
        with path.open("w", newline="", **encoding) as stream:
            writer = csv.DictWriter(stream, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows(found.rows())

    write_atomically(folder / TABLE, table)
    write_atomically(folder / TEXT, lambda path: path.write_text(found.text() + "\n", **encoding))


def _shortened(lines: list[str]) -> list[str]:
    more = len(lines) - LINES_SHOWN
    return lines[:LINES_SHOWN] + ([f"  ... and {more} more"] if more > 0 else [])
