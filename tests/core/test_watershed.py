"""The watershed equals a slow twin, and scikit-image wherever heights differ; ties keep the laws of flooding."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.morphology import reconstruction
from skimage.segmentation import watershed as reference

from cellweave import _kernels
from cellweave.core.errors import InputError
from cellweave.core.labels import Labels
from cellweave.core.watershed import watershed

Pixel = tuple[int, int]
Scene = tuple[NDArray[np.float32], Labels, NDArray[np.bool_]]


@st.composite
def scenes(draw: st.DrawFn, *, ties: bool) -> Scene:
    """A landscape of few heights or of different ones, markers (some of several pixels) and a mask."""
    shape = draw(array_shapes(min_dims=2, max_dims=2, max_side=12))
    if ties:
        landscape = draw(arrays(np.float32, shape, elements=st.sampled_from([0.0, 1.0, 2.0, 3.0, np.inf, -np.inf])))
    else:
        order = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).permutation(shape[0] * shape[1])
        landscape = order.reshape(shape).astype(np.float32)
    markers = draw(arrays(np.int32, shape, elements=st.integers(1, 5), fill=st.just(np.int32(0))))
    mask = draw(arrays(np.bool_, shape, fill=st.just(np.True_)))
    return landscape, markers, mask


def neighbours(p: Pixel, mask: NDArray[np.bool_]) -> list[Pixel]:
    """Up, left, right, down: those in the mask."""
    y, x = p
    around = [(y - 1, x), (y, x - 1), (y, x + 1), (y + 1, x)]
    return [(v, u) for v, u in around if 0 <= v < mask.shape[0] and 0 <= u < mask.shape[1] and mask[v, u]]


def arrivals(landscape: NDArray[Any], markers: Labels, mask: NDArray[np.bool_]) -> dict[Pixel, tuple[float, int]]:
    """Pass height of each pixel that water reaches and its steps on that height, the first to be flooded first."""
    found: dict[Pixel, tuple[float, int]] = {}
    starts = {(int(y), int(x)) for y, x in np.argwhere(mask & (markers > 0))}
    queue = [(float(landscape[p]), 0, p) for p in starts]
    heapq.heapify(queue)
    while queue:
        height, steps, p = heapq.heappop(queue)
        if p in found:
            continue
        found[p] = height, steps
        for q in neighbours(p, mask):
            if q not in starts:
                risen = max(height, float(landscape[q]))
                heapq.heappush(queue, (risen, steps + 1 if risen == height else 0, q))
    return found


def twin(landscape: NDArray[Any], markers: Labels, mask: NDArray[np.bool_]) -> Labels:
    labels = np.where(mask, markers, 0)
    found = arrivals(landscape, markers, mask)
    for p, (height, steps) in found.items():
        if labels[p] == 0:
            around = [q for q in neighbours(p, mask) if q in found]
            lowest = min(found[q][0] for q in around)
            before = [
                q for q in around if (found[q][0] == lowest if lowest < height else found[q] == (height, steps - 1))
            ]
            labels[p] = labels[before[0]]
    return labels


def heights_within(landscape: NDArray[Any], markers: Labels, labels: Labels) -> NDArray[np.float64]:
    """How high water must rise from the marker of a label to each of its pixels, staying in it; NaN where it cannot."""
    heights = np.full(labels.shape, np.nan)
    for label in np.unique(labels[labels > 0]):
        own = labels == label
        for p, (height, _) in arrivals(landscape, np.where(own & (markers == label), markers, 0), own).items():
            heights[p] = height
    return heights


def threaded(landscape: NDArray[Any], markers: Labels, threads: int) -> Labels:
    labels = np.full(markers.shape, -7, np.int32)
    _kernels.watershed(np.ascontiguousarray(landscape, np.float32), markers, None, labels, threads)
    return labels


def random_markers(shape: tuple[int, int], n: int, seed: int = 0) -> Labels:
    markers = np.zeros(shape[0] * shape[1], np.int32)
    markers[np.random.default_rng(seed).permutation(markers.size)[:n]] = np.arange(1, n + 1)
    return markers.reshape(shape)


def ranks(values: NDArray[Any]) -> NDArray[np.float32]:
    """The same landscape with heights 0..n-1, all different."""
    heights = np.empty(values.size, np.float32)
    heights[np.argsort(values, axis=None, kind="stable")] = np.arange(values.size)
    return heights.reshape(values.shape)


def landscapes(shape: tuple[int, int]) -> dict[str, NDArray[np.float32]]:
    noise = np.random.default_rng(1).random(shape, np.float32)
    smooth = gaussian_filter(noise, 3)
    steps = np.floor(40 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)
    return {"noise": noise, "smooth": smooth, "steps": steps, "constant": np.ones(shape, np.float32)}


@given(scenes(ties=False))
def test_equals_skimage_where_heights_differ(scene: Scene) -> None:
    landscape, markers, mask = scene
    if (markers * mask).any():
        assert np.array_equal(watershed(landscape, markers, mask), reference(landscape, markers, 1, mask=mask))


@pytest.mark.parametrize("n", [3, 60, 5000])
@pytest.mark.parametrize("name", ["noise", "smooth"])
def test_equals_skimage_on_whole_images_of_different_heights(name: str, n: int) -> None:
    landscape, markers = ranks(landscapes((500, 400))[name]), random_markers((500, 400), n)
    assert np.array_equal(watershed(landscape, markers), reference(landscape, markers, 1))
    mask = landscape < 0.7 * landscape.size
    assert np.array_equal(watershed(landscape, markers, mask), reference(landscape, markers, 1, mask=mask))


@given(st.booleans().flatmap(lambda ties: scenes(ties=ties)))
def test_kernel_equals_twin(scene: Scene) -> None:
    assert np.array_equal(watershed(*scene), twin(*scene))


@given(scenes(ties=True))
def test_water_rises_no_higher_than_it_must_within_each_label(scene: Scene) -> None:
    landscape, markers, mask = scene
    labels, found = watershed(*scene), arrivals(*scene)
    least = np.full(labels.shape, np.nan)
    for p, (height, _) in found.items():
        least[p] = height
    assert np.array_equal(labels > 0, np.isfinite(least) | np.isinf(least))
    assert np.array_equal(labels[mask & (markers > 0)], markers[mask & (markers > 0)])
    assert np.array_equal(heights_within(landscape, markers, labels), least, equal_nan=True)
    if found:
        other = heights_within(landscape, markers, reference(landscape, markers, 1, mask=mask))
        assert np.array_equal(other, least, equal_nan=True)


@pytest.mark.parametrize("name", ["noise", "smooth", "steps", "constant"])
def test_pass_heights_are_the_reconstruction_of_the_landscape(name: str) -> None:
    landscape, markers = landscapes((90, 110))[name], random_markers((90, 110), 40)
    seed = np.where(markers > 0, landscape, landscape.max())
    expected = reconstruction(seed, landscape, "erosion", footprint=np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]]))
    assert np.array_equal(heights_within(landscape, markers, watershed(landscape, markers)), expected)


@given(arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.integers(0, 1)))
def test_a_constant_landscape_goes_to_the_nearest_marker(marked: NDArray[np.int32]) -> None:
    markers = (np.cumsum(marked).reshape(marked.shape) * marked).astype(np.int32)
    labels = watershed(np.ones(marked.shape), markers)
    if not markers.any():
        assert not labels.any()
        return
    rows, columns = np.indices(marked.shape)
    steps = np.stack([abs(rows - y) + abs(columns - x) for y, x in np.argwhere(marked)])
    assert np.array_equal(np.take_along_axis(steps, labels[None] - 1, 0)[0], steps.min(0))


def test_an_unmarked_hollow_goes_to_whom_its_lowest_pass_leads_and_is_shared_where_two_do() -> None:
    one = np.array([[0, 5, 1, 1, 1, 1, 6, 0]], np.float32)
    two = np.array([[0, 5, 1, 1, 1, 1, 5, 0]], np.float32)
    markers = np.array([[7, 0, 0, 0, 0, 0, 0, 9]], np.int32)
    assert watershed(one, markers).tolist() == [[7, 7, 7, 7, 7, 7, 9, 9]]
    assert watershed(two, markers).tolist() == [[7, 7, 7, 7, 9, 9, 9, 9]]


@pytest.mark.parametrize("n", [40, 30_000])
@pytest.mark.parametrize("name", ["noise", "smooth", "steps", "constant"])
def test_the_number_of_threads_changes_nothing(name: str, n: int) -> None:
    shape = (1000, 900)
    landscape, markers = landscapes(shape)[name], random_markers(shape, n)
    expected = threaded(landscape, markers, 1)
    assert np.array_equal(expected > 0, np.ones(shape, bool))
    for threads in (0, 2, 5):
        assert np.array_equal(threaded(landscape, markers, threads), expected)


@given(scenes(ties=True), st.permutations([3, 17, 2**31 - 1, 1, 65536]))
def test_other_ids_permute_the_output(scene: Scene, ids: list[int]) -> None:
    landscape, markers, mask = scene
    other = np.array([0, *ids], np.int32)
    assert np.array_equal(watershed(landscape, other[markers], mask), other[watershed(landscape, markers, mask)])


@given(scenes(ties=False), st.sampled_from([np.flipud, np.fliplr, np.transpose, np.rot90]))
def test_flips_and_turns_commute_where_heights_differ(scene: Scene, turn: Any) -> None:
    turned = [turn(array) for array in scene]  # views: the arrays are not contiguous either
    assert np.array_equal(watershed(turned[0], turned[1], turned[2]), turn(watershed(*scene)))


@given(scenes(ties=True))
def test_only_the_order_of_heights_matters(scene: Scene) -> None:
    landscape, markers, mask = scene
    expected = watershed(landscape, markers, mask)
    lower = np.where(landscape == 0, -0.0, np.where(np.isinf(landscape), landscape, 1e-30 * landscape - 0.0))
    assert np.array_equal(watershed(lower, markers, mask), expected)
    negative = np.where(np.isinf(landscape), landscape, landscape - 10).astype(np.float32)
    assert np.array_equal(watershed(negative, markers, mask), expected)


@given(scenes(ties=True))
def test_nan_counts_as_infinity_and_inputs_stay_as_they_are(scene: Scene) -> None:
    landscape, markers, mask = scene
    holes = np.where(landscape == np.inf, np.float32(np.nan), landscape)
    holes[::2] = np.where(
        np.isnan(holes[::2]), np.copysign(holes[::2], np.float32(-1)), holes[::2]
    )  # NaN of either sign
    before = holes.copy(), markers.copy(), mask.copy()
    assert np.array_equal(watershed(holes, markers, mask), watershed(landscape, markers, mask))
    for array, old in zip((holes, markers, mask), before, strict=True):
        assert np.array_equal(array, old, equal_nan=array.dtype.kind == "f")


def test_nan_is_flooded_last() -> None:
    landscape = np.array([[1, np.nan, 3, 9, 2]], np.float32)
    markers = np.array([[1, 0, 0, 0, 2]], np.int32)
    assert watershed(landscape, markers).tolist() == [[1, 1, 2, 2, 2]]
    assert watershed(np.full((1, 5), np.nan), markers).tolist() == [[1, 1, 1, 2, 2]]


def test_parts_of_the_mask_without_marker_stay_background() -> None:
    mask = np.array([[1, 1, 0, 1, 1], [1, 1, 0, 1, 1]], bool)
    markers = np.array([[4, 0, 5, 0, 0], [0, 0, 0, 0, 0]], np.int32)  # 5 lies outside the mask
    assert watershed(np.zeros((2, 5)), markers, mask).tolist() == [[4, 4, 0, 0, 0], [4, 4, 0, 0, 0]]
    assert not watershed(np.zeros((2, 5)), markers, ~mask & False).any()
    assert not watershed(np.arange(10.0).reshape(2, 5), 0 * markers).any()


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (1, 1), (1, 300), (300, 1), (2, 2)])
def test_small_and_empty_images(shape: tuple[int, int]) -> None:
    landscape = np.random.default_rng(2).permutation(shape[0] * shape[1]).reshape(shape).astype(np.float32)
    markers = random_markers(shape, min(landscape.size, 9))
    labels = watershed(landscape, markers)
    assert labels.shape == shape
    assert labels.dtype == np.int32
    if landscape.size:
        assert np.array_equal(labels, reference(landscape, markers, 1))


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float16, np.float64, ">f4"])
def test_landscapes_of_other_types(dtype: Any) -> None:
    landscape, markers = np.arange(6).reshape(2, 3).astype(dtype), np.array([[1, 0, 0], [0, 0, 2]], np.uint16)
    expected = watershed(landscape.astype(np.float32), markers)
    assert np.array_equal(watershed(landscape, markers), expected)
    assert watershed(landscape, markers).dtype == np.int32


def test_heights_beyond_float32_are_infinite() -> None:
    markers = np.array([[1, 0, 0, 0, 2]])
    assert watershed(np.array([[0, 1e300, 1e200, 3, 4]]), markers).tolist() == [[1, 1, 2, 2, 2]]


def test_70_000_markers() -> None:
    landscape = ranks(landscapes((640, 640))["smooth"])
    markers = random_markers(landscape.shape, 70_000)
    assert np.array_equal(watershed(landscape, markers), reference(landscape, markers, 1))


def test_a_long_corridor_is_walked_to_its_end() -> None:
    mask = np.zeros((601, 601), bool)
    mask[::2] = True
    mask[1::4, -1] = mask[3::4, 0] = True
    markers = np.zeros(mask.shape, np.int32)
    markers[0, 0], markers[-1, -1] = 1, 2
    labels = watershed(np.zeros(mask.shape), markers, mask)
    assert np.array_equal(labels > 0, mask)
    assert abs(int((labels == 1).sum()) - int((labels == 2).sum())) <= 1


@pytest.mark.parametrize(
    ("landscape", "markers", "mask", "fact"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2), int), None, r"markers have the shape \(3, 2\), the landscape has \(2, 3\)"),
        (np.zeros((2, 3)), np.zeros((2, 3), int), np.ones((2, 2), bool), r"mask has the shape \(2, 2\)"),
        (np.zeros((2, 3)), np.zeros((2, 3), int), np.ones((2, 3)), "mask: must be of type bool, this one is float64"),
        (np.zeros((2, 3), complex), np.zeros((2, 3), int), None, "landscape: .* this one is complex128"),
        (np.zeros((2, 3, 1)), np.zeros((2, 3), int), None, r"landscape: .* of shape \(2, 3, 1\)"),
        (np.zeros((2, 3)), np.full((2, 3), -1), None, "markers: ids must be between 0"),
        (np.zeros((2, 3)), np.full((2, 3), 0.5), None, "markers: label images hold whole numbers"),
    ],
)
def test_errors_name_the_facts(landscape: Any, markers: Any, mask: Any, fact: str) -> None:
    with pytest.raises(InputError, match=fact):
        watershed(landscape, markers, mask)
