from dataclasses import asdict

import numpy as np
import pytest

from cellweave.core.errors import InputError
from cellweave.simulate.fluorescence import PLACES, Fluorescence
from cellweave.simulate.geometry import Geometry
from simulate.geometries import disks, empty

ALL = ("nuclei", "cytoplasm", "membrane", "reporter")


def mean(light, where):
    return float(light[where].mean())


@pytest.mark.parametrize("place", PLACES)
def test_all_channels_shine_in_cells_and_not_beside_them(place):
    cells = disks()
    light, names = Fluorescence(channels=ALL, places=(place,), dark=0.0).render(cells, np.random.default_rng(0))
    assert names == ALL
    assert light.shape == (4, *cells.shape)
    assert light.dtype == np.float32
    for channel in light:
        assert np.isfinite(channel).all()
        assert channel.min() >= 0
        assert mean(channel, cells.labels > 0) > 1.5 * mean(channel, cells.labels == 0)


def test_each_channel_shines_where_its_stain_sits():
    cells = disks(diameter=40.0)
    own = Fluorescence(
        channels=("nuclei", "cytoplasm", "membrane"), shadow=0.9, perinuclear=0.0, gaps=0.0, granules=0.0
    )
    nuclei, cytoplasm, membrane = own.render(cells, np.random.default_rng(0))[0]
    inner = cells.nuclei > 0
    ring = (cells.labels > 0) & ~inner
    rim = (cells.labels > 0) & (cells.height < 0.45)
    assert mean(nuclei, inner) > 3 * mean(nuclei, ring)
    assert mean(cytoplasm, ring) > 1.3 * mean(cytoplasm, inner)
    assert mean(membrane, rim) > 2 * mean(membrane, inner)


def test_cells_differ_in_brightness():
    cells = disks((200, 220))

    def spread(variation):
        own = Fluorescence(channels=("cytoplasm",), variation=variation, haze=0.0, background=0.0)
        light = own.render(cells, np.random.default_rng(0))[0][0]
        means = np.bincount(cells.labels.ravel(), light.ravel())[1:] / cells.areas
        return np.log(means).std()

    assert spread(0.9) > 0.5
    assert spread(0.1) < 0.35


def test_bleeding_shows_other_channels():
    cells = disks(diameter=40.0)

    def light(bleed):
        own = Fluorescence(channels=("nuclei", "membrane"), bleed=bleed)
        return own.render(cells, np.random.default_rng(0))[0]

    alone, bled = light(0.0), light(0.4)
    assert np.allclose(bled[0], alone[0] + 0.4 * alone[1], atol=1e-5)


def test_cells_without_nuclei_have_dna_everywhere():
    cells = disks(nuclei=False)
    light, _ = Fluorescence(channels=("nuclei",)).render(cells, np.random.default_rng(0))
    assert mean(light[0], cells.labels > 0) > 3 * mean(light[0], cells.labels == 0)


@pytest.mark.parametrize("cells", [empty(), empty((1, 1)), disks((1, 60)), disks((5, 4), 6.0), disks((200, 40), 300.0)])
@pytest.mark.parametrize("seed", range(6))
def test_any_size_and_any_draw(cells, seed):
    own = Fluorescence.random(np.random.default_rng(seed), kind=["", "bacteria", "tissue"][seed % 3])
    first, names = own.render(cells, np.random.default_rng(seed))
    again, _ = own.render(cells, np.random.default_rng(seed))
    assert first.shape == (len(names), *cells.shape)
    assert np.isfinite(first).all()
    assert np.array_equal(first, again)


def test_rendering_changes_no_input():
    cells = disks()
    kept = Geometry(cells.labels.copy(), cells.nuclei.copy(), cells.height.copy())
    for seed in range(8):
        Fluorescence.random(np.random.default_rng(seed)).render(cells, np.random.default_rng(seed))
    assert np.array_equal(cells.labels, kept.labels)
    assert np.array_equal(cells.nuclei, kept.nuclei)
    assert np.array_equal(cells.height, kept.height)


def test_channels_are_those_asked_for():
    own = Fluorescence.random(np.random.default_rng(0), channels="membrane,nuclei")
    assert own.channels == ("membrane", "nuclei")
    assert own == Fluorescence(**asdict(own))
    with pytest.raises(InputError, match="golgi"):
        Fluorescence(channels=("golgi",))
    with pytest.raises(InputError, match="places"):
        Fluorescence(places=("outside",))
