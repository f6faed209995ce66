"""The modality analyser: pictures made by what light does, simulated ones, and the confusion table of real sets."""

from __future__ import annotations

import importlib.util
from collections import Counter
from io import BytesIO
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image as PillowImage
from scipy.ndimage import gaussian_filter

from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.prep.modality import MODALITIES, ModalityStatistics, modality
from cellweave.simulate import RECIPES, stream

Floats = NDArray[np.float64]
PURPLE = np.array([0.45, 0.95, 0.25])


def blobs(seed: int = 0, side: int = 160, share: float = 0.2) -> Floats:
    """Smooth blobs that cover `share` of a square: 0 outside, up to 1 inside."""
    field = gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), 5)
    low = np.quantile(field, 1 - share)
    return np.asarray(np.clip((field - low) / (field.max() - low), 0, 1) ** 0.5)


def photograph(light: Floats, dtype: Any = np.uint8, seed: int = 0) -> Image:
    """(3, Y, X) light in 0..1 as a camera saves it, with noise."""
    light = light + np.random.default_rng(seed).normal(scale=0.01, size=light.shape)
    top = np.iinfo(dtype).max
    return Image((np.clip(light, 0, 1) * top).astype(dtype), color=True, channel_names=("red", "green", "blue"))


def stained(seed: int = 0, share: float = 0.3, stain: Floats = PURPLE, white: float = 0.9) -> Floats:
    """Beer-Lambert: a stain takes light away, of some colours more."""
    return white * np.exp(-1.5 * stain[:, None, None] * blobs(seed, share=share))


def glowing(seed: int = 0, share: float = 0.2) -> Floats:
    """Three fluorophores in red, green and blue over a dim background."""
    return 0.04 + 0.9 * np.stack([blobs(seed + k, share=share) for k in range(3)])


def phase(seed: int = 0) -> Floats:
    """Gray, with darker and brighter places."""
    return np.asarray(0.5 + 0.3 * blobs(seed) - 0.3 * blobs(seed + 1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("seed", range(3))
def test_by_the_physics(seed: int, dtype: Any) -> None:
    gray = np.stack([phase(seed)] * 3)
    tint = np.array([0.95, 1.0, 0.8])[:, None, None]
    assert modality(photograph(stained(seed), dtype, seed)) == "brightfield"
    assert modality(photograph(glowing(seed), dtype, seed)) == "fluorescence"
    assert modality(photograph(gray * tint, dtype, seed)) == "grayscale"
    assert modality(Image((gray * 200).astype(dtype), color=True)) == "grayscale"


@given(
    share=st.floats(0.03, 0.6),
    stain=st.sampled_from([(0.45, 0.95, 0.25), (0.05, 0.9, 0.3), (0.25, 0.5, 0.9), (0.9, 0.6, 0.1)]),
    white=st.floats(0.5, 1.0),
)
def test_every_stain_is_brightfield(share: float, stain: tuple[float, ...], white: float) -> None:
    """Hematoxylin, eosin, DAB and methyl green, few cells or many, well lit or not."""
    assert modality(photograph(stained(3, share, np.array(stain), white))) == "brightfield"


def test_dense_fluorescence_has_no_white_in_it() -> None:
    """Cells everywhere: the background cannot tell, the pure colours of what is bright do."""
    light = np.zeros((3, 160, 160))
    light[0, :, :80], light[1, :, 80:] = 0.95, 0.9
    light *= 1 - 0.3 * blobs(1)
    light[2] = 0.2
    found = ModalityStatistics.of(photograph(light))
    assert found.background > 1 / 3
    assert (found.modality, "pure colours" in found.why) == ("fluorescence", True)


@pytest.mark.parametrize("channel", range(3))
def test_one_dye_in_its_colour(channel: int) -> None:
    light = np.zeros((3, 160, 160))
    light[channel] = 0.05 + 0.8 * blobs()
    assert modality(photograph(light)) == "fluorescence"


def test_a_faint_tint_is_gray() -> None:
    pixels = np.round(np.stack([phase()] * 3) * np.array([1, 0.97, 0.9])[:, None, None] * 250).astype(np.uint8)
    found = ModalityStatistics.of(Image(pixels, color=True))
    assert (found.modality, "faint tint" in found.why) == ("grayscale", True)


@pytest.mark.parametrize("quality", [30, 95])
def test_gray_jpeg_is_gray(quality: int) -> None:
    """Also a dark one, which is no photograph of fluorescent colours."""
    for picture in (phase(), 0.02 + 0.5 * blobs()):
        file = BytesIO()
        PillowImage.fromarray((picture * 255).astype(np.uint8)).convert("RGB").save(file, "JPEG", quality=quality)
        assert modality(Image.from_array(np.asarray(PillowImage.open(file)))) == "grayscale"


def test_channels() -> None:
    """One channel is grayscale whatever it shows; several are fluorescence unless they are the same."""
    dim = (blobs() * 3000 + 100).astype(np.uint16)
    assert modality(Image(dim[None])) == "grayscale"
    assert modality(Image(dim[None], channel_names=("DAPI",))) == "grayscale"
    assert modality(Image(dim[None], color=True)) == "grayscale"
    assert modality(Image(np.stack([dim, dim.T]), channel_names=("Actin", "DAPI"))) == "fluorescence"
    assert modality(Image(np.stack([dim, dim.T, dim]))) == "fluorescence"
    assert modality(Image(np.stack([dim] * 4))) == "grayscale"


@given(arrays(np.float32, (3, 5, 4), elements=st.floats(width=32)), st.booleans())
def test_any_pixels_have_an_answer(pixels: NDArray[np.float32], color: bool) -> None:
    """NaN, infinities, zeros, constants: no error, no warning, and the pixels stay."""
    before = pixels.copy()
    with np.errstate(all="raise", under="ignore"):
        found = ModalityStatistics.of(Image(pixels, color=color))
    assert found.modality in MODALITIES
    assert found.why
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("light", [stained(5), glowing(5), np.stack([phase(5)] * 3) * [[[0.9]], [[1]], [[0.8]]]])
def test_brightness_turns_and_types_do_not_matter(light: Floats) -> None:
    image = photograph(light)
    pixels = image.read()
    expected = modality(image)
    for other in (
        pixels[:, ::-1],
        pixels[:, :, ::-1].transpose(0, 2, 1),
        pixels // 2,
        pixels.astype(np.uint16) * 200,
        pixels.astype(np.float32) / 255,
        pixels[::-1],  # blue, green, red
    ):
        assert modality(Image(other, color=True)) == expected


class Counting:
    """A slide that is not there: counts the pixels that are read of it."""

    shape, dtype = (3, 200_000, 150_000), np.dtype(np.uint8)

    def __init__(self) -> None:
        self.read = 0

    def __getitem__(self, key: tuple[int | slice, ...]) -> NDArray[np.uint8]:
        y, x = (range(*k.indices(n)) for k, n in zip(key[1:], self.shape[1:], strict=True) if isinstance(k, slice))
        self.read += len(y) * len(x)
        shade = (np.add.outer(np.array(y), np.array(x)) % 97 / 97).astype(np.float32)
        return np.stack([230 - 60 * shade, 230 - 150 * shade, 230 - 40 * shade]).astype(np.uint8)


def test_of_a_slide_little_is_read() -> None:
    slide = Counting()
    assert modality(Image(slide, color=True)) == "brightfield"
    assert 0 < slide.read <= 512 * 512


def test_a_stack_needs_a_plane() -> None:
    with pytest.raises(InputError, match="choose one plane"):
        modality(Image(np.zeros((1, 4, 8, 8), np.uint8), "CZYX"))


def test_simulated_pictures() -> None:
    """All recipes: pictures in gray and in channels are told without fail, most photographs of stains are."""
    told: dict[str, Counter[bool]] = {"gray or channels": Counter(), "stained": Counter()}
    for name in RECIPES:
        for made in islice(stream(name, seed=3, size=(128, 128)), 6 if "s" in name[:5] else 3):
            found = modality(made.image())
            if not made.color:
                told["gray or channels"][found == ("grayscale" if len(made.pixels) == 1 else "fluorescence")] += 1
            elif made.scene.look == "as is":
                told["stained"][found == "brightfield"] += 1
    assert told["gray or channels"][False] == 0
    assert told["stained"].total() >= 8
    assert told["stained"][True] / told["stained"].total() >= 0.8


def table_script() -> ModuleType:
    """benchmarks/_modality.py."""
    file = Path(__file__).resolve().parents[2] / "benchmarks" / "_modality.py"
    spec = importlib.util.spec_from_file_location("_modality", file)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("H&E bone marrow 600x600", "brightfield"),
        ("purple_on_white", "brightfield"),
        ("DAPI tissue nuclei 512x512 16-bit + 8-bit twin", "fluorescence"),
        ("fluo_small", "fluorescence"),
        ("phase contrast 20x, human cell culture", "grayscale"),
        ("brightfield_gray", "grayscale"),
    ],
)
def test_words_of_the_sets(words: str, expected: str) -> None:
    assert table_script().shows(words) == expected


@pytest.mark.shared_data
def test_confusion_table_of_all_sets(shared_data: Path) -> None:
    """Every fifth image of each set; of all of them, 100 % are as expected (`python benchmarks/_modality.py`)."""
    script = table_script()
    table = script.confusion(shared_data, step=5)
    assert script.accuracy(table) >= 0.98
    for expected in MODALITIES:
        part = {key: counts for key, counts in table.items() if key[2] == expected}
        assert sum(counts.total() for counts in part.values()) >= 40
        assert script.accuracy(part) >= 0.97
    assert "images are in the expected class" in script.markdown(table)
