"""Pictures of bright dots with their positions, for tests of counting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from cellweave.core.image import Image
from cellweave.core.points import Points
from cellweave.io.points import write_points
from cellweave.train import Example


def dots(seed: int, shape: tuple[int, int] = (80, 96)) -> Example:
    """3 to 30 dots, some of them touching or cut by the border."""
    rng = np.random.default_rng(seed)
    positions = rng.uniform(-0.5, np.subtract(shape, 0.5), size=(int(rng.integers(3, 31)), 2))
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    picture = 100 + rng.normal(0, 3, shape)
    for y, x in positions:
        picture += 100 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 8)
    return Example(f"d{seed:03d}", Image(picture[None].astype(np.uint16)), Points(positions, shape=shape))


def write_dots(folder: Path, seeds: range) -> Path:
    """``images/`` and ``points/`` of `dots`."""
    for name in ("images", "points"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for example in map(dots, seeds):
        tifffile.imwrite(folder / "images" / f"{example.name}.tif", example.image.read()[0])
        write_points(folder / "points" / f"{example.name}.csv", example.positions)
    return folder
