"""Fluorescence: light from stained nuclei, cytoplasm, membranes and reporters on a dark background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np

from cellweave.core.errors import InputError
from cellweave.simulate.geometry import Geometry
from cellweave.simulate.texture import (
    Anatomy,
    Field,
    blur,
    chance,
    fibres,
    fractal,
    log_uniform,
    network,
    noise,
    per_cell,
    selected,
    smoothstep,
    specks,
)

CHANNELS = ("nuclei", "cytoplasm", "membrane", "reporter")
PLACES = ("nucleus", "cytoplasm", "shuttling", "membrane", "speckles", "network", "filaments")
_WHOLE = ("cytoplasm", "shuttling", "membrane", "network", "filaments")  # these show the whole cell

_SHOWN = {  # how often each set of channels is drawn
    ("cytoplasm", "nuclei"): 0.34,
    ("cytoplasm",): 0.22,
    ("membrane", "nuclei"): 0.14,
    ("membrane",): 0.08,
    ("reporter", "nuclei"): 0.12,
    ("cytoplasm", "reporter", "nuclei"): 0.05,
    ("reporter", "reporter", "membrane", "nuclei"): 0.05,
}


@dataclass(frozen=True)
class Fluorescence:
    """One to four fluorescence channels.

    Parameters
    ----------
    channels
        What each channel shows, of `CHANNELS`, in order; "reporter" may come more than once.
    places
        Where the reporters sit, of `PLACES`; one a reporter, the last one for all further reporters.
    variation
        Log-normal sigma of brightness between cells; 1 is a factor of 2.7 either way.
    texture
        Contrast of the cloudy texture inside cells (0 = smooth).
    grain
        Length of that texture as a part of the cell's diameter.
    granules
        Brightness of vesicles and speckles relative to the cytoplasm; negative for dark vacuoles.
    perinuclear
        How much brighter the cytoplasm is around the nucleus.
    shadow
        What the nucleus does to the cytoplasm channel: 1 a dark hole, 0 nothing, negative brighter.
    edge
        Width of the soft border of cells as a part of their diameter; touching cells of width 0 have no seam.
    flatness
        1 for cells of even thickness, 0 for domes.
    nucleoli
        Depth of the holes in nuclei (positive) or brightness of their chromocentres (negative).
    mitotic, defocused
        Parts of the nuclei that are condensed and bright, and that are out of focus.
    rim
        Width of membranes as a part of the cell's diameter.
    gaps
        Part of the membrane that is not stained.
    dark
        Part of the cells that a reporter leaves dark.
    bleed
        Part of the light of the other channels that each channel shows too.
    fibrous
        Strength of tissue fibres in the background light.
    background, haze
        Even background light, and light of the cells themselves spread over half a cell, relative to the brightest.
    """

    color: ClassVar[bool] = False
    dark_field: ClassVar[bool] = True

    channels: tuple[str, ...] = ("cytoplasm", "nuclei")
    places: tuple[str, ...] = ("cytoplasm",)
    variation: float = 0.3
    texture: float = 0.25
    grain: float = 0.08
    granules: float = 0.3
    perinuclear: float = 0.8
    shadow: float = 0.4
    edge: float = 0.05
    flatness: float = 0.5
    nucleoli: float = 0.35
    mitotic: float = 0.02
    defocused: float = 0.0
    rim: float = 0.04
    gaps: float = 0.1
    dark: float = 0.2
    bleed: float = 0.0
    fibrous: float = 0.0
    background: float = 0.05
    haze: float = 0.1

    def __post_init__(self) -> None:
        _check("channels", self.channels, CHANNELS)
        _check("places", self.places, PLACES)

    @classmethod
    def random(cls, rng: np.random.Generator, *, channels: str = "", kind: str = "") -> Fluorescence:
        """A plausible microscope.

        `channels`: "cytoplasm,nuclei" shows these; "" draws them. `kind`: "bacteria" for small cells without
        visible organelles, "tissue" for crowded thick samples, "" for cultured cells.
        """
        shown = tuple(channels.split(",")) if channels else _draw_channels(rng)
        bacteria, tissue = kind == "bacteria", kind == "tissue"
        outlined = "cytoplasm" in shown or "membrane" in shown
        places = [str(place) for place in rng.choice(PLACES, size=max(1, shown.count("reporter")))]
        if not outlined:  # only the first reporter can show where cells end
            places[0] = str(rng.choice(_WHOLE))
        return cls(
            channels=shown,
            places=tuple(places),
            variation=log_uniform(rng, 0.08, 0.5 if bacteria else 0.75),
            texture=float(rng.uniform(0.02, 0.15) if bacteria else rng.uniform(0.05, 0.6)),
            grain=log_uniform(rng, 0.02, 0.2),
            granules=0.0 if bacteria or chance(rng, 0.3) else float(rng.uniform(-0.6, 1.2)),
            perinuclear=0.0 if bacteria else float(rng.uniform(0.0, 2.5)),
            shadow=float(rng.uniform(-0.4, 0.95)),
            edge=log_uniform(rng, 0.01, 0.15),
            flatness=float(rng.uniform(0.0, 1.0)),
            nucleoli=0.0 if bacteria else float(rng.uniform(-1.2, 0.0) if chance(rng, 0.3) else rng.uniform(0.0, 0.7)),
            mitotic=0.0 if bacteria else float(rng.uniform(0.0, 0.06)),
            defocused=float(rng.uniform(0.1, 0.6)) if chance(rng, 0.6 if tissue else 0.12) else 0.0,
            rim=log_uniform(rng, 0.015, 0.09),
            gaps=float(rng.uniform(0.0, 0.5)) if chance(rng, 0.6) else 0.0,
            dark=float(rng.uniform(0.0, 0.6)) if outlined else 0.0,
            bleed=log_uniform(rng, 0.02, 0.5) if chance(rng, 0.3) else 0.0,
            fibrous=float(rng.uniform(0.3, 3.0)) if chance(rng, 0.5 if tissue else 0.05) else 0.0,
            background=log_uniform(rng, 0.005, 0.25),
            haze=log_uniform(rng, 0.02, 0.6 if tissue else 0.35),
        )

    def render(self, geometry: Geometry, rng: np.random.Generator) -> tuple[Field, tuple[str, ...]]:
        """Light (C, Y, X) float32 of about 0 to 1 that reaches the lens, and the names of the channels."""
        anatomy = Anatomy(geometry)
        light = np.empty((len(self.channels), *geometry.shape), dtype=np.float32)
        seen = 0
        names = []
        for number, channel in enumerate(self.channels):
            if channel == "reporter":
                place = self.places[min(seen, len(self.places) - 1)]
                seen += 1
                signal = _reporter(self, place, anatomy, rng)
                names.append(f"reporter {seen}" if self.channels.count("reporter") > 1 else channel)
            else:
                paint = {"nuclei": _nuclei, "cytoplasm": _cytoplasm, "membrane": _membrane}[channel]
                signal = paint(self, anatomy, rng)
                names.append(channel)
            light[number] = _with_background(self, signal, anatomy, rng)
        if self.bleed > 0 and len(light) > 1:
            light += np.float32(self.bleed) * (light.sum(axis=0) - light) / np.float32(len(light) - 1)
        return light, tuple(names)


def _check(name: str, values: tuple[str, ...], known: tuple[str, ...]) -> None:
    unknown = [value for value in values if value not in known]
    if unknown or not values:
        raise InputError(f"{name}: {unknown or 'nothing'} cannot be shown; choose one or more of {', '.join(known)}")


def _draw_channels(rng: np.random.Generator) -> tuple[str, ...]:
    sets = list(_SHOWN)
    return sets[int(rng.choice(len(sets), p=list(_SHOWN.values())))]


def _with_background(own: Fluorescence, signal: Field, anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """The brightest cells to about 0.9, out-of-focus light and a cloudy background added."""
    lit = signal[anatomy.inside][::7]
    top = float(np.quantile(lit, 0.98)) if lit.size else 1.0
    signal = signal * np.float32(0.9 / max(top, 1e-3))
    if own.haze > 0:
        signal += np.float32(own.haze) * blur(signal, 0.5 * anatomy.size)
    clouds = 1.0 + np.float32(0.25) * noise(anatomy.shape, 1.5 * anatomy.size, rng)
    if own.fibrous > 0:
        clouds += np.float32(own.fibrous) * fibres(anatomy.shape, max(0.08 * anatomy.size, 0.8), rng, waves=2.0)
    signal += np.float32(own.background) * np.maximum(clouds, 0.1)
    return np.clip(signal, 0.0, 4.0, out=signal)


def _dome(depth: Field, radius: float) -> Field:
    """Thickness of a body with round edges of `radius` px: 0 at its border, 1 from `radius` on."""
    t = np.minimum(depth / np.float32(max(radius, 1.0)), 1.0)
    return cast(Field, np.sqrt(t * (2.0 - t)))


def _texture(own: Fluorescence, length: float, anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """A positive field of mean about 1."""
    field = 1.0 + np.float32(own.texture) * fractal(anatomy.shape, max(length, 0.6), rng, octaves=2)
    return cast(Field, np.maximum(field, 0.05, out=field))


def _nuclei(own: Fluorescence, anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """DNA stain: domes with chromatin, nucleoli or chromocentres; some condensed, some out of focus."""
    size, n = anatomy.nuclear_size, anatomy.n
    brightness = per_cell(n, min(own.variation, 0.6), rng)
    mitotic = selected(n, own.mitotic, rng)
    brightness[mitotic] *= rng.uniform(1.5, 3.0)
    chromatin = _texture(own, 0.6 * own.grain * size + 0.3, anatomy, rng)
    if own.nucleoli and size > 9:
        spots = smoothstep(noise(anatomy.shape, 0.055 * size, rng), 0.9, 1.7)
        chromatin *= 1.0 - np.float32(own.nucleoli) * spots
    signal = brightness[anatomy.nuclei] * chromatin * _dome(anatomy.nuclear_depth, (0.5 - 0.38 * own.flatness) * size)
    if own.defocused:
        lost = selected(n, own.defocused, rng)[anatomy.nuclei]
        signal = np.where(lost, 0.0, signal) + blur(np.where(lost, signal, 0.0), rng.uniform(0.08, 0.25) * size)
    return cast(Field, signal.astype(np.float32))


def _profile(own: Fluorescence, anatomy: Anatomy) -> Field:
    """Thickness of the stained cytoplasm: between the sample's height and an even layer with soft edges."""
    even = np.minimum(anatomy.depth / np.float32(max(own.edge * anatomy.size, 1.0)), 1.0)
    thick = np.clip(anatomy.height, 0.0, 2.0) * 0.9 + 0.1
    return cast(Field, even * (own.flatness + (1.0 - own.flatness) * thick))


def _cytoplasm(own: Fluorescence, anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """A stain of the whole cell: brighter and thicker near the nucleus, vesicles, the nucleus dimmer or brighter."""
    size = anatomy.size
    signal = _profile(own, anatomy) * _texture(own, own.grain * size, anatomy, rng)
    if anatomy.has_nuclei:
        signal *= 1.0 + np.float32(own.perinuclear) * anatomy.perinuclear
        edge = blur(anatomy.nucleus, max(0.02 * size, 0.5))
        signal *= 1.0 - np.float32(min(own.shadow, 0.95)) * edge
    if own.granules and size > 12:
        signal *= np.maximum(1.0 + np.float32(own.granules) * _granules(anatomy, rng), 0.1)
    if chance(rng, 0.15) and size > 16:
        signal *= 0.5 + fibres(anatomy.shape, max(0.02 * size, 0.7), rng)
    return cast(Field, per_cell(anatomy.n, own.variation, rng)[anatomy.labels] * signal)


def _granules(anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """Vesicles: a few to a hundred in a cell, each a few per cent of its diameter."""
    size = anatomy.size
    a_cell = log_uniform(rng, 4.0, 80.0)
    count = a_cell * anatomy.labels.size / (0.8 * size**2)
    return specks(anatomy.shape, count, log_uniform(rng, 0.012, 0.04) * size, rng)


def _membrane(own: Fluorescence, anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """Rims along all cell borders (shared ones get the light of both sides), with gaps and cytoplasmic haze."""
    size = anatomy.size
    width = max(own.rim * size, 0.8)
    rim = np.exp(-(anatomy.depth / np.float32(width)))
    if own.gaps:
        patches = noise(anatomy.shape, max(0.12 * size, 1.0), rng)
        rim *= 0.15 + 0.85 * smoothstep(patches, 2.0 * own.gaps - 1.6, 2.0 * own.gaps - 0.4)
    if size > 10:
        rim *= _texture(own, 0.03 * size, anatomy, rng)
    filling = np.float32(rng.uniform(0.0, 0.3)) * _profile(own, anatomy)
    return cast(Field, per_cell(anatomy.n, 0.7 * own.variation, rng)[anatomy.labels] * (rim + filling))


def _reporter(own: Fluorescence, place: str, anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """A fluorescent protein at `place`; some cells do not express it, the others by very different amounts."""
    if place == "nucleus":
        signal = _nuclei(own, anatomy, rng) + np.float32(rng.uniform(0.0, 0.2)) * anatomy.body
    elif place == "membrane":
        signal = _membrane(own, anatomy, rng)
    elif place == "cytoplasm":
        signal = _cytoplasm(own, anatomy, rng)
    elif place == "shuttling":  # each cell has its own balance of nucleus and cytoplasm
        balance = rng.random(anatomy.n + 1, dtype=np.float32)[anatomy.labels]
        edge = blur(anatomy.nucleus, max(0.02 * anatomy.size, 0.5))
        signal = _profile(own, anatomy) * (balance * edge + (1.0 - balance) * (1.0 - edge))
    else:
        signal = _organelles(own, place, anatomy, rng)
    expressed = np.where(selected(anatomy.n, own.dark, rng), np.float32(0.04), per_cell(anatomy.n, own.variation, rng))
    return cast(Field, (expressed.astype(np.float32)[anatomy.labels] * signal).astype(np.float32))


def _organelles(own: Fluorescence, place: str, anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """Speckles, a network or filaments of the cytoplasm over a weak diffuse part; not in the nucleus."""
    size = anatomy.size
    if place == "speckles":
        pattern = 1.5 * _granules(anatomy, rng)
    elif place == "network":
        pattern = network(anatomy.shape, max(0.05 * size, 1.0), rng) * (0.2 + 1.2 * anatomy.perinuclear)
    else:
        pattern = fibres(anatomy.shape, max(0.025 * size, 0.8), rng, stretch=float(rng.uniform(5.0, 20.0)))
    outside_nucleus = 1.0 - 0.85 * anatomy.nucleus
    diffuse = np.float32(rng.uniform(0.1, 0.6))
    return cast(Field, _profile(own, anatomy) * outside_nucleus * (pattern + diffuse))
