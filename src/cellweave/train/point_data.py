"""Data sets of cell positions: images, and what people marked in them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from cellweave.core.errors import InputError, ReadError
from cellweave.core.points import Annotation, Points, Shape, inside
from cellweave.core.progress import report
from cellweave.io import read_annotations
from cellweave.io.filenames import IMAGE_SUFFIXES, pictures, stem_of
from cellweave.io.points import ENDINGS, TABLES, point_files
from cellweave.representations import Heatmap, known_region
from cellweave.train.pairs import (
    IMAGE_FOLDERS,
    Problem,
    Unusable,
    problem_lines,
    read_single_plane,
    without_image_ending,
)
from cellweave.train.samples import Example

SIGMAS_APART = 3.0
"""Neighbours so many sigmas apart have maxima of their own, each within a quarter of a pixel of its place."""
POINT_FOLDERS = ("points", "dots", "label_studio", "annotations")
NAMINGS = """\
  images/x.tif + points/x.csv (or x_points.csv; or a dot image x.png, x_dots.png)
  images/x.tif + points/*.json, exports of Label Studio or COCO, about any number of images
  the same without these folders: the files of points in DATA beside the images, x.tif + x_points.csv, x_dots.png or a
  .json
The folder of points may also be called dots, label_studio or annotations."""


@dataclass(frozen=True, eq=False)
class PointData:
    """What `read_point_folder` found.

    Attributes
    ----------
    examples
        One a usable image, in the order of their names, with `Points`.
    problems
        Everything that is wrong or remarkable.
    """

    examples: tuple[Example, ...]
    problems: tuple[Problem, ...]

    def text(self) -> str:
        """The report in words."""
        n = len(self.examples) + sum(p.excluded for p in self.problems)
        lines = [f"Training data: {len(self.examples)} of {n} annotated images can be used"]
        if self.examples:
            kinds = Counter(f"{e.image.n_channels} channels {e.image.dtype}" for e in self.examples)
            counts = [e.n_cells for e in self.examples]
            debris = sum(len(e.positions) for e in self.examples) - sum(counts)
            lines += [
                f"  images    {', '.join(f'{n} with {kind}' for kind, n in sorted(kinds.items()))}",
                f"  points    {sum(counts):,} cells; {min(counts):,} to {max(counts):,} an image, median "
                f"{np.median(counts):,.0f}" + (f"; and {debris:,} of dead cells and debris" if debris else ""),
            ]
            if apart := [d for d in map(_median_distance, self.examples) if d]:
                lines.append(_told_distance(float(np.median(apart))))
            if known := [e.known.mean() for e in self.examples if e.known is not None]:
                lines.append(f"  known     {100 * np.mean(known):.0f} % of the pixels; the others teach nothing")
        return "\n".join([*lines, *problem_lines(self.problems)])


def _told_distance(apart: float) -> str:
    """How near cells are, and the sigma that a heatmap needs to tell them apart, where the usual one is too wide."""
    line = f"  distance  {apart:.1f} px to the nearest cell, median of the images"
    narrow = max(1.0, apart / SIGMAS_APART)
    return line if narrow >= Heatmap.sigma else f"{line}; a heatmap tells them apart with --sigma {narrow:.1f} or less"


def read_point_folder(folder: str | os.PathLike[str], *, sparse: bool = False, group: str = "") -> PointData:
    """Read the images of a folder and the points that people marked in them.

    Understood are images in ``images/`` (image, imgs, img) or in `folder` itself, and files of points in ``points/``
    (dots, label_studio, annotations), in `folder` or beside the images: tables, exports of Label Studio, COCO, dot
    images (see `cellweave.io.read_annotations`). Images without any mark are not used. A bad file is reported, and the
    others are read. Where an image has boxes or polygons and no points, their middles are the points.

    Parameters
    ----------
    folder
        Of the data set.
    sparse
        Not every cell was marked: `Example.known` is what lies near a mark or was painted as background
        (`known_region`). Otherwise all of every image is known.
    group
        See `Example.group`.

    Raises
    ------
    InputError
        When there is no such folder, or no file of points in it; tells which layouts are understood.
    ReadError
        When files of points contradict each other.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder; give the folder that holds images and points")
    image_folder, place = _layout(root)
    annotations, problems = _annotations(_candidates(place))
    examples = []
    used = set()
    images = _images(image_folder)
    for k, (name, file) in enumerate(images.items()):
        report("reading the data", k, len(images), name)
        key = name if name in annotations else without_image_ending(name)
        if key not in annotations or key in used:
            problems.append(Problem(file, "has no points", "it is not used; mark its cells to train on it", False))
            continue
        used.add(key)
        try:
            example, remarks = _example(file, name, annotations[key], sparse, group)
        except Unusable as error:
            problems.append(error.problem)
            continue
        examples.append(example)
        problems += remarks
    report("reading the data", len(images), len(images), "")
    missing = sorted(annotations.keys() - used)
    problems += [
        Problem(place / name, "was marked, and there is no such image", f"copy it to {image_folder}", False)
        for name in missing
    ]
    return PointData(tuple(examples), tuple(problems))


def _layout(root: Path) -> tuple[Path, Path]:
    """The folder of the images and that of the points."""
    within = {p.name.lower(): p for p in sorted(root.iterdir(), reverse=True) if p.is_dir()}
    image_folder = next((within[name] for name in IMAGE_FOLDERS if name in within), root)
    named = [within[name] for name in POINT_FOLDERS if name in within]
    for place in (*named, root, image_folder):
        if _candidates(place):
            return image_folder, place
    raise InputError(f"{root}: there are no points. Understood are:\n{NAMINGS}")


def _candidates(place: Path) -> list[Path]:
    """Files of points in a folder; where no folder says that they are, only those that cannot be images."""
    try:
        files = point_files(place)
    except ReadError:
        return []
    if place.name.lower() in POINT_FOLDERS:
        return files
    return [f for f in files if f.suffix.lower() in (*TABLES, ".json") or stem_of(f).endswith(ENDINGS)]


def _annotations(files: Sequence[Path]) -> tuple[dict[str, Annotation], list[Problem]]:
    """What the files say by name of image, and the files that cannot be read."""
    try:
        return read_annotations(files), []
    except ReadError as error:
        first = error
    good, problems = [], []
    for file in files:
        try:
            read_annotations(file)
            good.append(file)
        except ReadError as error:
            problems.append(Problem(file, str(error).removeprefix(f"{file}: "), "nothing in it is used", True))
    if not problems:
        raise first  # the files do not fit together
    return (read_annotations(good) if good else {}), problems


def _images(folder: Path) -> Mapping[str, Path]:
    """Images by name; of several of one name the first by suffix, as in `IMAGE_SUFFIXES`."""
    files = [file for file in pictures(folder) if not stem_of(file).endswith(ENDINGS)]
    files.sort(key=lambda p: (stem_of(p), IMAGE_SUFFIXES.index(p.suffix.lower())), reverse=True)
    by_name = {stem_of(file): file for file in files}
    return {name: by_name[name] for name in sorted(by_name)}


def _example(file: Path, name: str, annotation: Annotation, sparse: bool, group: str) -> tuple[Example, list[Problem]]:
    """The image with its points, and what is worth knowing."""
    image = read_single_plane(file)
    shape = (image.height, image.width)
    if annotation.shape not in (None, shape):
        raise Unusable(
            file,
            f"is {shape[0]} x {shape[1]} px, and was annotated at {annotation.shape[0]} x {annotation.shape[1]}",
            "give the image that was annotated",
        )
    points, outside = _within(annotation.centres, shape)
    problems = []
    if outside:
        what = f"points outside of the image: {outside}"
        problems.append(Problem(file, what, "they are left out; are x and y exchanged?", False))
    if not annotation.report.clean:
        said = str(annotation.report).removeprefix(f"{annotation.report.source}: ")
        problems.append(Problem(file, said, "see the file of points", False))
    if not len(points.cells):
        problems.append(Problem(file, "has no cells", "keep it only if it shows background alone", False))
    known = None
    if sparse:
        clicks = Points(np.concatenate([points.positions, annotation.background_points]))
        known = known_region(clicks, annotation.background, shape)
        if not known.any():
            raise Unusable(file, "has no mark at all", "leave out --sparse if it is empty")
    return Example(name, image, points, group, known=known), problems


def _within(points: Points, shape: Shape) -> tuple[Points, int]:
    """The points on an image of this size, which they then tell, and the number of the others."""
    on_image = inside(points.positions, shape)
    kept = points[on_image]
    return Points(kept.positions, kept.classes, kept.confidence, shape), int((~on_image).sum())


def _median_distance(example: Example) -> float:
    """Median distance in px from a cell to the nearest other; 0 with fewer than two."""
    positions = example.positions.cells.positions
    if len(positions) < 2:
        return 0.0
    return float(np.median(cKDTree(positions).query(positions, k=2)[0][:, 1]))
