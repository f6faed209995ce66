"""The size model learns from the windows that the estimate looks at, and is judged on other images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cellweave.core.image import Image
from cellweave.models import Segmenter, SizeModel
from cellweave.train import Example
from cellweave.train.sizes import LARGEST_FACTOR, train_size_model

Seen = dict[str, Any]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What the last fit was given."""
    given: Seen = {}

    def fit(styles: Any, diameters: Any, *, groups: Any) -> SizeModel:
        given.update(styles=styles, diameters=diameters, groups=groups)
        return SizeModel(np.zeros(styles.shape[1]), np.zeros(styles.shape[1]), 3.0)

    monkeypatch.setattr("cellweave.train.sizes.fit_size_model", fit)
    return given


def example(domes: Callable[..., Any], seed: int, size: float) -> Example:
    picture, labels = domes(seed, (150, 160), 12, size)
    return Example(str(seed), Image(picture[None]), labels)


def test_views_show_cells_near_the_training_diameter(
    tiny_model: Segmenter, domes: Callable[..., Any], seen: Seen
) -> None:
    """Of any image, whatever the size of its cells."""
    train_size_model(tiny_model, [example(domes, k, size) for k, size in enumerate((9, 24, 45))], device="cpu")
    assert set(seen["groups"]) == {0, 1, 2}
    octaves = np.log2(seen["diameters"] / tiny_model.diameter)
    assert np.abs(octaves).max() <= np.log2(LARGEST_FACTOR)
    for k in range(3):
        assert np.ptp(octaves[seen["groups"] == k]) > 1.5
    np.testing.assert_allclose(np.linalg.norm(seen["styles"], axis=1), 1, atol=1e-3)


def test_examples_without_cells_are_left_out(tiny_model: Segmenter, domes: Callable[..., Any], seen: Seen) -> None:
    blank = Example("blank", Image(np.zeros((1, 60, 60))), np.zeros((60, 60), np.int32))
    assert train_size_model(tiny_model, [blank], device="cpu") is None
    train_size_model(tiny_model, [blank, example(domes, 1, 24)], device="cpu")
    assert set(seen["groups"]) == {1}


def test_pixels_are_left_alone(tiny_model: Segmenter, domes: Callable[..., Any]) -> None:
    one = example(domes, 1, 24)
    before = one.image.read().copy(), one.labels.copy()
    train_size_model(tiny_model, [one], device="cpu")
    assert np.array_equal(one.image.read(), before[0])
    assert np.array_equal(one.labels, before[1])
