"""`Points`: where cells are, without outlines; `Annotation`: everything people marked in one image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellweave.core.assignment import Indices, assign
from cellweave.core.errors import InputError
from cellweave.core.labels import Labels

Positions = NDArray[np.float64]
"""(N, 2): row and column in pixels; pixel centres lie on whole numbers, the top left one on (0, 0)."""
Names = NDArray[np.str_]
Shape = tuple[int, int]

LIVE, DEBRIS, BACKGROUND = "live", "dead-debris", "background"
"""Classes with a meaning: a cell, something dead that is not to be counted, and (of regions) nothing at all."""

MAX_PAIRS = 50_000_000


def _no_names() -> Names:
    return np.empty(0, np.str_)


@dataclass(frozen=True, eq=False)
class Points:
    """Cell positions in one image. The arrays are copied and cannot be written.

    Attributes
    ----------
    positions
        (N, 2) float64: row, column in px. Pixel centres lie on whole numbers, so that the image covers
        ``-0.5 <= row < height - 0.5``.
    classes
        (N,) class names, such as `LIVE` and `DEBRIS`; all `LIVE` when not given.
    confidence
        (N,) float64 in 0..1, or None where nothing tells it.
    shape
        (height, width) of the image, or None where it is not known.
    """

    positions: Positions
    classes: Names = field(default_factory=_no_names)
    confidence: NDArray[np.float64] | None = None
    shape: Shape | None = None

    def __post_init__(self) -> None:
        positions = np.array(self.positions, np.float64)
        if positions.size == 0:
            positions = positions.reshape(0, 2)
        if positions.ndim != 2 or positions.shape[1] != 2:
            raise InputError(f"points are (N, 2): row and column of each; these have shape {positions.shape}")
        if not np.isfinite(positions).all():
            first = int(np.argmin(np.isfinite(positions).all(axis=1)))
            raise InputError(f"point {first} (from 0) is not finite; leave such points out")
        n = len(positions)
        classes = np.array(self.classes, np.str_)
        if n and not classes.size:
            classes = np.full(n, LIVE)
        if classes.shape != (n,):
            raise InputError(f"{classes.size} class names for {n} points; give one for each")
        for name in np.unique(classes).tolist():
            if not name or name != name.strip() or not name.isprintable():
                raise InputError(f"class {name!r}: a name is one line of text without spaces around it")
        if self.shape is not None:
            shape = _checked_shape(self.shape)
            object.__setattr__(self, "shape", shape)
            if (outside := ~inside(positions, shape)).any():
                row, column = positions[outside][0]
                raise InputError(
                    f"{outside.sum()} of {n} points lie outside the image of {shape[0]} x {shape[1]} px (the first at "
                    f"row {row:g}, column {column:g}); are rows and columns exchanged, or is it another image?"
                )
        if self.confidence is not None:
            confidence = np.array(self.confidence, np.float64)
            if confidence.shape != (n,):
                raise InputError(f"confidence has shape {confidence.shape} for {n} points; give one number a point")
            if not ((confidence >= 0) & (confidence <= 1)).all():
                raise InputError("confidence must be between 0 and 1")
            confidence.flags.writeable = False
            object.__setattr__(self, "confidence", confidence)
        positions.flags.writeable = classes.flags.writeable = False
        object.__setattr__(self, "positions", positions)
        object.__setattr__(self, "classes", classes)

    @classmethod
    def from_labels(cls, labels: Labels, confidence: NDArray[Any] | None = None) -> Points:
        """The centroids of the objects of a label image, in the order of the ids; `confidence` has one a object."""
        from cellweave.core.measure import measure

        table = measure(labels)
        positions = np.column_stack([table["centroid_y"], table["centroid_x"]])
        return cls(positions, confidence=confidence, shape=(labels.shape[0], labels.shape[1]))

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, key: NDArray[Any] | slice) -> Points:
        """Some of the points: by a mask, by indices or by a slice."""
        confidence = None if self.confidence is None else self.confidence[key]
        return Points(self.positions[key], self.classes[key], confidence, self.shape)

    def of(self, *names: str) -> Points:
        """The points of these classes."""
        return self[np.isin(self.classes, names)]

    @property
    def cells(self) -> Points:
        """The points that count as cells: all but `DEBRIS`."""
        return self[self.classes != DEBRIS]

    def counts(self) -> dict[str, int]:
        """Number of points of each class that occurs, in the order of the names."""
        names, counts = np.unique(self.classes, return_counts=True)
        return dict(zip(names.tolist(), counts.tolist(), strict=True))


def _checked_shape(shape: Any) -> Shape:
    height, width = shape
    if int(height) != height or int(width) != width or height < 1 or width < 1:
        raise InputError(f"the shape of an image is (height, width) in whole pixels, not {shape}")
    return int(height), int(width)


def inside(positions: Positions, shape: Shape) -> NDArray[np.bool_]:
    """(N,) whether each position lies on a pixel of an image of this (height, width)."""
    return np.asarray(((positions >= -0.5) & (positions < np.asarray(shape) - 0.5)).all(axis=1))


def nearest_pairs(first: Positions, second: Positions, radius: float) -> tuple[Indices, Indices, NDArray[np.float64]]:
    """Pair positions one to one within `radius`: most pairs, and of those matchings the least sum of distances.

    Parameters
    ----------
    first, second
        (N, 2) and (M, 2) positions in px.
    radius
        Largest distance of a pair in px (inclusive).

    Returns
    -------
    i, j, distances
        (P,) indices into `first`, ascending, and into `second`, and the distance in px. Only the pairs within the
        radius are ever looked at (k-d tree), never N x M.

    Raises
    ------
    InputError
        When `radius` is not positive, or so large that over 50 million pairs lie within it.
    """
    from scipy.spatial import cKDTree

    if not (np.isfinite(radius) and radius > 0):
        raise InputError(f"radius {radius:g} px: give a positive number, about half a cell's diameter")
    if not len(first) or not len(second):
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    tree, other = cKDTree(first), cKDTree(second)
    n = int(tree.count_neighbors(other, radius))
    if n > MAX_PAIRS:
        raise InputError(
            f"{n:,} pairs of points lie within {radius:g} px; that is too many to choose from: take a smaller radius"
        )
    near = np.sort(tree.sparse_distance_matrix(other, radius, output_type="ndarray"), order=["i", "j"])
    i, j, distances = near["i"].astype(np.int64), near["j"].astype(np.int64), near["v"].astype(np.float64)
    taken = assign(i, j, 1 - distances / radius)
    return i[taken], j[taken], distances[taken]


@dataclass(frozen=True)
class PointsReport:
    """What a reader changed or doubts; a `str` of it is for people.

    Attributes
    ----------
    source
        The file, or several, and the image in it.
    outside
        (row, column, class) of marks beyond the image: left out.
    duplicates
        (row, column, class) of marks on a point that the same person had marked already: left out.
    unknown_classes
        Names that are neither known nor mapped, with the number of marks: kept under that name.
    notes
        What else was seen: kinds of marks that are not read, opinions of several people that were joined.
    """

    source: str = ""
    outside: tuple[tuple[float, float, str], ...] = ()
    duplicates: tuple[tuple[float, float, str], ...] = ()
    unknown_classes: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Nothing was left out, nothing is unknown."""
        return not (self.outside or self.duplicates or self.unknown_classes)

    def __str__(self) -> str:
        parts = []
        if self.outside:
            parts.append(f"{len(self.outside)} outside the image, left out ({_places(self.outside)})")
        if self.duplicates:
            parts.append(f"{len(self.duplicates)} marked twice, left out once ({_places(self.duplicates)})")
        if self.unknown_classes:
            names = ", ".join(f"'{name}' ({n})" for name, n in self.unknown_classes.items())
            parts.append(
                f"unknown classes, kept by their names: {names}; say what they are with classes={{name: class}}"
            )
        return f"{self.source}: {'; '.join([*parts, *self.notes]) or 'nothing to report'}"


def _places(marks: tuple[tuple[float, float, str], ...]) -> str:
    shown = ", ".join(f"row {row:.1f} column {column:.1f}" for row, column, _ in marks[:3])
    return shown + (", ..." if len(marks) > 3 else "")


@dataclass(frozen=True, eq=False)
class Annotation:
    """What people marked in one image.

    Attributes
    ----------
    image
        Name of the image without folder and suffix.
    points
        Cells that were clicked. Where several people annotated, `confidence` is the share of them who marked it.
    background_points
        (M, 2) clicks on places where there is no cell.
    boxes, box_classes
        (B, 4) row and column of the first, then of the last corner in px; (B,) names.
    polygons, polygon_classes
        One (K, 2) array of corners each; a name each.
    regions
        Painted areas by class: (Y, X) bool. `BACKGROUND` also holds boxes and polygons of that class.
    annotators
        Who marked it, as the file names them; empty where it does not.
    report
        What was left out or doubtful.
    """

    image: str
    points: Points
    background_points: Positions
    boxes: NDArray[np.float64]
    box_classes: Names
    polygons: tuple[Positions, ...]
    polygon_classes: tuple[str, ...]
    regions: Mapping[str, NDArray[np.bool_]]
    annotators: tuple[str, ...]
    report: PointsReport

    @property
    def shape(self) -> Shape | None:
        """(height, width) of the image, where the file tells."""
        return self.points.shape

    @property
    def background(self) -> NDArray[np.bool_] | None:
        """(Y, X) where someone said that there is no cell, or None."""
        return self.regions.get(BACKGROUND)

    @property
    def centres(self) -> Points:
        """One point a cell: the clicks; where there are none, the centres of the boxes and polygons."""
        if len(self.points) or not (len(self.boxes) or self.polygons):
            return self.points
        corners = self.boxes.reshape(-1, 2, 2)
        positions = [*corners.mean(axis=1), *(centroid(polygon) for polygon in self.polygons)]
        return Points(np.array(positions), np.array([*self.box_classes, *self.polygon_classes]), shape=self.shape)


def centroid(polygon: Positions) -> Positions:
    """(2,) centre of the area of a polygon of (K, 2) corners; the mean corner of one without area."""
    start = polygon - polygon[0]
    following = np.roll(start, -1, axis=0)
    cross = start[:, 0] * following[:, 1] - start[:, 1] * following[:, 0]
    if abs(cross.sum()) < 1e-9:
        return np.asarray(polygon.mean(axis=0))
    return np.asarray(polygon[0] + ((start + following) * cross[:, np.newaxis]).sum(axis=0) / (3 * cross.sum()))
