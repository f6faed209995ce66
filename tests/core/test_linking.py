"""Linking nuclei to cells: areas add up, ids mean nothing, what the rules say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.core.linking import Linked, link
from cellweave.core.measure import measure

pictures = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: st.tuples(*(arrays(np.int32, shape, elements=st.sampled_from([0, 0, 1, 2, 5])) for _ in "ab"))
)


def by_cell(found: Linked) -> dict[int, dict[str, Any]]:
    """Rows of the table by the id of the cell."""
    return {
        int(found.table["cell"][i]): {name: column[i] for name, column in found.table.items()}
        for i in range(len(found.table["cell"]))
    }


def slow(nuclei: NDArray[Any], cells: NDArray[Any], least_share: float) -> dict[int, int]:
    """The cell of each nucleus, by the rules, pixel by pixel."""
    owner = {}
    for nucleus in np.unique(nuclei[nuclei > 0]):
        mask = nuclei == nucleus
        choices = [
            (-int((mask & (cells == c)).sum()), int((cells == c).sum()), int(np.flatnonzero(cells == c)[0]), int(c))
            for c in np.unique(cells[mask & (cells > 0)])
        ]
        best = min(choices, default=(0, 0, 0, 0))
        owner[int(nucleus)] = best[3] if -best[0] / mask.sum() >= least_share else 0
    return owner


@given(pictures, st.sampled_from([1e-6, 0.25, 0.5, 1.0]))
def test_owners_are_those_of_the_slow_way(pair: tuple[NDArray[Any], NDArray[Any]], least_share: float) -> None:
    nuclei, cells = pair
    found = link(nuclei, cells, least_share=least_share)
    assert dict(zip(found.nucleus_ids.tolist(), found.cell_of.tolist(), strict=True)) == slow(*pair, least_share)


@given(pictures)
def test_areas_add_up(pair: tuple[NDArray[Any], NDArray[Any]]) -> None:
    nuclei, cells = pair
    found = link(nuclei, cells)
    table = found.table
    of_cell = table["cell"] > 0
    total = table["cytoplasm_area"] + table["nucleus_area"] - table["nucleus_area_outside"] + table["other_nuclei_area"]
    np.testing.assert_array_equal(total, table["cell_area"])
    assert table["nucleus_area"].sum() == (nuclei > 0).sum()
    assert table["cell_area"].sum() == (cells > 0).sum()
    assert table["cytoplasm_area"].sum() == (found.cytoplasm > 0).sum() == ((cells > 0) & (nuclei == 0)).sum()
    assert table["n_nuclei"].sum() == len(found.nucleus_ids)
    np.testing.assert_array_equal(table["cell"][of_cell], np.unique(cells[cells > 0]))
    np.testing.assert_array_equal(found.cytoplasm, np.where(nuclei > 0, 0, cells))
    assert (table["n_nuclei"][~of_cell] == 1).all()
    assert (table["kind"][~of_cell] == "nucleus without cell").all()
    assert [int(text) for text in table["nuclei"][~of_cell]] == found.outside.tolist()


@given(pictures, st.permutations([1, 2, 5]), st.permutations([1, 2, 5]))
def test_ids_mean_nothing(pair: tuple[NDArray[Any], NDArray[Any]], new_nuclei: Any, new_cells: Any) -> None:
    one = link(*pair)
    of_nucleus, of_cell = (dict(zip([0, 1, 2, 5], [0, *new], strict=True)) for new in (new_nuclei, new_cells))
    other = link(*(np.vectorize(ids.get)(a) for ids, a in zip((of_nucleus, of_cell), pair, strict=True)))
    for label in ("cytoplasm", "matched_nuclei"):
        np.testing.assert_array_equal(np.vectorize(of_cell.get)(getattr(one, label)), getattr(other, label))
    rows = by_cell(other)
    for i, cell in enumerate(one.table["cell"]):
        if cell:
            row = rows[of_cell[int(cell)]]
            ids = {of_nucleus[int(text)] for text in one.table["nuclei"][i].split()}
            assert {int(text) for text in row["nuclei"].split()} == ids
            assert all(np.array_equal(one.table[name][i], row[name], equal_nan=True) for name in ("nc_ratio",))
            assert all(one.table[name][i] == row[name] for name in ("kind", "cell_area", "nucleus_area"))


def test_cells_with_their_own_nuclei(cells: NDArray[np.int32]) -> None:
    """Nuclei are the inner parts of cells, with other ids."""
    labels = cells
    rows, columns = np.indices(labels.shape)
    nuclei = np.zeros_like(labels)
    for cell in np.unique(labels[labels > 0]):
        y, x = (int(np.median(axis[labels == cell])) for axis in (rows, columns))
        nuclei[(np.hypot(rows - y, columns - x) < 4) & (labels == cell)] = 1000 - cell
    found = link(nuclei, labels)
    assert len(found.outside) == len(found.multinucleated) == 0
    np.testing.assert_array_equal(found.cell_of, 1000 - found.nucleus_ids)
    np.testing.assert_array_equal(found.matched_nuclei, np.where(nuclei > 0, 1000 - nuclei, 0))


def test_kinds() -> None:
    cells = np.zeros((20, 60), np.int32)
    cells[2:18, 2:18], cells[2:18, 20:38], cells[2:18, 40:50] = 7, 4, 9
    nuclei = np.zeros_like(cells)
    nuclei[4:8, 4:8], nuclei[10:14, 4:8], nuclei[4:8, 16:24], nuclei[4:8, 55:58] = 1, 2, 3, 8
    found = link(nuclei, cells)
    assert (found.anucleate.tolist(), found.multinucleated.tolist(), found.outside.tolist()) == ([9], [7], [8])
    np.testing.assert_array_equal(found.table["cell"], [4, 7, 9, 0])
    np.testing.assert_array_equal(found.table["nuclei"], ["3", "1 2", "", "8"])
    np.testing.assert_array_equal(
        found.table["kind"], ["mononucleated", "multinucleated", "anucleate", "nucleus without cell"]
    )
    np.testing.assert_array_equal(found.table["nucleus_area_outside"], [16, 0, 0, 12])
    np.testing.assert_array_equal(found.table["other_nuclei_area"], [0, 8, 0, 0])
    np.testing.assert_allclose(found.table["nc_ratio"], [32 / 272, 32 / 216, 0, np.nan])


def test_ties_go_to_the_smaller_cell_then_to_the_first() -> None:
    nuclei = np.array([[0, 1, 1, 0, 0]])
    assert link(nuclei, [[5, 5, 3, 0, 0]]).cell_of.tolist() == [3]
    assert link(nuclei, [[5, 5, 3, 3, 0]]).cell_of.tolist() == [5]
    assert link(nuclei, [[5, 5, 3, 3, 3]]).cell_of.tolist() == [5]


def test_intensities_are_those_of_the_object_table() -> None:
    rng = np.random.default_rng(0)
    cells = np.repeat(np.repeat(np.arange(12).reshape(3, 4), 10, 0), 10, 1)
    nuclei = np.where((np.indices(cells.shape) % 10 > 3).all(axis=0), cells * 2, 0)
    nuclei[nuclei == 6] = 0
    image = Image(rng.random((2, *cells.shape)), channel_names=("actin", "DAPI"), pixel_size_um=(0.5, 0.25))
    found = link(nuclei, cells, image=image)
    for part, labels in {"cell": cells, "nucleus": nuclei // 2, "cytoplasm": found.cytoplasm}.items():
        expected = measure(labels, image)
        there = np.isin(found.table["cell"], expected["id"])
        for name in ("mean_actin", "mean_DAPI"):
            column = found.table[f"{part}_{name}"]
            np.testing.assert_allclose(column[there], expected[name])
            assert np.isnan(column[~there]).all()
        np.testing.assert_allclose(found.table[f"{part}_area_um2"][there], expected["area_um2"])
    assert by_cell(found)[3]["kind"] == "anucleate"


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (7, 1)])
def test_nothing_to_link(shape: tuple[int, int]) -> None:
    empty = np.zeros(shape, np.int32)
    assert len(link(empty, empty).table["cell"]) == 0
    if empty.size:
        assert link(empty, empty + 1).anucleate.tolist() == [1]
        assert link(empty + 1, empty).outside.tolist() == [1]


def test_ids_far_apart_and_inputs_unchanged() -> None:
    nuclei, cells = np.array([[0, 2_000_000_000]]), np.array([[1_999_999_999, 1_999_999_999]])
    copies = nuclei.copy(), cells.copy()
    found = link(nuclei, cells)
    assert found.cell_of.tolist() == [1_999_999_999]
    assert found.matched_nuclei.tolist() == [[0, 1_999_999_999]]
    assert np.array_equal(nuclei, copies[0])
    assert np.array_equal(cells, copies[1])


def test_refuses() -> None:
    labels = np.ones((4, 5), np.int32)
    with pytest.raises(InputError, match="4 x 5 and the cells 4 x 4"):
        link(labels, labels[:, :4])
    with pytest.raises(InputError, match="least_share"):
        link(labels, labels, least_share=0)
    with pytest.raises(InputError, match="nuclei"):
        link(labels[0], labels)
