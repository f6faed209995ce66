"""Smooth random fields and the distance maps of a geometry: what the simulated microscopes paint with.

Fields are (Y, X) float32. Everything large is made on a coarse grid and enlarged, which is what keeps a sample
within its 30 ms.
"""

from __future__ import annotations

from functools import cached_property
from math import ceil, cos, pi, sin
from typing import Any, cast

import edt
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from cellweave.simulate.geometry import Geometry

Field = NDArray[np.float32]
Shape = tuple[int, int]

_BOX = Image.Resampling.BOX
_BILINEAR = Image.Resampling.BILINEAR
_BICUBIC = Image.Resampling.BICUBIC


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between `low` and `high` (> 0), every factor as likely as another."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def chance(rng: np.random.Generator, probability: float) -> bool:
    """True with the given probability."""
    return bool(rng.random() < probability)


def resize(field: Field, shape: Shape) -> Field:
    """`field` (Y, X) enlarged or reduced to `shape`; reduction averages (no aliasing)."""
    if field.shape == shape:
        return field.copy()
    image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
    smaller = shape[0] < field.shape[0]
    return np.array(image.resize((shape[1], shape[0]), _BOX if smaller else _BICUBIC), dtype=np.float32)


def blur(field: NDArray[Any], sigma: float) -> Field:
    """Gaussian blur of `field` (Y, X) with mirrored borders, `sigma` in px; the sum is kept.

    From sigma 3 on it is done on a grid reduced by ``sigma / 1.5``; the widths of the box and of the linear
    interpolation are taken off sigma.
    """
    field = np.asarray(field, dtype=np.float32)
    if sigma < 0.2 or field.size == 0:
        return field.copy()
    if sigma < 3.0:
        return cast(Field, ndimage.gaussian_filter(field, sigma, mode="reflect", truncate=3.0))
    steps = [min(int(sigma / 1.5), size) for size in field.shape]
    small = np.asarray(Image.fromarray(np.ascontiguousarray(field)).reduce((steps[1], steps[0])))
    sigmas = [float(np.sqrt(sigma**2 - 0.25 * step**2)) / step for step in steps]
    small = ndimage.gaussian_filter(small, sigmas, mode="reflect", truncate=3.0)
    size = (small.shape[1] * steps[1], small.shape[0] * steps[0])
    wide = np.array(Image.fromarray(small).resize(size, _BILINEAR))[: field.shape[0], : field.shape[1]]
    wide += field.mean() - wide.mean()
    return cast(Field, np.ascontiguousarray(wide))


def noise(shape: Shape, length: float, rng: np.random.Generator) -> Field:
    """Gaussian random field of mean 0 and variance about 1; `length` (px) is the sigma of its smoothing."""
    step = max(1.0, length / 0.8)
    grid_shape = (ceil(shape[0] / step) + 4, ceil(shape[1] / step) + 4)
    grid = rng.random(grid_shape, dtype=np.float32)  # smoothing makes it Gaussian; three times as fast
    if length >= 0.3:
        grid = ndimage.gaussian_filter(grid, length / step, mode="wrap", truncate=3.0)
    grid -= grid.mean()
    grid /= grid.std() + 1e-6
    left, top = rng.uniform(1.0, 2.0, 2)
    if step == 1.0:
        return grid[1 : 1 + shape[0], 1 : 1 + shape[1]].copy()
    box = (left, top, left + shape[1] / step, top + shape[0] / step)
    return np.array(Image.fromarray(grid).resize((shape[1], shape[0]), _BICUBIC, box=box), dtype=np.float32)


def fractal(shape: Shape, length: float, rng: np.random.Generator, *, octaves: int = 3, gain: float = 0.6) -> Field:
    """Noise of several lengths: `length`, a half, a quarter .. (none under half a pixel); variance about 1."""
    total = np.zeros(shape, dtype=np.float32)
    weight, power = 1.0, 0.0
    for octave in range(octaves):
        finer = length / 2**octave
        if octave and finer < 0.5:
            break
        total += np.float32(weight) * noise(shape, finer, rng)
        power += weight**2
        weight *= gain
    return cast(Field, total / np.float32(np.sqrt(power)))


def fibres(shape: Shape, width: float, rng: np.random.Generator, *, stretch: float = 8.0, waves: float = 1.0) -> Field:
    """Lines of `width` px along one random direction, 0 between them and 1 on them.

    The ridges (zero crossings) of noise that is `stretch` times longer than wide, bent by a smooth
    displacement of `waves` times a few widths.
    """
    angle = rng.uniform(0.0, pi)
    diagonal = ceil(float(np.hypot(*shape))) + 8
    source = noise((diagonal, ceil(diagonal / stretch) + 8), width, rng)
    c, s = cos(angle), sin(angle)
    # output (x, y) -> source (along / stretch, across), both centred
    half_x, half_y = shape[1] / 2, shape[0] / 2
    middle_x, middle_y = source.shape[1] / 2, source.shape[0] / 2
    matrix = (
        *(c / stretch, s / stretch, middle_x - (c * half_x + s * half_y) / stretch),
        *(-s, c, middle_y - (-s * half_x + c * half_y)),
    )
    image = Image.fromarray(source).transform((shape[1], shape[0]), Image.Transform.AFFINE, matrix, _BILINEAR)
    lines = np.array(image, dtype=np.float32)
    if waves > 0:
        shift = np.rint(noise(shape, 8.0 * width, rng) * np.float32(2.0 * waves * width)).astype(np.intp)
        rows = np.clip(np.arange(shape[0])[:, None] + (shift * c).astype(np.intp), 0, shape[0] - 1)
        columns = np.clip(np.arange(shape[1]) - (shift * s).astype(np.intp), 0, shape[1] - 1)
        lines = lines[rows, columns]
    return cast(Field, np.exp(-((lines / 0.35) ** 2)))


def network(shape: Shape, length: float, rng: np.random.Generator) -> Field:
    """Meshes of about `length` px with thin threads (mitochondria, reticulum): 0 in the meshes, 1 on the threads."""
    first, second = noise(shape, length, rng), noise(shape, 0.5 * length, rng)
    return cast(Field, np.exp(-(((first + np.float32(0.5) * second) / np.float32(0.3)) ** 2)))


def specks(shape: Shape, count: float, sigma: float, rng: np.random.Generator) -> Field:
    """`count` round spots of `sigma` px at random places, heights between 0.3 and 1, overlapping ones add."""
    field = np.zeros(shape, dtype=np.float32)
    number = int(min(count, 0.2 * field.size))
    if number < 1:
        return field
    np.add.at(field.reshape(-1), rng.integers(0, field.size, number), rng.uniform(0.3, 1.0, number).astype(np.float32))
    sigma = max(sigma, 0.4)
    field = np.maximum(blur(field, sigma), 0.0)
    return cast(Field, field * np.float32(2.0 * pi * max(sigma, 0.5) ** 2))


def per_cell(n: int, spread: float, rng: np.random.Generator) -> Field:
    """(n + 1,) positive random values of median 1 by cell id, log-normal with sigma `spread`; 0 for id 0.

    ``per_cell(n, spread, rng)[labels]`` paints every cell with its own value.
    """
    values = np.exp(np.float32(spread) * rng.standard_normal(n + 1, dtype=np.float32))
    values[0] = 0.0
    return cast(Field, values)


def selected(n: int, probability: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(n + 1,) a random choice of cells by id; False for id 0."""
    chosen = rng.random(n + 1) < probability
    chosen[0] = False
    return chosen


def smoothstep(field: Field, low: float, high: float) -> Field:
    """0 under `low`, 1 over `high`, a smooth ramp between (Hermite)."""
    t = np.clip((field - np.float32(low)) / np.float32(high - low), 0.0, 1.0)
    return cast(Field, t * t * (3.0 - 2.0 * t))


def depth(labels: NDArray[np.int32]) -> Field:
    """Distance (px) of each cell pixel to the nearest pixel that is not of its cell; 0 in the background."""
    if labels.size == 0 or not labels.any():
        return np.zeros(labels.shape, dtype=np.float32)
    return np.asarray(edt.edt(np.ascontiguousarray(labels), black_border=False, parallel=1), dtype=np.float32)


class Anatomy:
    """The maps of one geometry that several renderings share, each made when first asked for.

    Where the geometry has no nuclei (bacteria, or a nucleus-only field without them), `nuclei` are the cells.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.labels = geometry.labels
        self.height = geometry.height
        self.shape: Shape = geometry.shape
        self.n = geometry.n
        self.size = geometry.diameter or 24.0
        self.has_nuclei = bool(geometry.nuclei.any())
        self.nuclei = geometry.nuclei if self.has_nuclei else geometry.labels
        self.nuclei_are_cells = self.nuclei is geometry.labels or bool((self.nuclei == geometry.labels).all())

    @cached_property
    def inside(self) -> NDArray[np.bool_]:
        """Where a cell is."""
        return self.labels > 0

    @cached_property
    def body(self) -> Field:
        """1 in cells, 0 outside."""
        return self.inside.astype(np.float32)

    @cached_property
    def nucleus(self) -> Field:
        """1 in nuclei, 0 outside; all 0 where the geometry has none."""
        return (self.nuclei > 0).astype(np.float32) if self.has_nuclei else np.zeros(self.shape, dtype=np.float32)

    @cached_property
    def depth(self) -> Field:
        """Distance (px) to the border of the cell, shared borders included."""
        return depth(self.labels)

    @cached_property
    def nuclear_depth(self) -> Field:
        """Distance (px) to the border of the nucleus."""
        return self.depth if self.nuclei_are_cells else depth(self.nuclei)

    @cached_property
    def nuclear_size(self) -> float:
        """Typical diameter of a nucleus in px."""
        if not self.n:
            return self.size
        counts = np.bincount(self.nuclei.ravel(), minlength=self.n + 1)[1:]
        counts = counts[counts > 0]
        return float(2.0 * np.sqrt(np.median(counts) / pi)) if len(counts) else self.size

    @cached_property
    def perinuclear(self) -> Field:
        """About 1 at the nuclei, falling to 0 over a quarter of a cell."""
        around = blur(self.nucleus, 0.22 * self.size)
        return cast(Field, around / max(float(around.max(initial=0.0)), 1e-3))
