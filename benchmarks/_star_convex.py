"""Suppression of star-convex polygons beside StarDist's own, in the same run."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cellweave._kernels import star_nms
from cellweave.representations import StarConvex
from foundation import SEED, drawn_cells, seconds
from peer import STARDIST, run_peer
from record import Row

CANDIDATES = 100_000
THRESHOLD = 0.4
Polygons = tuple[NDArray[np.int32], NDArray[np.float32]]


def star_convex_nms() -> Iterator[Row]:
    """100,000 polygons, as a net gives them and of random score: time and survivors, StarDist's against ours."""
    for by_score, data in (
        (True, "polygons of noisy maps"),
        (False, "polygons of four times noisier maps, scores at random"),
    ):
        points, distances = noisy_polygons(by_score)
        keep = np.empty(CANDIDATES, np.uint8)
        ours = seconds(partial(star_nms, points, distances, THRESHOLD, keep))
        theirs = run_peer("suppress", peer=STARDIST, points=points, distances=distances, threshold=THRESHOLD)
        against = f"{theirs['versions']}, {theirs['threads']} threads: {theirs['seconds_median']:.2f} s"
        ratio = theirs["seconds_median"] / ours
        yield Row("star-convex NMS: how many times as fast", ratio, "", against, at_least=1, data=data, seed=SEED)
        kept, expected = keep.astype(bool), theirs["keep"]
        against = f"it keeps {expected.sum():,}, we {kept.sum():,}"
        different = int((kept != expected).sum())
        most = 0 if by_score else None  # its library misses crossings; overlaps near the threshold tell
        yield Row("star-convex NMS: polygons that fare differently", different, "", against, at_most=most, data=data)


def noisy_polygons(by_score: bool) -> Polygons:
    """Pixels of maps of drawn cells with the faults that networks have, the best first or any; points and distances."""
    labels = drawn_cells(1400, spacing=30)
    maps = StarConvex().encode(labels)
    rng = np.random.default_rng(SEED)

    def waves(sigma: float) -> NDArray[np.float32]:
        field = gaussian_filter(rng.normal(size=labels.shape).astype(np.float32), sigma)
        return np.asarray(field / field.std())

    maps[0] = gaussian_filter(maps[0], 1) + 0.05 * waves(3)
    amount = 0.02 if by_score else 0.08
    for distances in maps[1:]:
        distances *= 1 + amount * (3 * waves(2) + rng.normal(size=labels.shape).astype(np.float32))
    if by_score:
        chosen = np.argsort(-maps[0], axis=None, kind="stable")[:CANDIDATES]
    else:
        chosen = rng.permutation(np.flatnonzero(labels))[:CANDIDATES]
    ys, xs = np.unravel_index(chosen, labels.shape)
    points = np.stack([ys, xs], axis=1).astype(np.int32)
    return points, np.ascontiguousarray(maps[1:, ys, xs].T.clip(1e-3))
