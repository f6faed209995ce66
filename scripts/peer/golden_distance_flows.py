"""Write tests/golden/omnipose.npz: what Omnipose makes of labels and of flows.

Run with the interpreter of an environment that holds ``scripts/peer/requirements-omnipose.txt``::

    python scripts/peer/golden_distance_flows.py

The labels are drawn here: touching ellipses, bent rods, a ring, rods that touch side by side. Keys of the file:

============  ==============================================================================================
``labels``    (Y, X) uint8, ids 1..n
``distance``  (Y, X) float32: the smooth distance of `masks_to_flows(labels)`, on the CPU
``flows``     (2, Y, X) float16: the unit flows (dy, dx) of ``masks_to_flows(labels, normalize=True)``
``boundary``  (Y, X) bool: the boundary of the same
``masks``     (Y, X) uint8: `compute_masks` of flows times 5, without flow check, else with defaults
``versions``  omnipose and torch that made the file
============  ==============================================================================================
"""

from __future__ import annotations

import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import drawn
import numpy as np
import torch

OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "omnipose.npz"
SHAPE = (120, 128)
arc = partial(drawn.arc, SHAPE)
ellipse = partial(drawn.ellipse, SHAPE)
CPU = torch.device("cpu")


class Unused(ModuleType):
    """A package of which Omnipose imports names and calls nothing here."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return sys.modules.get(f"{self.__name__}.{name}") or type(name, (), {})


def core() -> ModuleType:
    """Omnipose's functions; where torchvision was built for another torch, something empty takes its place."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [n for n in sys.modules if n.startswith("torchvision")]:
            del sys.modules[name]
        for part in ("", ".transforms", ".transforms.functional", ".transforms.v2", ".models"):
            sys.modules[f"torchvision{part}"] = Unused(f"torchvision{part}")
    import omnipose.core

    return omnipose.core


def draw_labels() -> np.ndarray:
    """The label image; where shapes overlap, the earlier one keeps its pixels, so that they touch."""
    generator = np.random.default_rng(31)
    shapes = [
        arc(30, 96, 18, 4, 0, 7),  # a ring
        arc(30, 96, 25, 3, 0.3, 4.6),  # around it
        arc(98, 90, 30, 3.5, 2.6, 2.4),  # bent rods, side by side
        arc(98, 90, 23, 3.5, 2.6, 2.4),
        arc(98, 90, 16, 3.5, 2.6, 2.4),
        ellipse(0, 60, 9, 14, 0.2),  # cut by the borders
        ellipse(119, 127, 10, 14, 0),
    ]
    for _ in range(40):
        y, x = generator.uniform(0, SHAPE[0]), generator.uniform(0, 70)
        shapes.append(ellipse(y, x, *generator.uniform(3, 14, 2), generator.uniform(0, np.pi)))
    labels = np.zeros(SHAPE, np.int32)
    for shape in shapes:
        free = shape & (labels == 0)
        if free.sum() >= 0.7 * shape.sum():
            labels[free] = labels.max() + 1
    return labels


def main() -> None:
    omnipose = core()
    labels = draw_labels()
    _, exact, boundary, distance, flows = omnipose.masks_to_flows(
        labels, dim=2, use_gpu=False, device=CPU, normalize=True
    )
    flows = np.asarray(flows)
    masks = omnipose.compute_masks(
        5 * flows, exact, bd=boundary, iscell=labels > 0, mask_threshold=0.5, flow_threshold=0, min_size=15,
        use_gpu=False, device=CPU, nclasses=2, dim=2,
    )[0]  # fmt: skip
    golden = {
        "labels": labels.astype(np.uint8),
        "distance": np.asarray(distance, np.float32),
        "flows": flows.astype(np.float16),
        "boundary": np.asarray(boundary) > 0,
        "masks": masks.astype(np.uint8),
        "versions": np.array([f"omnipose {version('omnipose')}", f"torch {torch.__version__}"]),
    }
    print(f"{labels.max()} cells, {masks.max()} found again")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(OUT, **golden)
    print(f"{OUT.name}: {OUT.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
