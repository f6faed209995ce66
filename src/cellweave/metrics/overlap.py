"""Which objects of two label images share pixels: the sparse table that metrics of overlap are read from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from cellweave._kernels import overlap_counts
from cellweave.core.errors import InputError
from cellweave.core.labels import Labels, as_labels

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Overlap:
    """Objects of two label images, and the k pairs of them that share at least one pixel.

    Attributes
    ----------
    truth_ids, predicted_ids
        (n,) and (m,) int64, ascending: the ids that occur, without the background.
    truth_areas, predicted_areas
        (n,) and (m,) int64: area of each object in pixels.
    rows, columns
        (k,) int64: the pairs, as places in `truth_ids` and `predicted_ids`, in the order of (row, column).
    shared
        (k,) int64: pixels that belong to both objects of a pair.
    ious
        (k,) float64 in (0, 1]: intersection over union of each pair.
    """

    truth_ids: Indices
    predicted_ids: Indices
    truth_areas: Indices
    predicted_areas: Indices
    rows: Indices
    columns: Indices
    shared: Indices
    ious: NDArray[np.float64]


def check_labels(truth: NDArray[Any], predicted: NDArray[Any]) -> tuple[Labels, Labels]:
    """Both label images as C-ordered int32, after checking that they are label images of one shape.

    Raises
    ------
    InputError
        When one is not a label image, or the shapes differ.
    """
    checked = as_labels(truth, "truth"), as_labels(predicted, "predicted")
    if checked[0].shape != checked[1].shape:
        raise InputError(
            f"the true labels have shape {checked[0].shape} and the predicted ones {checked[1].shape}; "
            "both must be label images of the same picture"
        )
    return np.ascontiguousarray(checked[0]), np.ascontiguousarray(checked[1])


def overlap(truth: NDArray[Any], predicted: NDArray[Any]) -> Overlap:
    """Count the pixels that true and predicted objects share.

    Parameters
    ----------
    truth, predicted
        (Y, X) label images, 0 = background; ids need not be sequential.

    Raises
    ------
    InputError
        When one is not a label image, or the shapes differ.
    """
    return overlap_of_checked(*check_labels(truth, predicted))


def overlap_of_checked(truth: Labels, predicted: Labels) -> Overlap:
    """`overlap` of what `check_labels` gave."""
    truth_id, predicted_id, count = overlap_counts(truth, predicted)
    truth_ids, rows = np.unique(truth_id.astype(np.int64), return_inverse=True)
    predicted_ids, columns = np.unique(predicted_id.astype(np.int64), return_inverse=True)
    truth_areas = _sums(rows, count, len(truth_ids))
    predicted_areas = _sums(columns, count, len(predicted_ids))

    pairs = (truth_id > 0) & (predicted_id > 0)
    rows, columns, shared = rows[pairs], columns[pairs], count[pairs]
    ious = shared / (truth_areas[rows] + predicted_areas[columns] - shared)
    return Overlap(
        truth_ids=truth_ids[truth_ids > 0],
        predicted_ids=predicted_ids[predicted_ids > 0],
        truth_areas=truth_areas[truth_ids > 0],
        predicted_areas=predicted_areas[predicted_ids > 0],
        rows=rows - np.count_nonzero(truth_ids == 0),  # the background, where there is any, came first
        columns=columns - np.count_nonzero(predicted_ids == 0),
        shared=shared,
        ious=ious,
    )


def _sums(groups: Indices, values: Indices, n: int) -> Indices:
    total = np.zeros(n, np.int64)
    np.add.at(total, groups, values)
    return total


def aggregated_jaccard(found: Overlap) -> tuple[int, int]:
    """Intersection C and union U of the aggregated Jaccard index, AJI = C / U.

    Kumar et al., "A Dataset and a Technique for Generalized Nuclear Segmentation for Computational
    Pathology", IEEE TMI 2017, Algorithm 1: every true object takes the predicted object of highest IoU, which
    other true objects may take too; C sums the intersections, U the unions, and U grows by the area of each
    predicted object that nobody took and of each true object that overlaps none.

    The algorithm leaves open what happens when several predicted objects tie. Here the largest intersection
    wins, and of those still equal, the choice that leaves the fewest predicted objects untaken, so that the
    value depends neither on ids nor on orientation.
    """
    order = np.lexsort((-found.shared, -found.ious, found.rows))
    rows, columns, shared, ious = (a[order] for a in (found.rows, found.columns, found.shared, found.ious))
    best = np.flatnonzero(np.diff(rows, prepend=-1))
    of_row = np.repeat(best, np.diff(best, append=len(rows)))
    candidate = (ious == ious[of_row]) & (shared == shared[of_row])
    tied = np.bincount(rows[candidate], minlength=len(found.truth_ids)) > 1

    taken = np.zeros(len(found.predicted_ids), bool)
    taken[columns[candidate & ~tied[rows]]] = True
    open_pairs = candidate & tied[rows] & ~taken[columns]
    if open_pairs.any():
        graph = csr_array(
            (np.ones(np.count_nonzero(open_pairs)), (rows[open_pairs], columns[open_pairs])),
            shape=(len(found.truth_ids), len(taken)),
        )
        partner = maximum_bipartite_matching(graph, perm_type="column")
        taken[partner[partner >= 0]] = True

    intersection = int(shared[best].sum())
    union = int(found.truth_areas.sum() + found.predicted_areas[columns[best]].sum()) - intersection
    return intersection, union + int(found.predicted_areas[~taken].sum())
