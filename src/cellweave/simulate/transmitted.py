"""Unstained cells in transmitted light: phase contrast, DIC and brightfield from the optical path of the sample.

A cell delays the light by its thickness times the difference of refractive index. The field behind the sample
is ``exp(i * phase)``; each microscope turns it into brightness in its own way.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sin
from typing import ClassVar, cast

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from cellweave.simulate.geometry import Geometry
from cellweave.simulate.texture import (
    Anatomy,
    Field,
    blur,
    chance,
    fibres,
    fractal,
    log_uniform,
    noise,
    per_cell,
    smoothstep,
    specks,
)

_HIGHEST = 3.0  # brightest light that is passed on, in units of a full camera well
_SMOOTH = {"texture": 0.0, "ruffles": 0.0, "granules": 0.0, "nucleus": 0.0, "nucleoli": 0.0, "rim": 0.0}
_PAD = 24  # px of mirrored border around a field that is propagated


@dataclass(frozen=True)
class TransmittedLight:
    """What is inside unstained cells, in units of the thickness of a cell's middle; the base of the microscopes below.

    Parameters
    ----------
    variation
        Log-normal sigma of the height of the cells.
    texture
        Contrast of the cloudy cytoplasm.
    grain
        Its length as a part of the cell's diameter.
    granules, granule_size
        Height of granules (some are vacuoles, of the other sign), and sigma as a part of the cell's diameter.
    crowd
        Granules in a cell.
    nucleus
        Height of the nucleus above the cytoplasm; negative for a clear nucleus.
    nucleoli
        Height of the nucleoli.
    rim
        Height of the thickened border; negative for a groove between touching cells.
    ruffles
        Height of folds and fibres.
    """

    variation: float = 0.1
    texture: float = 0.15
    grain: float = 0.06
    granules: float = 0.3
    granule_size: float = 0.02
    crowd: float = 30.0
    nucleus: float = 0.1
    nucleoli: float = 0.3
    rim: float = 0.1
    ruffles: float = 0.0

    def path(self, geometry: Geometry, rng: np.random.Generator) -> Field:
        """Optical path (Y, X) of the sample, about 1 in the middle of a cell, 0 outside."""
        anatomy = Anatomy(geometry)
        size, shape = anatomy.size, anatomy.shape
        heights = per_cell(anatomy.n, self.variation, rng)
        heights[0] = 1.0
        path = anatomy.height * heights[anatomy.labels]
        if self.texture > 0 and size > 5:
            path *= 1.0 + np.float32(self.texture) * fractal(shape, max(self.grain * size, 0.7), rng, octaves=2)
        extra = np.zeros(shape, dtype=np.float32)
        if self.rim:
            extra += np.float32(self.rim) * np.exp(-(anatomy.depth / np.float32(max(0.05 * size, 1.0))))
        if self.granules and size > 12:
            around = (0.25 + anatomy.perinuclear) if anatomy.has_nuclei else np.float32(1.0)
            extra += np.float32(self.granules) * around * self._granules(anatomy, rng)
        if self.ruffles > 0 and size > 16:
            extra += np.float32(self.ruffles) * fibres(shape, max(0.02 * size, 0.8), rng, waves=2.0)
        if anatomy.has_nuclei and size > 10:
            extra += np.float32(self.nucleus) * blur(anatomy.nucleus, 0.02 * size + 0.3)
            if self.nucleoli > 0:
                spots = smoothstep(noise(shape, 0.08 * anatomy.nuclear_size, rng), 1.0, 2.2)
                extra += np.float32(self.nucleoli) * spots * anatomy.nucleus
        return cast(Field, path + extra * anatomy.body)

    def _granules(self, anatomy: Anatomy, rng: np.random.Generator) -> Field:
        count = self.crowd * anatomy.labels.size / (0.8 * anatomy.size**2)
        sigma = self.granule_size * anatomy.size
        bright = specks(anatomy.shape, 0.7 * count, sigma, rng)
        return cast(Field, bright - specks(anatomy.shape, 0.3 * count, 1.5 * sigma, rng))


def _contents(rng: np.random.Generator, kind: str) -> dict[str, float]:
    """Plausible contents of cells: the fields of `TransmittedLight`."""
    if kind == "bacteria":
        return {**_SMOOTH, "texture": float(rng.uniform(0.0, 0.12))}
    if kind == "yeast":
        return {
            **_SMOOTH,
            "texture": float(rng.uniform(0.02, 0.2)),
            "grain": log_uniform(rng, 0.06, 0.15),
            "granules": float(rng.uniform(-0.4, 0.6)),
            "granule_size": log_uniform(rng, 0.04, 0.14),
            "crowd": log_uniform(rng, 1.0, 8.0),
            "nucleus": float(rng.uniform(-0.3, 0.3)),
            "rim": float(rng.uniform(0.0, 0.5)),
        }
    crowd = log_uniform(rng, 5.0, 120.0)
    return {
        "variation": float(rng.uniform(0.0, 0.3)),
        "texture": log_uniform(rng, 0.015, 0.15),
        "grain": log_uniform(rng, 0.02, 0.1),
        "granules": float(rng.uniform(0.0, 0.8)) * min(1.0, (20.0 / crowd) ** 0.5),
        "granule_size": log_uniform(rng, 0.01, 0.03),
        "crowd": crowd,
        "nucleus": float(rng.uniform(-0.15, 0.35)),
        "nucleoli": float(rng.uniform(0.0, 0.6)),
        "rim": float(rng.uniform(-0.6, -0.1) if chance(rng, 0.7) else rng.uniform(0.0, 0.3)),
        "ruffles": float(rng.uniform(0.03, 0.25)) if chance(rng, 0.35) else 0.0,
    }


def _calmed(contents: dict[str, float], factor: float) -> dict[str, float]:
    """`contents` with fine structure weaker by `factor`, so that it does not drown the outlines of cells."""
    return {**contents, **{name: factor * contents[name] for name in ("texture", "ruffles", "granules")}}


@dataclass(frozen=True)
class PhaseContrast(TransmittedLight):
    """Zernike's phase contrast: the undiffracted light is dimmed and shifted by a quarter wave.

    The phase plate is a ring, so it also catches light that the sample bends a little: seen as the halo around
    cells and the shade-off inside large flat ones (Otaki, 2000). Here the ring takes a Gaussian low-pass of the field:
    ``E = u - (1 + i * a) * lowpass(u)``, dark cells for positive contrast, and brightness ``|E|**2 / a**2``.

    Parameters
    ----------
    phase
        Phase in radians of the middle of a cell.
    ring
        Amplitude `a` that the phase plate lets through; lower is more contrast.
    halo
        Sigma of the halo as a part of the cell's diameter.
    negative
        Bright cells instead of dark ones.
    defocus
        Fresnel length of the distance from focus, as a part of the cell's diameter, with its sign.
    mottle
        Phase noise of the medium in radians.
    level
        Brightness of the background.
    """

    color: ClassVar[bool] = False
    dark_field: ClassVar[bool] = False

    phase: float = 1.0
    ring: float = 0.6
    halo: float = 0.12
    negative: bool = False
    defocus: float = 0.0
    mottle: float = 0.03
    level: float = 0.4

    @classmethod
    def random(cls, rng: np.random.Generator, *, kind: str = "") -> PhaseContrast:
        """A plausible microscope; `kind` "bacteria" and "yeast" for smooth cells, "" for cultured cells."""
        small = kind in ("bacteria", "yeast")
        phase = log_uniform(rng, 0.5, 1.8) if small else log_uniform(rng, 0.3, 2.6)
        return cls(
            **_calmed(_contents(rng, kind), 1.0 / max(phase, 1.0)),
            phase=phase,
            ring=log_uniform(rng, 0.4, 1.2),
            halo=log_uniform(rng, 0.15, 0.8) if small else log_uniform(rng, 0.04, 0.25),
            negative=chance(rng, 0.06),
            defocus=float(rng.normal(0.0, 0.05)) if chance(rng, 0.5) else 0.0,
            mottle=log_uniform(rng, 0.003, 0.03) * min(phase, 1.0),
            level=float(rng.uniform(0.32, 0.6)),
        )

    def render(self, geometry: Geometry, rng: np.random.Generator) -> tuple[Field, tuple[str, ...]]:
        """Light (1, Y, X) float32, background at `level`, and the channel's name."""
        size = geometry.diameter or 24.0
        phase = np.float32(self.phase) * self.path(geometry, rng)
        phase += np.float32(self.mottle) * noise(geometry.shape, log_uniform(rng, 0.8, 3.0), rng)
        real, imaginary = np.cos(phase), np.sin(phase)
        if self.defocus:
            length = self.defocus * size
            wave = propagate(_wave(np.float32(1.0), phase), length * abs(length))
            real, imaginary = wave.real, wave.imag
        near, far = max(self.halo * size, 1.0), 3.0 * max(self.halo * size, 1.0)
        low_real = 0.65 * blur(real, near) + 0.35 * blur(real, far)
        low_imaginary = 0.65 * blur(imaginary, near) + 0.35 * blur(imaginary, far)
        ring = np.float32(-self.ring if self.negative else self.ring)
        real = real - low_real + ring * low_imaginary
        imaginary = imaginary - low_imaginary - ring * low_real
        light = (real**2 + imaginary**2) * np.float32(self.level / self.ring**2)
        return _one(light), ("phase",)


@dataclass(frozen=True)
class Dic(TransmittedLight):
    """Differential interference contrast: grey relief, the slope of the optical path along the shear (Nomarski).

    Parameters
    ----------
    azimuth
        Direction of the shear in radians; turned by pi, light and shadow change sides.
    gain
        Contrast of the steepest slopes.
    shear
        Distance in px of the two beams; at most an eighth of the cell's diameter.
    shading
        Uneven background, a part of `level`; strongest along the shear.
    mottle
        Relief of the medium, as a part of a cell's height.
    level
        Brightness of the background.
    """

    color: ClassVar[bool] = False
    dark_field: ClassVar[bool] = False

    azimuth: float = pi / 4
    gain: float = 0.5
    shear: float = 1.0
    shading: float = 0.1
    mottle: float = 0.01
    level: float = 0.45

    @classmethod
    def random(cls, rng: np.random.Generator, *, kind: str = "") -> Dic:
        """A plausible microscope; `kind` "bacteria" and "yeast" for smooth cells, "" for cultured cells."""
        return cls(
            **_calmed(_contents(rng, kind), 0.3),  # slopes show fine relief more than phase does
            azimuth=float(rng.uniform(0.0, 2.0 * pi)),
            gain=log_uniform(rng, 0.25, 1.2),
            shear=float(rng.uniform(0.5, 2.0)),
            shading=float(rng.uniform(0.0, 0.35)),
            mottle=log_uniform(rng, 0.0005, 0.01),
            level=float(rng.uniform(0.3, 0.6)),
        )

    def render(self, geometry: Geometry, rng: np.random.Generator) -> tuple[Field, tuple[str, ...]]:
        """Light (1, Y, X) float32, background at `level`, and the channel's name."""
        path = self.path(geometry, rng)
        path += np.float32(self.mottle) * noise(geometry.shape, log_uniform(rng, 0.8, 4.0), rng)
        size = geometry.diameter or 24.0
        slope = slope_along(blur(path, 0.4 * min(self.shear, 0.12 * size)), self.azimuth) * np.float32(0.25 * size)
        relief = np.tanh(np.float32(self.gain) * slope)
        rows = np.linspace(-1.0, 1.0, geometry.shape[0], dtype=np.float32)[:, None]
        columns = np.linspace(-1.0, 1.0, geometry.shape[1], dtype=np.float32)
        ramp = np.float32(sin(self.azimuth)) * rows + np.float32(cos(self.azimuth)) * columns
        cloud = noise(geometry.shape, 0.4 * max(geometry.shape), rng)
        background = 1.0 + np.float32(self.shading) * (0.5 * ramp + 0.25 * cloud)
        return _one(np.float32(self.level) * (background + 0.9 * relief)), ("dic",)


@dataclass(frozen=True)
class Brightfield(TransmittedLight):
    """Brightfield: absorption in focus; out of focus, Fresnel rings that change sign with the side of the focus.

    Close to focus the brightness follows the transport of intensity, ``1 - z * laplacian(phase)``; here the
    field is propagated by the angular spectrum (Goodman, Introduction to Fourier Optics, section 3.10).

    Parameters
    ----------
    phase
        Phase in radians of the middle of a cell.
    defocus
        Fresnel length ``sqrt(wavelength * distance)`` as a part of the cell's diameter, with the sign of the
        distance; at most 8 px and a twentieth of the diameter.
    coherence
        How many rings are seen: blur of the rings as a part of the Fresnel length (0.1 many, 0.5 one).
    absorption
        Optical density of the middle of a cell.
    mottle
        Phase noise of the medium in radians.
    level
        Brightness of the background.
    """

    color: ClassVar[bool] = False
    dark_field: ClassVar[bool] = False

    phase: float = 1.0
    defocus: float = 0.1
    coherence: float = 0.3
    absorption: float = 0.05
    mottle: float = 0.01
    level: float = 0.6

    @classmethod
    def random(cls, rng: np.random.Generator, *, kind: str = "") -> Brightfield:
        """A plausible microscope; `kind` "bacteria" and "yeast" for smooth cells, "" for cultured cells."""
        sign = -1.0 if chance(rng, 0.5) else 1.0
        phase = log_uniform(rng, 0.8, 4.0)
        return cls(
            **_calmed(_contents(rng, kind), 1.0 / max(phase, 1.0)),
            phase=phase,
            defocus=sign * log_uniform(rng, 0.05, 0.35),
            coherence=log_uniform(rng, 0.12, 0.5),
            absorption=log_uniform(rng, 0.02, 0.5),
            mottle=log_uniform(rng, 0.002, 0.03) * min(phase, 1.0),
            level=float(rng.uniform(0.35, 0.7)),
        )

    def render(self, geometry: Geometry, rng: np.random.Generator) -> tuple[Field, tuple[str, ...]]:
        """Light (1, Y, X) float32, background at `level`, and the channel's name."""
        size = geometry.diameter or 24.0
        path = self.path(geometry, rng)
        phase = np.float32(self.phase) * path
        phase += np.float32(self.mottle) * noise(geometry.shape, log_uniform(rng, 0.8, 3.0), rng)
        amplitude = np.exp(np.float32(-0.5 * self.absorption) * path)
        length = min(max(abs(self.defocus) * size, 0.8), 8.0 + 0.05 * size) * float(np.sign(self.defocus))
        wave = propagate(_wave(amplitude, phase), length * abs(length))
        light = blur(wave.real**2 + wave.imag**2, self.coherence * abs(length))
        return _one(np.float32(self.level) * light), ("brightfield",)


def _one(light: Field) -> Field:
    return np.clip(light, 0.0, _HIGHEST).astype(np.float32)[None]


def _wave(amplitude: Field | np.float32, phase: Field) -> NDArray[np.complex64]:
    """``amplitude * exp(i * phase)``, a few times faster than the complex exponential."""
    wave = np.empty(phase.shape, dtype=np.complex64)
    np.multiply(amplitude, np.cos(phase), out=wave.real)
    np.multiply(amplitude, np.sin(phase), out=wave.imag)
    return wave


def slope_along(field: Field, azimuth: float) -> Field:
    """Derivative of `field` (Y, X) per px along `azimuth`: 0 to the right, pi / 2 down; 0 along an axis of one px."""
    slope = np.zeros_like(field)
    if field.shape[0] > 1:
        slope += np.float32(sin(azimuth)) * np.gradient(field, axis=0)
    if field.shape[1] > 1:
        slope += np.float32(cos(azimuth)) * np.gradient(field, axis=1)
    return slope


@lru_cache(maxsize=8)
def _squared_frequency(shape: tuple[int, int]) -> Field:
    rows, columns = fft.fftfreq(shape[0])[:, None], fft.fftfreq(shape[1])
    squared = (rows**2 + columns**2).astype(np.float32)
    squared.flags.writeable = False
    return cast(Field, squared)


def propagate(wave: NDArray[np.complex64], distance: float) -> NDArray[np.complex64]:
    """`wave` (Y, X) after `distance` (wavelength times path, in px**2; negative is backwards), borders mirrored.

    Transfer function ``exp(-i * pi * distance * f**2)``, the Fresnel approximation, with a soft aperture at the
    highest frequency of the grid.
    """
    shape = wave.shape
    wide = [fft.next_fast_len(size + 2 * _PAD) for size in shape]
    borders = [(_PAD, total - size - _PAD) for size, total in zip(shape, wide, strict=True)]
    squared = _squared_frequency((wide[0], wide[1]))
    transfer = _wave(np.exp(-4.0 * squared), np.float32(-pi * distance) * squared)
    spectrum = fft.fft2(np.pad(wave, borders, mode="symmetric"))
    out = fft.ifft2(spectrum * transfer)
    return cast(NDArray[np.complex64], out[_PAD : _PAD + shape[0], _PAD : _PAD + shape[1]])
