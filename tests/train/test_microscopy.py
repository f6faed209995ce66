"""Microscopy augmentation: ranges and chances as published, seeded, bounded; empty planes stay empty."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cellweave.train.microscopy import (
    BOUNDS,
    PEPPERED,
    PHOTONS,
    SHIFT,
    SIGMA,
    Acquisition,
    change_acquisition,
    random_acquisition,
    random_geometry,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def planes_of(*values: float, side: int = 200, planes: int = 1) -> torch.Tensor:
    """(B, planes, side, side): even pictures of these values, with one pixel of 0 and one of 1."""
    made = torch.tensor(values).view(-1, 1, 1, 1).repeat(1, planes, side, side)
    made[:, 0, 0, 0], made[:, 0, 0, 1] = 0.0, 1.0
    return made


def changed(change: Acquisition, value: float = 0.5) -> torch.Tensor:
    """The even part of a picture after one change."""
    return change_acquisition(planes_of(value), [change], generator())[0, 0].flatten()[2:]


def test_geometry_is_drawn_as_published() -> None:
    draw = rng()
    made = [random_geometry(draw) for _ in range(4000)]
    zooms = np.array([math.sqrt(abs(np.linalg.det(m))) for m in made])
    scaled = np.abs(zooms - 1) > 1e-9
    assert scaled.mean() == pytest.approx(0.5, abs=0.03)
    assert zooms.min() >= 0.5
    assert np.mean(zooms[scaled]) == pytest.approx(0.75, abs=0.01)
    mirrored = np.array([np.linalg.det(m) < 0 for m in made])  # one flip of the two
    assert mirrored.mean() == pytest.approx(0.5, abs=0.03)
    straight = np.array([np.abs(m * [[0, 1], [1, 0]]).max() < 1e-12 for m in made])
    assert straight.mean() == pytest.approx(0.5, abs=0.03)
    for m, zoom in zip(made, zooms, strict=True):
        np.testing.assert_allclose(m @ m.T, zoom**2 * np.eye(2), atol=1e-9)


def test_geometry_keeps_sizes_that_must_stay() -> None:
    draw = rng()
    assert all(abs(np.linalg.det(random_geometry(draw, sized=False))) == pytest.approx(1) for _ in range(50))


def test_acquisitions_are_drawn_as_published() -> None:
    draw = rng()
    made = [random_acquisition(draw) for _ in range(4000)]
    shift, photons, sigma, salt, pepper = (
        np.array([getattr(one, name) for one in made]) for name in ("shift", "photons", "sigma", "salt", "pepper")
    )
    for values in (shift, photons, sigma, salt):
        assert np.mean(values != 0) == pytest.approx(0.5, abs=0.03)
    assert np.array_equal(salt != 0, pepper != 0)
    assert np.abs(shift).max() <= SHIFT == 0.1
    assert shift[shift != 0].std() == pytest.approx(0.2 / math.sqrt(12), rel=0.05)
    assert 0 <= sigma.min() <= sigma.max() <= SIGMA == 0.1
    assert sigma[sigma > 0].mean() == pytest.approx(0.05, rel=0.05)
    assert PHOTONS[0] <= photons[photons > 0].min() <= photons.max() <= PHOTONS[1]
    assert max(salt.max(), pepper.max()) <= PEPPERED
    one, other = shift != 0, sigma != 0
    assert np.mean(one & other) == pytest.approx(0.25, abs=0.03)  # independent


def test_each_change_does_what_it_says() -> None:
    assert changed(Acquisition()).unique().tolist() == [0.5]
    np.testing.assert_allclose(changed(Acquisition(shift=0.1)), 0.6, atol=1e-6)
    np.testing.assert_allclose(changed(Acquisition(shift=-0.1), 0.05), 0.0, atol=1e-6)  # cut
    noisy = changed(Acquisition(sigma=0.08))
    assert float(noisy.mean()) == pytest.approx(0.5, abs=0.002)
    assert float(noisy.std()) == pytest.approx(0.08, rel=0.02)
    for value in (0.2, 0.8):
        shot = changed(Acquisition(photons=50.0), value)
        assert float(shot.mean()) == pytest.approx(value, rel=0.01)
        assert float(shot.var()) == pytest.approx(value / 50, rel=0.03)
        assert torch.allclose(shot * 50, (shot * 50).round(), atol=1e-4)
    flipped = changed(Acquisition(salt=0.02, pepper=0.01))
    assert float((flipped == 1).float().mean()) == pytest.approx(0.02, rel=0.15)
    assert float((flipped == 0).float().mean()) == pytest.approx(0.01, rel=0.15)
    assert set(flipped.unique().tolist()) == {0.0, 0.5, 1.0}


@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 40), planes=st.integers(1, 3))
def test_values_are_bounded_and_the_input_is_kept(seed: int, scale: float, planes: int) -> None:
    pictures = scale * torch.rand((3, planes, 24, 24), generator=generator(seed))
    before = pictures.clone()
    draw = rng(seed)
    out = change_acquisition(pictures, [random_acquisition(draw) for _ in range(3)], generator(seed))
    assert torch.equal(pictures, before)
    assert out.shape == before.shape
    assert out.dtype == torch.float32
    low = before.amin(dim=(2, 3), keepdim=True).clamp(max=BOUNDS[0])
    high = before.amax(dim=(2, 3), keepdim=True).clamp(min=BOUNDS[1])
    assert bool(((out >= low) & (out <= high)).all())


@given(seed=st.integers(0, 10**6))
def test_empty_planes_stay_empty_and_equal_ones_equal(seed: int) -> None:
    draw = rng(seed)
    pictures = torch.rand((4, 2, 16, 16), generator=generator(seed))
    pictures[:3, 1] = 0
    pictures[3] = 0
    out = change_acquisition(pictures, [random_acquisition(draw) for _ in range(4)], generator(seed))
    assert not out[:3, 1].any()
    assert not out[3].any()
    gray = torch.rand((2, 1, 16, 16), generator=generator(seed)).repeat(1, 3, 1, 1)
    out = change_acquisition(gray, [random_acquisition(draw) for _ in range(2)], generator(seed))
    assert torch.equal(out[:, 0], out[:, 1])
    assert torch.equal(out[:, 0], out[:, 2])


def test_crops_are_changed_by_their_own_numbers() -> None:
    """What is left as it is does not depend on the others, and the same seed gives the same noise."""
    changes = [Acquisition(), Acquisition(0.05, 100.0, 0.05, 0.01, 0.01), Acquisition()]
    pictures = planes_of(0.2, 0.5, 0.7, side=40)
    first, second = (change_acquisition(pictures, changes, generator(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first[[0, 2]], pictures[[0, 2]])
    assert not torch.equal(first[1], change_acquisition(pictures, changes, generator(4))[1])
