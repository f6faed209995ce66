"""StarDist's side of the benchmarks: run by the interpreter of its environment, see `peer.run_peer`.

python _stardist_side.py FUNCTION INPUT.npz OUTPUT.npz REPEATS
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version

import numpy as np
from stardist.lib.stardist2d import c_non_max_suppression_inds

from _side import Work, run_side


def suppress(points: np.ndarray, distances: np.ndarray, threshold: np.ndarray) -> Work:
    """Its compiled suppression as its Python calls it: with a k-d tree and bounding boxes; gives ``keep`` (N,) bool.

    Polygons come in order, the best first: points (N, 2), distances (N, R).
    """
    distances, points = distances.astype(np.float32), points.astype(np.float32)
    return lambda: {"keep": c_non_max_suppression_inds(distances, points, 1, 1, 0, np.float32(threshold))}


if __name__ == "__main__":
    run_side(
        {"suppress": suppress},
        sys.argv[1:],
        threads=lambda: int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))),
        versions=lambda: f"stardist {version('stardist')}",
    )
