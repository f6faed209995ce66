"""What lies in a field besides cells: debris, dead cells, bubbles, fibres, dust, scratches, marks. Never in labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import pi
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cellweave.simulate.geometry import Geometry
from cellweave.simulate.texture import Field, blur, chance, log_uniform, noise, specks

_DARK_FIELD = 0.3  # a background below this is that of fluorescence


@dataclass(frozen=True)
class Clutter:
    """Things that a model must leave out; the numbers are per cell-sized area of the field.

    `add` puts those in the sample that bend light (debris, dead cells, bubbles, threads); `paint` those that are
    only seen in the picture.

    Parameters
    ----------
    debris
        Specks and crumbs, up to a fifth of a cell, per cell-sized area.
    dead
        Round, shrivelled, thick dead cells, per cell-sized area.
    bubbles
        Gas bubbles in the field: smooth caps with a sharp border.
    threads
        Lint fibres in the field.
    blobs
        Large soft spots far out of focus, per field.
    dust
        Dark out-of-focus rings and spots on the optics, per field.
    scratches
        Straight thin lines in the field.
    mark
        Whether a scale bar and a caption are burnt in.
    strength
        Contrast of what `paint` adds, relative to the picture.
    """

    debris: float = 0.1
    dead: float = 0.02
    bubbles: int = 0
    threads: int = 0
    blobs: int = 0
    dust: int = 0
    scratches: int = 0
    mark: bool = False
    strength: float = 0.4

    @classmethod
    def random(cls, rng: np.random.Generator) -> Clutter:
        """A plausible amount of dirt: often hardly any."""
        return cls(
            debris=log_uniform(rng, 0.02, 1.5) if chance(rng, 0.6) else 0.0,
            dead=log_uniform(rng, 0.005, 0.06) if chance(rng, 0.35) else 0.0,
            bubbles=int(rng.integers(1, 3)) if chance(rng, 0.05) else 0,
            threads=int(rng.integers(1, 3)) if chance(rng, 0.06) else 0,
            blobs=int(rng.integers(1, 5)) if chance(rng, 0.2) else 0,
            dust=int(rng.integers(1, 6)) if chance(rng, 0.15) else 0,
            scratches=int(rng.integers(1, 4)) if chance(rng, 0.06) else 0,
            mark=chance(rng, 0.02),
            strength=log_uniform(rng, 0.1, 0.9),
        )

    def add(self, geometry: Geometry, rng: np.random.Generator) -> Geometry:
        """`geometry` with clutter in its height, only where no cell is; labels and nuclei are the same arrays."""
        size = geometry.diameter or 24.0
        shape, areas = geometry.shape, geometry.labels.size / (0.8 * size**2)
        extra = np.zeros(shape, dtype=np.float32)
        for radius in (0.02, 0.05) if self.debris > 0 else ():
            crumbs = specks(shape, rng.poisson(self.debris * areas / 2), max(radius * size, 0.5), rng)
            extra += np.float32(rng.uniform(0.3, 0.9)) * crumbs
        for _ in range(min(int(rng.poisson(self.dead * areas)), 200)):
            radius = rng.uniform(0.15, 0.32) * size
            _stamp(extra, _shrivelled(radius, rng), rng)
        for _ in range(self.bubbles):
            _stamp(extra, _cap(log_uniform(rng, 0.3, 2.0) * size) * np.float32(rng.uniform(0.5, 1.5)), rng)
        if self.threads:
            lines = _lines(shape, self.threads, max(0.06 * size, 1.0), rng, straight=False)
            extra += np.float32(rng.uniform(0.3, 1.0)) * blur(lines, 0.5)
        if not extra.any():
            return geometry
        extra[geometry.labels > 0] = 0.0
        return replace(geometry, height=(geometry.height + extra).astype(np.float32))

    def paint(self, light: Field, geometry: Geometry, rng: np.random.Generator) -> Field:
        """`light` (C, Y, X) with what is only seen in the picture: glowing on a dark field, shading on a bright one."""
        if not any((self.debris, self.dead, self.blobs, self.dust, self.scratches, self.threads, self.mark)):
            return light.copy()
        size = geometry.diameter or 24.0
        shape = geometry.shape
        background = light[:, ::3, ::3][:, geometry.labels[::3, ::3] == 0]
        if background.size == 0:
            background = light.reshape(len(light), -1)
        levels = np.median(background, axis=1) if background.size else np.zeros(len(light))
        out = light.copy()
        shade = np.float32(self.strength) * self._shade(shape, size, rng)
        for number, level in enumerate(levels):
            if level < _DARK_FIELD:
                out[number] += np.float32(self.strength * rng.uniform(0.3, 1.0)) * self._glow(geometry, size, rng)
            else:
                out[number] *= 1.0 - np.minimum(shade, 0.9)
        if self.mark:
            _burn(out, rng)
        return out

    def _glow(self, geometry: Geometry, size: float, rng: np.random.Generator) -> Field:
        """Light of debris, dead cells, lint and soft blobs in fluorescence, between the cells."""
        shape, areas = geometry.shape, geometry.labels.size / (0.8 * size**2)
        field = specks(shape, rng.poisson(0.3 * self.debris * areas), max(0.02 * size, 0.5), rng)
        for _ in range(min(int(rng.poisson(0.5 * self.dead * areas)), 100)):
            _stamp(field, _shrivelled(rng.uniform(0.1, 0.25) * size, rng), rng)
        if self.threads:
            field += _lines(shape, self.threads, max(0.06 * size, 1.0), rng, straight=False)
        field[geometry.labels > 0] = 0.0
        if self.blobs:
            field += specks(shape, self.blobs, log_uniform(rng, 0.4, 1.5) * size, rng)
        return field

    def _shade(self, shape: tuple[int, int], size: float, rng: np.random.Generator) -> Field:
        """Shadow (0 = none) of dust, soft blobs and scratches in a bright field."""
        field = np.zeros(shape, dtype=np.float32)
        if self.blobs:
            field += 0.5 * specks(shape, self.blobs, log_uniform(rng, 0.4, 1.5) * size, rng)
        for _ in range(self.dust):
            _stamp(field, _ring(log_uniform(rng, 3.0, 0.12 * max(*shape, 40))), rng)
        if self.scratches:
            field += _lines(shape, self.scratches, 1.0, rng, straight=True)
        return field


def _stamp(field: Field, stamp: Field, rng: np.random.Generator) -> None:
    """Add `stamp` to `field` at a random place, cut by the border."""
    height, width = stamp.shape
    top = int(rng.integers(-height // 2, field.shape[0]))
    left = int(rng.integers(-width // 2, field.shape[1]))
    view = field[max(top, 0) : top + height, max(left, 0) : left + width]
    view += stamp[max(-top, 0) :, max(-left, 0) :][: view.shape[0], : view.shape[1]]


def _radii(radius: float) -> tuple[Field, Field]:
    """Distance from the middle (1 = `radius`) and angle, on a square that just holds the disk."""
    half = int(np.ceil(radius)) + 1
    axis = np.arange(-half, half + 1, dtype=np.float32) / np.float32(max(radius, 0.5))
    return np.hypot(axis[:, None], axis), np.arctan2(axis[:, None], axis)


def _cap(radius: float) -> Field:
    """A spherical cap of height 1."""
    distance, _ = _radii(radius)
    return cast(Field, np.sqrt(np.maximum(1.0 - distance**2, 0.0)))


def _ring(radius: float) -> Field:
    """A soft dark ring around a grey disk: a grain of dust out of focus."""
    distance, _ = _radii(1.5 * radius)
    distance *= 1.5
    return cast(Field, 0.5 * np.exp(-(((distance - 1.0) / 0.2) ** 2)) + 0.3 * (distance < 1.0))


def _shrivelled(radius: float, rng: np.random.Generator) -> Field:
    """A dead cell: thick, round with blebs, granular."""
    distance, angle = _radii(1.4 * radius)
    distance *= 1.4
    border = np.ones_like(angle)
    for lobes in (2, 3, 5):
        border += np.float32(rng.normal(0.0, 0.08)) * np.sin(
            np.float32(lobes) * angle + np.float32(rng.uniform(0, 2 * pi))
        )
    dome = np.sqrt(np.maximum(1.0 - (distance / border) ** 2, 0.0)).astype(np.float32)
    grain = 1.0 + 0.3 * noise((dome.shape[0], dome.shape[1]), max(0.12 * radius, 0.5), rng)
    return cast(Field, np.float32(rng.uniform(1.0, 4.0)) * dome * np.maximum(grain, 0.2))


def _lines(shape: tuple[int, int], count: int, width: float, rng: np.random.Generator, *, straight: bool) -> Field:
    """`count` lines through the field: straight scratches or bent lint; 1 on a line."""
    image = Image.new("L", (shape[1], shape[0]))
    draw = ImageDraw.Draw(image)
    for _ in range(count):
        ends = rng.uniform(-0.1, 1.1, (2, 2)) * shape
        t = np.linspace(0.0, 1.0, 2 if straight else 24)[:, None]
        points = ends[0] * (1.0 - t) + ends[1] * t
        if not straight:
            across = np.array([ends[1, 1] - ends[0, 1], ends[0, 0] - ends[1, 0]])
            waves = rng.normal(0.0, 0.12, 3)
            points += across * sum(wave * np.sin((k + 1) * pi * t) for k, wave in enumerate(waves))
        track = [(float(column), float(row)) for row, column in points]
        draw.line(track, fill=int(rng.integers(120, 256)), width=max(1, round(width)), joint="curve")
    return np.asarray(image, dtype=np.float32) / np.float32(255.0)


def _burn(light: Field, rng: np.random.Generator) -> None:
    """A scale bar with a caption, white or black, in a lower corner of `light` (in place)."""
    rows, columns = light.shape[1:]
    image = Image.new("1", (columns, rows))
    draw = ImageDraw.Draw(image)
    length = max(2, int(rng.uniform(0.1, 0.25) * columns))
    left = int(0.05 * columns) if chance(rng, 0.5) else columns - length - int(0.05 * columns)
    top = rows - max(3, int(0.06 * rows))
    draw.rectangle([left, top, left + length, top + max(1, rows // 100)], fill=1)
    draw.text((left, top - 12), f"{rng.choice([5, 10, 20, 50, 100])} um", fill=1)
    marked: NDArray[np.bool_] = np.asarray(image, dtype=bool)
    light[:, marked] = 1.0 if light.mean() < 0.5 or chance(rng, 0.3) else 0.0
