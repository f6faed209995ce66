"""``cellweave simulate``: pictures with exact labels in a folder that ``cellweave train`` takes."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from cellweave.core.errors import InputError, WriteError
from cellweave.core.files import atomic_path, make_output_folder, write_atomically
from cellweave.core.progress import report
from cellweave.io import write_labels
from cellweave.simulate import recipes
from cellweave.simulate.depth import stack
from cellweave.simulate.motion import Track, film
from cellweave.simulate.scene import Scene


@dataclass(frozen=True)
class Order:
    """What to simulate: see the options of the command."""

    recipe: str
    n: int = 100
    size: tuple[int, int] = (256, 256)
    seed: int = 0
    diameter: float | None = None
    frames: int = 1
    depth: int = 1


def parse_size(text: str) -> tuple[int, int]:
    """``256`` or ``256x320`` (height x width) in px.

    Raises
    ------
    InputError
        For anything else.
    """
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise InputError(f"--size {text}: give a side such as 256, or height x width such as 256x320")
    return int(parts[0]), int(parts[-1])


def run(order: Order, out: Path) -> None:
    """Write images/, labels/, scenes.jsonl, and lineage.csv for films.

    Raises
    ------
    InputError
        For an unknown recipe or numbers that make no sense.
    WriteError
        When `out` has pictures already, or cannot be written.
    """
    recipes.find(order.recipe)
    for name, value, least in (
        ("n", order.n, 1),
        ("frames", order.frames, 1),
        ("depth", order.depth, 1),
        ("seed", order.seed, 0),
    ):
        if value < least:
            raise InputError(f"--{name} {value}: give {least} or more")
    if order.frames > 1 and order.depth > 1:
        raise InputError("--frames and --depth together are not simulated; choose one")
    images, labels = out / "images", out / "labels"
    for folder in (images, labels):
        if folder.is_dir() and any(folder.iterdir()):
            raise WriteError(f"{folder} has files already; give an empty folder, or delete them first")
        make_output_folder(folder)
    scenes: list[str] = []
    tracks: list[tuple[str, Track]] = []
    width = max(len(str(order.n - 1)), 4)
    for number in range(order.n):
        report("simulating", number, order.n, order.recipe)
        scene = recipes.scene(order.recipe, number, seed=order.seed, size=order.size, diameter=order.diameter)
        name = f"{order.recipe}_{number:0{width}d}"
        tracks += [(name, track) for track in _write(scene, name, order, out)]
        scenes.append(json.dumps({"name": name, "scene": json.loads(scene.to_json())}))
    report("simulating", order.n, order.n, order.recipe)
    write_atomically(out / "scenes.jsonl", lambda path: path.write_text("\n".join(scenes) + "\n", encoding="utf-8"))
    if order.frames > 1:
        write_atomically(out / "lineage.csv", lambda path: _write_lineage(path, tracks))


def _write(scene: Scene, name: str, order: Order, out: Path) -> tuple[Track, ...]:
    images, labels = out / "images", out / "labels"
    if order.depth > 1:
        made = stack(scene, order.depth)
        _write_image(images / f"{name}.tif", made.pixels, made.channel_names, made.color)
        _write_tiff(labels / f"{name}.tif", made.labels.astype(_smallest(made.labels)), {"axes": "ZYX"})
        return ()
    if order.frames > 1:
        shown = film(scene, order.frames)
        for moment, picture in enumerate(shown.pictures):
            file = f"{name}_t{moment:04d}.tif"
            _write_image(images / file, picture.pixels, picture.channel_names, picture.color)
            write_labels(labels / file, picture.labels)
        return shown.tracks
    picture = scene.draw()
    _write_image(images / f"{name}.tif", picture.pixels, picture.channel_names, picture.color)
    write_labels(labels / f"{name}.tif", picture.labels)
    return ()


def _smallest(labels: NDArray[np.int32]) -> type[np.unsignedinteger[Any]]:
    return np.uint16 if labels.max(initial=0) <= np.iinfo(np.uint16).max else np.uint32


def _write_image(path: Path, pixels: NDArray[Any], names: tuple[str, ...], color: bool) -> None:
    """(C, [Z,] Y, X) as OME-TIFF; photographs as (.., Y, X, 3)."""
    axes = "CYX" if pixels.ndim == 3 else "CZYX"
    if color:
        _write_tiff(path, np.moveaxis(pixels, 0, -1), {"axes": axes[1:] + "S"}, photometric="rgb")
    else:
        _write_tiff(path, pixels, {"axes": axes, "Channel": {"Name": list(names)}})


def _write_tiff(path: Path, array: NDArray[Any], metadata: dict[str, Any], photometric: str = "minisblack") -> None:
    with atomic_path(path) as temporary:
        tifffile.imwrite(
            temporary,
            np.ascontiguousarray(array),
            ome=True,
            photometric=photometric,
            metadata=metadata,
            compression="zlib",
        )


def _write_lineage(path: Path, tracks: list[tuple[str, Track]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["film", "id", "parent", "first", "last"])
        for name, track in tracks:
            writer.writerow([name, *asdict(track).values()])
