"""`train_counter`: area and blobs from a folder of annotated images, where the truth is known only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cellweave
from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.core.points import DEBRIS, LIVE, Points
from cellweave.io import read_image
from cellweave.train import Example
from cellweave.train.counters import fit_counter, train_counter
from clicks import write_dots

METHODS = pytest.mark.parametrize("method", ["area", "blobs"])


def half(method: str) -> tuple[Example, Example]:
    """Disks of which only those on the left were clicked, and the clicked half alone."""
    rng = np.random.default_rng(0)
    at = np.stack(np.meshgrid(np.arange(20, 200, 30), np.arange(20, 200, 30)), axis=-1).reshape(-1, 2)
    at = at + rng.uniform(-3, 3, at.shape)
    y, x = np.mgrid[:200, :200]
    plane = 100 + rng.normal(0, 2, (200, 200))
    for row, column in at:
        plane += 60 * np.clip(7.5 - np.hypot(y - row, x - column), 0, 1)
    left = at[at[:, 1] < 95]
    points = Points(np.concatenate([left, [[3.0, 3.0]]]), np.array([LIVE] * len(left) + [DEBRIS]), shape=(200, 200))
    image = Image.from_array(plane.astype(np.float32))
    whole = Example("x", image, points, known=x < 95)
    return whole, replace(whole, image=Image.from_array(plane[:, :95].astype(np.float32)), known=None,
                          labels=Points(points.positions, points.classes, shape=(200, 95)))  # fmt: skip


@METHODS
def test_only_what_is_known_is_fitted_on(method: str) -> None:
    whole, left = half(method)
    fitted = fit_counter([whole], method)
    assert fitted.cells == 18
    assert "Fitted on" in fitted.card
    assert "Fitted on" not in fit_counter([left], method).card
    assert cellweave.count(whole.image, fitted).count == pytest.approx(36, abs=3)
    everywhere = fit_counter([replace(whole, known=None)], method)
    if method == "area":
        assert everywhere.density < 0.7 * fitted.density
        assert fitted.density == pytest.approx(fit_counter([left], method).density, rel=0.1)


@METHODS
def test_a_folder_becomes_a_model_that_counts(method: str, tmp_path: Path) -> None:
    data = write_dots(tmp_path / "data", range(6))
    model = train_counter(data, method, tmp_path / "run")
    assert model.name == "run"
    assert model.cells == sum(len((data / "points" / f"d00{k}.csv").read_text().splitlines()) - 1 for k in range(6))
    assert "6 of 6 annotated images" in (tmp_path / "run" / "data.txt").read_text()
    image = read_image(data / "images" / "d000.tif")
    assert cellweave.count(image, tmp_path / "run" / "model").count == cellweave.count(image, model).count
    with pytest.raises(InputError, match="holds a run already"):
        train_counter(data, method, tmp_path / "run")
    assert train_counter(data, method, tmp_path / "run", overwrite=True).hash == model.hash


def test_bad_input(tmp_path: Path) -> None:
    example = half("area")[0]
    with pytest.raises(InputError, match="choose from area, blobs"):
        fit_counter([example], "sam")
    with pytest.raises(InputError, match="x: channels are 'pair:1,2'"):
        fit_counter([example], "blobs", channels="1,2")
    empty = replace(example, labels=Points(np.empty((0, 2)), shape=(200, 200)))
    for method, words in (("area", "0 cells"), ("blobs", "0 cells")):
        with pytest.raises(InputError, match=words):
            fit_counter([empty], method)
