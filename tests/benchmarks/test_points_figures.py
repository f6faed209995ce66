"""The benchmark of points: draws, what clicks tell of, figures, methods on drawn images, its trainings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

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
        learned, chosen_by, test = trainings.drawn(name, n, 0)
        assert few == (learned[:4], chosen_by[:4], test)
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


def test_settings_make_sense_and_fit_six_hours(trainings: ModuleType) -> None:
    planned = trainings.TRAININGS
    assert sum(training.steps * training.seconds for training in planned.values()) <= 6 * 3600
    for name, training in planned.items():
        if not training.detector:
            config = trainings.config_of(name)
            batches = max(trainings.FEWEST_STEPS, training.learned // config.batch_size)
            assert config.epochs * batches == pytest.approx(training.steps, rel=0.04), name
    assert {f"vgg-32-{k}" for k in range(5)} < set(planned)
    assert {f"phase-{kind}-{s}" for kind in ("heatmap", "flows", "star", "detect") for s in "124"} < set(planned)


def test_trainings_to_be_compared_have_equal_steps(trainings: ModuleType) -> None:
    planned = trainings.TRAININGS
    compared = [f"vgg-curve-{n}" for n in trainings.CURVE] + [f"phase-clicks-{n}" for n in trainings.CLICKS]
    for name in ("vgg", "phase"):
        swept = [trainings.with_sigma(name, sigma) for sigma in trainings.SIGMAS]
        sigmas = [planned[one].settings.get("sigma", 5.0) for one in swept]
        assert sigmas == list(trainings.SIGMAS)
        compared += swept
    assert len({planned[one].steps for one in compared}) == 1


def test_a_training_is_made_once_unless_its_settings_change(
    trainings: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import _runs

    small = {"target": "points", "crop": 32, "batch_size": 2, "width": 0.25}
    full = spots(0, 4, 64)
    made = trainings.Training(lambda: ([full, full], [full]), 32, 1.0, small)
    plan = {"tiny": made}
    monkeypatch.setattr(trainings, "TRAININGS", plan)
    monkeypatch.setattr(trainings, "RUNS", tmp_path)
    model = trainings.trained("tiny", "cpu")
    assert type(model.representation).__name__ == "Heatmap"
    assert not (tmp_path / "tiny" / "cache").exists()
    assert torch.load(tmp_path / "tiny" / "checkpoint.pt", weights_only=True)["state"]["step"] == made.steps
    with monkeypatch.context() as without:
        without.setattr(trainings, "run_stage", None)
        assert trainings.trained("tiny", "cpu").hash == model.hash
    plan["tiny"] = replace(made, settings=small | {"sigma": 3.0})
    assert _runs.listing(plan, tmp_path).splitlines()[0].endswith("other settings")
    monkeypatch.setattr(trainings, "run_stage", lambda *_, **__: pytest.fail("made again"))
    with pytest.raises(pytest.fail.Exception, match="made again"):
        trainings.trained("tiny", "cpu")
    assert [file.name for file in (tmp_path / "tiny").iterdir()] == ["plan.json"]


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
    assert figures.told(whole).startswith(f"{cells + 3} of {cells} counted, count error ")
    assert list(figures.figures_of(whole, located=False)) == ["count error"]
    assert figures.figures_of(part)["recall"] == (pytest.approx(1 - 6 / cells), "")
    only = {stem: figures.Found(50.0, 1.0, annotated=30.0) for stem in found}
    assert figures.judged(only, annotated=False).total.n_predicted == 150
    assert figures.judged(only, annotated=True).total.n_predicted == 90


def test_blobs_and_area_are_fitted_on_the_other_images(figures: ModuleType, drawn_phase: dict[str, Example]) -> None:
    evaluation = figures.judged({"1": figures.blobs("1")}, annotated=True)
    assert evaluation.total.detection.recall > 0.95
    assert evaluation.total.detection.fp <= 3
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

    def perfect(held_out: str) -> object:
        """Finds all."""
        cells = drawn_phase[held_out].positions.cells
        return figures.Found(float(len(cells)), 1.0, cells)

    monkeypatch.setattr(figures, "METHODS", {"none": broken, "area": figures.area, "perfect": perfect})
    figures.found_by.cache_clear()
    rows = list(figures.seven_methods())
    figures.found_by.cache_clear()
    assert (rows[0].name, rows[0].ok, rows[0].against) == ("none", False, "cannot run here: no weights of a net")
    names = ["count error", "precision", "recall", "F1 within 12 px", "time an image"]
    expected = ["area: count error", "area: time an image", *(f"perfect: {name}" for name in names)]
    assert [row.name for row in rows[1:]] == expected
    assert all(row.ok for row in rows[1:])
    assert "Annotated part: " in rows[1].against
    assert [row.value for row in rows[3:]] == [0, 1, 1, 1, 1]


def test_the_time_of_the_net_is_part_of_that_of_count(figures: ModuleType) -> None:
    from cellweave.models import Segmenter
    from cellweave.nets import FastUNet
    from cellweave.representations import Heatmap

    model = Segmenter(FastUNet(out_maps=1, widths=(8, 8, 8, 8)), Heatmap(), 0.0)
    image = spots(0).image
    whole, net = figures.timed(image, model, lambda: figures.count(image, model), repeats=1)
    assert 0 < net < whole
    assert not model.net._forward_hooks


def test_intervals_hold_counts_of_parts(
    figures: ModuleType, drawn_phase: dict[str, Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cellweave.models import Segmenter
    from cellweave.nets import FastUNet
    from cellweave.representations import Heatmap

    model = Segmenter(FastUNet(out_maps=1, widths=(8, 8, 8, 8)), Heatmap(), 0.0)
    monkeypatch.setattr(figures, "trained", lambda name: model)
    counts = figures.counts_of_parts()
    assert [len(one.true) for one in counts] == [figures.PARTS**2] * 3
    assert [one.true.sum() for one in counts] == [len(one.positions.cells) for one in drawn_phase.values()]
    inside, width = figures.interval_rows(counts, "parts", "others", **figures.LEFT_OUT)
    assert inside.value == pytest.approx(0.9, abs=0.1)
    assert width.value == pytest.approx(2 * np.median(np.concatenate([one.half for one in counts])))


def test_sam_is_prompted_with_clicks_and_areas_are_of_the_annotated_part(
    figures: ModuleType, drawn_phase: dict[str, Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cellweave.predict import sam

    prompts: dict[str, object] = {}

    def segment_points(_: object, image: Image, points: Points, *, prompt: str) -> sam.SamSegmentation:
        prompts[prompt] = points
        labels = np.zeros((256, 256), np.int32)
        labels[tuple(np.rint(points.positions).astype(int).T)] = np.arange(1, len(points) + 1)
        return sam.SamSegmentation(labels, np.ones(len(points), np.float32), np.arange(len(points)))

    def sam_foreground(_: object, image: Image, points: Points, background: object, *, positive: str) -> object:
        prompts[positive] = background
        return np.ones((256, 256), bool)

    marked = SimpleNamespace(background_points=np.array([[3.0, 4.0]]))
    monkeypatch.setattr(sam, "load_sam", lambda name: None)
    monkeypatch.setattr(sam, "segment_points", segment_points)
    monkeypatch.setattr(sam, "sam_foreground", sam_foreground)
    monkeypatch.setattr(figures, "marks", lambda stem: marked)
    cells = drawn_phase["1"].positions.cells
    found = figures.sam_prompted("1", "negatives", clicked=True)
    assert np.allclose(found.points.positions, np.rint(cells.positions))
    area = figures.sam_area("1", "background")
    assert np.array_equal(prompts["background"], [[3, 4]])
    assert area.annotated == pytest.approx(len(cells), rel=0.1)
    assert area.count == pytest.approx(1.5 * area.annotated, rel=0.02)


def test_the_benchmark_is_listed() -> None:
    import record

    assert "points" in record.benchmarks()
