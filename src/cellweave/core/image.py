"""`Image`: pixels with axes, pixel size and channel names; lazy where the file is."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError

AXES = "TCZYX"
"""The one axis order inside cellweave. An image has C, Y and X always, T and Z when the file has them."""


class PixelArray(Protocol):
    """What `Image.data` must offer: a NumPy array does, and so does a lazy reader of a file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, key: tuple[int | slice, ...], /) -> Any: ...


@dataclass(frozen=True)
class Image:
    """One image of `shape` in the order of `axes`.

    Parameters
    ----------
    data
        Array of any real dtype with one dimension for each letter of `axes`. Indexing it with ints and
        slices of step 1 gives NumPy arrays; only what is indexed is read.
    axes
        A subset of ``"TCZYX"`` in that order, with C, Y and X.
    channel_names
        One name a channel; empty strings where the file has none.
    pixel_size_um
        ``(y, x)`` in micrometres, or None where the file does not tell.
    color
        True when the channels are red, green, blue of a photograph (not fluorescence).
    interval_s
        Seconds between the frames of a time lapse, or None where the file does not tell.
    limits
        For each channel, the values that count as 0 and 1, where they were decided for a whole acquisition
        (`cellweave.prep.Scaling`); None where each image decides for itself.
    source
        File the image was read from, for messages and provenance.
    facts
        What else the reader saw (format, compression, pyramid levels), for `cellweave info`.
    """

    data: PixelArray
    axes: str = "CYX"
    channel_names: tuple[str, ...] = ()
    pixel_size_um: tuple[float, float] | None = None
    color: bool = False
    source: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    interval_s: float | None = None
    limits: tuple[tuple[float, float], ...] | None = None

    def __post_init__(self) -> None:
        where = self.source or "image"
        if [a for a in AXES if a in self.axes] != list(self.axes) or not set("CYX") <= set(self.axes):
            raise InputError(
                f"{where}: axes are '{self.axes}'; they must be C, Y, X with T and Z optional, in the order {AXES}"
            )
        if len(self.data.shape) != len(self.axes):
            raise InputError(f"{where}: axes '{self.axes}' do not fit an array of shape {tuple(self.data.shape)}")
        if 0 in self.data.shape:
            raise InputError(f"{where}: the image is empty (shape {tuple(self.data.shape)})")
        if self.data.dtype.kind not in "buif":
            raise InputError(
                f"{where}: pixels of type {self.data.dtype} are not supported; save it as integers or floats"
            )
        if not self.channel_names:
            object.__setattr__(self, "channel_names", ("",) * self.n_channels)
        elif len(self.channel_names) != self.n_channels:
            raise InputError(f"{where}: {len(self.channel_names)} channel names for {self.n_channels} channels")
        if self.limits is not None and len(self.limits) != self.n_channels:
            raise InputError(f"{where}: limits of {len(self.limits)} channels for {self.n_channels} channels")

    @classmethod
    def from_array(cls, array: NDArray[Any], axes: str | None = None, **facts: Any) -> Image:
        """Make an Image of a NumPy array whose axes are in any order.

        Parameters
        ----------
        array
            (Y, X), or any shape with `axes` given. Without `axes`, (Y, X, 3 or 4) of uint8 is taken as a
            colour photograph, as everywhere in Python imaging; other shapes are refused, not guessed.
        axes
            One letter a dimension out of T, C, Z, Y, X, or S for the red-green-blue samples of a photograph.
        **facts
            Passed to `Image` (channel_names, pixel_size_um, ...).
        """
        array = np.asarray(array)
        if axes is None:
            if array.ndim == 2:
                axes = "YX"
            elif array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8:
                axes = "YXS"
            else:
                raise InputError(
                    f"array of shape {array.shape} ({array.dtype}): which axis is which cannot be known; "
                    "say it, for example Image.from_array(array, axes='CYX')"
                )
        axes = axes.upper()
        if len(axes) != array.ndim or len(set(axes)) != len(axes) or not set(axes) <= set(AXES + "S"):
            raise InputError(
                f"axes '{axes}' do not fit an array of shape {array.shape}: one letter a dimension, "
                f"out of {AXES} and S (colour)"
            )
        if "S" in axes and "C" in axes:
            raise InputError(f"axes '{axes}': an image has either channels (C) or colour samples (S), not both")
        if "S" in axes:
            facts.setdefault("color", True)
            array = array[(slice(None),) * axes.index("S") + (slice(3),)]
            axes = axes.replace("S", "C")
            if array.shape[axes.index("C")] == 3:
                facts.setdefault("channel_names", ("red", "green", "blue"))
        if "C" not in axes:
            array, axes = array[np.newaxis], "C" + axes
        order = [a for a in AXES if a in axes]
        return cls(array.transpose([axes.index(a) for a in order]), "".join(order), **facts)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.data.dtype

    def size(self, axis: str) -> int:
        """Length along one axis; 1 for an axis the image does not have."""
        return self.shape[self.axes.index(axis)] if axis in self.axes else 1

    @property
    def n_channels(self) -> int:
        return self.size("C")

    @property
    def height(self) -> int:
        return self.size("Y")

    @property
    def width(self) -> int:
        return self.size("X")

    def plane(self, *, t: int | None = None, z: int | None = None) -> Image:
        """The (C, Y, X) image at one time and depth. Axes of length 1 need not be named.

        Raises
        ------
        InputError
            When the image has several times or depths and none was chosen, or the index is outside.
        """
        for axis, index in (("T", t), ("Z", z)):
            if index is None and self.size(axis) > 1:
                what, letter = "time points" if axis == "T" else "depths", axis.lower()
                raise InputError(
                    f"{self.source or 'image'} has {self.size(axis)} {what} (axes {self.axes}); choose one plane, "
                    f"for example image.plane({letter}=0), or --plane {letter}=0 on the command line"
                )
        return self.select(t=t or 0, z=z or 0)

    def select(self, *, t: int | None = None, z: int | None = None) -> Image:
        """The image at one time, one depth, or both; an axis that is not named stays.

        Raises
        ------
        InputError
            When the index is outside the image.
        """
        chosen = {axis: operator.index(index) for axis, index in (("T", t), ("Z", z)) if index is not None}
        for axis, index in chosen.items():
            if not 0 <= index < self.size(axis):
                raise InputError(
                    f"{self.source or 'image'}: {axis.lower()}={index} is outside 0..{self.size(axis) - 1}"
                )
        rest = "".join(axis for axis in self.axes if axis not in chosen)
        if rest == self.axes:
            return self
        return replace(self, data=_View(self.data, tuple(chosen.get(a, slice(None)) for a in self.axes)), axes=rest)

    def read(self, y: slice = slice(None), x: slice = slice(None)) -> NDArray[Any]:
        """Pixels of a region of a (C, Y, X) image as a NumPy array; only the region is read from the file."""
        if self.axes != "CYX":
            return self.plane().read(y, x)
        return np.asarray(self.data[:, y, x])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.data[(slice(None),) * len(self.axes)], dtype=dtype)


def plane_by_plane(
    read: Callable[[tuple[int | slice, ...]], NDArray[Any]], key: Any, axes: str, shape: tuple[int, ...]
) -> NDArray[Any]:
    """What a lazy array of these axes answers to any key, when `read` knows those of one time and one depth."""
    given = key if isinstance(key, tuple) else (key,)
    full = given + (slice(None),) * (len(shape) - len(given))
    for i, axis in enumerate(axes):
        if axis in "TZ" and isinstance(part := full[i], slice):
            keys = ((*full[:i], n, *full[i + 1 :]) for n in range(*part.indices(shape[i])))
            several = [plane_by_plane(read, one, axes, shape) for one in keys]
            return np.stack(several, axis=sum(isinstance(k, slice) for k in full[:i]))
    return read(full)


class _View:
    """A lazy array with some leading axes fixed to an index."""

    def __init__(self, data: PixelArray, key: tuple[int | slice, ...]) -> None:
        self._data, self._key = data, key
        self.shape = tuple(n for n, k in zip(data.shape, key, strict=True) if isinstance(k, slice))
        self.dtype = data.dtype

    def __getitem__(self, key: tuple[int | slice, ...]) -> Any:
        given = iter(key if isinstance(key, tuple) else (key,))
        return self._data[tuple(k if isinstance(k, int) else next(given, slice(None)) for k in self._key)]
