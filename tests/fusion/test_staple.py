"""STAPLE equals SimpleITK's filter and a version that visits every pixel."""

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.fusion import staple
from fusion.raters import Labels, as_sitk, label_stacks, regions

Floats = NDArray[np.float64]


def by_pixel(masks: NDArray[np.bool_], rounds: int) -> tuple[Floats, Floats, Floats]:
    """The formulas of the paper as they stand, for a given number of rounds."""
    decided = masks.reshape(len(masks), -1).astype(float)
    inside = decided.mean(axis=0)
    prior = inside.mean()
    for _ in range(rounds):
        p = (inside * decided).sum(axis=1) / inside.sum()
        q = ((1 - inside) * (1 - decided)).sum(axis=1) / (1 - inside).sum()
        a = prior * np.prod(np.where(decided > 0, p[:, None], 1 - p[:, None]), axis=0)
        b = (1 - prior) * np.prod(np.where(decided > 0, 1 - q[:, None], q[:, None]), axis=0)
        inside = a / (a + b)
    return inside.reshape(masks.shape[1:]), p, q


def noisy(seed: int, raters: int, shape: tuple[int, int] = (30, 41)) -> NDArray[np.bool_]:
    rng = np.random.default_rng(seed)
    truth = rng.random(shape) < rng.uniform(0.1, 0.9)
    return np.stack([truth ^ (rng.random(shape) < rng.uniform(0, 0.4)) for _ in range(raters)])


def check_simpleitk(masks: NDArray[np.bool_]) -> None:
    peer = sitk.STAPLEImageFilter()
    peer.SetForegroundValue(1)
    peer.SetMaximumIterations(10_000)
    probability = sitk.GetArrayFromImage(peer.Execute(as_sitk(masks)))
    found = staple(masks)
    np.testing.assert_allclose(found.probability, probability, atol=1e-9)
    np.testing.assert_allclose(found.sensitivity, peer.GetSensitivity(), atol=1e-9)
    np.testing.assert_allclose(found.specificity, peer.GetSpecificity(), atol=1e-9)
    assert found.iterations == min(peer.GetElapsedIterations() + 1, 10_000)
    clear = np.abs(probability - 0.5) > 1e-6
    assert (found.mask == (probability > 0.5))[clear].all()


@pytest.mark.parametrize("raters", [1, 2, 3, 4, 5])
def test_equals_simpleitk(raters: int) -> None:
    for seed in range(4):
        check_simpleitk(noisy(seed, raters))
        check_simpleitk(regions(seed, raters) == 1)


def test_equals_simpleitk_on_a_large_picture() -> None:
    check_simpleitk(regions(3, 4, shape=(256, 300)) > 0)


@given(label_stacks(most=1, raters=(2, 5)))
def test_equals_a_version_that_visits_every_pixel(labels: Labels) -> None:
    assume(0 < labels.mean() < 1)
    found = staple(labels, max_iterations=8)
    with np.errstate(all="ignore"):
        probability, p, q = by_pixel(labels > 0, found.iterations)
    assume(np.isfinite(probability).all() and np.isfinite([p, q]).all())
    np.testing.assert_allclose(found.probability, probability, atol=1e-7)
    np.testing.assert_allclose(found.sensitivity, p, atol=1e-7)
    np.testing.assert_allclose(found.specificity, q, atol=1e-7)


@given(label_stacks(raters=(1, 5)), st.data())
def test_laws(labels: Labels, data: st.DataObject) -> None:
    found = staple(labels, max_iterations=50)
    assert np.isfinite(found.probability).all()
    for rates in (found.sensitivity, found.specificity, found.probability):
        assert ((rates >= 0) & (rates <= 1)).all()
    assert (staple(labels > 0, max_iterations=50).probability == found.probability).all()

    order = data.draw(st.permutations(range(len(labels))))
    other = staple(labels[order], max_iterations=50)
    np.testing.assert_allclose(other.probability, found.probability, atol=1e-6)
    np.testing.assert_allclose(other.sensitivity, found.sensitivity[order], atol=1e-6)

    weights = np.arange(1, len(labels) + 1)
    weighted = staple(labels, weights=weights, max_iterations=50)
    repeated = staple(np.repeat(labels, weights, axis=0), max_iterations=50)
    np.testing.assert_allclose(weighted.probability, repeated.probability, atol=1e-6)
    np.testing.assert_allclose(np.repeat(weighted.specificity, weights), repeated.specificity, atol=1e-6)

    nobody = staple([None, *labels, labels[0]], weights=[1] * (len(labels) + 1) + [0], max_iterations=50)
    assert (nobody.probability == found.probability).all()
    assert (nobody.sensitivity[1:-1] == found.sensitivity).all()
    assert np.isnan(nobody.sensitivity[[0, -1]]).all()


@given(label_stacks(most=1, raters=(1, 1)), st.integers(1, 4))
def test_copies_of_one_mask_give_it(labels: Labels, copies: int) -> None:
    found = staple(np.repeat(labels, copies, axis=0))
    assert (found.mask == (labels[0] > 0)).all()
    assert (found.probability == labels[0]).all()
    assert (found.sensitivity == 1).all()
    assert (found.specificity == 1).all()


def test_finds_the_rates_that_made_the_masks() -> None:
    rng = np.random.default_rng(5)
    truth = rng.random((200, 300)) < 0.3
    p, q = np.array([0.95, 0.8, 0.9, 0.6]), np.array([0.9, 0.97, 0.8, 0.95])
    draws = rng.random((4, *truth.shape))
    masks = np.where(truth, draws < p[:, None, None], draws > q[:, None, None])
    found = staple(masks)
    np.testing.assert_allclose(found.sensitivity, p, atol=0.02)
    np.testing.assert_allclose(found.specificity, q, atol=0.02)
    assert (found.mask == truth).mean() > max((mask == truth).mean() for mask in masks)


def test_where_the_filter_gives_nan() -> None:
    assert np.isnan(sitk.GetArrayFromImage(sitk.STAPLE(as_sitk(np.zeros((2, 3, 3))), 1.0))).all()
    nothing = staple(np.zeros((2, 3, 3), np.int32))
    assert not nothing.probability.any()
    assert nothing.sensitivity.tolist() == [1, 1]
    everything = staple(np.ones((2, 3, 3), np.int32))
    assert everything.mask.all()
    assert everything.specificity.tolist() == [1, 1]
    assert staple(np.ones((2, 0, 3), np.int32)).probability.shape == (0, 3)


def test_input_errors_say_the_fact() -> None:
    with pytest.raises(InputError, match="max_iterations is 0"):
        staple(np.ones((2, 3, 3)), max_iterations=0)
    with pytest.raises(InputError, match="all of 1 raters"):
        staple([None])
