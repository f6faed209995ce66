"""`segment_set`: models by the names of channels, their maps fused; what is missing is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cell_segmenters import branch
from cellweave.core.errors import InputError, ModelError
from cellweave.core.image import Image
from cellweave.fusion import flow_fusion, fuse_instances
from cellweave.metrics import match
from cellweave.models import Calibration, Choice, ModelSet, Segmenter, Training
from cellweave.models.model_set import ANY, AVERAGE, FUSION_METHODS
from cellweave.predict import predict_maps, segment, segment_set
from cellweave.predict.fused import fuse, named, pick_models
from cellweave.predict.maps import Runner
from cellweave.prep import Channels
from cellweave.representations import DiffusionFlows

Domes = Callable[..., tuple[NDArray[np.uint16], NDArray[np.int32]]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: Segmenter) -> ModelSet:
    """Three reporters for nuclei, of which the third is not chosen, two for cells."""
    zoo = ModelSet.create(tmp_path_factory.mktemp("sets") / "zoo")
    for reporter in ("ERK", "AKT", "p38"):
        where = {"object": "nuclei", "cell_line": "U2OS", "reporter": reporter}
        zoo = zoo.add(tiny_model.with_(name=reporter), **where, training=Training(24.0))
    for reporter in ("ERK", "AKT"):
        bigger = tiny_model.with_(diameter=20.0)
        zoo = zoo.add(bigger, object="cells", cell_line="U2OS", reporter=reporter)
    return zoo.choose("nuclei", "U2OS", Choice(("ERK", "AKT")))


@pytest.fixture
def image(domes: Domes) -> Image:
    """Three channels of the same domes, of which the first two lack some each."""
    picture, labels = domes(3, n=10)
    dark = [np.where(np.isin(labels, ids), 100, picture) for ids in ([1, 2], [3], [])]
    return Image(np.stack(dark).astype(np.uint16), channel_names=("ERK", "Akt", "DAPI"))


def alone(image: Image, channel: int) -> Image:
    return Image(image.read()[channel : channel + 1], channel_names=(image.channel_names[channel],))


def test_flow_fusion_is_the_mean_of_the_maps_of_each_channel(image: Image, models: ModelSet) -> None:
    result = segment_set(image, models, cell_line="u2os", objects=["nuclei"], device="cpu")["nuclei"]
    model = models.model(models.keys[0])
    maps = [predict_maps(alone(image, c), model, diameter=24.0, device="cpu") for c in (0, 1)]
    assert np.array_equal(result.maps, flow_fusion(maps))
    labels, scores = model.decode_scored(result.maps)
    assert np.array_equal(result.labels, labels)
    assert np.array_equal(result.confidence, scores)
    assert result.diameter == 24.0
    assert result.count >= 7


@pytest.mark.parametrize("method", [m for m in FUSION_METHODS if m != "flow_fusion"])
def test_other_methods_fuse_the_labels_of_each_channel(image: Image, models: ModelSet, method: str) -> None:
    model = models.model(models.keys[0])
    maps = [predict_maps(alone(image, c), model, diameter=24.0, device="cpu") for c in (0, 1, 2)]
    raters = [model.decode_scored(one) for one in maps]
    labels, confidence, _ = fuse(maps, [model] * 3, method)
    assert np.array_equal(labels, fuse_instances([r for r, _ in raters], method))  # type: ignore[arg-type]
    assert len(confidence) == labels.max()
    for k, sure in enumerate(confidence, start=1):
        share = 0.0
        for rater, scores in raters:
            pair = match(rater, np.where(labels == k, 1, 0), 0.5)
            share += float(scores[pair.truth_ids - 1].sum())
        assert sure == pytest.approx(share / 3, abs=1e-6)


@pytest.mark.parametrize("method", FUSION_METHODS)
def test_a_lone_channel_gives_what_segment_gives(image: Image, models: ModelSet, method: str) -> None:
    expected = segment(alone(image, 0), models.model(models.keys[0]), diameter=24.0, device="cpu")
    chosen = replace(models, choices={("nuclei", "U2OS"): Choice(("ERK",), method)})
    result = segment_set(image, chosen, objects=["nuclei"], device="cpu")["nuclei"]
    assert result.pick is not None
    assert result.pick.reporters == ("ERK",)
    assert np.array_equal(result.labels, expected.labels)
    assert np.array_equal(result.confidence, expected.confidence)


def test_the_order_of_channels_does_not_matter(image: Image, models: ModelSet) -> None:
    expected = segment_set(image, models, device="cpu")
    for order in list(permutations(range(3)))[1:3]:
        turned = Image(image.read()[list(order)], channel_names=tuple(image.channel_names[c] for c in order))
        for name, result in segment_set(turned, models, device="cpu").items():
            assert match(expected[name].labels, result.labels, 0.9).f1 == 1
            np.testing.assert_allclose(result.maps, expected[name].maps, atol=1e-5)


def test_what_was_used_and_what_was_not_is_told(image: Image, models: ModelSet) -> None:
    results = segment_set(image, models, device="cpu")
    assert list(results) == ["nuclei", "cells"]
    nuclei, cells = results["nuclei"].pick, results["cells"].pick
    assert nuclei is not None
    assert cells is not None
    assert nuclei.text == (
        "nuclei of U2OS: flow fusion of ERK, AKT; no model for the channel DAPI; no channel for the model of p38"
    )
    assert cells.text == "cells of U2OS: flow fusion of ERK, AKT; no model for the channel DAPI"


def test_channels_that_are_not_chosen(image: Image, models: ModelSet) -> None:
    renamed = named(image, ["a k t", "p38", "erk"])
    pick = pick_models(renamed, models, "nuclei", "U2OS")
    assert [(r.reporter, r.channel) for r in pick.raters] == [("AKT", 0), ("ERK", 2)]
    assert pick.text == "nuclei of U2OS: flow fusion of AKT, ERK; not in the chosen subset: p38"


def test_a_chosen_channel_that_is_missing(image: Image, models: ModelSet) -> None:
    pick = pick_models(named(image, ["ERK", "", "x"]), models, "nuclei", "U2OS")
    assert pick.reporters == ("ERK",)
    assert pick.text == (
        "nuclei of U2OS: the model for ERK alone; without the chosen AKT; "
        "no model for the channel 2 (without a name), x; no channel for the model of AKT, p38"
    )
    pick = pick_models(named(image, ["p38", "", "x"]), models, "nuclei", "U2OS")
    assert pick.reporters == ("p38",)
    assert "none of the chosen ERK, AKT can be used, so all others are" in pick.text


@pytest.mark.parametrize("value", [0, 700, np.nan, np.inf])
def test_a_channel_without_signal_is_left_out(image: Image, models: ModelSet, value: float) -> None:
    pixels = image.read().astype(np.float32)
    pixels[1] = value
    with_hole = replace(image, data=pixels)
    result = segment_set(with_hole, models, objects=["nuclei"], device="cpu")["nuclei"]
    expected = segment(alone(with_hole, 0), models.model(models.keys[0]), diameter=24.0, device="cpu")
    assert np.array_equal(result.labels, expected.labels)
    assert result.pick is not None
    assert "without the chosen AKT" in result.pick.text
    assert "no signal in Akt" in result.pick.text


def test_one_pixel_is_a_signal(image: Image, models: ModelSet) -> None:
    pixels = np.zeros((3, 200, 130), np.uint16)
    pixels[:, -1, -1] = 1
    pick = pick_models(replace(image, data=pixels), models, "nuclei", "U2OS")
    assert pick.reporters == ("ERK", "AKT")


def test_an_image_without_signal(image: Image, models: ModelSet) -> None:
    with pytest.raises(InputError, match="no signal in ERK, Akt"):
        segment_set(replace(image, data=np.zeros((3, 20, 20))), models, device="cpu")


def test_an_object_that_no_model_can_find_is_left_out(
    image: Image, models: ModelSet, caplog: pytest.LogCaptureFixture
) -> None:
    only = named(image, ["p38", "", "x"])
    assert list(segment_set(only, models, device="cpu")) == ["nuclei"]
    assert "no cells: model set 'zoo' has no model for cells of U2OS with the channels p38" in caplog.text
    with pytest.raises(ModelError, match="no model for cells"):
        segment_set(only, models, objects=["nuclei", "cells"], device="cpu")


def test_a_diameter_of_something_else_is_refused(image: Image, models: ModelSet) -> None:
    with pytest.raises(InputError, match="diameters of nucleus: an object is one of nuclei, cells"):
        segment_set(image, models, diameters={"nucleus": 15}, device="cpu")


def test_names_that_no_model_knows(image: Image, models: ModelSet) -> None:
    with pytest.raises(
        InputError, match=r"x\.tif does not tell the names of its 3 channels.*--reporters.*ERK, AKT, p38"
    ):
        segment_set(replace(image, channel_names=("", "", ""), source="x.tif"), models, device="cpu")
    with pytest.raises(
        ModelError, match=r"no model for nuclei of U2OS with the channels a, b, c of.*it has ERK, AKT, p38"
    ):
        segment_set(named(image, ["a", "b", "c"]), models, device="cpu")
    with pytest.raises(InputError, match="several channels of the name ERK"):
        segment_set(named(image, ["ERK", "erk ", "c"]), models, device="cpu")
    with pytest.raises(InputError, match="3 channels, and these are 2 reporters: ERK,AKT"):
        named(image, ["ERK", "AKT"])
    with pytest.raises(ModelError, match="no models for the cell line 'HeLa'"):
        segment_set(image, models, cell_line="HeLa", device="cpu")


def test_a_diameter_is_one_for_all_models(image: Image, models: ModelSet) -> None:
    result = segment_set(image, models, diameters={"nuclei": "30", "cells": 25}, device="cpu")
    assert (result["nuclei"].diameter, result["cells"].diameter) == (30.0, 25.0)
    estimated = segment_set(image, models, objects=["cells"], device="cpu")["cells"]
    assert 15 < estimated.diameter < 35
    maps = [
        predict_maps(alone(image, c), models.model(models.keys[3]), diameter=estimated.diameter, device="cpu")
        for c in (0, 1)
    ]
    assert np.array_equal(estimated.maps, flow_fusion(maps))


def test_an_image_too_large_to_decode_is_refused_before_a_net_runs(
    image: Image, models: ModelSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DiffusionFlows, "most_pixels", 100)
    monkeypatch.setattr(Runner, "maps", None)
    with pytest.raises(InputError, match="too large to decode at once"):
        segment_set(image, models, objects=["nuclei"], device="cpu")


def test_scores_are_calibrated_where_exactly_the_choice_is_used(image: Image, models: ModelSet) -> None:
    calibration = Calibration(0.5, 1.0)
    chosen = replace(models, choices={("nuclei", "U2OS"): Choice(("akt", "ERK"), calibration=calibration)})
    plain, sure = (segment_set(image, one, objects=["nuclei"], device="cpu")["nuclei"] for one in (models, chosen))
    np.testing.assert_array_equal(sure.confidence, calibration.apply(plain.confidence))
    for names in (["ERK", "p38", "x"], ["ERK", "", "x"]):  # all others, and one alone
        one, other = (
            segment_set(named(image, names), some, objects=["nuclei"], device="cpu")["nuclei"]
            for some in (models, chosen)
        )
        np.testing.assert_array_equal(one.confidence, other.confidence)


def test_each_model_keeps_the_diameter_of_its_training(image: Image, tmp_path: Path, tiny_model: Segmenter) -> None:
    """One that does not know its own gets the median of the others'."""
    zoo = ModelSet.create(tmp_path / "z")
    for name, size in (("ERK", 20.0), ("AKT", 26.0), ("DAPI", None)):
        where = {"object": "nuclei", "cell_line": "U2OS", "reporter": name}
        zoo = zoo.add(tiny_model, **where, training=Training(size))
    result = segment_set(image, zoo, device="cpu")["nuclei"]
    sizes = (20.0, 26.0, 23.0)
    maps = [predict_maps(alone(image, c), tiny_model, diameter=size, device="cpu") for c, size in enumerate(sizes)]
    assert np.array_equal(result.maps, flow_fusion(maps))
    assert result.diameter == 23.0


def test_doubtful_objects_are_left_out(image: Image, models: ModelSet) -> None:
    everything = segment_set(image, models, objects=["nuclei"], device="cpu")["nuclei"]
    middle = float(np.median(everything.confidence))
    result = segment_set(image, models, objects=["nuclei"], device="cpu", min_confidence=middle)["nuclei"]
    assert result.dropped == (everything.confidence < middle).sum() > 0
    assert result.count + result.dropped == everything.count
    with pytest.raises(InputError, match="min_confidence"):
        segment_set(image, models, min_confidence=2)


def test_one_model_for_any_channel(image: Image, tmp_path: Path, tiny_model: Segmenter) -> None:
    universal = ModelSet.create(tmp_path / "u").add(tiny_model, object="nuclei", cell_line="U2OS", reporter=ANY)
    unnamed = replace(image, channel_names=("", "", ""))
    both = [segment_set(one, universal, diameters={"nuclei": 24}, device="cpu")["nuclei"] for one in (image, unnamed)]
    maps = [predict_maps(alone(image, c), tiny_model, diameter=24.0, device="cpu") for c in range(3)]
    for result in both:
        assert np.array_equal(result.maps, flow_fusion(maps))
    assert both[0].pick is not None
    assert both[0].pick.reporters == ("ERK", "Akt", "DAPI")
    chosen = universal.choose("nuclei", "U2OS", Choice(("akt", "dapi")))
    assert pick_models(image, chosen, "nuclei", "U2OS").reporters == ("Akt", "DAPI")


def test_one_model_for_the_average(image: Image, tmp_path: Path, tiny_model: Segmenter) -> None:
    """Of channels that have a signal, each at its own scale."""
    gray = ModelSet.create(tmp_path / "g").add(tiny_model, object="nuclei", cell_line="U2OS", reporter=AVERAGE)
    result = segment_set(image, gray, diameters={"nuclei": 24}, device="cpu")["nuclei"]
    as_photograph = replace(image, color=True)  # of which "gray" is the mean of the channels
    expected = predict_maps(as_photograph, tiny_model, diameter=24.0, channels="gray", device="cpu")
    assert np.array_equal(result.maps, expected)
    brighter = image.read().astype(np.float32) * np.array([1, 50, 3])[:, None, None]
    holed = np.concatenate([brighter, np.zeros_like(brighter[:1])])
    again = segment_set(Image(holed), gray, diameters={"nuclei": 24}, device="cpu")["nuclei"]
    np.testing.assert_allclose(again.maps, result.maps, atol=1e-4)
    assert again.count == result.count >= 9


def test_the_policy_of_a_model_may_name_channels(image: Image, tmp_path: Path, tiny_model: Segmenter) -> None:
    """Its model was trained on such files; here it sees its channel alone."""
    own = tiny_model.with_(channels=Channels.parse("gray:3"))
    zoo = ModelSet.create(tmp_path / "z").add(own, object="nuclei", cell_line="U2OS", reporter="DAPI")
    result = segment_set(image, zoo, diameters={"nuclei": 24}, device="cpu")["nuclei"]
    expected = segment(alone(image, 2), tiny_model, diameter=24.0, device="cpu")
    assert np.array_equal(result.labels, expected.labels)


def test_maps_of_different_kinds_are_not_averaged(tiny_model: Segmenter, image: Image) -> None:
    other = branch(1)  # watershed energies and boxes
    maps = [
        predict_maps(alone(image, 0), tiny_model, diameter=24.0, device="cpu"),
        predict_maps(alone(image, 1), other, device="cpu"),
    ]
    with pytest.raises(
        InputError, match=r"\(DiffusionFlows, WatershedEnergy\) cannot be averaged; choose another method"
    ):
        fuse(maps, [tiny_model, other])
    labels, confidence, first = fuse(maps, [tiny_model, other], "majority_voting")
    assert first is maps[0]
    assert labels.max() == len(confidence)
