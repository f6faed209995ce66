"""Training samples: images at the training diameter with their targets, made once and kept in one file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.core.files import atomic_path, write_atomically
from cellweave.core.progress import report

if TYPE_CHECKING:
    from cellweave.core.image import Image
    from cellweave.core.labels import Labels
    from cellweave.core.points import Points
    from cellweave.prep import Channels, Normalisation
    from cellweave.representations import MapFormat
    from cellweave.representations.base import Maps

LARGEST_ZOOM = 4.0
LARGEST_VALUE = 6e4
"""Of a normalised pixel, where the model does not clip them; float16 ends at 65504."""
COLOURS = 3
"""Values a pixel: red, green and blue of a stained sample, otherwise the net's planes; zero where there are fewer."""
LARGE, REDUCED = 200.0, (1.0, 0.5, 0.25, 0.125)
"""For a net that learns cells of any size, images with a median diameter over the first, in px, are learned from at
these zooms (Hu et al. 2022, Sec. 3.2.2)."""


@dataclass(frozen=True)
class Example:
    """One annotated image: a name for messages, the pixels, the truth, the group it is balanced with, how often it is
    shown among its group, relative to the others, and where the truth is known, (Y, X); None means everywhere.

    With `given`, it is resized as if its cells had this diameter in px: the one that the model's users will give, too.
    """

    name: str
    image: Image
    labels: Labels | Points
    group: str = ""
    weight: float = 1.0
    known: NDArray[np.bool_] | None = None
    given: float | None = None

    @property
    def outlines(self) -> Labels:
        """The labels, of an example that has them.

        Raises
        ------
        InputError
            When it has points only; names it.
        """
        if not isinstance(self.labels, np.ndarray):
            raise InputError(f"{self.name}: points tell no outlines; label the cells, or train with target='points'")
        return self.labels

    @property
    def positions(self) -> Points:
        """The points; of labels, the centroids."""
        from cellweave.core.points import Points

        return Points.from_labels(self.labels) if isinstance(self.labels, np.ndarray) else self.labels

    @property
    def diameter(self) -> float:
        """That by which it is resized, in px: given, or the median of the cells."""
        return self.median_diameter if self.given is None else self.given

    @property
    def median_diameter(self) -> float:
        """Median diameter of the cells in px; 0 without cells or where only points tell of them."""
        from cellweave.core.labels import median_diameter

        return median_diameter(self.labels) if isinstance(self.labels, np.ndarray) else 0.0

    @property
    def n_cells(self) -> int:
        """Number of cells; debris is none."""
        if isinstance(self.labels, np.ndarray):
            return len(np.unique(self.labels[self.labels > 0]))
        return len(self.labels.cells)

    def judged(self, labels: Labels) -> Labels:
        """True or found labels of the image without the objects that lie mostly where the truth is not known."""
        if self.known is None:
            return labels
        inside, whole = (np.bincount(some.ravel(), minlength=labels.max() + 1) for some in (labels[self.known], labels))
        return np.where((2 * inside >= whole)[labels], labels, 0)


@dataclass(frozen=True)
class Preparation:
    """How examples become samples; any change makes a new cache."""

    diameter: float
    channels: Channels
    normalisation: Normalisation
    representation: MapFormat


@dataclass(frozen=True)
class Facts:
    """What is known of one sample besides its values.

    Parameters
    ----------
    shape
        (y, x) in px, at the training diameter.
    weights
        The net's P planes as sums of the sample's three colours: P x 3 numbers.
    stained
        A colour photograph: other mixtures of red, green and blue are as good a view of it as `weights`.
    weight
        How often it is shown among its group.
    """

    name: str
    group: str
    shape: tuple[int, int]
    weights: tuple[tuple[float, ...], ...]
    stained: bool
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Samples:
    """Prepared examples, one after the other in one array, so that any crop is one gather, on any device.

    Parameters
    ----------
    values
        (P, 3 + M) float16: three colours and M maps of every pixel of every sample, row by row. May be a memory map.
    facts
        One entry a sample, in order.
    key
        Text that tells them from samples of other examples, or prepared in another way; empty where it is not known.
    """

    values: NDArray[np.float16]
    facts: tuple[Facts, ...]
    key: str = ""

    def __len__(self) -> int:
        return len(self.facts)

    @property
    def starts(self) -> NDArray[np.int64]:
        """(N + 1,): where each sample begins in `values`, and the end."""
        return np.cumsum([0, *(y * x for y, x in (f.shape for f in self.facts))], dtype=np.int64)

    def array(self, k: int) -> NDArray[np.float16]:
        """Sample k as (3 + M, y, x)."""
        start, end = self.starts[k : k + 2]
        return np.moveaxis(np.asarray(self.values[start:end]).reshape(*self.facts[k].shape, -1), -1, 0)


def joined(parts: Sequence[Samples]) -> Samples:
    """One set of samples from several, copied."""
    values = np.concatenate([part.values for part in parts])
    return Samples(values, tuple(fact for part in parts for fact in part.facts), "".join(part.key for part in parts))


def prepare(
    examples: Sequence[Example], preparation: Preparation, file: Path, *, usual: float | None = None
) -> Samples:
    """Resize each example to the training diameter, if there is one, make its targets, and keep both in `file`.

    Beside it, `file` with the suffix .json tells what is inside; a file that holds just these examples, prepared
    this way, is used as it is. An example without cells teaches what background is, at the zoom for cells of the
    diameter `usual`, by default the median of the others.

    Raises
    ------
    InputError
        When image and labels differ in shape, or no example has a cell and `usual` is not given; names the example.
    """
    if usual is None and not any(example.n_cells for example in examples):
        raise InputError("no labelled cell in the training data; check that the label images are not empty")
    found = [example.diameter for example in examples]
    usual = usual or usual_diameter(found)
    zooms = [_zooms(preparation.diameter, d or usual) for d in found]
    key, facts = _key(examples, preparation, zooms), file.with_suffix(".json")
    if _written_key(facts) != key or not _is_whole(file):
        facts.unlink(missing_ok=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        known: list[Facts] = []
        with atomic_path(file) as temporary, temporary.open("wb") as stream:
            for k, example in enumerate(examples):
                report("preparing targets", k, len(examples), example.name)
                shown = replace(example, weight=example.weight / len(zooms[k]))  # all its zooms together as often
                for zoom in zooms[k]:
                    sample = prepare_one(shown, preparation, zoom)
                    stream.write(sample.values.tobytes())
                    known += sample.facts
        text = json.dumps({"key": key, "samples": [vars(fact) for fact in known]})
        write_atomically(facts, lambda path: path.write_text(text, encoding="utf-8"))
    report("preparing targets", len(examples), len(examples), "")
    return load(file)


def _zooms(wanted: float, diameter: float) -> tuple[float, ...]:
    """At which zooms an example with cells of this diameter is learned from."""
    if wanted and diameter:
        return (min(LARGEST_ZOOM, wanted / diameter),)
    return REDUCED if diameter > LARGE else (1.0,)


def usual_diameter(found: Sequence[float]) -> float:
    """Median of the images' diameters that are not 0; 0 without any."""
    return float(np.median([d for d in found if d > 0] or [0.0]))


def load(file: Path) -> Samples:
    """The samples that `prepare` wrote, memory-mapped: read only where touched."""
    told = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    facts = facts_from(told["samples"])
    pixels = sum(y * x for y, x in (f.shape for f in facts))
    # Copy on write: torch refuses memory that cannot be written to, and nothing here writes.
    return Samples(np.memmap(file, np.float16, mode="c").reshape(pixels, -1), facts, told["key"])


def facts_from(entries: Sequence[dict[str, object]]) -> tuple[Facts, ...]:
    """Facts from the JSON of their fields."""
    plain = [Facts(**entry) for entry in entries]  # type: ignore[arg-type]
    return tuple(replace(f, shape=(f.shape[0], f.shape[1]), weights=tuple(map(tuple, f.weights))) for f in plain)


def prepare_one(example: Example, preparation: Preparation, zoom: float) -> Samples:
    """One example resized by `zoom`, with its targets: NaN where the truth is not known."""
    from cellweave.core.labels import resize_labels
    from cellweave.prep.channels import apply_weights
    from cellweave.prep.modality import modality
    from cellweave.prep.rescale import resize

    image = example.image
    height, width = (max(1, round(n * zoom)) for n in (image.height, image.width))
    maps = _targets(example, preparation.representation, (height, width))
    if example.known is not None:
        _check_size(example, "its known region", example.known.shape)
        maps[:, resize_labels(example.known.astype(np.int32), height, width) == 0] = np.nan
    pixels = preparation.normalisation.apply(image.read(), preparation.normalisation.limits(image))
    policy = preparation.channels.resolve(image)
    weights = policy.weights(image)
    stained = policy.policy == "green-blue" or (policy.policy == "color" and modality(image) == "brightfield")
    stained = stained and image.color
    if not stained:
        pixels, weights = _as_colours(apply_weights(pixels, weights))
    values = np.zeros((height, width, COLOURS + len(maps)), np.float16)
    colours = np.clip(resize(pixels, height, width), -LARGEST_VALUE, LARGEST_VALUE)
    values[..., : len(colours)] = np.moveaxis(colours, 0, -1)
    values[..., COLOURS:] = np.moveaxis(maps, 0, -1)
    mixed = tuple(map(tuple, weights.tolist()))
    fact = Facts(example.name, example.group, (height, width), mixed, stained, example.weight)
    return Samples(values.reshape(height * width, -1), (fact,))


def _targets(example: Example, representation: MapFormat, shape: tuple[int, int]) -> Maps:
    """Targets (T, *shape) of an example that is resized to `shape`."""
    from cellweave.core.labels import as_labels, resize_labels
    from cellweave.core.points import Points
    from cellweave.representations import PointRepresentation, Representation

    if isinstance(representation, Representation):
        labels = as_labels(example.outlines, example.name)
        _check_size(example, "its labels", labels.shape)
        return representation.targets(resize_labels(labels, *shape))
    assert isinstance(representation, PointRepresentation)
    points, size = example.positions, (example.image.height, example.image.width)
    _check_size(example, "its points", points.shape or size)
    positions = (points.positions + 0.5) * np.divide(shape, size) - 0.5
    positions = np.minimum(positions, np.nextafter(np.subtract(shape, 0.5), 0))  # what rounding put outside
    return representation.targets(Points(positions, points.classes, points.confidence, shape))


def _check_size(example: Example, what: str, shape: tuple[int, ...]) -> None:
    image = example.image
    if shape != (image.height, image.width):
        raise InputError(
            f"{example.name}: the image is {image.height} x {image.width} px, {what} "
            f"{' x '.join(map(str, shape))}; they must be the same size"
        )


def _as_colours(planes: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Planes (P, Y, X) as colours, and the weights (P, 3) that make planes of them; three equal ones are kept once."""
    if len(planes) > 2 and (planes == planes[0]).all():
        return planes[:1], np.eye(1, COLOURS, dtype=np.float32).repeat(len(planes), axis=0)
    return planes, np.eye(len(planes), COLOURS, dtype=np.float32)


def _written_key(facts: Path) -> str:
    try:
        return str(json.loads(facts.read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _is_whole(file: Path) -> bool:
    try:
        return len(load(file)) > 0
    except (OSError, ValueError, LookupError, TypeError):
        return False


def fingerprint(examples: Sequence[Example]) -> str:
    """Text that tells these examples from others: names, pixels, truth, groups, weights, given diameters."""
    return _key(examples, None, [(example.given or 0.0,) for example in examples])


def _key(examples: Sequence[Example], preparation: Preparation | None, zooms: Sequence[tuple[float, ...]]) -> str:
    digest = hashlib.sha256(repr(preparation).encode())
    for part in _parts(examples, zooms):
        digest.update(part)
    return digest.hexdigest()


def _parts(examples: Sequence[Example], zooms: Sequence[tuple[float, ...]]) -> Iterator[bytes]:
    for example, some in zip(examples, zooms, strict=True):
        yield repr(
            (example.name, example.group, [round(zoom, 6) for zoom in some], example.image.color, example.weight)
        ).encode()
        truth = example.labels
        parts = [truth] if isinstance(truth, np.ndarray) else [truth.positions, truth.classes, truth.confidence]
        for array in [example.image.read(), *parts, example.known]:
            if array is not None:
                yield repr((array.shape, array.dtype.str)).encode()
                yield array.tobytes()
