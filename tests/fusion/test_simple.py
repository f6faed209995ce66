"""SIMPLE equals a version that goes label by label over whole images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.fusion import pixel_voting, simple
from fusion.raters import Labels, label_stacks, regions


def one_label(
    masks: NDArray[np.bool_], weights: NDArray[np.float64], alpha: float, rounds: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Share of the votes of each pixel, performance and kept raters, by the formulas of the docstring."""
    kept = np.ones(len(masks), bool)
    share = np.tensordot(weights, masks, 1) / weights.sum()
    performance = np.zeros(len(masks))
    for _ in range(rounds):
        fused = share > 0.5 + 1e-9
        performance = np.array([2 * (mask & fused).sum() / max(1, mask.sum() + fused.sum()) for mask in masks])
        there = performance[kept]
        limit = min(there.mean() - alpha * there.std(), sorted(there)[-min(3, len(there))])
        kept = kept & (performance >= limit - 1e-9)
        votes = weights * performance * kept
        share = np.tensordot(votes, masks, 1) / (votes.sum() or 1)
    return share, performance, kept


@given(label_stacks(raters=(1, 6)), st.data(), st.sampled_from([0, 0.5, 1, 2]))
def test_equals_whole_images(labels: Labels, data: st.DataObject, alpha: float) -> None:
    weights = np.array(data.draw(st.lists(st.integers(1, 3), min_size=len(labels), max_size=len(labels))), float)
    found = simple(labels, weights=weights, alpha=alpha)
    assert found.ids.tolist() == [c for c in np.unique(labels).tolist() if c > 0]
    shares = [np.full(labels.shape[1:], 0.5 + 1e-9)]
    for place, label in enumerate(found.ids):
        share, performance, kept = one_label(labels == label, weights, alpha, found.iterations)
        shares.append(share)
        np.testing.assert_allclose(found.performance[:, place], performance, atol=1e-12)
        assert (found.kept[:, place] == kept).all()
    stack = np.stack(shares)
    best = stack > stack.max(axis=0) - 1e-9
    best[0] |= (stack <= 0.5 + 1e-9).all(axis=0)
    expected = np.where(best.sum(axis=0) == 1, np.array([0, *found.ids])[best.argmax(axis=0)], 0)
    assert (found.labels == expected).all()


@given(label_stacks(raters=(1, 5)), st.data())
def test_laws(labels: Labels, data: st.DataObject) -> None:
    found = simple(labels)
    assert found.labels.dtype == np.int32
    order = data.draw(st.permutations(range(len(labels))))
    other = simple(labels[order])
    assert (other.labels == found.labels).all()
    assert (other.kept == found.kept[order]).all()

    renamed = np.array([0, *data.draw(st.permutations(range(1, 5)))], np.int32)
    assert (simple(renamed[labels]).labels == renamed[found.labels]).all()

    assert (simple([labels[0]] * 4).labels == labels[0]).all()
    assert (simple(labels, weights=np.full(len(labels), 2.5)).labels == found.labels).all()

    nobody = simple([labels[0], None, *labels], weights=[0] + [1] * (len(labels) + 1))
    assert not nobody.kept[:2].any()
    assert nobody.labels.shape == found.labels.shape
    assert (nobody.labels == found.labels).all()


def test_drops_the_raters_that_disagree() -> None:
    truth = regions(4, 1)[0] > 0
    rng = np.random.default_rng(0)
    good = [truth ^ (rng.random(truth.shape) < 0.03) for _ in range(3)]
    bad = [rng.random(truth.shape) < 0.5 for _ in range(3)]
    found = simple(good + bad)
    assert found.kept[:, 0].tolist() == [True] * 3 + [False] * 3
    assert (found.performance[:3] > found.performance[3:].max()).all()
    assert (found.labels == truth).mean() > (pixel_voting(good + bad) == truth).mean()


def test_empty_pictures() -> None:
    assert simple(np.zeros((3, 0, 4), np.int32)).labels.shape == (0, 4)
    nothing = simple(np.zeros((3, 2, 4), np.int32))
    assert (nothing.labels.any(), nothing.ids.size, nothing.kept.shape) == (False, 0, (3, 0))


def test_input_errors_say_the_fact() -> None:
    with pytest.raises(InputError, match="alpha is -1"):
        simple(np.ones((2, 3, 3)), alpha=-1)
    with pytest.raises(InputError, match="alpha is nan"):
        simple(np.ones((2, 3, 3)), alpha=float("nan"))
    with pytest.raises(InputError, match="all of 1 raters"):
        simple([None])
