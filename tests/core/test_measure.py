"""The object table equals scikit-image's regionprops; the kernels equal NumPy twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from skimage.measure import regionprops_table

from cellweave import _kernels
from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.core.labels import relabel
from cellweave.core.measure import Table, measure

any_labels = arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.integers(0, 4))


def reference(labels: NDArray[Any]) -> dict[str, NDArray[Any]]:
    properties = ("label", "area", "bbox", "centroid", "eccentricity", "solidity", "equivalent_diameter_area")
    return regionprops_table(labels, properties=properties)  # type: ignore[no-any-return]


def assert_equal_to_reference(labels: NDArray[Any]) -> None:
    table, expected = measure(labels), reference(labels)
    assert np.array_equal(table["id"], expected["label"])
    assert np.array_equal(table["area"], expected["area"])
    for i, name in enumerate(("bbox_y0", "bbox_x0", "bbox_y1", "bbox_x1")):
        assert np.array_equal(table[name], expected[f"bbox-{i}"])
    close = {"centroid_y": "centroid-0", "centroid_x": "centroid-1", "eccentricity": "eccentricity"}
    close |= {"solidity": "solidity", "diameter": "equivalent_diameter_area"}
    for name, other in close.items():
        np.testing.assert_allclose(table[name], expected[other], atol=1e-7, err_msg=name)


def moments_twin(labels: NDArray[np.int32], n: int) -> NDArray[np.int64]:
    out = np.zeros((n, 12), np.int64)
    for label in range(1, n + 1):
        y, x = np.nonzero(labels == label)
        if len(y):
            dy, dx = y - y[0], x - x[0]
            box = (y.min(), x.min(), y.max() + 1, x.max() + 1)
            out[label - 1] = (len(y), *box, y[0], x[0], *map(np.sum, (dy, dx, dy * dy, dx * dx, dy * dx)))
    return out


@given(any_labels)
def test_kernel_object_moments_equals_numpy(labels: NDArray[np.int32]) -> None:
    found = np.empty((4, 12), np.int64)
    _kernels.object_moments(labels, found)
    assert np.array_equal(found, moments_twin(labels, 4))


@given(any_labels)
def test_equals_regionprops_on_scattered_pixels(labels: NDArray[np.int32]) -> None:
    if labels.any():
        assert_equal_to_reference(labels)


def test_equals_regionprops_on_cells(cells: NDArray[np.int32]) -> None:
    assert_equal_to_reference(cells)


@pytest.mark.shared_data
def test_equals_regionprops_on_real_cells(shared_data: Any) -> None:
    from cellweave.io import read_labels

    files = sorted((shared_data / "usiigaci_phase" / "labels").iterdir())[:2]
    assert len(files) == 2
    for file in files:
        assert_equal_to_reference(read_labels(file))


def test_the_number_of_threads_changes_nothing() -> None:
    labels = np.arange(1, 90_001, dtype=np.int32).reshape(300, 300).repeat(2, axis=1)
    moments = np.empty((90_000, 12), np.int64)
    _kernels.object_moments(labels, moments)
    boxes = np.ascontiguousarray(moments[:, 1:5])
    one, many = np.empty(90_000, np.int64), np.empty(90_000, np.int64)
    _kernels.convex_areas(labels, boxes, one, threads=1)
    _kernels.convex_areas(labels, boxes, many, threads=5)
    assert np.array_equal(one, many)
    assert (one == 2).all()


def test_single_pixels_rows_and_columns() -> None:
    labels = np.zeros((9, 40_000), np.int32)
    labels[0, 7] = 1
    labels[2, 5:39_000] = 2
    labels[4:8, 9] = 3
    table = measure(labels)
    assert table["area"].tolist() == [1, 38_995, 4]
    assert table["solidity"].tolist() == [1, 1, 1]
    assert table["eccentricity"].tolist() == [0, 1, 1]
    assert table["centroid_x"].tolist() == [7, (5 + 38_999) / 2, 9]


def test_far_from_the_origin_nothing_is_lost() -> None:
    small = np.zeros((12, 12), np.int32)
    small[3:8, 2:9] = 1
    small[8, 5] = 1
    far = np.zeros((12, 60_000), np.int32)
    far[:, -12:] = small
    near_table, far_table = measure(small), measure(far)
    for name in ("area", "diameter", "eccentricity", "solidity"):
        assert near_table[name] == far_table[name]
    assert far_table["centroid_x"] == near_table["centroid_x"] + 60_000 - 12


def test_permuted_ids_permute_the_rows(cells: NDArray[np.int32]) -> None:
    n = int(cells.max())
    order = np.random.default_rng(1).permutation(n) + 1
    permuted = np.concatenate([[0], order]).astype(np.int32)[cells]
    first, second = measure(cells), measure(permuted)
    for name in first.keys() - {"id"}:
        assert np.array_equal(second[name][order - 1], first[name]), name


def test_ids_with_gaps_are_kept() -> None:
    labels = np.zeros((10, 10), np.int32)
    labels[1:3, 1:3], labels[5:9, 5:9] = 2_000_000_000, 70_000
    table = measure(labels)
    assert table["id"].tolist() == [70_000, 2_000_000_000]
    assert table["area"].tolist() == [16, 4]
    small, old = relabel(labels)
    assert (small.max(), old.tolist()) == (2, [70_000, 2_000_000_000])
    assert np.array_equal(np.concatenate([[0], old])[small], labels)


def test_no_cells_give_the_same_columns(cells: NDArray[np.int32]) -> None:
    image = Image(np.ones((2, 128, 128)), pixel_size_um=(0.5, 0.5))
    full = measure(cells, image, np.zeros(cells.max()))
    empty = measure(np.zeros_like(cells), image, [])
    assert empty.keys() == full.keys()
    assert {len(column) for column in empty.values()} == {0}
    assert {name: column.dtype for name, column in empty.items()} == {k: v.dtype for k, v in full.items()}


def test_mean_intensity_equals_regionprops(cells: NDArray[np.int32]) -> None:
    pixels = np.random.default_rng(0).integers(0, 65_535, (2, *cells.shape)).astype(np.uint16)
    table = measure(cells, Image(pixels, channel_names=("DAPI", "")))
    expected = regionprops_table(cells, pixels.transpose(1, 2, 0), properties=("mean_intensity",))
    np.testing.assert_allclose(table["mean_DAPI"], expected["mean_intensity-0"])
    np.testing.assert_allclose(table["mean_channel_2"], expected["mean_intensity-1"])


def test_mean_intensity_leaves_out_nan_and_inf() -> None:
    labels = np.array([[1, 1, 1, 2, 2, 0]], np.int32)
    image = Image(np.array([[[1, 3, np.nan, np.inf, np.nan, 5]]], np.float32))
    means = measure(labels, image)["mean_channel_1"]
    assert means[0] == 2
    assert np.isnan(means[1])


def test_mean_intensity_is_read_in_bands(cells: NDArray[np.int32], monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image(np.random.default_rng(0).random((3, *cells.shape)))
    whole = measure(cells, image)
    heights = []
    read = Image.read
    monkeypatch.setattr("cellweave.core.measure._BAND_PIXELS", 3 * 128 * 10)
    monkeypatch.setattr(Image, "read", lambda self, y: (heights.append(y.stop - y.start), read(self, y))[1])
    bands = measure(cells, image)
    assert max(heights) == 10
    assert sum(heights) == 128
    for name in whole:
        np.testing.assert_allclose(bands[name], whole[name], rtol=1e-12)


def test_equal_channel_names_keep_their_columns(cells: NDArray[np.int32]) -> None:
    four = measure(cells, Image(np.ones((3, *cells.shape)), channel_names=("A", "A_3", "A")))
    assert sum(name.startswith("mean_") for name in four) == 3
    table = measure(cells, Image(np.ones((2, *cells.shape)), channel_names=("GFP", "GFP")))
    assert {"mean_GFP", "mean_GFP_2"} <= table.keys()


def test_micrometres(cells: NDArray[np.int32]) -> None:
    table = measure(cells, Image(np.ones((1, *cells.shape)), pixel_size_um=(0.5, 0.25)))
    np.testing.assert_allclose(table["area_um2"], table["area"] * 0.125)
    np.testing.assert_allclose(table["diameter_um"], 2 * np.sqrt(table["area_um2"] / np.pi))
    np.testing.assert_allclose(table["centroid_y_um"], table["centroid_y"] * 0.5)
    np.testing.assert_allclose(table["centroid_x_um"], table["centroid_x"] * 0.25)
    assert not any("_um" in name for name in measure(cells, Image(np.ones((1, *cells.shape)))))


def test_confidence_is_a_column_in_the_order_of_the_ids(cells: NDArray[np.int32]) -> None:
    scores = np.linspace(0, 1, cells.max())
    assert np.array_equal(measure(cells, confidence=scores)["confidence"], scores)
    with pytest.raises(InputError, match="one number an object"):
        measure(cells, confidence=scores[1:])


def test_an_image_of_another_size_is_refused(cells: NDArray[np.int32]) -> None:
    with pytest.raises(InputError, match="128 x 128, the image is 64 x 128"):
        measure(cells, Image(np.ones((1, 64, 128))))


def test_inputs_are_not_changed(cells: NDArray[np.int32]) -> None:
    labels = cells * 3
    before = labels.copy()
    table: Table = measure(labels)
    table["area"][:] = 0
    assert np.array_equal(labels, before)
