"""One-to-one assignment between two sets of which only some pairs are allowed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

Indices = NDArray[np.int64]

PART = 256


def assign(rows: NDArray[Any], columns: NDArray[Any], gains: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of the allowed pairs to take: most pairs, then the highest sum of gains, one to one.

    Pairs that compete with no other are taken at once. The others go to a sparse assignment, in which each row
    may also stay alone for a cost that is higher than that of any pair.

    Parameters
    ----------
    rows, columns
        (P,) indices of the two members of every allowed pair; each pair once.
    gains
        (P,) float64 in 0..1.

    Returns
    -------
    (P,) bool
    """
    chosen = np.asarray((np.bincount(rows)[rows] == 1) & (np.bincount(columns)[columns] == 1))
    rest = np.flatnonzero(~chosen)
    if len(rest):
        for part in _independent_parts(rows[rest], columns[rest]):
            pairs = rest[part]
            chosen[pairs] = _assign(rows[pairs], columns[pairs], gains[pairs])
    return chosen


def _independent_parts(rows: NDArray[Any], columns: NDArray[Any]) -> Iterator[Indices]:
    """The pairs in groups that share no member; as many together as make about `PART` pairs.

    The time of one assignment grows with the square of its size.
    """
    n, row = _renumber(rows)
    m, column = _renumber(columns)
    graph = coo_array((np.ones(len(row), np.int8), (row, n + column)), shape=(n + m, n + m))
    part = connected_components(graph, directed=False)[1][row]
    order = np.argsort(part, kind="stable").astype(np.int64)
    ends = np.append(np.flatnonzero(np.diff(part[order])) + 1, len(order))
    start = 0
    for end in ends.tolist():
        if end - start >= PART or end == len(order):
            yield order[start:end]
            start = end


def _assign(rows: NDArray[Any], columns: NDArray[Any], gains: NDArray[np.float64]) -> NDArray[np.bool_]:
    n, row = _renumber(rows)
    m, column = _renumber(columns)
    pair_cost = 1 - gains / (2 * n)  # n pairs gain less than one pair by all their gains
    costs = csr_array(
        (
            np.concatenate([pair_cost, np.full(n, 2.0)]),
            (np.concatenate([row, np.arange(n)]), np.concatenate([column, m + np.arange(n)])),
        ),
        shape=(n, m + n),
    )
    partner = np.empty(n, np.int64)
    taken_rows, taken_columns = min_weight_full_bipartite_matching(costs)
    partner[taken_rows] = taken_columns
    return np.asarray(partner[row] == column)


def _renumber(indices: NDArray[Any]) -> tuple[int, Indices]:
    values, places = np.unique(indices, return_inverse=True)
    return len(values), places
