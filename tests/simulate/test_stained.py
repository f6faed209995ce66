from dataclasses import asdict

import numpy as np
import pytest

from cellweave.core.errors import InputError
from cellweave.simulate.geometry import Geometry
from cellweave.simulate.stained import KINDS, Stained, to_gray
from simulate.geometries import disks, empty


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cells", [empty(), empty((1, 1)), disks((1, 60)), disks((5, 4), 6.0), disks((90, 80), 200.0)])
def test_any_size_and_any_draw(kind, cells):
    for seed in range(3):
        own = Stained.random(np.random.default_rng(seed), kind=kind)
        assert own == Stained(**asdict(own))
        light, names = own.render(cells, np.random.default_rng(seed))
        assert names == ("red", "green", "blue")
        assert light.shape == (3, *cells.shape)
        assert light.dtype == np.float32
        assert np.isfinite(light).all()
        assert 0 <= light.min() <= light.max() <= 1
        assert np.array_equal(light, own.render(cells, np.random.default_rng(seed))[0])


@pytest.mark.parametrize("kind", ["he", "ihc", "smear", "pap"])
def test_nuclei_are_darker_than_the_rest(kind):
    cells = disks(diameter=40.0)
    gray = to_gray(Stained.random(np.random.default_rng(1), kind=kind).render(cells, np.random.default_rng(0))[0])[0]
    assert gray[cells.nuclei > 0].mean() < 0.85 * gray[cells.nuclei == 0].mean()


def test_light_is_never_brighter_than_the_empty_slide():
    own = Stained(white=(0.9, 0.8, 0.7))
    light, _ = own.render(disks(), np.random.default_rng(0))
    assert (light.reshape(3, -1).max(axis=1) <= np.float32([0.9, 0.8, 0.7]) + 1e-6).all()
    bare = Stained(kind="pap", white=(0.9, 0.8, 0.7), tissue=0.0).render(empty(), np.random.default_rng(0))[0]
    assert np.allclose(bare.reshape(3, -1).T, [0.9, 0.8, 0.7])


def test_densities_add_in_the_logarithm():
    """Beer-Lambert: with the same concentrations, twice the density is the square of the transmission."""
    cells = disks()
    once = {"kind": "he", "white": (1.0, 1.0, 1.0)}
    single = Stained(**once, nuclear=(0.5, 0.4, 0.3), counter=(0.1, 0.3, 0.2), third=(0.2, 0.5, 0.1))
    double = Stained(**once, nuclear=(1.0, 0.8, 0.6), counter=(0.2, 0.6, 0.4), third=(0.4, 1.0, 0.2))
    a, b = (own.render(cells, np.random.default_rng(3))[0] for own in (single, double))
    assert np.allclose(a**2, b, atol=1e-4)


def test_red_cells_are_red_and_pale_in_the_middle_and_white_cells_purple():
    cells = disks((120, 130), 30.0)
    ring = np.where(cells.labels > 0, 1.0 - 0.6 * cells.height, 0.0).astype(np.float32)
    nuclei = np.where(cells.labels == 1, cells.nuclei, 0).astype(np.int32)
    blood = Geometry(cells.labels, nuclei, ring)
    red, green, blue = Stained(kind="blood", tissue=0.0, variation=0.05).render(blood, np.random.default_rng(0))[0]
    own = Stained.random(np.random.default_rng(0), kind="blood")
    red, green, blue = own.render(blood, np.random.default_rng(0))[0] / np.float32(own.white)[:, None, None]
    erythrocytes = cells.labels > 1
    assert red[erythrocytes].mean() > green[erythrocytes].mean()
    middle = erythrocytes & (cells.height > 0.9)
    border = erythrocytes & (cells.height > 0.3) & (cells.height < 0.5)
    assert green[middle].mean() > green[border].mean()
    assert green[nuclei > 0].mean() < 0.7 * blue[nuclei > 0].mean()


def test_brown_lies_where_it_is_said():
    cells = disks(diameter=40.0)

    def brown(place):
        own = Stained(
            kind="ihc", nuclear=(0.0,) * 3, counter=(0.0,) * 3, third=(0.0, 0.0, 1.0), positive=1.0, place=place
        )
        return 1 - own.render(cells, np.random.default_rng(0))[0][2]

    inner, ring = cells.nuclei > 0, (cells.labels > 0) & (cells.nuclei == 0)
    assert brown("nucleus")[inner].mean() > 3 * brown("nucleus")[ring].mean()
    assert brown("cytoplasm")[ring].mean() > 1.5 * brown("cytoplasm")[inner].mean()
    rim = ring & (cells.height < 0.4)
    assert brown("membrane")[rim].mean() > 3 * brown("membrane")[inner].mean()


def test_rendering_changes_no_input():
    cells = disks()
    kept = [a.copy() for a in (cells.labels, cells.nuclei, cells.height)]
    for kind in KINDS:
        Stained.random(np.random.default_rng(0), kind=kind).render(cells, np.random.default_rng(0))
    assert all(np.array_equal(a, b) for a, b in zip(kept, (cells.labels, cells.nuclei, cells.height), strict=True))


def test_unknown_kinds_are_refused():
    with pytest.raises(InputError, match="gram"):
        Stained(kind="gram")
    with pytest.raises(InputError, match="wall"):
        Stained(place="wall")
