"""Random views of training samples: turned, mirrored, resized crops with other contrast, blur and noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from cellweave.representations import Representation
from cellweave.train.samples import Sample

OCTAVES = 0.75


def random_view(sample: Sample, crop: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One random crop of a sample.

    Rotation by any angle, flip, zoom by ``2 ** uniform(-0.75, 0.75)``, and stretch up to 10 %; the crop's center is
    anywhere that leaves the crop on the image, or the middle of a smaller image. Outside is zero and background.

    Returns
    -------
    Channels (C, crop, crop), maps (M, crop, crop), and the 2 x 2 matrix from directions in the sample to the crop's.
    """
    array = sample.open()
    height, width = array.shape[1:]
    zoom = 2.0 ** rng.uniform(-OCTAVES, OCTAVES)
    angle, flip = rng.uniform(0, 2 * math.pi), rng.choice([-1.0, 1.0])
    stretch = np.exp(rng.uniform(-0.1, 0.1))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = zoom * turn @ np.diag([stretch, flip / stretch])  # direction (y, x) in the sample to the crop
    back = np.linalg.inv(matrix)

    half = crop / zoom / 2
    center = [rng.uniform(min(half, n / 2), max(n - half, n / 2)) for n in (height, width)]
    reach = np.abs(back).sum(axis=1) * crop / 2 + 2
    low = [max(0, int(c - r)) for c, r in zip(center, reach, strict=True)]
    high = [min(n, int(c + r) + 2) for c, r, n in zip(center, reach, (height, width), strict=True)]
    window = torch.from_numpy(array[:, low[0] : high[0], low[1] : high[1]].astype(np.float32))

    steps = np.arange(crop) - (crop - 1) / 2
    grid = np.einsum("ij,jyx->yxi", back, np.stack(np.meshgrid(steps, steps, indexing="ij")))
    grid = 2 * (grid + np.array(center) - np.array(low)) / np.array(window.shape[1:]) - 1
    where = torch.from_numpy(grid[None, :, :, ::-1].astype(np.float32))
    n = sample.weights.shape[1]
    pixels = F.grid_sample(window[None, :n], where, mode="bilinear", padding_mode="zeros", align_corners=False)
    maps = F.grid_sample(window[None, n:], where, mode="nearest", padding_mode="zeros", align_corners=False)
    return pixels[0], maps[0], torch.from_numpy(matrix.astype(np.float32))


def random_stain(pixels: torch.Tensor, weights: NDArray[np.float32], rng: np.random.Generator) -> torch.Tensor:
    """Two planes of a stained colour image (3, Y, X): the policy's, or random mixtures; each colour's gamma varies.

    So the net learns cells that are darker than their surroundings in some colours, whatever the dyes.
    """
    gamma = 2.0 ** rng.uniform(-0.5, 0.5, size=(3, 1, 1))
    inside = pixels.clamp(0, 1)
    pixels = inside ** torch.from_numpy(gamma.astype(np.float32)) + (pixels - inside)
    if rng.random() < 0.5:
        weights = rng.dirichlet([0.5] * 3, size=2).astype(np.float32)
    return torch.einsum("pc,cyx->pyx", torch.from_numpy(weights), pixels)


def random_contrast(planes: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Other gain, offset, gamma, blur, noise; now and then inverted or without the second plane. (2, Y, X)."""
    if rng.random() < 0.5:
        gamma = 2.0 ** rng.uniform(-0.8, 0.8)
        planes = planes.clamp(0, 1) ** gamma + (planes - planes.clamp(0, 1))
    if rng.random() < 0.1 and planes[1].any():
        planes = torch.stack([planes[0], torch.zeros_like(planes[1])])
    used = planes.flatten(1).any(dim=1)[:, None, None]
    if rng.random() < 0.05:
        planes = torch.where(used, 1 - planes, planes)
    gain, offset = 2.0 ** rng.uniform(-0.5, 0.5), rng.uniform(-0.15, 0.15)
    planes = torch.where(used, planes * gain + offset, planes)
    if rng.random() < 0.2:
        sigma = rng.uniform(0.5, 1.5)
        taps = torch.exp(-0.5 * (torch.arange(-4, 5) / sigma) ** 2)
        taps = (taps / taps.sum()).view(1, 1, -1)
        planes = F.conv2d(F.conv2d(planes[:, None], taps[..., None], padding=(4, 0)), taps[:, :, None], padding=(0, 4))[
            :, 0
        ]
    if rng.random() < 0.5:
        noise = rng.standard_normal(planes.shape, dtype=np.float32) * rng.uniform(0, 0.1)
        planes = torch.where(used, planes + torch.from_numpy(noise), planes)
    return planes


def batch(
    samples: Sequence[Sample],
    crop: int,
    seed: Sequence[int],
    representation: Representation,
    *,
    contrast: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Views of `samples`: planes (B, 2, crop, crop) and maps (B, M, crop, crop). The same seed gives the same batch."""
    planes, maps, matrices = [], [], []
    for k, sample in enumerate(samples):
        rng = np.random.default_rng([*seed, k])
        pixels, target, matrix = random_view(sample, crop, rng)
        if contrast and sample.stained:
            view = random_stain(pixels, sample.weights, rng)
        else:
            view = torch.einsum("pc,cyx->pyx", torch.from_numpy(sample.weights), pixels)
        planes.append(random_contrast(view, rng) if contrast else view)
        maps.append(target)
        matrices.append(matrix)
    return torch.stack(planes), representation.transform(torch.stack(maps), torch.stack(matrices))


def sampling_weights(groups: Sequence[str]) -> NDArray[np.float64]:
    """Probability of each sample: a group of n samples gets a share of ``sqrt(n)``, so that small ones count."""
    _, inverse, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    weights = 1.0 / np.sqrt(counts[inverse])
    return np.asarray(weights / weights.sum())
