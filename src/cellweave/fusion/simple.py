"""SIMPLE: voting by the raters that agree best with the vote, again and again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellweave.core.errors import InputError
from cellweave.core.labels import Labels
from cellweave.fusion.patterns import NOT_LESS, Floats, Patterns, Raters, find_patterns

FEWEST = 3
"""Raters that are always kept: of two, the better one alone would decide. With 2 here, simulated partial raters, 3 or 5
of them, with a bad one or without, fuse to an F1 that is lower by up to 0.05, and nowhere higher."""

MAX_ITERATIONS = 100


@dataclass(frozen=True, eq=False)
class Simple:
    """What `simple` estimates.

    Attributes
    ----------
    labels
        (Y, X) int32: the fused labels.
    ids
        (L,) int32, ascending: the labels above 0 that occur.
    performance
        (K, L) float64 in 0..1: Dice overlap of each rater's label with the fused one. NaN for missing raters.
    kept
        (K, L) bool: the raters that had a vote in the end.
    iterations
        Rounds until nothing changed.
    """

    labels: Labels
    ids: NDArray[np.int32]
    performance: Floats
    kept: NDArray[np.bool_]
    iterations: int


def simple(labels: Raters, *, weights: ArrayLike | None = None, alpha: float = 1.0) -> Simple:
    """Selective and Iterative Method for Performance Level Estimation, for each label on its own.

    It starts with the vote ``L = [sum_k w_k S_k > 1/2 sum_k w_k]`` of all raters and repeats, until nothing changes::

        phi_k = 2 |S_k and L| / (|S_k| + |L|)                              the performance of rater k
        rater k is dropped for good when phi_k < mean(phi) - alpha std(phi) over the raters still there
        L = [sum_k w_k phi_k S_k > 1/2 sum_k w_k phi_k] over those that are left

    The threshold is our reading of the method, written without its paper at hand. The best three raters always stay. A
    pixel that two labels claim gets the one with the higher share of its votes, and none when the shares are equal. Ids
    must mean the same in all images: those of instances do not, see `match_ids` and `fuse_instances`. With one label
    for each object, a rater that misses a cell loses its vote on that cell only.

    Parameters
    ----------
    labels
        K label images or masks (Y, X) of one shape, or (K, Y, X); None for a missing rater.
    weights
        (K,) numbers, not negative, that multiply the votes; 0 leaves a rater out. None: all equal.
    alpha
        Standard deviations below the mean at which a rater is dropped.

    Raises
    ------
    InputError
        When no rater is present, one is no label image, the shapes differ, a weight is negative or not finite, or
        `alpha` is negative or NaN.

    References
    ----------
    Langerak et al. 2010, *Label fusion in atlas-based segmentation using a selective and iterative method for
    performance level estimation (SIMPLE)*, IEEE TMI 29. There the first weights come from how well each atlas fits the
    image; here they are `weights`. Ours are the default of `alpha`, the three raters that stay, and several labels.
    """
    if not alpha >= 0:
        raise InputError(f"alpha is {alpha}; it must not be negative")
    patterns = find_patterns(labels, weights)
    values, ids, performance, kept, iterations = select(patterns, alpha=alpha)
    all_kept = np.zeros((patterns.given, len(ids)), bool)
    all_kept[patterns.raters] = kept.T
    return Simple(patterns.image(values), ids, patterns.of_given(performance.T), all_kept, iterations)


def select(
    patterns: Patterns, *, alpha: float = 1.0
) -> tuple[Labels, NDArray[np.int32], Floats, NDArray[np.bool_], int]:
    """Label of each combination (P,), labels above 0 (L,), performance and kept raters (L, K), rounds."""
    of, ids, label, says = _claims(patterns)
    n, raters = len(ids), len(patterns.weights)
    counts = patterns.counts[of].astype(np.float64)
    sizes = _sums(label, counts[:, None] * says, n)
    kept = np.ones((n, raters), bool)
    votes = np.tile(patterns.weights, (n, 1))
    share = _shares(says, votes, label)
    iterations = 0
    while iterations < MAX_ITERATIONS:
        before, before_kept = share > 0.5 + NOT_LESS, kept
        fused = (counts * before)[:, None]
        both = sizes + _sums(label, fused, n)
        performance = 2 * _sums(label, fused * says, n) / np.where(both > 0, both, 1)
        kept = kept & (performance >= _threshold(performance, kept, alpha) - NOT_LESS)
        share = _shares(says, patterns.weights * performance * kept, label)
        iterations += 1
        if np.array_equal(kept, before_kept) and np.array_equal(share > 0.5 + NOT_LESS, before):
            break
    inside = share > 0.5 + NOT_LESS
    return _best_claims(patterns, of[inside], ids[label[inside]], share[inside]), ids, performance, kept, iterations


def _claims(patterns: Patterns) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64], NDArray[np.bool_]]:
    """The E pairs of a combination and a label above 0 that a rater gives there.

    Returns the combination (E,), the labels that occur (L,), the place of the label in them (E,), and which raters give
    it (E, K).
    """
    ids, places = np.unique(patterns.labels, return_inverse=True)
    places = places.reshape(patterns.labels.shape).astype(np.int64)
    n = max(len(ids), 1)
    pairs = np.unique(np.arange(len(places))[:, None] * n + places)
    of, label = pairs // n, pairs % n
    background = np.count_nonzero(ids == 0)
    of, label = of[label >= background], label[label >= background]
    return of, ids[background:], label - background, places[of] == label[:, None]


def _best_claims(patterns: Patterns, of: NDArray[np.int64], ids: NDArray[np.int32], share: Floats) -> Labels:
    """(P,) int32: of the labels that claim a combination the one with the highest share; 0 for none, and for a tie."""
    highest = np.zeros(len(patterns.counts))
    np.maximum.at(highest, of, share)
    best = share > highest[of] - NOT_LESS
    labels = np.zeros(len(highest), np.int32)
    labels[of[best]] = ids[best]
    labels[np.bincount(of[best], minlength=len(labels)) > 1] = 0
    return labels


def _sums(label: NDArray[np.int64], values: Floats, n: int) -> Floats:
    """(n, K): sums of values (E, K) over the entries of each label."""
    return np.stack([np.bincount(label, column, n) for column in values.T], axis=1)


def _shares(says: NDArray[np.bool_], votes: Floats, label: NDArray[np.int64]) -> Floats:
    """(E,) votes for the label of each entry, of all votes (L, K) on that label; 0 where nobody has a vote."""
    total = votes.sum(axis=1)
    return np.asarray((says * votes[label]).sum(axis=1) / np.where(total > 0, total, 1)[label])


def _threshold(performance: Floats, kept: NDArray[np.bool_], alpha: float) -> Floats:
    """(L, 1): the performance below which raters of a label are dropped."""
    n = kept.sum(axis=1, keepdims=True)
    mean = (performance * kept).sum(axis=1, keepdims=True) / n
    spread = np.sqrt((kept * (performance - mean) ** 2).sum(axis=1, keepdims=True) / n)
    of_kept = np.sort(np.where(kept, performance, -1), axis=1)
    return np.asarray(np.minimum(mean - alpha * spread, of_kept[:, -min(FEWEST, kept.shape[1]), None]))
