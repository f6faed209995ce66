"""Write tests/golden/cellpose_dynamics.npz: flows that Cellpose makes of labels, and labels of flows.

Run with the interpreter of an environment that holds ``scripts/peer/requirements.txt``::

    python scripts/peer/golden_dynamics.py

The label image is drawn here: touching ellipses, bent rods, crescents, a ring with a hole, cells cut by each
border and corner, a one-pixel cell, one of two pixels, one of two parts. Keys of the file:

======================  ==================================================================================
``labels``              (Y, X) int32, ids 1..n
``flows``               (2, Y, X) float32: `dynamics.masks_to_flows(labels)` on the CPU, unit vectors (dy, dx)
``exact_cellprob``      (Y, X) float32: +6 in cells, -6 outside
``exact_masks``         (Y, X) int32: `resize_and_compute_masks(5 * flows, exact_cellprob)`, all defaults
``noisy_flows``         (2, Y, X) float16: flows times 5, blurred, scaled, with correlated and white noise and
                        false cells, as a network might give them
``noisy_cellprob``      (Y, X) float16: logits that fall with the distance to the cells' borders, and noise
``noisy_masks``         (Y, X) int32: `resize_and_compute_masks` of the two above as float32, all defaults
``unchecked_masks``     the same with ``flow_threshold=0``: nothing dropped for its flows
``low_masks``           the same as `noisy_masks` with ``cellprob_threshold=-2``
``raw_masks``           (Y, X) int32: before the flow check, filling of holes, removal of small objects
``raw_errors``          (raw_masks.max(),) float32: `metrics.flow_error` of each; those over 0.4 are dropped
``versions``            cellpose and torch that made the file
======================  ==================================================================================

Flow inputs are multiples of 1/16 and logits of 1/8, so that the file stays small.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from pathlib import Path

import drawn
import numpy as np
import torch
from cellpose import dynamics, metrics
from scipy.ndimage import distance_transform_edt, gaussian_filter

OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "cellpose_dynamics.npz"
SHAPE = (200, 208)
arc = partial(drawn.arc, SHAPE)
ellipse = partial(drawn.ellipse, SHAPE)
CPU = torch.device("cpu")


def draw_labels() -> np.ndarray:
    """The label image; where shapes overlap, the earlier one keeps its pixels, so that they touch."""
    generator = np.random.default_rng(11)
    shapes = [
        arc(32, 150, 20, 5, 0.3, 4.6),  # a thick crescent
        arc(84, 150, 15, 4, 2.0, 5.2),  # nearly closed
        arc(84, 190, 12, 4, 0, 7),  # a ring with a hole
        arc(150, 120, 40, 3.5, -0.6, 1.2),  # bent rods
        arc(150, 104, 40, 3.5, -0.6, 1.2),
        arc(150, 190, 28, 3, 2.4, 1.9),
        arc(118, 130, 60, 2.5, 0.6, 0.8),
        ellipse(0, 60, 9, 14, 0.2),  # cut by the borders
        ellipse(199, 40, 8, 11, 0.9),
        ellipse(120, 0, 13, 7, 0.1),
        ellipse(140, 207, 16, 6, -0.2),
        ellipse(0, 0, 12, 12, 0),
        ellipse(199, 207, 10, 14, 0),
        ellipse(0, 207, 7, 7, 0),
    ]
    for row in range(5):  # packed, touching ellipses
        for column in range(6):
            y, x = 22 + 20 * row + generator.normal(0, 2), 14 + 18 * column + generator.normal(0, 2)
            a, b = generator.uniform(8, 14, 2)
            shapes.append(ellipse(y, x, a, b, generator.uniform(0, np.pi)))
    for _ in range(14):  # small round ones
        y, x = generator.uniform(130, 196), generator.uniform(6, 90)
        shapes.append(ellipse(y, x, *generator.uniform(2.2, 6, 2), 0))
    labels = np.zeros(SHAPE, np.int32)
    for shape in shapes:
        free = shape & (labels == 0)
        if free.sum() >= 8:
            labels[free] = labels.max() + 1
    one = labels.max() + 1
    for k, pixels in enumerate([[(187, 120)], [(187, 130), (187, 131)], [(192, 140), (193, 141), (196, 146)]]):
        for y, x in pixels:
            labels[y, x] = one + k
    return labels


def steps(array: np.ndarray, step: float) -> np.ndarray:
    """Rounded to multiples of `step`, as float16."""
    return (np.round(array / step) * step).astype(np.float16)


def like_a_network(labels: np.ndarray, flows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flows and logits with the faults that networks have: soft, wavering, noisy, wrong in places."""
    generator = np.random.default_rng(12)

    def waves(sigma: float) -> np.ndarray:
        field = gaussian_filter(generator.normal(size=SHAPE), sigma)
        return field / field.std()

    inside = distance_transform_edt(labels > 0)
    outside = distance_transform_edt(labels == 0)
    logits = 1.6 * np.clip(inside - outside + 0.5, -5, 5) + 1.2 * waves(3) + 0.3 * generator.normal(size=SHAPE)
    vectors = []
    for axis in range(2):
        soft = gaussian_filter(5 * flows[axis], 0.8)
        vectors.append(soft * (1.0 + 0.1 * waves(10)) + 0.4 * waves(4) + 0.2 * generator.normal(size=SHAPE))
    found = np.stack(vectors)
    for y, x in [
        (176, 170),
        (172, 136),
        (60, 118),
        (12, 100),
    ]:  # false cells: confident, but flows go anywhere
        blob = ellipse(y, x, 9, 7, 0.5)
        logits[blob] = np.maximum(logits[blob], 3)
        for axis in range(2):
            found[axis][blob] = 2.5 * waves(3)[blob]
    return steps(found, 1 / 16), steps(logits, 1 / 8)


def main() -> None:
    labels = draw_labels()
    flows = dynamics.masks_to_flows(labels, device=CPU).astype(np.float32)
    cellprob = np.where(labels > 0, 6, -6).astype(np.float32)
    noisy_flows, noisy_cellprob = like_a_network(labels, flows)
    vectors, logits = noisy_flows.astype(np.float32), noisy_cellprob.astype(np.float32)
    raw = dynamics.compute_masks(vectors, logits, flow_threshold=0, min_size=-1).astype(np.int32)
    errors = metrics.flow_error(raw, vectors, CPU)[0]
    golden = {
        "labels": labels,
        "flows": flows,
        "exact_cellprob": cellprob,
        "exact_masks": dynamics.resize_and_compute_masks(5 * flows, cellprob),
        "noisy_masks": dynamics.resize_and_compute_masks(vectors, logits),
        "unchecked_masks": dynamics.resize_and_compute_masks(vectors, logits, flow_threshold=0),
        "low_masks": dynamics.resize_and_compute_masks(vectors, logits, cellprob_threshold=-2),
        "raw_masks": raw,
    }
    golden = {name: value if "masks" not in name else value.astype(np.int32) for name, value in golden.items()}
    for name, value in golden.items():
        if value.dtype == np.int32:
            print(f"{name}: {value.max()} objects, {(value > 0).sum()} pixels")
    print(f"flow error over 0.4: {(errors > 0.4).sum()}, next to it: {np.sort(np.abs(errors - 0.4))[:3]}")
    golden |= {
        "noisy_flows": noisy_flows,
        "noisy_cellprob": noisy_cellprob,
        "raw_errors": errors.astype(np.float32),
        "versions": np.array([f"cellpose {version('cellpose')}", f"torch {torch.__version__}"]),
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(OUT, **golden)
    print(f"{OUT.name}: {OUT.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
