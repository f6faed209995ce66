"""Images of reporters without structural stains, for the benchmark `fusion`: simulated, and made of real images.

``simulated``
    Cultured cells with four reporters. P1 stays in the cytoplasm and spares the nucleus; P2 shuttles: each cell has its
    own balance of nucleus and cytoplasm; P3 is in the membrane in some fields and in the cytoplasm in others; P4 is in
    vesicles or in a network. Every reporter leaves 10 to 30 % of the cells dark, each others. Nuclei and cells are
    known. The acquisition "clean" is a confocal microscope's; "noisy" another one's: wide-field blur and out-of-focus
    light, few photons and read noise, a vignette.
``partial``
    Real nuclei as three reporters that each show a part: fluorescent nuclei of dsb2018 to learn from and to choose by,
    and StarDist's test images of them (dsb2018_stardist_test). They are of many laboratories; each image is resized
    first, so that its nuclei have a median diameter of 24 px, as if one microscope had taken all. In channel k the
    light of a nucleus over the background is multiplied by its expression, which is log-normal (sigma 0.4), and 0.05 in
    a quarter of the nuclei, drawn for each channel; and by where the reporter sits: R1 at the rim; R2 at the rim or in
    the core, each nucleus by chance; R3 in patches of half a nucleus. So is the light up to 8 px around a nucleus,
    where noise as that of the background is put in the place of what was taken. The rest stays as it is. Truth are the
    real outlines. The embedded model, the base of all trainings, learned from the whole stain of the images to learn
    from, and its epoch was chosen and its confidence calibrated with the images to choose by; it never saw the test
    images.
``tcells``
    dense_tcell_if as it is: a marker of T cells and DAPI, both seen as reporters; only cells with the marker are
    outlined. It has three images to learn from and two to test on; one of the two is a place of the tissue of which
    another marker was learned from. Its figures have no limits: two images tell little, and of two raters methods that
    fuse label images keep what both found, so that they stand no chance against a mean of maps.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects

from _calibration import TEST, _examples
from _trainings import evenly, free_examples, is_fluorescence
from ablation import resampled
from cellweave.core.image import Image
from cellweave.core.labels import Labels
from cellweave.simulate import RECIPES
from cellweave.simulate.camera import Camera
from cellweave.simulate.clutter import Clutter
from cellweave.simulate.fluorescence import Fluorescence
from cellweave.simulate.optics import Optics
from cellweave.simulate.recipes import LayoutRange, Recipe, View, scene
from cellweave.simulate.scene import Scene
from cellweave.simulate.texture import blur, log_uniform, noise, smoothstep
from cellweave.train import Example
from cellweave.train.objects import Field

SEED = 5050
SIDE, DIAMETER = 384, 40.0
TRAIN = 40
"""Images to learn from, as in the paper."""
COUNTS = {"train": TRAIN, "val": 5, "test": 10}
"""Images of the simulated cells; the paper had 40, 5 and 5."""
FIRST = {"train": 0, "val": 1000, "test": 2000}
REPORTERS = ("P1", "P2", "P3", "P4")
PARTS = ("R1", "R2", "R3")
MARKERS = ("marker", "DAPI")
NUCLEUS = 24.0
"""Median diameter in px to which images of real nuclei are brought; that of the base."""
DARK, DIM = 0.25, 0.05
"""Share of the nuclei that a partial reporter leaves dark, and what is left of their light."""
HALO = 8
"""Light up to so many px around a nucleus belongs to it."""
LINES = {"simulated": "simulated", "partial": "dsb2018", "tcells": "T cells"}


def fields(data: str, split: str) -> tuple[Field, ...]:
    """Images of a data set: ``"train"``, ``"val"`` or ``"test"``; ``"noisy"`` of the simulated cells."""
    return {"simulated": simulated, "partial": partial_nuclei, "tcells": t_cells}[data](split)


@cache
def simulated(split: str) -> tuple[Field, ...]:
    """Simulated cells. "noisy" are the test images again, by the other acquisition."""
    place = "test" if split == "noisy" else split
    return tuple(simulated_field(FIRST[place] + k, noisy=split == "noisy") for k in range(COUNTS[place]))


def recipe() -> Recipe:
    """Where the cells lie and how they look in shape; the light is that of `light`."""
    layout = LayoutRange(density=(0.2, 0.8), patterns=("random", "patches", "clusters"), wobble=(0.0, 0.03), loose=0.0)
    return replace(RECIPES["whole_cells"], views=(View("Fluorescence"),), layout=layout, looks=(0.0, 0.0, 0.0))


def light(rng: np.random.Generator) -> Fluorescence:
    """The reporters of one field."""
    drawn = Fluorescence.random(rng, channels=",".join(["reporter"] * len(REPORTERS)))
    return replace(
        drawn,
        places=(
            "cytoplasm",
            "shuttling",
            str(rng.choice(["membrane", "cytoplasm"])),
            str(rng.choice(["speckles", "network"])),
        ),
        dark=float(rng.uniform(0.1, 0.3)),
        shadow=float(rng.uniform(0.5, 0.9)),
        variation=log_uniform(rng, 0.15, 0.5),
        bleed=0.0,
        fibrous=0.0,
        background=log_uniform(rng, 0.01, 0.05),
        haze=log_uniform(rng, 0.02, 0.1),
    )


def acquisition(rng: np.random.Generator, *, noisy: bool) -> tuple[Optics, Camera]:
    """A confocal microscope, or a wide-field one that took more and shorter exposures."""
    if noisy:
        optics = Optics(sigma=float(rng.uniform(1.6, 2.2)), tails=float(rng.uniform(0.3, 0.5)), vignette=0.5, glow=0.05)
        return optics, Camera(photons=log_uniform(rng, 15.0, 40.0), read_noise=2.0, exposure=0.7, bits=12)
    return Optics(sigma=0.8), Camera(photons=log_uniform(rng, 400.0, 2000.0), read_noise=3.0, exposure=0.7, bits=12)


def simulated_scene(number: int, *, noisy: bool) -> Scene:
    """Field `number`; its cells and their light are the same for both acquisitions."""
    drawn = scene(recipe(), number, seed=SEED, size=(SIDE, SIDE), diameter=DIAMETER)
    optics, camera = acquisition(np.random.default_rng([SEED, number, int(noisy)]), noisy=noisy)
    modality = light(np.random.default_rng([SEED, number, 2]))
    return replace(drawn, modality=modality, optics=optics, camera=camera, clutter=Clutter(debris=0.05, dead=0.0))


def simulated_field(number: int, *, noisy: bool = False) -> Field:
    """Field `number`, with nuclei and cells as truth."""
    drawn = simulated_scene(number, noisy=noisy)
    geometry = drawn.geometry()
    pixels, _, _ = drawn.photograph(geometry)
    labels = {
        "nuclei": replace(drawn, target="nuclei").truth(geometry),
        "cells": replace(drawn, target="cells").truth(geometry),
    }
    return Field(f"field {number}", Image(pixels, "CYX", channel_names=REPORTERS), labels)


@cache
def partial_nuclei(split: str) -> tuple[Field, ...]:
    """Real nuclei as three partial reporters: 40 images to learn from, 49 to choose by, 50 to test on."""
    if split == "test":
        members = _examples(TEST, split)
    else:
        members = [e for e in free_examples(split) if is_fluorescence(e) and e.n_cells]
        members = evenly(members, TRAIN) if split == "train" else members
    return tuple(map(partial_field, members))


def partial_field(example: Example) -> Field:
    """An image of nuclei, resized to a median diameter of 24 px, as three partial reporters."""
    image, labels = resampled(example, NUCLEUS / example.median_diameter)
    rng = np.random.default_rng([SEED, *example.name.encode()])
    pixels = partial_reporters(image.read()[0], labels, rng)
    return Field(example.name, Image(pixels, "CYX", channel_names=PARTS), {"nuclei": labels})


def partial_reporters(picture: NDArray[np.generic], labels: Labels, rng: np.random.Generator) -> NDArray[np.float32]:
    """A stain of nuclei (Y, X) as three channels (3, Y, X) that each show a part of them; see the module."""
    values = np.asarray(picture, np.float32)
    background = np.float32(np.median(values[labels == 0])) if (labels == 0).any() else np.float32(values.min())
    n = int(labels.max())
    depth, (y, x) = distance_transform_edt(labels == 0, return_indices=True)
    near, own = depth <= HALO, labels[y, x]  # the blurred light around a nucleus is that of the nucleus
    rim = rim_of(labels)[y, x]
    size = float(np.sqrt(np.count_nonzero(labels) / max(1, len(np.unique(labels)) - 1)))
    patches = smoothstep(noise(labels.shape, max(0.35 * size, 1.0), rng), -0.4, 0.4)  # type: ignore[arg-type]
    at_rim = rng.random(n + 1) < 0.5
    grain = float(np.median(np.abs(values - background)[~near])) / 0.6745 if (~near).any() else 0.0
    channels = []
    for part in (rim, np.where(at_rim[own], rim, 1 - rim), patches):
        expressed = np.exp(rng.normal(0, 0.4, n + 1))
        expressed[rng.random(n + 1) < DARK] = DIM
        gain = np.where(near, expressed[own] * blur(part.astype(np.float32), 0.7), 1.0)
        lost = grain * np.sqrt(np.clip(1 - gain**2, 0, None)) * rng.standard_normal(labels.shape)
        channels.append(background + (values - background) * gain + lost)
    return np.stack(channels).astype(np.float32)


def rim_of(labels: Labels) -> NDArray[np.float32]:
    """1 at the border of each object, falling to 0 in its middle (Y, X)."""
    rim = np.zeros(labels.shape, np.float32)
    for k, window in enumerate(find_objects(labels), 1):
        if window is not None:
            inside = labels[window] == k
            depth = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
            rim[window][inside] = np.exp(-(depth[inside] - 1) / max(0.2 * depth.max(), 0.5))
    return rim


@cache
def t_cells(split: str) -> tuple[Field, ...]:
    """Marker and DAPI of dense tissue; nothing is held out of its three images to choose by."""
    if split == "val":
        return ()
    return tuple(
        Field(e.name, replace(e.image, channel_names=MARKERS), {"cells": e.outlines})
        for e in _examples("dense_tcell_if", split)
    )
