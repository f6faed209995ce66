"""Summaries of data sets: counts, diameters by hand, the advice of mean + one standard deviation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from cellweave.core.errors import InputError
from cellweave.io import write_labels
from cellweave.train.summary import summarise


def squares(*sides: int) -> np.ndarray:
    """Labels (64, 64) of squares of these sides in a row."""
    labels = np.zeros((64, 64), np.int32)
    for k, side in enumerate(sides, 1):
        labels[:side, 16 * (k - 1) : 16 * (k - 1) + side] = k
    return labels


def write(folder: Path, stem: str, names: tuple[str, ...], **objects: np.ndarray) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((len(names), 64, 64), np.uint16)
    metadata = {"axes": "CYX", "Channel": {"Name": list(names)}} if all(names) else {"axes": "CYX"}
    tifffile.imwrite(folder / "images" / f"{stem}.ome.tif", pixels, metadata=metadata, photometric="minisblack")
    for name, labels in objects.items():
        (folder / name).mkdir(exist_ok=True)
        write_labels(folder / name / f"{stem}.tif", labels)


def diameter(side: int) -> float:
    return 2 * side / np.sqrt(np.pi)


def test_numbers_are_those_of_all_objects(tmp_path: Path) -> None:
    write(tmp_path, "a", ("P1", "P2"), nuclei=squares(4, 6, 8), cells=squares(10, 12))
    write(tmp_path, "b", ("P1", "P3"), nuclei=squares(5), cells=squares())
    nuclei, cells = summarise(tmp_path)
    assert (nuclei.kind, nuclei.images, len(nuclei.diameters)) == ("nuclei", 2, 4)
    assert nuclei.channels == {"P1": 2, "P2": 1, "P3": 1}
    expected = np.array([diameter(side) for side in (4, 6, 8, 5)])
    assert nuclei.mean == pytest.approx(expected.mean())
    assert nuclei.sd == pytest.approx(expected.std())
    assert nuclei.advised == pytest.approx(expected.mean() + expected.std())
    assert len(cells.diameters) == 2
    assert f"--diameter {nuclei.advised:.1f}" in nuclei.text()
    assert f"{nuclei.mean:.1f} to one trained" in nuclei.text()


def test_cell_lines_and_plain_sets_are_sub_folders(tmp_path: Path) -> None:
    for line in ("U2OS", "A375"):
        write(tmp_path / "lines" / line, "a", ("P1",), cells=squares(10))
    assert [(one.name, one.kind) for one in summarise(tmp_path / "lines")] == [("A375", "cells"), ("U2OS", "cells")]
    for name in ("train", "test"):
        write(tmp_path / "plain" / name, "a", ("", ""), labels=squares(9, 9))
    found = summarise(tmp_path / "plain")
    assert [(one.name, one.kind, one.images) for one in found] == [("test", "objects", 1), ("train", "objects", 1)]
    [single] = summarise(tmp_path / "plain" / "train")
    assert len(single.channels) >= 1
    assert single.sd == 0


def test_a_set_without_objects_has_no_advice(tmp_path: Path) -> None:
    write(tmp_path, "a", ("P1",), cells=squares())
    [found] = summarise(tmp_path)
    assert np.isnan(found.mean)
    assert "--diameter" not in found.text()
    with pytest.raises(InputError, match="no such folder"):
        summarise(tmp_path / "nowhere")
    (tmp_path / "empty" / "within").mkdir(parents=True)
    with pytest.raises(InputError, match="neither it nor a folder in it"):
        summarise(tmp_path / "empty")


def test_the_command_prints_it(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    write(tmp_path / "good", "a", ("P1",), cells=squares(10, 12))
    done = run_cli("data", "summary", tmp_path / "good")
    assert done.status == 0
    assert "good, cells" in done.out
    assert f"--diameter {diameter(12):.1f} to a model used as it comes" in done.out
    (tmp_path / "good" / "cells" / "a.tif").write_bytes(b"no tiff")
    done = run_cli("data", "summary", tmp_path / "good")
    assert done.status == 1
    assert "1 left out" in done.out
