"""Matching of objects between raters, and instances fused by each method."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import binary_fill_holes, label

from cellweave.core.errors import InputError
from cellweave.fusion import METHODS, fuse_instances, match_ids, pixel_voting
from cellweave.metrics import match
from drawing import crowd, voronoi
from fusion.raters import Labels, label_stacks, rater_of, same_partition


@given(label_stacks(raters=(1, 4)), st.sampled_from([0.1, 0.25, 0.6]), st.data())
def test_matching_laws(labels: Labels, iou: float, data: st.DataObject) -> None:
    matched = np.stack([image for image in match_ids(labels, iou=iou) if image is not None])
    for before, after in zip(labels, matched, strict=True):
        assert same_partition(before, after)
    ids = np.unique(matched[matched > 0])
    assert ids.tolist() == list(range(1, len(ids) + 1))

    order = data.draw(st.permutations(range(len(labels))))
    other = [image for image in match_ids(labels[order], iou=iou) if image is not None]
    assert (np.stack(other) == matched[order]).all()
    renamed = np.array([0, *data.draw(st.permutations([3, 40, 500, 2**31 - 1]))], np.int32)
    assert (np.stack([renamed[image] for image in labels]) > 0).tolist() == (matched > 0).tolist()
    assert (np.stack(match_ids(list(renamed[labels]), iou=iou)) == matched).all()


@given(label_stacks(raters=(2, 2)))
def test_two_raters_join_every_pair_over_one_half(labels: Labels) -> None:
    """No object has two partners above 1/2, so that all such pairs are joined, and no other."""
    one, other = match_ids(labels, iou=0.500001)
    found = match(labels[0], labels[1], iou=0.500001)
    for a, b in zip(found.truth_ids, found.predicted_ids, strict=True):
        assert one is not None
        assert other is not None
        assert one[labels[0] == a][0] == other[labels[1] == b][0]
    assert len(np.intersect1d(one[one > 0], other[other > 0])) == found.tp


def test_shifted_cells_are_matched_and_missing_raters_stay_missing() -> None:
    truth = crowd(0)
    moved = np.roll(truth, (2, 1), (0, 1))
    one, none, other = match_ids([truth, None, moved])
    assert none is None
    assert one is not None
    assert other is not None
    inside = (one > 0) & (other > 0)
    assert (one == other)[inside].mean() > 0.7


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_copies_of_one_segmentation_give_it(method: str, seed: int) -> None:
    truth = (crowd, voronoi, crowd)[seed](seed)
    rng = np.random.default_rng(seed)
    copies = [np.append(0, rng.permutation(truth.max()) + 1)[truth] for _ in range(4)]
    fused = fuse_instances(copies, method)
    assert fused.dtype == np.int32
    assert same_partition(fused, truth)
    assert (fuse_instances([copies[0]], method) > 0).tolist() == (truth > 0).tolist()


@pytest.mark.parametrize("method", METHODS)
@given(labels=label_stacks(raters=(1, 4)), data=st.data())
def test_laws(method: str, labels: Labels, data: st.DataObject) -> None:
    before = labels.copy()
    for instances in ("matched", "components"):
        options: Any = {"instances": instances, "min_size": 1}
        fused = fuse_instances(labels, method, **options)
        assert (labels == before).all()
        ids = np.unique(fused[fused > 0])
        assert ids.tolist() == list(range(1, len(ids) + 1))
        order = data.draw(st.permutations(range(len(labels))))
        assert same_partition(fuse_instances(labels[order], method, **options), fused)
        renamed = np.array([0, *data.draw(st.permutations([3, 40, 500, 6]))], np.int32)
        assert (fuse_instances(renamed[labels], method, **options) == fused).all()
        weights = [1] * (len(labels) + 1) + [0]
        absent = fuse_instances([None, *labels, labels[0]], method, weights=weights, **options)
        assert (absent == fused).all()


@given(label_stacks(raters=(1, 4)))
def test_components_are_those_of_the_fused_foreground(labels: Labels) -> None:
    """With their holes."""
    fused, voted = fuse_instances(labels, "pixel_voting", instances="components", min_size=1), pixel_voting(labels)
    assert same_partition(np.where(voted, fused, 0).astype(np.int32), label(voted)[0].astype(np.int32))
    assert ((fused > 0) == binary_fill_holes(voted)).all()


@given(label_stacks(raters=(1, 4)))
def test_pixel_voting_of_matched_objects_stays_in_its_foreground(labels: Labels) -> None:
    fused = fuse_instances(labels, "pixel_voting", min_size=1) > 0
    assert not (fused & ~binary_fill_holes(pixel_voting(labels))).any()


@pytest.mark.parametrize("method", METHODS)
def test_overlaps_of_different_objects_are_no_object(method: str) -> None:
    """Two raters see two neighbours whose strip in common is too small to be the same cell; a third sees nothing."""
    left, right = np.zeros((2, 20, 40), np.int32)
    left[4:16, 4:20], right[4:16, 15:33] = 1, 1
    assert not fuse_instances([left, right, np.zeros_like(left)], method).any()


@pytest.mark.parametrize("method", METHODS)
def test_objects_are_connected_large_enough_and_without_holes(method: str) -> None:
    drawn = np.zeros((20, 40), np.int32)
    drawn[2:12, 2:14], drawn[5:7, 5:7] = 1, 0
    drawn[2:12, 20:30], drawn[:, 25] = 2, 0
    drawn[15:17, 2:5] = 3
    expected = np.zeros_like(drawn)
    expected[2:12, 2:14], expected[2:12, 20:25], expected[2:12, 26:30] = 1, 2, 3
    assert (fuse_instances([drawn] * 3, method) == expected).all()
    assert fuse_instances([drawn] * 3, method, min_size=6).max() == 4


@pytest.mark.parametrize("method", METHODS)
def test_partial_reporters_together_find_more_than_one_of_them(method: str) -> None:
    fused_f1, single_f1, component_f1 = [], [], []
    for seed in range(4):
        truth = voronoi(seed) if seed % 2 else crowd(seed)
        raters = [rater_of(truth, 10 * seed + k) for k in range(5)]
        single_f1 += [match(truth, rater).f1 for rater in raters]
        fused_f1.append(match(truth, fuse_instances(raters, method)).f1)
        component_f1.append(match(truth, fuse_instances(raters, method, instances="components")).f1)
    assert np.mean(fused_f1) > np.mean(single_f1)
    assert np.mean(fused_f1) > np.mean(component_f1)


def test_a_rater_that_merges_two_cells_is_outvoted() -> None:
    right = np.zeros((10, 20), np.int32)
    right[2:8, 2:10], right[2:8, 10:18] = 1, 2
    merged = (right > 0).astype(np.int32)
    for method in METHODS:
        assert same_partition(fuse_instances([right, merged, right], method), right)


@pytest.mark.parametrize("method", METHODS)
def test_empty_pictures(method: str) -> None:
    for shape in ((2, 0, 4), (2, 3, 4)):
        for instances in ("matched", "components"):
            fused = fuse_instances(np.zeros(shape, np.int32), method, instances=instances)
            assert (fused.shape, fused.dtype, fused.any()) == (shape[1:], np.int32, False)


def test_input_errors_say_the_fact() -> None:
    image = np.ones((2, 3), np.int32)
    with pytest.raises(InputError, match="method is 'mean'; use one of pixel_voting"):
        fuse_instances([image], "mean")
    with pytest.raises(InputError, match="instances is 'own'"):
        fuse_instances([image], instances="own")
    with pytest.raises(InputError, match="iou is 0;"):
        match_ids([image, image], iou=0)
    with pytest.raises(InputError, match="all of 1 raters"):
        fuse_instances([None])
