"""Where cells lie: random, in colonies and islands, along a gradient, around ducts; touching, pressed, overlapping."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cellweave.core.errors import InputError
from cellweave.simulate.geometry import Floats, Parts
from cellweave.simulate.shapes import Drawn
from cellweave.simulate.texture import noise

PATTERNS = ("random", "clusters", "patches", "gradient", "rings")
_DISCS = 5  # most discs that stand for one part


@dataclass(frozen=True)
class Layout:
    """Arrangement of the cells of a field.

    Parameters
    ----------
    density
        Area of all cells over the area of the field: 0.02 sparse, 0.5 crowded, 1 full.
    pattern
        One of `PATTERNS`.
    packing
        Density inside clusters, patches and rings.
    groups
        Number of clusters or rings.
    alignment
        0 for random directions, 1 for neighbours that lie parallel.
    overlap
        How far cells may sink into each other, as a part of their radii; negative keeps them apart.
    relax
        Steps of pushing apart what overlaps more; 0 leaves cells where they fell.
    press
        1 where touching cells flatten against each other, 0 where one lies on the other.
    gap
        Width left free between touching cells, as a part of the diameter.
    sheet
        Cells grow until they meet: tissue and confluent cultures.
    wobble
        Strength of the uneven displacement of all outlines, as a part of the diameter.
    """

    density: float = 0.3
    pattern: str = "random"
    packing: float = 0.8
    groups: int = 3
    alignment: float = 0.0
    overlap: float = 0.05
    relax: int = 8
    press: float = 0.5
    gap: float = 0.0
    sheet: bool = False
    wobble: float = 0.0

    def __post_init__(self) -> None:
        if self.pattern not in PATTERNS:
            raise InputError(f"pattern: there is no '{self.pattern}'; choose one of {', '.join(PATTERNS)}")
        if self.density < 0 or not 0 < self.packing <= 2:
            raise InputError(f"density {self.density}, packing {self.packing}: give parts of the area, such as 0.3")


@dataclass(frozen=True, eq=False)
class Poses:
    """Position in px and direction in radians of U units, each (U,) float32."""

    y: Floats
    x: Floats
    angle: Floats


def place(drawn: Drawn, layout: Layout, size: tuple[int, int], margin: float, rng: np.random.Generator) -> Poses:
    """Put all units into a field of `size` px that goes on for `margin` px on every side.

    At least one unit has its middle in the field.
    """
    n = drawn.n_units
    low = -np.float64(margin)
    height, width = size[0] + 2 * margin, size[1] + 2 * margin
    area = float((np.pi / 4 * drawn.diameter.astype(np.float64) ** 2).sum())
    points, radial = _scatter(layout, n, height, width, area, rng)
    y, x = points[:, 0] + low, points[:, 1] + low
    angle = rng.uniform(0.0, 2.0 * np.pi, n)
    if radial is not None:
        angle = radial + rng.normal(0.0, 1.0 - 0.8 * layout.alignment, n)
    elif layout.alignment > 0:
        angle = _aligned(y, x, angle, layout.alignment, size, rng)
    poses = Poses(y.astype(np.float32), x.astype(np.float32), angle.astype(np.float32))
    if layout.relax > 0 and n > 1:
        poses = relax(poses, discs_of(drawn), overlap=layout.overlap, steps=layout.relax)
    inside = (poses.y >= 0) & (poses.y < size[0]) & (poses.x >= 0) & (poses.x < size[1])
    if n and not inside.any():
        nearest = int(np.argmin((poses.y - size[0] / 2) ** 2 + (poses.x - size[1] / 2) ** 2))
        poses.y[nearest], poses.x[nearest] = rng.uniform(0.2, 0.8, 2) * np.asarray(size)
    return poses


def _scatter(
    layout: Layout, n: int, height: float, width: float, area: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Points (n, 2) in ``[0, height) x [0, width)``, and the direction of each where the pattern sets it."""
    extent = np.array([height, width])
    if layout.pattern == "random" or n == 0:
        return _even(n, height, width, rng) if layout.sheet else rng.random((n, 2)) * extent, None
    if layout.pattern in ("patches", "gradient"):
        return _thinned(layout, n, height, width, area, rng), None
    groups = max(min(layout.groups, n), 1)
    group = np.searchsorted(np.cumsum(rng.dirichlet(np.full(groups, 2.0))), rng.random(n)).clip(0, groups - 1)
    centres = (0.12 + 0.76 * rng.random((groups, 2))) * extent
    share = np.bincount(group, minlength=groups)
    inner = np.sqrt(area / n * share / (np.pi * layout.packing))[group]
    order = np.argsort(group, kind="stable")
    number = np.empty(n)
    number[order] = np.arange(n) - np.repeat(np.cumsum(share) - share, share)
    if layout.pattern == "rings":
        phi = rng.uniform(0.0, 2.0 * np.pi, n)
        radius = np.sqrt(area / n) * share / (2.0 * np.pi * layout.packing)
        shape = 1.0 + 0.25 * rng.normal(0.0, 1.0, groups)[group] * np.cos(
            2.0 * (phi - rng.uniform(0, 3, groups)[group])
        )
        r = np.maximum(radius[group] * shape + 0.15 * np.sqrt(area / n) * rng.normal(0.0, 1.0, n), 0.0)
        direction = phi
    else:
        phi = number * (np.pi * (3.0 - np.sqrt(5.0))) + rng.normal(0.0, 0.3, n)  # Vogel's sunflower
        squash = np.exp(rng.normal(0.0, 0.25, groups))[group]
        lumps = 1.0 + 0.2 * np.cos(rng.integers(2, 5, groups)[group] * phi + rng.uniform(0, 6, groups)[group])
        r = inner * np.sqrt((number + rng.random(n)) / np.maximum(share[group], 1)) * lumps
        tilt = rng.uniform(0.0, np.pi, groups)[group]
        offset = np.stack([r * np.sin(phi) * squash, r * np.cos(phi) / squash], axis=1)
        c, s = np.cos(tilt), np.sin(tilt)
        turned = np.stack([c * offset[:, 0] - s * offset[:, 1], s * offset[:, 0] + c * offset[:, 1]], axis=1)
        return centres[group] + turned, None
    return centres[group] + np.stack([r * np.sin(phi), r * np.cos(phi)], axis=1), direction


def _even(n: int, height: float, width: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Points of a jittered grid: more even than chance, which leaves less to push apart."""
    rows = max(round(np.sqrt(n * height / max(width, 1e-6))), 1)
    columns = int(np.ceil(n / rows))
    cell = np.stack(np.divmod(np.arange(rows * columns), columns), axis=1) + rng.uniform(-0.1, 1.1, (rows * columns, 2))
    points = cell * np.array([height / rows, width / columns])
    return rng.permutation(points)[:n]


def _thinned(
    layout: Layout, n: int, height: float, width: float, area: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Points more frequent in patches, or towards one side."""
    extent = np.array([height, width])
    if layout.pattern == "gradient":
        tries = rng.random((8 * n + 16, 2))
        direction = rng.normal(0.0, 1.0, 2)
        ramp = tries @ (direction / np.abs(direction).sum())
        ramp = (ramp - ramp.min()) / max(float(np.ptp(ramp)), 1e-6)
        good = rng.random(len(tries)) < ramp ** rng.uniform(1.0, 4.0)
    else:
        grid = noise((48, 48), float(rng.uniform(4.0, 12.0)), rng)
        covered = min(max(area / (layout.packing * height * width), 0.02), 1.0)
        tries = np.clip(_even(int(np.ceil(n / covered)) + 1, height, width, rng) / extent, 0.0, 0.999)
        good = (grid > np.quantile(grid, 1.0 - covered))[tuple((tries * 48).astype(np.intp).T)]
    order = np.argsort(~good, kind="stable")[:n]
    points = np.asarray(tries[order])
    if layout.pattern == "patches":  # one of them into the inner part of the field
        points = (points + rng.uniform(0.25, 0.75, 2) - points[0]) % 1.0
    return np.asarray(points * extent)


def _aligned(
    y: NDArray[np.float64],
    x: NDArray[np.float64],
    angle: NDArray[np.float64],
    alignment: float,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Directions drawn towards a smooth random field, 0 to pi, as of rods and fibroblasts."""
    field = noise((32, 32), float(rng.uniform(5.0, 16.0)), rng)
    row = np.clip((y / size[0] * 20 + 6).astype(np.intp), 0, 31)
    column = np.clip((x / size[1] * 20 + 6).astype(np.intp), 0, 31)
    common = rng.uniform(0.0, np.pi) + 0.9 * field[row, column]
    return common + (1.0 - alignment) * (angle - np.pi) + rng.normal(0.0, 0.08, len(y))


@dataclass(frozen=True, eq=False)
class Discs:
    """Discs that stand for the units when they push each other: unit (D,), place in its frame, radius in px."""

    unit: NDArray[np.int32]
    y: Floats
    x: Floats
    radius: Floats


def discs_of(drawn: Drawn) -> Discs:
    """One disc for a round part, up to five in a row for a long one."""
    parts: Parts = drawn.cells
    radius = np.sqrt(np.mean(parts.outline**2, axis=1))
    along, across = parts.core + parts.a * radius, parts.b * radius
    counts = np.clip(np.rint(1.4 * along / np.maximum(across, 1e-3) - 0.4), 1, _DISCS).astype(np.int64)
    row = np.repeat(np.arange(len(parts)), counts)
    k = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    size = np.where(counts > 1, across, np.sqrt(along * across))[row].astype(np.float32)
    room = np.maximum(along[row] - size, 0.0)
    u = np.where(counts[row] > 1, room * (2.0 * k / np.maximum(counts[row] - 1, 1) - 1.0), 0.0)
    v = 0.5 * parts.bend[row] * u * u
    c, s = np.cos(parts.angle[row]), np.sin(parts.angle[row])
    return Discs(
        drawn.unit[parts.body[row]],
        (parts.y[row] + s * u + c * v).astype(np.float32),
        (parts.x[row] + c * u - s * v).astype(np.float32),
        size,
    )


def relax(poses: Poses, discs: Discs, *, overlap: float, steps: int) -> Poses:
    """Push apart and turn units whose discs sink into each other by more than `overlap` of their radii."""
    n = len(poses.y)
    y, x, angle = (values.astype(np.float64) for values in (poses.y, poses.x, poses.angle))
    unit = discs.unit
    radius = discs.radius * max(1.0 - overlap, 0.1)
    inertia = np.bincount(unit, discs.y**2 + discs.x**2 + 0.5 * discs.radius**2, n) / np.bincount(unit, minlength=n)
    furthest = 2.0 * float(np.max(radius))
    for _ in range(steps):
        c, s = np.cos(angle)[unit], np.sin(angle)[unit]
        ay, ax = s * discs.x + c * discs.y, c * discs.x - s * discs.y
        at = np.stack([y[unit] + ay, x[unit] + ax], axis=1)
        pairs = cKDTree(at).query_pairs(furthest, output_type="ndarray")
        i, j = pairs[:, 0], pairs[:, 1]
        apart = at[i] - at[j]
        distance = np.sqrt((apart**2).sum(axis=1)) + 1e-6
        push = radius[i] + radius[j] - distance
        use = (push > 0) & (unit[i] != unit[j])
        if not use.any():
            break
        i, j = i[use], j[use]
        force = apart[use] * (0.5 * push[use] / distance[use])[:, None]
        a, b = unit[i], unit[j]
        both = np.concatenate([a, b])
        fy, fx = np.concatenate([force[:, 0], -force[:, 0]]), np.concatenate([force[:, 1], -force[:, 1]])
        arm_y, arm_x = np.concatenate([ay[i], ay[j]]), np.concatenate([ax[i], ax[j]])
        touching = np.maximum(0.6 * np.bincount(both, minlength=n), 1.0)
        y += np.bincount(both, fy, n) / touching
        x += np.bincount(both, fx, n) / touching
        torque = np.bincount(both, arm_x * fy - arm_y * fx, n) / touching
        angle += np.clip(torque / np.maximum(inertia, 1e-3), -0.3, 0.3)
    return Poses(y.astype(np.float32), x.astype(np.float32), angle.astype(np.float32))
