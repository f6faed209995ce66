"""Outlines: their areas, their kinds, and the painter against a brute-force twin."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.core.measure import measure
from cellweave.simulate.geometry import Contact, Geometry, Parts, directions, outline_area, paint
from cellweave.simulate.shapes import KINDS, PROFILES, Nucleus, Shape, blank, draw, samples_for


def alone(shape: Shape, seed: int = 0) -> Geometry:
    """One cell in the middle of a field that holds it."""
    rng = np.random.default_rng(seed)
    drawn = draw(shape, 1, samples_for(shape.diameter), rng)
    side = int(8 * shape.diameter)
    middle = np.float32(side / 2)

    def put(parts: Parts) -> Parts:
        n = len(parts)
        full = np.full(n, middle, np.float32)
        return parts.moved(full, full, np.full(n, 0.4, np.float32))

    cells = drawn.unit.size
    return paint(put(drawn.cells), put(drawn.nuclei), (side, side), contact=Contact(), rank=np.zeros(cells, np.float32))


@pytest.mark.parametrize("diameter", [12.0, 40.0, 90.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_area_is_that_of_a_disk_of_the_diameter(kind: str, diameter: float) -> None:
    elongation = 10.0 if kind == "filament" else 1.6
    shape = Shape(kind, diameter, variation=0.0, elongation=elongation, bend=0.2)
    found = [alone(shape, seed).diameter for seed in range(3)]
    assert np.median(found) == pytest.approx(diameter, rel=0.12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_draws_the_same(kind: str) -> None:
    shape = Shape(kind, 25.0, elongation=3.0, irregularity=0.1, bend=0.3, chain=3, nucleus=Nucleus())
    assert np.array_equal(alone(shape, 3).labels, alone(shape, 3).labels)
    assert not np.array_equal(alone(shape, 3).labels, alone(shape, 4).labels)


@pytest.mark.parametrize("elongation", [1.0, 2.0, 4.0])
def test_elongation_of_ellipses_is_measured_back(elongation: float) -> None:
    shape = Shape("round", 60.0, 0.0, elongation, 0.0, irregularity=0.0)
    table = measure(alone(shape).labels)
    assert table["eccentricity"][0] == pytest.approx(np.sqrt(1 - elongation**-2), abs=0.03)


def test_sizes_vary_by_the_sigma_that_was_asked_for() -> None:
    drawn = draw(Shape(diameter=30.0, variation=0.3), 2000, 64, np.random.default_rng(0))
    assert np.std(np.log(drawn.diameter)) == pytest.approx(0.3, rel=0.1)
    assert np.median(drawn.diameter) == pytest.approx(30.0, rel=0.05)


def test_long_and_ragged_kinds_are_less_convex_than_round_ones() -> None:
    def solidity(kind: str, **options: float) -> float:
        shape = Shape(kind, 60.0, **options)  # type: ignore[arg-type]
        return float(np.median([measure(alone(shape, seed).labels)["solidity"][0] for seed in range(5)]))

    assert solidity("round", irregularity=0.0) > 0.97
    assert solidity("round", irregularity=0.2, roughness=0.8) < 0.93
    assert solidity("star") < 0.9
    assert solidity("neuron") < 0.75
    assert solidity("filament", elongation=20.0, bend=1.0) < 0.75
    assert solidity("rod", elongation=4.0) > 0.95


def test_chains_and_buds_are_cells_of_their_own() -> None:
    drawn = draw(Shape("rod", 20.0, elongation=2.0, chain=6), 50, 64, np.random.default_rng(0))
    counts = np.bincount(drawn.unit)
    assert counts.min() >= 1
    assert 4 <= counts.max() <= 6
    yeast = draw(Shape("budding", 20.0, chain=1, dividing=1.0), 40, 64, np.random.default_rng(0))
    assert len(yeast.unit) == 40
    assert len(yeast.cells) == 80  # every mother with a bud that is part of her


def test_profiles() -> None:
    heights = {name: alone(Shape(diameter=60.0, profile=name, irregularity=0.0)).height for name in PROFILES}
    middle = heights["dome"].shape[0] // 2
    assert heights["dome"][middle, middle] == pytest.approx(1.0, abs=0.02)
    assert heights["ring"][middle, middle] < 0.5 * heights["ring"].max()
    for height in heights.values():
        assert 0.7 < height.max() < 1.2
    assert np.median(heights["spread"][heights["spread"] > 0]) < np.median(heights["flat"][heights["flat"] > 0])


@pytest.mark.parametrize("ratio", [0.3, 0.6])
def test_nuclei_have_their_size(ratio: float) -> None:
    nucleus = Nucleus(ratio=ratio, variation=0.0, double=0.0)
    made = alone(Shape(diameter=80.0, irregularity=0.0, nucleus=nucleus))
    found = 2 * np.sqrt((made.nuclei > 0).sum() / np.pi)
    assert found == pytest.approx(ratio * made.diameter, rel=0.1)


def test_how_many_nuclei() -> None:
    rng = np.random.default_rng(0)
    none = draw(Shape(nucleus=Nucleus(missing=1.0)), 20, 64, rng)
    assert len(none.nuclei) == 0
    two = draw(Shape(nucleus=Nucleus(double=1.0)), 20, 64, rng)
    assert np.array_equal(np.bincount(two.nuclei.body), np.full(20, 2))
    lobed = draw(Shape(nucleus=Nucleus(lobes=4)), 200, 64, rng)
    assert set(np.bincount(lobed.nuclei.body)) == {2, 3, 4}


def test_directions_go_once_around() -> None:
    for samples in (64, 512):
        theta, weight = directions(samples)
        assert np.all(np.diff(theta) > 0)
        assert weight.sum() == pytest.approx(2 * np.pi, rel=1e-5)
        assert outline_area(np.ones((1, samples), np.float32))[0] == pytest.approx(np.pi, rel=1e-5)


def slow_inside(parts: Parts, i: int, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels in part `i`, from its definition with true angles; bends, pinches and tapers left out."""
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    dy, dx = rows - parts.y[i], columns - parts.x[i]
    c, s = np.cos(parts.angle[i]), np.sin(parts.angle[i])
    u, v = c * dx + s * dy, c * dy - s * dx
    u = np.sign(u) * np.maximum(np.abs(u) - parts.core[i], 0)
    p, q = u / parts.a[i], v / parts.b[i]
    theta = directions(parts.outline.shape[1])[0].astype(np.float64)
    radius = np.interp(np.arctan2(q, p), theta, parts.outline[i], period=2 * np.pi)
    return np.hypot(p, q) < radius


@pytest.mark.parametrize("seed", range(4))
def test_painting_equals_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (70, 90)
    drawn = draw(Shape("rod", 16.0, elongation=2.5, irregularity=0.08), 12, 256, rng)
    y, x, angle = rng.uniform(-5, 95, 12), rng.uniform(-5, 95, 12), rng.uniform(0, 6, 12)
    cells = drawn.cells.moved(*(values.astype(np.float32) for values in (y, x, angle)))
    rank = rng.permutation(12).astype(np.float32) / 12
    made = paint(cells, blank(256), shape, contact=Contact(press=0.0), rank=rank)
    slow = np.zeros(shape, np.int32)
    for i in np.argsort(-rank):
        slow[slow_inside(cells, int(i), shape)] = i + 1
    same = 0
    for i in range(12):  # the ids differ, and cells that are hardly seen are gone
        mine = slow == i + 1
        ids = np.unique(made.labels[mine])
        same += max((int((mine & (made.labels == k)).sum()) for k in ids if k), default=0)
    assert same >= 0.93 * (slow > 0).sum()
    assert ((made.labels > 0) & (slow == 0)).sum() <= 0.01 * slow.size


def test_what_is_hidden_is_not_labelled() -> None:
    one = draw(Shape(diameter=30.0, irregularity=0.0), 2, 64, np.random.default_rng(0)).cells
    same = one.moved(*np.full((2, 2), 40.0, np.float32), np.zeros(2, np.float32))
    made = paint(same, blank(64), (80, 80), contact=Contact(), rank=np.array([0.0, 1.0], np.float32))
    assert made.n == 1
    kept = paint(
        same,
        blank(64),
        (80, 80),
        contact=Contact(),
        rank=np.array([0.0, 1.0], np.float32),
        ids=np.array([7, 9], np.int32),
    )
    assert set(np.unique(kept.labels)) == {0, 7}


def test_a_field_without_parts() -> None:
    made = paint(blank(64), blank(64), (5, 7), contact=Contact(), rank=np.zeros(0, np.float32))
    assert made.n == 0
    assert made.diameter == 0
    assert made.boxes == []


def test_inputs_are_not_changed() -> None:
    drawn = draw(Shape(diameter=20.0, nucleus=Nucleus()), 3, 64, np.random.default_rng(0))
    before = drawn.cells.a.copy(), drawn.cells.x.copy()
    drawn.cells.scaled(np.full(3, 2.0, np.float32)).moved(*np.full((3, 3), 9.0, np.float32))
    assert np.array_equal(before[0], drawn.cells.a)
    assert np.array_equal(before[1], drawn.cells.x)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "cube"}, "no shape 'cube'; choose one of round"),
        ({"profile": "flatish"}, "no 'flatish'"),
        ({"diameter": 0.0}, "diameter 0.0"),
        ({"elongation": 0.5}, "elongation 0.5"),
    ],
)
def test_bad_shapes_are_told(options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Shape(**options)  # type: ignore[arg-type]
