"""What the files of a folder are by their names."""

from pathlib import Path

import pytest

from cellweave.io import filenames
from cellweave.io.reading import READERS


@pytest.mark.parametrize(
    "name", ["x.tif", "x.TIF", "x.btf", "x.tf8", "x.ome.tiff", "T_cells.tif", "y_seg.tif", "x.zarr"]
)
def test_images(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert filenames.images_in(tmp_path) == filenames.pictures(tmp_path) == [tmp_path / name]
    assert filenames.label_ending(tmp_path / name) == ""


@pytest.mark.parametrize("name", ["x_mask.tif", "x_label.png", "x_Labels.ome.tif", "x_cp_masks.png", "x_seg.npy"])
def test_labels(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert filenames.pictures(tmp_path) == [tmp_path / name]
    assert filenames.images_in(tmp_path) == []
    assert filenames.stem_of(Path(name)).removesuffix(filenames.label_ending(Path(name))) == "x"


@pytest.mark.parametrize(
    "name",
    [
        *("x_overlay.png", "x_nuclei_overlay.png", "x_diagnostics.png", "x_counted.png", "x_density.tif"),
        *("x_flows.tif", "x_outlines.png", "x_cp_output.png", "._x.tif", "x.csv", "x"),
    ],
)
def test_neither(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert filenames.pictures(tmp_path) == []


def test_suffixes_are_those_that_are_read() -> None:
    assert set(filenames.IMAGE_SUFFIXES) == {suffix for reader in READERS for suffix in reader.SUFFIXES}
    assert filenames.IMAGE_SUFFIXES[-2:] == filenames.LOSSY_SUFFIXES


@pytest.mark.parametrize(
    ("name", "stem"), [("x.ome.tif", "x"), ("x.OME.ZARR", "x"), ("a.b 7.png", "a.b 7"), ("no suffix", "no suffix")]
)
def test_stems(name: str, stem: str) -> None:
    assert filenames.stem_of(Path(name)) == stem
