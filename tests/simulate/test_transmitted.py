from dataclasses import asdict
from math import pi

import numpy as np
import pytest
from scipy import ndimage

from cellweave.simulate.transmitted import Brightfield, Dic, PhaseContrast, propagate, slope_along
from simulate.geometries import disks, empty

KINDS = (PhaseContrast, Dic, Brightfield)
SMOOTH = {"texture": 0.0, "granules": 0.0, "nucleus": 0.0, "nucleoli": 0.0, "rim": 0.0, "mottle": 0.0, "variation": 0.0}


def render(own, cells, seed=0):
    return own.render(cells, np.random.default_rng(seed))[0][0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cells", [empty(), empty((1, 1)), disks((1, 60)), disks((5, 4), 6.0), disks((200, 40), 300.0)])
@pytest.mark.parametrize("seed", range(6))
def test_any_size_and_any_draw(kind, cells, seed):
    own = kind.random(np.random.default_rng(seed), kind=["", "bacteria", "yeast"][seed % 3])
    assert own == kind(**asdict(own))
    kept = [a.copy() for a in (cells.labels, cells.nuclei, cells.height)]
    light, names = own.render(cells, np.random.default_rng(seed))
    assert light.shape == (1, *cells.shape)
    assert len(names) == 1
    assert light.dtype == np.float32
    assert np.isfinite(light).all()
    assert light.min() >= 0
    assert light.max() <= 3
    assert np.array_equal(light, own.render(cells, np.random.default_rng(seed))[0])
    assert all(np.array_equal(a, b) for a, b in zip(kept, (cells.labels, cells.nuclei, cells.height), strict=True))


@pytest.mark.parametrize("own", [PhaseContrast(level=0.4), Dic(level=0.4, shading=0.0), Brightfield(level=0.4)])
def test_an_empty_field_has_the_level_of_the_background(own):
    assert render(own, empty((60, 60))).mean() == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize("own", [PhaseContrast(), Dic(), Brightfield()])
def test_cells_stand_out_from_the_background(own):
    cells = disks((128, 128))
    light = render(own, cells)
    far = ndimage.distance_transform_edt(cells.labels == 0) > 4
    assert light[cells.labels > 0].std() > 3 * light[far].std()


def test_phase_contrast_is_dark_with_a_halo_and_negative_is_bright():
    cells = disks((128, 128))
    inside = cells.labels > 0
    beside = ~inside & ndimage.binary_dilation(inside, iterations=2)
    positive = render(PhaseContrast(phase=0.5, **SMOOTH), cells)
    assert positive[inside].mean() < 0.37
    assert positive[beside].mean() > 0.44
    negative = render(PhaseContrast(phase=0.5, negative=True, **SMOOTH), cells)
    assert negative[inside].mean() > 0.44


def test_large_flat_cells_shade_off():
    cells = disks((200, 200), 300.0, nuclei=False)
    flat = type(cells)(cells.labels, cells.nuclei, (cells.labels > 0).astype(np.float32))
    light = render(PhaseContrast(phase=0.5, halo=0.03, **SMOOTH), flat)
    distance = ndimage.distance_transform_edt(cells.labels > 0)
    assert light[(distance > 0) & (distance < 5)].mean() < light[distance > 60].mean() - 0.05


@pytest.mark.parametrize("azimuth", [0.0, 0.7, pi / 2, 4.0])
def test_dic_exchanges_light_and_shadow_when_the_azimuth_turns_by_pi(azimuth):
    cells = disks()
    one, other = (render(Dic(azimuth=a, shading=0.0, level=0.45), cells) for a in (azimuth, azimuth + pi))
    assert np.allclose(one - 0.45, 0.45 - other, atol=1e-4)
    assert np.abs(one - 0.45).max() > 0.1


def test_the_slope_points_down_at_a_quarter_turn():
    ramp = np.tile(np.arange(9, dtype=np.float32)[:, None], (1, 5))
    assert np.allclose(slope_along(ramp, pi / 2), 1.0)
    assert np.allclose(slope_along(ramp, 0.0), 0.0, atol=1e-6)
    assert not slope_along(np.ones((1, 1), dtype=np.float32), 1.0).any()


def test_propagation_back_and_forth_is_no_propagation():
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.standard_normal((64, 48)), 4.0)
    wave = np.exp(1j * smooth / smooth.std()).astype(np.complex64)
    there = propagate(wave, 30.0)
    back = propagate(there, -30.0)
    assert np.abs(there - wave).max() > 0.05
    assert np.abs(back - wave)[16:-16, 16:-16].max() < 0.1


def test_defocus_follows_the_transport_of_intensity_and_changes_sign():
    """Close to focus, I = 1 - z / k * laplacian(phase), with distance = wavelength * z."""
    rng = np.random.default_rng(0)
    phase = ndimage.gaussian_filter(rng.standard_normal((96, 96)), 5.0)
    phase *= 0.3 / phase.std()
    wave = np.exp(1j * phase).astype(np.complex64)
    inner = (slice(20, -20), slice(20, -20))
    for distance in (4.0, -4.0):
        brightness = np.abs(propagate(wave, distance)) ** 2
        expected = -distance / (2 * pi) * ndimage.laplace(phase)
        assert np.corrcoef((brightness - 1)[inner].ravel(), expected[inner].ravel())[0, 1] > 0.97
        assert (brightness - 1)[inner].std() == pytest.approx(expected[inner].std(), rel=0.2)


def test_absorption_darkens():
    cells = disks()
    clear, dark = (render(Brightfield(absorption=a, defocus=0.02, **SMOOTH), cells) for a in (0.0, 0.8))
    assert dark[cells.labels > 0].mean() < 0.75 * clear[cells.labels > 0].mean()
