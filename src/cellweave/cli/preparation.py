"""What is done to images before they are segmented, and the commands that measure it on a whole acquisition."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellweave.cli.batch import film_of, find_images
from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.io import read_image
from cellweave.prep import (
    FlatField,
    Scaling,
    cidre,
    corrected,
    equalised,
    estimate_field,
    reference_field,
)


@dataclass(frozen=True)
class Preparation:
    """In this order: even illumination, CLAHE, grey values that count as 0 and 1.

    Parameters
    ----------
    illumination, scaling
        What `cellweave illumination` and `cellweave scaling` wrote.
    clahe
        Rows and columns of tiles, and the clip limit.
    """

    illumination: FlatField | None = None
    clahe: tuple[tuple[int, int], float] | None = None
    scaling: Scaling | None = None

    @classmethod
    def load(
        cls, illumination: Path | None = None, clahe: str | None = None, scaling: Path | None = None
    ) -> Preparation:
        """From files, and from text such as ``8x8`` or ``8x8,3``."""
        return cls(
            FlatField.load(illumination) if illumination else None,
            _tiles(clahe) if clahe else None,
            Scaling.load(scaling) if scaling else None,
        )

    def measured(self, image: Image) -> Image:
        """The image that intensities are measured on: with even illumination, but the contrast that it has."""
        return corrected(image, self.illumination, keep_dtype=self.clahe is not None) if self.illumination else image

    def of(self, image: Image) -> Image:
        """The image, prepared for the nets; pixels are corrected when they are read."""
        image = self.measured(image)
        if self.clahe:
            image = equalised(image, tiles=self.clahe[0], clip_limit=self.clahe[1])
        return self.scaling.apply(image) if self.scaling else image

    @property
    def record(self) -> dict[str, str]:
        """What decides the results, for `run.json`: hashes of the files, and what intensities were measured on."""
        return {
            "illumination": self.illumination.hash if self.illumination else "",
            "clahe": str(self.clahe or ""),
            "scaling": self.scaling.hash if self.scaling else "",
            "measured_on": "pixels with even illumination" if self.illumination else "pixels of the file",
        }


def _tiles(text: str) -> tuple[tuple[int, int], float]:
    found = re.fullmatch(r"\s*(\d+)\s*x\s*(\d+)\s*(?:,\s*(\d+(?:\.\d*)?)\s*)?", text)
    if not found:
        raise InputError(
            f"--clahe '{text}' is not understood; write rows x columns of tiles: 8x8, or 8x8,3 to clip at 3"
        )
    return (int(found[1]), int(found[2])), float(found[3] or 2.0)


class Files(Sequence[Image]):
    """Images of files, each opened when it is indexed."""

    def __init__(
        self, inputs: Sequence[str], axes: str | None, plane: str | None, prepared: Preparation | None = None
    ) -> None:
        self._files, self._axes, self._plane = find_images(inputs), axes, plane
        self._prepared = prepared or Preparation()

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> Image:  # type: ignore[override]
        image = film_of(read_image(self._files[number], axes=self._axes), self._plane)
        return self._prepared.of(image)


def make_field(
    images: Sequence[Image], method: str, *, dark: Sequence[Image] | None, offset: float | None, quantile: float
) -> FlatField:
    """The illumination of an acquisition by one of the methods of `cellweave.prep`."""
    if dark and method != "reference":
        raise InputError("--dark is for --method reference; for the others give the camera's --offset")
    if method == "cidre":
        return cidre(images, offset=offset)
    if method == "flat-field":
        return estimate_field(images, quantile=quantile, offset=offset or 0.0)
    if method == "reference":
        return reference_field(images, dark or offset or 0.0)
    raise InputError(f"--method '{method}' is unknown; choose cidre, flat-field or reference")


def told_field(field: FlatField, names: Sequence[str]) -> list[str]:
    """A line a channel."""
    gains, offsets = (plane.reshape(-1, *plane.shape[-2:]) for plane in (field.gain, field.offset))
    return [
        f"{name or f'channel {c + 1}'}: light from {gain.min():.2f} to {gain.max():.2f} of the mean, "
        f"offset {np.mean(offset):.4g}"
        for c, (name, gain, offset) in enumerate(zip(names, gains, offsets, strict=True))
    ]


def told_scaling(found: Scaling) -> list[str]:
    """A line a channel."""
    return [
        f"{name or f'channel {c + 1}'}: {low:.6g} becomes 0, {high:.6g} becomes 1"
        for c, (name, (low, high)) in enumerate(zip(found.channel_names, found.limits, strict=True))
    ]
