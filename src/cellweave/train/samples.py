"""Training samples: images at the training diameter with their targets, made once and cached on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.core.files import write_atomically
from cellweave.core.image import Image
from cellweave.core.labels import Labels, as_labels, median_diameter, resize_labels
from cellweave.core.progress import report
from cellweave.prep import Channels, Normalisation
from cellweave.prep.rescale import resize
from cellweave.representations import Representation

LARGEST_ZOOM = 4.0
LARGEST_VALUE = 6e4
"""Of a normalised pixel, where the model does not clip them; float16 ends at 65504."""


@dataclass(frozen=True)
class Example:
    """One annotated image: a name for messages, the pixels, the truth, and the group it is balanced with."""

    name: str
    image: Image
    labels: Labels
    group: str = ""


@dataclass(frozen=True)
class Preparation:
    """How examples become samples; any change makes a new cache entry."""

    diameter: float
    channels: Channels
    normalisation: Normalisation
    representation: Representation

    def pixels(self, image: Image) -> NDArray[np.float32]:
        """The normalised channels (C, Y, X)."""
        return self.normalisation.apply(image.read(), self.normalisation.limits(image))


@dataclass(frozen=True)
class Sample:
    """One prepared example.

    Parameters
    ----------
    file
        (C + M, y, x) float16: the image's channels and its maps, at the training diameter.
    weights
        (2, C) float32: the planes that the channel policy makes of the channels.
    stained
        A colour photograph: other mixtures of red, green and blue are as good a view of it as the policy's.
    """

    name: str
    group: str
    file: Path
    weights: NDArray[np.float32]
    stained: bool

    def open(self) -> NDArray[np.float16]:
        """(C + M, y, x), memory-mapped: read only where touched."""
        return np.asarray(np.load(self.file, mmap_mode="r"))


def prepare(examples: Sequence[Example], preparation: Preparation, folder: Path) -> list[Sample]:
    """Resize each example to the training diameter, make its targets, and keep both in `folder`.

    An example without cells is kept at the zoom of the median of the others: it teaches what background is.

    Raises
    ------
    InputError
        When image and labels differ in shape, or no example has a cell; names the example.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = [median_diameter(example.labels) for example in examples]
    if not any(found):
        raise InputError("no labelled cell in the training data; check that the label images are not empty")
    usual = float(np.median([d for d in found if d > 0]))
    samples = []
    for k, (example, diameter) in enumerate(zip(examples, found, strict=True)):
        report("preparing targets", k, len(examples), example.name)
        zoom = min(LARGEST_ZOOM, preparation.diameter / (diameter or usual))
        file = folder / f"{_key(example, preparation, zoom)}.npy"
        if not file.exists():
            array = _pixels_and_maps(example, preparation, zoom)
            write_atomically(file, lambda path, array=array: _save(path, array))  # type: ignore[misc]
        policy = preparation.channels.resolve(example.image)
        stained = example.image.color and policy.policy == "green-blue"
        samples.append(Sample(example.name, example.group, file, policy.weights(example.image), stained))
    report("preparing targets", len(examples), len(examples), "")
    return samples


def _pixels_and_maps(example: Example, preparation: Preparation, zoom: float) -> NDArray[np.float16]:
    labels = as_labels(example.labels, example.name)
    if labels.shape != (example.image.height, example.image.width):
        raise InputError(
            f"{example.name}: the image is {example.image.height} x {example.image.width} px, its labels "
            f"{labels.shape[0]} x {labels.shape[1]}; they must be the same size"
        )
    height, width = (max(1, round(n * zoom)) for n in labels.shape)
    pixels = resize(preparation.pixels(example.image), height, width)
    maps = preparation.representation.encode(resize_labels(labels, height, width))
    return np.concatenate([np.clip(pixels, -LARGEST_VALUE, LARGEST_VALUE), maps]).astype(np.float16)


def _save(path: Path, array: NDArray[Any]) -> None:
    with path.open("wb") as stream:
        np.save(stream, array)


def _key(example: Example, preparation: Preparation, zoom: float) -> str:
    settings = [preparation.normalisation, preparation.representation, round(zoom, 6)]
    digest = hashlib.sha256(repr(settings).encode())
    digest.update(np.ascontiguousarray(example.labels).tobytes())
    pixels = example.image.read()
    digest.update(repr((pixels.shape, pixels.dtype.str, example.image.color)).encode())
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()[:24]
