"""Write tests/golden/stardist.npz: what StarDist makes of labels and of polygons.

Run with the interpreter of an environment that holds ``scripts/peer/requirements-stardist.txt``::

    python scripts/peer/golden_star_convex.py

The labels are drawn here: touching ellipses, crescents, cells cut by the borders, cells of one and two pixels. Keys:

====================  ====================================================================================
``labels``            (Y, X) int32, ids 1..n
``distances``         (32, Y, X) float32: `star_dist(labels, 32)`
``probability``       (Y, X) float32: `edt_prob(labels)`
``points``            (N, 2) int16: pixels of noisy maps of the labels, the best first
``point_probability`` (N,) float32, falling
``point_distances``   (N, 32) float16: their distances, wavering and noisy, multiples of 1/16
``keep``              (3, N) bool: `non_maximum_suppression_inds` at 0.3, 0.4, 0.5
``shuffled``          (N,) int16: another order of the same polygons, as if scores were drawn
``keep_shuffled``     (3, N) bool: the same in that order
``painted``           (Y, X) int32: `polygons_to_label` of those kept at 0.4, the best with 1
``versions``          stardist that made the file
====================  ====================================================================================
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from pathlib import Path

import drawn
import numpy as np
from scipy.ndimage import gaussian_filter
from stardist.geometry import polygons_to_label, star_dist
from stardist.nms import non_maximum_suppression_inds
from stardist.utils import edt_prob

OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "stardist.npz"
SHAPE = (84, 92)
ellipse = partial(drawn.ellipse, SHAPE)
N_RAYS = 32


def draw_labels() -> np.ndarray:
    """The label image; where shapes overlap, the earlier one keeps its pixels, so that they touch."""
    generator = np.random.default_rng(21)
    shapes = [
        ellipse(30, 74, 14, 14, 0) & ~ellipse(30, 80, 9, 12, 0),
        ellipse(0, 40, 9, 12, 0.2),
        ellipse(83, 91, 9, 9, 0),
    ]
    for row in range(4):
        for column in range(4):
            y, x = 14 + 18 * row + generator.normal(0, 2), 12 + 17 * column + generator.normal(0, 2)
            shapes.append(ellipse(y, x, *generator.uniform(5, 12, 2), generator.uniform(0, np.pi)))
    labels = np.zeros(SHAPE, np.int32)
    for shape in shapes:
        free = shape & (labels == 0)
        if free.sum() >= 8:
            labels[free] = labels.max() + 1
    one = labels.max() + 1
    for k, pixels in enumerate([[(60, 88)], [(64, 88), (64, 89)]]):
        for y, x in pixels:
            labels[y, x] = one + k
    return labels


def candidates(probability: np.ndarray, distances: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels over 0.4 of maps with the faults that networks have: soft, wavering, noisy."""
    generator = np.random.default_rng(22)

    def waves(sigma: float) -> np.ndarray:
        field = gaussian_filter(generator.normal(size=SHAPE), sigma)
        return field / field.std()

    soft = np.clip(gaussian_filter(probability, 0.7) + 0.1 * waves(2), 0, 1).astype(np.float32)
    wavering = [d * (1 + 0.1 * waves(3) + 0.03 * generator.normal(size=SHAPE)) for d in distances]
    ys, xs = np.nonzero((soft > 0.4) & (soft < 1))  # no two of the same probability
    order = np.argsort(-soft[ys, xs])
    ys, xs = ys[order], xs[order]
    steps = np.round(16 * np.maximum(np.stack(wavering)[:, ys, xs].T, 0.1)) / 16
    return np.stack([ys, xs], axis=1), soft[ys, xs], steps.astype(np.float16)


def survivors(points: np.ndarray, distances: np.ndarray) -> np.ndarray:
    return np.stack([non_maximum_suppression_inds(distances, points, None, t, verbose=0) for t in (0.3, 0.4, 0.5)])


def main() -> None:
    labels = draw_labels()
    distances = np.moveaxis(star_dist(labels, N_RAYS, mode="cpp"), -1, 0)
    probability = edt_prob(labels).astype(np.float32)
    points, scores, steps = candidates(probability, distances)
    exact = steps.astype(np.float32)
    shuffled = np.random.default_rng(23).permutation(len(points))
    keep, keep_shuffled = survivors(points, exact), survivors(points[shuffled], exact[shuffled])
    kept = keep[1]
    painted = polygons_to_label(exact[kept], points[kept], SHAPE, prob=scores[kept])
    golden = {
        "labels": labels,
        "distances": distances,
        "probability": probability,
        "points": points.astype(np.int16),
        "point_probability": scores,
        "point_distances": steps,
        "keep": keep,
        "shuffled": shuffled.astype(np.int16),
        "keep_shuffled": keep_shuffled,
        "painted": painted.astype(np.int32),
        "versions": np.array([f"stardist {version('stardist')}"]),
    }
    print(f"{labels.max()} cells, {len(points)} polygons, kept {keep.sum(1)}, {keep_shuffled.sum(1)} in another order")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(OUT, **golden)
    print(f"{OUT.name}: {OUT.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
