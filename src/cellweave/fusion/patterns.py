"""What all fusions of label images start from: the raters that take part, and the combinations of their ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellweave._kernels import label_patterns
from cellweave.core.errors import InputError
from cellweave.core.labels import Labels, as_labels

Raters = Sequence[NDArray[Any] | None] | NDArray[Any]
"""One image for each of K raters; None where a rater, a channel, is missing."""

Floats = NDArray[np.float64]
Value = TypeVar("Value", bound=np.generic)

NOT_LESS = 1e-9
"""Shares and probabilities closer than this are equal: a tie must not hang on the order of a sum."""


@dataclass(frozen=True, eq=False)
class Patterns:
    """The P combinations of ids that occur at the pixels of the images of K present raters.

    A fusion that looks at one pixel at a time says the same wherever the combination is the same, so that it works on P
    combinations with their counts in place of all pixels: exactly the same result, thousands of times faster.

    Attributes
    ----------
    labels
        (P, K) int32: the ids, in the order in which a scan by rows meets the combinations.
    counts
        (P,) int64: pixels of each.
    index
        (Y, X) int32: the combination at each pixel.
    weights
        (K,) float64, above 0.
    raters
        (K,) places of the present raters among all that were given.
    given
        Number of raters given, present or not.
    """

    labels: Labels
    counts: NDArray[np.int64]
    index: NDArray[np.int32]
    weights: Floats
    raters: NDArray[np.intp]
    given: int

    def image(self, values: NDArray[Value]) -> NDArray[Value]:
        """One value a combination, (P,), to one a pixel, (Y, X)."""
        return np.asarray(np.take(values, self.index))

    def of_given(self, values: Floats) -> Floats:
        """Values of the present raters, (K, ...), to those of all that were given; NaN for the missing ones."""
        result = np.full((self.given, *values.shape[1:]), np.nan)
        result[self.raters] = values
        return result


def present(raters: Raters, weights: ArrayLike | None) -> tuple[NDArray[np.intp], Floats]:
    """Places and weights of the raters that are not None and whose weight is not 0.

    Raises
    ------
    InputError
        When no rater is left, or the weights are not one number a rater, finite and not negative.
    """
    given = len(raters)
    there = np.array([rater is not None for rater in raters], bool)
    checked = np.ones(given) if weights is None else np.asarray(weights, np.float64)
    if checked.shape != (given,):
        raise InputError(f"weights have shape {checked.shape} for {given} raters; give one number for each rater")
    if not np.isfinite(checked).all() or (checked < 0).any():
        raise InputError(f"weights {checked.tolist()}: they must be finite and not negative; 0 leaves a rater out")
    there &= checked > 0
    if not there.any():
        raise InputError(f"nothing to fuse: all of {given} raters are missing or have a weight of 0")
    return np.flatnonzero(there), checked[there]


def find_patterns(labels: Raters, weights: ArrayLike | None = None, *, masks: bool = False) -> Patterns:
    """Check the label images and find the combinations of ids.

    Parameters
    ----------
    labels
        K label images (Y, X) of one shape, or (K, Y, X); None for a missing rater.
    weights
        (K,) numbers; None: all 1.
    masks
        Only foreground, 1, and background count: there are 2**K combinations at most.

    Raises
    ------
    InputError
        When no rater is present, a weight is impossible, one is no label image, or the shapes differ.
    """
    raters, kept_weights = present(labels, weights)
    images: list[Labels] = []
    for place in raters:
        image = np.ascontiguousarray(as_labels(np.asarray(labels[place]), f"rater {place}"))
        if images and image.shape != images[0].shape:
            raise InputError(
                f"rater {raters[0]} has shape {images[0].shape} and rater {place} {image.shape}; "
                "all must be label images of the same picture"
            )
        images.append((image > 0).astype(np.int32) if masks else image)
    index = np.empty(images[0].shape, np.int32)
    ids, counts = label_patterns(images, index)
    return Patterns(ids, counts, index, kept_weights, raters, len(labels))
