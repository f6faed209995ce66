"""Label images drawn for tests (round cells, bent rods, packed tiles), and maps of them as a network gives them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, label

from cellweave.representations import DiffusionFlows

Labels = NDArray[np.int32]
Mask = NDArray[np.bool_]
Maps = NDArray[np.float32]


def ellipse(shape: tuple[int, int], y: float, x: float, a: float, b: float, angle: float = 0.0) -> Mask:
    """Pixels of an ellipse with half-axes `a` (along `angle` from the row axis) and `b`."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    u = (rows - y) * np.cos(angle) + (columns - x) * np.sin(angle)
    v = (columns - x) * np.cos(angle) - (rows - y) * np.sin(angle)
    return np.asarray((u / a) ** 2 + (v / b) ** 2 <= 1)


def rod(
    shape: tuple[int, int], y: float, x: float, length: float, half_width: float, angle: float, bend: float
) -> Mask:
    """Pixels within `half_width` of an arc of `length` px that turns by `bend` radians."""
    along = np.linspace(-0.5, 0.5, 2 * int(length) + 2)
    step = length / (len(along) - 1)
    ys, xs = np.cumsum(np.sin(angle + bend * along)) * step, np.cumsum(np.cos(angle + bend * along)) * step
    ys, xs = ys + y - ys.mean(), xs + x - xs.mean()
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    squared = ((rows[..., None] - ys) ** 2 + (columns[..., None] - xs) ** 2).min(axis=-1)
    return np.asarray(squared <= half_width**2)


def draw(masks: list[Mask]) -> Labels:
    """Number the masks in order; one that covers pixels of an earlier one is left out."""
    labels = np.zeros(masks[0].shape, np.int32)
    for mask in masks:
        if mask.any() and not labels[mask].any():
            labels[mask] = labels.max() + 1
    return labels


def crowd(seed: int, shape: tuple[int, int] = (96, 112)) -> Labels:
    """Ellipses and bent rods of one part and 15 px or more, many of them touching or cut by the border."""
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(30):
        y, x, angle = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(0, np.pi)
        if rng.random() < 0.3:
            length, half_width, bend = rng.uniform(10, 40), rng.uniform(1.5, 3), rng.uniform(-2.5, 2.5)
            masks.append(rod(shape, y, x, length, half_width, angle, bend))
        else:
            masks.append(ellipse(shape, y, x, *rng.uniform(2.5, 11, 2), angle))
    return draw([mask for mask in masks if mask.sum() >= 15 and label(mask)[1] == 1])


def voronoi(seed: int, shape: tuple[int, int] = (90, 100), n: int = 30) -> Labels:
    """Cells that fill the image: each pixel belongs to the nearest of `n` points of a shaken grid."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(n)))
    grid = (np.stack(np.divmod(np.arange(n), side), axis=1) + rng.uniform(0.2, 0.8, (n, 2))) / side
    points = grid * shape
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    squared = (rows[..., None] - points[:, 0]) ** 2 + (columns[..., None] - points[:, 1]) ** 2
    return (squared.argmin(axis=-1) + 1).astype(np.int32)


def tiles(rows: int, columns: int, height: int, width: int) -> Labels:
    """A wall of rows x columns rectangles that all touch."""
    ids = np.arange(1, rows * columns + 1, dtype=np.int32).reshape(rows, columns)
    return np.kron(ids, np.ones((height, width), np.int32))


def like_a_network(labels: Labels, seed: int, amount: float = 0.1) -> Maps:
    """Diffusion flows of the labels, blurred, with smooth and white noise of this size; probability within 0..1."""
    rng = np.random.default_rng(seed)
    maps = DiffusionFlows().encode(labels)
    for k in range(3):
        waves = gaussian_filter(rng.normal(size=labels.shape), 4)
        noise = waves / waves.std() + rng.normal(0, 0.5, labels.shape)
        maps[k] = gaussian_filter(maps[k], 0.7) + amount * noise
    maps[2] = np.clip(maps[2], 0, 1)
    return maps
