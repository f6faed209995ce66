"""`predict_maps`: the net runs over an image band by band; only the maps of the whole image are kept."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cellweave.core.device import autocast, choose_device
from cellweave.core.errors import CellweaveError, InputError
from cellweave.core.image import Image
from cellweave.core.progress import report
from cellweave.models import AnyModel, CellSegmenter, Segmenter, load_segmenter
from cellweave.predict.size import find_diameter
from cellweave.predict.tiling import Tiles, plan, plan_windows
from cellweave.prep import Channels, Resampling
from cellweave.prep.channels import apply_weights
from cellweave.representations.base import Maps

log = logging.getLogger(__name__)

RAMP = 32
LARGEST_ZOOM = 32.0


def predict_maps(
    image: Image | NDArray[Any],
    model: AnyModel | Sequence[AnyModel] = "default",
    *,
    diameter: float | None = None,
    channels: str | Channels | None = None,
    device: str = "auto",
    augment: bool = False,
    tile: int | None = None,
) -> Maps:
    """Maps (M, Y, X) float32 of an image, at the image's resolution.

    The image is read, prepared, resized and run through the net in bands of one row of tiles; finished rows are resized
    back and written to the result, so that besides the result only one band exists at a time.

    Parameters
    ----------
    image
        2-D image; see `Image.from_array` for which arrays are understood.
    model
        A name or folder (`load_model`), a model, or a list of them of one representation, whose maps are averaged
        (the mean over four networks of the Cellpose paper).
    diameter
        Of the cells, in px; the image is resized to the model's training diameter. None: estimated.
    channels
        Channel policy (see `cellweave.prep.Channels`); None for the model's own.
    device
        auto, cpu, cuda or mps.
    augment
        Average over the four flips; slower, a little better.
    tile
        Largest side of a tile in px, at the training diameter. Nets without a global style give the same maps for
        every value.

    Raises
    ------
    InputError
        When the image has times or depths to choose from, channels the policy cannot serve, or the diameter is not
        positive or far smaller than any cell.

    ModelError
        For a `CellSegmenter`, which has several models: `segment` chooses one, and here a branch must be given.

    Notes
    -----
    A model that finds cells of any size (`Segmenter.diameter` is 0) sees the image as it is; `diameter` plays no part.
    """
    options: dict[str, Any] = {"channels": channels, "device": device, "augment": augment, "tile": tile}
    return maps_at(as_plane(image), load_models(model), diameter=diameter, **options)[0]


def maps_at(
    picture: Image,
    models: Sequence[Segmenter],
    *,
    diameter: float | None,
    channels: str | Channels | None,
    device: str,
    augment: bool,
    tile: int | None,
) -> tuple[Maps, float | None]:
    """As `predict_maps`, and the diameter: the one given, or estimated; None where all models find any size."""
    planes = Planes(picture, models[0], channels)
    if diameter is None and any(one.diameter for one in models):
        diameter = _estimated(planes, models[0], device)
    if diameter is not None and not (np.isfinite(diameter) and diameter > 0):
        raise InputError(f"diameter is {diameter}; it must be a positive number of pixels")
    n_maps = len(models[0].representation.map_names)
    maps = np.zeros((n_maps, picture.height, picture.width), np.float32)
    for one in models:
        runner = Runner(one, choose_device(device), augment)
        seen = Planes(picture, one, channels) if one is not models[0] else planes
        for rows, values in finished_rows(seen, one, runner, diameter, tile):
            maps[:, rows] += values / len(models) if len(models) > 1 else values
    return maps, diameter


def finished_rows(
    planes: Planes, model: Segmenter, runner: Runner, diameter: float | None, tile: int | None = None
) -> Iterator[tuple[slice, Maps]]:
    """Rows of the image and their maps (M, rows, X), from top to bottom; see `predict_maps`."""
    zoom = model.diameter / diameter if diameter and model.diameter else 1.0
    if zoom > LARGEST_ZOOM:
        raise InputError(
            f"diameter is {diameter:g} px, so the image would be enlarged {zoom:.0f} times; "
            "give the diameter of the cells in pixels of the image"
        )
    for rows, values in _bands(planes, runner, zoom, tile):
        yield rows, model.representation.rescale(values, 1 / zoom)


def estimate_diameter(
    image: Image | NDArray[Any],
    model: AnyModel = "default",
    *,
    channels: str | Channels | None = None,
    device: str = "auto",
) -> float:
    """Median cell diameter in px, from what the net finds and tells in a few windows at seven zooms.

    At most 229,376 px go through the net, whatever the size of the image; see `cellweave.predict.size` for the rule.
    It works with and without a size model; where there is nothing to see, the answer is the training diameter. The
    answer is at least a quarter of the training diameter, and at most the image's longer side.
    """
    picture, segmenter = as_plane(image), load_segmenter(model)
    return _estimated(Planes(picture, segmenter, channels), segmenter, device)


def _estimated(planes: Planes, model: Segmenter, device: str) -> float:
    if not model.diameter:
        raise InputError(
            f"model '{model.name}' finds cells of any size and does not tell it; "
            "segment the image and measure the labels, or use another model"
        )
    return find_diameter(planes, Runner(model, choose_device(device), augment=False), model)


def as_plane(image: Image | NDArray[Any]) -> Image:
    """The (C, Y, X) image that is meant; arrays become images, single times and depths fall away."""
    return (image if isinstance(image, Image) else Image.from_array(image)).plane()


def load_models(model: AnyModel | Sequence[AnyModel]) -> tuple[Segmenter, ...]:
    """One or several models of one representation."""
    given = [model] if isinstance(model, (str, os.PathLike, Segmenter, CellSegmenter)) else model
    models = tuple(map(load_segmenter, given))
    if not models or len({type(m.representation) for m in models}) != 1:
        raise InputError("averaging needs one or more models of the same representation")
    if len(models) > 1 and models[0].representation.points:
        raise InputError(f"boxes of several models cannot be averaged; give one of {', '.join(m.name for m in models)}")
    return models


class Planes:
    """The planes a net sees, of any region, at any zoom."""

    def __init__(self, image: Image, model: Segmenter, channels: str | Channels | None) -> None:
        policy = model.channels if channels is None else Channels.parse(channels)
        if policy.planes != model.net.in_channels:
            remedy = (
                "write color, or color:2,1 for channels in this order"
                if model.net.in_channels == 3
                else "leave out color"
            )
            raise InputError(
                f"channels '{policy}' give {policy.planes} planes, and the model {model.name} looks at "
                f"{model.net.in_channels}; {remedy}"
            )
        self._image, self._normalisation = image, model.normalisation
        self._weights = policy.weights(image)
        self._limits = model.normalisation.limits(image)
        self.height, self.width = image.height, image.width

    def read(self, rows: Resampling, columns: Resampling, y: slice, x: slice) -> NDArray[np.float32]:
        """(P, y, x) float32 at the resampled rows y and columns x; only what they need is read."""
        source_y, source_x = rows.source(y.start, y.stop), columns.source(x.start, x.stop)
        pixels = self._image.read(source_y, source_x)
        planes = apply_weights(self._normalisation.apply(pixels, self._limits), self._weights)
        planes = rows.apply(planes, 1, y.start, y.stop, offset=source_y.start)
        return columns.apply(planes, 2, x.start, x.stop, offset=source_x.start)


class Runner:
    """One net on one device: tiles in, maps out; a batch too large for the memory is halved."""

    def __init__(self, model: Segmenter, device: torch.device, augment: bool) -> None:
        self._model, self._device, self._augment = model, device, augment
        self._net = model.net.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.stride: int = model.net.stride  # type: ignore[assignment]
        self.tile: int = model.net.tile  # type: ignore[assignment]
        self.radius: int | None = model.net.radius  # type: ignore[assignment]
        self.n_maps = len(model.representation.map_names)
        self.blended = self.n_maps - model.representation.points
        self._batch = 8

    def maps(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, P, Y, X) to (B, M, Y, X)."""
        done: list[NDArray[np.float32]] = []
        while sum(map(len, done)) < len(tiles):
            start = sum(map(len, done))
            try:
                done.append(self._forward(tiles[start : start + self._batch]))
            except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                if self._batch == 1:
                    raise CellweaveError(
                        f"one tile of {tiles.shape[2]} x {tiles.shape[3]} px does not fit in the memory of "
                        f"{self._device}; end other programs that use it, choose another device, or in Python "
                        f"a smaller tile: segment(..., tile={max(tiles.shape[2:]) // 2})"
                    ) from error
                self._batch //= 2
                log.info("not enough memory on %s: batches of %d tiles from here", self._device, self._batch)
                if self._device.type == "cuda":
                    torch.cuda.empty_cache()
        return np.concatenate(done)

    def plan(self, length: int, tile: int | None) -> Tiles:
        """How an axis is cut: tiles with margins, or windows where the net's output depends on the whole tile."""
        if self.radius is None:
            return plan_windows(length, tile=tile or self.tile, stride=self.stride)
        return plan(length, tile=tile or self.tile, stride=self.stride, margin=self.radius, ramp=RAMP)

    @torch.inference_mode()
    def _forward(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        x = torch.from_numpy(tiles).to(self._device, memory_format=torch.channels_last)
        flips = [(), (2,), (3,), (2, 3)] if self._augment else [()]
        total: torch.Tensor | None = None
        for axes in flips:
            with autocast(self._device):
                output = self._net(x.flip(axes))
            maps = self._model.representation.from_output(output)
            if axes:
                signs = torch.tensor([-1.0 if axis in axes else 1.0 for axis in (2, 3)], device=maps.device)
                maps = self._model.representation.transform(maps.flip(axes), torch.diag(signs).expand(len(maps), 2, 2))
            if total is None:
                total = maps
            else:
                total[:, : self.blended] += maps[:, : self.blended]
        assert total is not None
        total[:, : self.blended] /= len(flips)
        return np.asarray(total.cpu().numpy())

    @torch.inference_mode()
    def look(self, windows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Windows (B, P, Y, X) of any size to maps (B, M, Y, X) and styles (B, S); nothing is averaged over flips."""
        with autocast(self._device):
            output = self._net(self._on_device(windows))
        maps = self._model.representation.from_output(output)[:, :, : windows.shape[2], : windows.shape[3]]
        return maps.cpu().numpy(), output.style.float().cpu().numpy()

    @torch.inference_mode()
    def styles(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Windows (B, P, Y, X) of any size to styles (B, S), without the half of the net that makes maps."""
        with autocast(self._device):
            styles = self._net.style(self._on_device(windows))
        return np.asarray(styles.float().cpu().numpy())

    def _on_device(self, windows: NDArray[np.float32]) -> torch.Tensor:
        height, width = (-(-n // self.stride) * self.stride for n in windows.shape[2:])
        padded = _padded(windows, height, width)
        return torch.from_numpy(padded).to(self._device, memory_format=torch.channels_last)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text


def _padded(planes: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Zeros below and to the right of (..., Y, X), as the net's own convolutions see beyond the border."""
    before = [(0, 0)] * (planes.ndim - 2)
    return np.pad(planes, [*before, (0, height - planes.shape[-2]), (0, width - planes.shape[-1])])


def _bands(
    planes: Planes, runner: Runner, zoom: float, tile: int | None
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Rows of the image and their maps (M, rows, X), from top to bottom."""
    height, width = (max(1, round(n * zoom)) for n in (planes.height, planes.width))
    rows, columns = Resampling(planes.height, height), Resampling(planes.width, width)
    back_rows, back_columns = Resampling(height, planes.height), Resampling(width, planes.width)
    lengths = [-(-n // runner.stride) * runner.stride for n in (height, width)]
    down, across = (runner.plan(n, tile) for n in lengths)

    held = np.zeros((runner.n_maps, 0, width), np.float32)  # finished rows first..., not yet resized
    open_rows = np.zeros((runner.n_maps, 0, across.length), np.float32)  # rows that the next tiles add to
    first, written = 0, 0
    for k, start in enumerate(down.starts):
        if len(down.starts) > 1:
            report("rows of tiles", k, len(down.starts))
        band = _run_band(planes, runner, rows, columns, start, down, across)
        _weigh(band, down, k, 1, runner.blended)
        band[:, : open_rows.shape[1]] += open_rows
        finished = down.size if k + 1 == len(down.starts) else down.starts[k + 1] - start
        open_rows = band[:, finished:]
        held = np.concatenate([held, band[:, :finished, :width]], axis=1)
        known = min(height, first + held.shape[1])
        until = planes.height if k + 1 == len(down.starts) else _rows_within(back_rows, written, known)
        if until > written:
            values = back_rows.apply(held, 1, written, until, offset=first)
            yield slice(written, until), back_columns.apply(values, 2)
            written = until
            if written < planes.height:
                needed = back_rows.source(written, planes.height).start
                held, first = held[:, needed - first :].copy(), needed


def _rows_within(back: Resampling, written: int, known: int) -> int:
    """How many output rows need only input rows below `known`."""
    low, high = written, back.n_out
    while low < high:
        middle = (low + high + 1) // 2
        if back.source(middle - 1, middle).stop <= known:
            low = middle
        else:
            high = middle - 1
    return low


def _run_band(
    planes: Planes,
    runner: Runner,
    rows: Resampling,
    columns: Resampling,
    start: int,
    down: Tiles,
    across: Tiles,
) -> NDArray[np.float32]:
    """Maps (M, down.size, across.length) of one row of tiles, weighted across."""
    y = slice(start, min(start + down.size, rows.n_out))
    strip = _padded(planes.read(rows, columns, y, slice(0, columns.n_out)), down.size, across.length)
    band = np.zeros((runner.n_maps, down.size, across.length), np.float32)
    group = 1 if down.size * across.size > 2**20 else 8
    for begin in range(0, len(across.starts), group):
        starts = across.starts[begin : begin + group]
        maps = runner.maps(np.stack([strip[:, :, s : s + across.size] for s in starts]))
        for k, (s, values) in enumerate(zip(starts, maps, strict=True), begin):
            _weigh(values, across, k, 2, runner.blended)
            band[:, :, s : s + across.size] += values
    return band


def _weigh(maps: NDArray[np.float32], tiles: Tiles, k: int, axis: int, blended: int) -> None:
    """Multiply maps (M, y, x) of tile k, in place, by its shares along an axis; lone points go to one tile wholly."""
    shape = (1, -1, 1) if axis == 1 else (1, 1, -1)
    maps[:blended] *= tiles.weights[k].reshape(shape)
    if blended < len(maps):
        maps[blended:] *= tiles.owned[k].reshape(shape)
