"""Pixel voting and majority voting equal a count by hand, and SimpleITK's filter."""

from collections import Counter

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from cellweave.fusion import majority_voting, pixel_voting
from fusion.raters import Labels, as_sitk, label_stacks, regions


def majority_by_hand(labels: Labels, weights: list[int], undecided: int) -> Labels:
    fused = np.empty(labels.shape[1:], np.int32)
    for pixel in np.ndindex(*fused.shape):
        votes: Counter[int] = Counter()
        for label, weight in zip(labels[:, *pixel].tolist(), weights, strict=True):
            votes[label] += weight
        best = [label for label, n in votes.items() if n == max(votes.values())]
        fused[pixel] = best[0] if len(best) == 1 else undecided
    return fused


def weights_for(labels: Labels) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, 3), min_size=len(labels), max_size=len(labels)).filter(any)


@given(label_stacks(), st.data(), st.sampled_from([0, 9]))
def test_majority_equals_a_count(labels: Labels, data: st.DataObject, undecided: int) -> None:
    weights = data.draw(weights_for(labels))
    present = [image if weight else None for image, weight in zip(labels, weights, strict=True)]
    expected = majority_by_hand(labels[np.array(weights) > 0], [w for w in weights if w], undecided)
    fused = majority_voting(labels, weights=weights, undecided=undecided)
    assert fused.dtype == np.int32
    assert (fused == expected).all()
    assert (majority_voting(present, weights=np.array(weights) / 7, undecided=undecided) == expected).all()


@given(label_stacks(), st.data())
def test_pixels_equal_a_count(labels: Labels, data: st.DataObject) -> None:
    weights = data.draw(weights_for(labels))
    share = np.average(labels > 0, axis=0, weights=weights)
    fused = pixel_voting(labels, weights=weights)
    assert fused.dtype == np.bool_
    assert (fused == (share > 0.5 + 1e-12)).all()


@given(label_stacks(raters=(1, 6)))
def test_majority_equals_simpleitk_on_random_labels(labels: Labels) -> None:
    expected = sitk.GetArrayFromImage(sitk.LabelVoting(as_sitk(labels), 77))
    assert (majority_voting(labels, undecided=77) == expected).all()


@pytest.mark.parametrize("raters", [2, 3, 4, 5])
def test_majority_equals_simpleitk_on_drawn_labels(raters: int) -> None:
    labels = regions(raters, raters, shape=(256, 250))
    expected = sitk.GetArrayFromImage(sitk.LabelVoting(as_sitk(labels), 77))
    assert (majority_voting(labels, undecided=77) == expected).all()


@given(label_stacks(), st.data())
def test_laws(labels: Labels, data: st.DataObject) -> None:
    majority, pixels = majority_voting(labels), pixel_voting(labels)
    order = data.draw(st.permutations(range(len(labels))))
    assert (majority_voting(labels[order]) == majority).all()
    assert (pixel_voting(labels[order]) == pixels).all()

    assert (majority_voting([labels[0]] * 3) == labels[0]).all()
    assert (pixel_voting([labels[0]] * 3) == (labels[0] > 0)).all()

    weights = np.arange(1, len(labels) + 1)
    repeated = np.repeat(labels, weights, axis=0)
    assert (majority_voting(labels, weights=weights) == majority_voting(repeated)).all()
    assert (pixel_voting(labels, weights=weights) == pixel_voting(repeated)).all()

    renamed = np.array([0, *data.draw(st.permutations(range(1, 5)))], np.int32)
    assert (majority_voting(renamed[labels]) == renamed[majority]).all()
    assert (pixel_voting(renamed[labels]) == pixels).all()


def test_weights_that_do_not_add_up_exactly_still_tie() -> None:
    labels = np.array([[[1]], [[1]], [[1]], [[2]]])
    weights = np.array([0.1, 0.1, 0.1, 0.3])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        assert majority_voting(labels[order], weights=weights[order], undecided=9).item() == 9


def test_an_empty_picture_stays_empty() -> None:
    empty = [np.zeros((0, 4), np.int32)] * 3
    assert majority_voting(empty).shape == (0, 4)
    assert pixel_voting(empty).shape == (0, 4)
