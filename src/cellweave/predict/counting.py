"""`count`: image in; how many cells, where they are, and how sure that is, out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellweave.core.device import choose_device
from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.core.points import Points
from cellweave.models import CellSegmenter, Segmenter
from cellweave.models.count_calibration import check_level, normal_factor
from cellweave.predict.branches import Branch
from cellweave.predict.count_spread import Spread, measure_spread
from cellweave.predict.counters import AnyCounter, Count, Mask, check_options, load_counter
from cellweave.predict.maps import Planes, Runner, as_plane, finished_rows
from cellweave.predict.segmentation import check_confidence, parse_diameter, segment, tell_unused
from cellweave.predict.unsure import DOUBT, crowded, unresolved
from cellweave.prep import Channels, Resampling
from cellweave.representations import PointRepresentation
from cellweave.representations.base import Maps

DENSITY = "density"
"""The map that tells cells a pixel."""


@dataclass(frozen=True, kw_only=True)
class MapCount(Count):
    """What a model whose net makes maps counted: the integral of a density, or the number of outlined objects.

    Parameters
    ----------
    maps
        (M, Y, X) float32, as of `predict_maps`.
    model
        The model used; of a `CellSegmenter` the branch that was chosen.
    diameter
        Cell diameter in px that the image was resized by; 0 where it kept its size.
    planes
        What the net sees.
    branch
        Which model of a `CellSegmenter` was chosen, and why; None for other models.
    spread
        How far the count may be off, before calibration; None without an interval.
    """

    points: Points
    model: Segmenter = field(repr=False)
    maps: Maps = field(repr=False)
    diameter: float
    planes: Planes = field(repr=False)
    branch: Branch | None = None
    spread: Spread | None = field(default=None, repr=False)

    @property
    def calibrated(self) -> bool:
        """Whether the interval was calibrated on images with known counts."""
        return self.interval is not None and self.model.count_calibration is not None

    @property
    def density(self) -> NDArray[np.float32]:
        """(Y, X) cells a pixel.

        Raises
        ------
        InputError
            When the model has no such map.
        """
        if DENSITY not in self.model.representation.map_names:
            raise InputError(f"model '{self.model.name}' outlines cells and has no density; leave it out")
        density: NDArray[np.float32] = self.maps[self.model.representation.map_names.index(DENSITY)]
        return density

    @cached_property
    def crowded(self) -> Mask:
        """(Y, X): where the texture says cells, but none can be told from the next; see `cellweave.predict.unsure`."""
        rows, columns = (Resampling(n, n) for n in (self.planes.height, self.planes.width))
        seen = self.planes.read(rows, columns, slice(0, rows.n_out), slice(0, columns.n_out)).mean(axis=0)
        return crowded(seen, self.points, None if self.labels is None else self.labels > 0)

    @cached_property
    def unsure(self) -> Mask:
        """(Y, X): `crowded` regions, and those around doubtful cells.

        These are objects with a confidence under a half; of a heatmap, places around which the density and the cells
        found differ by half a cell or more.
        """
        if self.labels is not None and self.points.confidence is not None:
            unsure: Mask = np.concatenate([[False], self.points.confidence < DOUBT])[self.labels]
            return self.crowded | unsure
        explained = self.model.positions.encode(self.points)[self.model.representation.map_names.index(DENSITY)]
        return self.crowded | unresolved(self.density, explained)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences without a full stop, for people: what the number does not tell."""
        said = []
        share = self.crowded.mean()
        if share >= 0.005:
            said.append(f"{share:.0%} of the image is so dense that single cells cannot be told".replace("%", " %"))
        if self.interval is not None and not self.calibrated:
            said.append("the interval is not calibrated on images with known counts")
        return tuple(said)

    def within(self, region: Mask) -> tuple[float, float]:
        """Count and its standard deviation in a region (Y, X); a cell is where its point is.

        Raises
        ------
        InputError
            When the region has another size, or no interval was asked for.
        """
        if region.shape != self.maps.shape[1:] or self.spread is None:
            raise InputError(
                f"the region is {region.shape}, the image {self.maps.shape[1:]}; "
                "give a region of the same size, and an interval to count"
            )
        cells = self.points.cells
        row, column = np.rint(cells.positions).astype(int).T
        inside = cells[region[row, column]]
        representation = self.model.representation
        n = float(len(inside))
        if isinstance(representation, PointRepresentation):
            n = representation.count(np.where(region, self.maps, np.float32(0)))
        return n, self.spread.of(n, inside.confidence, float(region.mean()))


def count(
    image: Image | NDArray[Any],
    model: AnyCounter = "default",
    *,
    diameter: float | str | None = None,
    channels: str | Channels | None = None,
    device: str = "auto",
    augment: bool = False,
    interval: float | None = 0.9,
    min_confidence: float = 0.0,
) -> Count:
    """Count the cells of a 2-D image and find where they are.

    A net that makes maps runs over the image once, or four times with `augment`. For the interval, it counts up to
    eight small tiles again in three flips (at most 524,288 px, whatever the size of the image): how much their counts
    change tells how surely the image can be counted (`cellweave.predict.count_spread`), and the model's
    `CountCalibration`, where it has one, what that means in cells. Other counters have no interval.

    Parameters
    ----------
    image, channels, device, augment
        As for `predict_maps`.
    model
        A name or folder, ``sam:`` and a name on the Hugging Face hub, or a model: of heatmaps, one that outlines cells,
        or another `Counter`; see `load_counter`.
    diameter
        As for `segment`. A model of heatmaps sees images in their size unless it is given.
    interval
        How often the interval should hold the true count; None for no interval, and no second look.
    min_confidence
        Cells with a lower confidence, in 0..1, are left out of the points, and of the count where it is their number.

    Returns
    -------
    `Count`; of models whose net makes maps, a `MapCount`.

    Raises
    ------
    InputError
        See `segment`; also an interval that is not between 0 and 1, and options that a counter does not use.

    Notes
    -----
    The interval says nothing of cells in `Count.crowded` regions, which neither net nor annotators tell apart.
    """
    check_confidence(min_confidence)
    if interval is not None:
        check_level(interval)
    loaded = load_counter(model)
    if isinstance(loaded, (Segmenter, CellSegmenter)):
        return count_in_maps(
            image,
            loaded,
            diameter=diameter,
            channels=channels,
            device=device,
            augment=augment,
            interval=interval,
            min_confidence=min_confidence,
        )
    check_options(loaded, diameter=diameter, augment=augment)
    return loaded.count_cells(as_plane(image), channels=channels, device=device, min_confidence=min_confidence)


def count_in_maps(
    image: Image | NDArray[Any],
    model: Segmenter | CellSegmenter,
    *,
    diameter: float | str | None = None,
    channels: str | Channels | None = None,
    device: str = "auto",
    augment: bool = False,
    interval: float | None = 0.9,
    min_confidence: float = 0.0,
) -> MapCount:
    """`count` by a model whose net makes maps."""
    picture = as_plane(image)
    if isinstance(model, Segmenter) and isinstance(model.representation, PointRepresentation):
        given = parse_diameter(diameter, picture)
        found = _integrated(picture, model, given, channels, device, augment, min_confidence)
    else:
        result = segment(
            picture,
            model,
            diameter=diameter,
            channels=channels,
            device=device,
            augment=augment,
            min_confidence=min_confidence,
        )
        found = MapCount(
            count=float(result.count),
            points=Points.from_labels(result.labels, result.confidence),
            maps=result.maps,
            model=result.model,
            image=picture,
            diameter=result.diameter if result.model.diameter else 0.0,
            planes=Planes(picture, result.model, channels),
            labels=result.labels,
            dropped=result.dropped,
            branch=result.branch,
        )
    return found if interval is None else _bounded(found, interval, device, min_confidence)


def _integrated(
    image: Image,
    model: Segmenter,
    given: float | None,
    channels: str | Channels | None,
    device: str,
    augment: bool,
    min_confidence: float,
) -> MapCount:
    """Count by a model of positions, without an interval."""
    if given is not None and not model.diameter:
        tell_unused(model.name)
    size = (given or model.diameter) if model.diameter else 0.0
    planes, runner = Planes(image, model, channels), Runner(model, choose_device(device), augment)
    maps = np.concatenate([values for _, values in finished_rows(planes, model, runner, size)], axis=1)
    points = model.positions.decode(maps)
    keep = np.ones(len(points), bool) if points.confidence is None else points.confidence >= min_confidence
    dropped = int(np.count_nonzero(~keep))
    return MapCount(
        count=model.positions.count(maps),
        points=points[keep],
        maps=maps,
        model=model,
        image=image,
        diameter=size,
        planes=planes,
        dropped=dropped,
    )


def _bounded(found: MapCount, interval: float, device: str, min_confidence: float) -> MapCount:
    """The same with an interval."""
    model, cells = found.model, found.points.cells
    runner = Runner(model, choose_device(device), augment=False)
    zoom = model.diameter / found.diameter if found.diameter else 1.0
    spread = measure_spread(found.planes, model, runner, zoom, cells, min_confidence=min_confidence)
    calibration = model.count_calibration
    factor = normal_factor(interval) if calibration is None else calibration.factor(interval)
    half = factor * spread.of(found.count, cells.confidence)
    return replace(found, low=max(0.0, found.count - half), high=found.count + half, interval=interval, spread=spread)
