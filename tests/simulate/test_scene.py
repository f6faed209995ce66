"""A scene is plain numbers: it survives JSON, and decides every byte."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from cellweave.core.errors import InputError
from cellweave.simulate import RECIPES, Cells, Scene, scene
from cellweave.simulate.fluorescence import Fluorescence
from cellweave.simulate.layout import Layout
from cellweave.simulate.shapes import Nucleus, Shape
from cellweave.simulate.stained import Stained

ROUND = Cells((Shape(diameter=20.0, nucleus=Nucleus()),), Layout(density=0.4))


@pytest.mark.parametrize("name", RECIPES)
def test_json_and_back(name: str) -> None:
    for number in range(6):
        made = scene(name, number, size=(64, 80), diameter=18)
        again = Scene.from_json(made.to_json())
        assert again == made
        if number == 0:
            assert np.array_equal(again.draw().pixels, made.draw().pixels)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(modality={"name": "Telescope"}), "'Telescope' is no modality"),
        (lambda d: d.update(colour=3), "colour is not known"),
        (lambda d: d["cells"]["layout"].update(pattern="spiral"), "no 'spiral'"),
        (lambda d: d.update(size=[0, 5]), "at least 1 x 1"),
        (lambda d: d.update(size=[5]), "this is no scene"),
        (lambda d: d.update(target="organs"), "no 'organs'"),
    ],
)
def test_bad_json_is_told(change: object, said: str) -> None:
    data = json.loads(Scene().to_json())
    change(data)  # type: ignore[operator]
    with pytest.raises(InputError, match=said):
        Scene.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "3", "[]", "{"])
def test_what_is_no_json_object_is_told(text: str) -> None:
    with pytest.raises(InputError):
        Scene.from_json(text)


def test_a_scene_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Scene().seed = 3  # type: ignore[misc]


def test_nuclei_as_target() -> None:
    made = Scene(size=(120, 120), cells=ROUND, target="nuclei", seed=5).draw()
    assert made.labels.max() > 3
    assert np.array_equal(made.labels > 0, (made.nuclei > 0) & (made.labels > 0))
    cells = replace(made.scene, target="cells").draw()
    assert (cells.labels > 0).sum() > 2 * (made.labels > 0).sum()
    assert np.array_equal(cells.pixels, made.pixels)  # the same picture, another question


def test_bare_cells_are_nuclei() -> None:
    geometry = Scene(size=(90, 90), cells=replace(ROUND, bare=True)).geometry()
    assert np.array_equal(geometry.labels, geometry.nuclei)


def test_looks() -> None:
    plain = Scene(size=(80, 80), cells=ROUND, modality=Fluorescence(channels=("cytoplasm", "nuclei")))
    assert plain.draw().pixels.shape[0] == 2
    photograph = replace(plain, look="photograph").draw()
    assert photograph.color
    assert photograph.channel_names == ("red", "green", "blue")
    bright, dark = replace(plain, look="inverted").draw(), plain.draw()
    outside = dark.labels == 0
    assert dark.pixels[0][outside].mean() < dark.pixels[0][~outside].mean()
    assert bright.pixels[0][outside].mean() > bright.pixels[0][~outside].mean()
    slide = Scene(size=(80, 80), cells=ROUND, modality=Stained())
    assert slide.draw().color
    gray = replace(slide, look="gray").draw()
    assert not gray.color
    assert gray.pixels.shape[0] == 1


def test_no_cells() -> None:
    made = Scene(size=(50, 60), cells=Cells((Shape(),), Layout(density=0.0))).draw()
    assert not made.labels.any()
    assert made.pixels.shape[1:] == (50, 60)
