"""Stained samples in white light: colour photographs of tissue, smears and cytology.

Stains absorb: the light of a colour is ``white * exp(-sum(concentration * density))`` (Beer-Lambert), with the
optical densities of the stains as Ruifrok & Johnston (2001) measured them, varied from picture to picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
from numpy.typing import NDArray

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

Color = tuple[float, float, float]

# optical density (natural log) of red, green, blue at concentration 1: nuclear stain, counterstain, third stain
_STAINS: dict[str, tuple[Color, Color, Color]] = {
    "he": ((1.15, 1.3, 0.55), (0.10, 0.75, 0.25), (0.25, 1.6, 1.0)),  # haematoxylin, eosin, red blood cells
    "ihc": ((0.95, 0.65, 0.3), (0.25, 0.22, 0.12), (0.6, 1.1, 1.6)),  # haematoxylin, its haze, DAB
    "blood": ((1.0, 1.6, 0.55), (0.3, 0.32, 0.1), (0.2, 0.55, 0.5)),  # azure, basophilic cytoplasm, haemoglobin
    "pap": ((1.3, 1.3, 0.8), (0.5, 0.22, 0.2), (0.1, 0.5, 0.35)),  # haematoxylin, light green, eosin / orange
    "smear": ((0.75, 1.35, 0.45), (0.22, 0.32, 0.1), (0.5, 0.8, 0.3)),  # Giemsa purple, its haze, debris
}
KINDS = tuple(_STAINS)


@dataclass(frozen=True)
class Stained:
    """A colour photograph of a stained sample.

    Parameters
    ----------
    kind
        One of `KINDS`: "he" (tissue, haematoxylin and eosin), "ihc" (brown DAB on blue nuclei), "blood" (Wright or
        Giemsa smear), "pap" (Papanicolaou cytology), "smear" (purple nuclei, single stain).
    nuclear, counter, third
        Optical densities (red, green, blue) of the three stains of this kind at concentration 1.
    white
        Colour of the empty slide.
    variation
        Log-normal sigma of staining between cells.
    texture
        Contrast of chromatin and cytoplasm.
    vesicular
        1 for pale nuclei with a dark membrane, 0 for evenly dark ones.
    tissue
        Counterstain between the cells; 0 for an empty slide.
    fibrous
        Part of it that lies in fibres.
    openings
        Part of the field without tissue (lumina, fat, cracks).
    border
        Borders of cells: positive for white gaps, negative for dark lines.
    positive
        Part of the cells that carry the third stain (DAB; pink cells of a Papanicolaou smear).
    place
        Where DAB sits: "nucleus", "membrane" or "cytoplasm".
    ghosts
        Strength of nuclei out of focus beneath the section, which are not labelled.
    """

    color: ClassVar[bool] = True
    dark_field: ClassVar[bool] = False

    kind: str = "he"
    nuclear: Color = _STAINS["he"][0]
    counter: Color = _STAINS["he"][1]
    third: Color = _STAINS["he"][2]
    white: Color = (0.95, 0.94, 0.95)
    variation: float = 0.25
    texture: float = 0.3
    vesicular: float = 0.4
    tissue: float = 0.7
    fibrous: float = 0.5
    openings: float = 0.1
    border: float = 0.2
    positive: float = 0.4
    place: str = "membrane"
    ghosts: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"kind: '{self.kind}' is not a simulated stain; choose one of {', '.join(KINDS)}")
        if self.place not in ("nucleus", "membrane", "cytoplasm"):
            raise InputError(f"place: DAB cannot sit in '{self.place}'; choose nucleus, membrane or cytoplasm")

    @classmethod
    def random(cls, rng: np.random.Generator, *, kind: str = "") -> Stained:
        """A plausible slide of one `kind` ("" draws it)."""
        kind = kind or str(rng.choice(KINDS))
        stains = [_varied(stain, rng) for stain in _STAINS.get(kind, _STAINS["he"])]
        empty = kind in ("blood", "pap") or (kind == "smear" and chance(rng, 0.5))
        light = rng.uniform(0.8, 1.0)
        tint = np.clip(light * np.exp(rng.normal(0.0, 0.05, 3)), 0.5, 1.0)
        return cls(
            kind=kind,
            nuclear=stains[0],
            counter=stains[1],
            third=stains[2],
            white=(float(tint[0]), float(tint[1]), float(tint[2])),
            variation=float(rng.uniform(0.08, 0.45)),
            texture=float(rng.uniform(0.1, 0.5)),
            vesicular=float(rng.uniform(0.0, 0.8)),
            tissue=0.0 if empty else log_uniform(rng, 0.15, 1.6),
            fibrous=float(rng.uniform(0.0, 0.9)),
            openings=float(rng.uniform(0.0, 0.4)) if chance(rng, 0.5) else 0.0,
            border=float(rng.uniform(-0.4, 0.9)),
            positive=float(rng.uniform(0.1, 0.9)),
            place=str(rng.choice(["nucleus", "membrane", "cytoplasm"])),
            ghosts=log_uniform(rng, 0.1, 0.6) if chance(rng, 0.4) else 0.0,
        )

    def render(self, geometry: Geometry, rng: np.random.Generator) -> tuple[Field, tuple[str, ...]]:
        """Light (3, Y, X) float32 of red, green and blue, 0 to about 1, and the names of the channels."""
        anatomy = Anatomy(geometry)
        draw = {"blood": _blood, "pap": _pap}.get(self.kind, _tissue)
        nuclear, counter, third = draw(self, anatomy, rng)
        light = np.empty((3, *geometry.shape), dtype=np.float32)
        for band in range(3):
            density = np.float32(self.nuclear[band]) * nuclear
            density += np.float32(self.counter[band]) * counter
            density += np.float32(self.third[band]) * third
            np.multiply(np.exp(-density), np.float32(self.white[band]), out=light[band])
        return light, ("red", "green", "blue")


def _varied(stain: Color, rng: np.random.Generator) -> Color:
    """A stain of another batch: strength by up to half, hue a little."""
    values = np.array(stain) * log_uniform(rng, 0.6, 1.6) * np.exp(rng.normal(0.0, 0.15, 3))
    return float(values[0]), float(values[1]), float(values[2])


def _nuclear(own: Stained, anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """Concentration of the nuclear stain in nuclei: chromatin, a darker membrane, nucleoli."""
    size = anatomy.nuclear_size
    nuclei = anatomy.nuclei if anatomy.has_nuclei else np.zeros_like(anatomy.labels)
    amount = per_cell(anatomy.n, own.variation, rng)
    pale = np.float32(own.vesicular) * rng.random(anatomy.n + 1, dtype=np.float32)
    edge = np.minimum(anatomy.nuclear_depth / np.float32(max(0.08 * size, 1.0)), 1.0)
    rim = np.exp(-(anatomy.nuclear_depth / np.float32(max(0.08 * size, 1.0))))
    field = edge * (1.0 - pale[nuclei] * (1.0 - rim))
    if size > 6:
        chromatin = fractal(anatomy.shape, max(0.05 * size, 0.7), rng, octaves=2)
        field *= np.maximum(1.0 + np.float32(own.texture) * chromatin, 0.2)
    return cast(Field, 0.25 + 0.75 * field) * amount[nuclei] * (nuclei > 0)


def _ghosts(own: Stained, anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """Blurred nuclei that lie beneath the section, between the labelled ones."""
    size = anatomy.nuclear_size
    spots = smoothstep(noise(anatomy.shape, 0.4 * size, rng), 0.9, 1.8)
    return cast(Field, np.float32(own.ghosts) * blur(spots, 0.1 * size) * (1.0 - 0.7 * anatomy.body))


def _stroma(own: Stained, anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """Counterstain of the tissue between cells: clouds and wavy fibres, with openings."""
    size, shape = anatomy.size, anatomy.shape
    if own.tissue <= 0:
        return np.zeros(shape, dtype=np.float32)
    clouds = np.maximum(1.0 + np.float32(0.35) * fractal(shape, 0.4 * size, rng), 0.1)
    threads = fibres(shape, log_uniform(rng, 0.04, 0.15) * size + 0.6, rng, stretch=6.0, waves=2.0)
    field = np.float32(own.tissue) * clouds * (1.0 - own.fibrous + 1.4 * own.fibrous * threads)
    if own.openings > 0:
        field *= smoothstep(noise(shape, 0.8 * size, rng), 2.5 * own.openings - 1.75, 2.5 * own.openings - 1.55)
    return cast(Field, field)


def _cell_bodies(own: Stained, anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """Counterstain inside cells, with white or dark borders."""
    size = anatomy.size
    amount = per_cell(anatomy.n, own.variation, rng)[anatomy.labels]
    cloud = np.maximum(1.0 + np.float32(0.6 * own.texture) * fractal(anatomy.shape, max(0.08 * size, 0.7), rng), 0.1)
    rim = np.exp(-(anatomy.depth / np.float32(max(0.04 * size, 0.8))))
    return cast(Field, amount * cloud * np.maximum(1.0 - np.float32(1.2 * own.border) * rim, 0.05))


def _tissue(own: Stained, anatomy: Anatomy, rng: np.random.Generator) -> tuple[Field, Field, Field]:
    """ "he", "ihc" and "smear": nuclei in cells in stroma."""
    nuclear = _nuclear(own, anatomy, rng) if anatomy.has_nuclei else anatomy.body * 0.0
    counter = _stroma(own, anatomy, rng)
    if not (anatomy.has_nuclei and anatomy.nuclei_are_cells):
        strength = np.float32(rng.uniform(0.4, 1.3) if own.tissue > 0 else rng.uniform(0.1, 0.8))
        counter = np.where(anatomy.inside, strength * _cell_bodies(own, anatomy, rng), counter)
        if anatomy.has_nuclei:
            nuclear += np.float32(rng.uniform(0.0, 0.25)) * anatomy.body  # basophilic cytoplasm
    if own.ghosts > 0:
        nuclear += _ghosts(own, anatomy, rng)
    if own.kind == "ihc":
        third = _dab(own, anatomy, rng)
    elif own.kind == "he" and chance(rng, 0.2):  # blood vessels
        vessel = smoothstep(noise(anatomy.shape, 1.5 * anatomy.size, rng), 1.2, 1.4)
        third = vessel * (1.0 - anatomy.body) * (0.6 + 0.4 * network(anatomy.shape, 0.2 * anatomy.size, rng))
    else:
        third = np.zeros(anatomy.shape, dtype=np.float32)
    return nuclear.astype(np.float32), counter.astype(np.float32), third.astype(np.float32)


def _dab(own: Stained, anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """Brown stain of the positive cells in nucleus, membrane or cytoplasm, with a weak haze everywhere."""
    carried = selected(anatomy.n, own.positive, rng) * per_cell(anatomy.n, 2.0 * own.variation, rng)
    amount = carried.astype(np.float32)[anatomy.labels]
    if own.place == "nucleus":
        where = anatomy.nucleus if anatomy.has_nuclei else anatomy.body
    elif own.place == "membrane":
        where = np.exp(-(anatomy.depth / np.float32(max(0.06 * anatomy.size, 1.0)))) * anatomy.body
    else:
        where = anatomy.body - 0.7 * anatomy.nucleus
    grain = np.maximum(1.0 + 0.3 * fractal(anatomy.shape, max(0.05 * anatomy.size, 0.7), rng, octaves=2), 0.1)
    return cast(Field, amount * where * grain + np.float32(rng.uniform(0.0, 0.08)))


def _blood(own: Stained, anatomy: Anatomy, rng: np.random.Generator) -> tuple[Field, Field, Field]:
    """Red cells absorb by their thickness (pale middle); cells with a nucleus are white cells; platelets."""
    white_cells = np.zeros(anatomy.n + 1, dtype=bool)
    if anatomy.has_nuclei:
        white_cells[np.unique(anatomy.nuclei)] = True
        white_cells[0] = False
    white = white_cells[anatomy.labels]
    nuclear = _nuclear(own, anatomy, rng)
    amount = per_cell(anatomy.n, 0.6 * own.variation, rng)
    amount[0] = 1.0
    smooth = 1.0 + np.float32(0.2 * own.texture) * noise(anatomy.shape, max(0.1 * anatomy.size, 0.7), rng)
    red = np.where(white, 0.0, np.clip(anatomy.height, 0.0, 2.0) * amount[anatomy.labels] * smooth)
    grainy = np.maximum(1.0 + own.texture * fractal(anatomy.shape, max(0.06 * anatomy.size, 0.7), rng, octaves=2), 0.1)
    counter = np.where(white, grainy * amount[anatomy.labels], 0.0)
    count = rng.uniform(0.0, 0.3) * anatomy.labels.size / anatomy.size**2
    platelets = specks(anatomy.shape, count, 0.08 * anatomy.size, rng)
    nuclear = nuclear + 0.5 * platelets * (1.0 - anatomy.body)
    counter = counter + np.float32(rng.uniform(0.0, 0.3))  # plasma
    return nuclear.astype(np.float32), counter.astype(np.float32), red.astype(np.float32)


def _pap(own: Stained, anatomy: Anatomy, rng: np.random.Generator) -> tuple[Field, Field, Field]:
    """Thin translucent cells, green-blue or pink, with folds, fine grains and small dark nuclei."""
    size = anatomy.size
    bodies = _cell_bodies(own, anatomy, rng) * (0.4 + 0.6 * np.clip(anatomy.height, 0.0, 2.0))
    if size > 20:
        bodies *= 0.85 + 0.6 * fibres(anatomy.shape, 0.015 * size + 0.6, rng, stretch=5.0, waves=3.0)
    pink = selected(anatomy.n, own.positive, rng)[anatomy.labels]
    grains = specks(anatomy.shape, 40 * anatomy.labels.size / size**2, 0.008 * size, rng) * anatomy.body
    nuclear = _nuclear(own, anatomy, rng) + np.float32(rng.uniform(0.0, 0.3)) * grains
    zero = np.float32(0.0)
    counter, third = np.where(pink, zero, bodies), np.where(pink, bodies, zero)
    return nuclear.astype(np.float32), counter.astype(np.float32), third.astype(np.float32)


def to_gray(light: NDArray[np.float32]) -> Field:
    """Brightness (1, Y, X) of a colour picture (3, Y, X), Rec. 601 weights."""
    return np.tensordot(np.array([0.299, 0.587, 0.114], dtype=np.float32), light, axes=1)[None]
