"""What is done to images before they are segmented, and the commands that measure it on a whole acquisition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellweave.cli.batch import film_of, find_images
from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.io import read_image
from cellweave.models import Key, ModelSet
from cellweave.prep import FlatField, Preparation, Scaling, cidre, estimate_field, reference_field
from cellweave.prep.preparation import steps_of


def told_difference(models: ModelSet, keys: Sequence[Key], prepared: Preparation) -> str | None:
    """A sentence where models were made with images that were prepared in another way; None where not.

    Illumination and scaling are measured for each acquisition: only whether there was one is compared.
    """
    here = prepared.steps
    others = {made for key in keys if (record := models.training(key).prepared) and (made := steps_of(record)) != here}
    if not others:
        return None
    then = "; or ".join(sorted(", ".join(made) or "nothing" for made in others))
    return (
        f"The models were made with images after {then}; these images come after {', '.join(here) or 'nothing'}. "
        "Prepare them in the same way, or results will be worse than they could be."
    )


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
