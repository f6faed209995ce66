"""Write tests/golden/metrics.npz: synthetic label images and what cellpose 3.1.1.3 says about them.

Run it with the Python of an environment that holds the peer package (cellpose==3.1.1.3, numpy); it does not
need cellweave: python scripts/peer/golden_metrics.py
"""

from pathlib import Path

import numpy as np
from cellpose.metrics import aggregated_jaccard_index, average_precision

THRESHOLDS = [0.1, 0.3, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
TARGET = Path(__file__).resolve().parents[2] / "tests" / "golden" / "metrics.npz"


def voronoi_cells(rng: np.random.Generator, size: int, n: int, radius: float) -> np.ndarray:
    """Touching round cells: each pixel goes to the nearest of `n` random centers within `radius`."""
    centers = rng.uniform(0, size, (n, 2))
    pixels = np.stack(np.mgrid[:size, :size], axis=-1).reshape(-1, 1, 2)
    distances = np.sqrt(((pixels - centers) ** 2).sum(-1))
    labels = np.where(distances.min(1) <= radius, distances.argmin(1) + 1, 0).reshape(size, size)
    return sequential(labels)


def sequential(labels: np.ndarray) -> np.ndarray:
    """Ids 0, 1, 2, ... without gaps: the peer counts objects by the highest id."""
    ids = np.unique(np.append(labels, 0))
    return np.searchsorted(ids, labels).astype(np.uint16)


def imperfect(rng: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    """A prediction with the usual errors: shifted, some cells lost, merged, cut in two, and some invented."""
    labels = np.roll(truth, rng.integers(-2, 3, 2), (0, 1)).astype(int)
    n = labels.max()
    for label in rng.permutation(np.arange(1, n + 1))[: n // 2]:
        kind = rng.integers(4)
        inside = labels == label
        if kind == 0:
            labels[inside] = 0
        elif kind == 1:
            labels[inside] = rng.integers(1, n + 1)
        elif kind == 2:
            rows, columns = np.nonzero(inside)
            if len(rows):
                upper = rows < np.median(rows)
                labels[rows[upper], columns[upper]] = labels.max() + 1
        else:
            y, x = rng.integers(0, len(labels), 2)
            labels[y : y + 7, x : x + 7] = labels.max() + 1
    return sequential(labels)


def main() -> None:
    rng = np.random.default_rng(20240229)
    truth = [voronoi_cells(rng, 96, n, radius) for n, radius in [(12, 9), (30, 8), (60, 9), (90, 5)]]
    predicted = [imperfect(rng, labels) for labels in truth]
    # Halved cells: two predictions with an IoU of exactly 0.5 each, and one cell that equals a prediction.
    halves = np.zeros((96, 96), np.uint16)
    halves[10:20, 10:30], halves[40:60, 40:50] = 1, 2
    cut = halves.copy()
    cut[10:20, 20:30] = 3
    truth.append(halves)
    predicted.append(cut)

    ap, tp, fp, fn = average_precision(truth, predicted, threshold=THRESHOLDS)
    np.savez_compressed(
        TARGET,
        truth=np.stack(truth),
        predicted=np.stack(predicted),
        thresholds=np.array(THRESHOLDS),
        average_precision=ap,
        tp=tp,
        fp=fp,
        fn=fn,
        aggregated_jaccard_index=aggregated_jaccard_index(truth, predicted),
    )
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
