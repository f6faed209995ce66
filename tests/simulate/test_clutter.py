import numpy as np
import pytest

from cellweave.simulate.clutter import Clutter
from simulate.geometries import disks, empty

FULL = Clutter(debris=2.0, dead=0.3, bubbles=2, threads=2, blobs=3, dust=4, scratches=2, mark=True, strength=0.8)
NONE = Clutter(debris=0.0, dead=0.0)


def test_clutter_never_reaches_the_truth():
    cells = disks()
    soiled = FULL.add(cells, np.random.default_rng(0))
    assert np.array_equal(soiled.labels, cells.labels)
    assert np.array_equal(soiled.nuclei, cells.nuclei)
    inside = cells.labels > 0
    assert np.array_equal(soiled.height[inside], cells.height[inside])
    assert (soiled.height[~inside] > 0.1).mean() > 0.02
    assert not cells.height[~inside].any()


def test_no_clutter_changes_nothing():
    cells = disks()
    light = np.random.default_rng(0).random((2, *cells.shape), dtype=np.float32)
    assert NONE.add(cells, np.random.default_rng(0)) is cells
    assert np.array_equal(NONE.paint(light, cells, np.random.default_rng(0)), light)


@pytest.mark.parametrize(
    "one",
    [{"debris": 2.0}, {"dead": 0.5}, {"bubbles": 3}, {"threads": 3}],
)
def test_each_thing_in_the_sample_is_seen(one):
    geometry = empty((120, 120))
    assert Clutter(**{"debris": 0.0, "dead": 0.0} | one).add(geometry, np.random.default_rng(0)).height.any()


@pytest.mark.parametrize("one", [{"blobs": 3}, {"dust": 5}, {"scratches": 5}, {"mark": True}])
def test_each_thing_in_the_picture_is_seen(one):
    geometry = empty((120, 120))
    bright = np.full((1, 120, 120), 0.6, dtype=np.float32)
    out = Clutter(**{"debris": 0.0, "dead": 0.0} | one).paint(bright, geometry, np.random.default_rng(0))
    assert not np.array_equal(out, bright)


def test_clutter_glows_on_dark_fields_and_shades_bright_ones():
    cells = disks((128, 128))
    light = np.stack([np.full(cells.shape, 0.02), np.full(cells.shape, 0.7)]).astype(np.float32)
    dirt = Clutter(debris=2.0, dead=0.3, blobs=3, dust=4)
    out = dirt.paint(light, cells, np.random.default_rng(0))
    assert (out[0] >= light[0]).all()
    assert (out[0] > light[0]).any()
    assert (out[1] <= light[1]).all()
    assert (out[1] < light[1]).any()


@pytest.mark.parametrize("cells", [empty(), empty((1, 1)), disks((1, 60)), disks((5, 4), 6.0), disks((90, 80), 200.0)])
def test_any_size_and_any_draw(cells):
    light = np.random.default_rng(0).random((3, *cells.shape), dtype=np.float32)
    kept, height = light.copy(), cells.height.copy()
    for clutter in (FULL, *(Clutter.random(np.random.default_rng(seed)) for seed in range(30))):
        soiled, again = (clutter.add(cells, np.random.default_rng(1)) for _ in range(2))
        assert np.array_equal(soiled.height, again.height)
        assert soiled.height.dtype == np.float32
        assert np.isfinite(soiled.height).all()
        out, twice = (clutter.paint(light, cells, np.random.default_rng(1)) for _ in range(2))
        assert np.array_equal(out, twice)
        assert out.shape == light.shape
        assert np.isfinite(out).all()
    assert np.array_equal(light, kept)
    assert np.array_equal(cells.height, height)
