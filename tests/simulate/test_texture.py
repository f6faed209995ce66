import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cellweave.simulate import texture
from simulate.geometries import disks, empty

SHAPES = [(1, 1), (1, 37), (29, 1), (3, 2), (64, 80)]


@given(sigma=st.floats(0.0, 40.0), rows=st.integers(1, 70), columns=st.integers(1, 70), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_blur_keeps_the_sum_and_the_range(sigma, rows, columns, seed):
    field = np.random.default_rng(seed).random((rows, columns), dtype=np.float32)
    before = field.copy()
    out = texture.blur(field, sigma)
    assert np.array_equal(field, before)
    assert out.shape == field.shape
    assert out.dtype == np.float32
    assert out.sum() == pytest.approx(field.sum(), rel=1e-3)
    assert out.min() > field.min() - 0.02
    assert out.max() < field.max() + 0.02


@pytest.mark.parametrize("sigma", [3.5, 7.0, 15.0])
def test_blur_on_a_reduced_grid_is_the_gaussian(sigma):
    field = np.zeros((160, 150), dtype=np.float32)
    field[60:90, 50:110] = 1
    exact = ndimage.gaussian_filter(field, sigma, mode="reflect")
    assert np.abs(texture.blur(field, sigma) - exact).max() < 0.05


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("length", [0.2, 1.0, 6.0, 300.0])
def test_fields_of_any_size_are_finite_and_seeded(shape, length):
    for make in (texture.noise, texture.fractal, texture.network, texture.fibres):
        first, again, other = (make(shape, length, np.random.default_rng(seed)) for seed in (3, 3, 4))
        assert first.shape == shape
        assert first.dtype == np.float32
        assert np.isfinite(first).all()
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)


@pytest.mark.parametrize("length", [0.5, 1.0, 2.0, 5.0])
def test_noise_has_unit_variance_and_its_length(length):
    fields = [texture.noise((256, 256), length, np.random.default_rng(seed)) for seed in range(6)]
    assert np.mean([f.std() for f in fields]) == pytest.approx(1.0, abs=0.15)
    # white noise smoothed by sigma has the autocorrelation exp(-r**2 / (4 sigma**2)): 1 / e at r = 2 sigma
    if length >= 1:
        lag = round(2 * length)
        correlation = np.mean([np.mean(f[lag:] * f[:-lag]) / f.var() for f in fields])
        assert correlation == pytest.approx(np.exp(-1), abs=0.12)


def test_specks_are_counted_and_as_high_as_said():
    field = texture.specks((200, 200), 12, 2.0, np.random.default_rng(0))
    assert 0.25 < field.max() < 2.5
    assert not texture.specks((200, 200), 0, 2.0, np.random.default_rng(0)).any()
    assert texture.specks((1, 5), 3, 2.0, np.random.default_rng(0)).shape == (1, 5)


def test_cells_get_values_and_the_background_none():
    values = texture.per_cell(500, 0.4, np.random.default_rng(1))
    assert values[0] == 0
    assert np.log(values[1:]).std() == pytest.approx(0.4, abs=0.05)
    chosen = texture.selected(500, 0.3, np.random.default_rng(1))
    assert not chosen[0]
    assert chosen.mean() == pytest.approx(0.3, abs=0.06)


def test_anatomy_of_cells_without_nuclei_takes_the_cells():
    anatomy = texture.Anatomy(disks(nuclei=False))
    assert not anatomy.has_nuclei
    assert not anatomy.nucleus.any()
    assert np.array_equal(anatomy.nuclear_depth, anatomy.depth)
    nothing = texture.Anatomy(empty())
    assert not nothing.depth.any()
    assert not nothing.perinuclear.any()


def test_depth_counts_shared_borders():
    labels = np.ones((20, 40), dtype=np.int32)
    labels[:, 20:] = 2
    distance = texture.depth(labels)
    assert distance[10, 19] == distance[10, 20] == 1
    assert distance[10, 0] == 20  # the border of the image is no border of the cell
