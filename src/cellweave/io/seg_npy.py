"""Cellpose's `_seg.npy`, a pickled dict, read without running anything that is in it.

A pickle is a program: whoever unpickles a file runs what its author wrote. Here every name in the pickle is
looked up in a short list, and even those on the list are not called: stand-ins note what the file asks for,
and arrays of plain numbers are then made of the noted bytes. Any other name refuses the file.
"""

from __future__ import annotations

import math
import os
import pickle
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import ReadError
from cellweave.io.pixels import say

_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_ALLOWED = {
    **{(module, name): name for module in _MULTIARRAY for name in ("_reconstruct", "scalar")},
    **{(module, "_frombuffer"): "_frombuffer" for module in ("numpy.core.numeric", "numpy._core.numeric")},
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    **{
        (module, flavour + "Path"): "path"
        for module in ("pathlib", "pathlib._local")
        for flavour in ("Posix", "Windows", "PurePosix", "PureWindows")
    },
}
_DEPTH = 16


class _Name:
    """Stand-in for an allowed name: calling it notes the call."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *arguments: Any) -> _Noted:
        return _Noted(self.name, arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"it changes {self.name}")


class _Noted:
    """What the file asks to be made: the name called, its arguments, the state set afterwards."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: tuple[Any, ...]) -> None:
        self.name, self.arguments = name, arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Refused(Exception):
    """The file names something that is not on the list."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _Name(_ALLOWED[module, name])
        except KeyError:
            raise _Refused(f"{module}.{name}") from None


def read_seg_npy(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what the Cellpose program saved beside an image, as arrays, numbers, texts and lists.

    Nothing in the file is run: see the module's text.

    Returns
    -------
    dict
        ``masks``, and as far as the file has them ``outlines``, ``filename``, ``diameter``, ``flows`` ...

    Raises
    ------
    ReadError
        When the file is damaged, is no `_seg.npy`, or names anything but plain arrays; then nothing was run.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            shape, dtype = read_header(stream)
            if not dtype.hasobject:
                raise ReadError(f"{path}: holds an array of {dtype}, not the dict of a Cellpose _seg.npy")
            content = read_object(stream)
    except _Refused as refused:
        raise ReadError(
            f"{path}: refused, because it names {refused}: a _seg.npy of Cellpose has only arrays, numbers "
            "and texts, and this one could run a program. Nothing was run; do not open it elsewhere"
        ) from None
    except ReadError:
        raise
    except OSError as error:
        raise ReadError(f"{path}: cannot be opened ({error.strerror}); check its name and permissions") from error
    except Exception as error:
        raise ReadError(
            f"{path}: cannot be read as a Cellpose _seg.npy ({say(error)}); save it again from Cellpose"
        ) from error
    content = content.item() if isinstance(content, np.ndarray) and content.shape == shape == () else content
    if not isinstance(content, dict) or not isinstance(content.get("masks"), np.ndarray):
        raise ReadError(f"{path}: has no array 'masks', so it is not a _seg.npy of Cellpose; save it again there")
    return content


def read_header(stream: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype in the header of an NPY file; the stream is left at the data."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype


def read_object(stream: BinaryIO) -> Any:
    """Plain values and arrays of the pickle that begins here; raises for anything else, and runs nothing."""
    return _Builder().build(_Unpickler(stream).load())


class _Builder:
    """Plain values of what the unpickler noted; what the file shares is built once."""

    def __init__(self) -> None:
        self._built: dict[int, Any] = {}

    def build(self, value: Any, depth: int = 0) -> Any:
        if value is None or isinstance(value, (bool, int, float, str, bytes)):
            return value
        if id(value) not in self._built:
            if depth > _DEPTH:
                raise ValueError("it is nested too deeply")
            self._built[id(value)] = self._make(value, depth + 1)
        return self._built[id(value)]

    def _make(self, value: Any, depth: int) -> Any:
        if isinstance(value, dict):
            return {str(key): self.build(item, depth) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.build(item, depth) for item in value)
        if not isinstance(value, _Noted):
            raise ValueError(f"it holds a {type(value).__name__}")
        if value.name == "path":
            return str(PurePosixPath(*(str(part) for part in value.arguments)))
        if value.name == "scalar":
            dtype, data = value.arguments
            return np.frombuffer(_bytes(data), _dtype(dtype), count=1)[0]
        if value.name == "_frombuffer":
            data, dtype, shape, order = value.arguments
            return _array(shape, _dtype(dtype), order == "F", data)
        if value.name == "_reconstruct" and isinstance(value.state, tuple):
            _, shape, dtype, fortran, data = value.state
            if not isinstance(data, list):
                return _array(shape, _dtype(dtype), bool(fortran), data)
            items = np.empty(len(data), dtype=object)
            for i, item in enumerate(data):
                items[i] = self.build(item, depth)
            return items.reshape(shape, order="F" if fortran else "C")
        raise ValueError(f"it makes a numpy.{value.name} where an array is expected")


def _array(shape: Any, dtype: np.dtype[Any], fortran: bool, data: Any) -> NDArray[Any]:
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"an array has the shape {shape!r}")
    flat: NDArray[Any] = np.frombuffer(_bytes(data), dtype, count=math.prod(shape))
    return flat.reshape(shape, order="F" if fortran else "C").astype(dtype.newbyteorder("="))


def _bytes(data: Any) -> bytes:
    if not isinstance(data, (bytes, bytearray)):
        raise ValueError(f"the pixels of an array are a {type(data).__name__}")
    return bytes(data)


def _dtype(noted: Any) -> np.dtype[Any]:
    """A dtype of plain numbers or texts from ``dtype('u2', False, True)`` and its state ``(3, '<', ...)``."""
    if not isinstance(noted, _Noted) or noted.name != "dtype" or not isinstance(noted.arguments[0], str):
        raise ValueError("an array has no dtype")
    dtype = np.dtype(noted.arguments[0])
    if dtype.kind not in "buifUS" or dtype.itemsize == 0:
        raise ValueError(f"an array holds {dtype}")
    order = noted.state[1] if isinstance(noted.state, tuple) and len(noted.state) > 1 else "="
    return dtype.newbyteorder(">" if order == ">" else "<" if order == "<" else "=")
