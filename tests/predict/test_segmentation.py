"""`segment`: cells out of any image, at a diameter that is given, estimated and refined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellweave.core.errors import InputError, ModelError
from cellweave.core.image import Image
from cellweave.metrics import match
from cellweave.models import Calibration, Segmenter
from cellweave.predict import Segmentation, estimate_diameter, maps, parse_diameter, predict_maps, segment
from cellweave.predict.maps import Planes, Runner
from cellweave.prep import channels


def test_finds_the_cells(tiny_model: Segmenter, domes: Callable[..., Any]) -> None:
    picture, truth = domes(0, (200, 260), 25)
    result = segment(picture, tiny_model, device="cpu")
    assert match(truth, result.labels, iou=0.9).tp == truth.max() == result.count == 25
    assert result.labels.dtype == np.int32
    assert result.labels.shape == picture.shape
    assert np.array_equal(np.unique(result.labels), np.arange(26))


def test_the_result_holds_together(tiny_model: Segmenter, domes: Callable[..., Any]) -> None:
    picture, _ = domes(1)
    image = Image(picture[None], pixel_size_um=(0.5, 0.5), channel_names=("DAPI",))
    result = segment(image, tiny_model, device="cpu")
    assert isinstance(result, Segmentation)
    assert result.model is tiny_model
    assert result.diameter == estimate_diameter(image, tiny_model, device="cpu") == pytest.approx(24, rel=0.1)
    assert result.maps.shape == (3, *picture.shape)
    assert np.array_equal(tiny_model.representation.decode(result.maps), result.labels)
    assert np.array_equal(predict_maps(image, tiny_model, diameter=result.diameter, device="cpu"), result.maps)
    assert len(result.confidence) == result.count == result.labels.max()
    assert ((result.confidence > 0) & (result.confidence <= 1)).all()
    table = result.table
    assert len(table["id"]) == result.count
    assert np.array_equal(table["confidence"], result.confidence)
    assert {"area", "diameter", "mean_DAPI", "area_um2"} <= table.keys()


@settings(max_examples=20)
@given(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0])), st.booleans())
def test_a_least_confidence_is_filtering_afterwards(
    tiny_model: Segmenter, domes: Callable[..., Any], least: float, exactly: bool
) -> None:
    model = tiny_model.with_(calibration=Calibration(3.0, -4.0))  # so that some of the domes are doubtful
    picture, _ = domes(1)
    everything = segment(picture, model, device="cpu")
    if exactly:
        least = float(everything.confidence[0])
    result = segment(picture, model, device="cpu", min_confidence=least)
    keep = np.flatnonzero(everything.confidence >= least) + 1
    expected = np.zeros_like(everything.labels)
    for new, old in enumerate(keep, start=1):
        expected[everything.labels == old] = new
    assert np.array_equal(result.labels, expected)
    assert result.labels.dtype == np.int32
    assert np.array_equal(result.confidence, everything.confidence[keep - 1])
    assert (result.count, result.dropped) == (len(keep), everything.count - len(keep))
    assert np.array_equal(result.table["id"], np.arange(1, len(keep) + 1))
    assert np.array_equal(result.table["area"], everything.table["area"][keep - 1])
    assert np.array_equal(result.maps, everything.maps)
    assert result.diameter == everything.diameter


def test_an_image_too_large_to_decode_is_refused_before_the_net_runs(
    tiny_model: Segmenter, domes: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(tiny_model.representation), "most_pixels", 100)
    monkeypatch.setattr(Runner, "_forward", None)
    monkeypatch.setattr(Runner, "look", None)
    with pytest.raises(InputError, match="too large to decode at once"):
        segment(domes(1)[0], tiny_model, device="cpu")


def test_a_calibration_of_one_model_is_not_used_for_several(tiny_model: Segmenter, domes: Callable[..., Any]) -> None:
    model, picture = tiny_model.with_(calibration=Calibration(3.0, -4.0)), domes(1)[0]
    several = segment(picture, [model, model], diameter=24, device="cpu")
    assert several.model.calibration is None
    assert np.array_equal(several.confidence, segment(picture, tiny_model, diameter=24, device="cpu").confidence)


def test_a_photograph_is_looked_at_once(
    tiny_model: Segmenter, domes: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(maps, "Planes", lambda *a: made.append(Planes(*a)) or made[-1])
    sample, sampled = channels._sample, list[Image]()
    monkeypatch.setattr(channels, "_sample", lambda image: sampled.append(image) or sample(image))
    picture = (domes(1)[0] // 5).astype(np.uint8)
    image = Image.from_array(np.stack([picture // 2, picture, picture[::-1]], axis=-1))
    assert segment(image, tiny_model, device="cpu").count > 0
    assert (len(made), len(sampled)) == (1, 1)


def test_a_least_confidence_leaves_some_and_drops_some(tiny_model: Segmenter, domes: Callable[..., Any]) -> None:
    picture, _ = domes(1)
    confidence = segment(picture, tiny_model, device="cpu").confidence
    middle = float(np.median(confidence))
    result = segment(picture, tiny_model, device="cpu", min_confidence=middle)
    assert 0 < result.dropped < len(confidence)
    assert result.confidence.min() >= np.float32(middle)


@pytest.mark.parametrize("least", [-0.1, 1.5, float("nan")])
def test_a_least_confidence_is_a_probability(tiny_model: Segmenter, least: float) -> None:
    with pytest.raises(InputError, match=r"min_confidence is .* between 0 and 1"):
        segment(np.zeros((8, 8)), tiny_model, device="cpu", min_confidence=least)


def test_another_threshold_needs_no_second_run(tiny_model: Segmenter, domes: Callable[..., Any]) -> None:
    from cellweave.representations import DiffusionFlows

    result = segment(domes(2)[0], tiny_model, device="cpu")
    strict = DiffusionFlows(probability_threshold=0.999).decode(result.maps)
    assert 0 < (strict > 0).sum() < (result.labels > 0).sum()


@pytest.mark.parametrize("size", [12.0, 48.0])
def test_without_a_diameter_it_is_estimated(tiny_model: Segmenter, domes: Callable[..., Any], size: float) -> None:
    """Also by a model without a size model."""
    picture, truth = domes(3, (round(12 * size), round(14 * size)), 30, size)
    result = segment(picture, tiny_model, device="cpu")
    assert result.diameter == pytest.approx(size, rel=0.2)
    assert match(truth, result.labels, iou=0.8).tp == truth.max()


def test_a_given_diameter_is_not_changed(tiny_model: Segmenter, domes: Callable[..., Any]) -> None:
    picture, _ = domes(3, (200, 200), 12, 36)
    assert segment(picture, tiny_model, diameter=24, device="cpu").diameter == 24


def test_diameters_in_text(tiny_model: Segmenter, domes: Callable[..., Any]) -> None:
    image = Image(domes(4)[0][None], pixel_size_um=(0.5, 0.5))
    in_um, in_px = (segment(image, tiny_model, diameter=text, device="cpu") for text in ("12um", "24"))
    assert in_um.diameter == in_px.diameter == 24
    assert np.array_equal(in_um.labels, in_px.labels)


@pytest.mark.parametrize(
    ("text", "pixels"),
    [
        (None, None),
        (30, 30),
        (17.5, 17.5),
        (np.float32(8), 8),
        ("30", 30),
        (" 30.5 px ", 30.5),
        ("1e1", 10),
        ("12um", 24),
        ("12 um", 24),
        ("12 UM", 24),
        ("12µm", 24),
        ("12μm", 24),
    ],
)
def test_parse_diameter(text: Any, pixels: float | None) -> None:
    image = Image(np.zeros((1, 4, 4)), pixel_size_um=(0.25, 1.0))  # the geometric mean counts
    assert parse_diameter(text, image) == pixels


@pytest.mark.parametrize("text", ["", "um", "px", "large", "-3", "0", "nan", "inf", "30 mm", "30,5", 0, -1.0, "12umum"])
def test_diameters_that_are_none_are_refused(text: Any) -> None:
    with pytest.raises(InputError, match="not a positive size"):
        parse_diameter(text, Image(np.zeros((1, 4, 4)), pixel_size_um=(0.5, 0.5)))


def test_um_need_a_pixel_size() -> None:
    with pytest.raises(InputError, match=r"slide\.tif does not tell its pixel size"):
        parse_diameter("12um", Image(np.zeros((1, 4, 4)), source="slide.tif"))


@given(st.floats(0.5, 500), st.floats(0.01, 10))
def test_um_are_px_times_the_pixel_size(diameter: float, size: float) -> None:
    image = Image(np.zeros((1, 4, 4)), pixel_size_um=(size, size))
    assert parse_diameter(f"{diameter}um", image) == pytest.approx(diameter / size)


def odd_images() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    noise = rng.random((60, 70)).astype(np.float32)
    some_nan, some_inf = noise.copy(), noise.copy()
    some_nan[10:30, 10:30] = np.nan
    some_inf[5], some_inf[7] = np.inf, -np.inf
    return {
        "one pixel": np.array([[7]], np.uint8),
        "one row": rng.integers(0, 255, (1, 500)).astype(np.uint8),
        "one column": rng.integers(0, 255, (500, 1)).astype(np.uint8),
        "constant": np.full((50, 60), 9, np.uint16),
        "all zero": np.zeros((50, 60)),
        "all NaN": np.full((50, 60), np.nan, np.float32),
        "some NaN": some_nan,
        "some inf": some_inf,
        "huge numbers": noise.astype(np.float64) * 1e300,
        "tiny numbers": noise.astype(np.float64) * 1e-300,
        "negative": -noise,
        "booleans": noise > 0.5,
        "noise": noise,
        "one hot pixel": np.pad(np.array([[60000]], np.uint16), 30),
        "saturated": np.where(noise > 0.1, 255, 0).astype(np.uint8),
    }


@pytest.mark.parametrize("name", odd_images())
@pytest.mark.parametrize("which", ["tiny_model", "default_model"])
def test_odd_images_have_some_cells_or_none(name: str, which: str, request: pytest.FixtureRequest) -> None:
    image = odd_images()[name]
    before = image.copy()
    result = segment(image, request.getfixturevalue(which), device="cpu")
    assert result.labels.shape == image.shape
    assert result.labels.max() == result.count >= 0
    assert np.isfinite(result.maps).all()
    assert np.isfinite(result.diameter)
    assert result.diameter > 0
    assert len(result.table["id"]) == result.count
    assert np.array_equal(image, before, equal_nan=image.dtype.kind == "f")
    if name in ("one pixel", "constant", "all zero", "all NaN"):
        assert result.count == 0


def test_a_very_long_image(tiny_model: Segmenter, domes: Callable[..., Any]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (3, 40_000)).astype(np.uint8)
    result = segment(image, tiny_model, diameter=24, device="cpu")
    assert result.labels.shape == (3, 40_000)
    assert len(result.table["id"]) == result.count


def test_nan_do_not_spread(tiny_model: Segmenter, domes: Callable[..., Any]) -> None:
    """A dead corner costs the cells in it and none elsewhere."""
    picture, truth = domes(5, (200, 200), 14)
    dead = picture.astype(np.float32)
    dead[:40, :40] = np.nan
    result = segment(dead, tiny_model, device="cpu")
    outside = truth * ~np.isin(truth, truth[:40, :40])
    n = len(np.unique(outside)) - 1
    assert n > 8
    assert match(outside, result.labels, iou=0.8).tp == n


def test_a_few_hot_pixels_change_nothing_elsewhere(tiny_model: Segmenter, domes: Callable[..., Any]) -> None:
    picture, truth = domes(6, (200, 200), 14)
    picture[0, :3] = 65_535
    assert match(truth, segment(picture, tiny_model, device="cpu").labels, iou=0.8).tp == truth.max()


def test_brightness_and_contrast_do_not_matter(tiny_model: Segmenter, domes: Callable[..., Any]) -> None:
    picture, _ = domes(7)
    labels = segment(picture, tiny_model, device="cpu").labels
    assert labels.max() > 5
    for gain, offset in ((1, 7000), (16, 0), (8, 500)):
        assert np.array_equal(segment(picture * gain + offset, tiny_model, device="cpu").labels, labels)


def test_an_unknown_model_is_told(domes: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match="there is no model or model folder 'cyto17'"):
        segment(domes(0)[0], "cyto17")


def test_the_embedded_model_finds_cells_at_any_size(default_model: Segmenter, domes: Callable[..., Any]) -> None:
    """Nobody tells it that the domes are 14 to 60 px wide."""
    for size in (14.0, 30.0, 60.0):
        picture, truth = domes(8, (round(9 * size), round(9 * size)), 25, size)
        result = segment(picture, default_model, device="cpu")
        assert match(truth, result.labels, iou=0.5).tp >= 0.8 * truth.max(), size
        assert result.diameter == pytest.approx(size, rel=0.4)


def test_the_embedded_model_is_the_default(default_model: Segmenter, domes: Callable[..., Any]) -> None:
    picture, _ = domes(9)
    result = segment(picture, device="cpu")
    assert result.model.hash == default_model.hash
    assert np.array_equal(result.labels, segment(picture, default_model, device="cpu").labels)
