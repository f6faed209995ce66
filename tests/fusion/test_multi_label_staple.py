"""STAPLE of labels equals SimpleITK's filter where its start is defined, and a version with full matrices."""

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.fusion import majority_voting, multi_label_staple, staple
from fusion.raters import Labels, as_sitk, label_stacks, regions

Floats = NDArray[np.float64]


def by_matrices(
    labels: Labels, weights: Floats, *, rounds: int = 10_000, like_the_filter: bool = False
) -> tuple[Floats, Floats]:
    """Probabilities (L, Y, X) and confusions (K, said, true) by full matrices and a visit of every pixel.

    `like_the_filter` also counts pixels without a majority where the filter writes them: behind the end of a row.
    """
    raters, n = len(labels), int(labels.max()) + 1
    flat = labels.reshape(raters, -1)
    votes = np.stack([weights @ (flat == c) for c in range(n)])
    majority = votes.argmax(axis=0)
    tie = (votes > votes.max(axis=0) - 1e-9).sum(axis=0) > 1
    matrices = np.zeros((raters, (n + 1) * n))
    for k in range(raters):
        for said, true in zip(flat[k], np.where(tie, n, majority), strict=True):
            if true < n or like_the_filter:
                matrices[k, said * n + true] += 1
    matrices = matrices.reshape(raters, n + 1, n)
    matrices /= np.maximum(matrices.sum(axis=2, keepdims=True), 1e-300)
    prior = np.array([(weights @ (flat == c)).sum() for c in range(n)])
    prior /= prior.sum()

    def expected() -> Floats:
        found = np.repeat(prior[:, None], flat.shape[1], axis=1)
        for k in range(raters):
            found *= matrices[k][flat[k]].T ** weights[k]
        total = found.sum(axis=0)
        return np.divide(found, total, out=found, where=total > 0)

    for _ in range(rounds):
        found, before = expected(), matrices
        matrices = np.stack([[found[:, flat[k] == j].sum(axis=1) for j in range(n + 1)] for k in range(raters)])
        matrices /= np.maximum(matrices.sum(axis=1, keepdims=True), 1e-300)
        if np.abs(matrices - before).max() < 1e-5:
            break
    return expected().reshape(n, *labels.shape[1:]), matrices


def winners(probability: Floats, undecided: int) -> tuple[Labels, NDArray[np.bool_]]:
    """The most probable labels, and where they are so by a clear margin or not possible at all."""
    padded = np.sort(np.concatenate([probability, np.zeros_like(probability[:1])]), axis=0)
    impossible = padded[-1] == 0
    labels = np.where(impossible, undecided, probability.argmax(axis=0)).astype(np.int32)
    return labels, impossible | (padded[-1] - padded[-2] > 1e-6)


def filter_of_simpleitk(labels: Labels) -> Labels:
    peer = sitk.MultiLabelSTAPLEImageFilter()
    return np.asarray(sitk.GetArrayFromImage(peer.Execute(as_sitk(labels)))).astype(np.int32)


@given(label_stacks(raters=(1, 5)), st.data())
def test_equals_full_matrices(labels: Labels, data: st.DataObject) -> None:
    weights = np.array(
        data.draw(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=len(labels), max_size=len(labels)))
    )
    found = multi_label_staple(labels, weights=weights, undecided=9, max_iterations=20)
    probability, matrices = by_matrices(labels, weights, rounds=20)
    expected, clear = winners(probability, 9)
    assert (found.labels == expected)[clear].all()
    np.testing.assert_allclose(found.probability, probability.max(axis=0), atol=1e-6)
    diagonal = matrices[:, found.ids, found.ids]
    true = probability.sum(axis=(1, 2))[found.ids]
    certain = true > 1e-6
    np.testing.assert_allclose(found.sensitivity[:, certain], diagonal[:, certain], atol=1e-4)
    for k, image in enumerate(labels):
        other = 1 - probability[found.ids]
        said = image == found.ids[:, None, None]
        wrong = (other * said).sum(axis=(1, 2)) / np.maximum(other.sum(axis=(1, 2)), 1e-300)
        some = other.sum(axis=(1, 2)) > 1e-6
        np.testing.assert_allclose(found.specificity[k, some], 1 - wrong[some], atol=1e-4)


@pytest.mark.parametrize("raters", [1, 3, 4, 5])
def test_equals_simpleitk_on_drawn_labels(raters: int) -> None:
    for seed in range(4):
        labels = regions(seed, raters)
        found = multi_label_staple(labels, undecided=int(labels.max()) + 1).labels
        assert (found == filter_of_simpleitk(labels)).all()


@pytest.mark.parametrize("seed", range(6))
def test_equals_simpleitk_on_noise_but_for_its_start(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.integers(0, 4, (4, 4)), np.ones((5, 5), np.int32))
    labels = np.stack([np.where(rng.random((20, 20)) < 0.4, rng.integers(0, 4, (20, 20)), truth) for _ in range(4)])
    n = int(labels.max()) + 1
    peer = filter_of_simpleitk(labels)
    like_it, clear = winners(by_matrices(labels, np.ones(4), like_the_filter=True)[0], n)
    assert (peer == like_it)[clear].all()
    ours, clear = winners(by_matrices(labels, np.ones(4))[0], n)
    assert (multi_label_staple(labels, undecided=n).labels == ours)[clear].all()


@given(label_stacks(raters=(1, 4)), st.data())
def test_laws(labels: Labels, data: st.DataObject) -> None:
    found = multi_label_staple(labels)
    assert found.labels.dtype == np.int32
    assert ((found.probability >= 0) & (found.probability <= 1)).all()

    order = data.draw(st.permutations(range(len(labels))))
    other = multi_label_staple(labels[order])
    assert (other.labels == found.labels).all()
    np.testing.assert_allclose(other.sensitivity, found.sensitivity[order], atol=1e-6)

    renamed = np.array([0, *data.draw(st.permutations([5, 17, 300, 2**31 - 1]))], np.int32)
    assert (multi_label_staple(renamed[labels]).labels == renamed[found.labels]).all()

    weights = np.arange(1, len(labels) + 1)
    repeated = multi_label_staple(np.repeat(labels, weights, axis=0))
    assert (multi_label_staple(labels, weights=weights).labels == repeated.labels).all()

    nobody = multi_label_staple([None, *labels])
    assert (nobody.labels == found.labels).all()
    assert np.isnan(nobody.sensitivity[0]).all()


@given(label_stacks(raters=(1, 1)), st.integers(1, 4))
def test_copies_of_one_segmentation_give_it(labels: Labels, copies: int) -> None:
    found = multi_label_staple(np.repeat(labels, copies, axis=0))
    assert (found.labels == labels[0]).all()
    assert (found.sensitivity == 1).all()
    assert (found.specificity == 1).all()


def test_a_poor_rater_loses_against_two_good_ones_and_is_found_out() -> None:
    rng = np.random.default_rng(0)
    truth = regions(1, 1)[0]
    errors = (0.02, 0.05, 0.5, 0.6)
    labels = np.stack([np.where(rng.random(truth.shape) < e, rng.integers(0, 4, truth.shape), truth) for e in errors])
    found = multi_label_staple(labels)
    assert (found.labels == truth).mean() > (majority_voting(labels) == truth).mean()
    assert (np.diff(found.sensitivity[:, found.ids == 0].ravel()) < 0).all()


def test_two_labels_agree_with_binary_staple() -> None:
    masks = regions(2, 4) > 0
    assert (multi_label_staple(masks).labels == staple(masks).mask).mean() > 0.999


def test_many_labels_and_empty_pictures() -> None:
    labels = np.arange(90_000, dtype=np.int32).reshape(300, 300)
    assert (multi_label_staple([labels, labels, labels[::-1]]).labels == labels).all()
    assert multi_label_staple(np.zeros((2, 0, 3), np.int32)).labels.shape == (0, 3)


def test_input_errors_say_the_fact() -> None:
    with pytest.raises(InputError, match="max_iterations is 0"):
        multi_label_staple(np.ones((2, 3, 3)), max_iterations=0)
    with pytest.raises(InputError, match="all of 1 raters"):
        multi_label_staple([None])
