"""The camera: photons to grey values, with noise, saturation, resampling and JPEG."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cellweave.core.errors import InputError
from cellweave.simulate.texture import Field, blur, chance, log_uniform, resize

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class Camera:
    """Poisson-Gaussian sensor and the file it is saved to.

    Parameters
    ----------
    photons
        Photo-electrons of a pixel at light 1; the variance of shot noise is the signal in electrons.
    read_noise
        Standard deviation of reading a pixel, in electrons.
    row_noise
        Standard deviation of the offset of a row, in electrons.
    offset
        Grey value of no light, as a part of full scale.
    exposure
        Part of full scale that light 1 reaches; over 1 the brightest saturate.
    gamma
        Display curve ``x ** gamma`` (1 = linear).
    hot
        Part of the pixels that are stuck at a high value.
    sampling
        Pixels are made at this part of the size and interpolated (1 = none): soft, correlated noise.
    sharpen
        Strength of the camera's unsharp mask.
    bits
        8, 12 or 16; 12 bits lie in uint16.
    jpeg
        Quality 1 to 95 of a JPEG round trip, 0 for none; only for 8 bits and one or three channels together.
    """

    photons: float = 1000.0
    read_noise: float = 3.0
    row_noise: float = 0.0
    offset: float = 0.02
    exposure: float = 0.9
    gamma: float = 1.0
    hot: float = 0.0
    sampling: float = 1.0
    sharpen: float = 0.0
    bits: int = 8
    jpeg: int = 0

    def __post_init__(self) -> None:
        if self.bits not in (8, 12, 16):
            raise InputError(f"bits: a camera of {self.bits} bits is not simulated; choose 8, 12 or 16")
        if self.jpeg and self.bits != 8:
            raise InputError(f"jpeg: JPEG holds 8 bits, this camera has {self.bits}; set bits=8 or jpeg=0")
        if not self.photons > 0 or not 0 < self.sampling <= 1:
            raise InputError(
                f"photons must be over 0 and sampling between 0 and 1; they are {self.photons} and {self.sampling}"
            )

    @classmethod
    def random(cls, rng: np.random.Generator, *, color: bool = False, dark: bool = True) -> Camera:
        """A plausible camera.

        `color`: a colour photograph (8 bits, well lit, often sharpened and JPEG). `dark`: a dark field
        (fluorescence), where photons are few; bright fields are well lit.
        """
        photons = log_uniform(rng, 30.0, 10000.0) if dark and not color else log_uniform(rng, 4000.0, 200000.0)
        least = 0.04 if dark and not color else 0.004  # of full light
        bits = 8 if color else int(rng.choice([8, 12, 16], p=[0.6, 0.2, 0.2]))
        exposure = float(rng.uniform(0.85, 1.05)) if color else log_uniform(rng, 0.1, 1.5 if dark else 1.0)
        compressed = bits == 8 and exposure > 0.4 and chance(rng, 0.6 if color else 0.3)
        return cls(
            photons=photons,
            read_noise=min(log_uniform(rng, 0.5, 30.0), least * photons),
            row_noise=log_uniform(rng, 0.1, 0.5) * least * photons if chance(rng, 0.1) else 0.0,
            offset=0.0 if color else float(rng.uniform(0.0, 0.08)),
            exposure=exposure,
            gamma=float(rng.uniform(0.8, 1.2)) if color else (log_uniform(rng, 0.5, 1.5) if chance(rng, 0.2) else 1.0),
            hot=log_uniform(rng, 1e-5, 1e-3) if chance(rng, 0.15) else 0.0,
            sampling=float(rng.uniform(0.45, 0.95)) if chance(rng, 0.3) else 1.0,
            sharpen=float(rng.uniform(0.2, 1.5)) if chance(rng, 0.4 if color else 0.1) else 0.0,
            bits=bits,
            jpeg=int(rng.integers(50, 96)) if compressed else 0,
        )

    def expose(self, light: Field, rng: np.random.Generator) -> Pixels:
        """The picture of `light` (C, Y, X): same shape, uint8 for 8 bits, else uint16."""
        shape = (light.shape[1], light.shape[2])
        values = np.empty(light.shape, dtype=np.float32)
        for number, channel in enumerate(light):
            sampled = resize(channel, _scaled(shape, self.sampling)) if self.sampling < 1 else channel
            electrons = self._noisy(sampled, rng)
            if self.sharpen > 0:
                electrons += np.float32(self.sharpen) * (electrons - blur(electrons, 1.0))
            values[number] = resize(electrons, shape) if self.sampling < 1 else electrons
        return self._digitise(values)

    def _noisy(self, light: Field, rng: np.random.Generator) -> Field:
        """Electrons / photons: shot, read and row noise and hot pixels on one channel."""
        electrons = np.maximum(light, 0.0) * np.float32(self.photons)
        shot = rng.standard_normal(light.shape, dtype=np.float32)
        if self.photons < 60.0:  # few photons: the skew of the Poisson law shows
            electrons = np.maximum(_anscombe(electrons, shot), 0.0)
            electrons += np.float32(self.read_noise) * rng.standard_normal(light.shape, dtype=np.float32)
        else:  # one normal draw with the sum of both variances
            shot *= np.sqrt(electrons + np.float32(self.read_noise**2))
            electrons += shot
        if self.row_noise > 0:
            electrons += np.float32(self.row_noise) * rng.standard_normal((light.shape[0], 1), dtype=np.float32)
        electrons /= np.float32(self.photons)
        if self.hot > 0:
            count = rng.poisson(self.hot * light.size)
            places = rng.integers(0, max(light.size, 1), count)
            electrons.reshape(-1)[places] += rng.uniform(0.3, 2.0, count).astype(np.float32)
        return electrons

    def _digitise(self, values: Field) -> Pixels:
        values *= np.float32(self.exposure)
        values += np.float32(self.offset)
        np.clip(values, 0.0, 1.0, out=values)
        if self.gamma != 1.0:
            np.power(values, np.float32(self.gamma), out=values)
        values *= np.float32(2**self.bits - 1)
        np.rint(values, out=values)
        if self.bits > 8:
            return values.astype(np.uint16)
        pixels = values.astype(np.uint8)
        return jpeg_round_trip(pixels, self.jpeg) if self.jpeg else pixels


def _anscombe(mean: Field, normal: Field) -> Field:
    """Nearly Poisson numbers from standard normal ones: ``(sqrt(mean) + z / 2)**2 - 1/4`` (Anscombe, 1948)."""
    return cast(Field, (np.sqrt(mean) + np.float32(0.5) * normal) ** 2 - np.float32(0.25))


def _scaled(shape: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def jpeg_round_trip(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """`pixels` (C, Y, X) uint8 through a JPEG file: three channels as one colour picture, others one by one."""
    if pixels.size == 0:
        return pixels.copy()
    if len(pixels) == 3:
        return np.ascontiguousarray(np.moveaxis(_jpeg(np.moveaxis(pixels, 0, -1), quality), -1, 0))
    return np.stack([_jpeg(channel, quality) for channel in pixels])


def _jpeg(picture: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))
