"""`read_image`: one reader a file family, chosen by the file's content first and its name second."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from cellweave.core.errors import CellweaveError, ReadError
from cellweave.core.image import Image
from cellweave.io import npy, ome_zarr, raster, tiff
from cellweave.io.pixels import Found, say, to_image


class Reader(Protocol):
    """What the module of a file family offers."""

    NAME: str
    SUFFIXES: tuple[str, ...]

    def recognises(self, path: Path, head: bytes) -> bool:
        """True when the first bytes (of a folder: its files) are of this family."""

    def find(self, path: Path) -> Found:
        """Read the metadata and give access to the pixels."""


READERS: tuple[Reader, ...] = (tiff, raster, npy, ome_zarr)
"""A new family is one module here."""

HEAD = 64


def read_image(path: str | os.PathLike[str], *, axes: str | None = None) -> Image:
    """Read a TIFF, PNG, JPEG, BMP, NPY or OME-Zarr image.

    The family is chosen by content, not by name. Axes, channel names and pixel size come from the file's
    metadata and are never guessed. Of a pyramid the full resolution is read; of several images, the first.

    Parameters
    ----------
    path
        A file, or the folder of an OME-Zarr image.
    axes
        One letter a dimension of the array in the file, out of T, C, Z, Y, X and S (red, green, blue
        samples), when the file does not tell them or tells them wrong: ``axes="CYX"``.

    Returns
    -------
    Image
        Pixels of TIFF, NPY and OME-Zarr stay in the file until they are indexed; only the tiles or strips of
        a region are read. Pixels keep their type; transparency is dropped; photographs have ``color=True``.

    Raises
    ------
    ReadError
        Names the file, what is wrong and what to do. Damage that shows only in the pixels is raised when
        they are read.
    InputError
        When `axes` does not fit the file.
    """
    path = Path(path)
    return to_image(path, find(path), axes)


def find(path: Path) -> Found:
    """Metadata and access to the pixels of any file that cellweave reads; see `read_image`."""
    head = _head(path)
    by_content = next((reader for reader in READERS if reader.recognises(path, head)), None)
    by_name = None if path.is_dir() else next((r for r in READERS if path.suffix.lower() in r.SUFFIXES), None)
    reader = by_content or by_name
    if reader is None:
        raise ReadError(_unknown(path))
    try:
        return reader.find(path)
    except CellweaveError:
        raise
    except Exception as error:
        if by_content is None:
            raise ReadError(
                f"{path}: is named like {reader.NAME}, but its content is something else (it starts with "
                f"{head[:12]!r}); was it renamed or damaged?"
            ) from error
        raise ReadError(
            f"{path}: cannot be read as {reader.NAME} ({say(error)}); "
            "the file is probably damaged or incomplete: copy it again from where it came"
        ) from error


def _head(path: Path) -> bytes:
    if not path.exists():
        raise ReadError(f"{path}: there is no such file; check the name and the folder")
    if path.is_dir():
        return b""
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD)
    except OSError as error:
        raise ReadError(f"{path}: cannot be opened ({error.strerror}); check its permissions") from error
    if not head:
        raise ReadError(f"{path}: the file is empty (0 bytes); copy or export it again")
    return head


def _unknown(path: Path) -> str:
    known = "TIFF, PNG, JPEG, BMP, NPY and OME-Zarr"
    if path.is_dir():
        return f"{path}: is a folder without zarr metadata; give the image files in it, or an OME-Zarr folder"
    return f"{path}: is none of the formats cellweave reads ({known}); save it as one of them"


def describe(image: Image) -> dict[str, str]:
    """What the reader saw, as text for `cellweave info`: what is missing reads "not in the file"."""
    missing = "not in the file"
    sizes = ", ".join(f"{axis} {image.size(axis)}" for axis in image.axes)
    size = image.pixel_size_um
    named = any(image.channel_names)
    return {
        "path": image.source or "in memory",
        "format": image.facts.get("format", "array"),
        "axes": f"{image.axes} ({sizes})",
        "dtype": str(image.dtype),
        "colour": "red, green, blue photograph" if image.color else "no",
        "channel names": ", ".join(name or "(none)" for name in image.channel_names) if named else missing,
        "pixel size": f"{size[0]:.6g} x {size[1]:.6g} um (y, x)" if size else missing,
        **({} if image.interval_s is None else {"frame interval": f"{image.interval_s:.6g} s"}),
        **{key: value for key, value in image.facts.items() if key != "format"},
    }
