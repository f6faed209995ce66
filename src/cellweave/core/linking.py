"""`link`: nuclei and cells that were segmented apart belong together; cytoplasm is what is left of a cell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellweave import _kernels
from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.core.labels import Labels, as_labels, relabel
from cellweave.core.measure import Table, mean_intensities

Ids = NDArray[np.int64]

LEAST_SHARE = 0.25
"""A nucleus of which no cell holds this share lies outside every cell."""

KINDS = ("anucleate", "mononucleated", "multinucleated")
"""Of a cell, by its number of nuclei; a nucleus outside every cell has a row of the kind `NO_CELL`."""
NO_CELL = "nucleus without cell"
PARTS = ("cytoplasm", "matched_nuclei")
"""Label images of `Linked`, both with the ids of the cells."""


@dataclass(frozen=True, eq=False)
class Linked:
    """What `link` found.

    Parameters
    ----------
    cytoplasm
        (Y, X): the pixels of each cell that no nucleus covers, with the id of the cell. A cell that is all nucleus has
        none.
    matched_nuclei
        (Y, X): the nuclei, each with the id of its cell; nuclei outside every cell are left out.
    nucleus_ids
        (n,) int64, ascending: the ids of the nuclei.
    cell_of
        (n,) int64: the cell of each nucleus; 0 for one outside every cell.
    table
        One row a cell, in the order of the ids, then one for each nucleus outside every cell; see `link`.
    """

    cytoplasm: Labels = field(repr=False)
    matched_nuclei: Labels = field(repr=False)
    nucleus_ids: Ids
    cell_of: Ids
    table: Table = field(repr=False)

    @property
    def anucleate(self) -> Ids:
        """Ids of the cells without a nucleus."""
        return self._cells(KINDS[0])

    @property
    def multinucleated(self) -> Ids:
        """Ids of the cells with two nuclei or more."""
        return self._cells(KINDS[2])

    @property
    def outside(self) -> Ids:
        """Ids of the nuclei outside every cell."""
        return np.asarray(self.nucleus_ids[self.cell_of == 0], np.int64)

    def _cells(self, kind: str) -> Ids:
        return np.asarray(self.table["cell"][self.table["kind"] == kind], np.int64)


def link(
    nuclei: NDArray[Any], cells: NDArray[Any], *, image: Image | None = None, least_share: float = LEAST_SHARE
) -> Linked:
    """Give each nucleus to one cell, and measure nucleus, cytoplasm and cell together.

    A nucleus belongs to the cell that holds the largest share of its pixels; of equal shares, to the smaller cell; of
    equal cells, to the one whose first pixel comes first, by rows. Where that share is under `least_share`, the nucleus
    lies outside every cell. A cell may have any number of nuclei. Nothing is moved or cut: a nucleus may stick out of
    its cell, and the table says by how much.

    Parameters
    ----------
    nuclei, cells
        (Y, X) label images of one picture; ids need not be sequential, and are those of the result.
    image
        (C, Y, X) of the same size, for intensities and pixel size.
    least_share
        Over 0, at most 1.

    Returns
    -------
    Linked
        Its table has the columns

        - ``cell``, ``nuclei``, ``n_nuclei``, ``kind``: id of the cell (0 for a nucleus outside every cell), ids of its
          nuclei, with spaces between them, and their number; anucleate, mononucleated, multinucleated, or nucleus
          without cell;
        - ``cell_area``, ``nucleus_area``, ``cytoplasm_area`` in pixels; of several nuclei, all together;
        - ``nucleus_area_outside``: pixels of its nuclei outside the cell; ``other_nuclei_area``: pixels of the cell
          under nuclei that are not its own. So ``cell_area = cytoplasm_area + nucleus_area - nucleus_area_outside +
          other_nuclei_area``;
        - ``nc_ratio``: nucleus over cytoplasm, as areas; NaN without cell or without cytoplasm;
        - ``cell_mean_<channel>``, ``nucleus_mean_<channel>``, ``cytoplasm_mean_<channel>`` with an image; NaN where
          there is no such part;
        - ``cell_area_um2``, ``nucleus_area_um2``, ``cytoplasm_area_um2`` where the image has a pixel size.

    Raises
    ------
    InputError
        When one is no label image, the sizes differ, or `least_share` is outside its range.
    """
    nuclei, cells = as_labels(nuclei, "nuclei"), as_labels(cells, "cells")
    if nuclei.shape != cells.shape:
        raise InputError(
            f"the nuclei are {nuclei.shape[0]} x {nuclei.shape[1]} and the cells {cells.shape[0]} x "
            f"{cells.shape[1]}; give label images of the same picture"
        )
    if not 0 < least_share <= 1:
        raise InputError(f"least_share is {least_share}; it must be over 0 and at most 1")
    nuclei, nucleus_ids = relabel(nuclei)
    cells, cell_ids = relabel(cells)
    n, m = len(nucleus_ids), len(cell_ids)
    a, b, shared = _kernels.overlap_counts(np.ascontiguousarray(nuclei), np.ascontiguousarray(cells))
    nucleus_area, cell_area = (
        np.bincount(ids, shared, minlength=count + 1).astype(np.int64) for ids, count in ((a, n), (b, m))
    )
    both = (a > 0) & (b > 0)
    a, b, shared = a[both], b[both], shared[both]

    held = np.zeros((2, n + 1), np.int64)  # of each nucleus: its best cell, and the pixels there
    order = np.lexsort((_places(cells, a, b, shared, cell_area), cell_area[b], -shared, a))
    best = order[np.diff(a[order], prepend=-1) > 0]
    held[:, a[best]] = b[best], shared[best]
    share = held[1, 1:] / nucleus_area[1:]
    owner = np.concatenate([[0], np.where(share >= least_share, held[0, 1:], 0)])

    own = owner[a] == b
    inside, others = (np.bincount(b[part], shared[part], minlength=m + 1)[1:] for part in (own, ~own))
    cytoplasm = np.where(nuclei > 0, 0, cells)
    alone = np.flatnonzero(owner[1:] == 0) + 1
    rows = owner.copy()  # of each nucleus: its row of the table, from 1
    rows[alone] = m + 1 + np.arange(len(alone))
    n_rows = m + len(alone)

    def of_cells(values: NDArray[Any]) -> Ids:
        """A column: `values` (m,) of the cells, then zeros for the nuclei without one."""
        return np.concatenate([values, np.zeros(len(alone))]).astype(np.int64)

    number = np.bincount(rows[1:], minlength=n_rows + 1)[1:]
    nuclear = np.bincount(rows[1:], nucleus_area[1:], minlength=n_rows + 1)[1:].astype(np.int64)
    left = of_cells(cell_area[1:] - inside - others)
    table: Table = {
        "cell": of_cells(cell_ids),
        "nuclei": _lists(rows[1:], nucleus_ids, n_rows),
        "n_nuclei": number,
        "kind": np.concatenate([np.array(KINDS)[np.minimum(number[:m], 2)], np.full(len(alone), NO_CELL)]),
        "cell_area": of_cells(cell_area[1:]),
        "nucleus_area": nuclear,
        "cytoplasm_area": left,
        "nucleus_area_outside": nuclear - of_cells(inside),
        "other_nuclei_area": of_cells(others),
        "nc_ratio": np.divide(nuclear, left, out=np.full(n_rows, np.nan), where=left > 0),
    }
    if image is not None:
        table |= _intensities({"cell": cells, "nucleus": rows[nuclei], "cytoplasm": cytoplasm}, n_rows, image)
        if image.pixel_size_um is not None:
            pixel = float(np.prod(image.pixel_size_um))
            table |= {f"{part}_um2": table[part] * pixel for part in ("cell_area", "nucleus_area", "cytoplasm_area")}
    ids = np.concatenate([[0], cell_ids]).astype(np.int32)
    return Linked(ids[cytoplasm], ids[owner][nuclei], nucleus_ids, np.asarray(ids[owner[1:]], np.int64), table)


def _places(cells: Labels, a: Ids, b: Ids, shared: Ids, area: Ids) -> Ids:
    """For each pair, where its cell begins; looked up only where nuclei (a) have equal shares of equal cells (b)."""
    key = np.stack([a, shared, area[b]])
    _, back, count = np.unique(key, axis=1, return_inverse=True, return_counts=True)
    tied = count[back.ravel()] > 1
    out = np.zeros(len(a), np.int64)
    if tied.any():
        wanted = np.zeros(len(area), bool)
        wanted[b[tied]] = True
        at = np.flatnonzero(wanted[cells])
        ids, first = np.unique(cells.ravel()[at], return_index=True)
        places = np.zeros(len(area), np.int64)
        places[ids] = at[first]
        out = places[b]
    return out


def _lists(rows: Ids, ids: Ids, n: int) -> NDArray[Any]:
    """The ids that belong to each of the rows 1..n, as text."""
    texts: list[list[str]] = [[] for _ in range(n)]
    for row, one in zip(rows.tolist(), ids.tolist(), strict=True):
        texts[row - 1].append(str(one))
    return np.array([" ".join(part) for part in texts], dtype=np.str_)


def _intensities(parts: dict[str, NDArray[Any]], n: int, image: Image) -> Table:
    table: Table = {}
    for part, labels in parts.items():
        means = mean_intensities(np.asarray(labels, np.int32), n, image)
        table |= {f"{part}_{name}": column for name, column in means.items()}
    return table
