"""Arrangements: densities, contact, clusters, alignment."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from cellweave.core.errors import InputError
from cellweave.simulate import Cells, Geometry, Scene
from cellweave.simulate.layout import PATTERNS, Discs, Layout, Poses, relax
from cellweave.simulate.shapes import Shape


def field(layout: Layout, *, seed: int = 0, side: int = 320, **shape: object) -> Geometry:
    kind = Shape(**{"diameter": 20.0, "variation": 0.1, **shape})  # type: ignore[arg-type]
    return Scene(size=(side, side), cells=Cells((kind,), layout), seed=seed).geometry()


def cover(geometry: Geometry) -> float:
    return float((geometry.labels > 0).mean())


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5])
def test_density_is_the_part_of_the_field_that_is_covered(density: float) -> None:
    found = [cover(field(Layout(density=density, relax=8), seed=seed)) for seed in range(4)]
    assert np.mean(found) == pytest.approx(density, rel=0.25)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_more_density_is_more_cells(pattern: str) -> None:
    covers = [
        np.mean([cover(field(Layout(density=density, pattern=pattern), seed=seed)) for seed in range(3)])
        for density in (0.03, 0.12, 0.4)
    ]
    assert covers[0] < covers[1] < covers[2]


def test_sheets_are_closed_and_gaps_open_them() -> None:
    closed = field(Layout(density=1.0, sheet=True, overlap=-0.15))
    assert cover(closed) > 0.97
    open_ = field(Layout(density=1.0, sheet=True, overlap=-0.15, gap=0.1))
    assert 0.6 < cover(open_) < 0.95
    right, down = open_.labels[:, :-1], open_.labels[:, 1:]
    assert not ((right != down) & (right > 0) & (down > 0)).any()


def test_clusters_leave_more_of_the_field_empty_than_chance() -> None:
    def empty_tiles(pattern: str) -> float:
        tiles = [
            field(Layout(density=0.25, pattern=pattern, groups=2), seed=seed).labels.reshape(8, 40, 8, 40).max((1, 3))
            for seed in range(4)
        ]
        return float(np.mean([(tile == 0).mean() for tile in tiles]))

    assert empty_tiles("clusters") > empty_tiles("random") + 0.2
    assert empty_tiles("patches") > empty_tiles("random") + 0.1


def test_cells_kept_apart_do_not_touch() -> None:
    geometry = field(Layout(density=0.25, overlap=-0.4, relax=30), irregularity=0.0, elongation=1.0)
    labels = geometry.labels
    for a, b in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        assert ((a != b) & (a > 0) & (b > 0)).mean() < 1e-3


def test_cells_that_overlap_add_their_height() -> None:
    geometry = field(Layout(density=0.8, relax=0, press=0.0))
    assert geometry.height.max() > 1.3
    assert geometry.n < 320 * 320 * 0.8 / 314


def test_relaxing_parts_two_discs_and_keeps_their_middle() -> None:
    discs = Discs(np.array([0, 1], np.int32), *np.zeros((2, 2), np.float32), np.full(2, 5.0, np.float32))
    start = Poses(np.array([0.0, 1.0], np.float32), np.array([0.0, 2.0], np.float32), np.zeros(2, np.float32))
    after = relax(start, discs, overlap=0.0, steps=20)
    assert pdist(np.stack([after.y, after.x], axis=1))[0] == pytest.approx(10.0, abs=0.1)
    assert np.mean(after.y) == pytest.approx(0.5, abs=1e-4)
    assert np.mean(after.x) == pytest.approx(1.0, abs=1e-4)
    assert start.y[1] == 1.0  # the input stays as it was


def test_alignment_makes_neighbours_parallel() -> None:
    def spread(alignment: float) -> float:
        found = []
        for seed in range(3):
            layout = Layout(density=0.2, alignment=alignment, relax=0)
            kind = Shape(kind="rod", diameter=20.0, elongation=4.0)
            cells = Cells((kind,), layout)
            from cellweave.simulate.scene import populate

            angle = populate(cells, (300, 300), np.random.default_rng(seed)).poses.angle
            found.append(abs(np.exp(2j * angle.astype(np.float64)).mean()))
        return float(np.mean(found))

    assert spread(1.0) > spread(0.0) + 0.2


def test_unknown_pattern_and_bad_density_are_told() -> None:
    with pytest.raises(InputError, match="no 'spiral'; choose one of random"):
        Layout(pattern="spiral")
    with pytest.raises(InputError, match="density -1"):
        Layout(density=-1)
