"""Which files of a folder are images with labels, and whether a training can use them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cc3d
import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import CellweaveError, InputError
from cellweave.core.image import Image
from cellweave.core.labels import Labels, diameters
from cellweave.core.progress import report
from cellweave.io import read_image, read_labels
from cellweave.io.filenames import (
    IMAGE_SUFFIXES,
    LOSSY_SUFFIXES,
    images_in,
    label_ending,
    label_precedence,
    pictures,
    stem_of,
)

IMAGE_ENDINGS = ("_img", "_image")
IMAGE_FOLDERS = ("images", "image", "imgs", "img")
LABEL_FOLDERS = ("labels", "masks", "label", "mask")

NAMINGS = f"""\
  x.tif or x_img.tif or x_image.tif + x_masks.tif (or _mask, _labels, _label, _cp_masks)
  x.png + x_seg.npy (saved by Cellpose)
  images/x.tif + labels/x.tif (or masks/; the label file may add one of the endings above)
Images are {", ".join(IMAGE_SUFFIXES)}; labels the same except JPEG."""
LINES_SHOWN = 12


@dataclass(frozen=True)
class Pair:
    """An image and its labels; `name` is the image's file name without suffix."""

    image: Path
    labels: Path
    name: str


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file, and what to do.

    `excluded` tells that a pair cannot be used because of it; otherwise it is only worth knowing.
    """

    file: Path
    what: str
    remedy: str
    excluded: bool

    def __str__(self) -> str:
        join = " " if self.what.endswith("?") else "; "
        return f"{self.file.parent.name}/{self.file.name}: {self.what}{join}{self.remedy}"


@dataclass(frozen=True)
class PairFacts:
    """What a usable pair holds; `diameter` is the median of its objects in px, 0 without objects."""

    pair: Pair
    n_objects: int
    diameter: float
    n_channels: int
    dtype: str


@dataclass(frozen=True, eq=False)
class DataReport:
    """What `check_pairs` found.

    Attributes
    ----------
    facts
        One entry a usable pair.
    problems
        Everything that is wrong or remarkable, in the order of the files.
    object_diameters
        (n,) float64: diameter in px of every object of the usable pairs.
    """

    facts: tuple[PairFacts, ...]
    problems: tuple[Problem, ...]
    object_diameters: NDArray[np.float64]

    @property
    def usable(self) -> list[Pair]:
        """The pairs a training can use."""
        return [fact.pair for fact in self.facts]

    @property
    def ok(self) -> bool:
        """True when there are objects to learn from and no pair had to be left out."""
        return len(self.object_diameters) > 0 and not any(p.excluded for p in self.problems)

    def text(self) -> str:
        """The report in words, with a histogram of the diameters."""
        bad = [p for p in self.problems if p.excluded]
        n_pairs = len(self.facts) + len(bad)
        lines = [f"Training data: {len(self.facts)} of {n_pairs} image pairs can be used"]
        if self.facts:
            kinds = Counter(f"{_plural(f.n_channels, 'channel')} {f.dtype}" for f in self.facts)
            counts = [f.n_objects for f in self.facts]
            lines += [
                f"  images    {', '.join(f'{n} with {kind}' for kind, n in sorted(kinds.items()))}",
                f"  objects   {sum(counts):,} in all; {min(counts):,} to {max(counts):,} an image, "
                f"median {np.median(counts):,.0f}",
            ]
        medians = [f.diameter for f in self.facts if f.n_objects]
        if medians:
            lines.append(
                f"  diameter  {np.median(self.object_diameters):.1f} px, median of all objects; "
                f"medians of the images from {min(medians):.1f} to {max(medians):.1f} px"
            )
            lines += ["", "Diameters of all objects", *_histogram(self.object_diameters)]
        return "\n".join([*lines, *problem_lines(self.problems)])


def problem_lines(problems: Sequence[Problem]) -> list[str]:
    """What was left out and what is worth knowing, for a report."""
    lines = []
    for title, excluded in (("Left out", True), ("Worth knowing", False)):
        if some := [p for p in problems if p.excluded == excluded]:
            lines += ["", f"{title} ({len(some)})", *(f"  {p}" for p in some[:LINES_SHOWN])]
            if len(some) > LINES_SHOWN:
                lines.append(f"  ... and {len(some) - LINES_SHOWN} more")
    return lines


def find_pairs(folder: str | os.PathLike[str]) -> list[Pair]:
    """Find the images of a folder that have labels, in the order of their names.

    Understood are, in this order of precedence:

    1. ``images/`` (image, imgs, img) beside ``labels/`` (masks, label, mask), with equal names or one of the
       endings of 2 on the label side;
    2. both in `folder`: ``x.*`` with ``x_masks.*``, ``_mask``, ``_labels``, ``_label``, ``_cp_masks``, or
       Cellpose's ``x_seg.npy``. ``x_img.*`` or ``x_image.*`` takes the labels of ``x`` where no ``x.*`` does.

    The first that gives a pair is used alone. Sub-folders such as train/ and test/ are data sets of their
    own. Of several images or label files of one name the first counts, by ending as above, then by suffix
    as in `IMAGE_SUFFIXES`.

    Raises
    ------
    InputError
        When there is no such folder or it has no pair; tells what is there and which namings are understood.
    """
    return list(_scan(Path(folder))[0])


def check_folder(folder: str | os.PathLike[str], *, min_objects: int = 5) -> DataReport:
    """`find_pairs`, then `check_pairs`; images without labels and labels without image are reported too."""
    pairs, missing = _scan(Path(folder))
    return check_pairs(pairs, missing=missing, min_objects=min_objects)


def check_pairs(pairs: Sequence[Pair], *, missing: Iterable[Problem] = (), min_objects: int = 5) -> DataReport:
    """Read every pair and tell what a training can use. A bad file is reported and the check goes on.

    Progress is told before each pair, see `cellweave.core.progress`.

    A pair is left out when a file cannot be read, the labels are no label image, the image is no single
    (C, Y, X) plane, or the shapes differ. Few or no objects, and labels that look like a mask of cells
    against background, are worth knowing only: an empty image teaches what background is.

    Parameters
    ----------
    pairs
        From `find_pairs`.
    missing
        Problems found before, which the report shall contain.
    min_objects
        Images with fewer objects are reported.
    """
    facts: list[PairFacts] = []
    problems = list(missing)
    all_diameters: list[NDArray[np.float64]] = [np.zeros(0)]
    for done, pair in enumerate(pairs):
        report("checking the data", done, len(pairs), pair.name)
        try:
            image, labels = _read(pair)
        except Unusable as error:
            problems.append(error.problem)
            continue
        found = diameters(labels)
        median = float(np.median(found)) if len(found) else 0.0
        facts.append(PairFacts(pair, len(found), median, image.n_channels, str(image.dtype)))
        all_diameters.append(found)
        problems += _remarks(pair, labels, len(found), min_objects)
    report("checking the data", len(pairs), len(pairs), "")
    return DataReport(tuple(facts), tuple(problems), np.concatenate(all_diameters))


class Unusable(Exception):
    """A file cannot be used; `problem` tells why."""

    def __init__(self, file: Path, what: str, remedy: str) -> None:
        super().__init__(what)
        self.problem = Problem(file, what, remedy, excluded=True)


def _read(pair: Pair) -> tuple[Image, Labels]:
    """Image and labels of a pair, both read to the last pixel and of one shape."""
    image = read_single_plane(pair.image)
    file = pair.labels
    with _refusing(file):
        labels = read_labels(file)
    shape = (image.height, image.width)
    if labels.shape != shape:
        swapped = labels.shape == shape[::-1]
        raise Unusable(
            file,
            f"is {labels.shape[0]} x {labels.shape[1]}, but {pair.image.name} is {shape[0]} x {shape[1]}",
            "transpose the labels" if swapped else "export the labels at the full size of the image",
        )
    return image, labels


def read_single_plane(file: Path) -> Image:
    """An image of one (C, Y, X) plane, read to the last pixel.

    Raises
    ------
    Unusable
        When it has several, or cannot be read.
    """
    with _refusing(file):
        image = read_image(file)
        if image.size("T") > 1 or image.size("Z") > 1:
            sizes = ", ".join(f"{axis} {image.size(axis)}" for axis in image.axes)
            raise Unusable(file, f"holds several planes ({sizes})", "save each plane as a file of its own")
        image.read()
    return image


@contextmanager
def _refusing(file: Path) -> Iterator[None]:
    """What goes wrong while the file is read makes it `Unusable`."""
    try:
        yield
    except (CellweaveError, OSError, ValueError) as error:
        what = str(error).removeprefix(f"{file}: ")
        raise Unusable(file, what, "repair the file or take the pair out of the folder") from error


def _remarks(pair: Pair, labels: Labels, n_objects: int, min_objects: int) -> Iterator[Problem]:
    """What is worth knowing about labels that can be used."""
    if n_objects == 0:
        yield Problem(pair.labels, "has no objects", "keep it only if the image shows background alone", False)
        return
    if n_objects == 1 and (pieces := int(cc3d.connected_components(labels > 0, return_N=True)[1])) > 1:
        yield Problem(
            pair.labels,
            f"its {pieces} separate pieces have one id, as in a mask of cells against background",
            "give every cell an id of its own",
            False,
        )
    elif n_objects < min_objects:
        what = f"has only {_plural(n_objects, 'object')}"
        yield Problem(pair.labels, what, "check that every cell of the image is outlined", False)


def _scan(folder: Path) -> tuple[list[Pair], list[Problem]]:
    """Pairs of the first naming that gives any, and the files of that naming that have no partner."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; give the folder that holds images and labels")
    for image_folder, label_folder in _layouts(folder):
        pairs, problems = match_folders(image_folder, label_folder)
        if pairs:
            return pairs, problems
    raise InputError(_nothing_found(folder))


def _layouts(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Folders of images and of labels, in the order of precedence."""
    inside = {p.name.lower(): p for p in sorted(folder.iterdir(), reverse=True) if p.is_dir()}
    for images in IMAGE_FOLDERS:
        for labels in LABEL_FOLDERS:
            if images in inside and labels in inside:
                yield inside[images], inside[labels]
    yield folder, folder


def match_folders(image_folder: Path, label_folder: Path) -> tuple[list[Pair], list[Problem]]:
    """Pairs by name, in the order of the images' names, and what has no partner."""
    together = image_folder == label_folder
    images = images_in(image_folder) if together else pictures(image_folder)
    images.sort(key=lambda p: (stem_of(p), IMAGE_SUFFIXES.index(p.suffix.lower()), p.name))
    marked = [p for p in pictures(label_folder) if label_ending(p) or not together]
    labels: dict[str, list[Path]] = {}
    for path in sorted(marked, key=label_precedence):
        if path.suffix.lower() not in LOSSY_SUFFIXES:
            for key in _keys(path, together):
                labels.setdefault(key, []).append(path)

    partner: dict[Path, Path] = {}
    given: set[Path] = set()
    taken: set[str] = set()
    for drop_ending in (False, True):  # x.tif comes before x_img.tif when both could take x_masks.tif
        for image in images:
            key = without_image_ending(stem_of(image)) if drop_ending else stem_of(image)
            free = [p for p in labels.get(key, ()) if p not in given]
            if image not in partner and key not in taken and free:
                partner[image] = free[0]
                given.add(free[0])
                taken.add(key)

    pairs = [Pair(image, partner[image], stem_of(image)) for image in images if image in partner]
    used = {pair.name: pair.image for pair in pairs}
    problems = [_no_labels(image, used.get(stem_of(image))) for image in images if image not in partner]
    return pairs, problems + [_no_image(path) for path in marked if not taken & _keys(path, together)]


def pictures_below(folder: Path) -> list[Path]:
    """Images in a folder and all below it, in the order of their paths; without labels, and folders of labels."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; give one with images")
    found = images_in(folder)
    inside = [p for p in folder.iterdir() if p.is_dir() and p not in found and not p.name.startswith(".")]
    for sub in inside:
        if sub.name.lower() not in LABEL_FOLDERS and sub.suffix.lower() != ".zarr":
            found += pictures_below(sub)
    return sorted(found)


def _keys(labels: Path, together: bool) -> set[str]:
    """Names of images that a label file may belong to; its own only when it lies in a folder of its own."""
    key = stem_of(labels).removesuffix(label_ending(labels))
    return {key} if together else {key, stem_of(labels)}


def _no_labels(image: Path, namesake: Path | None) -> Problem:
    if namesake is not None:
        return Problem(image, f"{namesake.name} has the same name and is used", "rename one of them", False)
    return Problem(image, "has no labels", "it is not used; add its label file to train on it", False)


def _no_image(labels: Path) -> Problem:
    if labels.suffix.lower() in LOSSY_SUFFIXES:
        return Problem(labels, "JPEG changes ids, so it cannot hold labels", "save labels as PNG or TIFF", False)
    return Problem(labels, "has no image", "it is not used; check the image's name", False)


def without_image_ending(stem: str) -> str:
    for ending in IMAGE_ENDINGS:
        if stem.lower().endswith(ending):
            return stem[: -len(ending)]
    return stem


def _nothing_found(folder: Path) -> str:
    names = sorted(p.name + ("/" if p.is_dir() else "") for p in folder.iterdir() if not p.name.startswith("."))
    if not names:
        return f"{folder}: the folder is empty; give one with images and labels. Understood are:\n{NAMINGS}"
    more = f" and {len(names) - LINES_SHOWN} more" if len(names) > LINES_SHOWN else ""
    there = ", ".join(names[:LINES_SHOWN]) + more
    inside = [
        str(sub)
        for sub in sorted(p for p in folder.iterdir() if p.is_dir())
        if any(match_folders(*layout)[0] for layout in _layouts(sub))
    ]
    hint = f"\nThese folders in it have pairs; give one of them: {', '.join(inside)}" if inside else ""
    return f"{folder}: no image has labels. There are: {there}\nUnderstood are:\n{NAMINGS}{hint}"


def _histogram(values: NDArray[np.float64]) -> list[str]:
    """A bar a line; everything above the 99th percentile is in the last one."""
    low, high = float(values.min()), float(np.percentile(values, 99))
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10_000) if (high - low) / s <= LINES_SHOWN - 2)
    edges = np.arange(low // step * step, high // step * step + 2 * step, step)
    counts, _ = np.histogram(np.minimum(values, high), edges)
    most = counts.max()
    return [
        f"  {edge:5.0f} to {edge + step:3.0f} px {n:8,}  {'#' * int(np.ceil(n / most * 40))}"
        for edge, n in zip(edges, counts, strict=False)
    ]


def _plural(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"
