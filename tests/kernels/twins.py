"""Slow NumPy twins of the kernels, written from their descriptions, not from their code."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_fill_holes, find_objects, map_coordinates, maximum_filter

Labels = NDArray[np.int32]


def nearest_pixels(mask: NDArray[np.bool_], from_box: bool) -> NDArray[np.int64]:
    """(k, 2): the pixels of an object nearest to its mean position, or to the middle of its box."""
    pixels = np.argwhere(mask)
    # Whole numbers: the position times n, so that equal distances are equal.
    n = 2 if from_box else len(pixels)
    middle = pixels.min(axis=0) + pixels.max(axis=0) if from_box else pixels.sum(axis=0)
    squared = ((n * pixels - middle) ** 2).sum(axis=1)
    return np.asarray(pixels[squared == squared.min()])


def centers(mask: NDArray[np.bool_], from_box: bool) -> NDArray[np.int64]:
    """(k, 2): of the nearest pixels the first by rows and those that touch it."""
    nearest = nearest_pixels(mask, from_box)
    return np.asarray(nearest[np.abs(nearest - nearest[0]).max(axis=1) <= 1])


def heat(mask: NDArray[np.bool_], sources: NDArray[np.int64]) -> NDArray[np.float64]:
    """Heat in the box of an object with a border of one pixel, after 2 * (height + width) iterations."""
    mask, sources = np.pad(mask, 1), sources + 1
    height, width = mask.shape
    now = np.zeros((height + 2, width + 2))
    for _ in range(2 * (height + width)):
        now[sources[:, 0] + 1, sources[:, 1] + 1] += 1 / len(sources)
        mean = sum(now[y : y + height, x : x + width] for y in range(3) for x in range(3)) / 9
        now[1:-1, 1:-1] = np.where(mask, mean, 0)
    return now[1:-1, 1:-1]


def flows_of_object(mask: NDArray[np.bool_], sources: NDArray[np.int64]) -> NDArray[np.float64]:
    """(2, Y, X): unit gradient of the heat of an object that fills its box; zero where it is only rounding."""
    hot = heat(mask, sources)
    gradient = np.stack([hot[2:, 1:-1] - hot[:-2, 1:-1], hot[1:-1, 2:] - hot[1:-1, :-2]])
    gradient[np.abs(gradient) <= 1e-10 * hot[1:-1, 1:-1]] = 0
    gradient *= mask
    length = np.hypot(*gradient)
    return np.divide(gradient, length, out=np.zeros_like(gradient), where=length > 0)


def diffusion_flows(labels: Labels, from_box: bool) -> NDArray[np.float32]:
    flows = np.zeros((2, *labels.shape), np.float32)
    for k, box in enumerate(find_objects(labels), start=1):
        if box is not None:
            inside = labels[box] == k
            flows[:, box[0], box[1]] += (flows_of_object(inside, centers(inside, from_box)) * inside).astype(np.float32)
    return flows


def flow_errors(labels: Labels, maps: NDArray[np.float32], from_box: bool) -> NDArray[np.float64]:
    """(n, 3): mean squared length of the difference of flows, mean probability, and mean length of the flows where
    the object has one of its own, else 1."""
    scores = np.zeros((labels.max(initial=0), 3))
    for k, box in enumerate(find_objects(labels), start=1):
        if box is not None:
            inside = labels[box] == k
            own, predicted = flows_of_object(inside, centers(inside, from_box)), maps[:2, box[0], box[1]].astype(float)
            error = ((own - predicted) ** 2).sum(axis=0)[inside].mean()
            moving = inside & own.any(axis=0)
            length = np.hypot(*predicted)[moving].mean() if moving.any() else 1.0
            scores[k - 1] = error, maps[2][box][inside].mean(dtype=float), length
    return scores


def bounding_boxes(labels: Labels, n: int) -> Labels:
    boxes = np.zeros((n, 4), np.int32)
    for k, box in enumerate(find_objects(labels)[:n] if labels.size else []):
        if box is not None:
            boxes[k] = box[0].start, box[1].start, box[0].stop, box[1].stop
    return boxes


def renumber(labels: Labels, keep: NDArray[np.uint8]) -> tuple[Labels, list[int]]:
    """Kept objects numbered by their first pixel, and the old id of each."""
    ids, first = np.unique(labels, return_index=True)
    old = [int(k) for k in ids[np.argsort(first)] if k > 0 and keep[k - 1]]
    new = np.zeros_like(labels)
    for k, old_id in enumerate(old, start=1):
        new[labels == old_id] = k
    return new, old


def fill_holes(labels: Labels) -> Labels:
    """Background within an object becomes part of it, the last object first."""
    filled = labels.copy()
    for k in range(labels.max(initial=0), 0, -1):
        filled[binary_fill_holes(filled == k) & (filled == 0)] = k
    return filled


def step(
    maps: NDArray[np.float32], threshold: float, y: NDArray[np.float32], x: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Flow at (y, x): bilinear, float32, zero outside cells."""
    height, width = maps.shape[1:]
    inside = maps[2] > np.float32(threshold)
    top, left = y.astype(np.int64), x.astype(np.int64)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    fy, fx, one = y - top.astype(np.float32), x - left.astype(np.float32), np.float32(1)
    flow = np.zeros((2, len(y)), np.float32)
    for v, u, weight in (
        (top, left, (one - fy) * (one - fx)),
        (top, right, (one - fy) * fx),
        (bottom, left, fy * (one - fx)),
        (bottom, right, fy * fx),
    ):
        flow += np.where(inside[v, u], weight * maps[:2, v, u], np.float32(0))
    return flow[0], flow[1]


def pixel_of(position: NDArray[np.floating]) -> NDArray[np.int64]:
    """Where an end belongs: pixel p has the positions from p - 3/4 up to p + 1/4."""
    return np.floor(position + position.dtype.type(0.75)).astype(np.int64)


def track(maps: NDArray[np.float32], threshold: float, steps: int) -> Labels:
    """Where each pixel's path ends, -1 outside cells.

    A pixel walks alone until it is 3 px from where it started and stands on a pixel of a cell; from there on it
    has that pixel's path. A walk ends where a step is under 1/1000 px or not finite, or after `steps` steps, in the
    middle of its last step; a chain of shared paths ends after `steps` of them.
    """
    height, width = maps.shape[1:]
    inside = maps[2] > np.float32(threshold)
    start = np.flatnonzero(inside)
    y0, x0 = (start // width).astype(np.float32), (start % width).astype(np.float32)
    y, x, last_y, last_x = y0.copy(), x0.copy(), y0.copy(), x0.copy()
    half = np.float32(0.5)
    leads_to, rests = np.full(height * width, -1), np.full(height * width, -1)
    walking = np.arange(len(start))
    with np.errstate(invalid="ignore", over="ignore"):
        for _ in range(steps):
            sy, sx = step(maps, threshold, y[walking], x[walking])
            finite = np.isfinite(sy) & np.isfinite(sx)
            sy, sx, walking = sy[finite], sx[finite], walking[finite]
            last_y[walking], last_x[walking] = y[walking], x[walking]
            y[walking] = np.clip(y[walking] + sy, np.float32(0), np.float32(height - 1))
            x[walking] = np.clip(x[walking] + sx, np.float32(0), np.float32(width - 1))
            here = (y[walking] + half).astype(np.int64) * width + (x[walking] + half).astype(np.int64)
            away = (y[walking] - y0[walking]) ** 2 + (x[walking] - x0[walking]) ** 2 >= np.float32(9)
            away &= inside.ravel()[here]
            leads_to[start[walking[away]]] = here[away]
            walking = walking[~away & (sy * sy + sx * sx >= np.float32(1e-6))]
    rests[start] = pixel_of(half * (y + last_y)) * width + pixel_of(half * (x + last_x))
    at = start.copy()
    for _ in range(steps):
        at = np.where(leads_to[at] >= 0, leads_to[at], at)
    ends = np.full(height * width, -1, np.int32)
    ends[start] = np.where(leads_to[at] >= 0, at, rests[at])
    return ends.reshape(height, width)


def euler(maps: NDArray[np.float32], threshold: float, steps: int) -> Labels:
    """Where each pixel's path ends when every pixel walks all steps (1 or more) on its own."""
    inside = maps[2] > threshold
    flows = np.where(inside, maps[:2], 0).astype(float)
    at, highest = np.argwhere(inside).T.astype(float), np.array(inside.shape)[:, None] - 1
    for _ in range(steps):
        move = [map_coordinates(flow, at, order=1, mode="nearest") for flow in flows]
        last, at = at, np.clip(at + move, 0, highest)
    y, x = pixel_of((last + at) / 2)
    ends = np.full(inside.shape, -1, np.int32)
    ends[inside] = y * inside.shape[1] + x
    return ends


def cluster(ends: Labels, min_count: int) -> tuple[Labels, int]:
    """Piles of path ends, and how many there are.

    A pile starts at a pixel with over `min_count` ends that no pixel within 5 x 5 exceeds. It grows five times by
    its 8 neighbours with over 2 ends. A pixel of several piles belongs to the one that starts with most ends (the
    last by rows of equal ones), and piles are numbered upwards in that order.
    """
    count = np.bincount(ends[ends >= 0], minlength=ends.size).reshape(ends.shape)
    peaks = np.argwhere((count > min_count) & (count == maximum_filter(count, 5, mode="constant")))
    peaks = peaks[np.argsort(count[tuple(peaks.T)], kind="stable")]
    pile = np.zeros(ends.shape, np.int32)
    for k, (y, x) in enumerate(peaks, start=1):
        seed = np.zeros(ends.shape, bool)
        seed[y, x] = True
        pile[binary_dilation(seed, np.ones((3, 3)), 5, mask=(count > 2) | seed)] = k
    return np.where(ends >= 0, pile.ravel()[ends], 0).astype(np.int32), len(peaks)
