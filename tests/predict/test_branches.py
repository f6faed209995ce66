"""Which model of a Cell Segmenter runs, which one counts, and what the result says of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cell_segmenters import branch, cell_segmenter, sure
from cellweave.core.errors import InputError, ModelError
from cellweave.core.image import Image
from cellweave.core.labels import median_diameter
from cellweave.models import CellSegmenter
from cellweave.predict import Branch, branches, estimate_diameter, predict_maps, segment
from cellweave.predict.maps import maps_at
from cellweave.predict.quality import quality
from cellweave.representations import DistanceFlows


@pytest.fixture(scope="module")
def system() -> CellSegmenter:
    return cell_segmenter()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that run."""
    names: list[str] = []

    def watched(image: Image, models: Any, **options: Any) -> Any:
        names.append(models[0].name)
        return maps_at(image, models, **options)

    monkeypatch.setattr(branches, "maps_at", watched)
    return names


def stained(domes: Callable[..., Any]) -> Image:
    """A photograph of violet cells on white."""
    depth = (domes(1)[0].astype(np.float64) - 100) / 900
    return Image.from_array((255 * np.exp(-depth[..., None] * (0.9, 1.5, 0.5))).astype(np.uint8))


def colours(domes: Callable[..., Any]) -> Image:
    """A photograph of green cells on black."""
    green = (domes(1)[0] // 4).astype(np.uint8)
    return Image.from_array(np.stack([green // 8, green, green[::-1] // 2], axis=-1))


def gray(domes: Callable[..., Any]) -> Image:
    picture: NDArray[np.uint16] = domes(1)[0]
    return Image(picture[None])


def with_qualities(awf: float, omni: float) -> CellSegmenter:
    return CellSegmenter({"general": sure(branch(0), awf), "omnipose": sure(branch(2, DistanceFlows()), omni)})


@pytest.mark.parametrize(
    ("awf", "omni", "name", "said"),
    [
        (0.93, 0.60, "general", "it has 0.8 or more"),
        (0.93, 0.97, "general", "omnipose is not over 0.05 above it"),
        (0.90, 0.96, "omnipose", "the difference is over 0.05"),
        (0.79, 0.60, "omnipose", "that of general is under 0.8"),
        (0.79, 0.99, "omnipose", "that of general is under 0.8"),
        (0.51, 0.30, "omnipose", "that of general is under 0.8"),
        (0.30, 0.70, "general", "general sees no cell, and omnipose is not sure"),
        (0.30, 0.90, "omnipose", "general sees no cell, and omnipose is sure"),
    ],
)
def test_the_surer_branch_counts(
    domes: Callable[..., Any], ran: list[str], awf: float, omni: float, name: str, said: str
) -> None:
    result = segment(gray(domes), with_qualities(awf, omni), device="cpu")
    assert ran == ["branch 0", "branch 2"]
    assert result.branch is not None
    assert (result.branch.modality, result.branch.name) == ("grayscale", name)
    expected = {key: p if p > 0.5 else 0.0 for key, p in (("general", awf), ("omnipose", omni))}
    assert result.branch.quality == pytest.approx(expected, abs=0.004)  # half precision
    assert said in result.branch.why
    assert f"{result.branch.quality['general']:.3f}" in result.branch.why
    assert f"{result.branch.quality['omnipose']:.3f}" in result.branch.why
    assert type(result.model.representation).__name__ == {"general": "WatershedEnergy"}.get(name, "DistanceFlows")


def test_thresholds_are_those_of_the_system(domes: Callable[..., Any]) -> None:
    system = replace(with_qualities(0.7, 0.79), lowest=0.6, margin=0.2)
    result = segment(gray(domes), system, device="cpu")
    assert result.branch is not None
    assert result.branch.name == "general"
    assert "it has 0.6 or more, and omnipose is not over 0.2 above it" in result.branch.why


@pytest.mark.parametrize("which", [gray, stained, colours])
def test_the_result_is_that_of_the_branch(
    system: CellSegmenter, domes: Callable[..., Any], which: Callable[..., Image]
) -> None:
    image = which(domes)
    result = segment(image, system, device="cpu")
    assert isinstance(result.branch, Branch)
    assert result.model is system.branches[result.branch.name]
    assert result.count > 3
    assert np.array_equal(result.model.representation.decode(result.maps), result.labels)
    assert np.array_equal(predict_maps(image, result.model, device="cpu"), result.maps)
    alone = segment(image, result.model, device="cpu")
    assert alone.branch is None
    assert np.array_equal(alone.labels, result.labels)
    assert np.array_equal(alone.confidence, result.confidence)
    foreground = result.maps[result.model.representation.map_names.index("probability")]
    assert result.branch.quality[result.branch.name] == quality(foreground)


def test_each_kind_of_image_has_its_model(system: CellSegmenter, domes: Callable[..., Any], ran: list[str]) -> None:
    """The Omnipose branch runs on grayscale images alone."""
    found = [segment(which(domes), system, device="cpu").branch for which in (colours, stained)]
    assert ran == ["branch 1", "branch 0"]
    assert [(b.modality, b.name) for b in found if b] == [("fluorescence", "fluorescence"), ("brightfield", "general")]
    for b in found:
        assert b is not None
        assert list(b.quality) == [b.name]
        assert b.why.startswith(f"{b.modality} image, as ")
        assert f"{b.name} is the only branch for such images" in b.why


def test_without_an_omnipose_branch_one_model_runs(domes: Callable[..., Any], ran: list[str]) -> None:
    system = CellSegmenter({"general": sure(branch(0), 0.6), "grayscale": sure(branch(1), 0.6)})
    result = segment(gray(domes), system, device="cpu")
    assert ran == ["branch 1"]
    assert result.branch is not None
    assert (result.branch.name, list(result.branch.quality)) == ("grayscale", ["grayscale"])


def test_an_image_too_large_for_one_of_the_branches_runs_none(
    domes: Callable[..., Any], ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DistanceFlows, "most_pixels", 100)
    with pytest.raises(InputError, match="too large to decode at once"):
        segment(gray(domes), with_qualities(0.93, 0.6), device="cpu")
    assert ran == []


def test_a_saved_system_by_its_folder(system: CellSegmenter, domes: Callable[..., Any], tmp_path: Any) -> None:
    system.save(tmp_path / "m")
    expected = segment(gray(domes), system, device="cpu")
    for model in (tmp_path / "m", str(tmp_path / "m")):
        assert np.array_equal(segment(gray(domes), model, device="cpu").labels, expected.labels)


def test_options_reach_the_branches(system: CellSegmenter, domes: Callable[..., Any]) -> None:
    image = Image(np.concatenate([gray(domes).read(), gray(domes).read()[:, ::-1]]))
    plain = segment(image, system, device="cpu")
    flipped = segment(image, system, device="cpu", augment=True)
    other = segment(image, system, device="cpu", channels="color:2,1")
    assert plain.branch
    assert flipped.branch
    assert not np.array_equal(plain.maps, flipped.maps)
    assert not np.array_equal(plain.maps, other.maps)
    least = float(plain.confidence.max())
    fewer = segment(image, system, device="cpu", min_confidence=least)
    assert fewer.branch == plain.branch
    assert 0 < fewer.dropped == plain.count - fewer.count


def test_a_diameter_is_not_used_and_that_is_told_once(
    system: CellSegmenter, domes: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    once = CellSegmenter(system.branches, name="told once")
    without = segment(gray(domes), once, device="cpu")
    with caplog.at_level(logging.INFO):
        results = [segment(gray(domes), once, diameter=d, device="cpu") for d in (10, "80")]
    told = [r.getMessage() for r in caplog.records if "diameter" in r.getMessage()]
    assert told == ["model told once finds cells of any size: the diameter that was given is not used"]
    for result in results:
        assert np.array_equal(result.labels, without.labels)
        assert result.diameter == without.diameter == median_diameter(without.labels)
    with pytest.raises(InputError, match="not a positive size"):
        segment(gray(domes), once, diameter="large", device="cpu")


def test_the_diameter_of_a_branch_that_has_one_is_told(domes: Callable[..., Any]) -> None:
    sized = branch(2, DistanceFlows()).with_(diameter=30.0)
    system, image = CellSegmenter({"general": sized}), gray(domes)
    result = segment(image, system, device="cpu")
    assert result.diameter == estimate_diameter(image, sized, device="cpu")
    assert segment(image, system, diameter=25, device="cpu").diameter == 25


def test_one_image_has_no_single_maps(system: CellSegmenter, domes: Callable[..., Any]) -> None:
    image = gray(domes)
    for call in (
        lambda: predict_maps(image, system),
        lambda: predict_maps(image, [system]),
        lambda: estimate_diameter(image, system),
        lambda: segment(image, [system, system]),
    ):
        with pytest.raises(ModelError, match=r"use segment, or give one of its branches \(fluorescence, general, omni"):
            call()
    assert predict_maps(image, system.branches["general"], device="cpu").shape[0] == 5


def test_channels_for_other_nets_are_told(system: CellSegmenter, domes: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=r"channels 'gray' give 2 planes, .* branch 0 looks at 3; write color"):
        segment(gray(domes), system, channels="gray", device="cpu")


@pytest.mark.parametrize(
    "image",
    [
        np.array([[7]], np.uint8),
        np.zeros((1, 300), np.uint8),
        np.full((50, 60), np.nan, np.float32),
        np.full((40, 40, 3), 255, np.uint8),
        np.random.default_rng(0).random((60, 70)) * 1e300,
    ],
)
def test_odd_images(system: CellSegmenter, image: NDArray[Any]) -> None:
    result = segment(image, system, device="cpu")
    assert result.branch is not None
    assert result.labels.shape == image.shape[:2]
    assert np.isfinite(list(result.branch.quality.values())).all()
    assert len(result.table["id"]) == result.count


def test_a_stack_asks_for_a_plane(system: CellSegmenter) -> None:
    with pytest.raises(InputError, match="3 depths"):
        segment(Image(np.zeros((3, 1, 40, 40)).transpose(1, 0, 2, 3), "CZYX"), system, device="cpu")
