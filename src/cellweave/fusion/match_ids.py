"""Which objects of several label images are the same: one id for each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.core.labels import Labels
from cellweave.fusion.patterns import Patterns, Raters, find_patterns

Indices = NDArray[np.int64]

IOU = 0.25
"""Objects of two raters may be the same from this IoU on."""


def match_ids(labels: Raters, *, iou: float = IOU) -> list[Labels | None]:
    """Give the same object the same id in all label images.

    Objects of different raters are joined in the order of their IoU, highest first, as long as it is at least `iou` and
    no group gets two objects of one rater. The result depends neither on the ids nor on the order of the raters.

    Parameters
    ----------
    labels
        K label images (Y, X) of one shape, or (K, Y, X); None for a missing rater.
    iou
        Lowest IoU of two objects that are joined, above 0 and at most 1.

    Returns
    -------
    K label images (Y, X) int32 with ids 1..n, in the order in which a scan by rows meets the groups; None where the
    rater is None. An object that is joined with none has an id of its own.

    Raises
    ------
    InputError
        When no rater is present, one is no label image, the shapes differ, or `iou` is outside 0..1.
    """
    patterns = find_patterns(labels)
    matched = matched_ids(patterns, iou=iou)
    result: list[Labels | None] = [None] * patterns.given
    for k, rater in enumerate(patterns.raters):
        result[rater] = patterns.image(matched[:, k])
    return result


def matched_ids(patterns: Patterns, *, iou: float = IOU) -> Labels:
    """(P, K) int32: `patterns.labels` with the ids of `match_ids`."""
    if not 0 < iou <= 1:
        raise InputError(f"iou is {iou}; it must be above 0 and at most 1")
    objects, n_of = _objects(patterns.labels)
    n = int(n_of.sum())
    traits = _traits(objects, patterns.counts, n)
    rank = np.empty(n, np.int64)  # the same whatever the order of the raters, except among equal objects
    order = np.lexsort(traits[::-1])
    rank[order] = np.cumsum(np.r_[0, (np.diff(traits[:, order], axis=1) != 0).any(axis=0)]) if n else 0
    group = _join(_edges(objects, patterns.counts, traits[1], rank, iou), np.repeat(np.arange(len(n_of)), n_of))

    first = np.full(n, n, np.int64)
    np.minimum.at(first, group, rank)
    _, ids = np.unique(first[group], return_inverse=True)
    return np.where(objects >= 0, np.append(ids, -1)[objects] + 1, 0).astype(np.int32)


def _objects(labels: Labels) -> tuple[Indices, Indices]:
    """Objects of all raters numbered from 0 on, rater by rater: (P, K), -1 for background; and how many each has."""
    objects = np.full(labels.shape, -1, np.int64)
    n_of = np.zeros(labels.shape[1], np.int64)
    for k, column in enumerate(labels.T):
        ids, places = np.unique(column[column > 0], return_inverse=True)
        objects[column > 0, k] = places + n_of.sum()
        n_of[k] = len(ids)
    return objects, n_of


def _traits(objects: Indices, counts: Indices, n: int) -> Indices:
    """(4, n): first combination, area, and two sums that tell sets of combinations from each other."""
    traits = np.zeros((4, n), np.int64)
    traits[0] = len(objects)
    place = np.arange(1, len(objects) + 1)
    for column in objects.T:
        inside = column >= 0
        np.minimum.at(traits[0], column[inside], place[inside])
        for row, values in zip(traits[1:], (counts, place, place**2), strict=True):
            np.add.at(row, column[inside], values[inside])
    return traits


def _edges(objects: Indices, counts: Indices, areas: Indices, rank: Indices, iou: float) -> Indices:
    """(E, 2): pairs of objects of different raters with enough IoU, best first."""
    n = max(len(areas), 1)
    pairs, shared = [], []
    for a in range(objects.shape[1]):
        for b in range(a):
            both = (objects[:, a] >= 0) & (objects[:, b] >= 0)
            pair, place = np.unique(objects[both, a] * n + objects[both, b], return_inverse=True)
            pairs.append(np.stack([pair // n, pair % n], axis=1))
            shared.append(np.bincount(place, counts[both], len(pair)))
    if not pairs:
        return np.zeros((0, 2), np.int64)
    edges, pixels = np.concatenate(pairs), np.concatenate(shared)
    overlap = pixels / (areas[edges].sum(axis=1) - pixels)
    ranks = np.sort(rank[edges], axis=1)
    order = np.lexsort((ranks[:, 1], ranks[:, 0], -pixels, -overlap))
    return np.asarray(edges[order[overlap[order] >= iou]])


def _join(edges: Indices, rater_of: Indices) -> Indices:
    """(n,): a representative object of each object's group, joined along the edges in order."""
    parent = list(range(len(rater_of)))
    members = [1 << int(rater) for rater in rater_of]  # the raters of a group, as bits

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for one, other in edges.tolist():
        a, b = root(one), root(other)
        if a != b and not members[a] & members[b]:
            parent[b] = a
            members[a] |= members[b]
    return np.array([root(node) for node in range(len(parent))], np.int64)
