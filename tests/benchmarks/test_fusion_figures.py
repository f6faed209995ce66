"""The benchmark of fusion: its images, its trainings, and the arithmetic of its figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from cellweave.core.image import Image
from cellweave.core.labels import diameters
from cellweave.metrics import Scores
from cellweave.metrics.matching import Detection
from cellweave.models import Key, ModelSet, Segmenter
from cellweave.models.model_set import Training
from cellweave.train import Example
from cellweave.train.objects import Field


@pytest.fixture
def images() -> ModuleType:
    import _fusion_data

    return _fusion_data


@pytest.fixture
def trainings() -> ModuleType:
    import _fusion_trainings

    return _fusion_trainings


@pytest.fixture
def bench() -> ModuleType:
    import fusion

    return fusion


def domes(seed: int) -> Field:
    """Nine nuclei and cells: all are bright in P1, the first four in P2, the last in P3."""
    labels, rng = np.zeros((96, 96), np.int32), np.random.default_rng(seed)
    light, (rows, columns) = np.zeros((96, 96)), np.mgrid[:96, :96]
    for k, (y, x) in enumerate(rng.uniform(-2, 2, (9, 2))):
        height = 1 - ((rows - 16 - 32 * (k // 3) - y) ** 2 + (columns - 16 - 32 * (k % 3) - x) ** 2) / 12**2
        labels[height > 0] = k + 1
        light[height > 0] = 200 + 700 * height[height > 0]
    pixels = 100 + np.stack([light, light * (labels < 5), light * (labels == 9)])
    image = Image(pixels.astype(np.float32), "CYX", channel_names=("P1", "P2", "P3"))
    return Field(f"{seed}", image, {"nuclei": labels, "cells": labels})


def test_simulated_reporters_show_parts_of_the_same_cells(images: ModuleType) -> None:
    field = images.simulated_field(3)
    again = images.simulated_field(3)
    pixels = field.image.read()
    assert field.reporters == ("P1", "P2", "P3", "P4")
    assert np.array_equal(pixels, again.image.read())
    cells, nuclei = field.labels["cells"], field.labels["nuclei"]
    assert np.median(diameters(cells)) == pytest.approx(40, rel=0.25)
    assert ((nuclei > 0) <= (cells > 0)).all()
    n = int(cells.max())
    ids = np.arange(1, n + 1)
    outside = pixels[:, cells == 0].astype(float)
    lit = np.array(
        [
            [np.percentile(plane[cells == k], 90) > dark.mean() + 3 * dark.std() for k in ids]
            for plane, dark in zip(pixels, outside, strict=True)
        ]
    )
    assert (lit.mean(axis=1) < 1).any()  # some cells are dark in some channels
    assert lit.any(axis=0).mean() > 0.9  # and hardly any in all


def test_the_other_acquisition_is_of_the_same_cells_and_noisier(images: ModuleType) -> None:
    clean, noisy = images.simulated_field(3), images.simulated_field(3, noisy=True)
    for name in ("nuclei", "cells"):
        assert np.array_equal(clean.labels[name], noisy.labels[name])
    inside = clean.labels["cells"] > 0

    def contrast(field: Any) -> float:
        plane = field.image.read()[0].astype(float)
        return float((plane[inside].mean() - plane[~inside].mean()) / plane[~inside].std())

    assert contrast(noisy) < 0.5 * contrast(clean)


def test_partial_reporters_leave_nuclei_dark_and_the_background_alone(images: ModuleType) -> None:
    labels = np.zeros((200, 200), np.int32)
    rows, columns = np.mgrid[:200, :200]
    for k in range(25):
        y, x = 20 + 40 * (k // 5), 20 + 40 * (k % 5)
        labels[np.hypot(rows - y, columns - x) <= 10] = k + 1
    rng = np.random.default_rng(0)
    picture = 100 + 1000 * (labels > 0) + rng.normal(0, 5, labels.shape)
    parts = images.partial_reporters(picture, labels, np.random.default_rng(1))
    assert parts.shape == (3, 200, 200)
    far = np.min([np.hypot(rows - 20 - 40 * (k // 5), columns - 20 - 40 * (k % 5)) for k in range(25)], axis=0) > 20
    np.testing.assert_allclose(parts[:, far], np.broadcast_to(picture, parts.shape)[:, far], atol=0.01)
    brightest = np.array([[plane[labels == k].max() for k in range(1, 26)] for plane in parts])
    dark = brightest < 250
    assert 0.1 < dark.mean() < 0.45
    assert not dark.all(axis=0).any() or dark.all(axis=0).mean() < 0.1
    rim, middle = images.rim_of(labels), labels > 0
    assert rim[middle].max() == 1
    assert not rim[~middle].any()
    assert rim[20, 20] < 0.05 < rim[20, 30]


def test_images_of_several_magnifications_are_brought_to_one_size(images: ModuleType) -> None:
    for side in (12, 36):
        labels = np.kron(np.arange(1, 10).reshape(3, 3), np.pad(np.ones((side, side), np.int32), 4))
        picture = 100 + 50 * (labels > 0)
        example = Example(f"{side}", Image(picture[None].astype(np.uint8)), labels.astype(np.int32))
        field = images.partial_field(example)
        assert np.median(diameters(field.labels["nuclei"])) == pytest.approx(24, rel=0.05)
        assert field.image.data.shape == (3, *field.labels["nuclei"].shape)
        assert field.reporters == ("R1", "R2", "R3")


def test_every_model_has_a_training_that_fits_the_time(trainings: ModuleType) -> None:
    names = trainings.TRAININGS
    for models in ("simulated", "classical"):
        for name in ("nuclei", "cells"):
            for reporter in ("P1", "P2", "P3", "P4"):
                assert f"{models}-{name}-{reporter}" in names
    assert {"universal-cells-any", "grayscale-cells-average", "partial-nuclei-R3", "tcells-cells-DAPI"} <= set(names)
    assert sum(one.steps * one.seconds for one in names.values()) <= 70 * 60
    for name in ("nuclei", "cells"):
        alone, together = ([t.steps for t in trainings.members(m, name).values()] for m in ("simulated", "universal"))
        assert sum(alone) == sum(together)
    assert {one.augmentation for name, one in names.items() if name.startswith("classical")} == {"classical"}
    assert {one.augmentation for name, one in names.items() if not name.startswith("classical")} == {"microscopy"}


def test_a_training_makes_its_model_and_is_made_again_with_other_settings(
    trainings: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model_folder: Path
) -> None:
    few = {"train": (domes(0),), "val": (domes(1),)}
    monkeypatch.setattr(trainings, "fields", lambda data, split: few[split])
    monkeypatch.setattr(trainings, "RUNS", tmp_path)
    monkeypatch.setattr(trainings, "BASE", str(model_folder))
    name, planned = "simulated-cells-P2", trainings.TRAININGS["simulated-cells-P2"]
    assert trainings.config_of(name).epochs == trainings.STEPS // 8
    monkeypatch.setattr(trainings, "TRAININGS", {name: replace(planned, steps=8)})
    options = replace(trainings.config_of(name), crop=32, batch_size=1)
    monkeypatch.setattr(trainings, "config_of", lambda name, device: options)
    made = trainings.trained(name)
    assert trainings.steps_made("simulated", "cells") == "8 of up to 8 steps in all"
    whole = trainings.model_set.__wrapped__("simulated")
    assert list(whole.keys) == [("cells", "simulated", "P2")]
    assert whole.model(whole.keys[0]).hash == made.hash
    monkeypatch.setattr("cellweave.train.self_training.train", None)
    assert trainings.trained(name).hash == made.hash
    options = replace(options, seed=1)
    with pytest.raises(TypeError, match="NoneType"):
        trainings.trained(name)


def test_the_base_comes_with_the_advised_diameter(
    trainings: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model_folder: Path
) -> None:
    field = domes(0)
    monkeypatch.setattr(trainings, "fields", lambda data, split: (field,))
    monkeypatch.setattr(trainings, "RUNS", tmp_path)
    monkeypatch.setattr(trainings, "BASE", str(model_folder))
    base = trainings.as_it_comes.__wrapped__("simulated")
    found = diameters(field.labels["cells"])
    assert base.training(Key("cells", "simulated", "any")).diameter == pytest.approx(found.mean() + found.std())


def counted(name: str, tp: int, fp: int, fn: int) -> Scores:
    return Scores(name, tp + fn, tp + fp, (Detection(0.5, tp, fp, fn, float(tp)),), 0, 0, 0, 0, (0, 0, 0, 0))


def test_figures_are_those_of_all_objects_and_doubt_that_of_the_images(bench: ModuleType) -> None:
    ours = [counted("1", 9, 1, 0), counted("2", 1, 0, 0)]
    assert bench.f1(ours) == pytest.approx(20 / 21)
    assert "precision 0.909, recall 1.000" in bench.said(ours)
    assert bench.interval(ours, ours) == (0, 0)
    theirs = [counted("1", 8, 1, 1), counted("2", 0, 0, 1)]
    row = bench.less("less", ours, theirs, "theirs", -0.01)
    assert row.value == pytest.approx(20 / 21 - 16 / 19)
    low, high = bench.interval(ours, theirs)
    assert (low, high) == (pytest.approx(18 / 19 - 16 / 18), pytest.approx(1))  # either image alone
    assert row.against == f"theirs; 95 % interval {low:+.3f} to {high:+.3f}, 2 images drawn again"


def test_tables_are_those_of_fuse_select(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Segmenter
) -> None:
    splits = {"test": (domes(0), domes(1)), "val": (domes(2),)}
    sets = {}
    for name, reporters in (("simulated", ("P1", "P2", "P3")), ("base", ("any",))):
        sets[name] = ModelSet.create(tmp_path / name)
        for reporter in reporters:
            key = Key("nuclei", "simulated", reporter)
            sets[name] = sets[name].add(tiny_model, **key._asdict(), training=Training(24.0))
    monkeypatch.setattr(bench, "fields", lambda data, split: splits[split])
    monkeypatch.setattr(bench, "model_set", sets.__getitem__)
    monkeypatch.setattr(bench, "as_it_comes", lambda data: sets["base"])
    monkeypatch.setattr(bench, "SETS", (("simulated", "nuclei"),))
    monkeypatch.setattr(bench, "CHANNELS", {"simulated": ("P1", "P2", "P3")})
    monkeypatch.setattr(bench, "table", bench.table.__wrapped__)
    monkeypatch.setattr(bench, "selected", bench.selected.__wrapped__)
    rows = {row.name: row for row in bench.channels()}
    start = "nuclei, simulated"
    assert rows[f"{start}, P1 alone: F1@0.5"].value == 1
    assert rows[f"{start}, P2 alone: F1@0.5"].value == pytest.approx(8 / 13)
    best = rows[f"{start}, the choice of fuse select: F1@0.5"]
    assert best.value == 1
    assert best.against.endswith("P1, flow fusion, chosen on the 1 validation images")
    every = rows[f"{start}, all channels: F1@0.5"]
    assert rows[f"{start}, the embedded model as it comes, all channels: F1@0.5"].value == every.value
    less = rows[f"{start}: F1@0.5 of all channels less that of the best channel"]
    assert less.value == pytest.approx(every.value - 1)
    assert less.at_least == -0.01
    methods = {row.name: row for row in bench.fusion_methods()}
    assert methods[f"{start}, flow fusion of all channels: F1@0.5"].value == every.value
    voted = methods[f"{start}, majority voting of all channels: F1@0.5"]
    assert voted.value == pytest.approx(10 / 14)  # objects of two of three raters
    assert f"{start}: F1@0.5 of flow fusion less that of the best other method" in methods


def test_raters_see_most_of_one_truth(bench: ModuleType) -> None:
    labels = bench.raters()
    assert labels.shape == (4, 1024, 1024)
    assert all(np.array_equal(np.unique(one), np.arange(13)) for one in labels)
    assert 0.3 < (labels == labels[0]).all(axis=0).mean() < 0.99
    covered = (labels > 0).mean(axis=(1, 2)) / (labels > 0).any(axis=0).mean()
    assert ((covered > 0.7) & (covered < 0.97)).all()


def test_errors_of_fields_do_not_depend_on_their_units(bench: ModuleType) -> None:
    truth = bench.vignette((40, 50))
    assert truth.mean() == pytest.approx(1)
    assert bench.field_error(3 * truth, truth) == pytest.approx(0, abs=1e-9)
    wave = 1 + 0.02 * np.resize([1, -1], truth.shape)
    assert bench.field_error(wave, np.ones(truth.shape)) == pytest.approx(2, rel=0.01)


def test_frames_have_the_vignette(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "FRAMES", 3)
    monkeypatch.setattr(bench, "FRAME", (256, 256))
    shaded, even = (
        bench.acquired("tissue_nuclei", bench.ANYWHERE, gain).astype(float) - 100
        for gain in (bench.vignette((256, 256)), np.ones((256, 256)))
    )
    assert shaded.shape == (3, 256, 256)
    ratio = shaded.mean(axis=0) / even.mean(axis=0)
    assert ratio.std() == pytest.approx(bench.vignette((256, 256)).std(), rel=0.3)


def test_few_cells_lie_on_a_dark_ground(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "FRAMES", 2)
    monkeypatch.setattr(bench, "FRAME", (256, 256))
    many, few = (bench.acquired("nuclei", which, np.ones((256, 256))) for which in (bench.ANYWHERE, bench.FEW))
    assert np.median(few) - 100 < 0.2 * (np.median(many) - 100)
    assert few.max() > 1000


def test_the_benchmark_is_listed() -> None:
    import record

    assert record.benchmarks()["fusion"].startswith("Cells without structural reporters")
