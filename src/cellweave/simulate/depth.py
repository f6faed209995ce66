"""Stacks: the same scenes in three dimensions, with light from the planes above and below."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import cc3d
import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.simulate.camera import Pixels
from cellweave.simulate.geometry import Floats, Geometry, Parts
from cellweave.simulate.scene import Population, Scene, lay_out, populate
from cellweave.simulate.shapes import Drawn
from cellweave.simulate.texture import blur

_REACH = 3  # planes on either side that shine into one
_STAGE = 1 << 21


@dataclass(frozen=True, eq=False)
class Stack:
    """A simulated stack with its truth.

    Parameters
    ----------
    pixels
        (C, Z, Y, X) uint8 or uint16.
    channel_names
        One name a channel.
    color
        True for the red, green and blue of a photograph.
    labels
        (Z, Y, X) int32, ids 1..n, each one piece whose voxels share faces.
    step
        Distance of the planes in px.
    scene
        What it was made from.
    """

    pixels: Pixels
    channel_names: tuple[str, ...]
    color: bool
    labels: NDArray[np.int32]
    step: float
    scene: Scene

    def image(self) -> Image:
        """The pixels as `cellweave.Image`."""
        return Image(self.pixels, "CZYX", channel_names=self.channel_names, color=self.color)


def stack(scene: Scene, depth: int, *, step: float | None = None) -> Stack:
    """A stack of `depth` planes, `step` px apart (a sixth of a cell without it).

    Cells are ellipsoids over their outlines, as thick as they are wide; the scene's density holds in every
    layer of cells. Sheets are one layer of columns through all planes.

    Raises
    ------
    InputError
        When there is no plane, or the scene's labels are not those of whole cells.
    """
    if depth < 1:
        raise InputError(f"a stack of {depth} planes cannot be made; give 1 or more")
    if scene.target != "cells" and not scene.cells.bare:
        raise InputError("stacks show whole cells; this scene labels nuclei: choose another recipe")
    step = scene.cells.diameter / 6.0 if step is None else step
    if not step > 0:
        raise InputError(f"planes {step} px apart cannot be drawn; give a step over 0")
    solid = _fill(scene, depth * step)
    slices = [_slice(scene, solid, (plane + 0.5) * step) for plane in range(depth)]
    labels, ids = _solid_labels(np.stack([geometry.labels for geometry in slices]))
    n = int(ids.max(initial=0))
    light = []
    names: tuple[str, ...] = ()
    color = False
    for plane, geometry in enumerate(slices):
        kept = labels[plane] > 0
        nuclei = np.where(labels[plane] == ids[geometry.nuclei], labels[plane], 0).astype(np.int32)
        height = np.where(kept, geometry.height, np.float32(0.0))
        shown, names, color = scene.light(Geometry(labels[plane], nuclei, height, n))
        light.append(shown)
    planes = [_expose(scene, light, plane, step) for plane in range(depth)]
    return Stack(cast(Pixels, np.stack(planes, axis=1)), names, color, labels, step, scene)


@dataclass(frozen=True, eq=False)
class _Solid:
    population: Population
    middle: Floats  # (B,) depth in px
    radius: Floats  # (B,) half thickness in px; infinite for columns


def _fill(scene: Scene, thickness: float) -> _Solid:
    """Layer upon layer of cells in a volume `thickness` px deep."""
    single = replace(scene.cells, shapes=tuple(replace(shape, chain=1) for shape in scene.cells.shapes))
    rng = scene.generator(_STAGE)
    diameter = scene.cells.diameter
    layers = 1 if scene.cells.layout.sheet else max(round(thickness / diameter), 1)
    stacked = [populate(single, scene.size, scene.generator(_STAGE + 1 + layer)) for layer in range(layers)]
    drawn = Drawn.join([one.drawn for one in stacked])
    n = len(drawn.unit)
    layer = np.repeat(np.arange(layers), [len(one.drawn.unit) for one in stacked])
    middle = (layer + 0.5 + rng.normal(0.0, 0.12, n)) * (thickness / layers)
    narrow = np.full(n, np.inf)
    np.minimum.at(narrow, drawn.cells.body, drawn.cells.b * drawn.cells.outline.mean(axis=1))
    radius = np.full(n, np.inf) if scene.cells.layout.sheet else np.minimum(narrow, 0.5 * diameter)
    poses = replace(
        stacked[0].poses,
        **{name: np.concatenate([getattr(one.poses, name) for one in stacked]) for name in ("y", "x", "angle")},
    )
    population = Population(drawn, poses, np.concatenate([one.rank for one in stacked]))
    return _Solid(population, middle.astype(np.float32), radius.astype(np.float32))


def _slice(scene: Scene, solid: _Solid, z: float) -> Geometry:
    """The cells cut at depth `z`: outlines shrink as those of an ellipsoid."""
    away = (np.float32(z) - solid.middle) / solid.radius
    size = np.sqrt(np.maximum(1.0 - away**2, 0.0)).astype(np.float32)
    inner = np.sqrt(np.maximum(1.0 - (1.6 * away) ** 2, 0.0)).astype(np.float32)
    drawn = solid.population.drawn

    def cut(parts: Parts, factor: Floats) -> Parts:
        met = parts.take(factor[parts.body] > 0.05)
        return met.scaled(factor[met.body])

    thin = replace(drawn, cells=cut(drawn.cells, size), nuclei=cut(drawn.nuclei, inner))
    ids = np.arange(1, len(drawn.unit) + 1, dtype=np.int32)
    return lay_out(scene.cells, replace(solid.population, drawn=thin), scene.size, scene.generator(1), ids=ids)


def _solid_labels(labels: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The largest piece of each id, ids 1..n, and the new id of each old one."""
    pieces = np.asarray(cc3d.connected_components(labels, connectivity=6)).astype(np.int64)
    areas = np.bincount(pieces.ravel())
    owner = np.zeros(len(areas), dtype=np.int64)
    owner[pieces.ravel()] = labels.ravel()
    best: dict[int, int] = {}
    for piece in np.argsort(areas, kind="stable").tolist():
        if owner[piece]:
            best[int(owner[piece])] = piece
    new = np.zeros(len(areas), dtype=np.int32)
    ids = np.zeros(int(labels.max(initial=0)) + 1, dtype=np.int32)
    for number, old in enumerate(sorted(best), start=1):
        new[best[old]] = number
        ids[old] = number
    return new[pieces], ids


def _expose(scene: Scene, light: list[Floats], plane: int, step: float) -> Pixels:
    """One plane with the blurred light of its neighbours."""
    total = light[plane].copy()
    weight = 1.0
    for away in range(1, _REACH + 1):
        for other in (plane - away, plane + away):
            if 0 <= other < len(light):
                share = 0.5**away
                sigma = 0.35 * away * step
                total += np.float32(share) * np.stack([blur(channel, sigma) for channel in light[other]])
                weight += share
    total /= np.float32(weight)
    return scene.camera.expose(scene.optics.apply(total, scene.generator(3)), scene.generator(4 + plane))
