"""`Image`: axes are checked, converted once, and never guessed; views stay lazy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.core.image import AXES, Image


class Recorder:
    """A lazy array that notes the keys it is asked for."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array, self.keys = array, []
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, key: Any) -> NDArray[Any]:
        self.keys.append(key)
        return self.array[key]


@given(st.permutations("TCZYX"), st.integers(2, 5))
def test_from_array_orders_the_axes(letters: list[str], n: int) -> None:
    axes = [a for a in letters if a in "YX" or letters.index(a) < n]
    sizes = {"T": 2, "C": 3, "Z": 4, "Y": 5, "X": 6}
    array = np.arange(np.prod([sizes[a] for a in axes])).reshape([sizes[a] for a in axes])
    image = Image.from_array(array, axes="".join(axes))
    assert image.axes == "".join(a for a in AXES if a in axes or a == "C")
    assert image.shape == tuple(sizes[a] if a in axes else 1 for a in image.axes)
    key = {a: sizes[a] - 1 for a in axes}
    assert np.asarray(image)[tuple(key.get(a, 0) for a in image.axes)] == array[tuple(key[a] for a in axes)]


def test_a_plane_of_numbers_is_one_channel() -> None:
    image = Image.from_array(np.zeros((4, 5)))
    assert (image.axes, image.shape, image.channel_names, image.color) == ("CYX", (1, 4, 5), ("",), False)


def test_a_photograph_is_not_copied() -> None:
    array = np.zeros((5, 6, 4), np.uint8)
    image = Image.from_array(array)
    assert image.shape == (3, 5, 6)
    assert np.shares_memory(image.data, array)


@pytest.mark.parametrize("samples", [3, 4])
def test_bytes_of_three_or_four_samples_are_a_photograph(samples: int) -> None:
    array = np.random.default_rng(0).integers(0, 255, (4, 5, samples)).astype(np.uint8)
    image = Image.from_array(array)
    assert image.color
    assert image.channel_names == ("red", "green", "blue")
    assert np.array_equal(image.read(), array[..., :3].transpose(2, 0, 1))


@pytest.mark.parametrize("shape", [(2, 4, 5), (4, 5, 3), (2, 2, 4, 5)])
def test_other_shapes_are_not_guessed(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="axes='CYX'"):
        Image.from_array(np.zeros(shape, np.uint16))


@pytest.mark.parametrize("axes", ["YX", "CYY", "CYXQ", "CSYX", ""])
def test_axes_that_do_not_fit_are_refused(axes: str) -> None:
    with pytest.raises(InputError):
        Image.from_array(np.zeros((2, 4, 5)), axes=axes)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((1, 0, 5)), "empty"),
        (np.zeros((1, 4, 5), complex), "complex128"),
        (np.zeros((1, 4, 5), object), "object"),
    ],
)
def test_pixels_that_are_no_image_are_refused(array: NDArray[Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Image(array)


def test_channel_names_must_match_the_channels() -> None:
    with pytest.raises(InputError, match="2 channel names for 3"):
        Image(np.zeros((3, 4, 5)), channel_names=("a", "b"))


def test_axes_must_be_in_the_one_order() -> None:
    with pytest.raises(InputError, match="TCZYX"):
        Image(np.zeros((3, 4, 5)), axes="YXC")


def test_read_gives_a_region_and_reads_no_more() -> None:
    lazy = Recorder(np.arange(2 * 6 * 7).reshape(2, 6, 7))
    image = Image(lazy)
    region = image.read(slice(1, 4), slice(2, 5))
    assert np.array_equal(region, lazy.array[:, 1:4, 2:5])
    assert lazy.keys == [(slice(None), slice(1, 4), slice(2, 5))]


def test_plane_chooses_time_and_depth_lazily() -> None:
    lazy = Recorder(np.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6))
    plane = Image(lazy, axes="TCZYX", channel_names=("a", "b", "c")).plane(t=1, z=2)
    assert lazy.keys == []
    assert (plane.axes, plane.shape, plane.channel_names) == ("CYX", (3, 5, 6), ("a", "b", "c"))
    assert np.array_equal(plane.read(slice(1, 3)), lazy.array[1, :, 2, 1:3])
    assert np.array_equal(plane.data[1, 2:4, :], lazy.array[1, 1, 2, 2:4])


def test_a_stack_needs_a_choice_and_a_single_depth_does_not() -> None:
    with pytest.raises(InputError, match=r"3 depths.*plane\(z=0\)"):
        Image(np.zeros((1, 3, 4, 5)), axes="CZYX").plane()
    with pytest.raises(InputError, match=r"outside 0\.\.2"):
        Image(np.zeros((1, 3, 4, 5)), axes="CZYX").plane(z=3)
    assert Image(np.ones((1, 1, 4, 5)), axes="CZYX").read().shape == (1, 4, 5)


def test_size_of_an_absent_axis_is_one() -> None:
    image = Image(np.zeros((3, 4, 5)))
    assert [image.size(a) for a in AXES] == [1, 3, 1, 4, 5]


def test_select_keeps_the_axes_that_are_not_named() -> None:
    data = np.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6)
    image = Image(data, "TCZYX", interval_s=2.0)
    assert image.select() is image
    at_depth = image.select(z=3)
    assert (at_depth.axes, at_depth.shape, at_depth.interval_s) == ("TCYX", (2, 3, 5, 6), 2.0)
    np.testing.assert_array_equal(np.asarray(at_depth), data[:, :, 3])
    np.testing.assert_array_equal(at_depth.plane(t=1).read(slice(1, 3)), data[1, :, 3, 1:3])
    np.testing.assert_array_equal(np.asarray(image.select(t=0, z=1)), data[0, :, 1])
    np.testing.assert_array_equal(np.asarray(image.select(t=np.int64(1), z=np.uint8(2))), data[1, :, 2])
    with pytest.raises(InputError, match=r"z=4 is outside 0\.\.3"):
        image.select(z=4)
    with pytest.raises(InputError, match=r"t=1 is outside 0\.\.0"):
        Image(data[0, :, 0]).select(t=1)
