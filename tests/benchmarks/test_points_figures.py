"""The benchmark of points: draws, what clicks tell of, figures, methods on drawn images, its trainings."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from cellweave.core.image import Image
from cellweave.core.points import DEBRIS, LIVE, Points
from cellweave.train import Example


@pytest.fixture
def trainings() -> ModuleType:
    import _point_trainings

    return _point_trainings


@pytest.fixture
def figures() -> ModuleType:
    import points

    return points


def spots(seed: int, n: int = 60, side: int = 256) -> Example:
    """Dark spots of 12 px on noise, on the left two thirds of a picture; the others are not annotated."""
    rng = np.random.default_rng(seed)
    at = np.stack(np.meshgrid(np.arange(16, side, 24), np.arange(16, side, 24)), axis=-1).reshape(-1, 2)
    at = at[rng.permutation(len(at))[:n]] + rng.uniform(-3, 3, (n, 2))
    y, x = np.mgrid[:side, :side]
    plane = 150 + rng.normal(0, 3, (side, side))
    for row, column in at:
        plane -= 60 * np.clip(6.5 - np.hypot(y - row, x - column), 0, 1)
    known = x < 2 * side // 3
    kept = at[at[:, 1] < 2 * side // 3 - 1]
    points = Points(kept, np.array([DEBRIS] + [LIVE] * (len(kept) - 1)), shape=(side, side))
    image = Image.from_array(np.repeat(plane.astype(np.uint8)[..., None], 3, axis=2))
    return Example(str(seed), image, points, "phase", known=known)


@pytest.fixture
def drawn_phase(figures: ModuleType, trainings: ModuleType, monkeypatch: pytest.MonkeyPatch) -> dict[str, Example]:
    made = {stem: spots(int(stem)) for stem in trainings.PHASE}
    for module in (figures, trainings):
        monkeypatch.setattr(module, "phase", made.__getitem__)
    return made


def test_draws_have_no_image_twice(trainings: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("vgg_points", k, "test" if k > 99 else "pool") for k in range(200)]
    rows += [("mbm_points", k, "any") for k in range(44)] + [("adi_points", k, "any") for k in range(200)]
    text = "dataset,stem,split\n" + "".join(f"{s},{k:03},{split}\n" for s, k, split in rows)
    (tmp_path / "splits.csv").write_text(text)
    monkeypatch.setattr(trainings, "DATA", tmp_path)
    for name, n, tested in (("vgg", 32, 100), ("mbm", 15, 14), ("adi", 50, 100)):
        for draw in range(2):
            parts = trainings.drawn(name, n, draw)
            assert [len(part) for part in parts] == [n, n, tested]
            assert len({stem for part in parts for stem in part}) == 2 * n + tested
        assert trainings.drawn(name, n, 0)[0] != trainings.drawn(name, n, 1)[0]
        few = trainings.drawn(name, 4, 0)
        all_of_them = trainings.drawn(name, n, 0)
        assert few == (all_of_them[0][:4], *all_of_them[1:])
    assert set(trainings.drawn("vgg", 32, 3)[2]) == {f"{k:03}" for k in range(100, 200)}


def test_clicks_tell_only_of_what_is_nearest_to_them(
    trainings: ModuleType, drawn_phase: dict[str, Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainings, "foreground", lambda plane: np.ones(plane.shape, bool))
    one = trainings.clicked("1", 7)
    positions = drawn_phase["1"].positions.positions
    assert len(one.positions) == 7
    chosen = (positions[:, None] == one.positions.positions).all(axis=2).any(axis=1)
    pixels = np.stack(np.mgrid[:256, :256], axis=-1).reshape(-1, 1, 2)
    distance = np.hypot(*np.moveaxis(pixels - positions, -1, 0))
    expected = (distance.min(axis=1) <= 26) & chosen[distance.argmin(axis=1)]
    assert np.mean(one.known.ravel() == expected) > 0.999
    rest = positions[~chosen]
    centre = one.positions.positions
    spread = np.hypot(*(centre[:, None] - centre).transpose(2, 0, 1)).max(axis=1).min()
    assert spread < np.hypot(*(rest[:, None] - centre).transpose(2, 0, 1)).max()
    assert [len(e.positions) for e in trainings.with_clicks("4", 25)[0]] == [13, 12]


def test_the_held_out_image_has_no_part_in_a_training(trainings: ModuleType, drawn_phase: dict[str, Example]) -> None:
    trainings.guessed_diameter.cache_clear()
    for make in (trainings.without, trainings.with_masks, lambda stem: trainings.with_clicks(stem, 10)):
        learned, chosen_by = make("2")
        assert [e.name for e in learned] == ["1", "4"]
        assert not chosen_by
    masks = trainings.with_masks("2")[0]
    cells = drawn_phase["1"].positions.cells
    assert len(np.unique(masks[0].labels)) == len(cells) + 1
    assert 8 < trainings.guessed_diameter("2") < 20
    assert masks[0].given == masks[1].given == trainings.guessed_diameter("2")
    trainings.guessed_diameter.cache_clear()


def test_settings_make_sense_and_fit_ten_minutes(trainings: ModuleType) -> None:
    for name, training in trainings.TRAININGS.items():
        assert training.steps * training.seconds <= 600, name
        if not training.detector:
            config = trainings.config_of(name, 32)
            assert config.epochs * max(8, 32 // config.batch_size) == pytest.approx(training.steps, rel=0.02)
    names = set(trainings.TRAININGS)
    assert {f"vgg-32-{k}" for k in range(5)} < names
    assert {f"phase-{kind}-{s}" for kind in ("heatmap", "flows", "star", "detect") for s in "124"} < names


def test_a_training_is_made_once(trainings: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"target": "points", "crop": 32, "batch_size": 2, "width": 0.25}
    full = spots(0, 20, 128)
    plan = {"tiny": trainings.Training(lambda: ([full, full], [full]), 8, 1.0, small)}
    monkeypatch.setattr(trainings, "TRAININGS", plan)
    monkeypatch.setattr(trainings, "RUNS", tmp_path)
    model = trainings.trained("tiny", "cpu")
    assert type(model.representation).__name__ == "Heatmap"
    assert not (tmp_path / "tiny" / "cache").exists()
    monkeypatch.setattr(trainings, "run_stage", None)
    assert trainings.trained("tiny", "cpu").hash == model.hash


def test_figures_of_whole_images_and_of_the_annotated_part(
    figures: ModuleType, drawn_phase: dict[str, Example]
) -> None:
    found, cells = {}, 0
    for stem, one in drawn_phase.items():
        right = one.positions.cells.positions[2:] + 1.0
        beyond = np.array([[10.0, 250], [40, 250], [70, 250]])
        found[stem] = figures.Found(float(len(right) + 3), 1.0, Points(np.concatenate([right, beyond])))
        cells += len(one.positions.cells)
    whole, part = (figures.judged(found, annotated=annotated) for annotated in (False, True))
    assert whole.total.n_true == part.total.n_true == cells
    assert (whole.total.detection.fp, part.total.detection.fp) == (9, 0)
    assert whole.total.detection.fn == part.total.detection.fn == 6
    errors = [2 / len(one.positions.cells) for one in drawn_phase.values()]
    assert figures.count_error(part) == pytest.approx(100 * np.mean(errors))
    assert f"{cells + 3} of {cells} counted" in figures.told(whole, located=True)
    assert "recall" not in figures.told(whole, located=False)
    only = {stem: figures.Found(50.0, 1.0, annotated=30.0) for stem in found}
    assert figures.judged(only, annotated=False).total.n_predicted == 150
    assert figures.judged(only, annotated=True).total.n_predicted == 90


def test_blobs_and_area_are_fitted_on_the_other_images(figures: ModuleType, drawn_phase: dict[str, Example]) -> None:
    found = {stem: figures.blobs(stem) for stem in drawn_phase}
    evaluation = figures.judged(found, annotated=True)
    debris = len(drawn_phase)
    assert evaluation.total.detection.recall > 0.95
    assert evaluation.total.detection.fp <= debris + 3
    count = figures.area("1")
    assert count.points is None
    assert count.count == pytest.approx(59, rel=0.15)
    assert count.annotated == pytest.approx(len(drawn_phase["1"].positions.cells), rel=0.25)


def test_a_method_that_cannot_run_says_so(
    figures: ModuleType, drawn_phase: dict[str, Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cellweave.core.errors import ModelError

    def broken(held_out: str) -> object:
        raise ModelError("no weights\nof a net")

    monkeypatch.setattr(figures, "METHODS", {"none": broken, "area": figures.area, "blobs": figures.blobs})
    figures.found_by.cache_clear()
    rows = list(figures.seven_methods())
    figures.found_by.cache_clear()
    assert [row.ok for row in rows] == [False, False, True]
    assert rows[0].against == "cannot run here: no weights of a net"
    assert "count error" in rows[1].against
    assert "precision" in rows[2].against
    assert "s an image" in rows[2].against


def test_the_time_of_the_net_is_part_of_that_of_count(figures: ModuleType) -> None:
    from cellweave.models import Segmenter
    from cellweave.nets import FastUNet
    from cellweave.representations import Heatmap

    model = Segmenter(FastUNet(out_maps=1, widths=(8, 8, 8, 8)), Heatmap(), 0.0)
    whole, net = figures.timed(spots(0).image, model, 0.9, repeats=1)
    alone, _ = figures.timed(spots(0).image, model, None, repeats=1)
    assert 0 < net < whole
    assert alone > 0
    assert not model.net._forward_hooks


def test_the_benchmark_is_listed() -> None:
    import record

    assert "points" in record.benchmarks()
