"""Pixel-wise voting: a pixel is foreground where more than half of the raters say so."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellweave.fusion.patterns import NOT_LESS, Floats, Patterns, Raters, find_patterns

Mask = NDArray[np.bool_]


def pixel_voting(labels: Raters, *, weights: ArrayLike | None = None) -> Mask:
    """Foreground by the vote of K raters: ``sum_k w_k [labels_k > 0] > 1/2 sum_k w_k`` at each pixel.

    Ids do not matter. A tie is background. `fuse_instances` makes instances of it.

    Parameters
    ----------
    labels
        K label images or masks (Y, X) of one shape, or (K, Y, X); None for a missing rater.
    weights
        (K,) numbers, not negative, of any sum; 0 leaves a rater out. None: all equal.

    Returns
    -------
    (Y, X) bool.

    Raises
    ------
    InputError
        When no rater is present, one is no label image, the shapes differ, or a weight is negative or not finite.

    References
    ----------
    Table 2, "Voting (V)", of *Cell Segmentation in Images Without Structural Fluorescent Reporters*.
    """
    patterns = find_patterns(labels, weights, masks=True)
    return patterns.image(foreground_share(patterns) > 0.5 + NOT_LESS)


def foreground_share(patterns: Patterns) -> Floats:
    """(P,) weights of the raters that say foreground, of all weights."""
    return np.asarray((patterns.labels > 0) @ patterns.weights / patterns.weights.sum())
