"""Targets are made once, at the training diameter, and kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from cellweave.core.errors import InputError, WriteError
from cellweave.core.image import Image
from cellweave.core.labels import median_diameter
from cellweave.core.points import Points
from cellweave.core.progress import showing
from cellweave.prep import Channels, Normalisation
from cellweave.prep.rescale import resize
from cellweave.representations import DiffusionFlows, PointRepresentation
from cellweave.representations.base import Maps
from cellweave.train.samples import (
    COLOURS,
    LARGEST_VALUE,
    LARGEST_ZOOM,
    Example,
    Preparation,
    Samples,
    load,
    prepare,
    prepare_one,
)

PREPARATION = Preparation(24.0, Channels(), Normalisation(), DiffusionFlows())


@pytest.fixture
def examples(domes: Callable[..., Any]) -> list[Example]:
    """Cells of 24, 12 and 48 px, and an image without any."""
    made = []
    for k, size in enumerate((24, 12, 48)):
        picture, labels = domes(k, (5 * size, 6 * size), 5, size)
        made.append(Example(f"size{size}", Image(picture[None]), labels, "round"))
    empty = np.random.default_rng(0).integers(90, 110, (100, 80)).astype(np.uint16)
    return [*made, Example("empty", Image(empty[None]), np.zeros((100, 80), np.int32))]


def prepared(examples: list[Example], folder: Path, preparation: Preparation = PREPARATION) -> Samples:
    return prepare(examples, preparation, folder / "samples.f16")


def test_examples_are_resized_to_the_training_diameter(examples: list[Example], tmp_path: Path) -> None:
    samples = prepared(examples, tmp_path / "cache")
    assert [(s.name, s.group) for s in samples.facts] == [(e.name, e.group) for e in examples]
    assert samples.values.dtype == np.float16
    for k in range(3):
        array = samples.array(k)
        assert array.shape == (COLOURS + 3, *samples.facts[k].shape)
        np.testing.assert_allclose(array.shape[1:], (120, 144), atol=6)
    assert samples.array(3).shape == (COLOURS + 3, 100, 80)  # at the zoom of the median of the others
    assert not samples.array(3)[COLOURS:].any()
    assert samples.starts[-1] == len(samples.values)


def test_a_sample_holds_normalised_pixels_and_maps(examples: list[Example], tmp_path: Path) -> None:
    picture, labels = examples[0].image.read(), examples[0].labels
    exact = replace(PREPARATION, diameter=median_diameter(labels))  # zoom 1
    array = prepared(examples[:1], tmp_path, exact).array(0)
    normalisation = Normalisation()
    pixels = normalisation.apply(picture, normalisation.limits(examples[0].image))
    np.testing.assert_allclose(array[0], pixels[0], atol=2e-3)
    assert not array[1:COLOURS].any()
    np.testing.assert_allclose(array[COLOURS:], DiffusionFlows().encode(labels), atol=1e-3)


def test_zoomed_pixels_are_those_that_prediction_sees(examples: list[Example], tmp_path: Path) -> None:
    """Training and prediction must prepare an image in one way."""
    import torch

    from cellweave.models import Segmenter
    from cellweave.nets import FastUNet
    from cellweave.predict.maps import Planes
    from cellweave.prep import Resampling

    samples = prepared(examples[1:2], tmp_path)
    torch.manual_seed(0)
    model = Segmenter(FastUNet(widths=(2, 2, 2, 2)), DiffusionFlows(), 24.0)
    planes = Planes(examples[1].image, model, None)
    height, width = samples.facts[0].shape
    seen = planes.read(
        Resampling(planes.height, height), Resampling(planes.width, width), slice(0, height), slice(0, width)
    )
    trained = np.einsum("pc,cyx->pyx", samples.facts[0].weights, samples.array(0)[:COLOURS].astype(np.float32))
    np.testing.assert_allclose(trained, seen, atol=3e-3)
    np.testing.assert_allclose(trained[0], resize(planes.read(*identity(planes)), height, width)[0], atol=3e-3)


def identity(planes: Any) -> tuple[Any, ...]:
    from cellweave.prep import Resampling

    return (
        Resampling(planes.height, planes.height),
        Resampling(planes.width, planes.width),
        slice(0, planes.height),
        slice(0, planes.width),
    )


def test_targets_are_made_once(examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepared(examples, tmp_path)
    times = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    monkeypatch.setattr(DiffusionFlows, "encode", lambda *_: pytest.fail("targets were made again"))
    second = prepared(examples, tmp_path)
    assert np.array_equal(first.values, second.values)
    assert first.facts == second.facts
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == times


def test_any_change_makes_new_targets(examples: list[Example], tmp_path: Path) -> None:
    """What is there is replaced: one file, whatever was prepared before."""
    example = examples[0]
    pixels, labels = example.image.read().copy(), example.labels.copy()
    pixels[0, 0, 0] += 1
    labels[0, 0] = 1
    changed: list[tuple[Example, Preparation]] = [
        (example, PREPARATION),
        (replace(example, image=Image(pixels)), PREPARATION),
        (replace(example, labels=labels), PREPARATION),
        (replace(example, image=Image(example.image.read().astype(np.int32))), PREPARATION),
        (replace(example, name="other"), PREPARATION),
        (replace(example, group="other"), PREPARATION),
        (example, replace(PREPARATION, diameter=30.0)),
        (example, replace(PREPARATION, normalisation=Normalisation(lower=2.0))),
        (example, replace(PREPARATION, representation=DiffusionFlows(center="box"))),
        (example, replace(PREPARATION, channels=Channels.parse("merged"))),
    ]
    keys = []
    for one, preparation in changed:
        samples = prepared([one], tmp_path, preparation)
        assert (samples.facts[0].name, samples.facts[0].group) == (one.name, one.group)
        keys.append(json.loads((tmp_path / "samples.json").read_text())["key"])
    assert len(set(keys)) == len(keys)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "no facts", "damaged facts"])
def test_a_damaged_cache_is_made_again(examples: list[Example], tmp_path: Path, damage: str) -> None:
    first = np.array(prepared(examples, tmp_path).values)
    file, facts = tmp_path / "samples.f16", tmp_path / "samples.json"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-4])
    elif damage == "no facts":
        facts.unlink()
    else:
        facts.write_text(facts.read_text()[:-5])
    assert np.array_equal(prepared(examples, tmp_path).values, first)


def test_half_written_targets_are_made_again(
    examples: list[Example], tmp_path: Path, full_disk: Callable[[int], Any]
) -> None:
    with full_disk(5000), pytest.raises(WriteError, match="cannot write"):
        prepared(examples, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(prepared(examples, tmp_path)) == 4


def test_channel_policies_decide_what_is_kept(domes: Callable[..., Any], tmp_path: Path) -> None:
    """The two planes that the policy makes, and its weights for photographs alone."""
    picture, labels = domes(0, (100, 100), 4)
    image = Image(np.stack([picture, np.roll(picture, 9), np.roll(picture, 33)]), channel_names=("a", "b", "c"))
    normalisation = Normalisation()
    pixels = normalisation.apply(image.read(), normalisation.limits(image))
    mixes = {
        "c,a": [[0, 0, 1], [1, 0, 0]],
        "gray:b": [[0, 1, 0], [0, 0, 0]],
        "merged:a,b": [[0.5, 0, 0.5], [0, 0.5, 0.5]],
    }
    for policy, mix in mixes.items():
        preparation = replace(PREPARATION, channels=Channels.parse(policy), diameter=median_diameter(labels))
        samples = prepared([Example("x", image, labels)], tmp_path, preparation)
        assert samples.facts[0].weights == ((1, 0, 0), (0, 1, 0))
        assert not samples.facts[0].stained
        np.testing.assert_allclose(samples.array(0)[:2], np.einsum("pc,cyx->pyx", mix, pixels), atol=2e-3)


def test_only_colour_photographs_are_stained(domes: Callable[..., Any], tmp_path: Path) -> None:
    picture, labels = domes(0, (100, 100), 4)
    gray = (picture // 16).astype(np.uint8)
    coloured = np.stack([gray, gray // 2, gray // 3])
    images = [Image(coloured, color=True), Image(np.stack([gray] * 3), color=True), Image(gray[None])]
    samples = prepared([Example(str(k), image, labels) for k, image in enumerate(images)], tmp_path)
    assert [fact.stained for fact in samples.facts] == [True, False, False]
    assert samples.facts[0].weights == ((0, 1, 0), (0, 0, 1))  # green and blue
    assert all(samples.array(0)[:COLOURS].any(axis=(1, 2)))


def test_tiny_cells_are_not_blown_up_without_end(tmp_path: Path) -> None:
    labels = np.zeros((30, 30), np.int32)
    labels[4, 4], labels[20, 20] = 1, 2
    samples = prepared([Example("dots", Image(np.ones((1, 30, 30)) * labels), labels)], tmp_path)
    assert samples.facts[0].shape == (30 * LARGEST_ZOOM, 30 * LARGEST_ZOOM)


def test_pixels_stay_finite_without_clipping(tmp_path: Path, domes: Callable[..., Any]) -> None:
    """float16 ends at 65504; one hot pixel of a float image can be more than that times the 99th percentile."""
    picture, labels = domes(0, (100, 100), 4)
    pixels = picture[None].astype(np.float64)
    pixels[0, 0, 0] = 1e12
    preparation = replace(PREPARATION, normalisation=Normalisation(clip=None))
    samples = prepared([Example("hot", Image(pixels), labels)], tmp_path, preparation)
    assert np.isfinite(samples.values).all()
    assert samples.values.max() == np.float16(LARGEST_VALUE)


def test_nan_pixels_become_background(tmp_path: Path, domes: Callable[..., Any]) -> None:
    picture, labels = domes(0, (100, 100), 4)
    pixels = picture[None].astype(np.float32)
    pixels[0, :10] = np.nan
    samples = prepared([Example("x", Image(pixels), labels)], tmp_path)
    assert np.isfinite(samples.values).all()


def test_an_image_and_labels_of_different_shape_are_named(examples: list[Example], tmp_path: Path) -> None:
    bad = replace(examples[1], labels=examples[0].labels)
    with pytest.raises(InputError, match="size12: the image is 60 x 72 px, its labels 120 x 144"):
        prepared([examples[0], bad], tmp_path)


@dataclass(frozen=True)
class Spots(PointRepresentation):
    """One at the pixel of each cell, and its confidence beside."""

    map_names: ClassVar[tuple[str, ...]] = ("spot", "confidence")

    def encode(self, points: Points) -> Maps:
        assert points.shape is not None
        maps = np.zeros((2, *points.shape), np.float32)
        rows, columns = np.rint(points.positions).astype(int).T
        maps[0, rows, columns] = 1
        maps[1, rows, columns] = 1 if points.confidence is None else points.confidence
        return maps

    loss = from_output = transform = decode = count = None  # what preparing does not need


SPOTS = replace(PREPARATION, diameter=0.0, representation=Spots())


def clicked(**changes: Any) -> Example:
    positions = np.array([[3.0, 4.0], [39.4, 59.4], [-0.5, 20.0]])
    points = Points(positions, np.array(["live", "dead-debris", "live"]), np.array([0.5, 1, 1]), (40, 60))
    pixels = np.random.default_rng(0).integers(0, 99, (1, 40, 60)).astype(np.uint8)
    return replace(Example("clicked", Image(pixels), points), **changes)


def test_points_are_learned_at_the_size_of_their_image(tmp_path: Path) -> None:
    example = clicked()
    assert (example.diameter, example.n_cells) == (0, 2)
    array = prepared([example], tmp_path, SPOTS).array(0)
    assert array.shape == (COLOURS + 2, 40, 60)
    assert np.argwhere(array[COLOURS]).tolist() == [[0, 20], [3, 4], [39, 59]]
    assert array[COLOURS + 1, 3, 4] == 0.5


def test_points_move_with_the_zoom() -> None:
    for zoom in (0.5, 1.0, 2.0, 3.3):
        sample = prepare_one(clicked(), SPOTS, zoom)
        height, width = sample.facts[0].shape
        spots = np.argwhere(sample.array(0)[COLOURS])
        np.testing.assert_allclose(spots, [[0, 20.5 * zoom], [3.5 * zoom, 4.5 * zoom], [height, width]], atol=1)


def test_labels_are_points_at_their_centroids(examples: list[Example], tmp_path: Path) -> None:
    example = examples[0]
    array = prepared([example], tmp_path, SPOTS).array(0)
    assert array.shape[1:] == example.outlines.shape
    rows, columns = np.nonzero(array[COLOURS])
    assert set(example.outlines[rows, columns].tolist()) == set(range(1, example.n_cells + 1))


@pytest.mark.parametrize("kind", ["labels", "points"])
def test_where_no_one_looked_targets_are_nan(examples: list[Example], tmp_path: Path, kind: str) -> None:
    example, preparation = (examples[1], PREPARATION) if kind == "labels" else (clicked(), SPOTS)
    known = np.ones((example.image.height, example.image.width), bool)
    known[:, 30:] = False
    array = prepared([replace(example, known=known)], tmp_path, preparation).array(0)
    edge = 30 * array.shape[2] // known.shape[1]
    assert np.isnan(array[COLOURS:, :, edge:]).all()
    assert np.isfinite(array[COLOURS:, :, :edge]).all()
    assert np.isfinite(array[:COLOURS]).all()
    whole = prepared([replace(example, known=np.ones_like(known))], tmp_path, preparation).array(0)
    assert np.array_equal(whole[:, :, :edge], array[:, :, :edge])


def test_points_and_known_regions_make_new_targets(tmp_path: Path) -> None:
    known = np.ones((40, 60), bool)
    other = known.copy()
    other[0, 0] = False
    points = clicked().positions
    changed = [
        clicked(),
        clicked(known=known),
        clicked(known=other),
        clicked(labels=points[:2]),
        clicked(labels=Points(points.positions, points.classes, None, points.shape)),
        clicked(labels=Points(points.positions, np.array(["live"] * 3), points.confidence, points.shape)),
    ]
    keys = []
    for example in changed:
        prepared([example], tmp_path, SPOTS)
        keys.append(json.loads((tmp_path / "samples.json").read_text())["key"])
    assert len(set(keys)) == len(keys)


def test_truths_that_do_not_fit_are_named(examples: list[Example], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"clicked: .* 40 x 60 px, its points 40 x 70"):
        prepared([clicked(labels=Points(np.ones((1, 2)), shape=(40, 70)))], tmp_path, SPOTS)
    with pytest.raises(InputError, match=r"clicked: .* its known region 3 x 3"):
        prepared([clicked(known=np.ones((3, 3), bool))], tmp_path, SPOTS)
    with pytest.raises(InputError, match=r"clicked: points tell no outlines"):
        prepared([clicked()], tmp_path)
    with pytest.raises(InputError, match="no labelled cell"):
        prepared([clicked(labels=clicked().positions.of("dead-debris"))], tmp_path, SPOTS)


def test_nothing_but_empty_images_is_refused(examples: list[Example], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no labelled cell"):
        prepared(examples[3:], tmp_path)


def test_progress_names_each_example(examples: list[Example], tmp_path: Path) -> None:
    told: list[tuple[str, int, int, str]] = []
    with showing(lambda *state: told.append(state)):
        prepared(examples, tmp_path)
    assert [note for *_, note in told] == ["size24", "size12", "size48", "empty", ""]
    assert told[-1] == ("preparing targets", 4, 4, "")


def test_samples_are_read_from_disk_only_where_touched(examples: list[Example], tmp_path: Path) -> None:
    samples = prepared(examples, tmp_path)
    base = samples.values.base
    assert isinstance(base, np.memmap)
    before = (tmp_path / "samples.f16").read_bytes()
    samples.values[:] = 7  # a change stays in memory
    assert (tmp_path / "samples.f16").read_bytes() == before
    assert np.array_equal(load(tmp_path / "samples.f16").values, np.frombuffer(before, np.float16).reshape(-1, 6))
