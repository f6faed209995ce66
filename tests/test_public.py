"""The public names, which others build on, and what importing them costs."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cellweave

NAMES = [
    "Image",
    "Segmenter",
    "count",
    "evaluate",
    "load_model",
    "predict_maps",
    "read_image",
    "segment",
    "train",
    "write_labels",
]


def test_the_public_names_are_these() -> None:
    assert cellweave.__all__ == NAMES
    assert set(NAMES) <= set(dir(cellweave))
    for name in NAMES:
        value = getattr(cellweave, name)
        assert value.__name__.removeprefix("cellweave.") == name
        assert value.__doc__
        assert callable(value)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cellweave.nothing  # noqa: B018
    assert not hasattr(cellweave, "Segmentor")


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        assert version("cellweave") == cellweave.__version__
    except PackageNotFoundError:
        pytest.skip("cellweave runs from the source tree, without package metadata")


def test_names_of_the_submodules() -> None:
    flows = cellweave.representations.DiffusionFlows()
    labels = np.zeros((20, 20), np.int32)
    labels[4:12, 5:14] = 1
    maps = flows.encode(labels)
    assert np.array_equal(flows.decode(maps), labels)
    assert callable(flows.loss)
    assert cellweave.metrics.match(labels, labels, iou=0.5).tp == 1
    assert next(cellweave.simulate.stream("yeast", size=(32, 40))).labels.shape == (32, 40)


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        ("read_image", ["path", "axes"]),
        ("segment", ["image", "model", "diameter", "channels", "device", "augment", "tile", "min_confidence"]),
        ("predict_maps", ["image", "model", "diameter", "channels", "device", "augment", "tile"]),
        ("count", ["image", "model", "diameter", "channels", "device", "augment", "interval", "min_confidence"]),
        ("load_model", ["model"]),
        ("train", ["data", "config", "validation", "resume", "card"]),
        ("evaluate", ["truth", "predicted", "thresholds", "boundary_tolerance", "names"]),
        ("write_labels", ["path", "labels", "pixel_size_um"]),
    ],
)
def test_parameters(function: str, parameters: list[str]) -> None:
    """Renaming one breaks somebody's script."""
    value = getattr(cellweave, function)
    assert list(inspect.signature(getattr(value, function, value)).parameters) == parameters


TRAIN = """
import cellweave
{first}
{second}
try:
    cellweave.train([], cellweave.train.TrainConfig(out={out!r}))
except ValueError as error:
    assert "no training image" in str(error), error
    print("called")
"""


@pytest.mark.parametrize("turn", [1, -1])
def test_train_is_a_function_and_a_package_whatever_is_imported_first(tmp_path: Path, turn: int) -> None:
    first, second = ("cellweave.train", "from cellweave.train import TrainConfig; import cellweave.train")[::turn]
    code = TRAIN.format(first=first, second=second, out=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "called\n"


def test_results_have_the_promised_fields(tiny_model: Any) -> None:
    result = cellweave.segment(np.zeros((32, 32), np.uint8), tiny_model, device="cpu")
    for name in ("labels", "table", "maps", "diameter", "model"):
        assert getattr(result, name) is not None


IMPORT = """
import sys, time
start = time.perf_counter()
import cellweave
seconds = time.perf_counter() - start
heavy = sorted({"torch", "numpy", "scipy", "skimage", "zarr", "tifffile", "typer", "rich"} & set(sys.modules))
print(seconds, *heavy)
"""


def test_import_takes_less_than_50_ms_and_nothing_heavy() -> None:
    found = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
        seconds, *heavy = done.stdout.split()
        assert heavy == []
        found.append(float(seconds))
    assert min(found) < 0.05


def test_each_name_is_imported_alone() -> None:
    """A name works as the first thing asked for, whatever was imported before."""
    code = "import sys, cellweave; assert getattr(cellweave, sys.argv[1]) is not None"
    for name in ("Image", "metrics"):
        subprocess.run([sys.executable, "-c", code, name], check=True)


def test_reading_an_image_does_not_import_torch() -> None:
    code = "import sys, cellweave; cellweave.read_image; cellweave.Image; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
