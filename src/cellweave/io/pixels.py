"""From what a file holds to an `Image`: lazy pixels, the one conversion of axis order, pixel sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import CellweaveError, InputError, ReadError
from cellweave.core.image import AXES, Image

Box = tuple[slice, ...]
"""One slice with start and stop, of step 1, for each dimension."""

UNKNOWN = "QIRPVMHLEABDFGJKNOUW"
"""Letters for axes that nothing is known of."""

UM_PER_UNIT = {
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometre", "micrometers"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("å", "ångström", "angstrom"), 1e-4),
    **dict.fromkeys(("pm", "picometer", "picometre"), 1e-6),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
    **dict.fromkeys(("in", "inch", "inches"), 25400.0),
}
"""Micrometres in one unit of length, as OME, ImageJ and OME-Zarr spell the units."""

SECONDS_PER_UNIT = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}
"""Seconds in one unit of time, as OME, ImageJ and OME-Zarr spell the units."""

PRINT_SIZE_UM = 10.0
"""A resolution tag that means larger pixels is for printers (72 to 1200 dpi), not from a microscope."""


@dataclass(frozen=True)
class Found:
    """What a reader found in a file, in the file's own order of axes.

    Parameters
    ----------
    shape, dtype
        Of the array in the file.
    axes
        One letter a dimension: T, C, Z, Y, X, S for the samples of a photograph; any other means unknown.
    read
        Gives the pixels of a box as an array with as many dimensions as `shape`.
    channel_names, pixel_size_um, interval_s, facts
        As in `Image`.
    photo
        True when the samples (axis S) are red, green, blue.
    alpha
        True when the last sample is transparency.
    palette
        (n, 3) colours or (n,) grays that the pixel values stand for.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: str
    read: Callable[[Box], NDArray[Any]]
    channel_names: tuple[str, ...] = ()
    pixel_size_um: tuple[float, float] | None = None
    photo: bool = False
    alpha: bool = False
    palette: NDArray[Any] | None = None
    facts: dict[str, str] = field(default_factory=dict)
    interval_s: float | None = None


class LazyPixels:
    """Pixels that stay in the file until they are indexed with ints and slices of step 1."""

    def __init__(
        self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], read: Callable[[Box], NDArray[Any]]
    ) -> None:
        self._path, self._read = path, read
        self.shape, self.dtype = shape, dtype.newbyteorder("=")

    def __getitem__(self, key: int | slice | tuple[int | slice, ...]) -> NDArray[Any]:
        keys = key if isinstance(key, tuple) else (key,)
        if len(keys) > len(self.shape):
            raise IndexError(f"{len(keys)} indices for pixels of shape {self.shape}")
        keys += (slice(None),) * (len(self.shape) - len(keys))
        box: list[slice] = []
        drop: list[int | slice] = []
        for k, n in zip(keys, self.shape, strict=True):
            if isinstance(k, slice):
                start, stop, step = k.indices(n)
                if step != 1:
                    raise IndexError("lazy pixels are indexed with ints and slices of step 1")
                box.append(slice(start, max(start, stop)))
                drop.append(slice(None))
            else:
                index = int(k) + n if k < 0 else int(k)
                if not 0 <= index < n:
                    raise IndexError(f"index {k} is outside an axis of length {n}")
                box.append(slice(index, index + 1))
                drop.append(0)
        if any(s.start == s.stop for s in box):
            pixels = np.empty([s.stop - s.start for s in box], self.dtype)
        else:
            pixels = self._read_box(tuple(box))
        return pixels[tuple(drop)]

    def _read_box(self, box: Box) -> NDArray[Any]:
        try:
            return np.asarray(self._read(box), self.dtype)
        except CellweaveError:
            raise
        except MemoryError as error:
            shape = joined([s.stop - s.start for s in box])
            raise ReadError(
                f"{self._path}: there is not enough memory for {shape} pixels; read a smaller region, or, if the "
                "image is not that large, copy the file again: it is damaged"
            ) from error
        except Exception as error:
            raise ReadError(
                f"{self._path}: the pixels cannot be read ({say(error)}); "
                "the file is probably damaged or incomplete: copy it again from where it came"
            ) from error

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[()], dtype=dtype)


def say(error: Exception) -> str:
    """Kind and text of an error of another library."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def from_array(array: NDArray[Any], axes: str, **found: Any) -> Found:
    """`Found` of an array that is in memory or mapped from a file."""
    return Found(array.shape, array.dtype, axes, lambda box: array[box], **found)


def unnamed_axes(shape: tuple[int, ...]) -> str:
    """Axes of an array without metadata: Y and X where it is one plane, else unknown letters."""
    large = [i for i, n in enumerate(shape) if n > 1]
    plane = large if len(large) == 2 else [len(shape) - 2, len(shape) - 1]
    if set(large) <= set(plane):
        return "".join("YX"[plane.index(i)] if i in plane else UNKNOWN[i] for i in range(len(shape)))
    return UNKNOWN[: len(shape)]


def to_image(path: Path, found: Found, axes: str | None = None) -> Image:
    """Make the Image: the axes in the order of `AXES`, palettes turned into colours, transparency dropped.

    Parameters
    ----------
    path, found
        The file, for messages, and what its reader found.
    axes
        One letter a dimension out of T, C, Z, Y, X and S, in the file's order, when the file does not tell.
        Dimensions of length 1 may be left out.

    Raises
    ------
    ReadError
        When an axis of several planes is unknown, or the pixels are not real numbers.
    InputError
        When `axes` does not fit the file.
    """
    if found.dtype.kind not in "buif":
        raise ReadError(
            f"{path}: pixels of type {found.dtype} are not supported; "
            "save them as whole numbers or real floats (of complex pixels, the magnitude or the phase)"
        )
    if 0 in found.shape:
        raise ReadError(f"{path}: the image is empty (shape {found.shape}); export it again")
    if axes is not None:
        found = _name_axes(path, found, axes)
    if found.palette is not None:
        found = _apply_palette(found, found.palette)
    known = _check_axes(path, found)
    shape, channels = dict(zip(found.axes, found.shape, strict=True)), "C"
    color = False
    if "S" in known:
        if "C" in known:
            raise ReadError(
                f"{path}: has {shape['C']} channels of {shape['S']} colour samples each (axes {found.axes}, "
                f"shape {found.shape}); save the channels as separate images or without colours"
            )
        channels, color = "S", found.photo and shape["S"] >= 3
        shape["S"] = 3 if color else shape["S"] - found.alpha
    order = [channels if axis == "C" else axis for axis in AXES if axis in known or axis == "C"]
    final = tuple(shape.get(axis, 1) for axis in order)
    inner = [axis for axis in order if axis in found.axes]
    places = [inner.index(axis) if axis in inner else None for axis in found.axes]

    def read(box: Box) -> NDArray[Any]:
        wanted = dict(zip(order, box, strict=True))
        block = found.read(tuple(wanted.get(axis, slice(0, 1)) for axis in found.axes))
        block = block[tuple(0 if place is None else slice(None) for place in places)]
        kept = [axis for axis in found.axes if axis in inner]
        block = block.transpose([kept.index(axis) for axis in inner])
        return block.reshape([s.stop - s.start for s in box])

    names = ("red", "green", "blue") if color else found.channel_names
    return Image(
        LazyPixels(path, final, found.dtype, read),
        "".join("C" if axis == channels else axis for axis in order),
        channel_names=names if len(names) == shape.get(channels, 1) else (),
        pixel_size_um=found.pixel_size_um,
        color=color,
        source=str(path),
        facts=dict(found.facts),
        interval_s=found.interval_s if "T" in order else None,
    )


def _apply_palette(found: Found, palette: NDArray[Any]) -> Found:
    """The same pixels as grays or colours in place of indices."""

    def colours(indices: NDArray[Any]) -> NDArray[Any]:
        return np.take(palette, indices.astype(np.uint8) if indices.dtype == bool else indices, axis=0, mode="clip")

    if palette.ndim == 1:
        return replace(found, dtype=palette.dtype, read=lambda box: colours(found.read(box)), palette=None)
    return replace(
        found,
        shape=(*found.shape, 3),
        axes=found.axes + "S",
        dtype=palette.dtype,
        read=lambda box: colours(found.read(box[:-1]))[..., box[-1]],
        photo=True,
        palette=None,
    )


def _name_axes(path: Path, found: Found, axes: str) -> Found:
    """Give the dimensions the letters that the user said."""
    letters = axes.upper()
    if len(set(letters)) != len(letters) or not set(letters) <= set(AXES + "S") or not set("YX") <= set(letters):
        raise InputError(
            f"{path}: axes '{axes}' must be different letters out of {AXES} and S (colour), with Y and X among them"
        )
    large = [i for i, n in enumerate(found.shape) if n > 1]
    if len(letters) == len(found.shape):
        named = letters
    elif len(letters) == len(large):
        spare = iter(UNKNOWN)
        named = "".join(letters[large.index(i)] if i in large else next(spare) for i in range(len(found.shape)))
    else:
        raise InputError(
            f"{path}: axes '{axes}' has {len(letters)} letters, the array in the file has shape "
            f"{found.shape}; give one letter a dimension"
        )
    size = dict(zip(named, found.shape, strict=True))
    if "S" in size and size["S"] not in (3, 4):
        raise InputError(
            f"{path}: axes '{axes}': S is for red, green, blue (3 or 4 samples), here it has {size['S']}; use C"
        )
    return replace(found, axes=named, photo="S" in size)


def _check_axes(path: Path, found: Found) -> str:
    """The letters that stay; an axis of length 1 is dropped, a longer unknown one is an error."""
    known = ""
    for axis, n in zip(found.axes, found.shape, strict=True):
        if axis in "YX" or (axis in "TCZS" and n > 1):
            known += axis
        elif n > 1:
            example = _example(found.axes)
            raise ReadError(
                f"{path}: the file does not tell which axis is which (shape {found.shape}, axes "
                f"{found.axes}, where {axis} may be anything); say it: read_image(path, axes='{example}'), "
                f"or --axes {example} on the command line"
            )
    missing = [axis for axis in "YX" if axis not in known]
    if missing or len(set(known)) != len(known):
        raise ReadError(
            f"{path}: an image needs the axes Y and X once each, this file has axes '{found.axes}' and "
            f"shape {found.shape}; say what they are with axes="
        )
    return known


def _example(axes: str) -> str:
    """Axes such as an image of this kind may have, for a message."""
    letters = axes if "Y" in axes else axes[:-2] + "YX"
    spare = iter([axis for axis in "CZT" if axis not in letters and not (axis == "C" and "S" in letters)])
    return "".join(axis if axis in AXES + "S" else next(spare, "") for axis in letters)


def pixel_size(y: float | None, x: float | None) -> tuple[float, float] | None:
    """(y, x) in um when both are known, finite and positive, else None."""
    if y is None or x is None or not (math.isfinite(y) and math.isfinite(x)) or min(x, y) <= 0:
        return None
    return float(y), float(x)


def interval(value: float | str | None, unit: str | None) -> float | None:
    """A time in seconds when it is known, finite and positive, else None."""
    seconds = scaled(value, unit, SECONDS_PER_UNIT)
    return seconds if seconds is not None and math.isfinite(seconds) and seconds > 0 else None


def scaled(value: float | str | None, unit: str | None, units: Mapping[str, float] = UM_PER_UNIT) -> float | None:
    """A length in um (or another quantity in what `units` counts in), or None when the unit is not one of length."""
    factor = units.get((unit or "").strip().lower())
    try:
        return None if value is None or factor is None else float(value) * factor
    except ValueError:
        return None


def size_from_resolution(y_per_um: float, x_per_um: float, facts: dict[str, str]) -> tuple[float, float] | None:
    """Pixel size of a resolution in pixels a um; print resolutions are told in `facts` and not used."""
    if min(y_per_um, x_per_um) <= 0:
        return None
    size = pixel_size(1 / y_per_um, 1 / x_per_um)
    if size is not None and max(size) > PRINT_SIZE_UM:
        facts["resolution"] = f"{25400 * x_per_um:.4g} dpi (for printing; not used as pixel size)"
        return None
    return size


def joined(shape: Sequence[int]) -> str:
    """``512 x 640`` of (512, 640)."""
    return " x ".join(str(n) for n in shape)
