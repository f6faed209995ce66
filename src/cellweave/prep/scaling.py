"""Scaling of a whole acquisition: the same grey values become 0 and 1 in every image of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cellweave.core.errors import InputError, ReadError
from cellweave.core.files import write_atomically
from cellweave.core.image import Image
from cellweave.core.progress import report
from cellweave.prep.channels import matching_channels
from cellweave.prep.flatfield import MOST_FRAMES, planes_of
from cellweave.prep.normalise import Normalisation

FORMAT = 1
PREPARED = ("illumination", "clahe")
"""Facts of an image that was prepared; a scaling is for images prepared as those it was measured on."""


@dataclass(frozen=True)
class Scaling:
    """The values that become 0 and 1 in every image of an acquisition.

    Images that are scaled one by one lose what differs between them: the noise of an empty field is stretched to full
    contrast, a dim field looks like a bright one. Limits of the whole acquisition keep it ("scale the images' intensity
    for each channel between the 1st and 99th percentile of the dataset's intensity range": *Cell Segmentation in Images
    Without Structural Fluorescent Reporters*, Sec. 3.5).

    Parameters
    ----------
    limits
        For each channel the value of 0 and that of 1.
    channel_names
        Of the images; empty where they do not tell.
    facts
        How it was made: percentiles, number of frames, how the images were prepared before.
    """

    limits: tuple[tuple[float, float], ...]
    channel_names: tuple[str, ...]
    facts: Mapping[str, str | int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.limits) != len(self.channel_names) or not np.isfinite(self.limits).all():
            raise InputError(
                f"scaling: limits {self.limits} of the channels {self.channel_names} must be two numbers each"
            )

    @property
    def hash(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()

    def apply(self, image: Image) -> Image:
        """The same image with the limits of its channels, for all that normalises it; pixels stay as they are.

        Raises
        ------
        InputError
            When the image has other channels, or was prepared (flat field, CLAHE) in another way than those measured.
        """
        where = image.source or "image"
        places = matching_channels(image, self.channel_names, "the scaling")
        for fact in PREPARED:
            measured, here = (of.get(fact, "none") for of in (self.facts, image.facts))
            if measured != here:
                raise InputError(
                    f"{where}: the scaling was measured on images with {fact}: {measured}, and this one has {here}; "
                    "prepare both in the same way, or measure the scaling again"
                )
        return replace(image, limits=tuple(self.limits[place] for place in places))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file, whole or not at all.

        Raises
        ------
        WriteError
            When the file cannot be written.
        """
        text = json.dumps({"format": FORMAT, **self._content(), "sha256": self.hash}, indent=2) + "\n"
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Scaling:
        """Read what `save` wrote.

        Raises
        ------
        ReadError
            When the file is missing, is no scaling, was altered, or is from a newer cellweave.
        """
        try:
            about = json.loads(Path(path).read_text(encoding="utf-8"))
            if about["format"] > FORMAT:
                raise ReadError(f"{path} was made by a newer cellweave; update cellweave to use it")
            limits = tuple((float(low), float(high)) for low, high in about["limits"])
            found, expected = cls(limits, tuple(about["channel_names"]), about["facts"]), about["sha256"]
        except FileNotFoundError:
            raise ReadError(
                f"{path}: there is no such file; make it with: cellweave scaling IMAGES --out {path}"
            ) from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ReadError(f"{path} is no scaling, or is damaged ({type(error).__name__}: {error})") from error
        if found.hash != expected:
            raise ReadError(f"{path} was altered since it was saved: its hash is another; measure the scaling again")
        return found

    def _content(self) -> dict[str, Any]:
        content = asdict(self)
        return {"limits": [list(pair) for pair in self.limits], **{k: content[k] for k in ("channel_names", "facts")}}


def measure_scaling(images: Sequence[Image], *, normalisation: Normalisation | None = None) -> Scaling:
    """Percentiles over all images of an acquisition, channel by channel.

    Parameters
    ----------
    images
        With the same channels, of any size; every time and depth counts. They are opened one by one, and of each as
        many evenly spaced rows are read as make 4 million pixels of all; at most `MOST_FRAMES` images, evenly spaced.
    normalisation
        Its percentiles; 1 and 99 without it.

    Raises
    ------
    InputError
        When there is no image, the channels differ, or the images were prepared in different ways (names the file).
    """
    chosen = normalisation or Normalisation()
    if not len(images):
        raise InputError("scaling: there is no image; give the images of one acquisition")
    step = max(1.0, len(images) / MOST_FRAMES)
    numbers = [int(i * step) for i in range(min(len(images), MOST_FRAMES))]
    first: Image | None = None
    planes: list[Image] = []
    for done, number in enumerate(numbers, 1):
        image = replace(images[number], limits=None)
        first = first or image
        for what, here, before in [
            ("channels", image.channel_names, first.channel_names),
            *((fact, image.facts.get(fact), first.facts.get(fact)) for fact in PREPARED),
        ]:
            if here != before:
                raise InputError(
                    f"{image.source}: its {what} are {here}, those of {first.source} {before}; they must agree"
                )
        planes += planes_of(image)
        report("scaling", done, len(numbers), image.source)
    assert first is not None
    kept = planes[:: -(-len(planes) // MOST_FRAMES)]
    limits = tuple((float(low), float(high)) for low, high in chosen.limits(*kept))
    facts: dict[str, str | int | float] = {"lower": chosen.lower, "upper": chosen.upper, "frames": len(kept)}
    facts |= {fact: first.facts[fact] for fact in PREPARED if fact in first.facts}
    return Scaling(limits, first.channel_names, facts)
