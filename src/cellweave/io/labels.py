"""`read_labels` and `write_labels`: label images in every format, chosen by content and by suffix."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from cellweave.core.errors import InputError, ReadError
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
        if path.is_dir() and ome_zarr.recognises(path, b""):
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


def _holds_objects(path: Path) -> bool:
    try:
        return npy.holds_objects(path)
    except (ValueError, OSError):  # a damaged header: the reader of .npy says so
        return False


def _one_label_folder(path: Path) -> Path:
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
