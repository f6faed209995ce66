"""Calibrating a model on annotated images: what is fitted, on which objects, and what the card says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cc3d
import numpy as np
import pytest

from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.core.labels import median_diameter
from cellweave.metrics import match, reliability
from cellweave.models import Calibration, Segmenter, fit_calibration
from cellweave.predict import segment
from cellweave.train import Example
from cellweave.train.api import figures
from cellweave.train.calibrate import (
    ScoredObjects,
    cross_validated,
    reliability_rows,
    score_objects,
    train_calibration,
)


@pytest.fixture(scope="module")
def examples(domes: Callable[..., Any]) -> list[Example]:
    """Pictures of domes of which the truth knows only two thirds, and one without a cell in truth."""
    made = []
    for k in range(5):
        picture, labels = domes(k, (140, 150), 9)
        labels = np.where(labels % 3 == 0, 0, labels) if k < 4 else np.zeros_like(labels)
        made.append(Example(f"dome{k}", Image(picture[None], source=f"{k}.tif"), labels))
    return made


def made_objects(n_images: int = 20, per_image: int = 200, seed: int = 0) -> ScoredObjects:
    """Objects that match with the probability that a known calibration makes of their scores."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(4, 2, n_images * per_image)
    matched = rng.random(len(scores)) < Calibration(2.2, 1.5).apply(scores)
    return ScoredObjects(scores, matched, np.repeat(np.arange(n_images), per_image))


def test_objects_of_both_diameters_are_scored(tiny_model: Segmenter, examples: list[Example]) -> None:
    found = score_objects(tiny_model.with_(calibration=Calibration(9, 9)), examples, device="cpu")
    scores, matched, images = [], [], []
    for k, example in enumerate(examples):
        given = median_diameter(example.labels)
        for diameter in [given, None] if given else [None]:
            result = segment(example.image, tiny_model, diameter=diameter, device="cpu")
            partners = set(match(example.labels, result.labels, 0.5).predicted_ids.tolist())
            scores += result.confidence.tolist()
            matched += [k in partners for k in range(1, result.count + 1)]
            images += [k] * result.count
    assert found.scores.tolist() == scores
    assert found.matched.tolist() == matched
    assert found.images.tolist() == images
    assert not found.matched[found.images == 4].any()  # nothing was there
    assert 0 < found.matched.sum() < len(matched)


def test_what_is_unknown_does_not_count(tiny_model: Segmenter, examples: list[Example]) -> None:
    """Whole cells become unknown: of the others, the same are found and right, in the calibration and in the card."""
    given = [replace(e, given=median_diameter(e.labels)) for e in examples[:4]]
    found = [segment(e.image, tiny_model, diameter=e.given, device="cpu").labels for e in given]
    islands = [cc3d.connected_components((e.labels > 0) | (f > 0)) for e, f in zip(given, found, strict=True)]
    partly = [replace(e, known=part % 2 == 0) for e, part in zip(given, islands, strict=True)]
    kept = np.concatenate([np.isin(np.arange(1, f.max() + 1), f[e.known]) for e, f in zip(partly, found, strict=True)])
    before, after = (score_objects(tiny_model, some, device="cpu") for some in (given, partly))
    assert after.scores.tolist() == before.scores[kept].tolist()
    assert after.matched.tolist() == before.matched[kept].tolist()
    assert after.images.tolist() == before.images[kept].tolist()
    assert 0 < after.matched.sum() < len(after.matched) < len(before.matched)
    true = sum(len(np.unique(e.labels[e.known & (e.labels > 0)])) for e in partly)
    (row,) = figures(tiny_model, partly, "cpu")
    f1 = 2 * after.matched.sum() / (len(after.matched) + true)
    assert row["F1@0.5, diameter given"] == round(float(f1), 3)


def test_the_calibration_is_that_of_all_objects(tiny_model: Segmenter, examples: list[Example]) -> None:
    calibration, rows = train_calibration(tiny_model, examples, device="cpu")
    found = score_objects(tiny_model, examples, device="cpu")
    assert calibration == fit_calibration(found.scores, found.matched)
    assert rows == reliability_rows(reliability(cross_validated(found), found.matched))
    assert (calibration, rows) == train_calibration(
        tiny_model.with_(calibration=Calibration(5, 2)), examples, device="cpu"
    )


def test_too_little_to_tell(tiny_model: Segmenter, examples: list[Example]) -> None:
    assert train_calibration(tiny_model, [], device="cpu") == (None, [])
    assert train_calibration(tiny_model, examples[:1], device="cpu") == (None, [])
    right = [
        Example(e.name, e.image, segment(e.image, tiny_model, device="cpu").labels) for e in examples
    ]  # nothing is wrong
    assert train_calibration(tiny_model, right, device="cpu") == (None, [])


def test_an_example_that_does_not_fit_is_named(tiny_model: Segmenter, examples: list[Example]) -> None:
    broken = Example("odd one", examples[0].image, examples[0].labels[:-1])
    with pytest.raises(InputError, match="odd one: the true labels have shape"):
        train_calibration(tiny_model, [broken], device="cpu")


def test_confidence_comes_from_other_images_only() -> None:
    """What is said of an image does not depend on which of its own objects match."""
    found = made_objects(5, 40)
    confidence = cross_validated(found)
    assert not np.array_equal(confidence, fit_calibration(found.scores, found.matched).apply(found.scores))
    own = found.images == 2
    other = ScoredObjects(found.scores, np.where(own, ~found.matched, found.matched), found.images)
    changed = cross_validated(other) != confidence
    assert not changed[own].any()
    assert changed[~own].any()


def test_images_of_a_fold_are_held_out_together() -> None:
    found = made_objects(25, 30)
    confidence = cross_validated(found)
    fold = found.images % 10
    for k in range(10):
        calibration = fit_calibration(found.scores[fold != k], found.matched[fold != k])
        assert np.array_equal(confidence[fold == k], calibration.apply(found.scores[fold == k]))


def test_cross_validated_confidence_of_made_objects_is_reliable() -> None:
    found = made_objects()
    curve = reliability(cross_validated(found), found.matched)
    assert curve.expected_calibration_error < 0.02
    assert reliability(found.scores, found.matched).expected_calibration_error > 0.1


def test_the_table_of_the_card() -> None:
    rows = reliability_rows(reliability([0.95, 0.91, 0.93, 0.25], [True, True, False, False]))
    assert rows == [
        {
            "Confidence": "0.2 to 0.3",
            "Objects": 1,
            "Mean confidence": 0.25,
            "Match at IoU 0.5": 0.0,
            "Calibration error": 0.25,
        },
        {
            "Confidence": "0.9 to 1.0",
            "Objects": 3,
            "Mean confidence": 0.93,
            "Match at IoU 0.5": 0.667,
            "Calibration error": 0.263,
        },
        {
            "Confidence": "all",
            "Objects": 4,
            "Mean confidence": 0.76,
            "Match at IoU 0.5": 0.5,
            "Calibration error": 0.26,
        },
    ]
    assert reliability_rows(reliability([], []))[-1]["Objects"] == 0
