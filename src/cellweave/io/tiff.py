"""TIFF through tifffile: OME, ImageJ, tiled, pyramidal, BigTIFF. Only the tiles of a region are decoded."""

from __future__ import annotations

import logging
import math
import re
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any, BinaryIO
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from cellweave.core.cores import cores
from cellweave.core.errors import ReadError
from cellweave.core.files import write_atomically
from cellweave.core.labels import Labels
from cellweave.io.pixels import Box, Found, interval, joined, pixel_size, scaled, size_from_resolution

if TYPE_CHECKING:
    import tifffile

NAME = "TIFF"
SUFFIXES: tuple[str, ...] = (".tif", ".tiff", ".btf", ".tf8", ".tf2")
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_CACHE_BYTES = 64 << 20
_BIG = 2**32 - 2**25
"""A file that could pass 4 GB needs the 64-bit offsets of BigTIFF."""

_WHITE_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 2, 3, 6
_UNREADABLE_COLOURS = {5: "CMYK", 8: "CIELAB", 9: "ICCLAB", 10: "ITULAB"}
_JPEG = (6, 7, 34892, 33007)


def recognises(path: Path, head: bytes) -> bool:
    return head[:4] in _MAGIC


def find(path: Path) -> Found:
    """The first image series of the file, at full resolution."""
    import tifffile

    with _faults(path), tifffile.TiffFile(path) as tif:
        if not tif.series:
            raise ReadError(f"{path}: this TIFF has no image in it; copy or export it again")
        series = tif.series[0]
        key = series.keyframe
        _check_colours(path, key)
        names, size, step = _ome(tif) if tif.is_ome else _imagej(tif, series) if tif.is_imagej else ((), None, None)
        facts = _facts(tif, series)
        if size is None and not tif.is_ome and not tif.is_imagej:
            size = _resolution(key, facts)
        samples = key.samplesperpixel
        return Found(
            tuple(series.shape),
            np.dtype(series.dtype),
            series.axes,
            _reader(path, series),
            channel_names=names,
            pixel_size_um=size,
            photo=key.photometric in (_RGB, _YCBCR) and samples >= 3,
            alpha=samples > 1 and bool(key.extrasamples) and key.extrasamples[-1] in (1, 2),
            palette=_palette(tif, key),
            facts=facts,
            interval_s=step,
        )


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    """Turn what tifffile only logs as an error (a chain of pages that breaks off) into a ReadError."""
    records: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.addFilter(lambda record: record.thread == get_ident())
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("tifffile")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    if records:
        raise ReadError(f"{path}: the TIFF is damaged or incomplete ({records[0]}); copy it again from where it came")


def _check_colours(path: Path, key: tifffile.TiffPage) -> None:
    name = _UNREADABLE_COLOURS.get(int(key.photometric))
    if int(key.photometric) == _YCBCR and key.compression not in (*_JPEG, 33003, 33005, 34712, 50001):
        name = "YCbCr"
    if name is not None:
        raise ReadError(f"{path}: its colours are {name}, which is for printing and video; save it as RGB")


def _palette(tif: tifffile.TiffFile, key: tifffile.TiffPage) -> NDArray[Any] | None:
    """Gray or colour that the values stand for.

    A colour map whose brightness goes one way is a display table of a measuring program: the values are the
    data and stay. So they do in ImageJ files. Any other colour map is a picture of few colours.
    """
    if int(key.photometric) == _WHITE_IS_ZERO and key.dtype.kind in "bu" and key.bitspersample <= 16:
        return np.arange(2**key.bitspersample)[::-1].astype(key.dtype)
    if int(key.photometric) != _PALETTE or key.colormap is None or tif.is_imagej:
        return None
    colours = np.asarray(key.colormap).T
    steps = np.diff(colours.sum(axis=1, dtype=np.int64))
    if (steps >= 0).all() or (steps <= 0).all():
        return None
    return (colours >> 8).astype(np.uint8)


def _facts(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> dict[str, str]:
    key = series.keyframe
    kind = "OME-TIFF" if tif.is_ome else "ImageJ TIFF" if tif.is_imagej else "TIFF"
    facts = {
        "format": kind + (" (BigTIFF)" if tif.is_bigtiff else ""),
        "compression": getattr(key.compression, "name", str(key.compression)).lower(),
        "bits": str(key.bitspersample),
        "layout": f"tiles {key.tilelength} x {key.tilewidth}"
        if key.is_tiled
        else f"strips of {min(key.rowsperstrip, key.imagelength)} rows",
        "pyramid levels": "; ".join(joined(level.shape) for level in series.levels) if len(series.levels) > 1 else "1",
    }
    if len(tif.series) > 1:
        facts["images in file"] = f"{len(tif.series)} (the first is read)"
    if int(key.photometric) == _WHITE_IS_ZERO:
        inverted = "white is zero (inverted on reading)"
        facts["photometric"] = "white is zero (not inverted)" if _palette(tif, key) is None else inverted
    return facts


Described = tuple[tuple[str, ...], tuple[float, float] | None, float | None]
"""Channel names, pixel size, seconds between frames."""


def _ome(tif: tifffile.TiffFile) -> Described:
    """What the OME-XML tells of the first image (OME model 2016-06)."""
    pixels = ElementTree.fromstring(tif.ome_metadata or "").find("{*}Image/{*}Pixels")
    if pixels is None:
        return (), None, None
    names = tuple(channel.get("Name") or "" for channel in pixels.findall("{*}Channel"))
    y, x = (scaled(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "YX")
    step = interval(pixels.get("TimeIncrement"), pixels.get("TimeIncrementUnit", "s"))
    return names, pixel_size(y, x), step


def _imagej(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> Described:
    """Slice labels as channel names when the slices are channels; ImageJ's unit with the resolution tags."""
    metadata = tif.imagej_metadata or {}
    labels = metadata.get("Labels") or []
    shape = dict(zip(series.axes, series.shape, strict=True))
    only_channels = shape.get("C", 1) == len(labels) == math.prod(n for a, n in shape.items() if a not in "YXS")
    names = tuple(labels) if only_channels and not any(re.match(r"[czt]:\d+/\d+", label) for label in labels) else ()
    unit = str(metadata.get("unit", "")).replace("\\u00B5", "µ").replace("\\u00b5", "µ")
    y, x = (scaled(_per_pixel(series.keyframe, tag), unit) for tag in ("YResolution", "XResolution"))
    step = interval(metadata.get("finterval"), str(metadata.get("tunit", "s")))
    return names, pixel_size(y, x), step


def _per_pixel(key: tifffile.TiffPage, tag: str) -> float | None:
    """Length of a pixel in the file's unit: the inverse of a resolution tag."""
    value = key.tags.valueof(tag)
    if not isinstance(value, tuple) or len(value) != 2 or 0 in value:
        return None
    return float(value[1] / value[0])


def _resolution(key: tifffile.TiffPage, facts: dict[str, str]) -> tuple[float, float] | None:
    """Pixel size of the baseline tags: pixels an inch (unit 2) or a centimetre (unit 3)."""
    um = {2: 25400.0, 3: 10000.0}.get(int(key.tags.valueof("ResolutionUnit", default=1)))
    y, x = _per_pixel(key, "YResolution"), _per_pixel(key, "XResolution")
    if um is None or y is None or x is None:
        return None
    return size_from_resolution(1 / (y * um), 1 / (x * um), facts)


def _reader(path: Path, series: tifffile.TiffPageSeries) -> Any:
    """The function that gives the pixels of a box of the series; needs no open file."""
    key, shape = series.keyframe, tuple(series.shape)
    if series.dataoffset is not None and not series.is_multifile:
        dtype = np.dtype(series.dtype).newbyteorder(key.parent.byteorder)
        mapped = _mapped(path, path, dtype, series.dataoffset, shape)
        return lambda box: mapped[box]
    cache = _Cache()
    planes = [_plane(path, page, cache) for page in series]
    outer = next((k for k in range(len(shape) + 1) if math.prod(shape[:k]) == len(planes)), None)
    inner = [n for n in key.shaped if n > 1]
    if outer is None or [n for n in shape[outer:] if n > 1] != inner or getattr(series, "transform", None):
        whole = series.asarray()
        return lambda box: whole[box]
    return _Pages(shape, outer, key, planes).read


def _mapped(path: Path, file: Path, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...]) -> NDArray[Any]:
    if offset + math.prod(shape) * dtype.itemsize > file.stat().st_size:
        raise _truncated(path, file)
    return np.memmap(file, dtype, mode="r", offset=offset, shape=shape)


def _truncated(path: Path, file: Path) -> ReadError:
    where = "" if file.resolve() == path.resolve() else f" in {file.name}"
    return ReadError(f"{path}: the pixels go on beyond the end of the file{where}: it is truncated; copy it again")


def _plane(path: Path, page: tifffile.TiffPage | tifffile.TiffFrame | None, cache: _Cache) -> Any:
    """Access to one page, or None where a part of an OME-TIFF in several files is absent (zeros)."""
    if page is None:
        return None
    key = page.keyframe
    file = Path(page.parent.filehandle.path)
    offsets, counts = tuple(page.dataoffsets), tuple(page.databytecounts)
    if not offsets or not counts:
        raise ReadError(f"{path}: a page has no pixel data; the TIFF is damaged, copy it again")
    if page.is_final:
        dtype = np.dtype(key.dtype).newbyteorder(key.parent.byteorder)
        return _mapped(path, file, dtype, offsets[0], tuple(key.shaped))
    if max(offset + count for offset, count in zip(offsets, counts, strict=False)) > file.stat().st_size:
        raise _truncated(path, file)
    tables = {"jpegtables": page.jpegtables, "jpegheader": key.jpegheader} if key.compression in _JPEG else {}
    return _Segments(file, key, offsets, counts, tables, cache)


class _Pages:
    """A series as planes along its first `outer` axes."""

    def __init__(self, shape: tuple[int, ...], outer: int, key: tifffile.TiffPage, planes: list[Any]) -> None:
        self._shape, self._outer, self._planes = shape, outer, planes
        self._shaped, self._dtype = tuple(key.shaped), key.dtype

    def read(self, box: Box) -> NDArray[Any]:
        large = iter(s for s, n in zip(box[self._outer :], self._shape[self._outer :], strict=True) if n > 1)
        inner = tuple(next(large) if n > 1 else slice(0, 1) for n in self._shaped)
        ranges = [range(s.start, s.stop) for s in box[: self._outer]]
        out = np.zeros([s.stop - s.start for s in box], self._dtype)
        flat = out.reshape(-1, *(s.stop - s.start for s in inner))
        grid = np.ravel_multi_index(np.ix_(*ranges), self._shape[: self._outer]) if ranges else np.zeros(1, int)
        for target, number in zip(flat, grid.ravel().tolist(), strict=True):
            plane = self._planes[number]
            if plane is not None:
                target[...] = plane[inner]
        return out


class _Cache:
    """The segments decoded last, up to `_CACHE_BYTES`: reading band by band decodes each only once."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._size = 0
        self._lock = Lock()

    def get(self, key: tuple[int, int]) -> Any:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: tuple[int, int], segment: Any) -> None:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = segment
                self._size += _bytes(segment)
            while self._size > _CACHE_BYTES and len(self._kept) > 1:
                self._size -= _bytes(self._kept.popitem(last=False)[1])


def _bytes(segment: Any) -> int:
    return 0 if segment[0] is None else int(segment[0].nbytes)


@dataclass
class _Segments:
    """The tiles or strips of one page; indexed with a box of (sample, depth, row, column, sample)."""

    file: Path
    key: tifffile.TiffPage
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    tables: dict[str, Any]
    cache: _Cache

    def __post_init__(self) -> None:
        key = self.key
        self._size = key.shaped[1:4]
        self._tile = (
            (key.tiledepth, key.tilelength, key.tilewidth)
            if key.is_tiled
            else (1, min(key.rowsperstrip, self._size[1]), self._size[2])
        )
        self._grid = tuple(-(-n // t) for n, t in zip(self._size, self._tile, strict=True))
        self._decode = key.decode

    def __getitem__(self, box: Box) -> NDArray[Any]:
        out = np.full([s.stop - s.start for s in box], self.key.nodata, self.key.dtype)
        spans = [range(s.start // t, -(-s.stop // t)) for s, t in zip(box[1:4], self._tile, strict=True)]
        samples = range(box[0].start, box[0].stop)
        wanted = np.ravel_multi_index(np.ix_(samples, *spans), (self.key.shaped[0], *self._grid)).ravel()
        for block, corner in self._decoded(wanted.tolist()):
            if block is None:
                continue
            source, target = [], []
            for s, c, n in zip(box, corner, (1, *block.shape), strict=True):
                low, high = max(s.start, c), min(s.stop, c + n)
                source.append(slice(low - c, high - c))
                target.append(slice(low - s.start, high - s.start))
            out[tuple(target)] = block[np.newaxis][tuple(source)]
        return out

    def _decoded(self, numbers: list[int]) -> Iterator[tuple[NDArray[Any] | None, tuple[int, ...]]]:
        """Decoded segments, or None for one that is not stored, and their corners."""
        workers = cores()
        for first in range(0, len(numbers), 4 * workers):
            part = numbers[first : first + 4 * workers]
            ready = {i: self.cache.get((id(self), i)) for i in part}
            missing = [i for i, segment in ready.items() if segment is None]
            with self.file.open("rb") as stream:
                coded = [self._coded(stream, i) for i in missing]
            if len(missing) > 1:
                with ThreadPoolExecutor(min(len(missing), workers)) as pool:
                    fresh = list(pool.map(self._decode_one, coded, missing))
            else:
                fresh = [self._decode_one(data, i) for data, i in zip(coded, missing, strict=True)]
            for i, segment in zip(missing, fresh, strict=True):
                ready[i] = segment
                self.cache.put((id(self), i), segment)
            yield from (ready[i] for i in part)

    def _decode_one(self, data: bytes | None, number: int) -> Any:
        return self._decode(data, number, **self.tables)[:2]

    def _coded(self, stream: BinaryIO, number: int) -> bytes | None:
        if number >= min(len(self.offsets), len(self.counts)):
            raise ReadError(f"{self.file}: tile or strip {number} is not in the file; it is damaged, copy it again")
        if self.counts[number] == 0:
            return None
        stream.seek(self.offsets[number])
        return stream.read(self.counts[number])


def write_labels(path: Path, labels: Labels, pixel_size_um: tuple[float, float] | None) -> None:
    """OME-TIFF, uint16 or uint32, deflated; pixel size in the OME-XML and in the resolution tags."""
    _write(path, [labels], labels.shape, pixel_size_um, {"axes": "YX"})


def write_film(
    path: Path, frames: Sequence[Labels], pixel_size_um: tuple[float, float] | None, interval_s: float | None
) -> None:
    """As `write_labels`, with the axes (T, Y, X), frame by frame."""
    metadata: dict[str, Any] = {"axes": "TYX"}
    if interval_s is not None:
        metadata |= {"TimeIncrement": interval_s, "TimeIncrementUnit": "s"}
    _write(path, frames, (len(frames), *frames[0].shape), pixel_size_um, metadata)


def _write(
    path: Path,
    planes: Sequence[Labels],
    shape: tuple[int, ...],
    pixel_size_um: tuple[float, float] | None,
    metadata: dict[str, Any],
) -> None:
    import tifffile

    small = max((int(plane.max()) for plane in planes if plane.size), default=0) <= np.iinfo(np.uint16).max
    dtype = np.dtype(np.uint16 if small else np.uint32)
    metadata = metadata | {"UUID": _identity(path, planes, shape, dtype)}
    resolution: dict[str, Any] = {}
    if pixel_size_um is not None:
        y, x = pixel_size_um
        metadata |= {
            "PhysicalSizeX": x,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": y,
            "PhysicalSizeYUnit": "µm",
        }
        resolution = {"resolution": (1e4 / x, 1e4 / y), "resolutionunit": "CENTIMETER"}
    pixels = (plane.astype(dtype) for plane in planes)

    def write(temporary: Path) -> None:
        tifffile.imwrite(
            temporary,
            next(pixels) if len(shape) == 2 else pixels,
            shape=shape,
            dtype=dtype,
            bigtiff=math.prod(shape) * dtype.itemsize > _BIG,
            photometric="minisblack",
            compression="zlib",
            software="cellweave",
            metadata=metadata,
            ome=True,
            **resolution,
        )

    write_atomically(path, write)


def _identity(path: Path, planes: Sequence[Labels], shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    """An identity that is the same whenever the same labels are written under the same name."""
    check = 0
    for plane in planes:
        check = zlib.crc32(plane.astype(dtype).tobytes(), check)
    return f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{path.name!a} {shape} {check}')}"
