"""What every representation offers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.core.labels import Labels
from cellweave.core.output import NetOutput

if TYPE_CHECKING:
    from cellweave.core.points import Points

Maps = NDArray[np.float32]


class MapFormat(ABC):
    """What dense maps mean. Subclasses are frozen dataclasses of their decoding parameters.

    A net gives an *output*, the numbers that the loss compares. `from_output` turns them into *maps*, whose units a
    person can read. `Representation` makes such maps of labels and back, `PointRepresentation` of points.
    """

    points: ClassVar[int] = 0
    """So many of the last maps hold values at lone pixels: they are taken from one tile and never blended."""
    octaves: ClassVar[float] = 1.0
    """Training views are enlarged by 2 to a random power in -octaves..octaves; 0 where sizes must stay."""
    sums: ClassVar[bool] = False
    """Whether sums of maps over an image matter, and not only which pixels are high."""
    most_pixels: ClassVar[float] = math.inf
    """An image that is decoded has no more."""

    @property
    def reach(self) -> float:
        """In px: targets depend on what lies so far away, where they are no matter of the objects in sight alone.

        Nearer than that to a crop's edge, where the image goes on beyond it, they teach nothing; and so that borders of
        the image are seen as often as they matter, some crops reach beyond them. 0: the parts in sight are objects.
        """
        return 0.0

    def check_size(self, height: int, width: int) -> None:
        """Raise an `InputError` for an image, or maps, of more than `most_pixels`."""
        if height * width > self.most_pixels:
            raise InputError(
                f"{height} x {width} px are too large to decode at once, {self.most_pixels} px is the limit of "
                f"{type(self).__name__}; cut the image into parts"
            )

    @property
    @abstractmethod
    def map_names(self) -> tuple[str, ...]:
        """One name a map, in the order of the first axis."""

    @abstractmethod
    def loss(self, output: NetOutput, target: torch.Tensor) -> torch.Tensor:
        """Scalar loss of a net's output against targets (B, T, Y, X).

        Where any target of a pixel is NaN, the truth is unknown, and the pixel has no weight.
        """

    @abstractmethod
    def from_output(self, output: NetOutput) -> torch.Tensor:
        """A net's output to maps (B, M, Y, X) float32."""

    @abstractmethod
    def transform(self, maps: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        """Mend *values* of maps or targets after the pixels of (B, M, Y, X) were moved by the linear part (B, 2, 2).

        Row i of the result's direction is ``matrix @ direction``: what vectors need when an image is flipped, turned
        or sheared, and scalars do not.
        """

    def rescale(self, maps: Maps, zoom: float) -> Maps:
        """Mend map *values* after the picture (M, Y, X) was enlarged by `zoom`: lengths in px grow, the rest stays."""
        return maps


class Representation(MapFormat):
    """One way to write instances as dense maps: `encode` makes maps from labels, `decode` turns maps into labels."""

    @abstractmethod
    def encode(self, labels: Labels) -> Maps:
        """Labels (Y, X) to maps (M, Y, X) float32."""

    def targets(self, labels: Labels) -> Maps:
        """What a training compares with, (T, Y, X) float32: the maps, where a representation needs nothing else."""
        return self.encode(labels)

    @abstractmethod
    def decode_scored(self, maps: Maps) -> tuple[Labels, NDArray[np.float32]]:
        """Maps (M, Y, X) to labels (Y, X) with ids 1..n, and a confidence in 0..1 for each id in order."""

    def decode(self, maps: Maps) -> Labels:
        """Maps (M, Y, X) to labels (Y, X) int32 with ids 1..n."""
        return self.decode_scored(maps)[0]


class PointRepresentation(MapFormat):
    """One way to write positions as dense maps: `encode` makes maps from points, `decode` turns maps into points."""

    @abstractmethod
    def encode(self, points: Points) -> Maps:
        """Points, whose `shape` (Y, X) is known, to maps (M, Y, X) float32."""

    def targets(self, points: Points) -> Maps:
        """What a training compares with, (T, Y, X) float32: the maps, where a representation needs nothing else."""
        return self.encode(points)

    @abstractmethod
    def decode(self, maps: Maps) -> Points:
        """Maps (M, Y, X) to points with their confidence, their classes and the shape (Y, X)."""

    def count(self, maps: Maps) -> float:
        """Number of cells that maps (M, Y, X) tell; it need not be whole. Here: of the points that count as cells."""
        return float(len(self.decode(maps).cells))
