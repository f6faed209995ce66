"""CIDRE: a known vignette on simulated cells, and what cannot be estimated."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cellweave import simulate
from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.core.progress import showing
from cellweave.prep import cidre, corrected

SIZE = (192, 192)


@cache
def light_of(recipe: str, number: int, frames: int) -> NDArray[np.float32]:
    """(N, Y, X): light of one sample at `frames` places."""
    scene = simulate.scene(recipe, number, seed=7, size=SIZE, diameter=7.0)
    places = [replace(scene, seed=70000 + k) for k in range(frames)]
    return np.stack([place.light(place.geometry())[0][0] for place in places])


def vignette(strength: float = 0.3) -> NDArray[np.float64]:
    rows, columns = np.linspace(-1, 1, SIZE[0])[:, None], np.linspace(-1, 1, SIZE[1])
    gain = np.exp(-strength * ((rows - 0.1) ** 2 + (columns + 0.15) ** 2)) * (1 + 0.05 * rows - 0.08 * columns)
    return np.asarray(gain / gain.mean())


def acquired(light: NDArray[np.float32], gain: NDArray[np.float64], background: float = 0.05) -> list[Image]:
    """Frames of a 16-bit camera: 500 electrons at light 1, read noise, 2000 counts, offset 100."""
    rng = np.random.default_rng(0)
    electrons = rng.poisson(500 * gain * (light + background)) + rng.normal(0, 3, light.shape)
    pixels = np.clip(np.rint(4 * electrons + 100), 0, 65535).astype(np.uint16)
    return [Image(frame[np.newaxis], source=f"{i}.tif") for i, frame in enumerate(pixels)]


def error(found: NDArray[Any], truth: NDArray[Any]) -> float:
    return float(np.sqrt(((found / found.mean() / (truth / truth.mean()) - 1) ** 2).mean()))


# --- a known vignette -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("recipe", "number"), [("nuclei", 1), ("whole_cells", 1), ("tissue_nuclei", 0)])
@pytest.mark.parametrize("strength", [0.15, 0.4])
def test_fifty_dense_frames_within_two_percent(recipe: str, number: int, strength: float) -> None:
    field = cidre(acquired(light_of(recipe, number, 50), vignette(strength)))
    assert error(field.gain[0], vignette(strength)) < 0.02
    assert error(np.ones(SIZE), vignette(strength)) > 0.1
    np.testing.assert_allclose(field.gain.mean(), 1, rtol=1e-4)
    assert field.facts["frames"] == 50


def test_sparse_cells() -> None:
    """One pixel of six is cell, the rest is dim background."""
    images = acquired(light_of("nuclei", 0, 50), vignette())
    field = cidre(images)
    assert error(field.gain[0], vignette()) < 0.02
    assert 80 < field.offset.mean() < 120
    assert error(cidre(images, offset=100.0).gain[0], vignette()) < 0.02


@pytest.mark.parametrize(("recipe", "number"), [("whole_cells", 0), ("multi_reporter", 0)])
@pytest.mark.parametrize("offset", [None, 100.0])
def test_colonies(recipe: str, number: int, offset: float | None) -> None:
    """Where cells lie together, some places see more of them than others in 50 frames; that is not the light."""
    images = acquired(light_of(recipe, number, 50), vignette(), background=0.02)
    field = cidre(images, offset=offset)
    assert error(field.gain[0], vignette()) < (0.02 if offset or recipe == "whole_cells" else 0.04)
    assert 85 < field.offset.mean() < 115


def test_frames_of_different_brightness() -> None:
    """A lamp that flickers, or cells that bleach: cells and background of each frame have a level of their own."""
    light = light_of("whole_cells", 0, 50)
    flicker = np.random.default_rng(1).uniform(0.6, 1.4, (50, 1, 1)).astype(np.float32)
    field = cidre(acquired(light * flicker, vignette(), background=0.02))
    assert error(field.gain[0], vignette()) < 0.03


def test_correction_makes_frames_even() -> None:
    images = acquired(light_of("tissue_nuclei", 0, 50), vignette(0.4))
    field = cidre(images)

    def unevenness(frames: list[Image]) -> float:
        mean = np.mean([frame.read()[0] for frame in frames], axis=0) - 100
        quarters = mean.reshape(4, 48, 4, 48).mean(axis=(1, 3))
        return float(quarters.std() / quarters.mean())

    assert unevenness([corrected(image, field) for image in images]) < 0.3 * unevenness(images)


def test_ten_frames_are_worse_but_useful(caplog: pytest.LogCaptureFixture) -> None:
    images = acquired(light_of("tissue_nuclei", 0, 50), vignette())[:10]
    with caplog.at_level(logging.WARNING):
        found = error(cidre(images).gain[0], vignette())
    assert found < 0.5 * error(np.ones(SIZE), vignette())
    assert "only 10 frames" in caplog.text


def test_even_light_stays_even() -> None:
    field = cidre(acquired(light_of("tissue_nuclei", 0, 50), np.ones(SIZE)))
    assert error(field.gain[0], np.ones(SIZE)) < 0.02


def test_dirty_pixels_and_missing_ones_do_not_matter() -> None:
    images = acquired(light_of("tissue_nuclei", 0, 50), vignette())
    clean = cidre(images)
    spoilt = [Image(image.read().astype(np.float32)) for image in images]
    for i, image in enumerate(spoilt):
        image.data[0, 3 * i : 3 * i + 10, 40:50] = np.nan
    spoilt[7].data[0, 100:120, 100:120] = np.inf
    for image in spoilt:
        image.data[0, 60:62, 60:62] = np.nan  # never seen
    assert error(cidre(spoilt).gain[0], clean.gain[0]) < 0.01


def test_units_do_not_matter() -> None:
    images = acquired(light_of("tissue_nuclei", 0, 50), vignette())
    scaled = [Image(1e-4 * image.read().astype(np.float64)) for image in images]
    one, other = cidre(images), cidre(scaled)
    np.testing.assert_allclose(other.gain, one.gain, atol=2e-3)
    np.testing.assert_allclose(1e4 * other.offset, one.offset, atol=5)


def test_channels_and_times_are_told_apart() -> None:
    light = light_of("tissue_nuclei", 0, 50)
    one, other = (acquired(light, vignette(s)) for s in (0.15, 0.4))
    pairs = np.stack([np.concatenate([a.read(), b.read()]) for a, b in zip(one, other, strict=True)])
    both = cidre([Image(pairs, "TCYX")])
    np.testing.assert_allclose(both.gain[0], cidre(one).gain[0], atol=1e-6)
    np.testing.assert_allclose(both.gain[1], cidre(other).gain[0], atol=1e-6)


# --- what cannot be estimated ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 100])
def test_constant_images_have_gain_one(value: int) -> None:
    field = cidre([Image(np.full((2, 20, 30), value, np.uint16))] * 5)
    np.testing.assert_array_equal(field.gain, 1)
    np.testing.assert_array_equal(field.offset, 0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (5, 7)])
def test_tiny_images(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    field = cidre([Image(rng.integers(0, 100, (1, *shape)).astype(np.uint8)) for _ in range(6)])
    assert field.gain.shape == (1, *shape)
    assert (field.gain > 0).all()


def test_frames_that_are_all_alike_are_the_field() -> None:
    """Empty medium: nothing but the vignette; the offset must be told."""
    images = [Image((1000 * vignette() + 100)[None].astype(np.float32))] * 5
    assert error(cidre(images, offset=100.0).gain[0], vignette()) < 0.02


def test_refuses() -> None:
    images = [Image(np.ones((1, 8, 8)), source=f"{i}.tif") for i in range(4)]
    with pytest.raises(InputError, match=r"odd\.tif"):
        cidre([*images, Image(np.ones((1, 8, 9)), source="odd.tif")])
    with pytest.raises(InputError, match="too few"):
        cidre(images[:2])
    with pytest.raises(InputError, match="no image"):
        cidre([])


def test_images_are_read_one_by_one_and_progress_is_told() -> None:
    opened: list[int] = []

    class Files:
        """Opens a file when it is indexed."""

        def __len__(self) -> int:
            return 6

        def __getitem__(self, number: int) -> Image:
            opened.append(number)
            return Image(np.random.default_rng(number).random((1, 16, 16)), source=f"{number}.tif")

        def __iter__(self) -> Iterator[Image]:
            raise AssertionError("not at once")

    told: list[tuple[str, int, int, str]] = []
    with showing(lambda *report: told.append(report)):
        cidre(Files())  # type: ignore[arg-type]
    assert opened == list(range(6))
    assert told[-1] == ("CIDRE", 6, 6, "5.tif")
