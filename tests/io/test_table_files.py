"""Tables come back from CSV as they were."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellweave.core.errors import InputError, ReadError, WriteError
from cellweave.core.image import Image
from cellweave.core.measure import measure
from cellweave.io import read_table, write_table


def test_the_object_table(tmp_path: Path, cells: NDArray[np.int32]) -> None:
    image = Image(np.random.default_rng(0).random((1, 128, 128)), channel_names=("CD3, red",), pixel_size_um=(0.5, 0.5))
    table = measure(cells, image)
    write_table(tmp_path / "a.csv", table)
    found = read_table(tmp_path / "a.csv")
    assert list(found) == list(table)
    for name, column in table.items():
        assert found[name].dtype.kind == ("i" if column.dtype.kind == "i" else found[name].dtype.kind)
        np.testing.assert_allclose(found[name], column, rtol=1e-8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.floats(width=32), min_size=1, max_size=5),
    st.integers(-(2**62), 2**62),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), min_size=1).map(lambda t: "x" + t),
)
def test_round_trip(tmp_path: Path, floats: list[float], number: int, text: str) -> None:
    table = {
        "numbers": np.array([number] * len(floats)),
        "values, with a comma": np.array(floats, np.float64),
        "text": np.array([text] * len(floats)),
    }
    write_table(tmp_path / "a.csv", table)
    found = read_table(tmp_path / "a.csv")
    assert found["numbers"].tolist() == table["numbers"].tolist()
    np.testing.assert_allclose(found["values, with a comma"], table["values, with a comma"], rtol=1e-8)
    assert found["text"].tolist() == table["text"].tolist()


def test_people_can_read_it(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", {"id": np.array([1, 2]), "mean": np.array([0.1, np.nan], np.float64)})
    assert (tmp_path / "a.csv").read_bytes() == b"id,mean\n1,0.1\n2,\n"


def test_other_programs_read_it(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", {"id": np.array([7]), "a,b": np.array(['say "hi"'])})
    with (tmp_path / "a.csv").open(newline="") as stream:
        assert list(csv.DictReader(stream)) == [{"id": "7", "a,b": 'say "hi"'}]


def test_no_rows(tmp_path: Path) -> None:
    table = measure(np.zeros((4, 4), np.int32))
    write_table(tmp_path / "a.csv", table)
    found = read_table(tmp_path / "a.csv")
    assert list(found) == list(table)
    assert {len(column) for column in found.values()} == {0}


def test_columns_of_different_length_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.csv.*'a': 1, 'b': 2"):
        write_table(tmp_path / "a.csv", {"a": np.zeros(1), "b": np.zeros(2)})


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"a\.csv: cannot be read"):
        read_table(tmp_path / "a.csv")
    (tmp_path / "a.csv").touch()
    with pytest.raises(ReadError, match=r"a\.csv: the table is empty"):
        read_table(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("id,area\n1,2\n3\n")
    with pytest.raises(ReadError, match=r"a\.csv: line 3 has 1 cells, the header has 2"):
        read_table(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\0\0")
    with pytest.raises(ReadError, match=r"a\.csv: cannot be read"):
        read_table(tmp_path / "a.csv")
    with pytest.raises(WriteError, match="absent"):
        write_table(tmp_path / "absent" / "a.csv", {"a": np.zeros(1)})
