"""NumPy files are mapped; their axes are known only for planes and photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cellweave.core.errors import ReadError
from cellweave.io import read_image


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", ">u2", "<i4", "f4", ">f8", "?"])
def test_a_plane(tmp_path: Path, dtype: str, order: str) -> None:
    array = np.asarray(np.random.default_rng(0).integers(0, 99, (9, 11)), dtype, order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "a.npy", array)
    image = read_image(tmp_path / "a.npy")
    assert (image.axes, image.shape, image.color) == ("CYX", (1, 9, 11), False)
    assert image.dtype == np.dtype(dtype).newbyteorder("=")
    assert image.dtype.isnative
    assert np.array_equal(image.read(slice(2, 5))[0], array[2:5])


def test_a_photograph(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, (9, 11, 4)).astype(np.uint8)
    np.save(tmp_path / "a.npy", array)
    image = read_image(tmp_path / "a.npy")
    assert image.color
    assert np.array_equal(image.read(), array[..., :3].transpose(2, 0, 1))


@pytest.mark.parametrize("shape", [(2, 9, 11), (9, 11, 3), (2, 3, 9, 11)])
def test_other_axes_must_be_said(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).random(shape)
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ReadError, match=r"axes='C?Z?C?YX'"):
        read_image(tmp_path / "a.npy")
    axes = {(2, 9, 11): "CYX", (9, 11, 3): "YXC", (2, 3, 9, 11): "CZYX"}[shape]
    image = read_image(tmp_path / "a.npy", axes=axes)
    expected = array.transpose([axes.index(a) for a in image.axes])
    assert np.array_equal(np.asarray(image), expected)


def test_dimensions_of_length_one_need_no_letter(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((1, 2, 1, 9, 11)))
    assert read_image(tmp_path / "a.npy", axes="CYX").shape == (2, 9, 11)
    for shape in ((1, 9, 11), (9, 11, 1), (1, 1, 9, 11)):
        np.save(tmp_path / "b.npy", np.ones(shape))
        assert read_image(tmp_path / "b.npy").shape == (1, 9, 11)
    np.save(tmp_path / "c.npy", np.ones((1, 1, 11)))
    assert read_image(tmp_path / "c.npy").shape == (1, 1, 11)


def test_the_file_is_mapped_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    mapped = np.lib.format.open_memmap(path, "w+", np.uint8, (50_000, 50_000))  # a sparse file of 2.5 GB
    mapped[40_000, 30_000:30_005] = 7
    del mapped
    assert read_image(path).read(slice(40_000, 40_001), slice(29_999, 30_006)).tolist() == [[[0, 7, 7, 7, 7, 7, 0]]]


def test_files_that_are_no_image(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}, []], dtype=object))
    with pytest.raises(ReadError, match=r"objects\.npy: holds Python objects.*_seg\.npy"):
        read_image(tmp_path / "objects.npy")
    np.save(tmp_path / "line.npy", np.zeros(7))
    with pytest.raises(ReadError, match=r"line\.npy.*2 dimensions"):
        read_image(tmp_path / "line.npy")
    np.save(tmp_path / "complex.npy", np.zeros((7, 7), complex))
    with pytest.raises(ReadError, match=r"complex\.npy.*complex128"):
        read_image(tmp_path / "complex.npy")
    np.save(tmp_path / "empty.npy", np.zeros((0, 7)))
    with pytest.raises(ReadError, match=r"empty\.npy.*empty"):
        read_image(tmp_path / "empty.npy")


@pytest.mark.parametrize("length", [7, 40, 130, 700])
def test_a_truncated_file(tmp_path: Path, length: int) -> None:
    np.save(tmp_path / "a.npy", np.ones((9, 11)))
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data[:length])
    with pytest.raises(ReadError, match=r"a\.npy.*copy it again"):
        read_image(tmp_path / "a.npy")
