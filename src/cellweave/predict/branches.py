"""Which model of a `CellSegmenter` segments an image (Cell Segmenter, Sec. 2.2.3 and 2.3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellweave.core.image import Image
from cellweave.models import CellSegmenter, Segmenter
from cellweave.models.cell_segmenter import OMNIPOSE, PROBABILITY
from cellweave.predict.maps import maps_at
from cellweave.predict.quality import choose_branch, quality
from cellweave.prep import Channels
from cellweave.prep.modality import ModalityStatistics
from cellweave.representations.base import Maps


@dataclass(frozen=True)
class Branch:
    """The model that was chosen for an image, and why.

    Parameters
    ----------
    modality
        ``grayscale``, ``fluorescence`` or ``brightfield``; see `cellweave.prep.modality`.
    name
        Of the branch whose cells count: ``model.branches[name]`` of the `CellSegmenter`.
    quality
        Mean foreground confidence (`cellweave.predict.quality`) of each branch that ran, by name.
    why
        A sentence for people.
    """

    modality: str
    name: str
    quality: dict[str, float]
    why: str


def choose(
    image: Image,
    system: CellSegmenter,
    *,
    diameter: float | None = None,
    channels: str | Channels | None = None,
    device: str = "auto",
    augment: bool = False,
    tile: int | None = None,
) -> tuple[Branch, Maps, float | None]:
    """Run the models that an image calls for, and choose one.

    The model of the image's modality runs always; on grayscale images the Omnipose branch too, if there is one, and
    counts where ``C(AWF) < 0.8`` or ``C(Omni) - C(AWF) > 0.05``, C being the mean foreground confidence, and these two
    thresholds those of the system.

    Parameters
    ----------
    image
        (C, Y, X).
    system
        The models.
    diameter, channels, device, augment, tile
        As for `predict_maps`.

    Returns
    -------
    branch, maps, diameter
        The maps are those of the chosen model, and so is the diameter: given, estimated, or None where it finds cells
        of any size.
    """
    seen = ModalityStatistics.of(image)
    own = system.name_of(seen.modality)
    both = seen.modality == "grayscale" and OMNIPOSE in system.branches
    found: dict[str, float] = {}
    kept: dict[str, tuple[Maps, float | None]] = {}
    names = [own, OMNIPOSE] if both else [own]
    for name in names:
        system.branches[name].representation.check_size(image.height, image.width)
    for name in names:
        model = system.branches[name]
        kept[name] = maps_at(
            image, [model], diameter=diameter, channels=channels, device=device, augment=augment, tile=tile
        )
        found[name] = quality(foreground(model, kept[name][0]))
    chosen = own
    if both:
        taken = choose_branch(found[own], found[OMNIPOSE], lowest=system.lowest, margin=system.margin)
        chosen = OMNIPOSE if taken == "omnipose" else own
    why = f"{seen.modality} image, as {seen.why}; {_reason(own, found, system)}"
    return Branch(seen.modality, chosen, found, why), *kept[chosen]


def foreground(model: Segmenter, maps: Maps) -> NDArray[np.float32]:
    """(Y, X): the probability that a pixel belongs to a cell."""
    probability: NDArray[np.float32] = maps[model.representation.map_names.index(PROBABILITY)]
    return probability


def _reason(own: str, found: dict[str, float], system: CellSegmenter) -> str:
    """What decided between the branches that ran, in words and numbers."""
    if OMNIPOSE not in found:
        return f"{own} is the only branch for such images"
    awf, omni, lowest, margin = found[own], found[OMNIPOSE], system.lowest, system.margin
    said = f"the confidence of {own} is {awf:.3f}, that of {OMNIPOSE} {omni:.3f}, and so {{}} counts, as {{}}"
    if awf == 0:
        sees = f"{own} sees no cell, and {OMNIPOSE}"
        return said.format(*((OMNIPOSE, f"{sees} is sure") if omni >= lowest else (own, f"{sees} is not sure")))
    if awf < lowest:
        return said.format(OMNIPOSE, f"that of {own} is under {lowest:g}")
    if omni - awf > margin:
        return said.format(OMNIPOSE, f"the difference is over {margin:g}")
    return said.format(own, f"it has {lowest:g} or more, and {OMNIPOSE} is not over {margin:g} above it")
