"""STAPLE with several labels: the true label of each pixel, and how each rater confuses labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellweave.core.errors import InputError
from cellweave.core.labels import Labels
from cellweave.fusion.majority_voting import most_votes
from cellweave.fusion.patterns import NOT_LESS, Floats, Patterns, Raters, find_patterns

SAME = 1e-5
"""The estimate stands when no entry of a confusion matrix changes by this much, as in SimpleITK's filter."""

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class MultiLabelStaple:
    """What `multi_label_staple` estimates.

    Attributes
    ----------
    labels
        (Y, X) int32: the most probable label of each pixel.
    probability
        (Y, X) float64 in 0..1: the probability of that label, 0 where no label is possible.
    ids
        (L,) int32, ascending: the labels that occur, with 0 where it does.
    sensitivity
        (K, L) float64: the part of the true pixels of a label that each rater gives that label. NaN for missing raters
        and for labels that are true nowhere.
    specificity
        (K, L) float64: the part of all other pixels to which each rater gives another label. NaN for missing raters.
    iterations
        Rounds of the EM algorithm.
    """

    labels: Labels
    probability: Floats
    ids: NDArray[np.int32]
    sensitivity: Floats
    specificity: Floats
    iterations: int


def multi_label_staple(
    labels: Raters, *, weights: ArrayLike | None = None, undecided: int = 0, max_iterations: int = 10_000
) -> MultiLabelStaple:
    """STAPLE of K label images by expectation maximisation.

    Rater k has a confusion matrix ``m_k[j, c]``, the probability that it says j where c is true; ``g[c]`` is the part
    of all votes that say c. It starts with the confusions between each rater and the majority vote, normalised over c,
    and repeats until nothing changes::

        W[i, c] = g[c] prod_k m_k[j_ik, c] / sum_c' g[c'] prod_k m_k[j_ik, c']
        m_k[j, c] = sum_{i: j_ik = j} W[i, c] / sum_i W[i, c]

    Pixels with the same votes have the same W, so that sums run over the combinations of votes that occur, times their
    counts; and of the confusions only those that are not 0 at the start are kept, as the others stay 0. Thousands of
    labels are therefore no more work than a few.

    Ids must mean the same in all images: those of instances do not, see `match_ids` and `fuse_instances`.

    Parameters
    ----------
    labels
        K label images (Y, X) of one shape, or (K, Y, X); None for a missing rater.
    weights
        (K,) numbers, not negative: a rater with weight 2 counts as two that say the same; 0 leaves a rater out.
    undecided
        Label of pixels where no label is possible, or two labels or more are equally probable.
    max_iterations
        Stop after so many rounds, whether the estimate stands or not.

    Raises
    ------
    InputError
        When no rater is present, one is no label image, the shapes differ, or a weight is negative or not finite.

    References
    ----------
    Rohlfing, Russakoff and Maurer 2004, *Performance-based classifier combination in atlas-based image segmentation
    using expectation-maximization parameter estimation*, IEEE TMI 23. Start and end are those of SimpleITK's
    ``MultiLabelSTAPLE``, with one deviation: pixels without a majority do not count in the start. The filter (ITK 5.4)
    counts those where a rater says j as if it had said j + 1 and the majority 0, so that its result may depend on the
    numbers of the labels, most of all with two raters, where every disagreement is a tie.
    """
    if max_iterations < 1:
        raise InputError(f"max_iterations is {max_iterations}; it must be at least 1")
    patterns = find_patterns(labels, weights)
    found = _estimate(patterns, max_iterations)
    values, probability = _most_probable(found, undecided)
    sensitivity, specificity = _performance(found, patterns)
    return MultiLabelStaple(
        patterns.image(values),
        patterns.image(probability),
        found.ids,
        patterns.of_given(sensitivity),
        patterns.of_given(specificity),
        found.iterations,
    )


def most_probable(patterns: Patterns, *, undecided: int) -> Labels:
    """(P,) int32: the most probable label of each combination."""
    return _most_probable(_estimate(patterns, 10_000), undecided)[0]


@dataclass(frozen=True, eq=False)
class _Estimate:
    """E pairs (combination, label that may be true there), sorted by combination, and their probabilities.

    `ids` (L,); `places` (P, K) the votes as places in `ids`; `of` (E,) combination; `label` (E,) place in `ids`;
    `probability` (E,).
    """

    ids: NDArray[np.int32]
    places: Indices
    of: Indices
    label: Indices
    probability: Floats
    iterations: int


def _estimate(patterns: Patterns, max_iterations: int) -> _Estimate:
    counts, weights = patterns.counts.astype(np.float64), patterns.weights
    ids, places = np.unique(patterns.labels, return_inverse=True)
    n, raters = len(ids), len(weights)
    places = places.reshape(-1, raters).astype(np.int64)
    prior = sum(np.bincount(places[:, k], weights[k] * counts, n) for k in range(raters)) / max(
        weights.sum() * counts.sum(), 1
    )
    rows = places + n * np.arange(raters)  # (P, K): a row of all the confusion matrices below each other

    keys, confusion = _start(rows, patterns, ids)
    of, label, cells = _possible(rows, keys, n)
    columns = keys // (n * n) * n + keys % n
    iterations = 0
    while iterations < max_iterations:
        likelihood = prior[label] * (confusion[cells] ** weights).prod(axis=1)
        total = np.bincount(of, likelihood, len(counts))
        probability = likelihood / np.where(total > 0, total, 1)[of]
        pixels = np.broadcast_to((probability * counts[of])[:, None], cells.shape)
        mass = np.bincount(cells.ravel(), pixels.ravel(), len(keys))
        true = np.bincount(columns, mass, raters * n)
        before, confusion = confusion, mass / np.where(true > 0, true, 1)[columns]
        iterations += 1
        if np.abs(confusion - before).max(initial=0) < SAME:
            break
    likelihood = prior[label] * (confusion[cells] ** weights).prod(axis=1)
    total = np.bincount(of, likelihood, len(counts))
    return _Estimate(ids, places, of, label, likelihood / np.where(total > 0, total, 1)[of], iterations)


def _start(rows: Indices, patterns: Patterns, ids: NDArray[np.int32]) -> tuple[Indices, Floats]:
    """Confusions of each rater with the majority: keys ``row * L + label``, ascending, and values."""
    n = len(ids)
    votes = most_votes(patterns, undecided=-1)
    decided = votes >= 0
    said = rows[decided]
    keys, cell = np.unique(said * n + np.searchsorted(ids, votes[decided])[:, None], return_inverse=True)
    pixels = np.broadcast_to(patterns.counts[decided].astype(np.float64)[:, None], said.shape)
    confusion = np.bincount(cell.ravel(), pixels.ravel(), len(keys))
    of_row = np.bincount(keys // n, confusion, patterns.labels.shape[1] * n) if len(keys) else np.ones(1)
    return keys, confusion / of_row[keys // n]


def _possible(rows: Indices, keys: Indices, n: int) -> tuple[Indices, Indices, Indices]:
    """Labels that each combination may have: those that all its raters confuse with what they say.

    Returns the combination (E,), the label (E,) and the places in `keys` (E, K).
    """
    begin, end = np.searchsorted(keys, rows * n), np.searchsorted(keys, (rows + 1) * n)
    fewest = (end - begin).argmin(axis=1)[:, None]  # the rater that leaves the fewest labels open
    begin, end = (np.take_along_axis(a, fewest, axis=1)[:, 0] for a in (begin, end))
    of = np.repeat(np.arange(len(rows)), end - begin)
    first = np.cumsum(end - begin) - (end - begin)
    label = keys[np.arange(len(of)) - first[of] + begin[of]] % n if len(of) else of
    wanted = rows[of] * n + label[:, None]
    cells = np.searchsorted(keys, wanted)
    possible = (keys[np.minimum(cells, len(keys) - 1)] == wanted).all(axis=1) if len(of) else np.zeros(0, bool)
    return of[possible], label[possible], cells[possible]


def _most_probable(found: _Estimate, undecided: int) -> tuple[Labels, Floats]:
    """Label and probability of each combination, (P,) each."""
    highest = np.zeros(len(found.places))
    np.maximum.at(highest, found.of, found.probability)
    best = (found.probability > 0) & (found.probability > highest[found.of] - NOT_LESS)
    labels = np.full(len(highest), undecided, np.int32)
    labels[found.of[best]] = found.ids[found.label[best]]
    labels[np.bincount(found.of[best], minlength=len(labels)) > 1] = undecided
    return labels, highest


def _performance(found: _Estimate, patterns: Patterns) -> tuple[Floats, Floats]:
    """Sensitivity and specificity (K, L) of the present raters."""
    n = len(found.ids)
    pixels = found.probability * patterns.counts[found.of]
    true = np.bincount(found.label, pixels, n)
    hits, said = np.empty((2, len(patterns.weights), n), np.float64)
    for k, places in enumerate(found.places.T):
        hits[k] = np.bincount(found.label, pixels * (places[found.of] == found.label), n)
        said[k] = np.bincount(places, patterns.counts, n)
    with np.errstate(invalid="ignore"):
        sensitivity = np.where(true > 0, hits / true, np.nan)
    other = patterns.counts.sum() - true
    specificity = 1 - (said - hits) / np.where(other > 0, other, 1)
    return sensitivity, specificity
