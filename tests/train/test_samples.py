"""Targets are made once, at the training diameter, and kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellweave.core.errors import InputError, WriteError
from cellweave.core.image import Image
from cellweave.core.progress import showing
from cellweave.prep import Channels, Normalisation
from cellweave.prep.rescale import resize
from cellweave.representations import DiffusionFlows
from cellweave.train.samples import LARGEST_VALUE, LARGEST_ZOOM, Example, Preparation, Sample, prepare

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


def test_examples_are_resized_to_the_training_diameter(examples: list[Example], tmp_path: Path) -> None:
    samples = prepare(examples, PREPARATION, tmp_path / "cache")
    assert [(s.name, s.group) for s in samples] == [(e.name, e.group) for e in examples]
    for sample in samples[:3]:
        array = sample.open()
        assert array.dtype == np.float16
        assert array.shape[0] == 1 + 3
        np.testing.assert_allclose(array.shape[1:], (120, 144), atol=6)
    assert samples[3].open().shape == (4, 100, 80)  # at the zoom of the median of the others
    assert not samples[3].open()[1:].any()


def test_a_sample_holds_normalised_pixels_and_maps(examples: list[Example], tmp_path: Path) -> None:
    same = replace(PREPARATION, diameter=float(np.median([24])))
    picture, labels = examples[0].image.read(), examples[0].labels
    from cellweave.core.labels import median_diameter

    exact = replace(same, diameter=median_diameter(labels))  # zoom 1
    [sample] = prepare(examples[:1], exact, tmp_path)
    array = sample.open()
    normalisation = Normalisation()
    pixels = normalisation.apply(picture, normalisation.limits(examples[0].image))
    np.testing.assert_allclose(array[0], pixels[0], atol=2e-3)
    np.testing.assert_allclose(array[1:], DiffusionFlows().encode(labels), atol=1e-3)


def test_zoomed_pixels_are_those_that_prediction_sees(examples: list[Example], tmp_path: Path) -> None:
    """Training and prediction must prepare an image in one way."""
    import torch

    from cellweave.models import Segmenter
    from cellweave.nets import FastUNet
    from cellweave.predict.maps import Planes
    from cellweave.prep import Resampling

    [sample] = prepare(examples[1:2], PREPARATION, tmp_path)
    torch.manual_seed(0)
    model = Segmenter(FastUNet(widths=(2, 2, 2, 2)), DiffusionFlows(), 24.0)
    planes = Planes(examples[1].image, model, None)
    height, width = sample.open().shape[1:]
    seen = planes.read(
        Resampling(planes.height, height), Resampling(planes.width, width), slice(0, height), slice(0, width)
    )
    trained = np.einsum("pc,cyx->pyx", sample.weights, sample.open()[:1].astype(np.float32))
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
    first = prepare(examples, PREPARATION, tmp_path)
    times = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    monkeypatch.setattr(DiffusionFlows, "encode", lambda *_: pytest.fail("targets were made again"))
    second = prepare(examples, PREPARATION, tmp_path)
    assert [s.file for s in first] == [s.file for s in second]
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == times


def test_any_change_makes_new_targets(examples: list[Example], tmp_path: Path) -> None:
    def files(example: Example, preparation: Preparation = PREPARATION) -> Path:
        [sample] = prepare([example], preparation, tmp_path)
        return sample.file

    example = examples[0]
    pixels, labels = example.image.read().copy(), example.labels.copy()
    pixels[0, 0, 0] += 1
    labels[0, 0] = 1
    found = [
        files(example),
        files(replace(example, image=Image(pixels))),
        files(replace(example, labels=labels)),
        files(replace(example, image=Image(example.image.read().astype(np.int32)))),
        files(example, replace(PREPARATION, diameter=30.0)),
        files(example, replace(PREPARATION, normalisation=Normalisation(lower=2.0))),
        files(example, replace(PREPARATION, representation=DiffusionFlows(center="box"))),
    ]
    assert len(set(found)) == len(found)
    assert files(replace(example, name="other", group="other")) == found[0]


def test_half_written_targets_are_made_again(
    examples: list[Example], tmp_path: Path, full_disk: Callable[[int], Any]
) -> None:
    with full_disk(5000), pytest.raises(WriteError, match="cannot write"):
        prepare(examples, PREPARATION, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(prepare(examples, PREPARATION, tmp_path)) == 4


def test_channel_policies_are_kept_as_weights(domes: Callable[..., Any], tmp_path: Path) -> None:
    picture, labels = domes(0, (100, 100), 4)
    image = Image(np.stack([picture, picture // 2, picture // 3]), channel_names=("a", "b", "c"))

    def weights(policy: str) -> list[list[float]]:
        preparation = replace(PREPARATION, channels=Channels.parse(policy))
        [sample] = prepare([Example("x", image, labels)], preparation, tmp_path)
        assert sample.open().shape[0] == 3 + 3
        assert not sample.stained
        return sample.weights.tolist()

    assert weights("c,a") == [[0, 0, 1], [1, 0, 0]]
    assert weights("gray:b") == [[0, 1, 0], [0, 0, 0]]
    assert weights("merged:a,b") == [[0.5, 0, 0.5], [0, 0.5, 0.5]]


def test_only_colour_photographs_are_stained(domes: Callable[..., Any], tmp_path: Path) -> None:
    picture, labels = domes(0, (100, 100), 4)
    gray = (picture // 16).astype(np.uint8)
    coloured = np.stack([gray, gray // 2, gray // 3])
    images = [Image(coloured, color=True), Image(np.stack([gray] * 3), color=True), Image(gray[None])]
    samples = prepare([Example(str(k), image, labels) for k, image in enumerate(images)], PREPARATION, tmp_path)
    assert [sample.stained for sample in samples] == [True, False, False]


def test_tiny_cells_are_not_blown_up_without_end(tmp_path: Path) -> None:
    labels = np.zeros((30, 30), np.int32)
    labels[4, 4], labels[20, 20] = 1, 2
    [sample] = prepare([Example("dots", Image(np.ones((1, 30, 30)) * labels), labels)], PREPARATION, tmp_path)
    assert sample.open().shape[1:] == (30 * LARGEST_ZOOM, 30 * LARGEST_ZOOM)


def test_pixels_stay_finite_without_clipping(tmp_path: Path, domes: Callable[..., Any]) -> None:
    """float16 ends at 65504; one hot pixel of a float image can be more than that times the 99th percentile."""
    picture, labels = domes(0, (100, 100), 4)
    pixels = picture[None].astype(np.float64)
    pixels[0, 0, 0] = 1e12
    preparation = replace(PREPARATION, normalisation=Normalisation(clip=None))
    [sample] = prepare([Example("hot", Image(pixels), labels)], preparation, tmp_path)
    assert np.isfinite(sample.open()).all()
    assert sample.open().max() == np.float16(LARGEST_VALUE)


def test_nan_pixels_become_background(tmp_path: Path, domes: Callable[..., Any]) -> None:
    picture, labels = domes(0, (100, 100), 4)
    pixels = picture[None].astype(np.float32)
    pixels[0, :10] = np.nan
    [sample] = prepare([Example("x", Image(pixels), labels)], PREPARATION, tmp_path)
    assert np.isfinite(sample.open()).all()


def test_an_image_and_labels_of_different_shape_are_named(examples: list[Example], tmp_path: Path) -> None:
    bad = replace(examples[1], labels=examples[0].labels)
    with pytest.raises(InputError, match="size12: the image is 60 x 72 px, its labels 120 x 144"):
        prepare([examples[0], bad], PREPARATION, tmp_path)


def test_nothing_but_empty_images_is_refused(examples: list[Example], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no labelled cell"):
        prepare(examples[3:], PREPARATION, tmp_path)


def test_progress_names_each_example(examples: list[Example], tmp_path: Path) -> None:
    told: list[tuple[str, int, int, str]] = []
    with showing(lambda *state: told.append(state)):
        prepare(examples, PREPARATION, tmp_path)
    assert [note for *_, note in told] == ["size24", "size12", "size48", "empty", ""]
    assert told[-1] == ("preparing targets", 4, 4, "")


def test_samples_are_read_from_disk_only_where_touched(examples: list[Example], tmp_path: Path) -> None:
    samples: list[Sample] = prepare(examples, PREPARATION, tmp_path)
    array = samples[0].open()
    assert isinstance(array.base, np.memmap)
    assert not array.flags.writeable
