"""What counts cells: models whose net makes maps, and the simpler ways, which `count` takes just as well."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError, ModelError
from cellweave.core.files import atomic_path
from cellweave.core.image import Image
from cellweave.core.labels import Labels
from cellweave.core.points import DEBRIS, Points
from cellweave.models import AnyModel, CellSegmenter, Segmenter, load_model
from cellweave.models.folder import CARD, FORMAT, SAM, card_text, kind_of, read_settings, refusing, write_settings
from cellweave.models.registry import find_model
from cellweave.prep import Channels

Mask = NDArray[np.bool_]

HUB = "sam:"
"""Before a name on the Hugging Face hub."""


class Counter(Protocol):
    """Counts cells without the maps of a `Segmenter`: by area, by blobs, by a Mask R-CNN, by SAM."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def hash(self) -> str:
        """SHA-256 of what decides its counts; empty for one that was never saved."""
        ...

    def card_text(self) -> str:
        """The model card, in Markdown."""
        ...

    def count_cells(
        self, image: Image, *, channels: str | Channels | None, device: str, min_confidence: float
    ) -> Count:
        """Count the cells of a 2-D image; see `cellweave.predict.count`."""
        ...


AnyCounter = AnyModel | Counter
"""What `count` takes: also ``sam:`` and a name on the Hugging Face hub."""


@dataclass(frozen=True, kw_only=True)
class Count:
    """What `count` found in one image, whichever way.

    Parameters
    ----------
    count
        Number of cells; of a density or an area it need not be whole.
    points
        Where the cells are (`points.cells`; debris, where a model finds it, has its own class), with their confidence.
        None where only an area was measured.
    model, image
        What counted, and what was counted.
    labels
        (Y, X) where cells are outlined; else None.
    foreground
        (Y, X): the area that was counted; None where none was.
    dropped
        Number of points removed because their confidence was under `min_confidence`.
    low, high, interval
        Bounds that should hold the true count, and how often they should, such as 0.9; None where there are none.
    note
        What the number does not tell, for `remarks`.
    """

    count: float
    points: Points | None
    model: Segmenter | Counter = field(repr=False)
    image: Image = field(repr=False)
    labels: Labels | None = field(default=None, repr=False)
    foreground: Mask | None = field(default=None, repr=False)
    dropped: int = 0
    low: float | None = None
    high: float | None = None
    interval: float | None = None
    note: str = ""

    @property
    def density(self) -> NDArray[np.float32]:
        """(Y, X) cells a pixel.

        Raises
        ------
        InputError
            When the model has no such map.
        """
        raise InputError(f"model '{self.model.name}' has no density; leave it out")

    @property
    def debris(self) -> int:
        """Number of points that are dead cells or debris, and no part of the count."""
        return 0 if self.points is None else int(np.count_nonzero(self.points.classes == DEBRIS))

    @property
    def crowded(self) -> Mask | None:
        """(Y, X): where single cells cannot be told; None where nothing tells it."""
        return None

    @property
    def unsure(self) -> Mask | None:
        """(Y, X): where not to believe the count; None where nothing tells it."""
        return None

    @property
    def shaded(self) -> Mask | None:
        """(Y, X): what a picture shows besides the points: where the count is unsure, or the area that was counted."""
        return self.unsure if self.foreground is None else self.foreground

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences without a full stop, for people: what the number does not tell."""
        return (self.note,) if self.note else ()


def load_counter(model: AnyCounter = "default") -> Segmenter | CellSegmenter | Counter:
    """Load whatever counts: as `load_model`, and the folders of the simpler ways.

    These are what ``cellweave train --method area|blobs|mask-rcnn`` saves, and SAM's weights, in a folder as
    transformers saves them, or by ``sam:`` and a name on the Hugging Face hub.

    Raises
    ------
    ModelError
        As `load_model`.
    MissingExtraError
        When the package that a Mask R-CNN or SAM needs is not installed.
    """
    if not isinstance(model, (str, os.PathLike)):
        return model
    if str(model).startswith(HUB):
        if not (name := str(model).removeprefix(HUB)):
            raise ModelError(f"'{model}' names no weights; write a name on the hub: sam:facebook/sam-vit-base")
        return _sam(name)
    path = find_model(model)
    load = _LOADERS.get(kind_of(path))
    return load_model(path) if load is None else load(path)


def check_options(model: Segmenter | CellSegmenter | Counter, *, diameter: object, augment: bool) -> None:
    """Raise an `InputError` where options of nets that make maps are given to another counter."""
    if not isinstance(model, (Segmenter, CellSegmenter)) and (diameter is not None or augment):
        raise InputError(f"'{model.name}' does not use a diameter or flips; leave out diameter and augment")


def _sam(weights: str | os.PathLike[str]) -> Counter:
    from cellweave.predict.sam import load_sam

    return load_sam(weights, device="cpu")  # it goes to the device on which it counts


def _mask_rcnn(folder: Path) -> Counter:
    from cellweave.predict.mask_rcnn import Detector

    return Detector.load(folder)


def _area(folder: Path) -> Counter:
    from cellweave.predict.area import AreaDensity

    return AreaDensity.load(folder)


def _blobs(folder: Path) -> Counter:
    from cellweave.predict.blobs import BlobFinder

    return BlobFinder.load(folder)


_LOADERS: dict[str, Callable[[Path], Counter]] = {"area": _area, "blobs": _blobs, "mask-rcnn": _mask_rcnn, SAM: _sam}
"""By the kind of a folder; see `cellweave.models.folder.COUNTERS`."""


@dataclass(frozen=True, kw_only=True)
class PlainCounter:
    """What counters share that have a few numbers and no weights: their folder, with `model.json` and a card.

    Parameters
    ----------
    channels
        What is looked at; see `gray_plane`.
    name, card
        For people.
    hash
        SHA-256 of the settings; empty for one that was never saved.
    """

    KIND: ClassVar[str]

    channels: str = "auto"
    name: str = "unnamed"
    card: dict[str, Any] = field(default_factory=dict)
    hash: str = ""

    @property
    def numbers(self) -> dict[str, Any]:
        """The fields of the counter itself."""
        shared = {one.name for one in fields(PlainCounter)}
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in shared}

    def with_(self, **changes: Any) -> Self:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    def card_text(self) -> str:
        """The model card, in Markdown."""
        numbers = {key.capitalize(): value for key, value in self.numbers.items()}
        return card_text(self.name, {"Counts by": self.KIND, **numbers, "Channels": self.channels} | self.card)

    def save(self, folder: str | os.PathLike[str]) -> Self:
        """Write settings and a card into a new or replaced folder; returns the counter with its hash."""
        settings = {
            "format": FORMAT,
            "kind": self.KIND,
            "name": self.name,
            "numbers": self.numbers,
            "channels": self.channels,
            "card": self.card,
        }
        with atomic_path(folder) as root:
            root.mkdir(parents=True)
            write_settings(root, settings)
            (root / CARD).write_text(self.card_text(), encoding="utf-8")
            return replace(self, hash=read_settings(root)["settings_sha256"])

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read the folder that `save` wrote.

        Raises
        ------
        ModelError
            When a file is missing, was altered, or the folder holds another kind of model.
        """
        root = Path(folder)
        with refusing(root):
            settings = read_settings(root)
            if settings.get("kind") != cls.KIND:
                raise ModelError(f"model folder {root} does not count by {cls.KIND}; use it with load_counter")
            return cls(
                **settings["numbers"],
                channels=settings["channels"],
                name=settings["name"],
                card=settings["card"],
                hash=settings["settings_sha256"],
            )
