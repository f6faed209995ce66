"""Every way of counting is a model folder that `count` takes: saved, loaded, and refused where it does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cellweave
from cellweave.core.errors import InputError, ModelError
from cellweave.core.image import Image
from cellweave.core.points import Points, nearest_pairs
from cellweave.models import Segmenter, load_model
from cellweave.models.folder import COUNTERS, kind_of
from cellweave.predict import Count, MapCount, load_counter, segment
from cellweave.predict.area import AreaDensity
from cellweave.predict.blobs import BlobFinder, fit_blobs
from cellweave.predict.counters import _LOADERS, Counter
from cellweave.predict.mask_rcnn import Architecture, Detector
from cellweave.predict.sam import SamSegmentation, load_sam
from cellweave.prep.foreground import foreground
from mask_rcnns import small_net
from sams import save_small_sam

SHAPE = (160, 200)


def disks(seed: int = 0, n: int = 20, shape: tuple[int, int] = SHAPE) -> tuple[np.ndarray, Points]:
    """Bright disks of 14 px on noise, and their places."""
    rng = np.random.default_rng(seed)
    at = np.stack(np.meshgrid(np.arange(16, shape[0] - 8, 26), np.arange(16, shape[1] - 8, 26)), axis=-1).reshape(-1, 2)
    at = at[rng.permutation(len(at))[:n]] + rng.uniform(-3, 3, (n, 2))
    y, x = np.mgrid[: shape[0], : shape[1]]
    plane = 100 + rng.normal(0, 2, shape)
    for row, column in at:
        plane += 60 * np.clip(7.5 - np.hypot(y - row, x - column), 0, 1)
    return plane.astype(np.float32), Points(at, shape=shape)


def area() -> AreaDensity:
    plane, points = disks()
    return AreaDensity.fit([foreground(plane)], [points])


def blobs() -> BlobFinder:
    plane, points = disks()
    return fit_blobs([plane], [points])


PLAIN = pytest.mark.parametrize("make", [area, blobs])


@PLAIN
def test_a_folder_counts_as_what_was_saved(make: Callable[[], Any], tmp_path: Path) -> None:
    model = make().with_(name="mine", card={"Source": "drawn"})
    saved = model.save(tmp_path / "model")
    loaded = load_counter(tmp_path / "model")
    assert loaded == saved
    assert saved.hash
    assert kind_of(tmp_path / "model") == model.KIND
    assert "- Source: drawn" in (tmp_path / "model" / "README.md").read_text()
    plane, points = disks(1, 15)
    found = cellweave.count(plane, tmp_path / "model")
    assert found.count == cellweave.count(plane, model).count
    assert found.count == pytest.approx(len(points), rel=0.15)
    assert (found.low, found.high, found.interval) == (None, None, None)
    assert "no interval" in found.remarks[0]
    with pytest.raises(InputError, match="'mine' has no density"):
        _ = found.density
    assert model.with_(name="other").save(tmp_path / "model").hash != saved.hash


@PLAIN
def test_altered_folders_are_refused(make: Callable[[], Any], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    make().save(folder)
    text = (folder / "model.json").read_text()
    (folder / "model.json").write_text(text.replace('"cells": 20', '"cells": 21'))
    with pytest.raises(ModelError, match=r"model\.json was altered"):
        load_counter(folder)
    (folder / "model.json").write_text(text.replace('"format": 1', '"format": 2'))
    with pytest.raises(ModelError, match="newer cellweave"):
        load_counter(folder)
    (folder / "model.json").write_text(text[:20])
    with pytest.raises(ModelError):
        load_counter(folder)


@PLAIN
def test_they_are_no_models_of_outlines(make: Callable[[], Any], tmp_path: Path, model_folder: Path) -> None:
    make().save(tmp_path)
    for use in (load_model, Segmenter.load, lambda folder: segment(np.zeros((20, 20)), folder)):
        with pytest.raises(
            ModelError, match=f"{COUNTERS[make().KIND]}, which only counts; use it with cellweave count"
        ):
            use(tmp_path)
    with pytest.raises(ModelError, match=f"does not count by {make().KIND}"):
        type(make()).load(model_folder)


def test_every_kind_has_a_loader() -> None:
    assert set(_LOADERS) == set(COUNTERS)


def test_an_area_does_not_depend_on_brightness_and_tells_no_places() -> None:
    plane, _ = disks(2)
    model = area()
    found = cellweave.count(plane, model)
    for other in (3 * plane + 50, plane[::-1], plane.T, Image.from_array(np.stack([plane, plane]), axes="CYX")):
        assert cellweave.count(other, model).count == pytest.approx(found.count, rel=0.02)
    assert found.points is None
    assert found.debris == found.dropped == 0
    assert found.foreground is not None
    assert found.shaded is found.foreground
    assert found.count == model.count(found.foreground)
    with pytest.raises(InputError, match="leave out min_confidence"):
        cellweave.count(plane, model, min_confidence=0.5)


def test_blobs_are_found_at_their_places_with_a_confidence() -> None:
    plane, points = disks(3)
    model = blobs()
    found = cellweave.count(plane, model)
    assert found.points is not None
    assert len(nearest_pairs(points.positions, found.points.positions, 2)[0]) == len(points) == found.count
    assert found.points.confidence is not None
    least = float(np.median(found.points.confidence))
    fewer = cellweave.count(plane, model, min_confidence=least)
    assert fewer.count == (found.points.confidence >= least).sum() == found.count - fewer.dropped
    assert found.shaded is None


def test_one_channel_is_looked_at() -> None:
    plane, _ = disks(4)
    noise = np.random.default_rng(0).normal(0, 80, plane.shape)
    image = Image.from_array(np.stack([noise, plane]).astype(np.float32), axes="CYX")
    expected = cellweave.count(plane, blobs()).count
    assert cellweave.count(image, blobs(), channels="gray:2").count == expected
    assert cellweave.count(image, blobs().with_(channels="gray:2")).count == expected
    assert cellweave.count(image, blobs()).count != expected
    with pytest.raises(InputError, match="write gray:NAME"):
        cellweave.count(image, blobs(), channels="2,1")


@pytest.mark.parametrize("options", [{"diameter": 20}, {"augment": True}])
def test_options_of_nets_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="leave out diameter and augment"):
        cellweave.count(np.zeros((30, 30)), area(), **options)


def test_models_with_maps_are_loaded_as_before(model_folder: Path, tiny_model: Segmenter) -> None:
    assert load_counter(tiny_model) is tiny_model
    assert isinstance(load_counter(model_folder), Segmenter)
    found = cellweave.count(np.zeros((40, 40), np.float32), model_folder, device="cpu")
    assert isinstance(found, MapCount)
    with pytest.raises(ModelError, match="there is no model or model folder 'nowhere'"):
        load_counter("nowhere")


def test_a_mask_rcnn_counts_what_it_detects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cellweave.predict import mask_rcnn

    monkeypatch.setattr(Architecture, "build", small_net)
    architecture = Architecture(16, 96)
    torch.manual_seed(0)
    detector = Detector(architecture.build(), architecture, name="boxes").save(tmp_path / "model")
    plane, _ = disks(5)
    expected = mask_rcnn.detect(plane, detector, confidence=0.01, device="cpu")
    found = cellweave.count(plane, tmp_path / "model", min_confidence=0.01, device="cpu")
    assert found.points is not None
    assert found.count == len(expected.points) == len(found.points) > 0
    assert (found.labels == expected.labels).all()
    assert "Mask R-CNN" in (tmp_path / "model" / "README.md").read_text()
    assert detector.hash in load_counter(tmp_path / "model").card_text()


def test_sam_counts_the_masks_of_its_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cellweave.predict import sam

    folder = save_small_sam(tmp_path / "sam")
    assert kind_of(folder) == "sam"
    labels = np.zeros(SHAPE, np.int32)
    for k in range(3):
        labels[10 + 30 * k : 20 + 30 * k, 5:15] = k + 1
    answer = SamSegmentation(labels, np.array([0.9, 0.4, 0.8], np.float32), np.arange(3))
    monkeypatch.setattr(sam, "segment_grid", lambda *_, **__: answer)
    plane, _ = disks(6)
    found = cellweave.count(plane, folder, device="cpu")
    assert (found.count, found.dropped) == (3, 0)
    assert found.points is not None
    assert np.allclose(found.points.positions[:, 0], [14.5, 44.5, 74.5])
    fewer = cellweave.count(plane, folder, min_confidence=0.5, device="cpu")
    assert (fewer.count, fewer.dropped) == (2, 1)
    assert fewer.labels is not None
    assert np.unique(fewer.labels).tolist() == [0, 1, 2]
    assert (fewer.labels > 0).sum() == 200
    with pytest.raises(ModelError, match="a SAM, which only counts"):
        load_model(folder)


def test_sam_is_known_by_its_config_or_by_a_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_small_sam(tmp_path / "sam")
    first, again = load_counter(folder), load_sam(folder)
    assert first.hash == again.hash
    assert first.hash in first.card_text()
    assert isinstance(cellweave.count(disks(7)[0], first, device="cpu"), Count)  # the real grid runs
    asked: list[str] = []

    def load(weights: str, **_: object) -> Counter:
        asked.append(weights)
        return again

    monkeypatch.setattr("cellweave.predict.sam.load_sam", load)
    assert load_counter("sam:facebook/sam-vit-base") is again
    with pytest.raises(ModelError, match="'sam:' names no weights"):
        load_counter("sam:")
    assert asked == ["facebook/sam-vit-base"]
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "other"}))
    with pytest.raises(ModelError, match=r"model\.json is missing"):
        load_counter(folder)
