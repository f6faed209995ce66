import numpy as np
import pytest

from cellweave.core.errors import InputError
from cellweave.simulate.camera import Camera, jpeg_round_trip


def flat(level, shape=(1, 200, 200)):
    return np.full(shape, level, dtype=np.float32)


@pytest.mark.parametrize("photons", [40.0, 500.0, 5000.0])
def test_noise_is_poisson_gaussian(photons):
    """The variance in electrons is the signal plus that of reading."""
    camera = Camera(photons=photons, read_noise=2.0, offset=0.2, exposure=0.5, bits=16)
    for level in (0.1, 0.3, 0.9):
        grey = camera.expose(flat(level), np.random.default_rng(0)).astype(float) / 65535
        electrons = (grey - 0.2) / 0.5 * photons
        assert electrons.mean() == pytest.approx(level * photons, rel=0.02, abs=0.15)
        assert electrons.var() == pytest.approx(level * photons + 4.0, rel=0.06, abs=0.3)


def test_bright_light_saturates_and_none_is_the_offset():
    camera = Camera(exposure=1.0, offset=0.1, read_noise=0.0)
    assert (camera.expose(flat(3.0), np.random.default_rng(0)) == 255).all()
    assert (camera.expose(flat(0.0), np.random.default_rng(0)) == round(0.1 * 255)).all()


@pytest.mark.parametrize(("bits", "dtype", "top"), [(8, np.uint8, 255), (12, np.uint16, 4095), (16, np.uint16, 65535)])
def test_bits(bits, dtype, top):
    picture = Camera(bits=bits).expose(flat(9.0), np.random.default_rng(0))
    assert picture.dtype == dtype
    assert picture.max() == top


def test_rows_hot_pixels_and_interpolation():
    quiet = {"photons": 1e6, "read_noise": 0.0, "bits": 16}
    rows = Camera(**quiet, row_noise=2e4).expose(flat(0.5), np.random.default_rng(0))[0].astype(float)
    assert rows.mean(axis=1).std() > 10 * rows.std(axis=1).mean()
    hot = Camera(**quiet, hot=0.001).expose(flat(0.1), np.random.default_rng(0))
    assert 15 < (hot > 0.2 * 65535).sum() < 80
    noisy = {"photons": 100.0, "bits": 16}
    sharp, soft = (
        Camera(**noisy, sampling=s).expose(flat(0.5), np.random.default_rng(0))[0].astype(float) for s in (1.0, 0.5)
    )

    def neighbours(image):
        return np.corrcoef(image[:, 1:].ravel(), image[:, :-1].ravel())[0, 1]

    assert abs(neighbours(sharp)) < 0.05
    assert neighbours(soft) > 0.4


def test_sharpening_overshoots_at_edges_and_gamma_lifts_the_dark():
    edge = np.repeat(np.float32([0.3, 0.6]), 20)[None, None].repeat(40, axis=1)
    quiet = {"photons": 1e6, "read_noise": 0.0, "offset": 0.0, "exposure": 1.0, "bits": 16}
    assert Camera(**quiet, sharpen=1.0).expose(edge, np.random.default_rng(0)).max() > 0.63 * 65535
    assert Camera(**quiet, gamma=0.5).expose(flat(0.25), np.random.default_rng(0)).mean() == pytest.approx(
        0.5 * 65535, rel=0.01
    )


def test_jpeg_is_real():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (1, 64, 64)).astype(np.uint8)
    good, poor = (jpeg_round_trip(picture, quality).astype(int) for quality in (95, 10))
    assert 0 < np.abs(good - picture).mean() < np.abs(poor - picture).mean()
    # at low quality most coefficients of an 8 x 8 block are gone: few different rows remain
    flat_blocks = poor[0].reshape(8, 8, 8, 8).transpose(0, 2, 1, 3).reshape(-1, 64)
    assert np.mean([len(np.unique(block)) for block in flat_blocks]) < 64
    colour = rng.integers(0, 256, (3, 40, 50)).astype(np.uint8)
    assert jpeg_round_trip(colour, 80).shape == colour.shape
    assert jpeg_round_trip(colour[:2], 80).shape == (2, 40, 50)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 30), (3, 30, 1), (4, 3, 2), (3, 40, 30)])
def test_any_size_and_any_draw(shape):
    light = np.random.default_rng(0).random(shape, dtype=np.float32)
    kept = light.copy()
    for seed in range(25):
        camera = Camera.random(np.random.default_rng(seed), color=seed % 3 == 0, dark=seed % 2 == 0)
        first, again = (camera.expose(light, np.random.default_rng(seed)) for _ in range(2))
        assert first.shape == shape
        assert first.dtype == (np.uint8 if camera.bits == 8 else np.uint16)
        assert first.max() < 2**camera.bits
        assert np.array_equal(first, again)
    assert np.array_equal(light, kept)


def test_cameras_that_do_not_exist_are_refused():
    with pytest.raises(InputError, match="10 bits"):
        Camera(bits=10)
    with pytest.raises(InputError, match="JPEG"):
        Camera(bits=16, jpeg=80)
    with pytest.raises(InputError, match="sampling"):
        Camera(sampling=0.0)
