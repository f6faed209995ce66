"""Flat fields: the formula, lazy reading, files, and fields from frames."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from cellweave.core.errors import InputError, ReadError
from cellweave.core.image import Image
from cellweave.io import read_image
from cellweave.prep import FlatField, corrected, empty_channels, estimate_field, flatfield, reference_field
from cellweave.prep.flatfield import read_frames


def vignette(height: int = 60, width: int = 80, strength: float = 0.3) -> NDArray[np.float64]:
    rows, columns = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    gain = np.exp(-strength * ((rows - 0.1) ** 2 + (columns + 0.2) ** 2))
    return np.asarray(gain / gain.mean())


def a_field(channels: int = 2) -> FlatField:
    gain = np.stack([vignette(strength=0.2 * (c + 1)) for c in range(channels)])
    return FlatField(gain, np.full(gain.shape, 100.0) + np.arange(channels)[:, None, None])


class Spy:
    """Pixels that tell what was read of them."""

    def __init__(self, data: NDArray[Any]) -> None:
        self.data, self.shape, self.dtype, self.most = data, data.shape, data.dtype, 0

    def __getitem__(self, key: Any) -> NDArray[Any]:
        found = self.data[key]
        self.most = max(self.most, found.size)
        return found


# --- the formula ----------------------------------------------------------------------------------------------


def test_even_light_comes_back() -> None:
    field = a_field()
    light = np.random.default_rng(0).uniform(0, 500, field.gain.shape).astype(np.float32)
    seen = field.gain * light + field.offset
    np.testing.assert_allclose(field.apply(seen, keep="nothing"), light, atol=1e-3)
    np.testing.assert_allclose(field.apply(seen, keep="range"), light, rtol=1e-5, atol=1e-3)  # mean gain is 1
    zero = field.offset.mean(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(field.apply(seen), light + zero, rtol=1e-5, atol=1e-3)


def test_keep_multiplies_by_the_mean_gain() -> None:
    field = FlatField(np.array([[1.0, 3.0]]), np.array([[0.0, 2.0]]))
    pixels = np.array([[4.0, 8.0]])
    np.testing.assert_allclose(field.apply(pixels, keep="nothing"), [[4, 2]])
    np.testing.assert_allclose(field.apply(pixels, keep="range"), [[8, 4]])
    np.testing.assert_allclose(field.apply(pixels), [[9, 5]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float64])
def test_keep_dtype_rounds_and_clips(dtype: type) -> None:
    field = FlatField(np.array([[0.5, 1.0, 1.5]]), np.array([[0.0, 10.0, 0.0]]))
    pixels = np.array([[255, 3, 101]]).astype(dtype)
    found = field.apply(pixels, keep="nothing", keep_dtype=True)
    assert found.dtype == dtype
    if np.dtype(dtype).kind == "f":
        np.testing.assert_allclose(found, [[510, -7, 101 / 1.5]], rtol=1e-6)
    else:
        limits = np.iinfo(dtype)
        np.testing.assert_array_equal(found, [[min(510, limits.max), max(-7, limits.min), 67]])
    assert field.apply(pixels).dtype == np.float32


def test_nan_stays_and_input_is_not_changed() -> None:
    pixels = np.array([[1.0, np.nan, np.inf]])
    found = FlatField(np.ones((1, 3)), np.zeros((1, 3))).apply(pixels)
    np.testing.assert_array_equal(found, pixels)
    assert found is not pixels


# --- lazy images ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", ["CYX", "TCYX", "CZYX", "TCZYX"])
@pytest.mark.parametrize("planes", [1, 2])
def test_any_region_of_any_axes_equals_the_whole(axes: str, planes: int) -> None:
    """Indexing before and after correction is the same, for ints and slices on every axis."""
    sizes = {"T": 3, "C": 2, "Z": 4, "Y": 60, "X": 80}
    rng = np.random.default_rng(1)
    data = rng.integers(0, 4000, [sizes[a] for a in axes]).astype(np.uint16)
    field = a_field() if planes == 2 else FlatField(vignette(), np.full((60, 80), 100.0))
    image = corrected(Image(data, axes), field, keep="nothing")
    whole = np.asarray(image)
    gain, offset = (p if p.ndim == 3 else np.stack([p, p]) for p in (field.gain, field.offset))
    if "Z" in axes:
        gain, offset = gain[:, None], offset[:, None]
    np.testing.assert_allclose(whole, (data - offset) / gain, rtol=1e-5, atol=1e-2)
    for _ in range(30):
        key = tuple(
            int(rng.integers(n)) if rng.random() < 0.4 else slice(*sorted(rng.choice(n + 1, 2, replace=False)))
            for n in data.shape
        )
        np.testing.assert_array_equal(image.data[key], whole[key])


def test_only_the_region_is_read() -> None:
    spy = Spy(np.arange(2 * 60 * 80, dtype=np.uint16).reshape(2, 60, 80))
    image = corrected(Image(spy), a_field())
    assert spy.most == 0
    assert image.read(slice(5, 10), slice(3, 9)).shape == (2, 5, 6)
    assert spy.most == 2 * 5 * 6


@pytest.mark.parametrize("keep_dtype", [False, True])
def test_a_channel_without_signal_stays_without(keep_dtype: bool) -> None:
    """Also where a region of a channel with signal is even, and in films."""
    pixels = np.full((2, 2, 60, 80), 700, np.uint16)
    pixels[0, 0, -1, -1] = 900
    image = corrected(Image(pixels, "TCYX"), a_field(), keep_dtype=keep_dtype)
    assert [empty_channels(image.plane(t=t)) for t in (0, 1)] == [{1}, {0, 1}]
    assert np.array_equal(image.data[1, 1], pixels[1, 1])
    assert np.array_equal(image.data[0, :, :20], np.asarray(image)[0, :, :20])
    assert np.ptp(image.data[0, 0, :20]) > 10
    holed = np.full((2, 60, 80), np.nan)
    holed[0, 3, 3] = 7
    assert empty_channels(corrected(Image(holed), a_field())) == {0, 1}


def test_channels_are_corrected_by_their_names(tmp_path: Path) -> None:
    """In any order, and some may be missing; without names their order counts."""
    pixels = np.random.default_rng(0).integers(0, 4000, (2, 60, 80)).astype(np.uint16)
    field = replace(a_field(), channel_names=("DAPI", "GFP"))
    field.save(tmp_path / "field.npz")
    assert FlatField.load(tmp_path / "field.npz").hash == field.hash != a_field().hash
    expected = a_field().apply(pixels)
    swapped = corrected(Image(pixels[::-1], channel_names=("gfp", "DAPI")), field)
    np.testing.assert_array_equal(swapped.read(), expected[::-1])
    assert swapped.facts == corrected(Image(pixels), field).facts
    np.testing.assert_array_equal(corrected(Image(pixels[1:], channel_names=("GFP",)), field).read(), expected[1:])
    np.testing.assert_array_equal(corrected(Image(pixels), field).read(), expected)
    with pytest.raises(InputError, match=r"1 \(RFP\); the flat field is for 1 \(DAPI\), 2 \(GFP\)"):
        corrected(Image(pixels[1:], channel_names=("RFP",)), field)
    with pytest.raises(InputError, match="do not fit"):
        replace(field, channel_names=("DAPI",))
    images = [Image(pixels, channel_names=names, source=f"{names[0]}.tif") for names in (("A", "B"), ("B", "A"))]
    assert estimate_field(images[:1]).channel_names == ("A", "B")
    with pytest.raises(InputError, match=r"B\.tif"):
        estimate_field(images)


def test_image_keeps_its_facts(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((2, 60, 80), 500, np.uint16), metadata={"axes": "CYX"})
    image = corrected(read_image(tmp_path / "a.tif"), a_field(), keep_dtype=True)
    assert image.source.endswith("a.tif")
    assert image.dtype == np.uint16
    assert image.facts["illumination"].startswith("flat field ")


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(InputError, match=r"b\.tif.*same camera"):
        corrected(Image(np.ones((2, 61, 80)), source="b.tif"), a_field())
    with pytest.raises(InputError, match="same camera"):
        corrected(Image(np.ones((3, 60, 80))), a_field())
    with pytest.raises(InputError, match="no 'all'"):
        corrected(Image(np.ones((2, 60, 80))), a_field(), keep="all")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="True or False"):
        corrected(Image(np.ones((2, 60, 80), bool)), a_field(), keep_dtype=True)
    with pytest.raises(InputError, match="shape"):
        a_field().apply(np.ones(4))


@pytest.mark.parametrize(
    ("gain", "offset", "message"),
    [
        (np.ones((2, 3)), np.zeros((3, 2)), "must both"),
        (np.ones(3), np.zeros(3), "must both"),
        (np.array([[1.0, 0.0]]), np.zeros((1, 2)), "least gain"),
        (np.array([[1.0, np.nan]]), np.zeros((1, 2)), "NaN"),
        (np.ones((1, 2)), np.array([[0.0, np.inf]]), "NaN"),
    ],
)
def test_a_field_is_checked(gain: NDArray[Any], offset: NDArray[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FlatField(gain, offset)


# --- files ----------------------------------------------------------------------------------------------------


def test_save_and_load_are_the_same_bytes(tmp_path: Path) -> None:
    field = FlatField(a_field().gain, a_field().offset, {"method": "test", "frames": 3})
    field.save(tmp_path / "a.npz")
    found = FlatField.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(found.gain, field.gain)
    np.testing.assert_array_equal(found.offset, field.offset)
    assert found.facts == {"method": "test", "frames": 3}
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_files_that_are_no_field(tmp_path: Path) -> None:
    def about(number: int) -> NDArray[Any]:
        return np.array(json.dumps({"format": number, "facts": {}, "channel_names": []}))

    path = tmp_path / "a.npz"
    with pytest.raises(ReadError, match="no such file"):
        FlatField.load(path)
    a_field().save(path)
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2], whole[:200] + b"\0" * 200 + whole[400:]):
        path.write_bytes(content)
        with pytest.raises(ReadError, match=r"a\.npz"):
            FlatField.load(path)
    np.savez(path, gain=np.ones((2, 2)))
    with pytest.raises(ReadError, match=r"a\.npz"):
        FlatField.load(path)
    np.savez(
        path,
        gain=np.zeros((2, 2)),
        offset=np.zeros((2, 2)),
        about=about(1),
    )
    with pytest.raises(ReadError, match="least gain"):
        FlatField.load(path)
    np.savez(
        path,
        gain=np.array([None]),
        offset=np.zeros(1),
        about=about(1),
    )
    with pytest.raises(ReadError, match=r"a\.npz"):
        FlatField.load(path)
    np.savez(
        path,
        gain=np.ones((2, 2)),
        offset=np.zeros((2, 2)),
        about=about(9),
    )
    with pytest.raises(ReadError, match="newer"):
        FlatField.load(path)


# --- fields from frames ---------------------------------------------------------------------------------------


def test_reference_frames() -> None:
    rng = np.random.default_rng(0)
    gain = np.stack([vignette(), vignette(strength=0.1)])
    bright = [Image(rng.poisson(5000 * gain + 100).astype(np.uint16)) for _ in range(9)]
    bright[0].data[:, 10:20, 10:20] = 0  # dust in one frame
    dark = [Image(rng.poisson(100, gain.shape).astype(np.uint16)) for _ in range(9)]
    for offset in (dark, 100.0):
        field = reference_field(bright, offset)
        assert np.sqrt(((field.gain / gain - 1) ** 2).mean()) < 0.01
        np.testing.assert_allclose(field.gain.mean(axis=(1, 2)), 1, rtol=1e-5)


def test_reference_frames_that_cannot_be() -> None:
    bright, dark = Image(np.full((1, 4, 4), 9.0), source="b.tif"), Image(np.full((1, 4, 4), 10.0))
    with pytest.raises(InputError, match=r"b\.tif.*exchanged"):
        reference_field([bright], [dark])
    with pytest.raises(InputError, match=r"c\.tif"):
        reference_field([bright, Image(np.ones((1, 5, 4)), source="c.tif")])
    with pytest.raises(InputError, match="no reference"):
        reference_field([])
    with pytest.raises(InputError, match="must be alike"):
        reference_field([bright], [Image(np.ones((1, 5, 4)))])
    dead = np.full((1, 4, 4), 100.0)
    dead[0, 1, 1] = 0
    assert reference_field([Image(dead)]).gain.min() > 0


def test_estimated_field_of_dense_frames() -> None:
    rng = np.random.default_rng(0)
    gain = vignette(120, 160)
    images = [Image((gain * rng.gamma(8, 50, gain.shape) + 100)[None].astype(np.float32)) for _ in range(30)]
    images[3].data[0, 30:50, 40:60] = np.nan
    field = estimate_field(images, offset=100.0)
    assert np.sqrt(((field.gain[0] / gain - 1) ** 2).mean()) < 0.02
    assert field.offset.max() == 100.0
    with pytest.raises(InputError, match="quantile is 2"):
        estimate_field(images, quantile=2.0)
    with pytest.raises(InputError, match="not over the offset"):
        estimate_field(images, offset=1e6)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 50), (1, 50, 1), (1, 2, 3), (2, 101, 83), (1, 64, 200)])
def test_block_means_are_those_of_even_and_odd_rows(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks cover every pixel once, and a band at a time gives the same as all at once."""
    pixels = np.random.default_rng(0).integers(0, 1000, shape).astype(np.uint16)
    whole = read_frames([Image(pixels)], task="test", grid=16)
    assert np.isfinite(whole.values).all()
    monkeypatch.setattr(flatfield, "_BAND", 500)
    spy = Spy(pixels)
    np.testing.assert_array_equal(read_frames([Image(spy)], task="test", grid=16).values, whole.values)
    if pixels.size > 10_000:
        assert spy.most < pixels.size / 4
    if shape == (1, 64, 200):  # blocks of 4 rows; columns of 12 or 13
        expected = pixels[0, 2::4, : 200 // 16].mean(axis=1)
        np.testing.assert_allclose(whole.values[0, 0, 0, :, 0], (pixels[0, 0::4, :12].mean(1) + expected) / 2, rtol=0.2)
        np.testing.assert_allclose(whole.values[1, 0, 0, 3, 0], pixels[0, [13, 15], :12].mean(), rtol=1e-6)


def test_many_frames_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flatfield, "MOST_FRAMES", 5)
    images = [Image(np.full((1, 4, 4), float(i))) for i in range(20)]
    found = read_frames(images, task="test").values[0, :, 0, 0, 0]
    np.testing.assert_array_equal(found, [0, 4, 8, 12, 16])


def test_frames_must_be_alike() -> None:
    images = [Image(np.ones((1, 4, 4))), Image(np.ones((1, 4, 5)), source="odd.tif")]
    with pytest.raises(InputError, match=r"odd\.tif"):
        read_frames(images, task="test")
    with pytest.raises(InputError, match="no image"):
        read_frames([], task="test")
    with pytest.raises(InputError, match="no finite"):
        read_frames([Image(np.full((1, 4, 4), np.nan))], task="test")


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    field = a_field()
    field.save(tmp_path / "a.npz")
    assert FlatField.load(tmp_path / "a.npz").hash == field.hash
    with np.load(tmp_path / "a.npz") as file:
        parts = dict(file)
    parts["gain"] = parts["gain"] * 1.01
    np.savez(tmp_path / "a.npz", **parts)
    with pytest.raises(ReadError, match="altered"):
        FlatField.load(tmp_path / "a.npz")
