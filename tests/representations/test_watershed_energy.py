"""Watershed energy: the energy and its kernels, laws of `encode` and `decode`, both floods, targets and loss."""

from __future__ import annotations

import csv
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects
from scipy.ndimage import label as components

from cellweave import _kernels
from cellweave.core.cleaning import clean_labels
from cellweave.core.errors import InputError
from cellweave.core.labels import resize_labels
from cellweave.metrics import match
from cellweave.representations import REPRESENTATIONS, WatershedEnergy, energy
from cellweave.representations.boxes import detection_loss, true_boxes
from cellweave.simulate import stream
from drawing import crowd, draw, ellipse, rod, tiles, voronoi
from outputs import output

Labels = NDArray[np.int32]
Maps = NDArray[np.float32]

ALL = WatershedEnergy(largest_dropped=0)
SMALL = arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3))
PICTURES = st.builds(lambda make, seed: make(seed), st.sampled_from([crowd, voronoi]), st.integers(0, 10_000))


def same_cells(a: Labels, b: Labels) -> bool:
    """Equal but for the numbers of the objects."""
    found = match(a, b, iou=1.0)
    return found.fp == found.fn == 0


# --- the energy -----------------------------------------------------------------------------------------------


def energy_twin(labels: Labels) -> Maps:
    """Distances to all pixels of other labels, one object after the other."""
    result = np.zeros(labels.shape, np.float32)
    if (labels == labels.flat[0]).all():  # the border of the image counts only where nothing else does
        labels = np.pad(labels, 1)
        return energy_twin(labels)[1:-1, 1:-1] if labels.any() else result
    for k in np.unique(labels[labels > 0]):
        inside, outside = np.argwhere(labels == k), np.argwhere(labels != k)
        distance = np.sqrt(((inside[:, None] - outside) ** 2).sum(axis=2).min(axis=1))
        result[tuple(inside.T)] = distance / np.median(distance)
    return result


@given(SMALL)
def test_the_energy_is_that_of_brute_force(labels: Labels) -> None:
    before = labels.copy()
    found = energy(labels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, energy_twin(labels), rtol=1e-6)
    assert np.array_equal(labels, before)


@settings(max_examples=8)
@given(PICTURES)
def test_the_energy_is_scipys_object_by_object(labels: Labels) -> None:
    found = energy(labels)
    assert (found[labels == 0] == 0).all()
    for k in range(1, labels.max() + 1):
        distance = distance_transform_edt(labels == k)[labels == k]
        np.testing.assert_allclose(found[labels == k], distance / np.median(distance), rtol=1e-6)


def test_the_energy_is_scipys_in_large_objects() -> None:
    shape = (300, 500)
    bent = ellipse(shape, 150, 250, 140, 190) & ~ellipse(shape, 100, 250, 60, 120)
    labels = draw([bent, ellipse(shape, 0, 0, 60, 90), ellipse(shape, 290, 480, 90, 40)])
    labels[200:220, 300:310] = 0
    for k in (1, 2, 3):
        distance = distance_transform_edt(labels == k)[labels == k]
        np.testing.assert_allclose(energy(labels)[labels == k], distance / np.median(distance), rtol=1e-6)


@given(st.one_of(SMALL, PICTURES), st.integers(0, 3), st.booleans())
@settings(max_examples=12)
def test_flips_and_quarter_turns_commute_with_the_energy(labels: Labels, turns: int, flip: bool) -> None:
    turned, expected = (np.rot90(a[:, ::-1] if flip else a, turns) for a in (labels, energy(labels)))
    assert np.array_equal(energy(turned), expected)
    assert np.array_equal(
        ALL.encode(turned)[:2], np.rot90(ALL.encode(labels)[:2, :, :: -1 if flip else 1], turns, (1, 2))
    )


@given(st.one_of(SMALL, PICTURES), st.sampled_from([40, 5000, 2**31 - 1]), st.integers(0, 10_000))
@settings(max_examples=12)
def test_ids_do_not_matter(labels: Labels, highest: int, seed: int) -> None:
    other = np.array([0, *1 + np.random.default_rng(seed).choice(highest, 40, replace=False)], np.int32)[labels]
    assert np.array_equal(energy(other), energy(labels))
    assert np.array_equal(ALL.encode(other), ALL.encode(labels))
    assert np.array_equal(ALL.targets(other), ALL.targets(labels))


@given(st.one_of(SMALL, PICTURES))
@settings(max_examples=20)
def test_the_median_is_one(labels: Labels) -> None:
    found = energy(labels)
    assert ((found > 0) == (labels > 0)).all()
    for k in np.unique(labels[labels > 0]):
        assert np.median(found[labels == k]) == pytest.approx(1)


@pytest.mark.parametrize("radius", [10, 30, 100])
def test_energies_are_alike_in_cells_of_any_size(radius: int) -> None:
    """In a disk the median distance is 1 - 1 / sqrt(2) of the radius, so that the middle has 3.4."""
    found = energy(ellipse((220, 220), 110, 110, radius, radius).astype(np.int32))
    assert found.max() == pytest.approx(3.4, rel=0.1)
    assert np.mean(found[found > 0] >= 0.8) == pytest.approx(0.59, abs=0.05)


def test_the_border_of_the_image_is_no_border_of_a_cell() -> None:
    labels = np.zeros((9, 30), np.int32)
    labels[:, :10] = 1
    assert energy(labels)[4].tolist() == pytest.approx([k / 5.5 for k in range(10, 0, -1)] + [0] * 20)
    assert energy(np.ones((5, 5), np.int32))[2].tolist() == [1, 2, 3, 2, 1]  # where there is no other


@given(SMALL)
def test_the_number_of_threads_does_not_matter(labels: Labels) -> None:
    results = np.zeros((2, *labels.shape), np.float32)
    for result, threads in zip(results, (1, 5), strict=True):
        _kernels.energy(labels, 3, result, threads)
    assert np.array_equal(results[0], results[1])


@given(
    arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([-2, -1.5, 0, 1])),
    st.integers(0, 10),
    st.integers(0, 9),
)
def test_seeds_are_the_larger_pieces_of_low_unmarked_pixels(landscape: Maps, most_dropped: int, seed: int) -> None:
    markers = np.where(np.random.default_rng(seed).random(landscape.shape) < 0.1, 7, 0).astype(np.int32)
    parts, n = components((landscape <= -1.5) & (markers == 0))
    expected, following = markers.copy(), 20
    for k in range(1, n + 1):
        if (parts == k).sum() > most_dropped:
            expected[parts == k] = following
            following += 1
    assert _kernels.add_seeds(landscape, -1.5, most_dropped, 20, markers) == following - 20
    assert np.array_equal(markers, expected)


@given(SMALL, st.integers(0, 99))
def test_sums_over_objects(labels: Labels, seed: int) -> None:
    probability, predicted, own = np.random.default_rng(seed).random((3, *labels.shape), dtype=np.float32)
    sums = np.full((3, 3), np.nan)
    _kernels.energy_sums(labels, probability, predicted, own, sums)
    for k in (1, 2, 3):
        at = labels == k
        expected = [at.sum(), probability[at].sum(), ((predicted - own)[at] ** 2).sum()]
        np.testing.assert_allclose(sums[k - 1], expected, rtol=1e-5)


# --- law 1: decoding gives the cells back ---------------------------------------------------------------------


def is_held(labels: Labels, k: int, deep: NDArray[np.bool_]) -> bool:
    """Whether the docstring promises object k, pixel by pixel."""
    inside = labels == k
    around = np.zeros(np.add(labels.shape, 2), bool)
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        around[dy : dy + labels.shape[0], dx : dx + labels.shape[1]] |= inside
    boxes = [(y.start, x.start, y.stop, x.stop) for y, x in filter(None, find_objects(labels))]
    centers = [((b[0] + b[2]) // 2, (b[1] + b[3]) // 2) for b in boxes]
    high = inside & deep
    return bool(
        components(inside)[1] == 1
        and not (labels[around[1:-1, 1:-1] & ~inside] > 0).any()
        and components(high)[1] == 1
        and high[centers[k - 1]]
        and sum(high[c] for c in centers) == 1  # no box of another object has its center here
        and sum(overlap(boxes[k - 1], b) > 0.6 for b in boxes) == 1
    )


def overlap(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """IoU of two boxes."""
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@settings(max_examples=12)
@given(st.integers(0, 10_000), st.booleans())
def test_cells_whose_center_is_deep_come_back_exactly(seed: int, two_step: bool) -> None:
    """In pictures of ellipses and bent rods, among other objects of any form."""
    labels = crowd(seed)
    deep = energy(labels) >= np.float32(0.8)
    held = [k for k in range(1, labels.max() + 1) if is_held(labels, k, deep)]
    decoded, confidence = replace(ALL, two_step=two_step).decode_scored(ALL.encode(labels))
    assert held
    for k in held:
        new = decoded[labels == k][0]
        assert new > 0
        assert np.array_equal(decoded == new, labels == k)
        assert confidence[new - 1] == 1


@given(st.floats(2, 20), st.floats(2, 20), st.floats(0, 3.2), *[st.floats(23, 24)] * 2)
def test_every_ellipse_comes_back(a: float, b: float, angle: float, y: float, x: float) -> None:
    labels = ellipse((48, 48), y, x, a, b, angle).astype(np.int32)
    for decoder in (WatershedEnergy(), WatershedEnergy(two_step=False)):
        decoded, confidence = decoder.decode_scored(decoder.encode(labels))
        assert np.array_equal(decoded, labels)
        assert confidence.tolist() == [1.0]


@pytest.mark.parametrize("seed", range(5))
def test_cells_that_fill_the_image_come_back(seed: int) -> None:
    """All but the rims that go to smaller neighbours."""
    labels = voronoi(seed)
    decoded = ALL.decode(ALL.encode(labels))
    assert match(labels, decoded, iou=0.7).f1 == 1
    deep = energy(labels) > 0.8
    assert same_cells(np.where(deep, decoded, 0), np.where(deep, labels, 0))


@pytest.mark.parametrize("height", [3, 4, 7])
@pytest.mark.parametrize("width", [3, 6, 9])
def test_walls_of_tiles_come_back(height: int, width: int) -> None:
    labels = np.pad(tiles(4, 5, height, width), 1)
    assert same_cells(ALL.decode(ALL.encode(labels)), labels)


@settings(max_examples=5)
@given(PICTURES)
def test_flips_and_quarter_turns_commute_with_the_round_trip(labels: Labels) -> None:
    """Boxes of even sides have their center in one of two pixels; few cells depend on which."""
    decoded = ALL.decode(ALL.encode(labels))
    for turned, other in ((labels[:, ::-1], decoded[:, ::-1]), (np.rot90(labels), np.rot90(decoded))):
        assert match(ALL.decode(ALL.encode(turned)), other, iou=0.5).f1 >= 0.9


@pytest.mark.parametrize(
    ("recipe", "least"),
    [("nuclei", 0.99), ("tissue_nuclei", 0.99), ("bacteria", 0.97), ("yeast", 0.99), ("whole_cells", 0.97)],
)
def test_simulated_cells_come_back(recipe: str, least: float) -> None:
    """F1@0.5; bacteria are thin or bent, the last are confluent."""
    matched = objects = 0
    for picture in islice(stream(recipe, size=(256, 256)), 3):
        labels, _ = clean_labels(picture.labels)
        found = match(labels, ALL.decode(ALL.encode(labels)), iou=0.5)
        matched, objects = matched + 2 * found.tp, objects + 2 * found.tp + found.fp + found.fn
    assert objects > 2 * 20
    assert matched / objects >= least


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("dataset", "images", "least"),
    [("dsb2018", 10, 0.995), ("bbbc039", 2, 0.995), ("bitdepth_nucseg", 2, 0.985), ("usiigaci_phase", 2, 0.98)],
)
def test_real_labels_come_back(shared_data: Path, dataset: str, images: int, least: float) -> None:
    """F1@0.5 over every k-th image to train on; the second step never makes it worse."""
    from PIL import Image as PillowImage

    with (shared_data / "splits.csv").open() as table:
        stems = [r["stem"] for r in csv.DictReader(table) if r["dataset"] == dataset and r["split"] in ("train", "val")]
    matched, objects = np.zeros((2, 2))
    for stem in sorted(stems)[:: len(stems) // images][:images]:
        raw = np.asarray(PillowImage.open(shared_data / dataset / "labels" / f"{stem}.png"))
        labels, _ = clean_labels(raw.astype(np.int32))
        for k, two_step in enumerate((False, True)):
            found = match(labels, replace(ALL, two_step=two_step).decode(ALL.encode(labels)), iou=0.5)
            matched[k] += 2 * found.tp
            objects[k] += 2 * found.tp + found.fp + found.fn
    assert objects[1] > 2 * 100
    assert matched[1] / objects[1] >= least
    assert matched[1] / objects[1] >= matched[0] / objects[0]


# --- the second step ------------------------------------------------------------------------------------------


def test_the_second_step_finds_bent_cells() -> None:
    """The middle of a crescent's box is not in it."""
    arc = ellipse((60, 60), 30, 30, 24, 24) & ~ellipse((60, 60), 20, 30, 22, 22)
    labels = draw([arc, ellipse((60, 60), 16, 30, 7, 7)])
    assert labels.max() == 2
    maps = ALL.encode(labels)
    assert same_cells(ALL.decode(maps), labels)
    assert match(labels, replace(ALL, two_step=False).decode(maps), iou=0.5).tp == 1


def test_the_second_step_finds_tilted_cells_that_suppression_loses() -> None:
    """Long cells side by side: their boxes overlap by more than 0.6, only one is kept (the paper's Sec. 4.5)."""
    labels = draw([rod((90, 90), 45 + k, 45 - k, 70, 4.2, 0.78, 0.0) for k in (-3.4, 3.4)])
    assert labels.max() == 2
    maps = ALL.encode(labels)
    steps = ALL.decode_steps(maps)
    assert len(steps.boxes) == 2
    assert len(steps.kept) == len(steps.centers) == 1
    assert match(labels, steps.labels, iou=0.8).f1 == 1
    assert match(labels, replace(ALL, two_step=False).decode(maps), iou=0.5).f1 < 1
    assert (steps.confidence > 0.9).all()  # the box that was left out speaks for its cell


def test_a_seed_needs_over_five_pixels_of_high_energy() -> None:
    maps = np.zeros((5, 12, 24), np.float32)
    maps[0, 2:10, 2:22] = 1
    maps[1, 2:10, 2:22] = 0.5
    maps[1, 4, 4:9], maps[1, 4, 14:20] = 1.25, 1.25
    labels, confidence = ALL.decode_scored(maps)
    assert np.array_equal(labels > 0, maps[0] > 0)
    assert labels.max() == len(confidence) == 1
    maps[1, 4, 9] = 1.25
    assert ALL.decode(maps).max() == 2
    maps[1] = np.minimum(maps[1], 1.24)
    assert ALL.decode(maps).max() == 0


def test_centers_in_low_energy_are_no_markers() -> None:
    maps = ALL.encode(ellipse((40, 40), 20, 20, 12, 12).astype(np.int32))
    maps[2:, 20, 20] = 0
    maps[2:, 20, 9] = [0.9, 24, 24]  # near the rim
    one_step = replace(ALL, two_step=False)
    assert one_step.decode(maps).max() == 0
    assert ALL.decode(maps).max() == 1
    assert replace(one_step, first=0.2).decode(maps).max() == 1


def test_steps_of_a_decoding() -> None:
    labels = draw([ellipse((50, 90), 20, 20, 10, 12), ellipse((50, 90), 25, 60, 12, 8)])
    maps = ALL.encode(labels)
    maps[2:, 22, 62] = [0.5, 24, 17]  # nearly the second box again
    maps[2:, 25, 60] = 0
    maps[2:, 5, 40] = [0.3, 8, 8]  # in the background
    maps[2:, 6, 6] = [0.1, 8, 8]  # below `confidence`
    steps = ALL.decode_steps(maps)
    assert steps.scores.tolist() == pytest.approx([0.3, 1, 0.5])
    assert steps.boxes[0].tolist() == [1.5, 36.5, 9.5, 44.5]
    assert steps.kept.tolist() == [1, 2, 0]
    assert steps.centers.tolist() == [[20, 20], [22, 62]]
    assert set(np.unique(steps.markers)) == {0, 1, 2}
    assert same_cells(steps.labels, labels)
    assert steps.confidence.tolist() == pytest.approx([1, 0.5])
    rescued = ALL.decode_steps(np.concatenate([maps[:2], 0 * maps[2:]]))
    assert len(rescued.boxes) == len(rescued.centers) == 0
    assert same_cells(rescued.labels, labels)
    assert rescued.confidence.tolist() == pytest.approx([0.2, 0.2])


# --- decoding -------------------------------------------------------------------------------------------------


def test_small_objects_are_dropped_under_a_fifth_of_the_mean_area() -> None:
    masks = [ellipse((60, 200), 30, 30 + 45 * k, 14, 14) for k in range(4)]
    labels = draw([*masks, ellipse((60, 200), 8, 52, 5, 5), ellipse((60, 200), 52, 52, 3, 3)])
    sizes = np.bincount(labels.ravel())[1:]
    assert sizes[5] < sizes[4] < sizes.mean() / 5 < 150
    maps = ALL.encode(labels)
    assert ALL.decode(maps).max() == 6
    assert WatershedEnergy(largest_dropped=50).decode(maps).max() == 5
    kept = WatershedEnergy().decode(maps)
    assert same_cells(kept, np.where(labels < 5, labels, 0))


def test_confidence_falls_with_the_probability_the_score_and_the_fit() -> None:
    labels = ellipse((40, 40), 20, 20, 12, 12).astype(np.int32)
    maps = ALL.encode(labels)
    for factor in ([0.8, 1, 1, 1, 1], [1, 0.8, 1, 1, 1], [1, 1, 0.8, 1, 1]):
        changed = maps * np.array(factor, np.float32)[:, None, None]
        assert same_cells(ALL.decode(changed), labels)
        (confidence,) = ALL.decode_scored(changed)[1]
        error = np.mean((0.2 * maps[1][labels > 0]) ** 2)
        assert confidence == pytest.approx(np.exp(-error) if factor[1] < 1 else 0.8, rel=1e-5)


def test_the_shape_of_a_cell_at_the_border_is_not_held_against_it() -> None:
    labels = ellipse((40, 40), 20, 4, 12, 12).astype(np.int32)
    maps = ALL.encode(labels)
    maps[1] *= 0.8
    assert ALL.decode_scored(maps)[1].tolist() == [1.0]


def test_ids_follow_a_scan_by_rows() -> None:
    labels = ALL.decode(ALL.encode(crowd(3)))
    ids, first = np.unique(labels, return_index=True)
    assert np.array_equal(ids[1:][np.argsort(first[1:])], np.arange(1, labels.max() + 1))


def test_of_two_boxes_in_one_pixel_the_owner_stays_then_the_larger() -> None:
    ring = ellipse((31, 31), 15, 15, 14, 14) & ~ellipse((31, 31), 15, 15, 9, 9)
    labels = draw([ring, ellipse((31, 31), 15, 15, 5, 5)])
    for turned in (labels, 3 - labels * (labels > 0) - 3 * (labels == 0)):
        assert ALL.encode(turned)[3:, 15, 15].tolist() == [11, 11]
    labels[10:21, 10:21][labels[10:21, 10:21] == 2] = 0
    inner = ellipse((31, 31), 15, 15, 8, 8) & ~ellipse((31, 31), 15, 15, 5, 5)
    for first, second in ((ring, inner), (inner, ring)):
        assert ALL.encode(draw([first, second]))[3:, 15, 15].tolist() == [29, 29]


NUMBERS = st.one_of(st.floats(-1, 9, width=32), st.floats(width=32))


@settings(max_examples=40)
@given(arrays(np.float32, st.tuples(st.just(5), st.integers(0, 7), st.integers(0, 7)), elements=NUMBERS), st.booleans())
def test_any_numbers_decode(maps: Maps, two_step: bool) -> None:
    """NaN, infinity and the largest numbers included; nothing is changed in place."""
    before = maps.copy()
    labels, confidence = replace(ALL, confidence=0, two_step=two_step).decode_scored(maps)
    assert labels.dtype == np.int32
    assert labels.shape == maps.shape[1:]
    assert np.array_equal(np.unique(labels[labels > 0]), np.arange(1, len(confidence) + 1))
    assert confidence.dtype == np.float32
    assert ((confidence >= 0) & (confidence <= 1)).all()
    assert not (labels[~(maps[0] > 0.5)] > 0).any()
    assert not (labels[~np.isfinite(maps[:2]).all(axis=0)] > 0).any()
    assert np.array_equal(maps, before, equal_nan=True)


def test_nan_leaves_the_rest_as_it_is() -> None:
    labels = crowd(0)
    maps = ALL.encode(labels)
    decoded = ALL.decode(maps)
    k = int(labels.max())
    spoiled = maps.copy()
    spoiled[1, labels == k] = np.nan
    spoiled[3, 0, 0] = np.inf
    again = ALL.decode(spoiled)
    assert (again[labels == k] == 0).all()
    touching = np.unique(decoded[labels == k])
    others = ~np.isin(decoded, touching) & (decoded > 0)
    assert match(np.where(others, decoded, 0), np.where(others, again, 0), iou=0.7).f1 == 1


ODD = {
    "nothing": np.zeros((7, 9), np.int32),
    "one pixel of a cell": np.ones((1, 1), np.int32),
    "a cell of one pixel": np.pad(np.ones((1, 1), np.int32), 4),
    "a whole image": np.ones((6, 5), np.int32),
    "one row": np.repeat(np.array([0, 1, 0, 2, 0, 3], np.int32), [4, 9, 1, 7, 3, 11])[None],
    "one column": np.repeat(np.array([1, 0, 2, 0, 3], np.int32), [7, 1, 9, 1, 5])[:, None],
    "large ids": np.pad(np.full((3, 4), 2**31 - 1, np.int32), 2),
}


@pytest.mark.parametrize("labels", ODD.values(), ids=ODD)
def test_odd_images_come_back(labels: Labels) -> None:
    decoded, confidence = WatershedEnergy().decode_scored(WatershedEnergy().encode(labels))
    assert decoded.shape == labels.shape
    assert same_cells(decoded, labels)
    assert confidence.tolist() == [1.0] * len(np.unique(labels[labels > 0]))
    assert WatershedEnergy().targets(labels).shape == (3, *labels.shape)


def test_no_pixels() -> None:
    for shape in ((0, 0), (0, 5), (5, 0)):
        maps = ALL.encode(np.zeros(shape, np.int32))
        assert maps.shape == (5, *shape)
        assert ALL.targets(np.zeros(shape, np.int32)).shape == (3, *shape)
        assert energy(np.zeros(shape, np.int32)).shape == shape
        labels, confidence = ALL.decode_scored(maps)
        assert labels.shape == shape
        assert len(confidence) == 0


def test_a_constant_map() -> None:
    for value in (0.0, 1.0, 2.0):
        labels, _ = ALL.decode_scored(np.full((5, 20, 20), value, np.float32))
        assert len(np.unique(labels)) <= 400
    only_energy = np.zeros((5, 20, 20), np.float32)
    only_energy[:2] = 2
    assert (ALL.decode(only_energy) == 1).all()


def test_70000_cells_within_ten_seconds() -> None:
    labels = np.pad(tiles(265, 265, 4, 4), 1)
    started = time.process_time()
    decoded, confidence = WatershedEnergy().decode_scored(WatershedEnergy().encode(labels))
    assert time.process_time() - started < 10
    assert len(confidence) == 70_225
    assert np.array_equal(decoded, labels)
    targets = WatershedEnergy().targets(labels)
    assert targets[1].max() == 2047


@pytest.mark.parametrize(
    "options",
    [
        {"probability_threshold": 1.5},
        {"confidence": -0.1},
        {"nms_iou": float("nan")},
        {"first": 0},
        {"second": 0.5},
        {"first": float("nan")},
        {"second": float("inf")},
        {"largest_dropped": -1},
    ],
)
def test_bad_parameters_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        WatershedEnergy(**options)  # type: ignore[arg-type]


def test_bad_maps_and_labels_are_refused() -> None:
    for shape in ((3, 8, 8), (5, 8), (1, 5, 8, 8)):
        with pytest.raises(InputError, match=r"foreground, energy, score, height, width"):
            ALL.decode(np.zeros(shape, np.float32))
    for make in (energy, ALL.encode, ALL.targets):
        with pytest.raises(InputError, match="fractions or NaN"):
            make(np.full((3, 3), np.nan))  # type: ignore[arg-type]
        with pytest.raises(InputError, match="2 dimensions"):
            make(np.zeros((2, 3, 3), np.int32))
    for labels in (np.full((2, 2), 5, np.int32), np.full((2, 2), -1, np.int32)):
        with pytest.raises(ValueError, match="id"):
            _kernels.energy(labels, 4, np.zeros((2, 2), np.float32))


# --- targets, moved and resized maps --------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.one_of(SMALL, PICTURES))
def test_targets_are_energy_code_and_size(labels: Labels) -> None:
    before = labels.copy()
    targets = ALL.targets(labels)
    assert targets.dtype == np.float32
    assert np.array_equal(targets[0], energy(labels))
    ids, first = np.unique(labels[labels > 0], return_index=True)
    for code, k in enumerate(ids[np.argsort(first)], start=1):
        assert (targets[1][labels == k] == code).all()
        np.testing.assert_allclose(targets[2][labels == k], np.sqrt((labels == k).sum()), rtol=1e-6)
    assert (targets[:, labels == 0] == 0).all()
    assert np.array_equal(targets[1], targets[1].astype(np.float16))
    assert np.array_equal(labels, before)


def test_codes_begin_again_after_2047() -> None:
    labels = np.pad(tiles(50, 50, 2, 2), 1)
    codes = ALL.targets(labels)[1][1:-1:2, 1:-1:2].ravel()
    assert codes[:2047].tolist() == list(range(1, 2048))
    assert codes[2047:].tolist() == list(range(1, 2500 - 2047 + 1))


def test_boxes_of_targets_are_the_boxes_of_the_cells() -> None:
    labels = crowd(4)
    _, code, size = torch.from_numpy(ALL.targets(labels))
    found = true_boxes(code[None], size[None])
    boxes = np.array([(y.start, x.start, y.stop, x.stop) for y, x in find_objects(labels)])
    assert found.counts.all()
    assert sorted(found.boxes.tolist()) == sorted(boxes.tolist())
    half = true_boxes(code[None, :48], size[None, :48])
    shares = [(labels[:48] == k).sum() / (labels == k).sum() for k in range(1, labels.max() + 1)]
    assert int(half.counts.sum()) == sum(share >= 0.2 for share in shares)


def test_sizes_scale_with_the_matrix() -> None:
    targets = torch.from_numpy(ALL.targets(crowd(1)))[None].expand(3, -1, -1, -1)
    matrices = torch.stack([torch.diag(torch.tensor(d)) for d in ([2.0, 2.0], [1.0, -1.0], [0.5, 2.0])])
    moved = ALL.transform(targets, matrices)
    torch.testing.assert_close(moved[:, :2], targets[:, :2])
    torch.testing.assert_close(moved[:, 2], targets[:, 2] * torch.tensor([2.0, 1.0, 1.0])[:, None, None])


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_flips_and_quarter_turns_commute_with_encode(turns: int, flip: bool) -> None:
    """Boxes of odd sides; a center between two pixels cannot be mirrored."""
    labels = draw([ellipse((41, 51), 20, 15, 9, 12), ellipse((41, 51), 12, 40, 8, 5), ellipse((41, 51), 30, 36, 7, 7)])
    maps = ALL.encode(labels)
    turned, pixels = (np.rot90(a[..., :: -1 if flip else 1], turns, (-2, -1)).copy() for a in (labels, maps))
    matrix = np.linalg.matrix_power([[0, -1], [1, 0]], turns) @ np.diag([1, -1 if flip else 1])
    expected = ALL.transform(torch.from_numpy(pixels)[None], torch.from_numpy(matrix)[None].float())[0].numpy()
    assert np.array_equal(ALL.encode(turned), expected)


def test_rescaled_maps_fit_the_resized_labels() -> None:
    labels = voronoi(0)
    maps = ALL.encode(labels)
    before = maps.copy()
    large = np.stack([resize_labels(m, 270, 300) for m in ALL.rescale(maps, 3.0)])  # type: ignore[arg-type]
    assert np.array_equal(maps, before)
    expected = ALL.encode(resize_labels(labels, 270, 300))
    assert np.array_equal(np.unique(large[3:]), np.unique(expected[3:]))
    assert np.array_equal(large[:3], np.stack([resize_labels(m, 270, 300) for m in maps[:3]]))  # type: ignore[arg-type]


# --- what a net gives -----------------------------------------------------------------------------------------


def numbers(batch: int, rows: int, columns: int) -> torch.Tensor:
    """Numbers of a head that finds nothing."""
    raw = torch.zeros(batch, 3, 6, rows, columns)
    raw[:, :, 4:] = -20
    return raw


def test_anchors_become_lone_points() -> None:
    raw = numbers(2, 4, 5)
    raw[0, 1, :, 2, 3] = torch.tensor([0.0, 0.0, 0.0, 0.0, 3.0, 2.0])  # in the middle of its cell, as large as anchor 1
    raw[0, 0, :, 2, 3] = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 2.0])  # the same pixel, a lower score
    raw[1, 2, :, 0, 0] = torch.tensor([-9.0, -9.0, 0.0, 0.0, 3.0, 2.0])  # its center lies outside
    outputs = torch.randn(2, 2, 32, 40)
    maps = ALL.from_output(output(outputs, raw))
    assert maps.shape == (2, 5, 32, 40)
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps[:, 0], torch.sigmoid(outputs[:, 0]))
    torch.testing.assert_close(maps[:, 1], outputs[:, 1])
    best = torch.sigmoid(torch.tensor(3.0)) * torch.sigmoid(torch.tensor(2.0))
    torch.testing.assert_close(maps[0, 2:, 20, 28], torch.tensor([best, 46.0, 46.0]))
    assert int((maps[:, 2] > 0.01).sum()) == 1
    assert ((maps[:, 2] > 0) == (maps[:, 3] > 0)).all()
    assert int((maps[0, 2] > 0).sum()) == 4 * 5


@given(st.integers(0, 1000))
@settings(max_examples=10)
def test_the_best_anchor_of_a_pixel_stays(seed: int) -> None:
    """Compared with a loop."""
    from cellweave.representations.boxes import decode_boxes

    torch.manual_seed(seed)
    raw = torch.randn(1, 3, 6, 3, 2).mul(2)
    raw[0, 2] = raw[0, 1]  # equal boxes but for their sides
    expected = torch.zeros(3, 24, 16)
    boxes, scores = (v[0] for v in decode_boxes(raw))
    for box, score in zip(boxes, scores, strict=True):
        y, x = (int(v) for v in torch.floor((box[:2] + box[2:]) / 2))
        if 0 <= y < 24 and 0 <= x < 16 and score > expected[0, y, x]:
            expected[:, y, x] = torch.tensor([score, box[2] - box[0], box[3] - box[1]])
    torch.testing.assert_close(ALL.from_output(output(torch.zeros(1, 2, 24, 16), raw))[0, 2:], expected)


def test_half_precision_and_no_gradients_are_fine() -> None:
    maps = ALL.from_output(output(torch.zeros(1, 2, 16, 16, dtype=torch.bfloat16), numbers(1, 2, 2).bfloat16()))
    assert maps.dtype == torch.float32
    assert torch.isfinite(maps).all()


def test_nets_without_boxes_are_refused() -> None:
    maps, target = torch.zeros(1, 2, 16, 16), torch.zeros(1, 3, 16, 16)
    with pytest.raises(InputError, match=r"gives no boxes.*AnchorUNet"):
        ALL.from_output(output(maps))
    with pytest.raises(InputError, match=r"gives no boxes.*AnchorUNet"):
        ALL.loss(output(maps), target)
    with pytest.raises(InputError, match=r"3 maps.*out_maps=2"):
        ALL.from_output(output(torch.zeros(1, 3, 16, 16), numbers(1, 2, 2)))
    with pytest.raises(InputError, match="anchors"):
        ALL.from_output(output(maps, torch.zeros(1, 2, 6, 2, 2)))


def test_the_loss_is_the_papers() -> None:
    torch.manual_seed(0)
    target = torch.from_numpy(np.stack([ALL.targets(crowd(k, (64, 64))) for k in (0, 1)]))
    maps, raw = torch.randn(2, 2, 64, 64), torch.randn(2, 3, 6, 8, 8)
    inside, found = (target[:, 1] > 0).float(), torch.sigmoid(maps[:, 0])
    entropy = -(inside * found.log() + (1 - inside) * (1 - found).log()).mean()
    segmentation = entropy + ((maps[:, 1] - target[:, 0]) ** 2).mean()
    detection = detection_loss(raw, true_boxes(target[:, 1], target[:, 2]))
    expected = 32 * (detection + 0.1 * segmentation)
    torch.testing.assert_close(ALL.loss(output(maps, raw), target), expected)
    half = ALL.loss(output(maps, raw), target.half())  # as targets are kept
    torch.testing.assert_close(half, expected, rtol=1e-3, atol=1e-3)


def test_a_loss_falls_to_where_the_cells_are_found() -> None:
    """Maps and numbers themselves are fitted to one picture: the loss leads decoding to the truth."""
    torch.manual_seed(0)
    labels = draw(
        [ellipse((64, 64), 18, 20, 11, 11), ellipse((64, 64), 45, 40, 14, 9), ellipse((64, 64), 20, 46, 8, 9)]
    )
    target = torch.from_numpy(ALL.targets(labels))[None]
    maps, raw = torch.zeros(1, 2, 64, 64, requires_grad=True), torch.zeros(1, 3, 6, 8, 8, requires_grad=True)
    optimiser = torch.optim.Adam([maps, raw], lr=0.4)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = ALL.loss(output(maps, raw), target)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    decoded = ALL.decode_steps(ALL.from_output(output(maps.detach(), raw.detach()))[0].numpy())
    assert same_cells(decoded.labels, labels)
    assert len(decoded.centers) == 3
    assert (decoded.confidence > 0.5).all()


def test_a_picture_without_cells_has_a_loss() -> None:
    maps, raw = torch.randn(2, 2, 32, 32, requires_grad=True), torch.randn(2, 3, 6, 4, 4, requires_grad=True)
    loss = ALL.loss(output(maps, raw), torch.zeros(2, 3, 32, 32))
    assert torch.isfinite(loss)
    gradients = torch.autograd.grad(loss, [maps, raw], allow_unused=True, materialize_grads=True)
    assert all(torch.isfinite(g).all() for g in gradients)
    softer = F.binary_cross_entropy_with_logits(maps[:, 0], torch.zeros(2, 32, 32)) + maps[:, 1].square().mean()
    torch.testing.assert_close(loss, 3.2 * softer)


def test_a_saved_model_knows_the_name() -> None:
    assert REPRESENTATIONS["WatershedEnergy"] is WatershedEnergy
    assert WatershedEnergy.points == 3
    assert WatershedEnergy().map_names == ("probability", "energy", "score", "height", "width")
