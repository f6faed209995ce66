"""From the raw marks of any annotation file to `Annotation`: names of classes, faults, opinions of several people."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import ReadError
from cellweave.core.points import (
    BACKGROUND,
    DEBRIS,
    LIVE,
    Annotation,
    Names,
    Points,
    PointsReport,
    Positions,
    Shape,
    centroid,
    inside,
    nearest_pairs,
)
from cellweave.io.filenames import stem_of

KNOWN = {
    **dict.fromkeys(("live", "live cell", "live cells", "living cell", "alive", "viable", "cell", "cells"), LIVE),
    **dict.fromkeys(("dead debris", "dead cell debris", "dead cell", "dead cells", "dead", "debris"), DEBRIS),
    "background": BACKGROUND,
}
"""Class names that need no mapping; case, punctuation and spaces around do not matter."""

_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")


@dataclass
class Marks:
    """What one person marked in one image, as the file says it; a reader fills it.

    `points` are (row, column, class, confidence or None), `boxes` (row0, column0, row1, column1, class), `polygons`
    (corners, class), `regions` (mask, class); all in px with pixel centres on whole numbers.
    """

    source: Path
    image: str
    shape: Shape | None = None
    annotator: str = ""
    points: list[tuple[float, float, str, float | None]] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float, str]] = field(default_factory=list)
    polygons: list[tuple[Positions, str]] = field(default_factory=list)
    regions: list[tuple[NDArray[np.bool_], str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return not (self.points or self.boxes or self.polygons or self.regions)


@dataclass(frozen=True)
class Rules:
    """How marks are read; see `read_points`."""

    classes: Mapping[str, str] | None = None
    same_within: float = 0.5
    agree_within: float = 12.0

    def table(self) -> dict[str, str]:
        """Plain name of a class in the file -> our name."""
        return KNOWN | {plain(name): ours for name, ours in (self.classes or {}).items()}


def picture_name(text: str, *, uploaded: bool) -> str:
    """Name of an image without folder and suffix and, if `uploaded`, without the digits Label Studio puts before it."""
    name = text.replace("\\", "/").rsplit("/", 1)[-1]
    return stem_of(Path(_UPLOAD.sub("", name) if uploaded or "/upload/" in text else name))


def size_of(height: Any, width: Any) -> Shape:
    """(height, width) of an image as a file tells it; ValueError or TypeError where that cannot be."""
    shape = int(height), int(width)
    if not all(0 < n < 2**31 for n in shape):
        raise ValueError(f"an image of {shape[0]} x {shape[1]} px")
    return shape


def plain(name: str) -> str:
    """A class name without case and punctuation."""
    return re.sub(r"[\W_]+", " ", name).strip().casefold()


def annotate(marks: Sequence[Marks], rules: Rules) -> Annotation:
    """Join all marks of one image; see `read_annotations` for the rules.

    Raises
    ------
    ReadError
        When the marks are of images of different size.
    """
    source = ", ".join(dict.fromkeys(str(m.source) for m in marks))
    where = f"{source}: image {marks[0].image}"
    shape = _one_shape(marks, where)
    people = _by_person(marks)
    desk = _Desk(shape, rules)
    opinions = [desk.points(person) for person in people]
    for person in people:
        desk.areas(person)
    asked = [p for p, person in zip(opinions, people, strict=True) if len(p) or person.empty]
    points, joined = _joined([p[p.classes != BACKGROUND] for p in asked], rules.agree_within, shape)
    notes = [note for m in marks for note in m.notes]
    return Annotation(
        image=marks[0].image,
        points=points,
        background_points=np.concatenate([p.of(BACKGROUND).positions for p in opinions]),
        boxes=np.array([corners for corners, _ in desk.boxes], np.float64).reshape(-1, 4),
        box_classes=np.array([name for _, name in desk.boxes], np.str_),
        polygons=tuple(polygon for polygon, _ in desk.polygons),
        polygon_classes=tuple(name for _, name in desk.polygons),
        regions=desk.regions,
        annotators=tuple(person.annotator for person in people if person.annotator),
        report=PointsReport(where, tuple(desk.outside), tuple(desk.duplicates), dict(desk.unknown), (*notes, *joined)),
    )


class _Desk:
    """Sorts the marks of one image, person after person, and keeps what is left out or unknown."""

    def __init__(self, shape: Shape | None, rules: Rules) -> None:
        self._shape, self._table, self._radius = shape, rules.table(), rules.same_within
        self.outside: list[tuple[float, float, str]] = []
        self.duplicates: list[tuple[float, float, str]] = []
        self.unknown = Counter[str]()
        self.boxes: list[tuple[tuple[float, ...], str]] = []
        self.polygons: list[tuple[Positions, str]] = []
        self.regions: dict[str, NDArray[np.bool_]] = {}

    def points(self, person: Marks) -> Points:
        """The points of one person, without those outside and doubles."""
        positions = np.array([mark[:2] for mark in person.points], np.float64).reshape(-1, 2)
        names = np.array([self._named(mark[2]) for mark in person.points], np.str_)
        positions, kept = _within(positions, self._shape)
        self.outside += _listed(positions[~kept], names[~kept])
        first = _first_of_each(positions, names, kept, self._radius)
        self.duplicates += _listed(positions[kept & ~first], names[kept & ~first])
        known = [mark[3] for mark in person.points if mark[3] is not None]
        confidence = np.array(known)[first] if known and len(known) == len(first) else None
        return Points(positions[first], names[first], confidence, self._shape)

    def areas(self, person: Marks) -> None:
        """Boxes, polygons and painted regions of one person; those of the background become one region."""
        for *corners, raw in person.boxes:
            name, box = self._named(raw), np.reshape(corners, (2, 2))
            if self._lies_inside(box.mean(axis=0), name):
                (y0, x0), (y1, x1) = box
                if not self._is_ground(name, np.array([(y0, x0), (y0, x1), (y1, x1), (y1, x0)])):
                    self.boxes.append((tuple(corners), name))
        for polygon, raw in person.polygons:
            name = self._named(raw)
            if self._lies_inside(centroid(polygon), name) and not self._is_ground(name, polygon):
                self.polygons.append((polygon, name))
        for mask, raw in person.regions:
            self._paint(self._named(raw), mask)

    def _named(self, raw: str) -> str:
        name = " ".join("".join(c if c.isprintable() else " " for c in raw).split())
        ours = self._table.get(plain(name)) if name else LIVE
        if ours is None:
            self.unknown[name] += 1
            return name
        return ours

    def _lies_inside(self, centre: Positions, name: str) -> bool:
        place = centre[np.newaxis]
        if _within(place, self._shape)[1][0]:
            return True
        self.outside += _listed(place, np.array([name]))
        return False

    def _is_ground(self, name: str, corners: Positions) -> bool:
        if name != BACKGROUND or self._shape is None:
            return False
        from skimage.draw import polygon2mask

        self._paint(name, np.asarray(polygon2mask(self._shape, corners), np.bool_))
        return True

    def _paint(self, name: str, mask: NDArray[np.bool_]) -> None:
        self.regions[name] = self.regions[name] | mask if name in self.regions else mask


def _one_shape(marks: Sequence[Marks], where: str) -> Shape | None:
    shapes = list(dict.fromkeys(m.shape for m in marks if m.shape))
    if len(shapes) > 1:
        sizes = " and ".join(f"{height} x {width}" for height, width in shapes)
        raise ReadError(
            f"{where}: the marks are of images of {sizes} px (height x width) with the same name; they cannot be of "
            "one image: read the files apart, or give the images different names"
        )
    return shapes[0] if shapes else None


def _by_person(marks: Sequence[Marks]) -> list[Marks]:
    """Marks of the same person in several files (points here, boxes there) as one."""
    people: dict[str, Marks] = {}
    for m in marks:
        person = people.setdefault(m.annotator, Marks(m.source, m.image, m.shape, m.annotator))
        person.points += m.points
        person.boxes += m.boxes
        person.polygons += m.polygons
        person.regions += m.regions
    return list(people.values())


def _within(positions: Positions, shape: Shape | None) -> tuple[Positions, NDArray[np.bool_]]:
    """Positions, those on the far edge (100 %) moved to the last pixel; and which lie in the image."""
    if shape is None:
        return positions, np.asarray(((positions >= -0.5) & np.isfinite(positions)).all(axis=1))
    far = np.asarray(shape) - 0.5
    positions = np.where((positions >= far) & (positions <= far + 1e-6), np.nextafter(far, 0), positions)
    positions = np.where((positions < -0.5) & (positions >= -0.5 - 1e-6), -0.5, positions)
    return positions, inside(positions, shape)


def _listed(positions: Positions, names: Names) -> list[tuple[float, float, str]]:
    return [(y, x, name) for (y, x), name in zip(positions.tolist(), names.tolist(), strict=True)]


def _first_of_each(positions: Positions, names: Names, kept: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """`kept` without the later ones of marks that lie within `radius`; cells and background do not meet."""
    from scipy.spatial import cKDTree

    kept = kept.copy()
    if kept.sum() < 2:
        return kept
    place = np.flatnonzero(kept)
    pairs = place[cKDTree(positions[place]).query_pairs(radius, output_type="ndarray")]
    ground = names == BACKGROUND
    for j, i in sorted((max(pair), min(pair)) for pair in pairs.tolist()):
        if kept[i] and kept[j] and ground[i] == ground[j]:
            kept[j] = False
    return kept


def _joined(opinions: Sequence[Points], radius: float, shape: Shape | None) -> tuple[Points, list[str]]:
    """One point a cell from several people's points.

    Person after person, the points are paired one to one with the means so far (`nearest_pairs`); a pair is one
    cell, at the mean of its marks, with the class that most gave it (of equals, the first).
    """
    if not opinions:
        return Points(np.empty((0, 2)), shape=shape), []
    if len(opinions) == 1:
        return opinions[0], []
    sums, votes = opinions[0].positions.copy(), [[name] for name in opinions[0].classes.tolist()]
    for opinion in opinions[1:]:
        n = np.array([len(v) for v in votes], np.float64)[:, np.newaxis]
        old, new, _ = nearest_pairs(sums / np.maximum(n, 1), opinion.positions, radius)
        sums[old] += opinion.positions[new]
        for i, j in zip(old.tolist(), new.tolist(), strict=True):
            votes[i].append(str(opinion.classes[j]))
        alone = np.setdiff1d(np.arange(len(opinion)), new)
        sums = np.concatenate([sums, opinion.positions[alone]])
        votes += [[name] for name in opinion.classes[alone].tolist()]
    n = np.array([len(v) for v in votes], np.int64)
    classes = np.array([Counter(v).most_common(1)[0][0] for v in votes], np.str_)
    note = (
        f"{len(opinions)} people marked {', '.join(str(len(p)) for p in opinions)} points, which are {len(n)} cells "
        f"within {radius:g} px: {(n == len(opinions)).sum()} marked by all, {(n == 1).sum()} by one"
    )
    disagree = sum(len(set(v)) > 1 for v in votes)
    if disagree:
        note += f"; {disagree} with different classes (the commonest is taken)"
    return Points(sums / np.maximum(n, 1)[:, np.newaxis], classes, n / len(opinions), shape), [note]
