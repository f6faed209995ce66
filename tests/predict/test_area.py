"""The area model: the density is that of all annotated cells, and comes back from its file."""

from __future__ import annotations

import numpy as np
import pytest

from cellweave.core.errors import InputError
from cellweave.core.points import DEBRIS, LIVE, Points
from cellweave.predict.area import AreaDensity

SHAPE = (40, 50)


def points(n: int, debris: int = 0) -> Points:
    rng = np.random.default_rng(n)
    positions = rng.uniform(0, 39, (n + debris, 2))
    return Points(positions, np.array([LIVE] * n + [DEBRIS] * debris), shape=SHAPE)


def test_the_count_of_what_was_fitted_on_is_right() -> None:
    rng = np.random.default_rng(0)
    masks = [rng.random(SHAPE) < share for share in (0.3, 0.6)]
    model = AreaDensity.fit(masks, [points(12, debris=3), points(30)])
    assert (model.cells, model.images) == (42, 2)
    assert sum(map(model.count, masks)) == pytest.approx(42)
    assert model.count(np.zeros(SHAPE, bool)) == 0


def test_twice_the_area_has_twice_the_cells() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[:20] = True
    model = AreaDensity.fit([mask], [points(10)])
    assert model.count(np.concatenate([mask, mask])) == pytest.approx(2 * model.count(mask))


def test_only_where_someone_annotated_is_fitted_on() -> None:
    mask, known = np.ones(SHAPE, bool), np.zeros(SHAPE, bool)
    known[:, :25] = True
    left = Points(np.stack([np.linspace(0, 39, 20), np.full(20, 10.0)], axis=1), shape=SHAPE)
    right = np.array([[5.0, 40], [6, 41]])
    both = Points(np.concatenate([left.positions, right]), shape=SHAPE)
    model = AreaDensity.fit([mask], [both], known=[known])
    assert model.cells == 20
    assert model.count(mask) == pytest.approx(40)


def test_bad_input() -> None:
    mask = np.ones(SHAPE, bool)
    with pytest.raises(InputError, match="give all"):
        AreaDensity.fit([mask], [])
    with pytest.raises(InputError, match="same image"):
        AreaDensity.fit([mask[:3]], [points(1)])
    with pytest.raises(InputError, match="outside"):
        AreaDensity.fit([mask], [Points(np.array([[5.0, SHAPE[1] + 3.0]]))])
    with pytest.raises(InputError, match="0 cells"):
        AreaDensity.fit([mask], [points(0, debris=2)])
    with pytest.raises(InputError, match="0 px"):
        AreaDensity.fit([~mask], [points(3)])
    with pytest.raises(InputError, match="density"):
        AreaDensity(float("nan"), 1, 1)
