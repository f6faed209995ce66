"""``cellweave segment --model-set``: nuclei and cells of many files, by the models that their channels' names pick."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from cellweave import __version__
from cellweave.cli.batch import PLAIN, Row, Work, film_of, run_batch
from cellweave.cli.film import WRITERS, Film, LabelStore, check_outputs, segment_film
from cellweave.cli.preparation import told_difference
from cellweave.cli.segment import OUTPUTS, SUMMARY
from cellweave.core.errors import CellweaveError, InputError, WriteError
from cellweave.core.image import Image
from cellweave.core.labels import Labels
from cellweave.core.linking import NO_CELL, PARTS, link
from cellweave.core.measure import Table
from cellweave.io import read_image, write_label_film, write_labels, write_table
from cellweave.models import Key, ModelSet, load_set
from cellweave.models.model_set import OBJECTS
from cellweave.predict import Segmentation, parse_diameter, segment_set
from cellweave.predict.frames import Frames, of_some
from cellweave.predict.fused import named, pick_objects, set_diameter
from cellweave.prep import Preparation

COLUMNS = (
    *("frames", "nuclei", "cells", "anucleate", "multinucleated", "nuclei_without_cell"),
    *("dropped", "nuclei_diameter", "cells_diameter", "models"),
)
LINKED = "_linked.csv"


@dataclass(frozen=True)
class Settings:
    """What decides the results; written to `run.json`, and compared when a run is repeated in the same folder."""

    model_set: str
    cell_line: str | None = None
    reporters: tuple[str, ...] = ()
    object: str | None = None
    diameter: str | None = None
    save: tuple[str, ...] = ("labels", "overlay", "table")
    plane: str | None = None
    axes: str | None = None
    augment: bool = False
    min_confidence: float = 0.0

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.save if kind not in OUTPUTS]
        if unknown or not self.save:
            raise InputError(f"--save: '{', '.join(unknown)}' is unknown; choose from {', '.join(OUTPUTS)}")
        if self.object not in (None, *OBJECTS):
            raise InputError(f"--object '{self.object}' is unknown; choose {' or '.join(OBJECTS)}, or leave it out")


@dataclass(frozen=True)
class Found:
    """What was found in one file, by object, and what is told of the models; with nuclei and cells, `PARTS` and
    the table of both.
    """

    image: Image
    by_object: Mapping[str, Segmentation | Film]
    told: Sequence[str]
    parts: Mapping[str, Labels | LabelStore] = field(default_factory=dict)
    linked: Table | None = None


def run(
    inputs: Sequence[str],
    out: Path,
    settings: Settings,
    *,
    device: str,
    overwrite: bool,
    prepared: Preparation | None = None,
) -> int:
    """Segment every input and return the number of files that failed; see `run_batch`."""
    models, before = load_set(settings.model_set), prepared or Preparation()
    line = models.cell_line(settings.cell_line)
    objects = (settings.object,) if settings.object else models.objects(line)
    keys = [Key(name, line, reporter) for name in objects for reporter in models.reporters(name, line)]
    diameters = _diameters(settings.diameter, objects)
    options: dict[str, Any] = {
        "cell_line": line,
        "device": device,
        "augment": settings.augment,
        "min_confidence": settings.min_confidence,
    }
    console, said = Console(stderr=True), set[str]()
    if different := told_difference(models, keys, before):
        console.print(different, **PLAIN)

    def do(file: Path) -> tuple[Found, Row]:
        raw = film_of(read_image(file, axes=settings.axes), settings.plane)
        image, measured = before.of(raw), before.measured(raw)
        if settings.reporters:
            image, measured = (named(one, settings.reporters) for one in (image, measured))
        if image.size("T") > 1:
            check_outputs(image, settings.save)
            found = _film((image, measured), models, objects, diameters, out, **options)
        else:
            picks, left_out = pick_objects(image.plane(), models, objects, line)
            results = segment_set(image, models, objects=list(picks), diameters=diameters, **options)
            found = _linked(measured.plane(), results, [pick.text for pick in picks.values()] + _reasons(left_out))
        for text in found.told:
            if text not in said:
                console.print(f"Model set {models.name}, {text}", **PLAIN)
        said.update(found.told)
        return found, _row(found) | {"models": " | ".join(found.told)}

    chosen = asdict(settings) | {"cell_line": line, "model_hash": models.hash, "version": __version__} | before.record
    work = Work(
        "segment --model-set",
        "segmented",
        json.loads(json.dumps(chosen)),
        do,
        _told,
        _writers(objects, settings.save),
        SUMMARY,
        COLUMNS,
    )
    return sum(row["status"] == "failed" for row in run_batch(inputs, out, work, overwrite=overwrite))


def _diameters(text: str | None, objects: Sequence[str]) -> dict[str, str]:
    """``nuclei=15,cells=12um``, or one size where there is one kind of object."""
    if text is None:
        return {}
    parts = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
    sizes = {name.strip(): size.strip() for name, size in parts.items()}
    if "=" not in text and len(objects) == 1:
        return {objects[0]: text}
    if len(sizes) != len(text.split(",")) or not set(sizes) <= set(objects):
        raise InputError(
            f"--diameter '{text}': write {','.join(f'{name}=30' for name in objects)}, in pixels or with um, or leave "
            "one of them out"
        )
    return sizes


def _reasons(left_out: Mapping[str, CellweaveError]) -> list[str]:
    return [f"{name} are left out: {error}" for name, error in left_out.items()]


def _linked(image: Image, found: Mapping[str, Segmentation], told: Sequence[str]) -> Found:
    """Intensities are those of `image`."""
    measured = {name: replace(one, image=image) for name, one in found.items()}
    if len(found) < len(OBJECTS):
        return Found(image, measured, told)
    both = link(*(found[name].labels for name in OBJECTS), image=image)
    return Found(image, measured, told, {part: getattr(both, part) for part in PARTS}, both.table)


def _film(
    images: tuple[Image, Image],
    models: ModelSet,
    objects: Sequence[str],
    diameters: dict[str, str],
    folder: Path,
    **options: Any,
) -> Found:
    """Each object frame by frame; `images` are the film to segment, and the one to measure intensities on."""
    image, measured = images
    found: dict[str, Film] = {}
    told: list[str] = []
    left_out: dict[str, CellweaveError] = {}
    for name in objects:
        try:
            found[name], texts = _object_film(images, models, name, diameters.get(name), folder, **options)
            told += texts
        except WriteError:
            raise
        except CellweaveError as error:
            left_out[name] = error
    if not found:
        raise next(iter(left_out.values()))
    told += _reasons(left_out)
    if len(found) < len(OBJECTS):
        return Found(measured, found, told)
    (nuclei, cells), failed = (film.labels for film in found.values()), {t for f in found.values() for t in f.failed}
    parts = {part: LabelStore(folder, (image.height, image.width)) for part in PARTS}
    tables = list[Table]()
    for t in range(image.size("T")):
        if t in failed:
            for store in parts.values():
                store.append(np.zeros_like(cells[t]))
            continue
        both = link(nuclei[t], cells[t], image=measured.plane(t=t))
        for part, store in parts.items():
            store.append(getattr(both, part))
        tables.append({"frame": np.full(len(both.table["cell"]), t), **both.table})
    tables = tables or [{"frame": np.zeros(0, np.int64), **link(*np.zeros((2, 1, 1), np.int32)).table}]
    table = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    return Found(measured, found, told, parts, table)


def _object_film(
    images: tuple[Image, Image], models: ModelSet, name: str, diameter: str | None, folder: Path, **options: Any
) -> tuple[Film, list[str]]:
    """One object in every frame, and which models were used; a diameter that is not given is one for the film."""
    image, measured = images
    size = parse_diameter(diameter, image)
    if size is None:
        line, device = options["cell_line"], options["device"]
        look = partial(set_diameter, model_set=models, object=name, cell_line=line, device=device)
        sizes = of_some(image, look)
        size = float(np.median([s for s in sizes if s])) if any(sizes) else None
    texts: list[str] = []

    def one(frame: Image) -> Segmentation:
        found = segment_set(frame, models, objects=[name], diameters={name: size} if size else {}, **options)[name]
        texts.append(found.pick.text if found.pick else "")
        return found

    film = segment_film(Frames(image, one), folder, measured)
    first: dict[str, int] = {}
    for t, text in zip((t for t in range(image.size("T")) if t not in film.failed), texts, strict=True):
        first.setdefault(text, t)
    start = min(first.values())
    return film, [text if t == start else f"from frame {t} on: {text}" for text, t in first.items()]


def _row(found: Found) -> Row:
    row: Row = {"dropped": 0}
    for name, result in found.by_object.items():
        own = result.row if isinstance(result, Film) else {"cells": result.count, "diameter": round(result.diameter, 2)}
        row |= {k: own[k] for k in ("frames", "status", "error") if k in own}
        row |= {name: own["cells"], f"{name}_diameter": own["diameter"]}
        row["dropped"] += result.row["dropped"] if isinstance(result, Film) else result.dropped
    if found.linked is not None:
        kinds = found.linked["kind"]
        row |= {kind: int((kinds == kind).sum()) for kind in ("anucleate", "multinucleated")}
        row["nuclei_without_cell"] = int((kinds == NO_CELL).sum())
    return row


def _told(row: Row) -> str:
    parts = [f"{row[name]} {name} of {row[f'{name}_diameter']:g} px" for name in OBJECTS if name in row]
    if row["dropped"]:
        parts.append(f"{row['dropped']} more under the least confidence")
    if row.get("nuclei_without_cell"):
        parts.append(f"{row['nuclei_without_cell']} nuclei outside every cell")
    return ", ".join(parts) + (f", in {row['frames']} frames" if row.get("frames") else "")


def _writers(objects: Sequence[str], kinds: Sequence[str]) -> dict[str, Callable[[Path, Found], object]]:
    """By the ending of the file's name."""
    writers: dict[str, Callable[[Path, Found], object]] = {}
    for name in objects:
        for kind in kinds:
            ending = ".csv" if kind == "table" else OUTPUTS[kind][0]
            writers[f"_{name}{ending}"] = partial(_write, name, kind)
    if len(objects) == len(OBJECTS):
        writers |= {
            f"_{part}{OUTPUTS[k][0]}": partial(_write_part, part)
            for part in PARTS
            for k in kinds
            if k in ("labels", "png", "zarr")
        }
        if "table" in kinds:
            writers[LINKED] = _write_linked
    return writers


def _write(name: str, kind: str, path: Path, found: Found) -> bool:
    result = found.by_object.get(name)
    if isinstance(result, Film):
        WRITERS[kind](path, result)
    elif result is not None:
        OUTPUTS[kind][1](path, result)
    return result is not None  # there was a model for it


def _write_part(part: str, path: Path, found: Found) -> bool:
    size, labels = found.image.pixel_size_um, found.parts.get(part)
    if isinstance(labels, LabelStore):
        write_label_film(path, labels, pixel_size_um=size, interval_s=found.image.interval_s)
    elif labels is not None:
        write_labels(path, labels, pixel_size_um=None if path.suffix == ".png" else size)
    return labels is not None


def _write_linked(path: Path, found: Found) -> bool:
    if found.linked is not None:
        write_table(path, found.linked)
    return found.linked is not None
