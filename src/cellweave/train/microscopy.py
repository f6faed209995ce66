"""Microscopy augmentation: plain geometry, and the noise and brightness of other acquisitions.

*Cell Segmentation in Images Without Structural Fluorescent Reporters*, Sec. 3.3. Everything happens with probability
0.5, drawn for each crop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

APPLIED = 0.5
"""Probability of each change."""
SCALES, TURN = (0.5, 1.0), math.pi / 2
"""Range of zooms; largest angle either way."""
SIGMA, SHIFT = 0.1, 0.1
"""Largest standard deviation of the Gaussian noise; largest shift of brightness either way."""
PHOTONS, PEPPERED = (20.0, 500.0), 0.02
"""Photons of a pixel of value 1, drawn evenly in the logarithm, and the largest share of pixels that are flipped to
either extreme. The paper names no figures for them; these are ours."""
BOUNDS = (-1.0, 3.0)
"""Values stay in this range, that of `Normalisation`, or in that of the crop where it is wider."""


def random_geometry(rng: np.random.Generator, *, sized: bool = True) -> NDArray[np.float64]:
    """Linear part (2, 2) of a view: a zoom of 0.5 to 1, a turn of up to 90 degrees either way, flips of both axes.

    Not `sized`, without the zoom: where sizes must stay.
    """
    zoom = float(rng.uniform(*SCALES)) if sized and rng.random() < APPLIED else 1.0
    angle = float(rng.uniform(-TURN, TURN)) if rng.random() < APPLIED else 0.0
    flips = np.where(rng.random(2) < APPLIED, -1.0, 1.0)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.asarray(zoom * turn @ np.diag(flips))


@dataclass(frozen=True)
class Acquisition:
    """How another acquisition of a crop differs; 0 leaves a part out.

    Parameters
    ----------
    shift
        Of brightness; values are cut to the range of the plane.
    photons
        Of a pixel of value 1, for Poisson noise.
    sigma
        Standard deviation of additive Gaussian noise.
    salt, pepper
        Shares of the pixels that become the largest and the least value of their plane.
    """

    shift: float = 0.0
    photons: float = 0.0
    sigma: float = 0.0
    salt: float = 0.0
    pepper: float = 0.0


def random_acquisition(rng: np.random.Generator) -> Acquisition:
    """Another brightness, Poisson noise, Gaussian noise, salt and pepper, each with probability 0.5."""
    shift, photons, sigma, salt, pepper = (
        rng.uniform(-SHIFT, SHIFT),
        math.exp(rng.uniform(*np.log(PHOTONS))),
        rng.uniform(0, SIGMA),
        *rng.uniform(0, PEPPERED, 2),
    )
    bright, shot, read, flipped = rng.random(4) < APPLIED
    return Acquisition(
        shift=shift if bright else 0.0,
        photons=photons if shot else 0.0,
        sigma=sigma if read else 0.0,
        salt=salt if flipped else 0.0,
        pepper=pepper if flipped else 0.0,
    )


def change_acquisition(
    planes: torch.Tensor, changes: Sequence[Acquisition], generator: torch.Generator
) -> torch.Tensor:
    """Apply one `Acquisition` to each of (B, P, Y, X), in the order of its fields: light, then the camera.

    Planes that are empty stay empty, and equal ones stay equal. The light of a pixel is its value over the least
    of its plane.
    """
    device, whole = planes.device, planes.flatten(2)
    low, high = (edge[..., None, None] for edge in torch.aminmax(whole, dim=2))
    used, gray = whole.any(dim=2)[..., None, None], (planes == planes[:, :1]).flatten(1).all(dim=1)

    def some(name: str) -> tuple[list[int], torch.Tensor]:
        numbers = [getattr(change, name) for change in changes]
        crops = [k for k, number in enumerate(numbers) if number]
        return crops, torch.tensor([numbers[k] for k in crops], device=device).view(-1, 1, 1, 1)

    out = planes.clone()
    crops, shift = some("shift")
    if crops:
        out[crops] = torch.clamp(out[crops] + shift, low[crops], high[crops])
    crops, photons = some("photons")
    if crops:
        light = (out[crops] - low[crops]) * photons
        out[crops] = torch.poisson(light, generator=generator) / photons + low[crops]
    crops, sigma = some("sigma")
    if crops:
        shape = (len(crops), *planes.shape[1:])
        out[crops] += sigma * torch.randn(shape, generator=generator, device=device)
    crops = [k for k, change in enumerate(changes) if change.salt or change.pepper]
    if crops:
        salt, pepper = (
            torch.tensor([getattr(changes[k], name) for k in crops], device=device).view(-1, 1, 1, 1)
            for name in ("salt", "pepper")
        )
        where = torch.rand((len(crops), *planes.shape[1:]), generator=generator, device=device)
        flipped = torch.where(where < pepper, low[crops], out[crops])
        out[crops] = torch.where(where > 1 - salt, high[crops], flipped)
    out[gray] = out[gray, :1]
    out = torch.clamp(out, low.clamp(max=BOUNDS[0]), high.clamp(min=BOUNDS[1]))
    return torch.where(used, out, planes)
