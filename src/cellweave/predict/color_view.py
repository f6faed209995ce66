"""An image as nets of photographs see it, three planes in 0..1; and as one plane."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.predict.maps import as_plane
from cellweave.prep import Channels, Normalisation
from cellweave.prep.channels import apply_weights


def gray_plane(image: Image | NDArray[Any], channels: str | Channels, model: str) -> NDArray[np.float32]:
    """(Y, X) of a 2-D image, in its own grey values.

    Parameters
    ----------
    image
        An image, or an array as `Image.from_array` takes it.
    channels
        ``auto`` for the mean of all channels, ``gray:NAME`` for one of them.
    model
        For messages: who looks.

    Raises
    ------
    InputError
        For other policies, and images with times or depths to choose from.
    """
    plane, policy = as_plane(image), Channels.parse(channels)
    if policy.policy not in ("auto", "gray"):
        raise InputError(f"channels are '{policy}', and {model} looks at one; write gray:NAME, or leave it out")
    if policy.chosen:
        return np.asarray(apply_weights(plane.read(), policy.weights(plane))[0])
    return np.asarray(np.asarray(plane.read(), np.float32).mean(axis=0))


class ColorView:
    """Red, green and blue of a 2-D image; the 1st and 99th percentile of each channel of all of it become 0 and 1.

    Parameters
    ----------
    image
        An image, or an array as `Image.from_array` takes it.
    channels
        What is shown as red, green and blue, a `Channels` policy of that kind: ``color``, ``color:2``, ``color:2,1``.
    model
        For messages: who looks.

    Raises
    ------
    InputError
        For other policies, and images with times or depths to choose from.
    """

    def __init__(self, image: Image | NDArray[Any], channels: str | Channels, model: str) -> None:
        self._image = as_plane(image)
        policy = Channels.parse(channels)
        if policy.planes != 3:
            raise InputError(
                f"channels '{policy}' give {policy.planes} planes, and {model} looks at 3; "
                "write color, or color:2 for one of them"
            )
        self._weights = policy.weights(self._image)
        self._normalisation = Normalisation(clip=(0.0, 1.0))
        self._limits = self._normalisation.limits(self._image)
        self.shape = (self._image.height, self._image.width)

    def read(self, y: slice = slice(None), x: slice = slice(None)) -> NDArray[np.float32]:
        """(3, y, x) in 0..1; only the region is read."""
        return apply_weights(self._normalisation.apply(self._image.read(y, x), self._limits), self._weights)
