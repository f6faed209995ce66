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
from cellweave.models import Segmenter
from cellweave.representations import DiffusionFlows
from cellweave.train import Example


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
    for data, objects in (("simulated", ("nuclei", "cells")), ("classical", ("nuclei", "cells"))):
        for name in objects:
            for reporter in ("P1", "P2", "P3", "P4"):
                assert f"{data}-{name}-{reporter}" in names
    assert {"simulated-cells-any", "simulated-cells-average", "partial-nuclei-R3", "tcells-cells-DAPI"} <= set(names)
    assert all(one.steps * one.seconds <= 6 * 60 for one in names.values())
    assert {one.augmentation for name, one in names.items() if name.startswith("classical")} == {"classical"}
    assert {one.augmentation for name, one in names.items() if not name.startswith("classical")} == {"microscopy"}


def test_a_training_makes_its_model_and_is_found_done(
    trainings: ModuleType, images: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model_folder: Path
) -> None:
    few = {"train": (images.simulated_field(0),), "val": (images.simulated_field(1000),)}
    monkeypatch.setattr(trainings, "fields", lambda data, split: few[split])
    monkeypatch.setattr(trainings, "RUNS", tmp_path)
    monkeypatch.setattr(trainings, "BASE", str(model_folder))
    assert trainings.config_of("simulated-cells-P2").epochs == trainings.STEPS // 8
    shorter = trainings.Training("simulated", "cells", "P2", steps=8)
    monkeypatch.setitem(trainings.TRAININGS, "simulated-cells-P2", shorter)
    options = replace(trainings.config_of("simulated-cells-P2"), crop=32, batch_size=1)
    monkeypatch.setattr(trainings, "config_of", lambda name, device: options)
    made = trainings.trained("simulated-cells-P2")
    assert str(made.channels) == "gray"
    monkeypatch.setattr(trainings, "run_stage", None)
    assert trainings.trained("simulated-cells-P2").hash == made.hash


def test_figures_are_those_of_all_images_together(bench: ModuleType) -> None:
    a, b = np.zeros((2, 20, 20), np.int32)
    a[:10, :10], a[12:, 12:] = 1, 2
    b[:5, :5] = 1
    found = a.copy()
    found[found == 2] = 0
    result = bench.figures([a, b], [found, b])
    assert result.f1 == pytest.approx(2 * 2 / (2 * 2 + 1))
    assert (result.precision, result.recall) == (1, pytest.approx(2 / 3))
    assert result.jaccard == pytest.approx((100 + 25) / (100 + 64 + 25))


def test_the_power_set(bench: ModuleType) -> None:
    assert bench.subsets(3) == [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]


def test_tables_are_made_of_maps(bench: ModuleType, images: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact maps in the first channel, empty ones in the others: each row follows."""
    fields = {split: (images.simulated_field(k),) for split, k in (("train", 0), ("val", 1), ("test", 2))}
    flows = DiffusionFlows()

    def exact(data: str, object: str, split: str, trained_as: str = "") -> Any:
        maps = [flows.encode(one.labels[object]) for one in fields[split]]
        return tuple((one, *[0.4 * one] * 3) for one in maps)

    monkeypatch.setattr(bench, "fields", lambda data, split: fields[split])
    monkeypatch.setattr(bench, "predicted", exact)
    monkeypatch.setattr(bench, "as_it_comes", lambda *where: tuple((0 * m[0],) * 4 for m in exact(*where)))
    monkeypatch.setattr(bench, "SETS", (("simulated", "cells"),))
    monkeypatch.setattr(bench, "load_model", lambda name: Segmenter(None, flows, 24.0))  # type: ignore[arg-type]
    rows = {row.name: row for row in bench.channels()}
    start = "cells, simulated"
    assert rows[f"{start}, P1 alone: F1@0.5"].value > 0.95
    assert rows[f"{start}, P2 alone: F1@0.5"].value == 0
    assert rows[f"{start}, the embedded model as it comes, all channels: F1@0.5"].value == 0
    assert rows[f"{start}, best subset: F1@0.5"].value == rows[f"{start}, P1 alone: F1@0.5"].value
    assert "P1, of all subsets, chosen on the validation images" in rows[f"{start}, best subset: F1@0.5"].against
    assert rows[f"{start}, all but the best channel, P1: F1@0.5"].value == 0
    fused = rows[f"{start}, all channels: F1@0.5"].value
    less = rows[f"{start}: F1@0.5 of all channels less that of the best channel"]
    assert less.value == pytest.approx(fused - rows[f"{start}, P1 alone: F1@0.5"].value)
    assert less.at_least == -0.01
    methods = {row.name: row for row in bench.fusion_methods()}
    assert f"{start}, STAPLE of all channels: F1@0.5" in methods
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
    shaded = bench.acquired("tissue_nuclei", bench.vignette(bench.FRAME)).astype(float) - 100
    even = bench.acquired("tissue_nuclei", np.ones(bench.FRAME)).astype(float) - 100
    assert shaded.shape == (3, *bench.FRAME)
    ratio = shaded.mean(axis=0) / even.mean(axis=0)
    assert ratio.std() == pytest.approx(bench.vignette(bench.FRAME).std(), rel=0.3)


def test_the_benchmark_is_listed() -> None:
    import record

    assert record.benchmarks()["fusion"].startswith("Cells without structural reporters")
