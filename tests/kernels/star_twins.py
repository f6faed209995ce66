"""Slow twins of the star-convex kernels, written from their descriptions: whole numbers, fractions, scikit-image."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon

Labels = NDArray[np.int32]
Point = tuple[int, int] | tuple[Fraction, Fraction]  # (y, x)


def round_half_away(value: int | Fraction) -> int:
    return int(np.sign(value)) * int((abs(value) + Fraction(1, 2)) // 1)


def star_distances(labels: Labels, n_rays: int) -> NDArray[np.float32]:
    """Steps of 1 px until another object's pixel, or none, is nearest; the end is half a pixel before its middle.

    Half way between two pixels the farther one is nearest, with a slack of 1e-4 px for the sum of the steps.
    """
    distances = np.zeros((n_rays, *labels.shape), np.float32)
    for k in range(n_rays):
        angle = np.float64(np.float32(2 * np.pi / n_rays) * np.float32(k))
        direction = np.array([np.sin(angle), np.cos(angle)], np.float32)
        back = np.float32(0.5) / np.abs(direction).max() - np.float32(1)
        for start in np.argwhere(labels):
            at = np.zeros(2, np.float32)
            while True:
                at = at + direction
                y, x = start + [int(np.sign(v)) * int(abs(float(v)) + 0.5001) for v in at]
                if not (0 <= y < labels.shape[0] and 0 <= x < labels.shape[1] and labels[y, x] == labels[*start]):
                    break
            end = at + back * direction
            distances[k, *start] = np.sqrt(end[0] * end[0] + end[1] * end[1])
    return distances


def corners(point: NDArray[np.int32], distances: NDArray[np.float32]) -> list[Point]:
    """Corners of a polygon, rounded towards zero."""
    n = len(distances)
    angles = (np.float32(2 * np.pi / n) * np.arange(n, dtype=np.float32)).astype(np.float64)
    y = np.float32(point[0]) + distances * np.sin(angles).astype(np.float32)
    x = np.float32(point[1]) + distances * np.cos(angles).astype(np.float32)
    return [(int(v), int(u)) for v, u in zip(y, x, strict=True)]


def cross(p: Point, q: Point) -> int | Fraction:
    return p[1] * q[0] - p[0] * q[1]


def minus(p: Point, q: Point) -> Point:
    return p[0] - q[0], p[1] - q[1]


def area(shape: list[Point]) -> Fraction:
    return Fraction(sum(cross(p, q) for p, q in zip(shape, shape[1:] + shape[:1], strict=True))) / 2


def on_left(corner: Point, start: Point, end: Point, nudge: int) -> bool:
    """Side of an edge; a corner that lies on its line is moved by nudge * (tiny, far tinier), rows first."""
    dy, dx = minus(end, start)
    side = cross((dy, dx), minus(corner, start))
    return side > 0 or (side == 0 and (nudge * dx > 0 or (dx == 0 and nudge * dy < 0)))


def shared_area(a: list[Point], b: list[Point], *, rounded: bool = True) -> Fraction:
    """Integral of the product of winding numbers, by Green's theorem along both outlines; b is moved by a tiny nudge.

    Each piece of an outline counts with the winding number of the other polygon there. Crossings are rounded to whole
    numbers.
    """
    edges_a, edges_b = list(zip(a, a[1:] + a[:1], strict=True)), list(zip(b, b[1:] + b[:1], strict=True))
    found = []
    for i, (a0, a1) in enumerate(edges_a):
        for k, (b0, b1) in enumerate(edges_b):
            from_a, to_a = on_left(a0, b0, b1, -1), on_left(a1, b0, b1, -1)
            from_b, to_b = on_left(b0, a0, a1, 1), on_left(b1, a0, a1, 1)
            if from_a == to_a or from_b == to_b:
                continue
            da, db, gap = minus(a1, a0), minus(b1, b0), minus(b0, a0)
            along_a = Fraction(cross(gap, db), cross(da, db))
            along_b = Fraction(cross(gap, da), cross(da, db))
            at: Point = (a0[0] + along_a * da[0], a0[1] + along_a * da[1])
            if rounded:
                at = (round_half_away(at[0]), round_half_away(at[1]))
            found.append(((i, along_a, to_a - from_a), (k, along_b, to_b - from_b), at))
    total = Fraction(0)
    for side, edges, others, nudge in ((0, edges_a, edges_b, -1), (1, edges_b, edges_a, 1)):
        start = edges[0][0]
        winding = 0
        for p, q in others:
            below = [v[0] > start[0] or (v[0] == start[0] and nudge < 0) for v in (p, q)]
            if below[0] != below[1] and on_left(start, p, q, nudge) == below[1]:
                winding += 1 if below[1] else -1
        for i, (p, end) in enumerate(edges):
            for (_, _, change), at in sorted((f[side], f[2]) for f in found if f[side][0] == i):
                total += winding * cross(p, at)
                p, winding = at, winding + change
            total += winding * cross(p, end)
    return abs(total) / 2


def fan_area(a: list[Point], b: list[Point]) -> float:
    """The same without rounding, in another way: both are sums of triangles with one corner at the origin."""
    total = 0.0
    for p, q in zip(a, a[1:] + a[:1], strict=True):
        for r, s in zip(b, b[1:] + b[:1], strict=True):
            sign = np.sign(float(cross(p, q))) * np.sign(float(cross(r, s)))
            if sign:
                one, other = ([(0, 0), *(t if cross(*t) > 0 else t[::-1])] for t in ((p, q), (r, s)))
                total += sign * convex_shared_area(one, other)
    return abs(total)


def convex_shared_area(a: list[Point], b: list[Point]) -> float:
    """Cut convex a by each edge of convex b (Sutherland and Hodgman 1974)."""
    shape = [(float(y), float(x)) for y, x in a]
    for start, end in zip(b, b[1:] + b[:1], strict=True):
        sides = [float(cross(minus(end, start), minus(p, start))) for p in shape]
        cut = []
        for p, q, s, t in zip(shape, shape[1:] + shape[:1], sides, sides[1:] + sides[:1], strict=True):
            if s >= 0:
                cut.append(p)
            if s * t < 0:
                cut.append((p[0] + (q[0] - p[0]) * s / (s - t), p[1] + (q[1] - p[1]) * s / (s - t)))
        shape = cut
        if not shape:
            return 0.0
    return abs(sum(p[1] * q[0] - p[0] * q[1] for p, q in zip(shape, shape[1:] + shape[:1], strict=True))) / 2


def overlap(a: list[Point], b: list[Point]) -> np.float32:
    """Shared area over the smaller area."""
    smaller = float(min(abs(area(a)), abs(area(b))))
    return np.float32(float(shared_area(a, b)) / (smaller + 1e-10))


def star_nms(points: NDArray[np.int32], distances: NDArray[np.float32], threshold: float) -> list[bool]:
    """Each polygon against all that were kept before it."""
    kept: list[list[Point]] = []
    keep = []
    for point, lengths in zip(points, distances, strict=True):
        shape = corners(point, lengths)
        keep.append(all(overlap(other, shape) <= np.float32(threshold) for other in kept))
        if keep[-1]:
            kept.append(shape)
    return keep


def star_paint(points: NDArray[np.int32], distances: NDArray[np.float32], shape: tuple[int, int]) -> Labels:
    """The last first, so that earlier ones lie on top."""
    labels = np.zeros(shape, np.int32)
    angles = 2 * np.pi * np.arange(distances.shape[1]) / distances.shape[1]
    for k in range(len(points), 0, -1):
        y = (distances[k - 1] * np.sin(angles)).astype(np.float32) + np.float32(points[k - 1, 0])
        x = (distances[k - 1] * np.cos(angles)).astype(np.float32) + np.float32(points[k - 1, 1])
        labels[polygon(y, x, shape)] = k
    return labels
