"""What an annotated data set holds, in numbers: images, objects, channels, diameters, and the diameter to give."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.io import read_image
from cellweave.train.objects import cell_line_folders, check_objects, has_objects
from cellweave.train.pairs import DataReport, Problem, check_folder


@dataclass(frozen=True, eq=False)
class Summary:
    """One kind of object in one folder of images.

    Attributes
    ----------
    name
        Of the folder.
    kind
        ``"nuclei"``, ``"cells"``, or ``"objects"`` where the folder does not say.
    images
        How many can be used.
    channels
        How many images have each channel, by name; channels without one are counted together as ``"unnamed"``.
    diameters
        (n,) float64: diameter in px of every object.
    problems
        Why images were left out.
    """

    name: str
    kind: str
    images: int
    channels: dict[str, int]
    diameters: NDArray[np.float64]
    problems: tuple[Problem, ...] = ()

    @property
    def mean(self) -> float:
        """Mean diameter in px: what a model is trained and used with. NaN without objects, as the others."""
        return float(self.diameters.mean()) if len(self.diameters) else float("nan")

    @property
    def sd(self) -> float:
        """Standard deviation of the diameters in px."""
        return float(self.diameters.std()) if len(self.diameters) else float("nan")

    @property
    def advised(self) -> float:
        """Diameter in px to give to a model that is used as it comes: mean + one standard deviation.

        *Cell Segmentation in Images Without Structural Fluorescent Reporters*, Sec. 3.4.
        """
        return self.mean + self.sd

    def text(self) -> str:
        """The numbers in words."""
        lines = [f"{self.name}, {self.kind}"]
        lines.append(f"  images    {self.images:,}" + (f", {len(self.problems)} left out" if self.problems else ""))
        if self.images:
            named = ", ".join(f"{name} in {n}" for name, n in self.channels.items())
            lines.append(f"  channels  {named}")
        lines.append(f"  objects   {len(self.diameters):,}")
        if len(self.diameters):
            low, middle, high = np.percentile(self.diameters, [5, 50, 95])
            lines += [
                f"  diameter  {self.mean:.1f} px, mean; standard deviation {self.sd:.1f}; median {middle:.1f}; "
                f"{low:.1f} to {high:.1f} for nine objects in ten",
                f"  give      --diameter {self.advised:.1f} to a model used as it comes (mean + standard deviation), "
                f"{self.mean:.1f} to one trained on these images at that diameter",
            ]
        lines += [f"  left out  {problem}" for problem in self.problems]
        return "\n".join(lines)


def summarise(data: str | os.PathLike[str]) -> list[Summary]:
    """A `Summary` of each kind of object in a data set, or in each of its sub-folders that is one.

    Parameters
    ----------
    data
        A folder of images and labels as for `train`, or with images/, nuclei/ and cells/ as for `train_strategy`.

    Raises
    ------
    InputError
        When neither the folder nor a folder in it has images with labels.
    """
    root = Path(data)
    if has_objects(root):
        return _objects(root)
    try:
        return [_summary(root.resolve().name, "objects", check_folder(root))]
    except InputError:
        if not root.is_dir():
            raise
    try:
        return [one for folder in cell_line_folders(root).values() for one in _objects(folder)]
    except InputError as error:
        found = []
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            try:
                found.append(_summary(folder.name, "objects", check_folder(folder)))
            except InputError:
                continue
        if not found:
            raise InputError(f"{root}: neither it nor a folder in it has images with labels") from error
        return found


def _objects(folder: Path) -> list[Summary]:
    return [_summary(folder.resolve().name, kind, found) for kind, found in check_objects(folder).items()]


def _summary(name: str, kind: str, found: DataReport) -> Summary:
    channels: Counter[str] = Counter()
    for pair in found.usable:
        channels.update({channel or "unnamed" for channel in read_image(pair.image).channel_names})
    problems = tuple(problem for problem in found.problems if problem.excluded)
    return Summary(name, kind, len(found.facts), dict(sorted(channels.items())), found.object_diameters, problems)
