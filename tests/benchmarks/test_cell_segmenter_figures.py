"""The benchmark of the Cell Segmenter: the published path, what is drawn, choices between branches, its trainings."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from cellweave.core.image import Image
from cellweave.representations import WatershedEnergy
from cellweave.representations.boxes import non_maximum_suppression
from cellweave.train import Example


@pytest.fixture
def floods() -> ModuleType:
    import _floods

    return _floods


@pytest.fixture
def trainings() -> ModuleType:
    import _cell_segmenter_trainings

    return _cell_segmenter_trainings


@pytest.fixture
def figures() -> ModuleType:
    import cell_segmenter

    return cell_segmenter


def test_the_name_has_a_dash() -> None:
    import record

    assert "cell-segmenter" in record.benchmarks()


def test_the_published_path_gives_the_same_cells(floods: ModuleType) -> None:
    from foundation import drawn_cells

    maps = floods.noisy_maps(drawn_cells(256))
    steps = WatershedEnergy().decode_steps(maps)
    assert len(steps.boxes) > 2 * steps.labels.max() > 60
    found = floods.published(steps.boxes, steps.scores, maps[0], maps[1])
    assert found.max() == steps.labels.max()
    assert floods.agreement(found, steps.labels) > 0.999


def test_boxes_are_dropped_as_by_the_exact_suppression(floods: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 300, (500, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 60, (500, 2))], axis=1).astype(np.float32)
    scores = rng.random(500).astype(np.float32)
    ours = non_maximum_suppression(boxes, scores, iou=0.3)
    theirs = floods.suppress(torch.from_numpy(boxes), torch.from_numpy(scores), 0.3)
    assert theirs.tolist() == ours.tolist()
    monkeypatch.setattr(floods, "MANY_BOXES", 100)
    monkeypatch.setattr(floods, "PATCH", 64)
    in_patches = floods.suppress(torch.from_numpy(boxes), torch.from_numpy(scores), 0.3).tolist()
    assert set(in_patches) <= set(range(500))
    assert in_patches == sorted(in_patches, key=lambda k: -scores[k])
    assert abs(len(in_patches) - len(ours)) < 0.2 * len(ours)
    assert floods.suppress(torch.zeros(0, 4), torch.zeros(0), 0.3).tolist() == []


def test_agreement_is_the_share_of_pixels_in_paired_objects(floods: ModuleType) -> None:
    a = np.zeros((4, 10), np.int32)
    a[:, :4], a[:, 6:] = 1, 2
    b = np.where(a > 0, 3 - a, 0).astype(np.int32)
    assert floods.agreement(a, b) == 1
    b[:, 3] = 0
    assert floods.agreement(a, b) == pytest.approx(28 / 32)
    assert floods.agreement(np.zeros_like(a), np.zeros_like(a)) == 1


def test_ranks_are_distinct_and_in_order(floods: ModuleType) -> None:
    values = np.random.default_rng(0).normal(size=(7, 9)).astype(np.float32)
    ranks = floods.ranks(values)
    assert sorted(ranks.ravel()) == list(range(63))
    assert (np.argsort(values.ravel()) == np.argsort(ranks.ravel())).all()


@pytest.mark.parametrize("degrees", [0, 30, 45])
def test_rods_touch_and_have_the_same_size(floods: ModuleType, degrees: float) -> None:
    labels = floods.rods(400, np.deg2rad(degrees))
    areas = np.bincount(labels.ravel())[1:]
    assert labels.max() > 40
    assert np.abs(areas / 810 - 1).max() < 0.08  # a tilted line of pixels more or less
    assert not np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]).any()
    right, left = labels[:, 1:], labels[:, :-1]
    assert ((right > 0) & (left > 0) & (right != left)).sum() > 1000


def test_the_estimator_is_right_where_it_takes_the_better_branch(figures: ModuleType) -> None:
    from cellweave.predict.quality import choose_branch

    rng = np.random.default_rng(0)
    quality = rng.uniform(0.6, 1, (2, 200))
    quality[0, :20] = 0
    f1 = rng.random((2, 200))
    found = figures.Compared(np.ones(200, bool), f1, quality)
    omnipose = found.omnipose(0.8, 0.05)
    assert omnipose.tolist() == [choose_branch(a, b) == "omnipose" for a, b in quality.T]
    assert 0 < np.mean(omnipose) < 1
    expected = [b if taken else a for (a, b), taken in zip(f1.T, omnipose, strict=True)]
    assert found.chosen_f1(omnipose).tolist() == expected
    assert found.right(omnipose, 0).tolist() == [(b > a) == taken for (a, b), taken in zip(f1.T, omnipose, strict=True)]
    assert found.right(omnipose, 1.1).all()
    assert not found.omnipose(0.0, 1.0)[20:].any()
    assert found.omnipose(1.1, 1.0)[20:].all()


def test_thresholds_are_fitted_on_other_images_than_they_are_used_on(figures: ModuleType) -> None:
    """Of images with even numbers Omnipose is the better one below 0.6, of odd ones below 0.9."""
    awf = np.tile(np.linspace(0.52, 0.98, 100), 2).reshape(2, 100).T.ravel()
    limit = np.where(np.arange(200) % 2, 0.9, 0.6)
    f1 = np.stack([np.full(200, 0.5), np.where(awf < limit, 0.9, 0.1)])
    taken = figures.Compared(np.ones(200, bool), f1, np.stack([awf, awf])).cross_fitted()
    assert taken.tolist() == (awf < np.where(np.arange(200) % 2, 0.6, 0.9)).tolist()


def test_long_cells_are_drawn_like_nothing_that_is_trained_on(figures: ModuleType) -> None:
    from cellweave.simulate import RECIPES

    for name, recipe in figures.long_cells().items():
        assert recipe not in RECIPES.values(), name
        assert min(shape.elongation[1] for shape in recipe.shapes) >= 7


def test_settings_make_sense_and_bases_come_first(trainings: ModuleType) -> None:
    known: list[str] = []
    for name, training in trainings.TRAININGS.items():
        assert not training.base or training.base in known
        batch = training.settings["batch_size"]
        config = trainings.config_of(name, [None] * 100 * batch)
        assert config.crop % 32 == 0
        assert config.epochs == training.steps // 100
        known.append(name)
    assert trainings.TRAININGS["labelled"].steps == trainings.TRAININGS["self_trained"].steps
    assert set(trainings.LONG).isdisjoint(trainings.OTHERS)


def test_a_third_of_every_kind_is_labelled(trainings: ModuleType) -> None:
    one = blobs(0)
    members = [Example(str(k), one.image, one.labels, group) for k, group in enumerate("aaaabbbbbbbc")]
    assert [e.name for e in trainings.labelled_part(members)] == ["0", "3", "4", "7", "10", "11"]


def test_self_training_learns_from_what_its_base_finds(
    trainings: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image as Pillow

    from cell_segmenters import branch

    for k in range(3):
        Pillow.fromarray(blobs(k).image.data[0]).save(tmp_path / f"{k}.png")
    small = {"crop": 32, "batch_size": 2}
    plan = {
        "teacher": trainings.Training(list, 8, 1.0, settings=small),
        "student": trainings.Training(
            list, 8, 1.0, "teacher", lambda: [tmp_path / f"{k}.png" for k in range(3)], small
        ),
    }
    monkeypatch.setattr(trainings, "TRAININGS", plan)
    monkeypatch.setattr(trainings, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(trainings, "clean_examples", lambda: [blobs(0), blobs(1)])
    monkeypatch.setattr(trainings, "pseudo_labels", partial(trainings.pseudo_labels, min_confidence=0.0))
    made = branch(0).save(tmp_path / "runs" / "teacher" / "model")
    given: list[list[Example]] = []

    def noted(examples: list[Example], *rest: object, **options: object) -> object:
        given.append(examples)
        return run_stage(examples, *rest, **options)

    run_stage = trainings.run_stage
    monkeypatch.setattr(trainings, "run_stage", noted)
    model = trainings.trained("student", "cpu")
    assert {e.group for e in given[0]} == {"", "pseudo"}
    assert [trainings.is_stale(tmp_path / "runs" / "student", base) for base in (made.hash, "another")] == [False, True]
    assert trainings.is_done(trainings.RUNS / "student")
    assert trainings.trained("student", "cpu").hash == model.hash
    assert len(given) == 1


@pytest.mark.parametrize("name", ["labelled", "self_trained", "grayscale", "omnipose"])
def test_trainings_that_are_compared_have_the_same_steps(trainings: ModuleType, name: str) -> None:
    """Whatever the number of images, pseudo-labels among them, to half an epoch."""
    steps = {}
    for n in (211, 780):
        config = trainings.config_of(name, [blobs(0)] * n)
        steps[n] = config.epochs * (n // config.batch_size)
        assert abs(steps[n] - trainings.TRAININGS[name].steps) <= n / config.batch_size / 2


def blobs(seed: int) -> Example:
    """A gray picture of 16 squares."""
    labels = np.kron(np.arange(1, 17, dtype=np.int32).reshape(4, 4), np.pad(np.ones((10, 10), np.int32), 3))
    pixels = 40 + 150 * (labels > 0) + np.random.default_rng(seed).integers(0, 30, labels.shape)
    return Example(f"blobs {seed}", Image.from_array(pixels.astype(np.uint8)), labels.astype(np.int32))


def test_the_share_of_right_choices_counts_images_whose_branches_differ(
    figures: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of four choices are right; on the fifth image both branches are as good."""
    f1 = np.array([[0.9, 0.2, 0.9, 0.9, 0.5], [0.1, 0.9, 0.1, 0.95, 0.505]])
    quality = np.array([[0.9, 0.7, 0.9, 0.9, 0.9], [0.9, 0.9, 0.9, 0.9, 0.9]])
    real = np.array([True, True, False, False, True])
    monkeypatch.setattr(figures, "compared", lambda: figures.Compared(real, f1, quality))
    monkeypatch.setattr(figures, "trained_for", lambda: "")
    rows = {row.name: row.value for row in figures.quality_estimator()}
    name = "estimator, the paper's thresholds: better branch taken, share of images"
    assert rows[name] == 0.75
    assert rows[f"{name}, real ones"] == 1
    assert rows[f"{name}, simulated ones"] == 0.5
    assert rows[f"{name}, all of them, like ones count as right"] == 0.8
    assert rows[f"{name}, all of them, the smallest difference counts"] == 0.6
    assert len(list(figures.quality_thresholds())) == len(figures.LOWESTS) + len(figures.MARGINS)


def test_cells_in_several_parts_are_counted(figures: ModuleType) -> None:
    labels = np.repeat(np.arange(4, dtype=np.int32), 10)[None].repeat(3, axis=0)
    found = labels.copy()
    found[:, 15:20] = 7  # half of cell 1
    found[:, 20] = 8  # a tenth of cell 2
    found[:, 30:34], found[:, 34:38] = 0, 9  # of cell 3 two fifths are lost, two fifths another object
    assert figures.n_split(labels, labels) == figures.n_split(labels, labels * 0) == 0
    assert figures.n_split(labels, found) == 2
