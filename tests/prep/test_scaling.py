"""Scaling of a whole acquisition, and CLAHE of lazy images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellweave.core.errors import InputError, ReadError
from cellweave.core.image import Image
from cellweave.models import Segmenter
from cellweave.predict import predict_maps
from cellweave.prep import FlatField, Normalisation, Scaling, clahe, corrected, equalised, measure_scaling


def acquisition() -> list[Image]:
    """Two channels, of which the second is the brighter; the last image is dim."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(500, 100, (4, 2, 40, 50)) * np.array([1, 3])[:, None, None]
    pixels[3] *= 0.2
    return [
        Image(p.clip(0).astype(np.uint16), channel_names=("a", "b"), source=f"{i}.tif") for i, p in enumerate(pixels)
    ]


def test_limits_are_percentiles_of_all_pixels() -> None:
    images = acquisition()
    found = measure_scaling(images)
    expected = np.percentile(np.stack([image.read() for image in images]), [1, 99], axis=(0, 2, 3)).T
    np.testing.assert_allclose(found.limits, expected)
    assert found.channel_names == ("a", "b")
    assert (found.facts["frames"], found.facts["lower"], found.facts["upper"]) == (4, 1.0, 99.0)
    film = Image(np.stack([image.read() for image in images]), "TCYX", channel_names=("a", "b"))
    np.testing.assert_allclose(measure_scaling([film]).limits, expected)
    wide = measure_scaling(images, normalisation=Normalisation(0, 100))
    assert wide.limits[0][1] == max(int(image.read()[0].max()) for image in images)


def test_images_are_scaled_alike(tiny_model: Segmenter) -> None:
    images = acquisition()
    scaling = measure_scaling(images)
    normalisation = Normalisation()
    for image in images:
        scaled = scaling.apply(image)
        limits = normalisation.limits(scaled)
        np.testing.assert_array_equal(limits, scaling.limits)
        np.testing.assert_array_equal(scaled.read(), image.read())
    assert normalisation.apply(images[3].read(), limits).mean() < 0.3
    own = normalisation.apply(images[3].read(), normalisation.limits(images[3]))
    assert 0.4 < own.mean() < 0.6
    options: dict[str, Any] = {"diameter": 24, "channels": "gray:1", "device": "cpu"}
    dim, alone = (predict_maps(image, tiny_model, **options) for image in (scaling.apply(images[3]), images[3]))
    assert np.abs(dim - alone).max() > 0.1


def test_saved_and_loaded(tmp_path: Path) -> None:
    scaling = measure_scaling(acquisition())
    scaling.save(tmp_path / "s.json")
    found = Scaling.load(tmp_path / "s.json")
    assert found == scaling
    assert found.hash == scaling.hash
    content = json.loads((tmp_path / "s.json").read_text())
    content["limits"][0][0] += 1
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(ReadError, match="altered"):
        Scaling.load(tmp_path / "s.json")
    (tmp_path / "s.json").write_text(json.dumps(content | {"format": 99}))
    with pytest.raises(ReadError, match="newer"):
        Scaling.load(tmp_path / "s.json")
    for text in ("", "[]", '{"format": 1}', "\x00"):
        (tmp_path / "s.json").write_text(text)
        with pytest.raises(ReadError, match="no scaling"):
            Scaling.load(tmp_path / "s.json")
    with pytest.raises(ReadError, match="no such file"):
        Scaling.load(tmp_path / "t.json")


def test_refuses() -> None:
    images = acquisition()
    scaling = measure_scaling(images)
    with pytest.raises(InputError, match="no image"):
        measure_scaling([])
    with pytest.raises(InputError, match=r"odd\.tif"):
        measure_scaling([*images, Image(images[0].read()[:1], source="odd.tif")])
    with pytest.raises(InputError, match=r"x\.tif has .*2 \(c\); the scaling is for 1 \(a\), 2 \(b\)"):
        scaling.apply(replace(images[0], channel_names=("b", "c"), source="x.tif"))
    swapped = Image(images[0].read()[::-1], channel_names=("b", "A "))
    assert scaling.apply(swapped).limits == scaling.limits[::-1]
    assert scaling.apply(Image(images[0].read()[1:], channel_names=("b",))).limits == scaling.limits[1:]
    assert scaling.apply(replace(images[0], channel_names=("", ""))).limits == scaling.limits
    with pytest.raises(InputError, match="two numbers"):
        Scaling(((0.0, np.nan),), ("a",))
    with pytest.raises(InputError, match="limits of 1 channels"):
        replace(images[0], limits=((0.0, 1.0),))


def test_scaling_and_images_are_prepared_alike() -> None:
    images = acquisition()
    field = FlatField(np.linspace(0.5, 1.5, 50) * np.ones((40, 1)), np.zeros((40, 50)))
    even = [corrected(image, field) for image in images]
    scaling = measure_scaling(even)
    assert scaling.apply(even[0]).limits == scaling.limits
    with pytest.raises(InputError, match=r"0\.tif: the scaling was measured on images with illumination: flat field"):
        scaling.apply(images[0])
    with pytest.raises(InputError, match="must agree"):
        measure_scaling([even[0], images[1]])
    assert corrected(measure_scaling(images).apply(images[0]), field).limits is None


# --- CLAHE of lazy images ---------------------------------------------------------------------------------------


def test_equalised_is_clahe_of_each_plane() -> None:
    data = np.random.default_rng(0).integers(0, 4000, (3, 2, 2, 24, 31)).astype(np.uint16)
    image = equalised(Image(data, "TCZYX", channel_names=("a", "b")), tiles=(2, 3), clip_limit=3.0)
    whole = np.asarray(image)
    assert (image.shape, image.dtype, image.channel_names) == (data.shape, np.uint16, ("a", "b"))
    for t in range(3):
        for z in range(2):
            expected = clahe(data[t, :, z], tiles=(2, 3), clip_limit=3.0)
            np.testing.assert_array_equal(whole[t, :, z], expected)
            plane = image.plane(t=t, z=z)
            np.testing.assert_array_equal(plane.read(slice(3, 9), slice(10, 20)), expected[:, 3:9, 10:20])
    np.testing.assert_array_equal(image.data[1, 1], whole[1, 1])
    assert image.facts["clahe"] == "2 x 3 tiles, clip limit 3"


def test_equalised_reads_a_plane_once() -> None:
    class Counted:
        shape, dtype, asked = (1, 32, 32), np.dtype(np.uint8), 0

        def __getitem__(self, key: Any) -> Any:
            self.asked += 1
            return np.zeros(self.shape, np.uint8)[key]

    pixels = Counted()
    image = equalised(Image(pixels))
    assert pixels.asked == 0
    for y in range(0, 32, 4):
        image.read(slice(y, y + 4))
    assert pixels.asked == 1


def test_equalised_refuses() -> None:
    with pytest.raises(InputError, match=r"a\.tif.*float32"):
        equalised(Image(np.zeros((1, 9, 9), np.float32), source="a.tif"))
    with pytest.raises(InputError, match="20 x 8 tiles"):
        equalised(Image(np.zeros((1, 9, 9), np.uint8)), tiles=(20, 8))
