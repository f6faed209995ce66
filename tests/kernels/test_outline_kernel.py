"""The pixels inside simulated outlines equal those of a slow twin."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cellweave import _kernels

Floats = NDArray[np.float32]


def slow(parts: Floats, outlines: Floats, warp: Floats, shape: tuple[int, int]) -> list[dict[int, float]]:
    """Of each part the pixels whose normalised radius is under 1, in doubles, over the whole field."""
    samples = outlines.shape[1]
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    if warp.size:
        rows, columns = rows + warp[0], columns + warp[1]
    found = []
    for values, outline in zip(parts.astype(np.float64), outlines.astype(np.float64), strict=True):
        y, x, c, s, a, b, core, bend, taper, pinch, _ = values
        u, v = c * (columns - x) + s * (rows - y), c * (rows - y) - s * (columns - x)
        v = (v - bend / 2 * u**2) / np.sqrt(1 + (bend * u) ** 2)
        v = v / (1 - pinch * np.exp(-((u / (0.7 * b)) ** 2)))
        v = v / np.maximum(1 + taper * u / (core + a), 0.1)
        p, q = np.sign(u) * np.maximum(np.abs(u) - core, 0) / a, v / b
        t = q / (np.abs(p) + np.abs(q) + 1e-6)
        turn = np.where((p > 0) | ((p == 0) & ~np.signbit(u)), 1 + t, 3 - t)
        radius = np.interp(turn, (np.arange(samples) + 0.5) * 4 / samples, outline, period=4)
        rho = np.hypot(p, q) / radius
        found.append({int(k): float(rho.flat[k]) for k in np.flatnonzero(rho < 1.0)})
    return found


def random_parts(rng: np.random.Generator, n: int, shape: tuple[int, int]) -> tuple[Floats, Floats]:
    angle = rng.uniform(0, 7, n)
    outlines = rng.uniform(0.7, 1.2, (n, 64)).astype(np.float32)
    some = rng.random((4, n)) < 0.6
    parts = [
        rng.uniform(-3, shape[0] + 3, n),
        rng.uniform(-3, shape[1] + 3, n),
        np.cos(angle),
        np.sin(angle),
        rng.uniform(2, 9, n),
        rng.uniform(2, 9, n),
        rng.uniform(0, 8, n) * some[0],
        rng.normal(0, 0.05, n) * some[1],
        rng.uniform(-0.6, 0.6, n) * some[2],
        rng.uniform(0, 0.7, n) * some[3],
        outlines.max(axis=1),
    ]
    return np.stack(parts, axis=1).astype(np.float32), outlines


@pytest.mark.parametrize("seed", range(6))
def test_pixels_of_parts_equal_the_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(5, 50)), int(rng.integers(5, 50)))
    parts, outlines = random_parts(rng, 12, shape)
    warp = np.zeros((2, 0, 0), np.float32) if seed % 2 else rng.normal(0, 1, (2, *shape)).astype(np.float32)
    boxes = np.tile(np.array([0, shape[0], 0, shape[1]], np.int32), (12, 1))
    room = 12 * shape[0] * shape[1]
    pixel, owner, radius = np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.float32)
    n = _kernels.outline_pixels(parts, outlines, boxes, warp, shape[1], pixel, owner, radius)
    assert np.all(np.diff(owner[:n]) >= 0)
    for k, wanted in enumerate(slow(parts, outlines, warp, shape)):
        mine = dict(zip(pixel[:n][owner[:n] == k].tolist(), radius[:n][owner[:n] == k].tolist(), strict=True))
        for differs in set(mine) ^ set(wanted):
            assert mine.get(differs, wanted.get(differs)) == pytest.approx(1.0, abs=1e-3)
        for both in set(mine) & set(wanted):
            assert mine[both] == pytest.approx(wanted[both], abs=2e-3)


def test_boxes_bound_the_search() -> None:
    parts, outlines = random_parts(np.random.default_rng(0), 3, (30, 30))
    boxes = np.array([[0, 0, 0, 0], [5, 6, 7, 9], [3, 2, 0, 9]], np.int32)
    out = np.empty(2, np.int32), np.empty(2, np.int32), np.empty(2, np.float32)
    n = _kernels.outline_pixels(parts, outlines, boxes, np.zeros((2, 0, 0), np.float32), 30, *out)
    assert set(out[0][:n].tolist()) <= {5 * 30 + 7, 5 * 30 + 8}


def test_arrays_that_do_not_fit_are_refused() -> None:
    parts, outlines = random_parts(np.random.default_rng(0), 3, (30, 30))
    boxes = np.tile(np.array([0, 30, 0, 30], np.int32), (3, 1))
    none = np.zeros((2, 0, 0), np.float32)
    short = np.empty(1, np.int32), np.empty(1, np.int32), np.empty(1, np.float32)
    with pytest.raises(ValueError, match="too short"):
        _kernels.outline_pixels(parts, outlines, boxes, none, 30, *short)
    with pytest.raises(ValueError, match="differ in shape"):
        _kernels.outline_pixels(parts, outlines, boxes[:2], none, 30, *short)
    room = np.empty(2700, np.int32), np.empty(2700, np.int32), np.empty(2700, np.float32)
    with pytest.raises(ValueError, match="outside the warp"):
        _kernels.outline_pixels(parts, outlines, boxes, np.zeros((2, 2, 2), np.float32), 30, *room)
