"""``cellweave link``: files and folders of nuclei and cells, films frame by frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from cellweave.core.image import Image
from cellweave.core.linking import link
from cellweave.io import read_label_film, read_labels, read_table, write_label_film, write_labels

Run = Callable[..., Any]


@pytest.fixture
def nuclei(cells: NDArray[np.int32]) -> NDArray[np.int32]:
    """Every second cell has one; ids are others."""
    inner = cells.copy()
    for axis in (0, 1):
        for step in (-2, 2):
            inner[np.roll(cells, step, axis) != cells] = 0
    return np.where(inner % 2 == 1, inner + 100, 0).astype(np.int32)


def test_two_files(run_cli: Run, tmp_path: Path, nuclei: NDArray[np.int32], cells: NDArray[np.int32]) -> None:
    picture = np.random.default_rng(0).random((2, *cells.shape)).astype(np.float32)
    tifffile.imwrite(tmp_path / "i.tif", picture, imagej=True, metadata={"axes": "CYX"})
    write_labels(tmp_path / "n.png", nuclei)
    write_labels(tmp_path / "a_cells_labels.tif", cells, pixel_size_um=(0.5, 0.5))
    done = run_cli(
        "link",
        tmp_path / "n.png",
        tmp_path / "a_cells_labels.tif",
        "--out",
        tmp_path / "out",
        "--image",
        tmp_path / "i.tif",
    )
    assert done.status == 0, done.err
    expected = link(nuclei, cells, image=Image(picture))
    assert f"{len(expected.anucleate)} cells without nucleus" in done.err
    table = read_table(tmp_path / "out" / "a_linked.csv")
    assert table.keys() == expected.table.keys()
    np.testing.assert_array_equal(table["cell"], expected.table["cell"])
    np.testing.assert_allclose(table["cytoplasm_mean_channel_2"], expected.table["cytoplasm_mean_channel_2"])
    np.testing.assert_array_equal(read_labels(tmp_path / "out" / "a_cytoplasm_labels.tif"), expected.cytoplasm)
    np.testing.assert_array_equal(
        read_labels(tmp_path / "out" / "a_matched_nuclei_labels.tif"), expected.matched_nuclei
    )


def test_folders(run_cli: Run, tmp_path: Path, nuclei: NDArray[np.int32], cells: NDArray[np.int32]) -> None:
    for folder in ("n", "c"):
        (tmp_path / folder).mkdir()
    for name in "ab":
        write_labels(tmp_path / "n" / f"{name}_nuclei.png", nuclei)
        write_labels(tmp_path / "c" / f"{name}_cells_labels.tif", cells)
    assert run_cli("link", tmp_path / "n", tmp_path / "c", "--out", tmp_path / "out").status == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        f"{name}_{end}" for name in "ab" for end in ("cytoplasm_labels.tif", "linked.csv", "matched_nuclei_labels.tif")
    ]
    (tmp_path / "n" / "b_nuclei.png").rename(tmp_path / "n" / "a_mask.png")
    done = run_cli("link", tmp_path / "n", tmp_path / "c", "--out", tmp_path / "out")
    assert done.status == 1
    assert "a_mask.png and a_nuclei.png have one name" in done.err
    write_labels(tmp_path / "n" / "a_cells_labels.png", cells)
    (tmp_path / "n" / "a_mask.png").rename(tmp_path / "n" / "a_nuclei_labels.png")
    (tmp_path / "n" / "a_nuclei.png").unlink()
    done = run_cli("link", tmp_path / "n", tmp_path / "c", "--out", tmp_path / "out")
    assert "a_cells_labels.png and a_nuclei_labels.png have one name" in done.err
    (tmp_path / "n" / "a_cells_labels.png").unlink()
    done = run_cli("link", tmp_path / "n", tmp_path / "c", "--out", tmp_path / "out")
    assert done.status == 1
    assert "no file for b" in done.err


def test_films(run_cli: Run, tmp_path: Path, nuclei: NDArray[np.int32], cells: NDArray[np.int32]) -> None:
    write_label_film(tmp_path / "n.tif", [nuclei, nuclei * 0, nuclei], interval_s=5.0)
    write_label_film(tmp_path / "c.tif", [cells] * 3, interval_s=5.0)
    assert run_cli("link", tmp_path / "n.tif", tmp_path / "c.tif", "--out", tmp_path / "out").status == 0
    table = read_table(tmp_path / "out" / "c_linked.csv")
    n = len(np.unique(cells)) - 1
    assert np.bincount(table["frame"]).tolist() == [n] * 3
    assert (table["kind"][table["frame"] == 1] == "anucleate").all()
    film = read_label_film(tmp_path / "out" / "c_cytoplasm_labels.tif")
    assert film.image.interval_s == 5.0
    np.testing.assert_array_equal(film[1], cells)
    write_labels(tmp_path / "one.tif", cells)
    done = run_cli("link", tmp_path / "n.tif", tmp_path / "one.tif", "--out", tmp_path / "out")
    assert done.status == 1
    assert "3 frames" in done.err


def test_a_bad_pair_is_reported_and_the_others_go_on(
    run_cli: Run, tmp_path: Path, nuclei: NDArray[np.int32], cells: NDArray[np.int32]
) -> None:
    for folder in ("n", "c"):
        (tmp_path / folder).mkdir()
    for name, of in (("a", nuclei), ("b", nuclei[:9]), ("c", nuclei), ("d", nuclei)):
        write_labels(tmp_path / "n" / f"{name}.tif", of)
        write_labels(tmp_path / "c" / f"{name}.tif", cells)
    (tmp_path / "c" / "c.tif").write_text("no image")
    done = run_cli("link", tmp_path / "n", tmp_path / "c", "--out", tmp_path / "out")
    assert done.status == 1
    assert "b: not linked: " in done.err
    assert "c: not linked: " in done.err
    assert "c.tif" in done.err
    assert sorted(p.name for p in (tmp_path / "out").glob("*.csv")) == ["a_linked.csv", "d_linked.csv"]
