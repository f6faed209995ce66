"""Instances of several raters fused to one set: ids are matched, or forgotten, and a method of fusion does the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellweave import _kernels
from cellweave.core.cleaning import clean_labels
from cellweave.core.errors import InputError
from cellweave.core.labels import Labels
from cellweave.fusion.majority_voting import most_votes
from cellweave.fusion.match_ids import matched_ids
from cellweave.fusion.multi_label_staple import most_probable
from cellweave.fusion.patterns import NOT_LESS, Patterns, Raters, find_patterns
from cellweave.fusion.pixel_voting import foreground_share
from cellweave.fusion.simple import select
from cellweave.fusion.staple import estimate

Method = Literal["pixel_voting", "majority_voting", "staple", "simple"]
METHODS: tuple[Method, ...] = ("pixel_voting", "majority_voting", "staple", "simple")
MIN_SIZE = 15
"""Pixels; that of decoding flows (`cellweave.representations.DiffusionFlows`)."""


def fuse_instances(
    labels: Raters,
    method: Method = "majority_voting",
    *,
    weights: ArrayLike | None = None,
    instances: Literal["matched", "components"] = "matched",
    min_size: int = MIN_SIZE,
) -> Labels:
    """Fuse instance segmentations of one picture, whose ids have nothing to do with each other.

    With ``instances="matched"`` the objects of the raters are matched first (`match_ids`), and the method works on
    labels: `majority_voting`; `multi_label_staple`; `simple` for each object; `pixel_voting` for the foreground, whose
    pixels go to the object that most raters see there, or to none where each rater sees another one. With
    ``"components"`` the method works on the foreground alone, binary STAPLE among them, and the instances are its
    4-connected components, so that cells that touch become one.

    As in decoding, holes are filled and small objects left out; pieces that do not touch are objects of their own.

    Parameters
    ----------
    labels
        K label images (Y, X) of one shape, or (K, Y, X), 0 = background; None for a missing rater.
    method
        ``"pixel_voting"``, ``"majority_voting"``, ``"staple"`` or ``"simple"``.
    weights
        (K,) numbers, not negative; 0 leaves a rater out. None: all equal.
    instances
        How instances come about, see above.
    min_size
        Fewest pixels of an object; the default is that of decoding flows.

    Returns
    -------
    (Y, X) int32 with ids 1..n.

    Raises
    ------
    InputError
        When no rater is present, one is no label image, the shapes differ, a weight is negative or not finite, or the
        method is unknown.

    References
    ----------
    *Cell Segmentation in Images Without Structural Fluorescent Reporters*, Tables 2 and 3. The paper does not say how
    its voting, STAPLE and SIMPLE came to instances; ``"components"`` is what those methods, made for masks, give by
    themselves. ``"matched"`` is ours.
    """
    if method not in METHODS:
        raise InputError(f"method is '{method}'; use one of {', '.join(METHODS)}")
    if instances not in ("matched", "components"):
        raise InputError(f"instances is '{instances}'; use 'matched' or 'components'")
    patterns = find_patterns(labels, weights, masks=instances == "components")
    if instances == "matched":
        matched = replace(patterns, labels=matched_ids(patterns))
        return _whole(patterns.image(_fused_labels(matched, method)), min_size)
    return _whole(patterns.image(_fused_foreground(patterns, method)).astype(np.int32), min_size)


def _whole(labels: Labels, min_size: int) -> Labels:
    """Connected objects without holes, of at least this size, with ids 1..n."""
    pieces, _ = clean_labels(labels, min_size=0)
    boxes = np.empty((int(pieces.max(initial=0)), 4), np.int32)
    _kernels.bounding_boxes(pieces, boxes)
    _kernels.fill_holes(pieces, boxes)
    return clean_labels(pieces, min_size=min_size)[0]


def _fused_labels(patterns: Patterns, method: Method) -> Labels:
    """(P,) label of each combination."""
    if method == "pixel_voting":
        return np.where(foreground_share(patterns) > 0.5 + NOT_LESS, _seen_by_most(patterns), 0).astype(np.int32)
    if method == "majority_voting":
        return most_votes(patterns, undecided=0)
    if method == "staple":
        return most_probable(patterns, undecided=0)
    return select(patterns)[0]


def _fused_foreground(patterns: Patterns, method: Method) -> NDArray[np.bool_]:
    """(P,) whether each combination is foreground."""
    if method == "staple":
        return np.asarray(estimate(patterns)[0] > 0.5 + NOT_LESS)
    if method == "simple":
        return np.asarray(select(patterns)[0] > 0)
    return np.asarray(foreground_share(patterns) > 0.5 + NOT_LESS)


def _seen_by_most(patterns: Patterns) -> Labels:
    """(P,) the label above 0 with the most votes, of equal ones the lowest; 0 where several raters have one each."""
    ids = np.sort(patterns.labels, axis=1)
    order = np.argsort(patterns.labels, axis=1, kind="stable")
    weights = patterns.weights[order]
    votes = np.stack([((ids == ids[:, [k]]) * weights).sum(axis=1) for k in range(ids.shape[1])], axis=1)
    votes[ids == 0] = -1
    best = (votes > votes.max(axis=1, keepdims=True) - NOT_LESS * patterns.weights.sum()).argmax(axis=1)
    found = np.take_along_axis(ids, best[:, None], axis=1)
    apart = ((ids == found).sum(axis=1) == 1) & ((ids > 0).sum(axis=1) > 1)
    return np.where(apart, 0, found[:, 0]).astype(np.int32)
