"""Recipes: ranges from which scenes are drawn, and streams of pictures.

A recipe is data. `dataclasses.replace` makes one with other ranges, for a benchmark that must not see what a
training saw.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cellweave.core.errors import InputError
from cellweave.simulate.camera import Camera
from cellweave.simulate.clutter import Clutter
from cellweave.simulate.layout import Layout
from cellweave.simulate.optics import Optics
from cellweave.simulate.scene import MODALITIES, Cells, Modality, Picture, Scene
from cellweave.simulate.shapes import Nucleus, Shape
from cellweave.simulate.texture import chance, log_uniform

Range = tuple[float, float]
_SHEETS = ("round", "star", "spindle")


@dataclass(frozen=True)
class ShapeRange:
    """Ranges of one kind of cell; the fields are those of `Shape` and `Nucleus`.

    Parameters
    ----------
    weight
        How often this kind is the main one of a scene.
    share
        Of companions: number relative to the main kind.
    scale
        Diameter relative to what was asked for, of companions to the main kind. Long kinds are drawn a little
        larger since crossings and the border of the field cut them.
    ratio
        Of the nucleus; (0, 0) for cells without one.
    """

    kind: str = "round"
    weight: float = 1.0
    share: Range = (1.0, 1.0)
    scale: Range = (1.0, 1.0)
    variation: Range = (0.05, 0.3)
    elongation: Range = (1.05, 1.6)
    elongation_variation: Range = (0.1, 0.5)
    irregularity: Range = (0.0, 0.07)
    roughness: Range = (1.3, 2.5)
    bend: Range = (0.0, 0.0)
    arms: Range = (3, 6)
    chain: Range = (1, 1)
    dividing: Range = (0.0, 0.1)
    profiles: tuple[str, ...] = ("dome",)
    ratio: Range = (0.0, 0.0)
    lobes: Range = (1, 1)
    offset: Range = (0.0, 0.6)

    def draw(self, rng: np.random.Generator, diameter: float, *, share: float = 1.0) -> Shape:
        """A kind of cell of `diameter` px."""
        nucleus = None
        if self.ratio[1] > 0:
            nucleus = Nucleus(
                ratio=_between(rng, self.ratio),
                variation=_between(rng, (0.03, 0.2)),
                offset=_between(rng, self.offset),
                elongation=_between(rng, (1.05, 1.6)),
                irregularity=_between(rng, (0.0, 0.06)),
                lobes=_whole(rng, self.lobes),
                double=_between(rng, (0.0, 0.08)) if chance(rng, 0.5) else 0.0,
                missing=_between(rng, (0.0, 0.2)) if chance(rng, 0.2) else 0.0,
            )
        return Shape(
            kind=self.kind,
            diameter=diameter,
            variation=_between(rng, self.variation),
            elongation=1.0 + _log_between(rng, (self.elongation[0] - 1.0, self.elongation[1] - 1.0)),
            elongation_variation=_between(rng, self.elongation_variation),
            irregularity=_between(rng, self.irregularity),
            roughness=_between(rng, self.roughness),
            bend=_between(rng, self.bend),
            arms=_whole(rng, self.arms),
            chain=_whole(rng, self.chain),
            dividing=_between(rng, self.dividing),
            profile=str(rng.choice(self.profiles)),
            share=share,
            nucleus=nucleus,
        )


@dataclass(frozen=True)
class LayoutRange:
    """Ranges of an arrangement; the fields are those of `Layout`.

    Parameters
    ----------
    patterns
        Drawn with equal chances; name one twice to see it more often.
    loose
        Part of the scenes whose cells stay where they fell and so overlap by chance.
    sheets
        Part of the scenes in which cells grow until they meet.
    gap
        Of sheets only.
    """

    density: Range = (0.05, 0.7)
    patterns: tuple[str, ...] = ("random", "random", "clusters", "patches", "gradient")
    packing: Range = (0.6, 1.0)
    groups: Range = (1, 6)
    alignment: Range = (0.0, 0.3)
    overlap: Range = (-0.1, 0.2)
    press: Range = (0.0, 1.0)
    gap: Range = (0.0, 0.0)
    wobble: Range = (0.0, 0.03)
    relax: Range = (5, 12)
    loose: float = 0.1
    sheets: float = 0.0

    def draw(self, rng: np.random.Generator, *, kind: str = "round") -> Layout:
        """One arrangement of cells of that kind; threads, rods and chains form no sheets."""
        sheet = chance(rng, self.sheets) and kind in _SHEETS
        pattern = str(rng.choice(self.patterns))
        if sheet:
            pattern = str(rng.choice(["random", "random", "patches"]))
        overlap = _between(rng, self.overlap)
        packing = _between(rng, self.packing)
        density = _log_between(rng, self.density)
        if sheet:
            packing = 1.0
            density = 1.0 if pattern == "random" else _between(rng, (0.3, 0.9))
        elif pattern in ("clusters", "rings"):
            density = min(density, 0.45)
        return Layout(
            density=density,
            pattern=pattern,
            packing=packing,
            groups=_whole(rng, self.groups),
            alignment=_between(rng, self.alignment),
            overlap=-0.15 if sheet else overlap,
            relax=0 if chance(rng, self.loose) and not sheet else _whole(rng, self.relax),
            press=_between(rng, self.press),
            gap=_between(rng, self.gap) if sheet and chance(rng, 0.5) else 0.0,
            sheet=sheet,
            wobble=_between(rng, self.wobble) if chance(rng, 0.6) else 0.0,
        )


@dataclass(frozen=True)
class View:
    """One way to look at the cells: name of a modality, what its ``random`` is told, and how often it is drawn."""

    modality: str
    weight: float = 1.0
    kind: str = ""
    channels: str = ""

    def draw(self, rng: np.random.Generator) -> Modality:
        """One microscope."""
        hints: dict[str, Any] = {"kind": self.kind} if self.kind else {}
        if self.channels:
            hints["channels"] = self.channels
        made: Modality = MODALITIES[self.modality].random(rng, **hints)
        return made


@dataclass(frozen=True)
class Recipe:
    """Ranges of scenes: ``recipe(rng, (256, 256), diameter=24)`` draws one.

    Parameters
    ----------
    summary
        One line that says what is seen.
    shapes
        Kinds of cells; each scene has one of them.
    companions
        Kinds that are added to it, each with its share.
    layout
        Arrangement.
    views
        Kinds of microscopes.
    diameter
        Range in px, drawn evenly in its logarithm where the caller gives none; in small fields only up to
        half of the longer side.
    bare, target
        As in `Cells` and `Scene`.
    looks
        Chances of "gray", "inverted" and "photograph", see `Scene`.
    """

    summary: str
    shapes: tuple[ShapeRange, ...]
    views: tuple[View, ...]
    layout: LayoutRange = LayoutRange()
    companions: tuple[ShapeRange, ...] = ()
    diameter: Range = (6.0, 300.0)
    bare: bool = False
    target: str = "cells"
    looks: tuple[float, float, float] = (0.0, 0.01, 0.05)

    def __call__(self, rng: np.random.Generator, size: tuple[int, int], *, diameter: float | None = None) -> Scene:
        """Draw a scene of `size` (Y, X) px with objects of about `diameter` px."""
        if diameter is None:
            low, high = self.diameter
            diameter = log_uniform(rng, low, max(min(high, 0.5 * max(size)), low))
        if not diameter > 0:
            raise InputError(f"diameter {diameter}: give the diameter of a cell in px, for example 30")
        main = _choice(rng, self.shapes)
        shape = main.draw(rng, diameter * _between(rng, main.scale))
        if self.target == "nuclei" and shape.nucleus is not None:
            shape = replace(shape, diameter=shape.diameter / shape.nucleus.ratio)
        others = tuple(
            one.draw(rng, shape.diameter * _between(rng, one.scale), share=_log_between(rng, one.share))
            for one in self.companions
        )
        modality = _choice(rng, self.views).draw(rng)
        dark = modality.dark_field
        look = str(rng.choice(["as is", "gray", "inverted", "photograph"], p=[1.0 - sum(self.looks), *self.looks]))
        return Scene(
            size=(int(size[0]), int(size[1])),
            cells=Cells((shape, *others), self.layout.draw(rng, kind=shape.kind), self.bare),
            modality=modality,
            optics=Optics.random(rng, diameter=diameter, dark=dark),
            camera=Camera.random(rng, color=modality.color or look == "photograph", dark=dark),
            clutter=Clutter.random(rng),
            target=self.target,
            look=look,
            seed=int(rng.integers(1 << 32)),
        )


def _between(rng: np.random.Generator, limits: Range) -> float:
    return float(rng.uniform(*limits))


def _log_between(rng: np.random.Generator, limits: Range) -> float:
    low, high = max(limits[0], 1e-3), max(limits[1], 1e-3)
    return log_uniform(rng, low, high)


def _whole(rng: np.random.Generator, limits: Range) -> int:
    return int(rng.integers(int(limits[0]), int(limits[1]) + 1))


def _choice(rng: np.random.Generator, options: Any) -> Any:
    weights = np.array([option.weight for option in options])
    return options[int(rng.choice(len(options), p=weights / weights.sum()))]


_ROUND = ShapeRange(ratio=(0.35, 0.75))
_OVAL = ShapeRange(elongation=(1.2, 2.5), irregularity=(0.02, 0.12), ratio=(0.3, 0.65), bend=(0.0, 0.3))
_IRREGULAR = ShapeRange(
    elongation=(1.05, 2.0),
    irregularity=(0.06, 0.18),
    roughness=(0.9, 1.8),
    ratio=(0.3, 0.6),
    profiles=("dome", "flat", "spread"),
)
_SPREAD = ShapeRange(
    "star",
    scale=(1.06, 1.06),
    variation=(0.1, 0.4),
    elongation=(1.05, 2.2),
    irregularity=(0.02, 0.12),
    arms=(3, 7),
    bend=(0.0, 0.3),
    ratio=(0.25, 0.5),
    offset=(0.0, 0.3),
    profiles=("spread", "flat", "dome"),
)
_SPINDLE = ShapeRange(
    "spindle",
    scale=(1.12, 1.12),
    variation=(0.1, 0.4),
    elongation=(1.5, 4.0),
    irregularity=(0.02, 0.1),
    bend=(0.0, 0.4),
    ratio=(0.25, 0.5),
    profiles=("spread", "dome"),
)
_NEURON = ShapeRange(
    "neuron", weight=0.5, scale=(1.08, 1.08), variation=(0.1, 0.3), arms=(2, 5), bend=(0.1, 0.6), ratio=(0.3, 0.5)
)
_TISSUE = ShapeRange(
    variation=(0.05, 0.3), elongation=(1.05, 2.2), irregularity=(0.0, 0.1), ratio=(0.4, 0.7), profiles=("flat",)
)
_ROD = ShapeRange(
    "rod",
    scale=(1.06, 1.06),
    variation=(0.08, 0.35),
    elongation=(1.6, 6.0),
    irregularity=(0.0, 0.03),
    bend=(0.0, 0.25),
    dividing=(0.0, 0.5),
    elongation_variation=(0.1, 0.4),
)
_COCCUS = ShapeRange(
    "rod", weight=0.3, elongation=(1.02, 1.3), irregularity=(0.0, 0.02), chain=(1, 6), dividing=(0.0, 0.4)
)
_COMMA = replace(_ROD, weight=0.35, elongation=(2.0, 5.0), bend=(0.3, 0.9))
_CHAIN = replace(_ROD, weight=0.5, elongation=(1.4, 4.0), chain=(2, 7), bend=(0.0, 0.1))
_THREAD = ShapeRange(
    "filament",
    weight=0.25,
    scale=(1.15, 1.15),
    variation=(0.1, 0.4),
    elongation=(8.0, 30.0),
    irregularity=(0.0, 0.0),
    bend=(0.1, 1.2),
)
_YEAST = ShapeRange(
    "budding",
    scale=(1.07, 1.07),
    variation=(0.06, 0.25),
    elongation=(1.03, 1.5),
    irregularity=(0.0, 0.03),
    chain=(1, 4),
    dividing=(0.0, 0.5),
    ratio=(0.0, 0.4),
)
_CULTURE = LayoutRange(density=(0.08, 0.9), wobble=(0.0, 0.05), alignment=(0.0, 0.9), sheets=0.2, gap=(0.0, 0.06))
_BACTERIA = LayoutRange(
    density=(0.06, 0.65),
    patterns=("random", "clusters", "clusters", "patches", "gradient"),
    packing=(0.6, 0.95),
    groups=(1, 8),
    alignment=(0.0, 0.95),
    overlap=(-0.05, 0.1),
    press=(0.3, 1.0),
    wobble=(0.0, 0.015),
    loose=0.04,
)
_CULTURED = (_ROUND, _OVAL, _IRREGULAR, _SPREAD, replace(_SPINDLE, weight=0.6), replace(_NEURON, weight=0.3))
_TRANSMITTED = (View("PhaseContrast"), View("Dic"), View("Brightfield"))

RECIPES: dict[str, Recipe] = {
    "nuclei": Recipe(
        "stained nuclei of cultured cells, sparse to crowded, some overlapping or dividing",
        (
            ShapeRange(weight=3.0, variation=(0.05, 0.4), irregularity=(0.01, 0.07), dividing=(0.0, 0.06)),
            ShapeRange(elongation=(1.3, 2.6), irregularity=(0.01, 0.08), bend=(0.0, 0.4)),
            ShapeRange("lobed", weight=0.25, arms=(2, 4)),
        ),
        (View("Fluorescence", channels="nuclei"),),
        LayoutRange(density=(0.06, 0.8), overlap=(-0.1, 0.35), press=(0.0, 1.0)),
        bare=True,
    ),
    "tissue_nuclei": Recipe(
        "dense nuclei of tissue sections, some out of focus",
        (ShapeRange(variation=(0.1, 0.35), elongation=(1.1, 2.5), irregularity=(0.02, 0.1), bend=(0.0, 0.3)),),
        (View("Fluorescence", channels="nuclei", kind="tissue"),),
        LayoutRange(
            density=(0.25, 0.95),
            patterns=("random", "random", "patches", "rings", "gradient"),
            groups=(2, 7),
            alignment=(0.0, 0.9),
            overlap=(-0.05, 0.4),
        ),
        bare=True,
    ),
    "whole_cells": Recipe(
        "cytoplasm stain with or without a nuclear channel",
        _CULTURED,
        (
            View("Fluorescence", 2.0, channels="cytoplasm,nuclei"),
            View("Fluorescence", channels="cytoplasm"),
        ),
        _CULTURE,
    ),
    "membranes": Recipe(
        "membrane stain of monolayers and tissue, with or without nuclei",
        (_TISSUE, replace(_IRREGULAR, weight=0.3)),
        (
            View("Fluorescence", channels="membrane,nuclei"),
            View("Fluorescence", channels="membrane"),
            View("Fluorescence", 0.5, channels="membrane,nuclei", kind="tissue"),
        ),
        LayoutRange(density=(0.3, 1.0), gap=(0.0, 0.08), wobble=(0.0, 0.05), alignment=(0.0, 0.9), sheets=0.75),
    ),
    "multi_reporter": Recipe(
        "several fluorescent reporters whose place in the cell differs",
        _CULTURED,
        (
            View("Fluorescence", channels="reporter,nuclei"),
            View("Fluorescence", channels="cytoplasm,reporter,nuclei"),
            View("Fluorescence", channels="reporter,reporter,membrane,nuclei"),
            View("Fluorescence", 0.5, channels="reporter"),
        ),
        _CULTURE,
    ),
    "phase_contrast": Recipe(
        "cultured cells in phase contrast, sparse to confluent",
        _CULTURED,
        (View("PhaseContrast"),),
        _CULTURE,
    ),
    "bacteria": Recipe(
        "rods, cocci, curved and chained bacteria: phase contrast, fluorescence, brightfield",
        (replace(_ROD, weight=2.0), _COCCUS, _COMMA, _CHAIN, replace(_THREAD, weight=0.15)),
        (
            View("PhaseContrast", 2.0, kind="bacteria"),
            View("Fluorescence", kind="bacteria", channels="cytoplasm"),
            View("Fluorescence", 0.5, kind="bacteria", channels="membrane"),
            View("Brightfield", kind="bacteria"),
            View("Dic", 0.4, kind="bacteria"),
        ),
        _BACTERIA,
    ),
    "filaments": Recipe(
        "long curved threads: filamentous bacteria, hyphae",
        (replace(_THREAD, weight=2.0), replace(_ROD, elongation=(5.0, 12.0), bend=(0.1, 0.6))),
        (
            View("PhaseContrast", 2.0, kind="bacteria"),
            View("Fluorescence", kind="bacteria", channels="cytoplasm"),
            View("Brightfield", kind="bacteria"),
        ),
        replace(_BACTERIA, density=(0.03, 0.22), patterns=("random",), overlap=(-0.4, 0.0), relax=(12, 24), loose=0.0),
    ),
    "yeast": Recipe(
        "budding yeast: brightfield, phase contrast, DIC, fluorescence",
        (
            _YEAST,
            ShapeRange(
                "budding", weight=0.3, scale=(1.07, 1.07), elongation=(1.4, 2.6), chain=(1, 5), dividing=(0.0, 0.4)
            ),
        ),
        (
            View("Brightfield", 2.0, kind="yeast"),
            View("PhaseContrast", kind="yeast"),
            View("Dic", kind="yeast"),
            View("Fluorescence", 0.5, channels="cytoplasm"),
            View("Fluorescence", 0.3, channels="membrane"),
        ),
        LayoutRange(
            density=(0.06, 0.75),
            patterns=("random", "clusters", "clusters", "patches"),
            packing=(0.7, 0.95),
            overlap=(-0.05, 0.12),
            press=(0.4, 1.0),
            wobble=(0.0, 0.01),
            loose=0.03,
        ),
    ),
    "dic": Recipe("cultured cells in differential interference contrast", _CULTURED, (View("Dic"),), _CULTURE),
    "brightfield": Recipe("unstained cells, in and out of focus", _CULTURED, (View("Brightfield"),), _CULTURE),
    "blood": Recipe(
        "blood smears: discocytes, echinocytes, white cells",
        (
            ShapeRange(
                weight=3.0, variation=(0.04, 0.15), elongation=(1.02, 1.2), irregularity=(0.0, 0.03), profiles=("ring",)
            ),
            ShapeRange(
                weight=0.6,
                variation=(0.05, 0.25),
                elongation=(1.05, 1.6),
                irregularity=(0.02, 0.08),
                roughness=(0.3, 1.5),
                profiles=("ring", "dome"),
            ),
        ),
        (
            View("Stained", 4.0, kind="blood"),
            View("Brightfield", 0.5),
            View("PhaseContrast", 0.5),
        ),
        LayoutRange(
            density=(0.08, 0.75),
            patterns=("random", "random", "patches", "gradient"),
            overlap=(-0.1, 0.35),
            press=(0.0, 0.3),
            wobble=(0.0, 0.02),
            loose=0.2,
        ),
        companions=(
            ShapeRange(share=(0.002, 0.06), scale=(1.2, 2.0), ratio=(0.55, 0.8), irregularity=(0.01, 0.07)),
            ShapeRange(share=(0.002, 0.06), scale=(1.2, 1.9), ratio=(0.5, 0.65), lobes=(3, 4)),
            ShapeRange("rod", share=(0.002, 0.06), elongation=(2.0, 3.5), dividing=(0.3, 1.0), scale=(0.7, 0.9)),
        ),
        looks=(0.1, 0.0, 0.0),
    ),
    "stained_tissue": Recipe(
        "nuclei of haematoxylin-eosin and immunostained sections",
        (
            replace(_TISSUE, weight=2.0, ratio=(0.45, 0.75)),
            replace(_TISSUE, elongation=(1.5, 3.5), ratio=(0.4, 0.6)),
            replace(_IRREGULAR, ratio=(0.4, 0.7)),
        ),
        (View("Stained", 2.0, kind="he"), View("Stained", kind="ihc")),
        LayoutRange(
            density=(0.3, 1.0),
            patterns=("random", "random", "patches", "rings", "gradient"),
            alignment=(0.0, 0.9),
            wobble=(0.0, 0.04),
            sheets=0.5,
            gap=(0.0, 0.05),
        ),
        target="nuclei",
        looks=(0.05, 0.0, 0.0),
    ),
    "smears": Recipe(
        "whole cells in stained smears (cytology, Papanicolaou, bone marrow)",
        (_ROUND, replace(_IRREGULAR, ratio=(0.15, 0.5)), replace(_ROUND, ratio=(0.55, 0.85), lobes=(1, 4))),
        (View("Stained", kind="pap"), View("Stained", kind="smear"), View("Stained", 0.5, kind="blood")),
        LayoutRange(density=(0.04, 0.7), overlap=(-0.1, 0.35), press=(0.0, 0.8)),
        looks=(0.05, 0.0, 0.0),
    ),
    "anything": Recipe(
        "every shape, arrangement and microscope, unusual pairs too",
        (
            *_CULTURED,
            _ROD,
            _COCCUS,
            _COMMA,
            _CHAIN,
            _THREAD,
            _YEAST,
            _TISSUE,
            ShapeRange("lobed", weight=0.3),
            ShapeRange(weight=0.5, elongation=(1.02, 1.3), profiles=("ring",)),
        ),
        (
            View("Fluorescence", 2.5),
            View("Fluorescence", 0.5, kind="bacteria", channels="cytoplasm"),
            *_TRANSMITTED,
            View("Stained", 1.0),
        ),
        LayoutRange(
            density=(0.02, 1.0),
            patterns=("random", "clusters", "patches", "gradient", "rings"),
            alignment=(0.0, 1.0),
            overlap=(-0.3, 0.4),
            gap=(0.0, 0.1),
            wobble=(0.0, 0.08),
            loose=0.15,
            sheets=0.15,
        ),
        looks=(0.08, 0.04, 0.1),
    ),
}
"""Recipes by name."""

Mix = str | Recipe | Mapping[str, float]
"""A recipe, its name, or names with weights."""


def find(name: str) -> Recipe:
    """The recipe of that name.

    Raises
    ------
    InputError
        When there is none; lists the names.
    """
    if name not in RECIPES:
        raise InputError(f"there is no recipe '{name}'; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]


def picture(
    mix: Mix, number: int, *, seed: int = 0, size: tuple[int, int] = (256, 256), diameter: float | None = None
) -> Picture:
    """Picture `number` of a stream; see `stream`."""
    return scene(mix, number, seed=seed, size=size, diameter=diameter).draw()


def scene(
    mix: Mix, number: int, *, seed: int = 0, size: tuple[int, int] = (256, 256), diameter: float | None = None
) -> Scene:
    """Scene `number` of a stream; see `stream`."""
    rng = np.random.default_rng([seed, number])
    if isinstance(mix, str):
        recipe = find(mix)
    elif isinstance(mix, Recipe):
        recipe = mix
    else:
        if not mix or min(mix.values()) < 0 or sum(mix.values()) <= 0:
            raise InputError("a mix needs recipes with weights over 0, for example {'yeast': 1, 'bacteria': 2}")
        recipes = [find(name) for name in mix]
        weights = np.array(list(mix.values()), dtype=np.float64)
        recipe = recipes[int(rng.choice(len(recipes), p=weights / weights.sum()))]
    return recipe(rng, size, diameter=diameter)


def stream(
    mix: Mix, *, seed: int = 0, size: tuple[int, int] = (256, 256), diameter: float | None = None, start: int = 0
) -> Iterator[Picture]:
    """Pictures without end. Picture `k` depends on `mix`, `seed`, `size`, `diameter` and `k` alone.

    Parameters
    ----------
    mix
        A recipe, its name, or a mapping of names to weights.
    seed
        Whole number of 0 or more.
    size
        (Y, X) in px.
    diameter
        Of the objects in px; drawn from the recipe's range without it.
    start
        Number of the first picture.
    """
    number = start
    while True:
        yield picture(mix, number, seed=seed, size=size, diameter=diameter)
        number += 1
