"""What every recipe promises: same seed same bytes, whole labels, the diameter that was asked for."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import cc3d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellweave.core.errors import InputError
from cellweave.core.labels import diameters, median_diameter
from cellweave.simulate import RECIPES, picture, scene, stream
from cellweave.simulate.geometry import SMALLEST

NEEDED = {
    "nuclei", "tissue_nuclei", "whole_cells", "membranes", "multi_reporter", "phase_contrast", "bacteria",
    "filaments", "yeast", "dic", "brightfield", "blood", "stained_tissue", "anything",
}  # fmt: skip


def test_the_recipes_that_users_know_are_there() -> None:
    assert set(RECIPES) >= NEEDED
    assert all(recipe.summary for recipe in RECIPES.values())


@pytest.mark.parametrize("name", RECIPES)
def test_same_seed_same_bytes_whatever_the_order(name: str) -> None:
    first = list(islice(stream(name, seed=3, size=(72, 88)), 3))
    later = next(stream(name, seed=3, size=(72, 88), start=2))
    assert np.array_equal(first[2].pixels, later.pixels)
    assert np.array_equal(first[2].labels, later.labels)
    assert later.scene == first[2].scene
    other = picture(name, 2, seed=4, size=(72, 88))
    assert not np.array_equal(other.pixels, later.pixels)


@pytest.mark.parametrize("name", RECIPES)
def test_every_label_is_one_piece_and_nuclei_stay_at_home(name: str) -> None:
    for number in range(2):
        made = picture(name, number, seed=11, size=(112, 144), diameter=22)
        labels = made.labels
        assert labels.dtype == np.int32
        assert labels.shape == made.nuclei.shape == made.pixels.shape[1:] == (112, 144)
        ids, areas = np.unique(labels[labels > 0], return_counts=True)
        assert np.array_equal(ids, np.arange(1, len(ids) + 1))
        assert len(ids) > 0
        assert areas.min() >= SMALLEST
        pieces = cc3d.connected_components(labels, connectivity=4)
        assert pieces.max() == len(ids)
        assert made.pixels.dtype in (np.uint8, np.uint16)
        assert len(made.channel_names) == len(made.pixels)
        image = made.image()
        assert image.axes == "CYX"
        assert image.color == made.color
        geometry = made.scene.geometry()
        at = geometry.nuclei > 0
        assert np.array_equal(geometry.nuclei[at], geometry.labels[at])
        assert np.isfinite(geometry.height).all()
        assert geometry.height.min() >= 0
        assert not geometry.height[geometry.labels == 0].any()


@pytest.mark.parametrize("diameter", [6.0, 20.0, 50.0])
@pytest.mark.parametrize("name", RECIPES)
def test_objects_have_the_diameter_that_was_asked_for(name: str, diameter: float) -> None:
    side = max(96, int(8 * diameter))
    found = []
    for number in range(5):
        made = scene(name, number, seed=2, size=(side, side), diameter=diameter)
        found.append(median_diameter(made.truth(made.geometry())))
    assert np.median(found) == pytest.approx(diameter, rel=0.25)


def test_the_largest_cells() -> None:
    found = []
    for number in range(3):
        made = scene("whole_cells", number, size=(1100, 1100), diameter=300)
        labels = made.truth(made.geometry())
        sides = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
        found.append(np.where(np.isin(labels, sides), 0, labels))
    assert np.median(np.concatenate([diameters(labels) for labels in found])) == pytest.approx(300, rel=0.25)


@settings(max_examples=25)
@given(
    name=st.sampled_from(list(RECIPES)),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    number=st.integers(0, 10**6),
)
def test_any_size_even_tiny(name: str, size: tuple[int, int], number: int) -> None:
    made = picture(name, number, size=size)
    assert made.labels.shape == size
    assert made.pixels.shape[1:] == size


def test_without_a_diameter_sizes_spread_over_the_range() -> None:
    asked = [scene("nuclei", number, size=(600, 600)).cells.diameter for number in range(60)]
    assert min(asked) < 12
    assert max(asked) > 150
    assert max(asked) <= 300
    small = [scene("nuclei", number, size=(64, 64)).cells.diameter for number in range(30)]
    assert max(small) <= 32


def test_a_mix_draws_by_weight() -> None:
    kinds = [type(scene({"dic": 3.0, "phase_contrast": 1.0}, n, seed=1).modality).__name__ for n in range(80)]
    assert 45 <= kinds.count("Dic") <= 74
    assert kinds.count("Dic") + kinds.count("PhaseContrast") == 80


def test_a_benchmark_draws_with_other_ranges() -> None:
    held_out = replace(
        RECIPES["bacteria"], shapes=tuple(replace(one, elongation=(7.0, 9.0)) for one in RECIPES["bacteria"].shapes)
    )
    drawn = [scene(held_out, number) for number in range(20)]
    assert all(7 <= one.cells.shapes[0].elongation <= 9 for one in drawn)
    trained = [scene("bacteria", number).cells.shapes[0] for number in range(60)]
    assert all(one.elongation < 7 for one in trained if one.kind == "rod")


@pytest.mark.parametrize("mix", ["yeasts", {"yeasts": 1.0}])
def test_an_unknown_recipe_is_told_with_the_names(mix: str | dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"no recipe 'yeasts'; choose one of nuclei, .*anything"):
        scene(mix, 0)


def test_bad_numbers_are_told() -> None:
    with pytest.raises(InputError, match="weights over 0"):
        scene({"yeast": 0.0}, 0)
    with pytest.raises(InputError, match="diameter -3"):
        scene("yeast", 0, diameter=-3.0)
