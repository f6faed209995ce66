"""Time lapses: cells that creep, grow, divide and die, with their lineage as truth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.simulate.geometry import Geometry, Parts
from cellweave.simulate.layout import Poses, discs_of, relax
from cellweave.simulate.scene import MOST_CELLS, Cells, Picture, Population, Scene, lay_out, populate
from cellweave.simulate.shapes import Drawn

_STAGE = 1 << 20  # random numbers of the film, apart from those of its pictures


@dataclass(frozen=True)
class Motion:
    """What cells do from frame to frame.

    Parameters
    ----------
    speed
        Typical step as a part of the cell's diameter.
    persistence
        0 a random walk, towards 1 straight runs.
    turning
        Standard deviation of the turn of the long axis, in radians.
    growth
        Part by which the diameter of a young cell comes closer to its final one.
    division, death
        Chance of a full-grown cell to divide, and of any cell to vanish.
    """

    speed: float = 0.08
    persistence: float = 0.7
    turning: float = 0.05
    growth: float = 0.15
    division: float = 0.03
    death: float = 0.005


@dataclass(frozen=True)
class Track:
    """One cell of a film: its id, that of its mother (0 for none), first and last frame in which it is seen."""

    id: int
    parent: int
    first: int
    last: int


@dataclass(frozen=True, eq=False)
class Film:
    """Pictures in the order of time. A cell has one id in all of them; `tracks` are in the order of the ids.

    A cell may be hidden or outside the field between its first and its last frame.
    """

    pictures: tuple[Picture, ...]
    tracks: tuple[Track, ...]


def film(scene: Scene, frames: int, *, motion: Motion | None = None) -> Film:
    """A time lapse that starts with the cells of `scene`, each for itself (no chains).

    Raises
    ------
    InputError
        When there is no frame, or the scene's labels are not those of whole cells.
    """
    if frames < 1:
        raise InputError(f"a film of {frames} frames cannot be made; give 1 or more")
    if scene.target != "cells" and not scene.cells.bare:
        raise InputError("films follow whole cells; this scene labels nuclei: choose another recipe")
    moves = motion if motion is not None else Motion()
    single = replace(scene.cells, shapes=tuple(replace(shape, chain=1) for shape in scene.cells.shapes))
    crowd = _Crowd(populate(single, scene.size, scene.generator(0)), scene.generator(_STAGE), moves, scene.size)
    geometries = [_geometry(crowd, single, scene)]
    for _ in range(1, frames):
        crowd.step(single)
        geometries.append(_geometry(crowd, single, scene))
    tracks, ids = _tracks(geometries, crowd.parent)
    pictures = []
    for moment, geometry in enumerate(geometries):
        seen = Geometry(ids[geometry.labels], ids[geometry.nuclei], geometry.height, len(tracks))
        pixels, names, color = scene.photograph(seen, moment=moment)
        pictures.append(Picture(pixels, names, color, seen.labels, seen.nuclei, scene))
    return Film(tuple(pictures), tracks)


class _Crowd:
    """All cells that ever lived, and where those are that live now."""

    def __init__(self, population: Population, rng: np.random.Generator, motion: Motion, size: tuple[int, int]) -> None:
        n = len(population.drawn.unit)
        self.rng, self.motion, self.size = rng, motion, size
        self.drawn, self.poses, self.rank = population.drawn, population.poses, population.rank
        self.scale = rng.uniform(0.85, 1.0, n).astype(np.float32)
        self.velocity = rng.normal(0.0, 1.0, (2, n))
        self.number = np.arange(n)  # of each living cell among all that ever lived
        self.parent = [-1] * n

    def step(self, cells: Cells) -> None:
        """One frame on."""
        rng, motion = self.rng, self.motion
        self._keep(rng.random(len(self.number)) >= motion.death)
        room = MOST_CELLS - len(self.number)
        ripe = (rng.random(len(self.number)) < motion.division) & (self.scale > 0.93)
        self._divide(np.flatnonzero(ripe)[: max(room, 0)])
        n = len(self.number)
        if n == 0:
            return
        self.scale += motion.growth * (1.0 - self.scale)
        stay = motion.persistence
        self.velocity = stay * self.velocity + np.sqrt(1.0 - stay**2) * rng.normal(0.0, 1.0, (2, n))
        stride = motion.speed * self.drawn.diameter * self.scale
        poses = Poses(
            (self.poses.y + stride * self.velocity[0]).astype(np.float32),
            (self.poses.x + stride * self.velocity[1]).astype(np.float32),
            (self.poses.angle + rng.normal(0.0, motion.turning, n)).astype(np.float32),
        )
        if n > 1 and cells.layout.relax > 0:
            poses = relax(poses, discs_of(self.grown()), overlap=cells.layout.overlap, steps=4)
        self.poses = poses

    def grown(self) -> Drawn:
        """The outlines at the present sizes."""
        drawn = self.drawn
        return replace(
            drawn,
            cells=drawn.cells.scaled(self.scale[drawn.cells.body]),
            nuclei=drawn.nuclei.scaled(self.scale[drawn.nuclei.body]),
        )

    def _keep(self, alive: NDArray[np.bool_]) -> None:
        self._choose(np.flatnonzero(alive))

    def _choose(self, index: NDArray[np.intp]) -> None:
        """The cells of `index` live on, in that order; one named twice becomes two."""
        self.drawn = _chosen(self.drawn, index)
        self.poses = Poses(self.poses.y[index], self.poses.x[index], self.poses.angle[index])
        self.rank, self.scale, self.number = self.rank[index], self.scale[index], self.number[index]
        self.velocity = self.velocity[:, index]

    def _divide(self, mothers: NDArray[np.intp]) -> None:
        """Each mother makes way for two daughters with half of her area, side by side on her long axis."""
        if not len(mothers):
            return
        others = np.setdiff1d(np.arange(len(self.number)), mothers)
        self._choose(np.concatenate([others, mothers, mothers]))
        m, young = len(mothers), slice(len(others), None)
        before = self.number[young].copy()
        self.number[young] = len(self.parent) + np.arange(2 * m)
        self.parent += [int(mother) for mother in before]
        parts = self.drawn.cells
        along, _ = parts.reach
        ends = np.zeros(len(self.number), dtype=np.float32)
        np.maximum.at(ends, parts.body, along)
        side = np.repeat([-1.0, 1.0], m)
        shift = side * 0.55 * ends[young] * self.scale[young]
        angle = self.poses.angle[young]
        self.poses.y[young] += (shift * np.sin(angle)).astype(np.float32)
        self.poses.x[young] += (shift * np.cos(angle)).astype(np.float32)
        self.poses.angle[young] += self.rng.normal(0.0, 0.3, 2 * m).astype(np.float32)
        self.scale[young] *= np.float32(np.sqrt(0.5))
        self.rank[young] = self.rng.random(2 * m, dtype=np.float32)


def _chosen(drawn: Drawn, index: NDArray[np.intp]) -> Drawn:
    def parts_of(parts: Parts) -> Parts:
        order = np.argsort(parts.body, kind="stable")
        counts = np.bincount(parts.body, minlength=len(drawn.unit))
        starts = np.cumsum(counts) - counts
        several = counts[index]
        at = np.repeat(starts[index] - (np.cumsum(several) - several), several) + np.arange(several.sum())
        return replace(parts.take(order[at]), body=np.repeat(np.arange(len(index), dtype=np.int32), several))

    unit = np.arange(len(index), dtype=np.int32)
    return Drawn(parts_of(drawn.cells), parts_of(drawn.nuclei), unit, drawn.diameter[index])


def _geometry(crowd: _Crowd, cells: Cells, scene: Scene) -> Geometry:
    population = Population(crowd.grown(), crowd.poses, crowd.rank)
    ids = (crowd.number + 1).astype(np.int32)
    return lay_out(cells, population, scene.size, scene.generator(1), ids=ids)


def _tracks(geometries: list[Geometry], parent: list[int]) -> tuple[tuple[Track, ...], NDArray[np.int32]]:
    """The cells that are seen, with ids 1..n, and the new id of each cell number + 1."""
    first = np.full(len(parent) + 1, -1)
    last = np.full(len(parent) + 1, -1)
    for moment, geometry in enumerate(geometries):
        seen = np.unique(geometry.labels)
        seen = seen[seen > 0]
        last[seen] = moment
        first[seen] = np.where(first[seen] < 0, moment, first[seen])
    kept = np.flatnonzero(first >= 0)
    ids = np.zeros(len(parent) + 1, dtype=np.int32)
    ids[kept] = np.arange(1, len(kept) + 1)
    tracks = tuple(
        Track(int(ids[old]), int(ids[parent[old - 1] + 1]), int(first[old]), int(last[old])) for old in kept.tolist()
    )
    return tracks, ids
