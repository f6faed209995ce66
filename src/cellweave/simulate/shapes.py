"""Shapes of cells: from a few numbers to the outlines that `geometry.paint` draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.simulate.geometry import Floats, Parts, directions, outline_area

PROFILES: dict[str, tuple[float, float, float]] = {
    "dome": (1.0, 0.0, 0.0),
    "flat": (0.75, 0.35, 0.25),
    "spread": (1.0, -1.3, 0.5),
    "ring": (0.31, 3.03, -1.70),
}
"""Thickness over the squared radius, times that of a dome. "ring" is the red cell of Evans and Fung (1972)."""


@dataclass(frozen=True)
class Nucleus:
    """Nuclei of one kind of cell.

    Parameters
    ----------
    ratio
        Diameter of the nucleus over that of the cell.
    variation
        Log-normal sigma of that ratio.
    offset
        How far from the middle it lies, as a part of the room there is.
    elongation
        Long over short axis.
    irregularity
        Relative waviness of the outline.
    lobes
        Largest number of lobes; 1 for plain nuclei, 3 to 5 for granulocytes.
    double, missing
        Parts of the cells with two nuclei and with none.
    """

    ratio: float = 0.5
    variation: float = 0.12
    offset: float = 0.3
    elongation: float = 1.25
    irregularity: float = 0.03
    lobes: int = 1
    double: float = 0.02
    missing: float = 0.0


@dataclass(frozen=True)
class Shape:
    """One kind of cell.

    Parameters
    ----------
    kind
        One of `KINDS`.
    diameter
        Median diameter in px, ``2 * sqrt(area / pi)``.
    variation
        Log-normal sigma of the diameter.
    elongation, elongation_variation
        Length over width, and the log-normal sigma of what exceeds 1.
    irregularity
        Relative waviness of the outline (standard deviation of the radius).
    roughness
        How the waviness falls with the number of waves, as its power: 2 smooth, 0.5 spiny.
    bend
        Curvature times half length: 0 straight, 1 a half circle.
    arms
        Largest number of protrusions of spread cells and of neurites.
    chain
        Largest number of cells that hang together in a row (chains, budding pairs).
    dividing
        Part of the cells with a waist.
    profile
        Thickness, one of `PROFILES`.
    share
        Number of these cells relative to that of the others in the field.
    nucleus
        None for cells without one.
    """

    kind: str = "round"
    diameter: float = 30.0
    variation: float = 0.15
    elongation: float = 1.2
    elongation_variation: float = 0.3
    irregularity: float = 0.04
    roughness: float = 1.5
    bend: float = 0.0
    arms: int = 5
    chain: int = 1
    dividing: float = 0.0
    profile: str = "dome"
    share: float = 1.0
    nucleus: Nucleus | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"kind: there is no shape '{self.kind}'; choose one of {', '.join(KINDS)}")
        if self.profile not in PROFILES:
            raise InputError(f"profile: there is no '{self.profile}'; choose one of {', '.join(PROFILES)}")
        if not self.diameter > 0 or not self.elongation >= 1:
            raise InputError(
                f"diameter {self.diameter} and elongation {self.elongation}: give a diameter over 0 px "
                "and an elongation of 1 or more"
            )


@dataclass(frozen=True, eq=False)
class Drawn:
    """Outlines of U units, each about the origin.

    Parameters
    ----------
    cells, nuclei
        Parts; ``body`` counts the cells of all units together.
    unit
        (B,) unit of each cell. The cells of a unit hang together and move as one.
    diameter
        (B,) diameter in px that each cell was asked to have.
    """

    cells: Parts
    nuclei: Parts
    unit: NDArray[np.int32]
    diameter: Floats

    @property
    def n_units(self) -> int:
        return int(self.unit[-1]) + 1 if len(self.unit) else 0

    @staticmethod
    def join(many: list[Drawn]) -> Drawn:
        """All units one after the other."""
        cells, nuclei, units = [], [], []
        n_bodies = n_units = 0
        for one in many:
            cells.append(replace(one.cells, body=one.cells.body + np.int32(n_bodies)))
            nuclei.append(replace(one.nuclei, body=one.nuclei.body + np.int32(n_bodies)))
            units.append(one.unit + np.int32(n_units))
            n_bodies += len(one.unit)
            n_units += one.n_units
        diameter = np.concatenate([one.diameter for one in many])
        return Drawn(Parts.join(cells), Parts.join(nuclei), np.concatenate(units), diameter)


def samples_for(diameter: float) -> int:
    """Number of directions that the outline of a cell of `diameter` px needs."""
    return int(2 ** np.clip(np.ceil(np.log2(2.0 * max(diameter, 1.0))), 6, 10))


def draw(shape: Shape, n: int, samples: int, rng: np.random.Generator) -> Drawn:
    """`n` units of one kind with their nuclei, outlines of `samples` directions."""
    diameter = shape.diameter * np.exp(shape.variation * rng.standard_normal(n, dtype=np.float32))
    excess = (shape.elongation - 1.0) * np.exp(shape.elongation_variation * rng.standard_normal(n, dtype=np.float32))
    cells, unit = KINDS[shape.kind](shape, diameter.astype(np.float32), (1.0 + excess).astype(np.float32), samples, rng)
    first = np.unique(cells.body, return_index=True)[1]
    area = np.bincount(cells.body, weights=_areas(cells), minlength=len(unit))
    size = (2.0 * np.sqrt(area / np.pi)).astype(np.float32)
    return Drawn(cells, _nuclei(shape.nucleus, cells.take(first), samples, rng), unit, size)


def blank(samples: int) -> Parts:
    """No parts."""
    none = np.zeros(0, dtype=np.float32)
    return _parts(np.zeros(0, np.int32), none, none, np.zeros((0, samples), np.float32))


def _parts(body: NDArray[np.int32], a: NDArray[Any], b: NDArray[Any], outline: Floats, profile: str = "dome") -> Parts:
    zero = np.zeros(len(body), dtype=np.float32)
    thick = np.tile(np.asarray(PROFILES[profile], dtype=np.float32), (len(body), 1))
    a, b = a.astype(np.float32), b.astype(np.float32)
    return Parts(body.astype(np.int32), zero, zero, zero, a, b, zero, zero, zero, zero, thick, outline)


def _areas(parts: Parts) -> Floats:
    """Area (P,) in px of each part; pinching aside."""
    side = parts.outline[:, [0, parts.outline.shape[1] // 2]].sum(axis=1)
    return np.asarray(parts.a * parts.b * outline_area(parts.outline) + 2.0 * parts.core * parts.b * side)


def _fitted(parts: Parts, diameter: Floats) -> Parts:
    """Parts of one cell each, enlarged to the area of a disk of `diameter` (P,)."""
    return parts.scaled((0.5 * diameter * np.sqrt(np.pi / np.maximum(_areas(parts), 1e-6))).astype(np.float32))


def wavy(n: int, samples: int, irregularity: float, roughness: float, rng: np.random.Generator) -> Floats:
    """(n, S) radii of about 1 with waves of 2 to a dozen periods; `irregularity` is their standard deviation."""
    if irregularity <= 0:
        return np.ones((n, samples), dtype=np.float32)
    theta = directions(samples)[0]
    waves = np.arange(2, 14, dtype=np.float32)
    weight = waves**-roughness
    weight *= irregularity / np.sqrt(0.5 * (2.0 * weight**2).sum())
    own = np.exp(0.4 * rng.standard_normal((n, 1), dtype=np.float32))
    coefficients = rng.standard_normal((n, 24), dtype=np.float32) * np.tile(weight, 2) * own
    basis = np.concatenate([np.cos(waves[:, None] * theta), np.sin(waves[:, None] * theta)]).astype(np.float32)
    return cast(Floats, np.maximum(1.0 + coefficients @ basis, np.float32(0.35)))


def _alone(n: int) -> NDArray[np.int32]:
    return np.arange(n, dtype=np.int32)


def _round(
    shape: Shape, diameter: Floats, elongation: Floats, samples: int, rng: np.random.Generator
) -> tuple[Parts, NDArray[np.int32]]:
    """Ellipses with wavy outlines, some egg-shaped, bent or with a waist."""
    n = len(diameter)
    root = np.sqrt(elongation)
    outline = wavy(n, samples, shape.irregularity, shape.roughness, rng)
    parts = _parts(_alone(n), root, 1.0 / root, outline, shape.profile)
    parts = replace(parts, taper=_spread(n, min(shape.irregularity * 1.5, 0.4), rng))
    parts = _waists(_bent(parts, shape, rng), shape, rng)
    return _fitted(parts, diameter), _alone(n)


def _spread(n: int, sigma: float, rng: np.random.Generator) -> Floats:
    return cast(Floats, np.clip(np.float32(sigma) * rng.standard_normal(n, dtype=np.float32), -0.7, 0.7))


def _bent(parts: Parts, shape: Shape, rng: np.random.Generator) -> Parts:
    if shape.bend <= 0:
        return parts
    half = parts.core + parts.a
    amount = np.clip(np.float32(shape.bend) * rng.standard_normal(len(parts), dtype=np.float32), -1.5, 1.5)
    return replace(parts, bend=(amount / half).astype(np.float32))


def _waists(parts: Parts, shape: Shape, rng: np.random.Generator) -> Parts:
    if shape.dividing <= 0:
        return parts
    n = len(parts)
    waist = np.where(rng.random(n) < shape.dividing, rng.uniform(0.1, 0.55, n), 0.0)
    return replace(parts, pinch=waist.astype(np.float32))


def _rod(
    shape: Shape, diameter: Floats, elongation: Floats, samples: int, rng: np.random.Generator
) -> tuple[Parts, NDArray[np.int32]]:
    """Rods with round or blunt poles; in chains, end to end."""
    counts = rng.integers(1, shape.chain + 1, len(diameter)) if shape.chain > 1 else np.ones(len(diameter), np.int64)
    unit = np.repeat(_alone(len(diameter)), counts)
    n = len(unit)
    diameter, elongation = diameter[unit], elongation[unit]
    if shape.chain > 1:
        diameter = diameter * np.exp(np.float32(0.1) * rng.standard_normal(n, dtype=np.float32))
    theta = directions(samples)[0]
    blunt = 2.0 + rng.uniform(0.0, 1.5) * min(shape.elongation - 1.0, 1.0)  # cocci stay round
    pole = (np.abs(np.cos(theta)) ** blunt + np.abs(np.sin(theta)) ** blunt) ** (-1.0 / blunt)
    outline = wavy(n, samples, shape.irregularity, shape.roughness, rng) * pole.astype(np.float32)
    parts = _parts(_alone(n), np.ones(n), np.ones(n), outline, shape.profile)
    parts = replace(parts, core=np.maximum(elongation - 1.0, 0.0).astype(np.float32))
    parts = _fitted(_waists(_bent(parts, shape, rng), shape, rng), diameter)
    if shape.chain > 1:
        parts = _in_rows(parts, unit, rng)
    return parts, unit


def _in_rows(parts: Parts, unit: NDArray[np.int32], rng: np.random.Generator) -> Parts:
    """Parts of each unit end to end along a path that turns a little at each joint; the unit's middle at 0."""
    half = (parts.core + parts.a).astype(np.float64)
    first = np.concatenate([[True], unit[1:] != unit[:-1]])
    turn = np.where(first, 0.0, rng.normal(0.0, 0.25, len(unit)))
    angle = np.cumsum(turn)
    starts = np.flatnonzero(first)
    group = np.cumsum(first) - 1
    angle -= angle[starts][group]
    step = half * 0.98
    dx, dy = step * np.cos(angle), step * np.sin(angle)
    x = np.cumsum(2.0 * dx) - dx
    y = np.cumsum(2.0 * dy) - dy
    counts = np.bincount(group)
    x -= (np.bincount(group, x) / counts)[group]
    y -= (np.bincount(group, y) / counts)[group]
    return replace(parts, x=x.astype(np.float32), y=y.astype(np.float32), angle=angle.astype(np.float32))


def _filament(
    shape: Shape, diameter: Floats, elongation: Floats, samples: int, rng: np.random.Generator
) -> tuple[Parts, NDArray[np.int32]]:
    """Threads of even width along a smoothly curving path of short straight pieces."""
    n = len(diameter)
    width = 0.5 * diameter * np.sqrt(np.pi / elongation)
    length = np.pi / 4 * diameter**2 / width
    counts = np.clip(np.ceil(length / np.maximum(0.8 * width, 2.0)), 2, 48).astype(np.int64)
    body = np.repeat(_alone(n), counts)
    first = np.concatenate([[True], body[1:] != body[:-1]])
    step = (length / counts)[body]
    curvature = rng.normal(0.0, 1.0, len(body))
    slow = np.cumsum(curvature)
    slow -= slow[np.flatnonzero(first)][body]
    steady = rng.normal(0.0, 1.0, n)[body]
    along = counts[body]
    turn = shape.bend * (1.3 * steady / along + 2.2 * slow / along**1.5 + 0.6 * curvature / np.sqrt(along))
    angle = np.cumsum(np.where(first, 0.0, turn))
    angle -= angle[np.flatnonzero(first)][body]
    dx, dy = step * np.cos(angle), step * np.sin(angle)
    x, y = np.cumsum(dx) - 0.5 * dx, np.cumsum(dy) - 0.5 * dy
    x -= (np.bincount(body, x) / counts)[body]
    y -= (np.bincount(body, y) / counts)[body]
    radius = 0.5 * width[body]
    parts = _parts(body, radius, radius, np.ones((len(body), samples), np.float32), shape.profile)
    core = 0.5 * step.astype(np.float32)
    return replace(parts, x=_f(x), y=_f(y), angle=_f(angle), core=core), _alone(n)


def _f(values: NDArray[Any]) -> Floats:
    return values.astype(np.float32)


def _budding(
    shape: Shape, diameter: Floats, elongation: Floats, samples: int, rng: np.random.Generator
) -> tuple[Parts, NDArray[np.int32]]:
    """Mothers with buds of any age: part of the mother while small, a cell of its own when large; clusters too."""
    n = len(diameter)
    counts = rng.integers(1, max(shape.chain, 1) + 1, n)
    unit = np.repeat(_alone(n), counts)
    first = np.concatenate([[True], unit[1:] != unit[:-1]])
    m = len(unit)
    ratio = np.where(first, 1.0, rng.uniform(0.8, 1.05, m)).astype(np.float32)
    big, _ = _round(shape, diameter[unit] * ratio, elongation[unit], samples, rng)
    # each further cell sits on a random place of the first one's side, mostly near a pole
    mother = np.flatnonzero(first)[unit]
    side = np.where(rng.random(m) < 0.5, 0.0, np.pi) + rng.normal(0.0, 0.7, m)
    reach = big.a[mother] * np.abs(np.cos(side)) + big.b[mother] * np.abs(np.sin(side)) + 0.94 * big.a
    big = replace(
        big,
        x=_f(np.where(first, 0.0, reach * np.cos(side))),
        y=_f(np.where(first, 0.0, reach * np.sin(side))),
        angle=_f(np.where(first, 0.0, side)),
    )
    budded = np.flatnonzero(rng.random(m) < shape.dividing)
    if not len(budded):
        return big, unit
    of = big.take(budded)
    size = rng.uniform(0.3, 0.65, len(budded))
    away = np.where(rng.random(len(budded)) < 0.6, 0.0, np.pi) + rng.normal(0.0, 0.5, len(budded))
    small = replace(of, a=_f(of.a * size), b=_f(of.b * size), taper=np.zeros_like(of.taper))
    far = of.a * np.abs(np.cos(away)) + of.b * np.abs(np.sin(away)) + 0.85 * small.a
    c, s = np.cos(of.angle + away), np.sin(of.angle + away)
    small = replace(small, x=_f(of.x + far * c), y=_f(of.y + far * s), angle=_f(of.angle + away))
    return Parts.join([big, small]), unit


def _star(
    shape: Shape, diameter: Floats, elongation: Floats, samples: int, rng: np.random.Generator
) -> tuple[Parts, NDArray[np.int32]]:
    """Cells spread on a surface: a body, a few tapering protrusions, broad ruffled fronts, hollow sides."""
    n = len(diameter)
    theta = directions(samples)[0]
    outline = np.float32(0.5) * wavy(n, samples, shape.irregularity, shape.roughness, rng)
    count = rng.integers(2, max(shape.arms, 2) + 1, n)
    base = rng.uniform(0.0, 2.0 * np.pi, n)
    for arm in range(max(shape.arms, 2)):
        at = base + 2.0 * np.pi * (arm + rng.normal(0.0, 0.22, n)) / count
        length = rng.uniform(0.25, 1.3, n) * (arm < count)
        sharp = np.exp(rng.uniform(np.log(2.0), np.log(40.0), n))
        lobe = np.exp(sharp[:, None] * (np.cos(theta - at[:, None]) - 1.0))
        outline += (length[:, None] * lobe).astype(np.float32)
    return _closed(outline, shape, diameter, elongation, rng)


def _closed(
    outline: Floats, shape: Shape, diameter: Floats, elongation: Floats, rng: np.random.Generator
) -> tuple[Parts, NDArray[np.int32]]:
    """Cells of one outline each, stretched, bent and brought to their diameter."""
    alone, root = _alone(len(diameter)), np.sqrt(elongation)
    parts = _parts(alone, root, 1.0 / root, outline, shape.profile)
    return _fitted(_bent(parts, shape, rng), diameter), alone


def _spindle(
    shape: Shape, diameter: Floats, elongation: Floats, samples: int, rng: np.random.Generator
) -> tuple[Parts, NDArray[np.int32]]:
    """Fibroblasts and muscle cells: two long pointed ends, sometimes a third."""
    n = len(diameter)
    theta = directions(samples)[0]
    outline = np.float32(0.62) * wavy(n, samples, shape.irregularity, shape.roughness, rng)
    third = rng.uniform(0.0, 2.0 * np.pi, n)
    for arm in range(3):
        at = (0.0, np.pi, third)[arm] + rng.normal(0.0, 0.12, n)
        length = rng.uniform(0.4, 0.9, n) if arm < 2 else rng.uniform(0.2, 0.7, n) * (rng.random(n) < 0.3)
        sharp = np.exp(rng.uniform(np.log(2.0), np.log(12.0), n))
        outline += (length[:, None] * np.exp(sharp[:, None] * (np.cos(theta - at[:, None]) - 1.0))).astype(np.float32)
    return _closed(outline, shape, diameter, elongation, rng)


def _neuron(
    shape: Shape, diameter: Floats, elongation: Floats, samples: int, rng: np.random.Generator
) -> tuple[Parts, NDArray[np.int32]]:
    """A soma with long thin curving neurites."""
    n = len(diameter)
    somas, _ = _star(replace(shape, arms=3, bend=0.0), 0.8 * diameter, np.minimum(elongation, 1.6), samples, rng)
    counts = rng.integers(1, max(shape.arms, 1) + 1, n)
    body = np.repeat(_alone(n), counts)
    m, pieces = len(body), 10
    thick = np.maximum(0.5 * rng.uniform(0.06, 0.13, m) * diameter[body], 0.9)
    length = 0.36 * np.pi / 4 * diameter[body] ** 2 / (2.0 * thick * counts[body]) * rng.uniform(0.6, 1.3, m)
    start = rng.uniform(0.0, 2.0 * np.pi, m)
    angle = start[:, None] + np.cumsum(rng.normal(0.0, 0.12 + 0.25 * shape.bend, (m, pieces)), axis=1)
    step = (length / pieces)[:, None]
    dx, dy = step * np.cos(angle), step * np.sin(angle)
    x, y = np.cumsum(dx, axis=1) - 0.5 * dx, np.cumsum(dy, axis=1) - 0.5 * dy
    root = 0.25 * diameter[body]
    x += (root * np.cos(start))[:, None]
    y += (root * np.sin(start))[:, None]
    radius = (thick[:, None] * np.linspace(1.3, 0.8, pieces)).ravel()
    threads = _parts(np.repeat(body, pieces), radius, radius, np.ones((m * pieces, samples), np.float32), "dome")
    threads = replace(
        threads,
        x=_f(x.ravel()),
        y=_f(y.ravel()),
        angle=_f(angle.ravel()),
        core=_f(np.repeat(0.5 * length / pieces, pieces)),
        profile=threads.profile * np.float32(0.4),
    )
    return Parts.join([somas, threads]), _alone(n)


def _lobed(
    shape: Shape, diameter: Floats, elongation: Floats, samples: int, rng: np.random.Generator
) -> tuple[Parts, NDArray[np.int32]]:
    """Nuclei of granulocytes and micronucleated cells: two to `arms` lobes on an arc."""
    n = len(diameter)
    parts = _lobes(np.full(n, max(shape.arms, 2)), diameter, samples, rng)
    return replace(
        parts, profile=np.tile(np.array(PROFILES[shape.profile], dtype=np.float32), (len(parts), 1))
    ), _alone(n)


def _lobes(most: NDArray[np.int64], diameter: Floats, samples: int, rng: np.random.Generator) -> Parts:
    """Lobes that touch, in a row that turns like a horseshoe; together about the area of a disk of `diameter`."""
    n = len(diameter)
    counts = rng.integers(np.minimum(most, 2), most + 1)
    body = np.repeat(_alone(n), counts)
    size = diameter[body] * np.sqrt(1.0 / counts[body]) * np.exp(rng.normal(0.0, 0.15, len(body)))
    outline = wavy(len(body), samples, 0.06, 1.5, rng)
    parts = _parts(body, np.full(len(body), 1.15), np.full(len(body), 0.87), outline)
    parts = _fitted(parts, _f(1.1 * size))
    first = np.concatenate([[True], body[1:] != body[:-1]])
    turn = np.where(first, 0.0, np.repeat(rng.uniform(-1.5, 1.5, n), counts) + rng.normal(0.0, 0.3, len(body)))
    angle = np.cumsum(turn)
    angle -= angle[np.flatnonzero(first)][body]
    step = 0.85 * parts.a
    dx, dy = step * np.cos(angle), step * np.sin(angle)
    x, y = np.cumsum(2 * dx) - dx, np.cumsum(2 * dy) - dy
    x -= (np.bincount(body, x) / counts)[body]
    y -= (np.bincount(body, y) / counts)[body]
    return replace(parts, x=_f(x), y=_f(y), angle=_f(angle))


def _nuclei(nucleus: Nucleus | None, cells: Parts, samples: int, rng: np.random.Generator) -> Parts:
    """Nuclei inside `cells`, of which each is the main part of its body."""
    n = len(cells)
    if nucleus is None or n == 0:
        return blank(samples)
    inner = np.quantile(cells.outline, 0.2, axis=1)
    width = np.minimum(cells.b * inner, cells.core + cells.a * inner)
    size = 2.0 * np.sqrt(_areas(cells) / np.pi) * nucleus.ratio * np.exp(nucleus.variation * rng.standard_normal(n))
    size = np.minimum(size, 2.2 * width)
    if nucleus.lobes > 1:
        parts = _lobes(np.full(n, nucleus.lobes), _f(size), samples, rng)
        parts = parts.moved(*(np.zeros(len(parts), np.float32),) * 2, _f(rng.uniform(0, 2 * np.pi, n))[parts.body])
    else:
        root = np.sqrt(1.0 + (nucleus.elongation - 1.0) * rng.uniform(0.3, 1.7, n))
        parts = _parts(_alone(n), root, 1.0 / root, wavy(n, samples, nucleus.irregularity, 1.5, rng))
        parts = _fitted(parts, _f(size))
        long = np.maximum(cells.b * inner, 1e-3) < 0.8 * (cells.core + cells.a * inner)
        parts = replace(parts, angle=_f(np.where(long, rng.normal(0.0, 0.2, n), rng.uniform(0, np.pi, n))))
    two = (rng.random(n) < nucleus.double) & (nucleus.lobes == 1)
    room = np.maximum(np.stack([cells.core + cells.a * inner, cells.b * inner]) - 0.5 * size, 0.0)
    away = np.sqrt(rng.random(n)) * nucleus.offset
    phi = rng.uniform(0.0, 2.0 * np.pi, n)
    x = np.where(two, 0.45 * size + 0.1 * room[0], room[0] * away * np.cos(phi))
    y = room[1] * away * np.sin(phi)
    there = rng.random(n) >= nucleus.missing
    own = parts.body
    shrink = np.where(two, 0.8, 1.0)[own]
    parts = parts.scaled(_f(shrink))
    pose = (cells.y[own], cells.x[own], cells.angle[own])
    one = replace(parts, x=_f(parts.x + x[own]), y=_f(parts.y + y[own])).moved(*pose)
    other = replace(parts, x=_f(parts.x - x[own]), y=_f(parts.y - y[own])).moved(*pose).take((two & there)[own])
    number = cells.body.astype(np.int32)
    both = Parts.join([one.take(there[own]), other])
    return replace(both, body=number[both.body])


Builder = Callable[[Shape, Floats, Floats, int, np.random.Generator], tuple[Parts, NDArray[np.int32]]]

KINDS: dict[str, Builder] = {
    "round": _round,
    "rod": _rod,
    "filament": _filament,
    "budding": _budding,
    "star": _star,
    "spindle": _spindle,
    "neuron": _neuron,
    "lobed": _lobed,
}
"""The kinds of cells that can be drawn."""
