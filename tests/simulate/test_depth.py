"""Stacks: one solid piece an id, slices of round bodies, light from neighbouring planes."""

from __future__ import annotations

from dataclasses import replace

import cc3d
import numpy as np
import pytest

from cellweave.core.errors import InputError
from cellweave.simulate import Cells, Scene, scene
from cellweave.simulate.depth import stack
from cellweave.simulate.layout import Layout
from cellweave.simulate.shapes import Shape


@pytest.mark.parametrize("name", ["nuclei", "whole_cells", "bacteria", "membranes"])
def test_every_id_is_one_solid_piece(name: str) -> None:
    made = stack(scene(name, 1, size=(90, 100), diameter=20), 8)
    assert made.labels.shape == (8, 90, 100)
    assert made.labels.dtype == np.int32
    assert made.pixels.shape[1:] == (8, 90, 100)
    ids = np.unique(made.labels[made.labels > 0])
    assert np.array_equal(ids, np.arange(1, len(ids) + 1))
    assert cc3d.connected_components(made.labels, connectivity=6).max() == len(ids)
    assert made.image().axes == "CZYX"


def test_balls_are_balls() -> None:
    cells = Cells((Shape(diameter=18.0, variation=0.0, elongation=1.0, irregularity=0.0),), Layout(density=0.05))
    made = stack(Scene(size=(110, 110), cells=cells, seed=4), 40, step=1.0)
    volumes = np.bincount(made.labels.ravel())[1:]
    inside = [  # those that touch no side
        k
        for k in range(1, len(volumes) + 1)
        if not any((np.take(made.labels, end, axis=axis) == k).any() for axis in range(3) for end in (0, -1))
    ]
    assert inside
    assert np.median(volumes[np.array(inside) - 1]) == pytest.approx(4 / 3 * np.pi * 9**3, rel=0.1)
    for k in inside:
        slices = (made.labels == k).sum((1, 2))
        top = int(slices.argmax())
        assert np.all(np.diff(slices[: top + 1]) >= -8)
        assert np.all(np.diff(slices[top:]) <= 8)


def test_sheets_are_columns() -> None:
    cells = Cells((Shape(diameter=24.0),), Layout(density=1.0, sheet=True, overlap=-0.15))
    made = stack(Scene(size=(80, 80), cells=cells), 4)
    for plane in made.labels[1:]:
        assert np.array_equal(plane, made.labels[0])


def test_light_comes_from_the_neighbouring_planes() -> None:
    made = stack(scene("nuclei", 0, size=(80, 80), diameter=30), 12)
    again = stack(scene("nuclei", 0, size=(80, 80), diameter=30), 12)
    assert np.array_equal(made.pixels, again.pixels)
    assert np.array_equal(made.labels, again.labels)
    light = [float(plane.mean()) for plane in made.pixels[0]]
    cells = [float((plane > 0).mean()) for plane in made.labels]
    assert np.corrcoef(light, cells)[0, 1] > 0.3


def test_bad_stacks_are_told() -> None:
    start = scene("nuclei", 0, size=(40, 40))
    with pytest.raises(InputError, match="0 planes"):
        stack(start, 0)
    with pytest.raises(InputError, match="step over 0"):
        stack(start, 2, step=0.0)
    with pytest.raises(InputError, match="labels nuclei"):
        stack(replace(scene("stained_tissue", 0, size=(40, 40))), 2)
