"""Write tests/golden/cellpose_maps.npz: what Cellpose's own network computes from seeded weights.

Run with the interpreter of an environment that holds ``scripts/peer/requirements.txt``::

    python scripts/peer/golden_cellpose.py

The weights and inputs come from `seeded.py`, go through a state dict that Cellpose saves and loads itself,
and are not stored. Keys of the file, for the sizes (1, 2, 64, 64) and (2, 2, 96, 80):

==================  =============================================================
``names``           (313,) names in the state dict, sorted
``shapes``          (313,) their shapes as text, "32,2,3,3"
``weights_seed``    seed for `seeded_weights`
``image_seeds``     (2,) seeds for `seeded_image`
``image_shapes``    (2, 4) shapes for `seeded_image`
``maps_0``, ``_1``  (B, 3, Y, X) float32: dy, dx, logit of cell probability
``style_0``, ``_1`` (B, 256) float32
``versions``        cellpose and torch that made the file
==================  =============================================================
"""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from cellpose.resnet_torch import CPnet
from seeded import seeded_image, seeded_weights

OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "cellpose_maps.npz"
WEIGHTS_SEED = 20260
IMAGES = {7: (1, 2, 64, 64), 8: (2, 2, 96, 80)}


def seeded_cellpose(seed: int, folder: str) -> CPnet:
    """Cellpose's network with seeded weights, saved and loaded by Cellpose."""
    widths = [2, 32, 64, 128, 256]
    saved = CPnet(widths, nout=3, sz=3)
    shapes = {name: tuple(value.shape) for name, value in saved.state_dict().items()}
    weights = seeded_weights(shapes, seed)
    saved.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    path = str(Path(folder) / "seeded_cellpose")
    saved.save_model(path)
    net = CPnet(widths, nout=3, sz=3)
    net.load_model(path)
    return net.eval()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        net = seeded_cellpose(WEIGHTS_SEED, folder)
    state = net.state_dict()
    names = sorted(state)
    golden = {
        "names": np.array(names),
        "shapes": np.array([",".join(map(str, state[name].shape)) for name in names]),
        "weights_seed": np.array(WEIGHTS_SEED),
        "image_seeds": np.array(list(IMAGES)),
        "image_shapes": np.array(list(IMAGES.values())),
        "versions": np.array([f"cellpose {version('cellpose')}", f"torch {torch.__version__}"]),
    }
    for k, (seed, shape) in enumerate(IMAGES.items()):
        with torch.no_grad():
            maps, style = net(torch.from_numpy(seeded_image(shape, seed)))[:2]
        golden[f"maps_{k}"], golden[f"style_{k}"] = maps.numpy(), style.numpy()
        print(f"{shape}: maps {maps.mean():.3f} +- {maps.std():.3f}, style {style.min():.3f}..{style.max():.3f}")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(OUT, **golden)
    print(f"{OUT.name}: {OUT.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
