"""Channel policies: each against the formula of its paper; what users type; errors that help."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.prep import Channels
from cellweave.prep.channels import apply_weights

Planes = NDArray[np.float32]


def select(image: Image, channels: Channels | list[str] | tuple[str, ...] | str = "auto") -> Planes:
    """The two planes of a whole image, without normalisation."""
    policy = Channels.parse(channels if isinstance(channels, (str, Channels)) else ",".join(channels))
    return apply_weights(image.read(), policy.weights(image))


def stack(n: int, *names: str, color: bool = False, dtype: type = np.uint16) -> Image:
    """An image of `n` channels of noise."""
    pixels = np.random.default_rng(n).integers(0, 200, (n, 5, 6)).astype(dtype)
    return Image(pixels, channel_names=names, color=color, source="plate.tif")


PHOTO = stack(3, "red", "green", "blue", color=True, dtype=np.uint8)
TWO = stack(2, "Actin", "DAPI")
FOUR = stack(4, "DAPI", "GFP", "Actin", "Tubulin")


def planes_of(image: Image, *channels: int | None) -> Planes:
    zero = np.zeros((image.height, image.width), np.float32)
    return np.stack([zero if c is None else image.read()[c].astype(np.float32) for c in channels])


def merged_by_the_paper(image: Image, g: int, b: int) -> Planes:
    """Eq. 5 of the challenge paper: I_k = (I_k + sum of I_t over t in C - {g, b}) / (N_C - 1), k in {g, b}."""
    pixels = image.read().astype(float)
    n = len(pixels)
    rest = [t for t in range(n) if t not in (g, b)]
    return np.stack([(pixels[k] + sum(pixels[t] for t in rest)) / (n - 1) for k in (g, b)]).astype(np.float32)


# --- the policies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "typed", "channels"),
    [
        (stack(1), "gray", (0, None)),
        (stack(1), "auto", (0, None)),
        (stack(1, "phase"), "Phase", (0, None)),
        (TWO, "auto", (0, 1)),
        (TWO, "actin,dapi", (0, 1)),
        (TWO, "DAPI, Actin", (1, 0)),
        (TWO, "2,1", (1, 0)),
        (TWO, "dapi,1", (1, 0)),
        (TWO, "gray:dapi", (1, None)),
        (TWO, "2", (1, None)),
        (TWO, "dapi", (1, None)),
        (TWO, "merged:1,2", (0, 1)),  # nothing is left to merge
        (FOUR, "GFP,DAPI", (1, 0)),
        (FOUR, "4,1", (3, 0)),
        (FOUR, "gray:3", (2, None)),
        (FOUR, "green-blue", (1, 2)),
        (PHOTO, "auto", (1, 2)),
        (PHOTO, "green-blue", (1, 2)),
        (PHOTO, "Green-Blue", (1, 2)),
        (PHOTO, "red,blue", (0, 2)),
        (PHOTO, "gray:red", (0, None)),
        (stack(1), "merged", (0, 0)),  # "the image were copied into two"
    ],
)
def test_chosen_channels_are_the_planes(image: Image, typed: str, channels: tuple[int | None, int | None]) -> None:
    found = select(image, typed)
    assert found.dtype == np.float32
    assert np.array_equal(found, planes_of(image, *channels))


def test_a_photograph_is_gray_by_the_mean_of_its_colours() -> None:
    expected = PHOTO.read().astype(float).mean(axis=0)
    found = select(PHOTO, "gray")
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    assert not found[1].any()


@pytest.mark.parametrize("n", [3, 4, 7])
@pytest.mark.parametrize("alpha", [(2, 3), (3, 1), (1, 2)])
def test_merged_is_equation_5(n: int, alpha: tuple[int, int]) -> None:
    image = stack(n)
    found = select(image, f"merged:{alpha[0]},{alpha[1]}")
    np.testing.assert_allclose(found, merged_by_the_paper(image, alpha[0] - 1, alpha[1] - 1), rtol=1e-6)


@pytest.mark.parametrize("color", [False, True])
def test_merged_takes_green_and_blue_of_three(color: bool) -> None:
    image = stack(3, color=color)
    np.testing.assert_allclose(select(image, "merged"), merged_by_the_paper(image, 1, 2), rtol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(4, 5), (1, 1), (700, 3), (3, 1500)])
def test_gray_photographs_are_seen_as_gray(height: int, width: int) -> None:
    """A picture whose red, green and blue are the same has one channel, whatever the file says."""
    gray = np.random.default_rng(0).integers(0, 255, (height, width), dtype=np.uint8)
    image = Image(np.stack([gray] * 3), color=True)
    assert Channels().resolve(image) == Channels("gray")
    np.testing.assert_allclose(select(image)[0], gray, rtol=1e-6)
    assert not select(image)[1].any()


def test_one_coloured_spot_makes_a_colour_photograph() -> None:
    pixels = np.full((3, 1200, 1300), 128, np.uint8)
    pixels[0, 600:604, 600:604] = 200  # larger than the grid of the check
    assert Channels().resolve(Image(pixels, color=True)) == Channels("green-blue")


def test_photographs_of_one_or_two_samples_are_gray() -> None:
    assert Channels().resolve(stack(1, color=True)) == Channels("gray")


@pytest.mark.parametrize("lit", [(0,), (2,), (0, 2), (0, 1, 2)])
def test_color_shows_no_channel_without_light(lit: tuple[int, ...]) -> None:
    """Noise of a dead channel would have full contrast after normalisation."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 4, (3, 40, 50), dtype=np.uint8)
    for channel in lit:
        pixels[channel] = rng.integers(0, 200, (40, 50))
    weights = Channels("color").weights(Image(pixels, color=True))
    expected = np.zeros((3, 3))
    expected[lit, lit] = 1
    if len(lit) == 1:
        expected[:, lit[0]] = 1
    assert np.array_equal(weights, expected)


@given(
    arrays(np.float32, (5, 3, 4), elements=st.floats(-100, 100, width=32)),
    arrays(np.float32, (2, 5), elements=st.sampled_from([0.0, 1.0, 0.25])),
)
def test_planes_are_weighted_sums(pixels: NDArray[np.float32], weights: NDArray[np.float32]) -> None:
    expected = np.einsum("pc,cyx->pyx", weights.astype(float), pixels.astype(float))
    np.testing.assert_allclose(apply_weights(pixels, weights), expected, rtol=1e-5, atol=1e-4)


def test_channels_that_are_not_chosen_are_not_read() -> None:
    pixels = np.ones((3, 2, 2), np.float32)
    pixels[0] = np.nan
    found = select(Image(pixels), "2,3")
    assert (found == 1).all()


@pytest.mark.parametrize("typed", ["auto", "2,1", "merged:1,2", "gray:1"])
def test_weights_are_those_of_select(typed: str) -> None:
    weights = Channels.parse(typed).weights(TWO)
    assert weights.shape == (2, 2)
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(apply_weights(TWO.read(), weights), select(TWO, typed))
    before = TWO.read().copy()
    select(TWO, typed)
    assert np.array_equal(TWO.read(), before)


# --- names and numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", list(product(["0", "1", "2"], repeat=2)))
def test_auto_takes_two_channels_in_their_order_whatever_their_names(names: tuple[str, str]) -> None:
    image = stack(2, *names)
    assert np.array_equal(select(image), planes_of(image, 0, 1))
    assert np.array_equal(select(image, "1,2"), planes_of(image, 0, 1))
    assert np.array_equal(select(image, "2,1"), planes_of(image, 1, 0))


def test_numbers_that_are_no_position_are_names() -> None:
    image = stack(2, "488", "405")
    assert np.array_equal(select(image, "405,488"), planes_of(image, 1, 0))


def test_names_of_any_script() -> None:
    image = stack(3, "Ångström", "ДНК", "²")
    assert np.array_equal(select(image, "днк,ångström"), planes_of(image, 1, 0))
    assert np.array_equal(select(image, "²"), planes_of(image, 2, None))


def test_select_takes_a_list_of_names() -> None:
    assert np.array_equal(select(TWO, ["dapi", "actin"]), planes_of(TWO, 1, 0))
    assert np.array_equal(select(TWO, Channels("pair", ("2", "1"))), planes_of(TWO, 1, 0))


# --- what users type ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "policy", "chosen"),
    [
        ("auto", "auto", ()),
        ("gray", "gray", ()),
        (" GRAY ", "gray", ()),
        ("gray:DAPI", "gray", ("DAPI",)),
        ("Gray: my channel ", "gray", ("my channel",)),
        ("dapi", "gray", ("dapi",)),
        ("PAIR:dapi", "gray", ("dapi",)),
        ("3", "gray", ("3",)),
        ("2,1", "pair", ("2", "1")),
        ("Pair:2,1", "pair", ("2", "1")),
        ("actin , dapi", "pair", ("actin", "dapi")),
        ("w1:DAPI,w2:FITC", "pair", ("w1:DAPI", "w2:FITC")),
        ("green-blue", "green-blue", ()),
        ("merged", "merged", ()),
        ("MERGED:2,3", "merged", ("2", "3")),
    ],
)
def test_parsing(typed: str, policy: str, chosen: tuple[str, ...]) -> None:
    found = Channels.parse(typed)
    assert (found.policy, found.chosen) == (policy, chosen)
    assert Channels.parse(found) is found


NAMES = st.text(st.characters(exclude_characters=",", exclude_categories=["C", "Z"]), min_size=1, max_size=8)


@given(
    st.one_of(
        st.sampled_from([Channels(), Channels("gray"), Channels("green-blue"), Channels("merged")]),
        NAMES.map(lambda name: Channels("gray", (name,))),
        st.tuples(NAMES, NAMES).map(lambda names: Channels("pair", names)),
        st.tuples(NAMES, NAMES).map(lambda names: Channels("merged", names)),
    )
)
def test_text_and_back(channels: Channels) -> None:
    """Saved models hold the text."""
    assert Channels.parse(str(channels)) == channels


@pytest.mark.parametrize(
    "typed", ["", " ", ",", "1,2,3", "gray:1,2", "merged:1", "merged:1,2,3", "auto:1", "green-blue:1"]
)
def test_a_wrong_number_of_names_is_refused(typed: str) -> None:
    with pytest.raises(InputError, match="channels") as caught:
        Channels.parse(typed)
    assert repr(typed) in str(caught.value)
    check_remedy(caught.value)


# --- errors ---------------------------------------------------------------------------------------------------


def check_remedy(error: InputError) -> None:
    assert "--channels" in str(error)
    assert "'gray'" in str(error)
    assert "CYTOPLASM,NUCLEUS" in str(error)


SEVEN = stack(7, "DAPI", "", "GFP", "RFP", "Cy5", "", "TRITC")


def test_seven_channels_where_two_are_needed() -> None:
    with pytest.raises(InputError) as caught:
        select(SEVEN)
    message = str(caught.value)
    assert message.startswith("plate.tif has 7 channels: 1 (DAPI), 2, 3 (GFP), 4 (RFP), 5 (Cy5), 6, 7 (TRITC)")
    check_remedy(caught.value)
    assert np.array_equal(select(SEVEN, "gfp,dapi"), planes_of(SEVEN, 2, 0))


@pytest.mark.parametrize(
    ("image", "typed", "says"),
    [
        (SEVEN, "hoechst", "no channel 'hoechst'"),
        (SEVEN, "dapi,hoechst", "no channel 'hoechst'"),
        (SEVEN, "8", "no channel '8'"),
        (SEVEN, "0,1", "no channel '0'"),
        (SEVEN, "-1,2", "no channel '-1'"),
        (SEVEN, "²,1", "no channel '²'"),
        (SEVEN, "1,dapi", "'1,dapi' is the same channel twice"),
        (SEVEN, "merged:3,3", "'3,3' is the same channel twice"),
        (SEVEN, "gray", "'gray' needs one of them"),
        (SEVEN, "merged", "'merged' needs two of them"),
        (TWO, "gray", "'gray' needs one of them"),
        (TWO, "green-blue", "'green-blue' needs a colour image"),
        (TWO, "merged", "'merged' needs two of them"),
        (stack(1), "2", "no channel '2'"),
        (stack(1), "1,2", "no channel '2'"),
        (stack(1), "green-blue", "'green-blue' needs a colour image"),
        (stack(3), "auto", "which ones cannot be known"),
    ],
)
def test_errors_name_the_file_the_channels_and_the_remedy(image: Image, typed: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        select(image, typed)
    message = str(caught.value)
    assert says in message
    assert message.startswith(f"plate.tif has {image.n_channels} channel{'s' if image.n_channels > 1 else ''}: 1")
    assert all(name in message for name in image.channel_names)
    check_remedy(caught.value)


def test_an_image_without_a_file_is_called_image() -> None:
    with pytest.raises(InputError, match=r"^image has 3 channels: 1, 2, 3: "):
        select(Image(np.zeros((3, 4, 5), np.uint8)))


@pytest.mark.parametrize("lit", [0, 1, 2])
def test_auto_takes_the_only_color_that_has_light(lit: int) -> None:
    """A blue-only fluorescence picture: JPEG leaves a little noise in red and green, which must not be stretched."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 3, (40, 50, 3)).astype(np.uint8)
    pixels[..., lit] = rng.integers(0, 200, (40, 50))
    image = Image.from_array(pixels)
    assert str(Channels().resolve(image)) == f"gray:{lit + 1}"
    assert Channels().weights(image)[0].tolist() == [float(c == lit) for c in range(3)]


@pytest.mark.parametrize(
    ("dark", "expected"), [(0, "green-blue"), (1, "pair:1,3"), (2, "pair:2,1"), (None, "green-blue")]
)
def test_auto_leaves_out_a_color_without_light(dark: int | None, expected: str) -> None:
    """Cells in two dyes: the nucleus is blue, or red where there is no blue."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 120, (40, 50, 3)).astype(np.uint8)
    if dark is not None:
        pixels[..., dark] = rng.integers(0, 3, (40, 50))
    assert str(Channels().resolve(Image.from_array(pixels))) == expected
