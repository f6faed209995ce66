"""Majority voting of label images: each pixel gets the label that most raters gave it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from cellweave.core.labels import Labels
from cellweave.fusion.patterns import NOT_LESS, Patterns, Raters, find_patterns


def majority_voting(labels: Raters, *, weights: ArrayLike | None = None, undecided: int = 0) -> Labels:
    """The label with the most votes at each pixel: ``argmax_c sum_k w_k [labels_k = c]``.

    Background, 0, is a label as any other. The most votes need not be more than half of them. Ids must mean the same in
    all images: those of instances do not, see `match_ids` and `fuse_instances`.

    Parameters
    ----------
    labels
        K label images (Y, X) of one shape, or (K, Y, X); None for a missing rater.
    weights
        (K,) numbers, not negative, of any sum; 0 leaves a rater out. None: all equal.
    undecided
        Label of pixels where two labels or more have the most votes.

    Returns
    -------
    (Y, X) int32.

    Raises
    ------
    InputError
        When no rater is present, one is no label image, the shapes differ, or a weight is negative or not finite.

    References
    ----------
    Rohlfing and Maurer 2005, *Multi-classifier framework for atlas-based image segmentation*, Pattern Recognition
    Letters 26. Equal to SimpleITK's ``LabelVoting``, whose `undecided` is the highest label plus 1 where none is given.
    """
    patterns = find_patterns(labels, weights)
    return patterns.image(most_votes(patterns, undecided=undecided))


def most_votes(patterns: Patterns, *, undecided: int) -> Labels:
    """(P,) int32: the label with the most votes in each combination."""
    ids, weights = patterns.labels, patterns.weights
    votes = np.stack([(ids == ids[:, [k]]) @ weights for k in range(len(weights))], axis=1)  # for what rater k says
    best = votes.argmax(axis=1)[:, None]
    winner = np.take_along_axis(ids, best, axis=1)
    most = np.take_along_axis(votes, best, axis=1)
    tie = ((votes > most - NOT_LESS * weights.sum()) & (ids != winner)).any(axis=1)
    return np.where(tie, undecided, winner[:, 0]).astype(np.int32)
