"""What `cellweave info` says of a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import tifffile

import cellweave.io
from cellweave.core.image import Image
from cellweave.io import describe, read_image


def test_a_file_with_everything(tmp_path: Path) -> None:
    metadata = {
        "axes": "CYX",
        "Channel": {"Name": ["DAPI", ""]},
        "PhysicalSizeX": 0.25,
        "PhysicalSizeY": 0.5,
    }
    path = tmp_path / "a.ome.tif"
    options = {"photometric": "minisblack", "tile": (16, 16), "compression": "zlib"}
    tifffile.imwrite(path, np.zeros((2, 40, 50), np.uint16), metadata=metadata, **options)
    assert describe(read_image(path)) == {
        "path": str(path),
        "format": "OME-TIFF",
        "axes": "CYX (C 2, Y 40, X 50)",
        "dtype": "uint16",
        "colour": "no",
        "channel names": "DAPI, (none)",
        "pixel size": "0.5 x 0.25 um (y, x)",
        "compression": "adobe_deflate",
        "bits": "16",
        "layout": "tiles 16 x 16",
        "pyramid levels": "1",
    }


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 5, 3), np.uint8))
    said = describe(read_image(tmp_path / "a.npy"))
    assert said["pixel size"] == "not in the file"
    assert said["colour"] == "red, green, blue photograph"
    assert said["format"] == "NPY"
    assert describe(Image(np.zeros((1, 4, 5))))["channel names"] == "not in the file"


def test_describing_reads_no_pixels() -> None:
    class Untouchable:
        shape, dtype = (1, 4, 5), np.dtype(np.uint8)

        def __getitem__(self, key: object) -> None:
            raise AssertionError("pixels were read")

    assert describe(Image(Untouchable()))["axes"] == "CYX (C 1, Y 4, X 5)"


def test_public_names() -> None:
    assert cellweave.io.__all__ == [
        "describe",
        "read_annotations",
        "read_image",
        "read_label_film",
        "read_labels",
        "read_points",
        "read_seg_npy",
        "read_table",
        "render_overlay",
        "render_points",
        "write_label_film",
        "write_labels",
        "write_overlay",
        "write_points",
        "write_points_overlay",
        "write_table",
    ]


def test_importing_loads_no_heavy_package() -> None:
    heavy = ("tifffile", "zarr", "PIL", "skimage", "torch", "imagecodecs")
    code = f"import sys, cellweave.io; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
