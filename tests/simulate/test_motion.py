"""Films: ids persist, children follow their mothers, and lineages are exact."""

from __future__ import annotations

from dataclasses import replace

import cc3d
import numpy as np
import pytest

from cellweave.core.errors import InputError
from cellweave.simulate import scene
from cellweave.simulate.motion import Motion, film

BUSY = Motion(division=0.3, death=0.05, growth=0.4)


@pytest.mark.parametrize("name", ["bacteria", "whole_cells", "yeast", "blood", "membranes"])
def test_the_lineage_is_that_of_the_labels(name: str) -> None:
    made = film(scene(name, 1, size=(140, 150), diameter=18), 8, motion=BUSY)
    seen: dict[int, list[int]] = {}
    for moment, picture in enumerate(made.pictures):
        ids = np.unique(picture.labels[picture.labels > 0])
        assert cc3d.connected_components(picture.labels, connectivity=4).max() == len(ids)
        for number in ids.tolist():
            seen.setdefault(number, []).append(moment)
        at = picture.nuclei > 0
        assert np.array_equal(picture.nuclei[at], picture.labels[at])
    assert [track.id for track in made.tracks] == list(range(1, len(made.tracks) + 1))
    assert {track.id: (track.first, track.last) for track in made.tracks} == {
        number: (moments[0], moments[-1]) for number, moments in seen.items()
    }
    by_id = {track.id: track for track in made.tracks}
    children = [track for track in made.tracks if track.parent]
    for child in children:
        assert by_id[child.parent].last < child.first
    counts = np.bincount([child.parent for child in children]) if children else np.zeros(1, int)
    assert counts.max() <= 2


def test_divisions_happen_and_can_be_turned_off() -> None:
    start = scene("bacteria", 2, size=(160, 160), diameter=18)
    busy = film(start, 10, motion=BUSY)
    assert sum(track.parent > 0 for track in busy.tracks) >= 4
    still = film(start, 4, motion=Motion(division=0.0, death=0.0, speed=0.0, turning=0.0, growth=0.0))
    assert all(track.parent == 0 for track in still.tracks)


def test_a_film_is_made_again() -> None:
    start = scene("phase_contrast", 3, size=(90, 90), diameter=20)
    first, again = film(start, 4), film(start, 4)
    assert first.tracks == again.tracks
    for a, b in zip(first.pictures, again.pictures, strict=True):
        assert np.array_equal(a.pixels, b.pixels)
        assert np.array_equal(a.labels, b.labels)
    longer = film(start, 5)
    for a, b in zip(first.pictures, longer.pictures, strict=False):
        assert np.array_equal(a.labels > 0, b.labels > 0)  # what comes later changes nothing before


def test_cells_move_a_little() -> None:
    start = scene("whole_cells", 5, size=(160, 160), diameter=24)
    made = film(start, 2, motion=Motion(speed=0.1, division=0.0, death=0.0))
    first, second = (picture.labels for picture in made.pictures)
    assert not np.array_equal(first, second)
    shared = [number for number in np.unique(first) if number and (second == number).any()]
    overlaps = [((first == k) & (second == k)).sum() / (first == k).sum() for k in shared]
    assert np.median(overlaps) > 0.5


def test_all_may_die() -> None:
    made = film(scene("yeast", 0, size=(80, 80), diameter=20), 4, motion=Motion(death=1.0))
    assert made.pictures[0].labels.any()
    assert not any(picture.labels.any() for picture in made.pictures[1:])


def test_bad_films_are_told() -> None:
    start = scene("yeast", 0, size=(40, 40))
    with pytest.raises(InputError, match="0 frames"):
        film(start, 0)
    with pytest.raises(InputError, match="labels nuclei"):
        film(replace(start, target="nuclei"), 2)
