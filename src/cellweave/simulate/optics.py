"""The lens between sample and camera: point spread, focus, illumination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy import ndimage

from cellweave.simulate.texture import Field, blur, chance, log_uniform, noise, smoothstep


@dataclass(frozen=True)
class Optics:
    """Point spread and illumination.

    Parameters
    ----------
    sigma
        Gaussian core of the point spread function in px.
    tails
        Part of the light that goes to wide tails (four times the core; side lobes and scatter).
    astigmatism
        Ratio of the blur along rows to that along columns.
    motion
        Length of a straight smear in px; 0 for none. It runs along rows or columns.
    defocus
        Sigma in px of the parts of the field that are out of focus; 0 for an even field.
    vignette
        Loss of light in the corners, 0 to 1.
    uneven
        Relative strength of the uneven illumination (a smooth factor).
    glow
        Strength of an uneven background that is added, in units of light.
    """

    sigma: float = 0.8
    tails: float = 0.0
    astigmatism: float = 1.0
    motion: float = 0.0
    defocus: float = 0.0
    vignette: float = 0.0
    uneven: float = 0.0
    glow: float = 0.0

    @classmethod
    def random(cls, rng: np.random.Generator, *, diameter: float = 30.0, dark: bool = True) -> Optics:
        """A plausible lens for cells of `diameter` px.

        `dark`: whether the background is dark (fluorescence); a bright field gets no added glow.
        """
        widest = min(max(0.05 * diameter, 0.6), 3.0)
        return cls(
            sigma=log_uniform(rng, 0.3, widest),
            tails=float(rng.uniform(0.05, 0.4)) if chance(rng, 0.35) else 0.0,
            astigmatism=log_uniform(rng, 0.7, 1.4) if chance(rng, 0.1) else 1.0,
            motion=min(float(rng.uniform(1.0, 4.0)), 0.15 * diameter) if chance(rng, 0.04) else 0.0,
            defocus=log_uniform(rng, 0.02, 0.1) * diameter if chance(rng, 0.1) else 0.0,
            vignette=float(rng.uniform(0.05, 0.5)) if chance(rng, 0.3) else 0.0,
            uneven=float(rng.uniform(0.02, 0.3)) if chance(rng, 0.5) else 0.0,
            glow=log_uniform(rng, 0.01, 0.2) if dark and chance(rng, 0.3) else 0.0,
        )

    def apply(self, light: Field, rng: np.random.Generator) -> Field:
        """`light` (C, Y, X) float32 as it falls on the camera, same shape; never negative."""
        light = np.stack([self._spread(channel) for channel in light])
        shape = (light.shape[1], light.shape[2])
        if self.defocus > 0:
            mix = smoothstep(noise(shape, 0.3 * max(shape), rng), -0.3, 1.2)
            light += mix * (np.stack([blur(channel, self.defocus) for channel in light]) - light)
        if self.vignette > 0 or self.uneven > 0:
            light *= illumination(shape, self.vignette, self.uneven, rng)
        if self.glow > 0:
            light += np.float32(self.glow) * smoothstep(noise(shape, 0.4 * max(shape), rng), -2.0, 2.0)
        return cast(Field, np.maximum(light, 0.0, out=light))

    def _spread(self, channel: Field) -> Field:
        if self.astigmatism != 1.0:
            ratio = float(np.sqrt(self.astigmatism))
            sigmas = (self.sigma * ratio, self.sigma / ratio)
            out = cast(Field, ndimage.gaussian_filter(channel, sigmas, mode="reflect", truncate=3.0))
        else:
            out = blur(channel, self.sigma)
        if self.tails > 0:
            out += np.float32(self.tails) * (blur(channel, 4.0 * max(self.sigma, 0.5)) - out)
        if self.motion >= 1:
            axis = int(self.astigmatism < 1.0)
            out = ndimage.uniform_filter1d(out, round(self.motion) + 1, axis=axis, mode="reflect")
        return out


def illumination(shape: tuple[int, int], vignette: float, uneven: float, rng: np.random.Generator) -> Field:
    """Factor (Y, X) of the light: a tilt and a smooth field of strength `uneven`, corners darker by `vignette`."""
    rows = np.linspace(-1.0, 1.0, shape[0], dtype=np.float32)[:, None]
    columns = np.linspace(-1.0, 1.0, shape[1], dtype=np.float32)
    tilt = rng.uniform(-1.0, 1.0, 2).astype(np.float32)
    field = 1.0 + np.float32(uneven) * (tilt[0] * rows + tilt[1] * columns)
    if uneven > 0:
        field += np.float32(0.5 * uneven) * noise(shape, 0.35 * max(shape), rng)
    centre = rng.uniform(-0.2, 0.2, 2).astype(np.float32)
    field *= 1.0 - np.float32(0.5 * vignette) * ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2)
    return cast(Field, np.maximum(field, 0.05))
