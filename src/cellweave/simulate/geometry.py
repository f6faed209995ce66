"""`Geometry`: where the cells of one simulated field are, before any microscope looks at them; `paint` makes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import Any

import cc3d
import edt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellweave import _kernels

Box = tuple[slice, slice]
Floats = NDArray[np.float32]
Ids = NDArray[np.int32]

SMALLEST = 12
"""Objects with fewer pixels are not drawn."""
VISIBLE = 0.25
"""A cell of which less than this part is seen under the cells above it is not drawn."""
_CHUNK = 1 << 20  # pixels of boxes that are looked at together


@dataclass(frozen=True, eq=False)
class Geometry:
    """Exact shapes of the cells in one field of (Y, X) pixels.

    Parameters
    ----------
    labels
        (Y, X) int32: whole cells, 0 = background, each one 4-connected piece. The ids are 1..n; frames of a
        film and slices of a stack may lack some of them. Of overlapping cells the upper one owns the pixel.
    nuclei
        (Y, X) int32: nuclei with the id of their cell, 0 where there is none. Several nuclei of one cell
        share its id. A nucleus never leaves its cell.
    height
        (Y, X) float32: thickness of the sample, 0 in the background to about 1 in the middle of a cell.
        Domes for round cells, flat for spread ones, ring-like for discocytes; overlapping cells add. 0
        wherever `labels` is 0.
    count
        Number of ids of a whole film or stack, so that a cell keeps its looks where others are missing.
    """

    labels: Ids
    nuclei: Ids
    height: Floats
    count: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.labels.shape[0], self.labels.shape[1]

    @cached_property
    def n(self) -> int:
        """Number of ids."""
        return int(self.labels.max(initial=0)) if self.count is None else self.count

    @cached_property
    def areas(self) -> NDArray[np.int64]:
        """(n,) pixels of each cell, id 1 first."""
        return np.bincount(self.labels.ravel(), minlength=self.n + 1)[1:]

    @cached_property
    def boxes(self) -> list[Box | None]:
        """Bounding box of each cell, id 1 first; None for a cell that is not in this frame."""
        return list(ndimage.find_objects(self.labels, max_label=self.n))

    @cached_property
    def diameter(self) -> float:
        """Median diameter in px, ``2 * sqrt(area / pi)``; 0 without cells."""
        found = self.areas[self.areas > 0]
        return float(2.0 * np.sqrt(np.median(found) / np.pi)) if len(found) else 0.0


@dataclass(frozen=True, eq=False)
class Parts:
    """P simple outlines that cells are made of; the cell is the union of its parts.

    A part is a star-shaped outline, pulled apart in its middle by a straight piece, tapered, pinched and
    bent, in that order seen from the pixel: undo the bend, the pinch, the taper, the straight piece; what
    remains lies inside where its radius is under that of the outline.

    Parameters
    ----------
    body
        (P,) index of the cell.
    y, x, angle
        (P,) position in px and direction of the long axis in radians.
    a, b
        (P,) half axes in px along and across.
    core
        (P,) half length in px of the straight piece (rods); 0 for none.
    bend
        (P,) curvature of the long axis in 1 / px.
    taper
        (P,) relative growth of the width along the axis, -0.9 to 0.9.
    pinch
        (P,) how much thinner the middle is, 0 to 0.9.
    profile
        (P, 3) thickness as a polynomial of the squared radius, times that of a dome.
    outline
        (P, S) radius at S directions, see `directions`.
    """

    body: Ids
    y: Floats
    x: Floats
    angle: Floats
    a: Floats
    b: Floats
    core: Floats
    bend: Floats
    taper: Floats
    pinch: Floats
    profile: Floats
    outline: Floats

    def __len__(self) -> int:
        return len(self.body)

    def take(self, index: NDArray[Any]) -> Parts:
        """The parts of an index or boolean array."""
        return Parts(*(getattr(self, field.name)[index] for field in fields(self)))

    @staticmethod
    def join(many: Sequence[Parts]) -> Parts:
        """All parts one after the other."""
        return Parts(*(np.concatenate([getattr(p, field.name) for p in many]) for field in fields(Parts)))

    def scaled(self, factor: Floats) -> Parts:
        """Each part and its position enlarged by its own factor (P,)."""
        return replace(
            self,
            y=self.y * factor,
            x=self.x * factor,
            a=self.a * factor,
            b=self.b * factor,
            core=self.core * factor,
            bend=self.bend / factor,
        )

    def moved(self, y: Floats, x: Floats, angle: Floats) -> Parts:
        """Each part turned by its `angle` (P,) about the origin, then shifted."""
        c, s = np.cos(angle), np.sin(angle)
        return replace(
            self,
            x=(x + c * self.x - s * self.y).astype(np.float32),
            y=(y + s * self.x + c * self.y).astype(np.float32),
            angle=self.angle + angle,
        )

    @property
    def reach(self) -> tuple[Floats, Floats]:
        """Half extents (P,) of each part along and across its axis."""
        radius = self.outline.max(axis=1, initial=0.0)
        along = self.core + self.a * radius
        curve = np.abs(self.bend) * along
        across = self.b * radius * (1.0 + np.abs(self.taper)) * np.sqrt(1.0 + curve**2) + 0.5 * curve * along
        return along, across


@lru_cache(maxsize=16)
def directions(samples: int) -> tuple[Floats, Floats]:
    """Angles of the samples of an outline and the angle that each stands for, both (S,) radians.

    The samples are even in the diamond angle, the length along a square standing on its corner, which needs
    no trigonometry for each pixel.
    """
    edges = np.arange(samples + 1) * 4.0 / samples
    t = np.where(edges < 2.0, edges - 1.0, 3.0 - edges)
    p = np.where(edges < 2.0, 1.0, -1.0) * (1.0 - np.abs(t))
    theta = np.unwrap(np.arctan2(t, p))
    return (0.5 * (theta[1:] + theta[:-1])).astype(np.float32), np.diff(theta).astype(np.float32)


def outline_area(outline: Floats) -> Floats:
    """Area (P,) within outlines (P, S) of half axes 1."""
    weights = directions(outline.shape[1])[1]
    return np.asarray(0.5 * (outline**2) @ weights, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class _Hits:
    """Pixels inside parts: flat index, part, normalised radius (0 middle, 1 border)."""

    pixel: NDArray[np.intp]
    part: NDArray[np.intp]
    rho: Floats


def _hits(parts: Parts, shape: tuple[int, int], warp: tuple[Floats, Floats] | None) -> _Hits:
    along, across = parts.reach
    c, s = np.cos(parts.angle), np.sin(parts.angle)
    shift = np.zeros((2, 0, 0), np.float32) if warp is None else np.stack(warp)
    slack = 1.0 + float(np.abs(shift).max(initial=0.0))
    tall, wide = np.abs(s) * along + np.abs(c) * across + slack, np.abs(c) * along + np.abs(s) * across + slack
    ends = [
        np.clip(np.rint(middle + sign * size), 0, n)
        for middle, size, n in ((parts.y, tall, shape[0]), (parts.x, wide, shape[1]))
        for sign in (-1, 1)
    ]
    boxes = np.stack(ends, axis=1).astype(np.int32)
    counts = (boxes[:, 1] - boxes[:, 0]).astype(np.int64) * (boxes[:, 3] - boxes[:, 2])
    furthest = parts.outline.max(axis=1, initial=0.0)
    columns = (parts.y, parts.x, c, s, parts.a, parts.b, parts.core, parts.bend, parts.taper, parts.pinch, furthest)
    values = np.stack(columns, axis=1).astype(np.float32)
    found: list[_Hits] = []
    seen = np.flatnonzero(counts)
    total = np.cumsum(counts[seen])
    start = 0
    while start < len(seen):
        done = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, done + _CHUNK, side="right")))
        some = seen[start:stop]
        room = int(total[stop - 1] - done)
        pixel, part, rho = np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.float32)
        n = _kernels.outline_pixels(
            values[some], np.ascontiguousarray(parts.outline[some]), boxes[some], shift, shape[1], pixel, part, rho
        )
        found.append(_Hits(pixel[:n].astype(np.intp), some[part[:n]], rho[:n]))
        start = stop
    if not found:
        return _Hits(np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0, np.float32))
    return _Hits(*(np.concatenate([getattr(hit, f.name) for hit in found]) for f in fields(_Hits)))


@dataclass(frozen=True)
class Contact:
    """How cells share the space between them.

    Parameters
    ----------
    press
        1: neighbours flatten against each other, the border lies in the middle; 0: one lies on the other.
    gap
        Width in px that is left free between neighbours.
    sheet
        Cells of a closed layer: their thickness follows from the distance to the border.
    """

    press: float = 0.0
    gap: float = 0.0
    sheet: bool = False


def paint(
    cells: Parts,
    nuclei: Parts,
    shape: tuple[int, int],
    *,
    contact: Contact,
    rank: Floats,
    warp: tuple[Floats, Floats] | None = None,
    ids: Ids | None = None,
) -> Geometry:
    """Draw parts into a field.

    Parameters
    ----------
    cells, nuclei
        Outlines; ``body`` of both counts the same cells.
    shape
        (Y, X) of the field; what lies outside is cut off.
    contact
        What happens where cells meet.
    rank
        (B,) 0 to 1 for each body: the lower ones lie on top.
    warp
        Displacements (dy, dx) in px, each (Y, X), that make all outlines uneven.
    ids
        (B,) ids to write, all different; without it those that are seen get 1..n.
    """
    n, size = len(rank), shape[0] * shape[1]
    hits = _hits(cells, shape, warp)
    body = cells.body[hits.part].astype(np.int64)
    full = np.bincount(body, minlength=n)
    key = np.full(size, np.iinfo(np.int64).max, dtype=np.int64)
    order = (1.0 - contact.press) * rank[body] + contact.press * hits.rho
    np.minimum.at(key, hits.pixel, ((order * np.float32(1 << 24)).astype(np.int64) << 32) | body)
    labels = np.where(key < np.iinfo(np.int64).max, (key & 0xFFFFFFFF) + 1, 0).astype(np.int32).reshape(shape)
    depth = None
    if contact.gap > 0 or contact.sheet:
        depth = np.asarray(edt.edt(labels, parallel=1), dtype=np.float32)
        if contact.gap > 0.4:
            labels[depth <= 0.5 * contact.gap + 0.5] = 0
    parts_of = np.bincount(cells.body, minlength=n)
    several = (parts_of > 1)[body]
    if several.any():  # parts of one cell share pixels: count those once
        twice = np.unique(body[several] * size + hits.pixel[several]) // size
        full[parts_of > 1] = np.bincount(twice, minlength=n)[parts_of > 1]
    least = np.maximum(SMALLEST, (0.0 if contact.sheet else VISIBLE) * full)
    labels = _whole(labels, np.concatenate([[np.inf], least]))
    if contact.sheet and depth is not None:
        height = _sheet_height(labels, depth, contact.gap)
    else:
        height = np.where(labels > 0, _height(cells, hits, several, size).reshape(shape), np.float32(0.0))
    inner = np.zeros(shape, dtype=np.int32)
    if len(nuclei):
        spots = _hits(nuclei, shape, None)
        owner = nuclei.body[spots.part] + 1
        own = labels.ravel()[spots.pixel] == owner
        inner.ravel()[spots.pixel[own]] = owner[own]
    new = np.zeros(n + 1, dtype=np.int32)
    if ids is None:
        kept = np.flatnonzero(np.bincount(labels.ravel(), minlength=n + 1)[1:]) + 1
        new[kept] = np.arange(1, len(kept) + 1)
    else:
        new[1:] = ids
    return Geometry(new[labels], new[inner], height)


def _height(cells: Parts, hits: _Hits, several: NDArray[np.bool_], size: int) -> Floats:
    square = hits.rho * hits.rho
    c0, c1, c2 = cells.profile.T
    part = hits.part
    thick = np.sqrt(np.maximum(1.0 - square, 0.0)) * (c0[part] + square * (c1[part] + square * c2[part]))
    height = np.bincount(hits.pixel[~several], weights=thick[~several], minlength=size).astype(np.float32)
    if several.any():
        joined = np.zeros(size, dtype=np.float32)
        np.maximum.at(joined, hits.pixel[several], thick[several])
        height += joined
    return height


def _sheet_height(labels: Ids, depth: Floats, gap: float) -> Floats:
    deep = np.maximum(depth - np.float32(0.5 * gap), 0.0)
    inside = labels > 0
    typical = max(2.0 * float(np.mean(deep[inside])), 1.0) if inside.any() else 1.0
    t = np.minimum(deep / np.float32(1.5 * typical), 1.0)
    return np.asarray(np.where(inside, 0.35 + 0.65 * np.sqrt(t * (2.0 - t)), 0.0), dtype=np.float32)


def _whole(labels: Ids, least: NDArray[np.float64]) -> Ids:
    """The largest 4-connected piece of each id, where it has at least ``least[id]`` pixels."""
    pieces = np.asarray(cc3d.connected_components(labels, connectivity=4)).astype(np.int64)
    areas = np.bincount(pieces.ravel())
    owner = np.zeros(len(areas), dtype=np.int64)
    owner[pieces.ravel()] = labels.ravel()
    areas[owner == 0] = 0
    order = np.argsort(areas, kind="stable")
    best = np.full(len(least), -1, dtype=np.int64)
    best[owner[order]] = order
    keep = (best[owner] == np.arange(len(areas))) & (areas >= least[owner])
    return np.where(keep[pieces], labels, 0).astype(np.int32)
