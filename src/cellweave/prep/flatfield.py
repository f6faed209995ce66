"""Flat field: the gain and offset of each pixel of a microscope, and images without them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError, ReadError
from cellweave.core.files import atomic_path
from cellweave.core.image import Image, plane_by_plane
from cellweave.core.progress import report
from cellweave.prep.channels import empty_channels, matching_channels

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Keep = Literal["zero-light", "range", "nothing"]

FORMAT = 1
GRID = 64
"""Illumination is estimated on images averaged to at most this many blocks a side."""
MOST_FRAMES = 2000
"""Of longer acquisitions this many frames are read, evenly spaced."""
LEAST_GAIN = 0.05
"""Of a reference: pixels that see less of the mean light than this (dead ones, dust) count as this bright."""
_BAND = 1 << 22
"""Pixels that are read at once when images are averaged."""


@dataclass(frozen=True, eq=False)
class FlatField:
    """What a microscope makes of even light, pixel by pixel: ``pixels = gain * light + offset``.

    Parameters
    ----------
    gain
        (Y, X), for every channel, or (C, Y, X) float32: relative brightness, over 0; its mean is usually 1.
    offset
        Same shape: grey value of no light.
    facts
        How it was made: method, settings, number of frames. Strings and numbers.
    channel_names
        Of a field (C, Y, X), empty strings where they are not known; images are corrected by the field of the channel
        that has their name.

    Raises
    ------
    InputError
        When shapes differ, a value is not finite, or a gain is 0 or less.
    """

    gain: Floats
    offset: Floats
    facts: Mapping[str, str | int | float] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("gain", "offset"):
            object.__setattr__(self, name, np.array(getattr(self, name), dtype=np.float32))
        if self.gain.shape != self.offset.shape or self.gain.ndim not in (2, 3) or not self.gain.size:
            raise InputError(
                f"flat field: gain {self.gain.shape} and offset {self.offset.shape} must both be (Y, X) or (C, Y, X)"
            )
        if not (np.isfinite(self.gain).all() and np.isfinite(self.offset).all()):
            raise InputError("flat field: gain or offset holds NaN or infinite values; estimate it again")
        names = tuple(self.channel_names) or ("",) * (len(self.gain) if self.gain.ndim == 3 else 0)
        object.__setattr__(self, "channel_names", names)
        if len(names) != (len(self.gain) if self.gain.ndim == 3 else 0):
            raise InputError(f"flat field: gain {self.gain.shape} and the channels {', '.join(names)} do not fit")
        if self.gain.min() <= 0:
            raise InputError(f"flat field: the least gain is {self.gain.min():g}; every pixel must have a gain over 0")

    @cached_property
    def means(self) -> NDArray[np.float64]:
        """(2, C) mean gain and mean offset of each channel; C is 1 for a field of shape (Y, X)."""
        planes = np.stack([self.gain, self.offset]).reshape(2, -1, *self.gain.shape[-2:])
        return cast(NDArray[np.float64], planes.mean(axis=(2, 3), dtype=np.float64))

    @cached_property
    def hash(self) -> str:
        """SHA-256 of all of it."""
        about = [self.gain.shape, dict(self.facts), self.channel_names]
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        for plane in (self.gain, self.offset):
            digest.update(plane.astype("<f4").tobytes())
        return digest.hexdigest()

    def apply(self, pixels: NDArray[Any], *, keep: Keep = "zero-light", keep_dtype: bool = False) -> NDArray[Any]:
        """(C, Y, X) or (Y, X) pixels without the uneven illumination; see `corrected`."""
        if pixels.ndim not in (2, 3):
            raise InputError(f"pixels of shape {pixels.shape}; a flat field corrects (Y, X) or (C, Y, X)")
        planes = pixels if pixels.ndim == 3 else pixels[np.newaxis]
        found = np.asarray(corrected(Image(planes), self, keep=keep, keep_dtype=keep_dtype))
        return found.reshape(pixels.shape)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an NPZ file (arrays, and JSON with their hash; nothing pickled), whole or not at all.

        Raises
        ------
        WriteError
            When the file cannot be written.
        """
        facts = {"facts": dict(self.facts), "channel_names": self.channel_names}
        about = json.dumps({"format": FORMAT, **facts, "sha256": self.hash})
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, gain=self.gain, offset=self.offset, about=np.array(about))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FlatField:
        """Read what `save` wrote.

        Raises
        ------
        ReadError
            When the file is missing, is no flat field, is damaged or altered, or is from a newer cellweave.
        """
        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as file:
                about = json.loads(str(file["about"]))
                if about["format"] > FORMAT:
                    raise ReadError(f"{path} was made by a newer cellweave; update cellweave to use it")
                found = cls(file["gain"], file["offset"], about["facts"], tuple(about["channel_names"]))
                expected = about["sha256"]
        except FileNotFoundError:
            raise ReadError(f"{path}: there is no such file; estimate the flat field and save it first") from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, BadZipFile) as error:
            raise ReadError(f"{path} is no flat field, or is damaged ({type(error).__name__}: {error})") from error
        if found.hash != expected:
            raise ReadError(
                f"{path} was altered since it was saved: its hash is another; estimate the flat field again"
            )
        return found


def corrected(image: Image, field: FlatField, *, keep: Keep = "zero-light", keep_dtype: bool = False) -> Image:
    """`image` without the uneven illumination; pixels are read and corrected when they are indexed, and only those.

    Parameters
    ----------
    image
        Any axes; Y, X as the field, and of its channels where it has some, in any order and not necessarily all. Every
        time and depth gets the same correction. A channel in which no two finite pixels differ stays as it is: nothing
        was recorded there, and it should be known as such.
    field
        Its gain v and offset z.
    keep
        What stays of the camera's scale (the three corrections of CIDRE, Smith et al. 2015). "zero-light": both the
        mean offset and the mean gain, ``(I - z) / v * mean(v) + mean(z)``; "range": the gain only, no light is 0,
        ``(I - z) / v * mean(v)``; "nothing": ``(I - z) / v``.
    keep_dtype
        False gives float32. True gives the type of the image: integers are rounded to the nearest and clipped to the
        range of the type, as `clahe` and 16-bit files need.

    Returns
    -------
    Image
        Same axes, names and pixel size. NaN and infinite pixels stay so in float.

    Raises
    ------
    InputError
        When the field does not fit the image, or True/False pixels were to keep their type.
    """
    where = image.source or "image"
    if keep not in ("zero-light", "range", "nothing"):
        raise InputError(f"keep: there is no '{keep}'; choose zero-light, range or nothing")
    if keep_dtype and image.dtype.kind == "b":
        raise InputError(f"{where}: pixels are True or False; they have no illumination to correct")
    if field.gain.shape[-2:] != (image.height, image.width):
        raise InputError(
            f"{where}: {image.height} x {image.width} pixels do not fit a flat field of shape {field.gain.shape}; use "
            "the field of the same camera, binning and channels"
        )
    facts = image.facts | {"illumination": f"{field.facts.get('method', 'flat field')} {field.hash[:12]}"}
    dtype = image.dtype if keep_dtype else np.dtype(np.float32)
    if field.gain.ndim == 3:
        places = matching_channels(image, field.channel_names, "the flat field")
        if places != list(range(len(field.gain))):
            field = FlatField(field.gain[places], field.offset[places])
    return replace(image, data=_Corrected(image, field, keep, dtype), facts=facts, limits=None)


class _Corrected:
    """Lazy pixels of an image through a flat field."""

    def __init__(self, image: Image, field: FlatField, keep: Keep, dtype: np.dtype[Any]) -> None:
        self._image, self._field, self._keep = image, field, keep
        self.shape, self.dtype = image.shape, dtype
        self._empty: dict[tuple[Any, ...], list[int]] = {}

    def __getitem__(self, key: tuple[int | slice, ...]) -> NDArray[Any]:
        return plane_by_plane(self._read, key, self._image.axes, self.shape)

    def _read(self, key: tuple[int | slice, ...]) -> NDArray[Any]:
        """The pixels of one time and depth."""
        at = dict(zip(self._image.axes, key, strict=True))
        pixels = np.asarray(self._image.data[key])
        gain, offset = (self._region(plane, at) for plane in (self._field.gain, self._field.offset))
        out = pixels.astype(np.float32)
        out -= offset
        out /= gain
        if self._keep != "nothing":
            scale, shift = (self._region(mean[:, None, None], at) for mean in self._field.means.astype(np.float32))
            out *= scale
            if self._keep == "zero-light":
                out += shift
        if any(map(_even, pixels if isinstance(at["C"], slice) else [pixels])):
            empty = np.isin(np.arange(self._image.n_channels)[at["C"]], self._empty_at(at.get("T", 0), at.get("Z", 0)))
            out[empty] = pixels[empty]
        if self.dtype.kind in "iu":
            limits = np.iinfo(self.dtype)
            exact = np.clip(np.rint(out.astype(np.float64)), limits.min, limits.max)
            return exact.astype(self.dtype)
        return out.astype(self.dtype, copy=False)

    def _region(self, plane: Floats, at: Mapping[str, int | slice]) -> Floats:
        """The part of a (C, Y, X) or (Y, X) plane (or of one value a channel) that broadcasts to the pixels at `at`."""
        planes = np.broadcast_to(plane, [self._image.size(axis) for axis in "CYX"])
        return planes[at["C"], at["Y"], at["X"]]

    def _empty_at(self, *at: Any) -> list[int]:
        """Channels without signal at a time and depth."""
        if at not in self._empty:
            t, z = (n % self._image.size(axis) for n, axis in zip(at, "TZ", strict=True))
            self._empty[at] = sorted(empty_channels(self._image.plane(t=t, z=z)))
        return self._empty[at]


def _even(pixels: NDArray[Any]) -> bool:
    """Whether no two finite pixels differ."""
    values = pixels[np.isfinite(pixels)]
    return not (values != values[:1]).any()


# --- fields from frames ---------------------------------------------------------------------------------------------


def reference_field(bright: Sequence[Image], dark: Sequence[Image] | float = 0.0) -> FlatField:
    """The field of reference frames: ``gain = (bright - dark) / mean(bright - dark)`` (Seibert et al., 1998).

    Parameters
    ----------
    bright
        One or more images of an even sample (a fluorescent slide, empty medium); of several, the median of each pixel
        is taken, which removes dust and noise. Every time and depth is a frame.
    dark
        Images with the shutter closed, or the camera's offset as one number.

    Returns
    -------
    FlatField
        (C, Y, X), mean gain 1. Pixels below `LEAST_GAIN` (dead ones) get that gain.

    Raises
    ------
    InputError
        When there is no frame, shapes differ (names the file), or a bright frame is not brighter than the dark one.
    """
    light = _median(bright)
    offset = np.full_like(light, dark) if isinstance(dark, (int, float)) else _median(dark)
    if light.shape != offset.shape:
        raise InputError(
            f"bright frames are {light.shape} (C, Y, X) and dark frames {offset.shape}; they must be alike"
        )
    light = light - offset
    mean = light.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    if not (mean > 0).all():
        raise InputError(
            f"{bright[0].source or 'bright frames'}: not brighter than the dark frames in channel "
            f"{int(np.argmin(mean))}; are bright and dark exchanged?"
        )
    gain = np.maximum(light / mean, LEAST_GAIN)
    gain /= gain.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    return FlatField(gain, offset, {"method": "reference", "frames": len(bright)}, bright[0].channel_names)


def estimate_field(images: Sequence[Image], *, quantile: float = 0.5, offset: float = 0.0) -> FlatField:
    """The field of an acquisition without reference: a quantile of each pixel over all frames, made smooth.

    It is quick and right where the quantile sees light everywhere: dense or bright-field images with the median, sparse
    fluorescence with visible background and a low quantile. `cidre` needs no such choice.

    Parameters
    ----------
    images
        Frames of one camera, (C, Y, X) each alike; every time and depth is a frame. They are read one by one, at a
        reduced size: a sequence that opens its files when it is indexed keeps memory small.
    quantile
        Of each pixel over the frames, 0 to 1.
    offset
        The camera's grey value of no light.

    Returns
    -------
    FlatField
        (C, Y, X), mean gain 1, constant offset.

    Raises
    ------
    InputError
        When there is no frame, shapes differ (names the file), a channel has no finite pixel, or nothing is brighter
        than `offset`.
    """
    if not 0 <= quantile <= 1:
        raise InputError(f"quantile is {quantile}; it must be between 0 and 1")
    frames = read_frames(images, task="flat field")
    gains = []
    for c, stack in enumerate(frames.values.mean(axis=0).swapaxes(0, 1)):
        known = np.isfinite(stack).any(axis=0)
        level = np.zeros(known.shape)
        level[known] = np.nanquantile(stack[:, known], quantile, axis=0) - offset
        if level[known].mean() <= 0:
            raise InputError(f"channel {c}: the quantile {quantile} of its frames is not over the offset {offset:g}")
        gains.append(_smooth(level / level[known].mean(), known, frames.shape[1:]))
    gain = np.maximum(np.stack(gains), LEAST_GAIN)
    gain /= gain.mean(axis=(1, 2), keepdims=True)
    facts: dict[str, str | int | float] = {"method": "estimated", "quantile": quantile, "frames": frames.number}
    zero = np.full(frames.shape, offset, dtype=np.float32)
    return FlatField(gain.astype(np.float32), zero, facts, frames.channel_names)


class Frames(NamedTuple):
    """Frames of an acquisition at reduced size; see `read_frames`."""

    values: Floats
    """(2, N, C, h, w): block means over the even and over the odd rows; NaN where a block has no finite pixel."""
    shape: tuple[int, int, int]
    """(C, Y, X) of the images."""
    channel_names: tuple[str, ...]

    @property
    def number(self) -> int:
        return int(self.values.shape[1])


def read_frames(images: Sequence[Image], *, task: str, grid: int = GRID) -> Frames:
    """Block means of every frame, at most `grid` blocks a side; even and odd rows apart, so that their noise is too.

    Images are read band by band, progress is reported as `task`. Memory does not depend on the size of the images, and
    of their number only up to `MOST_FRAMES`: from longer acquisitions evenly spaced frames are taken.
    """
    if not len(images):
        raise InputError(f"{task}: there is no image; give the images of one acquisition")
    step = max(1.0, len(images) / MOST_FRAMES)
    chosen = [int(i * step) for i in range(min(len(images), MOST_FRAMES))]
    values: list[Floats] = []
    shape: tuple[int, int, int] | None = None
    names: tuple[str, ...] = ()
    for done, number in enumerate(chosen, 1):
        image = images[number]
        found = (image.n_channels, image.height, image.width)
        if shape is None:
            shape, names = found, image.channel_names
        if found != shape or names != image.channel_names:
            raise InputError(
                f"{image.source or f'image {number}'}: {found} (C, Y, X) {', '.join(image.channel_names)}, but the "
                f"images before it are {shape} {', '.join(names)}; one flat field needs images of one camera, alike in "
                "size and channels"
            )
        values += [_block_means(plane, grid) for plane in planes_of(image)]
        report(task, done, len(chosen), image.source)
    if shape is None:
        raise InputError(f"{task}: there is no image")
    if len(chosen) < len(images):
        log.info("%s: %d of %d images are read, evenly spaced", task, len(chosen), len(images))
    frames = Frames(np.stack(values, axis=1), shape, names)
    for c in range(shape[0]):
        if not np.isfinite(frames.values[:, :, c]).any():
            raise InputError(f"{task}: channel {c} has no finite pixel in any image")
    return frames


def spline_basis(n: int, pieces: int) -> NDArray[np.float64]:
    """(n, pieces + 3): uniform cubic B-splines over 0..1 at the centres of n samples; every row sums to 1."""
    from scipy.interpolate import BSpline  # here, so that training runs where SciPy is not (cellweave.train.bare)

    knots = np.arange(-3, pieces + 4) / pieces
    return np.asarray(BSpline.design_matrix((np.arange(n) + 0.5) / n, knots, 3).toarray())


def bending(pieces: int) -> NDArray[np.float64]:
    """(k * k, k * k): the form of ``mean(f_yy^2 + 2 f_xy^2 + f_xx^2)`` on coefficients (k, k), k = pieces + 3.

    Lengths are in half fields. Planes cost nothing.
    """
    unit = np.eye(pieces + 3)
    first, second = np.diff(unit, axis=0) * pieces / 2, np.diff(unit, 2, axis=0) * pieces**2 / 4
    one, two = first.T @ first, second.T @ second
    form = np.kron(two, unit) + np.kron(unit, two) + 2 * np.kron(one, one)
    return np.asarray(form / len(unit) ** 2)


def _smooth(level: NDArray[np.float64], known: NDArray[np.bool_], shape: Sequence[int]) -> NDArray[np.float64]:
    """Spline (Y, X) through block values (h, w), by least squares with a penalty on bending; robust to outliers."""
    pieces = 6
    rows, columns = (spline_basis(n, pieces) for n in level.shape)
    basis = np.einsum("ya,xb->yxab", rows, columns).reshape(level.size, -1)
    weight = known.astype(np.float64).ravel()
    penalty = 1e-3 * weight.sum() * bending(pieces) + 1e-9 * np.eye(basis.shape[1])
    values, inside = level.ravel(), known.ravel()
    found = np.zeros(basis.shape[1])
    for _ in range(8):
        found = np.linalg.solve((basis * weight[:, None]).T @ basis + penalty, basis.T @ (weight * values))
        far = np.abs(values - basis @ found)
        spread = 1.4826 * np.median(far[inside]) + 1e-12
        weight = inside / (1.0 + (far / (3.0 * spread)) ** 2)  # Cauchy weights
    sizes = (spline_basis(n, pieces) for n in shape)
    return np.asarray(next(sizes) @ found.reshape(pieces + 3, -1) @ next(sizes).T)


def planes_of(image: Image) -> list[Image]:
    """Every time and depth as a (C, Y, X) image."""
    return [image.plane(t=t, z=z) for t in range(image.size("T")) for z in range(image.size("Z"))]


def _median(images: Sequence[Image]) -> Floats:
    """(C, Y, X) median over frames, rows at a time."""
    if not len(images):
        raise InputError("flat field: there is no reference image; give one or more")
    frames = [plane for image in images for plane in planes_of(image)]
    shape = (frames[0].n_channels, frames[0].height, frames[0].width)
    for frame in frames:
        if frame.shape != shape:
            raise InputError(
                f"{frame.source or 'reference image'}: {frame.shape} (C, Y, X), but the first reference is {shape}; "
                "take frames of one camera, alike in size and channels"
            )
    out = np.empty(shape, dtype=np.float32)
    rows = max(1, _BAND // (len(frames) * shape[0] * shape[2]))
    for y in range(0, shape[1], rows):
        band = slice(y, min(y + rows, shape[1]))
        out[:, band] = np.median([frame.read(band) for frame in frames], axis=0)
    return out


def _block_means(image: Image, grid: int) -> Floats:
    """(2, C, h, w): means of even and of odd rows in each block; blocks begin at even rows."""
    half = max(image.height // 2, 1)
    h, w = min(grid, half), min(grid, image.width)
    tall = 2 * (half * np.arange(h + 1) // h) if image.height > 1 else np.array([0, 1])
    tall[-1] = image.height
    wide = image.width * np.arange(w + 1) // w
    out = np.empty((2, image.n_channels, h, w), dtype=np.float32)
    blocks = max(1, h * _BAND // (image.n_channels * image.height * image.width))
    for b in range(0, h, blocks):
        edges = tall[b : b + blocks + 1]
        band = image.read(slice(int(edges[0]), int(edges[-1]))).astype(np.float64)
        for parity in (0, 1):
            rows = band[:, parity::2] if band.shape[1] > 1 else band
            starts = (edges[:-1] - edges[0] + 1 - parity) // 2
            known = np.isfinite(rows)
            sums, counts = (
                np.add.reduceat(np.add.reduceat(values, starts, axis=1), wide[:-1], axis=2)
                for values in (np.where(known, rows, 0.0), known.astype(np.float64))
            )
            out[parity, :, b : b + blocks] = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return out
