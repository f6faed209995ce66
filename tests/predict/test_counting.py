"""Counts are those of the maps; intervals are as wide as flips and calibration say; dense regions are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

import cellweave
from cell_segmenters import cell_segmenter
from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.core.points import DEBRIS, Points, nearest_pairs
from cellweave.models import CountCalibration, Segmenter
from cellweave.predict import count, predict_maps, segment
from cellweave.predict.count_spread import TILE, TILES, Spread, disagreement
from cellweave.predict.maps import Runner
from cellweave.predict.unsure import crowded, unresolved
from cellweave.representations import Heatmap
from dots import Leaning, dots_model, dots_picture, scattered

Domes = Callable[..., Any]


# --- counts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_heatmap_is_summed_and_its_maxima_are_the_points(seed: int) -> None:
    true, model = scattered(seed, (200, 260), 25), dots_model()
    picture = dots_picture(true)
    found = count(picture, model, device="cpu")
    assert found.count == pytest.approx(predict_maps(picture, model, device="cpu").sum(), rel=1e-5)
    assert found.count == pytest.approx(len(true), rel=0.15)
    assert len(found.points) == len(true)
    assert nearest_pairs(true.positions, found.points.positions, 1.0)[2].max() < 0.6
    assert found.points.shape == (200, 260)
    assert np.array_equal(found.density, found.maps[0])
    assert found.labels is None
    assert found.dropped == found.debris == 0


def test_over_flips_a_count_is_the_same_for_a_flipped_image() -> None:
    picture, model = dots_picture(scattered(1, (96, 128), 8)), dots_model(net_class=Leaning)
    plain = [count(view, model, device="cpu", interval=None).count for view in (picture, picture[:, ::-1])]
    over_flips = [count(view, model, device="cpu", augment=True).count for view in (picture, picture[:, ::-1])]
    assert over_flips[0] == pytest.approx(over_flips[1], rel=1e-4)
    assert over_flips[0] == pytest.approx(np.mean(plain), rel=1e-4)
    assert abs(plain[0] - plain[1]) > 0.01 * plain[0]


def test_objects_are_counted_where_a_model_outlines_them(tiny_model: Segmenter, domes: Domes) -> None:
    picture, labels = domes(0, (150, 200), 12)
    found, expected = count(picture, tiny_model, device="cpu"), segment(picture, tiny_model, device="cpu")
    assert found.count == expected.count == labels.max()
    assert found.diameter == expected.diameter
    np.testing.assert_array_equal(found.labels, expected.labels)
    middles = np.column_stack([expected.table["centroid_y"], expected.table["centroid_x"]])
    np.testing.assert_allclose(found.points.positions, middles)
    np.testing.assert_allclose(found.points.confidence, expected.confidence)
    with pytest.raises(InputError, match="'tiny' outlines cells and has no density"):
        _ = found.density


def test_the_public_function_takes_folders_of_models(model_folder: Path, domes: Domes) -> None:
    picture, labels = domes(1, (120, 120), 5)
    assert cellweave.count(picture, model_folder, device="cpu").count == labels.max()


def test_a_least_confidence(tiny_model: Segmenter, domes: Domes) -> None:
    picture = domes(2, (150, 200), 12)[0]
    confidence = count(picture, tiny_model, device="cpu").points.confidence
    assert confidence is not None
    least = float(np.median(confidence))
    found = count(picture, tiny_model, device="cpu", min_confidence=least)
    assert found.count == len(found.points) == np.count_nonzero(confidence >= least)
    assert found.dropped == 12 - found.count > 0

    true, model = scattered(0, (200, 200), 12), dots_model()
    confidence = count(dots_picture(true), model, device="cpu").points.confidence
    assert confidence is not None
    least = float(np.median(confidence))
    fewer = count(dots_picture(true), model, device="cpu", min_confidence=least)
    assert len(fewer.points) == np.count_nonzero(confidence >= least) == 12 - fewer.dropped
    assert fewer.count == count(dots_picture(true), model, device="cpu").count, "an integral has no confidence"


def test_debris_is_found_and_not_counted() -> None:
    cells, dead = scattered(0, (160, 200), 9), scattered(1, (160, 200), 4)
    image = Image(np.stack([dots_picture(cells), dots_picture(dead)]))
    found = count(image, dots_model(debris=True), device="cpu")
    assert found.count == pytest.approx(9, rel=0.15)
    assert found.debris == 4
    assert len(found.points.cells) == 9
    assert nearest_pairs(found.points.of(DEBRIS).positions, dead.positions, 1.0)[2].max() < 0.6


def test_a_cell_segmenter_tells_its_branch() -> None:
    image = np.random.default_rng(0).integers(0, 255, (96, 96)).astype(np.uint8)
    system = cell_segmenter()
    found, expected = count(image, system, device="cpu"), segment(image, system, device="cpu")
    assert found.count == expected.count
    assert found.branch == expected.branch is not None


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (1, 1), (5, 300)])
@pytest.mark.parametrize("fill", [0.0, 1.0, np.nan])
def test_images_without_anything(tiny_model: Segmenter, shape: tuple[int, int], fill: float) -> None:
    for model in (tiny_model, dots_model()):
        found = count(np.full(shape, fill), model, device="cpu")
        assert found.count == pytest.approx(0, abs=0.1)
        assert len(found.points) == 0
        assert found.low == 0
        assert found.high is not None
        assert 0 < found.high < 20
        assert not found.unsure.any()
        assert found.unsure.shape == shape


def test_a_diameter_does_not_change_what_a_heatmap_sees(caplog: pytest.LogCaptureFixture) -> None:
    picture = dots_picture(scattered(0, (120, 120), 5))
    given = count(picture, dots_model().with_(name="any size"), device="cpu", diameter=12)
    assert given.count == count(picture, dots_model(), device="cpu").count
    assert "the diameter that was given is not used" in caplog.text


def test_a_heatmap_with_a_diameter_keeps_counts_at_any_zoom() -> None:
    true = scattered(0, (160, 160), 10)
    picture = dots_picture(true)
    model = dots_model().with_(diameter=24.0)
    same = count(picture, model, device="cpu")
    assert same.count == pytest.approx(count(picture, dots_model(), device="cpu").count)
    large = count(picture.repeat(2, axis=0).repeat(2, axis=1), model, device="cpu", diameter=48)
    assert large.count == pytest.approx(same.count, rel=0.05)
    assert large.spread is not None
    assert same.spread is not None
    assert large.spread.tiles == same.spread.tiles


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"interval": 0.0}, "between 0 and 1"),
        ({"interval": 90}, "between 0 and 1"),
        ({"min_confidence": 2}, "min_confidence is 2"),
        ({"diameter": "wide"}, "not a positive size"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], said: str) -> None:
    for image in (np.zeros((32, 32)), Image(np.zeros((1, 32, 32)))):
        with pytest.raises(InputError, match=said):
            count(image, dots_model(), device="cpu", **options)


# --- intervals ------------------------------------------------------------------------------------------------


def test_without_an_interval_nothing_is_looked_at_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Runner, "look", never)
    found = count(dots_picture(scattered(0, (200, 200), 9)), dots_model(), device="cpu", interval=None)
    assert (found.low, found.high, found.interval, found.spread) == (None, None, None, None)
    assert found.remarks == ()


@pytest.mark.parametrize("shape", [(100, 90), (300, 500), (500, 600)])
def test_the_second_look_is_bounded(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]) -> None:
    seen = []

    def look(self: Runner, windows: Any) -> Any:
        seen.append(windows.shape)
        return real(self, windows)

    real = Runner.look
    monkeypatch.setattr(Runner, "look", look)
    found = count(dots_picture(scattered(0, shape, 20)), dots_model(), device="cpu")
    assert len(seen) == 4
    assert sum(n * y * x for n, _, y, x in seen) <= 4 * TILES * TILE**2
    assert found.spread is not None
    assert found.spread.tiles == -(-shape[0] // TILE) * -(-shape[1] // TILE)


def test_a_net_that_flips_do_not_disturb_has_no_disagreement() -> None:
    found = count(dots_picture(scattered(0, (300, 400), 30)), dots_model(), device="cpu")
    assert found.spread is not None
    assert found.spread.drift == pytest.approx(0, abs=1e-9)
    assert found.spread.noise == pytest.approx(0, abs=1e-6)
    disturbed = count(dots_picture(scattered(0, (300, 400), 30)), dots_model(net_class=Leaning), device="cpu")
    assert disturbed.spread is not None
    assert disturbed.spread.noise > 0.05
    assert disturbed.low is not None
    assert disturbed.high is not None
    assert 0 <= disturbed.low < disturbed.count < disturbed.high
    assert disturbed.remarks == ("the interval is not calibrated on images with known counts",)


def test_calibration_scales_the_interval() -> None:
    picture, model = dots_picture(scattered(0, (200, 200), 15)), dots_model(net_class=Leaning)
    calibrated = model.with_(count_calibration=CountCalibration(tuple(np.linspace(1, 3, 9))))
    found = count(picture, calibrated, device="cpu")
    assert found.spread is not None
    half = 3 * found.spread.of(found.count, found.points.confidence)
    assert found.high == pytest.approx(found.count + half)
    assert found.low == pytest.approx(max(0, found.count - half))
    assert found.calibrated
    assert found.remarks == ()
    narrower = count(picture, calibrated, device="cpu", interval=0.5)
    assert narrower.high == pytest.approx(found.count + 2 / 3 * half)


@given(st.integers(2, 12), st.integers(0, 2**31))
def test_the_disagreement_of_all_tiles_is_that_of_their_sum(n: int, seed: int) -> None:
    """With every tile looked at, drift and noise give back the mean square of the change of the whole count."""
    rng = np.random.default_rng(seed)
    weight = rng.uniform(1, 20, n)
    change = rng.normal(0, 1, (3, n)) + 0.3 * rng.normal(size=(3, 1)) * weight
    drift, noise = disagreement(change, weight)
    whole = drift * weight.sum() ** 2 + noise * weight.sum()
    expected = (change.sum(axis=1) ** 2).mean()
    assert whole == pytest.approx(expected) if drift else whole >= expected * (1 - 1e-9)


@pytest.mark.parametrize(("drift", "noise"), [(0.0, 0.5), (0.1, 0.0), (0.05, 0.3)])
def test_drift_and_noise_are_found(drift: float, noise: float) -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(2000):
        weight = rng.uniform(1, 20, 12)
        ratio = rng.choice([-drift, drift], (3, 1))
        found.append(disagreement(ratio * weight + np.sqrt(noise * weight) * rng.normal(size=(3, 12)), weight))
    mean = np.mean(found, axis=0)
    assert mean[1] == pytest.approx(noise, rel=0.05, abs=1e-12)
    assert mean[0] == pytest.approx(drift**2, abs=0.25 * drift**2 + 0.002)


def test_a_bootstrap_over_tiles_has_this_variance() -> None:
    """Tiles drawn with replacement and a flip for all of them: the mean square deviation has the closed form."""
    rng = np.random.default_rng(1)
    weight = np.full(10, 6.0)
    change = rng.normal(0.4, 1.5, (3, 10))
    n = 40  # tiles of the whole image
    drawn = rng.integers(0, 10, (60_000, n))
    flips = rng.integers(0, 3, (60_000, 1))
    simulated = (change[flips, drawn].sum(axis=1) ** 2).mean()
    drift, noise = disagreement(change, weight)
    total = n * 6.0
    chance = noise / weight.sum()  # what the plain bootstrap adds to the drift, and we take away
    assert simulated == pytest.approx((drift + chance) * total**2 + noise * total * 0.9, rel=0.03)


def test_the_spread_grows_with_what_is_not_sure() -> None:
    spread = Spread(drift=0.01, noise=0.5, tiles=4)
    assert spread.of(96, None) == pytest.approx(np.sqrt(0.01 * 100**2 + 0.5 * 100 + 0.25))
    assert spread.of(96, [0.5] * 40) ** 2 == pytest.approx(spread.of(96, None) ** 2 + 10)
    assert spread.of(96, [1.0] * 40) == spread.of(96, None)
    assert spread.of(0, [], part=0.0) == 0.5


def test_parts_of_an_image() -> None:
    true = scattered(0, (200, 260), 25)
    found = count(dots_picture(true), dots_model(net_class=Leaning), device="cpu")
    assert found.spread is not None
    left = np.zeros((200, 260), bool)
    left[:, :130] = True
    one, other = found.within(left), found.within(~left)
    assert one[0] + other[0] == pytest.approx(found.count, rel=1e-5)
    whole = found.within(np.ones_like(left))
    assert whole[0] == pytest.approx(found.count, rel=1e-6)
    assert whole[1] == pytest.approx(found.spread.of(found.count, found.points.confidence), rel=1e-6)
    assert max(one[1], other[1]) < whole[1]
    assert found.within(np.zeros_like(left)) == (0, 0.5)
    with pytest.raises(InputError, match="same size"):
        found.within(left.T)


def test_parts_of_an_image_of_objects(tiny_model: Segmenter, domes: Domes) -> None:
    picture, labels = domes(0, (150, 200), 12)
    found = count(picture, tiny_model, device="cpu")
    assert found.within(labels > 0)[0] == 12
    assert found.within(labels == 3)[0] == 1
    assert found.within(labels == 0)[0] == 0


# --- where not to believe it ----------------------------------------------------------------------------------


def carpet(seed: int, shape: tuple[int, int], top: int) -> Any:
    """Grainy rows from `top` on, in an even picture with a little noise: a dense layer."""
    rng = np.random.default_rng(seed)
    picture = rng.normal(0, 0.02, shape)
    picture[top:] += gaussian_filter(rng.normal(size=shape), 2)[top:] * 4
    return picture.astype(np.float32)


def test_a_layer_in_which_no_cell_is_found_is_crowded() -> None:
    picture = carpet(0, (320, 400), 200)
    found = crowded(picture, scattered(0, (160, 400), 20))
    assert found.shape == picture.shape
    assert found.dtype == np.bool_
    assert found[216:].mean() > 0.95
    assert found[:160].mean() == 0
    everywhere = scattered(1, picture.shape, 200)
    assert crowded(picture, everywhere).mean() < 0.01
    assert crowded(picture, Points(np.empty((0, 2))))[216:].all()
    assert not crowded(picture, Points(np.empty((0, 2))), covered=np.ones(picture.shape, bool)).any()


def test_cells_that_are_found_are_not_crowded(domes: Domes) -> None:
    picture, labels = domes(0, (300, 300), 40)
    middles = Points.from_labels(labels)
    assert not crowded(picture.astype(np.float32), middles, labels > 0).any()


def test_the_share_is_named() -> None:
    blind = dots_model().with_(representation=Heatmap(threshold=1.0))
    found = count(carpet(0, (320, 400), 200), blind, device="cpu", interval=None)
    assert len(found.points) == 0
    assert 0.3 < found.crowded.mean() < 0.4
    share = round(100 * float(found.crowded.mean()))
    assert found.remarks == (f"{share} % of the image is so dense that single cells cannot be told",)
    assert (found.crowded <= found.unsure).all()


def test_density_that_no_cell_explains_is_unresolved() -> None:
    points, heatmap = scattered(0, (200, 200), 20), Heatmap()
    density = heatmap.encode(points)[0]
    assert not unresolved(density, density).any()
    fewer = points[1:]
    found = unresolved(density, heatmap.encode(fewer)[0])
    row, column = np.rint(points.positions[0]).astype(int)
    assert found[row, column]
    assert found.sum() < 60**2
    for y, x in np.rint(fewer.positions).astype(int):
        assert not found[y, x] or np.hypot(y - row, x - column) < 40
    plain = np.full_like(density, 1 / 600)  # as dense as a confluent layer, without any maximum
    assert unresolved(plain, np.zeros_like(plain))[20:-20, 20:-20].all()


def test_objects_with_little_confidence_are_unsure(tiny_model: Segmenter, domes: Domes) -> None:
    from cellweave.models import Calibration

    picture = domes(0, (150, 200), 12)[0]
    sure = count(picture, tiny_model.with_(calibration=Calibration(0.0, 3.0)), device="cpu")
    assert not sure.unsure.any()
    doubtful = count(picture, tiny_model.with_(calibration=Calibration(0.0, -3.0)), device="cpu")
    assert doubtful.labels is not None
    assert np.array_equal(doubtful.unsure, doubtful.labels > 0)
