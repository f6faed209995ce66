"""`segment`: image in, cells out."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.core.labels import Labels, median_diameter
from cellweave.core.measure import Table, measure
from cellweave.models import AnyModel, CellSegmenter, Segmenter, load_model
from cellweave.predict.branches import Branch, choose
from cellweave.predict.maps import as_plane, load_models, maps_at
from cellweave.prep import Channels
from cellweave.representations.base import Maps

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Segmentation:
    """What `segment` found in one image.

    Parameters
    ----------
    labels
        (Y, X) int32, 0 = background, ids 1..n.
    confidence
        (n,) float32 in 0..1, in the order of the ids: the probability that the object matches a true one at IoU 0.5,
        where a single model has a `Calibration`, and as far as the image is like those it was made on; else the score.
    maps
        (M, Y, X) float32; ``model.representation.decode(maps)`` gives the labels again (before `min_confidence`), or
        others with other thresholds, without running the net.
    diameter
        Cell diameter in px that the image was resized by: given, or estimated; the median of the cells found where
        the model finds those of any size.
    model
        The first of the models used, of several without its calibration; of a `CellSegmenter`, the branch chosen.
    image
        What was segmented.
    dropped
        Number of objects that were removed because their confidence was under `min_confidence`.
    branch
        Which model of a `CellSegmenter` was chosen, and why; None for other models.
    """

    labels: Labels
    confidence: NDArray[np.float32]
    maps: Maps = field(repr=False)
    diameter: float
    model: Segmenter = field(repr=False)
    image: Image = field(repr=False)
    dropped: int = 0
    branch: Branch | None = None

    @property
    def count(self) -> int:
        """Number of cells."""
        return len(self.confidence)

    @cached_property
    def table(self) -> Table:
        """One row a cell: position, size, shape, intensities, confidence; see `cellweave.core.measure`."""
        return measure(self.labels, self.image, self.confidence)


def segment(
    image: Image | NDArray[Any],
    model: AnyModel | Sequence[AnyModel] = "default",
    *,
    diameter: float | str | None = None,
    channels: str | Channels | None = None,
    device: str = "auto",
    augment: bool = False,
    tile: int | None = None,
    min_confidence: float = 0.0,
) -> Segmentation:
    """Find and outline the cells of a 2-D image.

    Parameters
    ----------
    diameter
        Of the cells: a number in px, or text such as ``"30"`` or ``"12um"``. None: estimated (`estimate_diameter`).
        Models that find cells of any size do not use it.
    min_confidence
        Objects with a confidence under this, in 0..1, are removed, and the others numbered 1..n in the same order.
    model
        As for `predict_maps`; or a `CellSegmenter`, of which the model that the image calls for is used.
    image, channels, device, augment, tile
        As for `predict_maps`.

    Raises
    ------
    InputError
        See `predict_maps`; also a diameter in um for an image without a pixel size, a `min_confidence` outside 0..1, or
        an image too large to decode at once.
    """
    check_confidence(min_confidence)
    picture, loaded = as_plane(image), load_any(model)
    given = parse_diameter(diameter, picture)
    options: dict[str, Any] = {"channels": channels, "device": device, "augment": augment, "tile": tile}
    branch = None
    if isinstance(loaded, CellSegmenter):
        branch, maps, used = choose(picture, loaded, diameter=given, **options)
        first, name = loaded.branches[branch.name], loaded.name
    else:
        first, name = loaded[0], loaded[0].name
        first.outlines.check_size(picture.height, picture.width)
        maps, used = maps_at(picture, loaded, diameter=given, **options)
        if len(loaded) > 1:
            first = first.with_(calibration=None)  # it was made on the maps of one model
    if given is not None and not first.diameter:
        tell_unused(name)
    labels, confidence = first.decode_scored(maps)
    labels, confidence, dropped = without_doubtful(labels, confidence, min_confidence)
    size = used if used and first.diameter else median_diameter(labels)
    return Segmentation(labels, confidence, maps, float(size), first, picture, dropped, branch)


def check_confidence(least: float) -> None:
    """Raise an `InputError` for a least confidence outside 0..1."""
    if not 0 <= least <= 1:
        raise InputError(f"min_confidence is {least}; it must be between 0 and 1")


def without_doubtful(
    labels: Labels, confidence: NDArray[np.float32], least: float
) -> tuple[Labels, NDArray[np.float32], int]:
    """Objects whose confidence is at least this, numbered 1..n in the same order, and how many others there were."""
    keep = confidence >= least
    dropped = len(keep) - int(keep.sum())
    if dropped:
        labels = np.concatenate([[0], np.cumsum(keep) * keep]).astype(np.int32)[labels]
    return labels, confidence[keep], dropped


def load_any(model: AnyModel | Sequence[AnyModel]) -> tuple[Segmenter, ...] | CellSegmenter:
    """A `CellSegmenter`, or one or several models whose maps are averaged."""
    if isinstance(model, (str, os.PathLike, Segmenter, CellSegmenter)):
        loaded = load_model(model)
        if isinstance(loaded, CellSegmenter):
            return loaded
        models: tuple[Segmenter, ...] = (loaded,)
    else:
        models = load_models(model)
    _ = models[0].outlines  # refuses, before the net runs, a model that finds positions only
    return models


@cache
def tell_unused(name: str) -> None:
    """Once for a model, not for every image of a batch."""
    log.warning("model %s finds cells of any size: the diameter that was given is not used", name)


def parse_diameter(diameter: float | str | None, image: Image) -> float | None:
    """Diameter in px from a number, ``"30"``, ``"30px"`` or ``"12um"``; None stays None.

    Raises
    ------
    InputError
        When it is no positive number, or in um while the image has no pixel size.
    """
    if diameter is None:
        return None
    text = str(diameter).strip().lower().replace("µ", "u").replace("μ", "u")
    number, in_um = text.removesuffix("um").removesuffix("px").strip(), text.endswith("um")
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not (np.isfinite(value) and value > 0):
        raise InputError(f"diameter '{diameter}' is not a positive size; write 30 (pixels) or 12um")
    if not in_um:
        return value
    if image.pixel_size_um is None:
        raise InputError(
            f"{image.source or 'the image'} does not tell its pixel size, so a diameter in um cannot be used; "
            "give it in pixels"
        )
    return value / float(np.sqrt(image.pixel_size_um[0] * image.pixel_size_um[1]))
