import numpy as np
import pytest

from cellweave.simulate.optics import Optics, illumination


def point(shape=(61, 71)):
    light = np.zeros((1, *shape), dtype=np.float32)
    light[0, shape[0] // 2, shape[1] // 2] = 1
    return light


@pytest.mark.parametrize(
    "optics",
    [Optics(sigma=0.5), Optics(sigma=4.0), Optics(tails=0.3), Optics(astigmatism=1.5), Optics(motion=4.0, sigma=1.0)],
)
def test_blur_keeps_the_light(optics):
    out = optics.apply(point(), np.random.default_rng(0))
    assert out.sum() == pytest.approx(1.0, rel=1e-3)
    assert out.max() < 1


def test_the_spread_is_that_of_the_point_spread_function():
    out = Optics(sigma=2.0).apply(point(), np.random.default_rng(0))[0]
    rows, columns = np.mgrid[:61, :71]
    assert np.sqrt((out * (rows - 30) ** 2).sum() / out.sum()) == pytest.approx(2.0, rel=0.05)
    wide = Optics(sigma=2.0, astigmatism=2.0).apply(point(), np.random.default_rng(0))[0]
    assert (wide * (rows - 30) ** 2).sum() == pytest.approx(4 * (wide * (columns - 35) ** 2).sum(), rel=0.1)
    tails = Optics(sigma=2.0, tails=0.3).apply(point(), np.random.default_rng(0))[0]
    assert tails[30, 35] < out[30, 35]
    assert tails[30, 47] > out[30, 47]


def test_corners_are_darker():
    field = illumination((80, 90), 0.5, 0.0, np.random.default_rng(0))
    corners = field[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.max() < field[40, 45]
    assert field.min() > 0


def test_glow_adds_light_and_defocus_softens_a_part():
    dark = np.zeros((1, 50, 50), dtype=np.float32)
    assert Optics(glow=0.1).apply(dark, np.random.default_rng(0)).mean() > 0.01
    stripes = np.tile(np.float32([0, 0, 1, 1]), (1, 64, 16))
    soft = Optics(sigma=0.3, defocus=3.0).apply(stripes, np.random.default_rng(0))[0]
    contrast = soft.reshape(8, 8, 8, 8).std(axis=(1, 3))
    assert contrast.min() < 0.5 * contrast.max()


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 30), (3, 30, 1), (1, 3, 2), (3, 40, 30)])
def test_any_size_and_any_draw(shape):
    light = np.random.default_rng(0).random(shape, dtype=np.float32)
    kept = light.copy()
    for seed in range(25):
        optics = Optics.random(np.random.default_rng(seed), diameter=6.0 * (1 + seed), dark=seed % 2 == 0)
        first, again = (optics.apply(light, np.random.default_rng(seed)) for _ in range(2))
        assert first.shape == shape
        assert first.dtype == np.float32
        assert np.isfinite(first).all()
        assert first.min() >= 0
        assert np.array_equal(first, again)
    assert np.array_equal(light, kept)
