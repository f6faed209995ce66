"""NumPy's own .npy files, mapped into memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import ReadError
from cellweave.core.files import write_atomically
from cellweave.core.labels import Labels
from cellweave.io.pixels import Found, from_array, unnamed_axes
from cellweave.io.seg_npy import read_header

NAME = "NPY"
SUFFIXES: tuple[str, ...] = (".npy",)


def recognises(path: Path, head: bytes) -> bool:
    return head.startswith(b"\x93NUMPY")


def find(path: Path) -> Found:
    """A 2-D array is (Y, X); (Y, X, 3 or 4) of uint8 is a colour photograph; other axes must be said."""
    if holds_objects(path):
        raise ReadError(
            f"{path}: holds Python objects, not pixels; the masks in a _seg.npy of Cellpose are read by "
            "cellweave.io.read_labels, an array is saved for us with numpy.save(path, array) of numbers"
        )
    array: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    photo = array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8
    if array.ndim < 2:
        raise ReadError(f"{path}: an image has 2 dimensions or more, this array has shape {array.shape}")
    axes = "YXS" if photo else unnamed_axes(array.shape)
    return from_array(array, axes, photo=photo, facts={"format": "NPY"})


def holds_objects(path: Path) -> bool:
    """True when the array in the file is pickled Python objects. Reads the header only."""
    with path.open("rb") as stream:
        return bool(read_header(stream)[1].hasobject)


def write_labels(path: Path, labels: Labels) -> None:
    """Save the labels as int32."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            header = {"descr": labels.dtype.str, "fortran_order": False, "shape": labels.shape}
            np.lib.format.write_array_header_1_0(stream, header)
            stream.write(np.ascontiguousarray(labels).data)  # numpy.save would not say that the disk is full

    write_atomically(path, write)
