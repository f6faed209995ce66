"""OME-Zarr 0.4 (Zarr 2) and 0.5 (Zarr 3), and plain Zarr arrays. Only the chunks of a region are read.

Source: the specification at https://ngff.openmicroscopy.org (multiscales, omero, labels, image-label).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellweave.core.errors import ReadError, WriteError
from cellweave.core.files import atomic_path, write_atomically
from cellweave.core.labels import Labels, resize_labels
from cellweave.io.pixels import UNKNOWN, Found, interval, joined, pixel_size, scaled, unnamed_axes

if TYPE_CHECKING:
    import zarr

NAME = "OME-Zarr"
SUFFIXES: tuple[str, ...] = (".zarr",)
LABELS_NAME = "cells"

_METADATA = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
_CHUNK = 1024


def recognises(path: Path, head: bytes) -> bool:
    return path.is_dir() and any((path / name).is_file() for name in _METADATA)


def find(path: Path) -> Found:
    """Level 0 of the first multiscale image of a group, or a Zarr array."""
    import zarr

    opened = zarr.open(path, mode="r")
    if isinstance(opened, zarr.Array):
        return _found(opened, _array_axes(opened), {"format": f"Zarr {opened.metadata.zarr_format} array"})
    attributes = _ome(opened)
    if "bioformats2raw.layout" in attributes and "multiscales" not in attributes:
        return find(path / "0")
    image = _multiscale(path, attributes)
    levels = [opened[dataset["path"]] for dataset in image["datasets"]]
    axes = _axes(path, image, levels[0].ndim)
    version = attributes.get("version") or image.get("version") or "without version"
    facts = {
        "format": f"OME-Zarr {version} (Zarr {opened.metadata.zarr_format})",
        "pyramid levels": "; ".join(joined(level.shape) for level in levels) if len(levels) > 1 else "1",
    }
    if len(attributes["multiscales"]) > 1:
        facts["images in file"] = f"{len(attributes['multiscales'])} (the first is read)"
    labels = label_folders(path)
    if labels:
        facts["labels"] = ", ".join(folder.name for folder in labels)
    names = tuple(str(c.get("label") or "") for c in attributes.get("omero", {}).get("channels", []))
    found = _found(levels[0], axes, facts, names, _pixel_size(image, axes))
    return replace(found, interval_s=_interval(image, axes))


def _found(
    array: zarr.Array[Any],
    axes: str,
    facts: dict[str, str],
    names: tuple[str, ...] = (),
    size: tuple[float, float] | None = None,
) -> Found:
    codecs = [type(codec).__name__.removesuffix("Codec").lower() for codec in array.compressors]
    facts["compression"] = ", ".join(codecs) or "none"
    facts["layout"] = f"chunks {joined(array.chunks)}"
    return Found(
        tuple(array.shape),
        np.dtype(array.dtype),
        axes,
        lambda box: np.asarray(array[box]),
        channel_names=names,
        pixel_size_um=size,
        facts=facts,
    )


def _array_axes(array: zarr.Array[Any]) -> str:
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    if names:
        return _letters([str(name) for name in names])
    return unnamed_axes(tuple(array.shape))


def _letters(names: list[str]) -> str:
    """One letter an axis; a name other than t, c, z, y, x is unknown."""
    spare = iter(UNKNOWN)
    return "".join(name.upper() if name.lower() in ("t", "c", "z", "y", "x") else next(spare) for name in names)


def _ome(group: zarr.Group) -> dict[str, Any]:
    """The OME metadata: under "ome" since 0.5, at the top before."""
    attributes = dict(group.attrs)
    return dict(attributes["ome"]) if isinstance(attributes.get("ome"), dict) else attributes


def _multiscale(path: Path, attributes: dict[str, Any]) -> dict[str, Any]:
    if attributes.get("multiscales"):
        image: dict[str, Any] = attributes["multiscales"][0]
        return image
    if "plate" in attributes or "well" in attributes:
        raise ReadError(f"{path}: is a plate or well of many images; give one of its fields, such as {path}/A/1/0")
    folders = label_folders(path) or sorted(p for p in path.iterdir() if recognises(p, b""))
    inside = ", ".join(str(folder.relative_to(path)) for folder in folders[:8])
    raise ReadError(
        f"{path}: this Zarr group has no image of its own ('multiscales' metadata); "
        + (f"give one of its sub-groups: {inside}" if inside else "write it again as OME-Zarr 0.4 or 0.5")
    )


def _axes(path: Path, image: dict[str, Any], ndim: int) -> str:
    """Letters of the multiscale's axes; versions before 0.3 have none and are always (T, C, Z, Y, X)."""
    axes = image.get("axes")
    if axes is None:
        return "TCZYX" if ndim == 5 else UNKNOWN[:ndim]
    if len(axes) != ndim:
        raise ReadError(f"{path}: its metadata has {len(axes)} axes, its pixels have {ndim}; write it again")
    return _letters([str(axis["name"] if isinstance(axis, dict) else axis) for axis in axes])


def _pixel_size(image: dict[str, Any], axes: str) -> tuple[float, float] | None:
    scale, units = _scale(image, axes)
    y, x = (scaled(scale.get(axis), units.get(axis)) for axis in "YX")
    return pixel_size(y, x)


def _interval(image: dict[str, Any], axes: str) -> float | None:
    scale, units = _scale(image, axes)
    return interval(scale.get("T"), units.get("T"))


def _scale(image: dict[str, Any], axes: str) -> tuple[dict[str, float], dict[str, str | None]]:
    """Scale of level 0, times that of the whole multiscale, and the unit, of each axis; none where none is given."""
    scale, given = np.ones(len(axes)), False
    for transforms in (image["datasets"][0], image):
        for transform in transforms.get("coordinateTransformations", []):
            if transform.get("type") == "scale" and len(transform.get("scale", [])) == len(axes):
                scale, given = scale * np.asarray(transform["scale"], float), True
    described = image.get("axes") or [{}] * len(axes)
    units = {axis: item.get("unit") for axis, item in zip(axes, described, strict=True) if isinstance(item, dict)}
    return (dict(zip(axes, scale.tolist(), strict=True)) if given else {}), units


def label_folders(path: Path) -> list[Path]:
    """The label images of an OME-Zarr group, in the order of its `labels` metadata."""
    import zarr

    folder = path / "labels"
    if not recognises(folder, b""):
        return []
    group = zarr.open(folder, mode="r")
    names = _ome(group).get("labels", []) if isinstance(group, zarr.Group) else []
    return [folder / str(name) for name in names if recognises(folder / str(name), b"")]


def write_labels(path: Path, labels: Labels, pixel_size_um: tuple[float, float] | None) -> None:
    """Write `labels/cells`: into the OME-Zarr image at `path`, or into a new group (version 0.5).

    Beside an image the labels have as many levels as it has, as the specification asks, and its version.

    Raises
    ------
    WriteError
        When `path` exists and is not an OME-Zarr group of the size of the labels.
    """
    _write(path, _Planes([labels], "yx", pixel_size_um))


def write_film(
    path: Path, frames: Sequence[Labels], pixel_size_um: tuple[float, float] | None, interval_s: float | None
) -> None:
    """As `write_labels`, with the axes (t, y, x), frame by frame."""
    _write(path, _Planes(frames, "tyx", pixel_size_um, interval_s))


@dataclass(frozen=True)
class _Planes:
    """Labels of one plane or of the frames of a film, as they are written."""

    planes: Sequence[Labels]
    axes: str
    pixel_size_um: tuple[float, float] | None
    interval_s: float | None = None

    @property
    def lengths(self) -> tuple[int, ...]:
        """() or (T,)."""
        return (len(self.planes),) if "t" in self.axes else ()


def _write(path: Path, labels: _Planes) -> None:
    import zarr

    sizes = [labels.planes[0].shape]
    if not path.exists():
        with atomic_path(path) as temporary:
            temporary.mkdir()
            zarr.create_group(temporary, zarr_format=3, attributes={"ome": {"version": "0.5"}})
            _write_group(temporary / "labels", labels, sizes, form=3, image=False)
        return
    opened = zarr.open(path, mode="r") if recognises(path, b"") else None
    if not isinstance(opened, zarr.Group):
        raise WriteError(f"{path}: exists and is not an OME-Zarr group; choose another name")
    form: int = opened.metadata.zarr_format
    multiscales = _ome(opened).get("multiscales")
    if multiscales:
        arrays = [opened[dataset["path"]] for dataset in multiscales[0]["datasets"]]
        axes = _axes(path, multiscales[0], arrays[0].ndim)
        there = [(*labels.lengths, *sizes[0]), tuple(arrays[0].shape[axes.index(a.upper())] for a in labels.axes)]
        if there[0] != there[1]:
            raise WriteError(
                f"{path}: its image is {joined(there[1])}, the labels are {joined(there[0])}; choose another name"
            )
        sizes = [(a.shape[axes.index("Y")], a.shape[axes.index("X")]) for a in arrays]
        labels = replace(labels, pixel_size_um=labels.pixel_size_um or _pixel_size(multiscales[0], axes))
    folder = path / "labels"
    if not recognises(folder, b""):
        with atomic_path(folder) as temporary:
            _write_group(temporary, labels, sizes, form=form, image=bool(multiscales))
        return
    with atomic_path(folder / LABELS_NAME) as temporary:
        _write_image(temporary, labels, sizes, form=form, image=bool(multiscales))
    names = [*(f.name for f in label_folders(path) if f.name != LABELS_NAME), LABELS_NAME]
    metadata = folder / ("zarr.json" if form == 3 else ".zattrs")
    content = json.loads(metadata.read_text()) if metadata.exists() else {}
    if form == 3:
        content.setdefault("attributes", {}).setdefault("ome", {"version": "0.5"})["labels"] = names
    else:
        content["labels"] = names
    write_atomically(metadata, lambda temporary: temporary.write_text(json.dumps(content, indent=2)))


def _write_group(path: Path, labels: _Planes, sizes: list[tuple[int, ...]], *, form: int, image: bool) -> None:
    """The group `labels` with one label image in it."""
    import zarr

    names: dict[str, Any] = {"labels": [LABELS_NAME]}
    attributes = {"ome": {"version": "0.5", **names}} if form == 3 else names
    zarr.create_group(path, zarr_format=form, attributes=attributes)
    _write_image(path / LABELS_NAME, labels, sizes, form=form, image=image)


def _write_image(path: Path, labels: _Planes, sizes: list[tuple[int, ...]], *, form: int, image: bool) -> None:
    """A multiscale label image of levels of some sizes; `image`: it lies in the group of the image that it labels."""
    import zarr

    units = {} if labels.pixel_size_um is None else dict.fromkeys("yx", "micrometer")
    units |= {} if labels.interval_s is None else {"t": "second"}
    pixel, first = np.array(labels.pixel_size_um or (1.0, 1.0)), np.array(sizes[0])
    times = [labels.interval_s or 1.0] * len(labels.lengths)
    version = {"version": "0.5" if form == 3 else "0.4"}
    multiscale: dict[str, Any] = {
        "name": LABELS_NAME,
        "axes": [
            {"name": name, "type": "time" if name == "t" else "space"}
            | ({"unit": units[name]} if name in units else {})
            for name in labels.axes
        ],
        "datasets": [
            {
                "path": str(i),
                "coordinateTransformations": [{"type": "scale", "scale": times + (pixel * first / size).tolist()}],
            }
            for i, size in enumerate(sizes)
        ],
    }
    label = {"source": {"image": "../../"}} if image else {}
    ome: dict[str, Any] = (
        {"ome": {**version, "multiscales": [multiscale], "image-label": label}}
        if form == 3
        else {"multiscales": [{**version, **multiscale}], "image-label": {**version, **label}}
    )
    group = zarr.create_group(path, zarr_format=form, attributes=ome)
    small = max((int(plane.max()) for plane in labels.planes if plane.size), default=0) <= np.iinfo(np.uint16).max
    options: dict[str, Any] = (
        {"dimension_names": tuple(labels.axes)}
        if form == 3
        else {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
    )
    for i, size in enumerate(sizes):
        array = group.create_array(
            str(i),
            shape=(*labels.lengths, *size),
            dtype=np.uint16 if small else np.uint32,
            chunks=(*(1 for _ in labels.lengths), *(max(1, min(_CHUNK, n)) for n in size)),
            **options,
        )
        for t, plane in enumerate(labels.planes):
            array[(t,) if labels.lengths else ...] = plane if i == 0 else resize_labels(plane, *size)
