"""`Preparation`: what is done to the pixels of an acquisition before a net sees them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.prep.clahe import equalised
from cellweave.prep.flatfield import FlatField, corrected
from cellweave.prep.scaling import Scaling


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
        """From files, and from text such as ``8x8`` or ``8x8,40``."""
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

    @property
    def steps(self) -> tuple[str, ...]:
        """What is done, in words that hold for every acquisition."""
        return steps_of(self.record)


def steps_of(record: Mapping[str, str]) -> tuple[str, ...]:
    """`Preparation.steps`, of a `Preparation.record`."""
    names = {"illumination": "even illumination", "clahe": f"CLAHE {record.get('clahe')}", "scaling": "scaling"}
    return tuple(name for step, name in names.items() if record.get(step))


def _tiles(text: str) -> tuple[tuple[int, int], float]:
    found = re.fullmatch(r"\s*(\d+)\s*x\s*(\d+)\s*(?:,\s*(\d+(?:\.\d*)?)\s*)?", text)
    if not found:
        raise InputError(
            f"--clahe '{text}' is not understood; write rows x columns of tiles: 8x8, or 8x8,40 to clip at 40"
        )
    return (int(found[1]), int(found[2])), float(found[3] or 2.0)
