"""What holds of diffusion flows and of distance flows: ids mean nothing, odd images come back, any maps give labels."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cellweave.core.errors import InputError
from cellweave.metrics import match
from cellweave.representations import REPRESENTATIONS, DiffusionFlows, DistanceFlows
from drawing import crowd, draw, ellipse, tiles, voronoi

Labels = NDArray[np.int32]
Maps = NDArray[np.float32]
Flows = Callable[..., DiffusionFlows | DistanceFlows]

both = pytest.mark.parametrize("flows", [DiffusionFlows, DistanceFlows])
UNCHECKED = partial(DiffusionFlows, flow_threshold=0)

SMALL = arrays(np.int32, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.integers(0, 4))
PICTURES = st.builds(lambda make, seed: make(seed), st.sampled_from([crowd, voronoi]), st.integers(0, 10_000))


def noisy(flows: Flows, seed: int, amount: float) -> Maps:
    """Maps of some cells with smooth noise of this size."""
    maps = flows().encode(crowd(seed, (64, 72)))
    rng = np.random.default_rng(seed)
    for one in maps:
        waves = gaussian_filter(rng.normal(size=one.shape), 4)
        one += np.float32(amount) * (waves / waves.std() + rng.normal(0, 0.5, one.shape)).astype(np.float32)
    return maps


def count(labels: Labels) -> int:
    return int(labels.max(initial=0))


# --- encode ---------------------------------------------------------------------------------------------------


@both
@settings(max_examples=20)
@given(st.one_of(SMALL, PICTURES), st.sampled_from([40, 5000, 2**31 - 1]), st.integers(0, 10_000))
def test_ids_do_not_matter(flows: Flows, labels: Labels, highest: int, seed: int) -> None:
    ids = 1 + np.random.default_rng(seed).choice(highest, 40, replace=False)
    other = np.array([0, *ids], np.int32)[labels]
    assert np.array_equal(flows().encode(other), flows().encode(labels))


@both
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, np.uint32, np.float64])
def test_labels_of_any_whole_number_type_and_layout(flows: Flows, dtype: type) -> None:
    labels = crowd(0)
    expected = flows().encode(labels)
    assert np.array_equal(flows().encode(labels.astype(dtype)), expected)
    assert np.array_equal(flows().encode(np.asfortranarray(labels.astype(dtype))), expected)
    assert np.array_equal(flows().encode(np.repeat(labels, 2, axis=1)[:, ::2]), expected)


@both
def test_what_is_no_label_image_is_refused(flows: Flows) -> None:
    with pytest.raises(InputError, match="2 dimensions"):
        flows().encode(np.zeros((2, 3, 4), np.int32))
    with pytest.raises(InputError, match="fractions"):
        flows().encode(np.full((3, 4), 0.5))  # type: ignore[arg-type]


# --- decode(encode(labels)) is labels ---------------------------------------------------------------------------

ODD = {
    "nothing": np.zeros((7, 9), np.int32),
    "one pixel of background": np.zeros((1, 1), np.int32),
    "one pixel of a cell": np.ones((1, 1), np.int32),
    "a cell of one pixel": np.pad(np.ones((1, 1), np.int32), 4),
    "a whole image": np.ones((30, 41), np.int32),
    "all but a pixel": np.pad(np.ones((29, 40), np.int32), ((0, 1), (0, 1)), mode="edge")
    - np.eye(30, 41, -29, dtype=np.int32),
    "one row": np.repeat(np.array([0, 1, 2, 0, 3], np.int32), [4, 15, 20, 3, 61])[None],
    "one column": np.repeat(np.array([1, 2, 0, 3], np.int32), [16, 31, 1, 40])[:, None],
    "two rows": np.repeat(np.array([[1, 0, 2]], np.int32), 2, axis=0).repeat([17, 2, 30], axis=1),
    "all borders": draw([ellipse((40, 44), y, x, 9, 6) for y in (0, 39) for x in (0, 22, 43)]),
    "3 x 40,000": np.repeat(np.arange(1, 2001, dtype=np.int32), 20)[None].repeat(3, axis=0),
}


@both
@pytest.mark.parametrize("labels", ODD.values(), ids=ODD)
def test_odd_images_come_back(flows: Flows, labels: Labels) -> None:
    decoded, confidence = flows(min_size=1).decode_scored(flows().encode(labels))
    assert decoded.dtype == np.int32
    assert decoded.shape == labels.shape
    found = match(labels, decoded, iou=1.0)
    assert found.fp == found.fn == 0
    np.testing.assert_allclose(confidence, np.ones(count(labels)), atol=1e-6)


@both
def test_70000_cells_within_ten_seconds(flows: Flows) -> None:
    labels = tiles(265, 265, 4, 4)
    started = time.process_time()
    decoded = flows().decode(flows().encode(labels))
    assert time.process_time() - started < 10
    assert np.array_equal(decoded, labels)
    assert count(decoded) == 70_225


@both
def test_no_pixels(flows: Flows) -> None:
    for shape in ((0, 0), (0, 5), (5, 0)):
        decoded, confidence = flows().decode_scored(flows().encode(np.zeros(shape, np.int32)))
        assert decoded.shape == shape
        assert len(confidence) == 0


# --- decode -----------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(st.floats(-1.5, 1.5, width=32), st.floats(width=32))


@pytest.mark.parametrize("flows", [DiffusionFlows, UNCHECKED, DistanceFlows])
@settings(max_examples=60)
@given(data=st.data(), min_size=st.integers(0, 4))
def test_any_numbers_give_labels(flows: Flows, data: st.DataObject, min_size: int) -> None:
    """Whatever the maps hold: sequential ids, no object under `min_size`, a confidence in 0..1 for each."""
    sides = st.integers(1, 12)
    maps = data.draw(arrays(np.float32, st.tuples(st.just(len(flows().map_names)), sides, sides), elements=NUMBERS))
    decoded, confidence = flows(min_size=min_size).decode_scored(maps)
    check_labels(decoded, confidence, min_size)
    allowed = np.isfinite(maps).all(axis=0) & (maps[2] > 0.5)
    for k in range(1, count(decoded) + 1):
        assert (allowed & (decoded == k)).any()  # the rest may be filled holes


@pytest.mark.parametrize("flows", [DiffusionFlows, UNCHECKED, DistanceFlows])
@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.2, 0.5]), st.sampled_from([0, 1, 15, 60]))
def test_ids_sizes_and_confidence(flows: Flows, seed: int, amount: float, min_size: int) -> None:
    decoded, confidence = flows(min_size=min_size).decode_scored(noisy(flows, seed, amount))
    check_labels(decoded, confidence, min_size)


def check_labels(labels: Labels, confidence: NDArray[np.float32], min_size: int) -> None:
    ids, first, areas = np.unique(labels, return_index=True, return_counts=True)
    first, areas = first[ids > 0], areas[ids > 0]
    assert ids[ids > 0].tolist() == list(range(1, len(first) + 1))
    assert (np.diff(first) > 0).all()  # numbered by their first pixels, row by row
    assert (areas >= min_size).all()
    assert confidence.shape == (len(first),)
    assert confidence.dtype == np.float32
    assert ((confidence >= 0) & (confidence <= 1)).all()


@both
@settings(max_examples=20)
@given(data=st.data(), seed=st.integers(0, 10_000), amount=st.sampled_from([0.05, 0.2, 0.5]))
def test_pixels_that_are_not_numbers_are_background(
    flows: Flows, data: st.DataObject, seed: int, amount: float
) -> None:
    broken = noisy(flows, seed, amount)
    without = broken.copy()
    places = st.tuples(*(st.integers(0, n - 1) for n in broken.shape), st.sampled_from([np.nan, np.inf, -np.inf]))
    for k, y, x, value in data.draw(st.lists(places, min_size=1, max_size=60)):
        broken[k, y, x] = value
        without[:, y, x] = 0
    decoded, confidence = flows().decode_scored(broken)
    expected, scores = flows().decode_scored(without)
    assert np.array_equal(decoded, expected)
    assert np.array_equal(confidence, scores)


@both
def test_inputs_of_any_layout_are_left_alone(flows: Flows) -> None:
    maps = noisy(flows, 1, 0.1)
    before, decoded = maps.copy(), flows().decode(maps)
    assert count(decoded)
    maps.flags.writeable = False
    for other in (maps, maps.astype(np.float64), np.asfortranarray(maps)):
        assert np.array_equal(flows().decode(other), decoded)
    assert np.array_equal(maps, before)


@both
def test_maps_of_another_shape_are_refused(flows: Flows) -> None:
    n = len(flows().map_names)
    for shape in ((n - 1, 4, 5), (n + 1, 4, 5), (4, 5), (1, n, 4, 5)):
        with pytest.raises(InputError, match=rf"\({n}, Y, X\)"):
            flows().decode(np.zeros(shape, np.float32))


@both
def test_maps_too_large_to_decode_are_refused(flows: Flows, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1e8 < flows().most_pixels < 2**31
    monkeypatch.setattr(flows, "most_pixels", 30)
    assert flows().decode(np.zeros((len(flows().map_names), 5, 6), np.float32)).shape == (5, 6)
    with pytest.raises(InputError, match=r"5 x 7 px are too large .* 30 px is the limit"):
        flows().decode(np.zeros((len(flows().map_names), 5, 7), np.float32))


@both
def test_it_is_registered_by_name(flows: type) -> None:
    assert REPRESENTATIONS[flows.__name__] is flows
