"""The size model solves the challenge paper's Eq. 4."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.models import SizeModel, fit_size_model


def data(seed: int, n: int = 40, size: int = 6) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Styles (n, size) of unit length and diameters (n,) that they tell, with noise."""
    rng = np.random.default_rng(seed)
    styles = rng.random((n, size))
    styles /= np.linalg.norm(styles, axis=1, keepdims=True)
    diameters = np.exp(3 + styles @ rng.normal(size=size) + 0.05 * rng.normal(size=n))
    return styles, diameters


def residual(model: SizeModel, styles: NDArray[np.float64], diameters: NDArray[np.float64], ridge: float) -> float:
    """What Eq. 4, ``(X X^T + r I) A = X Y`` on centred data, leaves: sums written out, r in mean eigenvalues."""
    x = styles - styles.mean(axis=0)
    y = np.log(diameters) - np.log(diameters).mean()
    size = x.shape[1]
    r = ridge * sum(x[k, i] ** 2 for k in range(len(x)) for i in range(size)) / size
    worst = 0.0
    for i in range(size):
        left = sum(x[k, i] * x[k, j] * model.coefficients[j] for k in range(len(x)) for j in range(size))
        right = sum(x[k, i] * y[k] for k in range(len(x)))
        worst = max(worst, abs(left + r * model.coefficients[i] - right))
    return worst


@pytest.mark.parametrize("ridge", [1e-6, 0.1, 10.0])
def test_solves_the_normal_equation(ridge: float) -> None:
    styles, diameters = data(0)
    assert residual(fit_size_model(styles, diameters, ridge=ridge), styles, diameters, ridge) < 1e-10


@given(st.integers(0, 1000))
def test_without_ridge_it_is_least_squares(seed: int) -> None:
    styles, diameters = data(seed)
    model = fit_size_model(styles, diameters, ridge=1e-14)
    expected = np.linalg.lstsq(styles - styles.mean(axis=0), np.log(diameters / np.exp(np.log(diameters).mean())))[0]
    np.testing.assert_allclose(model.coefficients, expected, rtol=1e-6, atol=1e-8)


def test_a_large_ridge_predicts_the_geometric_mean() -> None:
    styles, diameters = data(1)
    model = fit_size_model(styles, diameters, ridge=1e12)
    assert model.predict(styles[0]) == pytest.approx(np.exp(np.log(diameters).mean()), rel=1e-9)


def test_chosen_ridge_predicts_diameters_it_has_not_seen() -> None:
    styles, diameters = data(2, n=120)
    model = fit_size_model(styles[:80], diameters[:80])
    found = np.array([model.predict(style) for style in styles[80:]])
    assert np.median(np.abs(np.log(found / diameters[80:]))) < 0.06


def test_chosen_ridge_does_not_follow_noise() -> None:
    """More style components than samples, and diameters that have nothing to do with them."""
    rng = np.random.default_rng(3)
    styles, noise = rng.random((40, 200)), np.exp(3 + 0.3 * rng.normal(size=40))
    others = np.array([fit_size_model(styles, noise).predict(s) for s in rng.random((50, 200))])
    assert np.log(others).std() < 0.15


def test_views_of_one_image_are_held_out_together() -> None:
    """The ridge is the one whose fits on four fifths of the images err least on the rest."""
    rng = np.random.default_rng(6)
    groups = np.repeat(np.arange(20), 8)
    sizes = np.exp(3 + 0.4 * rng.normal(size=20))[groups]
    styles = np.column_stack([np.eye(20)[groups], np.log(sizes) / 9]) + 0.01 * rng.normal(size=(160, 21))
    candidates = [10 ** (k / 2) for k in range(-12, 3)]
    errors = []
    for ridge in candidates:
        wrong = []
        for k in range(5):
            rest = groups % 5 == k
            model = fit_size_model(styles[~rest], sizes[~rest], ridge=ridge)
            wrong += [abs(np.log(model.predict(s) / d)) for s, d in zip(styles[rest], sizes[rest], strict=True)]
        errors.append(np.mean(wrong))
    expected = fit_size_model(styles, sizes, ridge=candidates[int(np.argmin(errors))])
    np.testing.assert_allclose(fit_size_model(styles, sizes, groups=groups).coefficients, expected.coefficients)
    assert not np.allclose(fit_size_model(styles, sizes).coefficients, expected.coefficients)


def test_groups_are_names_only() -> None:
    styles, diameters = data(7, n=60)
    groups = np.arange(60) // 4
    named = 1000 + 3 * groups
    first, second = (fit_size_model(styles, diameters, groups=g) for g in (groups, named))
    assert np.array_equal(first.coefficients, second.coefficients)
    alone, each = fit_size_model(styles, diameters), fit_size_model(styles, diameters, groups=np.arange(60))
    assert np.array_equal(alone.coefficients, each.coefficients)


def test_few_groups_take_the_usual_ridge() -> None:
    styles, diameters = data(8)
    found = fit_size_model(styles, diameters, groups=np.arange(40) % 4)
    assert np.array_equal(found.coefficients, fit_size_model(styles, diameters, ridge=1e-2).coefficients)


def test_groups_must_fit() -> None:
    styles, diameters = data(9)
    with pytest.raises(InputError, match="a group for each diameter"):
        fit_size_model(styles, diameters, groups=np.arange(3))


def test_scaling_all_diameters_scales_the_prediction() -> None:
    styles, diameters = data(4)
    once, twice = fit_size_model(styles, diameters), fit_size_model(styles, 2 * diameters)
    assert twice.predict(styles[3]) == pytest.approx(2 * once.predict(styles[3]))


def test_prediction_is_the_formula() -> None:
    model = SizeModel(np.array([1.0, -2.0]), np.array([0.5, 0.25]), np.log(20.0))
    assert model.predict(np.array([0.5, 0.25])) == pytest.approx(20)
    assert model.predict(np.array([1.5, 0.5], np.float32)) == pytest.approx(20 * np.exp(0.5))


def test_styles_that_are_all_equal_give_the_mean() -> None:
    model = fit_size_model(np.ones((12, 4)), np.geomspace(10, 40, 12))
    assert model.predict(np.ones(4)) == pytest.approx(20)


def test_two_samples_are_enough() -> None:
    model = fit_size_model(np.eye(2), np.array([10.0, 40.0]))
    assert 10 <= model.predict(np.array([1.0, 0])) < 20 < model.predict(np.array([0, 1.0])) <= 40


def test_inputs_are_not_changed() -> None:
    styles, diameters = data(5)
    before = styles.copy(), diameters.copy()
    fit_size_model(styles, diameters)
    assert np.array_equal(styles, before[0])
    assert np.array_equal(diameters, before[1])


@pytest.mark.parametrize(
    ("styles", "diameters"),
    [
        (np.zeros((0, 3)), np.zeros(0)),
        (np.zeros((1, 3)), np.ones(1)),
        (np.zeros((4, 3)), np.ones(3)),
        (np.zeros(4), np.ones(4)),
        (np.zeros((3, 3)), np.array([1, 2, 0.0])),
        (np.zeros((3, 3)), np.array([1, 2, -1.0])),
        (np.zeros((3, 3)), np.array([1, 2, np.nan])),
        (np.full((3, 3), np.nan), np.ones(3)),
        (np.zeros((3, 3)), np.ones((3, 1))),
    ],
)
def test_data_that_cannot_be_fitted_are_refused(styles: NDArray[np.float64], diameters: NDArray[np.float64]) -> None:
    with pytest.raises(InputError, match="two or more pairs"):
        fit_size_model(styles, diameters)
