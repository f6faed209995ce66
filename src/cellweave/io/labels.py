"""Label images, and films of them, in every format, chosen by content and by suffix."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError, ReadError
from cellweave.core.image import Image
from cellweave.core.labels import Labels, as_labels
from cellweave.io import npy, ome_zarr, raster, tiff
from cellweave.io.pixels import joined, to_image
from cellweave.io.reading import find
from cellweave.io.seg_npy import read_seg_npy


def read_labels(path: str | os.PathLike[str]) -> Labels:
    """Read a label image from TIFF, PNG, BMP, NPY, OME-Zarr, or the masks of a Cellpose `_seg.npy`.

    Of an OME-Zarr image that has one label image in its `labels` group, that one is read.

    Returns
    -------
    Labels
        (Y, X), int32, 0 = background, ids as in the file.

    Raises
    ------
    ReadError
        When the file cannot be read, or holds colours, several planes or channels, fractions or negative ids.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".npy" and path.is_file() and _holds_objects(path):
            return as_labels(np.asarray(read_seg_npy(path)["masks"]), name=str(path))
        path = _one_label_folder(path)
        found = replace(find(path), palette=None)
        if sum(n > 1 for n in found.shape) > 2:
            raise ReadError(
                f"{path}: a label image has 2 dimensions (Y, X), one id a cell; this file holds an array of "
                f"{joined(found.shape)} (axes {found.axes}); save one plane of ids without colours"
            )
        image = to_image(path, found)
        if image.n_channels > 1:
            raise ReadError(f"{path}: a label image has one channel, this file has {image.n_channels}")
        return as_labels(image.read()[0], name=str(path))
    except InputError as error:
        raise ReadError(str(error)) from error


class LabelFilm(Sequence[Labels]):
    """Label images of the frames of a time lapse; each is read when it is indexed.

    Parameters
    ----------
    image
        Axes (T, C, Y, X) with one channel, or (C, Y, X) for a single frame.
    """

    def __init__(self, image: Image) -> None:
        if image.n_channels > 1 or image.size("Z") > 1:
            raise ReadError(
                f"{image.source}: labels of a time lapse have the axes T, Y, X; this file has {image.axes} and shape "
                f"{joined(image.shape)}"
            )
        self.image = image

    def __len__(self) -> int:
        return self.image.size("T")

    @overload
    def __getitem__(self, t: int) -> Labels: ...
    @overload
    def __getitem__(self, t: slice) -> list[Labels]: ...
    def __getitem__(self, t: int | slice) -> Labels | list[Labels]:
        if isinstance(t, slice):
            return [self[i] for i in range(len(self))[t]]
        frame = range(len(self))[t]
        pixels = self.image.plane(t=frame).read()[0]
        try:
            return as_labels(pixels, name=f"{self.image.source}, frame {frame}")
        except InputError as error:
            raise ReadError(str(error)) from error


def read_label_film(path: str | os.PathLike[str], *, axes: str | None = None) -> LabelFilm:
    """The label images of a time lapse, from TIFF, NPY or OME-Zarr; one plane is a film of one frame.

    Parameters
    ----------
    path
        A file, or the folder of an OME-Zarr image with one label image.
    axes
        As for `read_image`, for files that do not tell them: ``axes="TYX"``.

    Raises
    ------
    ReadError
        When the file cannot be read, or has channels or depths; for a frame that holds no labels, when it is indexed.
    """
    path = _one_label_folder(Path(path))
    return LabelFilm(to_image(path, replace(find(path), palette=None), axes))


def write_label_film(
    path: str | os.PathLike[str],
    frames: Sequence[Labels] | NDArray[Any],
    *,
    pixel_size_um: tuple[float, float] | None = None,
    interval_s: float | None = None,
) -> None:
    """Write the label images of a time lapse, frame by frame; an existing file is replaced, whole or not at all.

    Parameters
    ----------
    path
        ``.tif``, ``.tiff``: OME-TIFF with the axes (T, Y, X), deflated, uint16, or uint32 for ids over 65535.
        ``.zarr``: OME-Zarr with the axes (t, y, x); into ``labels/cells`` of the time lapse there, or of a new group.
    frames
        One or more label images (Y, X) of one size, or an array (T, Y, X). Each is indexed several times.
    pixel_size_um
        (y, x) in micrometres.
    interval_s
        Seconds between frames.

    Raises
    ------
    WriteError
        When the disk is full, or the folder cannot be written; nothing is left behind.
    InputError
        When there is no frame, a frame is no label image or of another size, or for other formats.
    """
    path, checked = Path(path), _Checked(path, frames)
    suffix = path.suffix.lower()
    if suffix in (".tif", ".tiff"):
        tiff.write_film(path, checked, pixel_size_um, interval_s)
    elif suffix == ".zarr":
        ome_zarr.write_film(path, checked, pixel_size_um, interval_s)
    else:
        raise InputError(f"{path}: labels of a time lapse are written as .tif or .zarr, not as '{suffix}'")


class _Checked(Sequence[Labels]):
    """Frames that are label images of one size."""

    def __init__(self, path: Path, frames: Sequence[Labels] | NDArray[Any]) -> None:
        if not len(frames):
            raise InputError(f"{path}: there is no frame to write")
        self._path, self._frames = path, frames
        self._shape = np.shape(frames[0])

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, t: Any) -> Any:
        if not 0 <= t < len(self):
            raise IndexError(t)
        frame = as_labels(self._frames[t], name=f"{self._path}, frame {t}")
        if frame.shape != self._shape:
            raise InputError(
                f"{self._path}: frame {t} is {joined(frame.shape)}, the first is {joined(self._shape)}; "
                "the frames of a film have one size"
            )
        return frame


def _holds_objects(path: Path) -> bool:
    try:
        return npy.holds_objects(path)
    except (ValueError, OSError):  # a damaged header: the reader of .npy says so
        return False


def _one_label_folder(path: Path) -> Path:
    """The label image in an OME-Zarr image; other paths are returned as they are."""
    if not (path.is_dir() and ome_zarr.recognises(path, b"")):
        return path
    folders = ome_zarr.label_folders(path)
    if len(folders) > 1:
        raise ReadError(
            f"{path}: has {len(folders)} label images; give one of them: "
            + ", ".join(str(folder) for folder in folders)
        )
    return folders[0] if folders else path


def write_labels(
    path: str | os.PathLike[str], labels: Labels, *, pixel_size_um: tuple[float, float] | None = None
) -> None:
    """Write a label image; the suffix says the format. An existing file is replaced, whole or not at all.

    Parameters
    ----------
    path
        ``.tif``, ``.tiff``: OME-TIFF, deflated, uint16, or uint32 for ids over 65535. ``.png``: 16 bits.
        ``.npy``: int32. ``.zarr``: OME-Zarr; into ``labels/cells`` of the image there, or of a new group.
    labels
        (Y, X) whole numbers, 0 = background.
    pixel_size_um
        (y, x) in micrometres, stored where the format can (not .npy).

    Raises
    ------
    WriteError
        When the disk is full, the folder cannot be written, or the format is unknown; nothing is left behind.
    InputError
        When `labels` is no label image, or PNG cannot hold its ids.
    """
    path, labels = Path(path), as_labels(labels)
    suffix = path.suffix.lower()
    if suffix in (".tif", ".tiff"):
        tiff.write_labels(path, labels, pixel_size_um)
    elif suffix == ".png":
        raster.write_labels(path, labels, pixel_size_um)
    elif suffix == ".npy":
        npy.write_labels(path, labels)
    elif suffix == ".zarr":
        ome_zarr.write_labels(path, labels, pixel_size_um)
    else:
        raise InputError(f"{path}: labels are written as .tif, .png, .npy or .zarr, not as '{suffix}'")
