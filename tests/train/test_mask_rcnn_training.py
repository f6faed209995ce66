"""Mask R-CNN learns boxes around points, and finds them again in images larger than a tile."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cellweave.core.errors import CellweaveError, InputError
from cellweave.core.image import Image
from cellweave.core.points import DEBRIS, LIVE, Points, nearest_pairs
from cellweave.core.progress import showing
from cellweave.predict.mask_rcnn import Architecture, Detector, detect
from cellweave.train import Example
from cellweave.train import mask_rcnn as module
from cellweave.train.mask_rcnn import MaskRCNNConfig, make_crop, rate_at, train_mask_rcnn
from mask_rcnns import small_net, squares

SIDE = 16


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.setattr(Architecture, "build", small_net)


def settings_of(out: Path, **changes: object) -> MaskRCNNConfig:
    values: dict[str, object] = {"side": SIDE, "tile": 96, "proposals": 64, "device": "cpu", "learning_rate": 0.02}
    return MaskRCNNConfig(out, **(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Detector, list[float]]:
    """A small detector after a hundred steps, and the loss after each."""
    losses: list[float] = []
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Architecture, "build", small_net)
        with showing(lambda *step: losses.append(float(step[3].removeprefix("loss "))) if "loss" in step[3] else None):
            examples = [Example(str(k), *squares(k)) for k in range(6)]
            examples.append(
                Example("empty", Image.from_array(np.full((60, 70), 60, np.uint8)), Points(np.empty((0, 2))))
            )
            detector = train_mask_rcnn(examples, settings_of(tmp_path_factory.mktemp("run"), steps=100))
    torch.set_num_threads(before)
    return detector, losses


def test_the_loss_falls_and_squares_are_found_in_a_larger_image(trained: tuple[Detector, list[float]]) -> None:
    detector, losses = trained
    assert losses[-1] < 0.5 * losses[4]
    image, points = squares(11, (200, 230), n=60)
    found = detect(image, detector, device="cpu")
    i, _, distances = nearest_pairs(points.positions, found.points.positions, 5)
    assert len(i) >= 0.95 * len(points)
    assert len(found.points) <= 1.1 * len(points)
    assert distances.mean() < 1.5
    assert found.points.shape == (200, 230)
    assert (np.diff(found.points.confidence) <= 0).all()
    assert np.unique(found.labels).tolist() == list(range(len(found.points) + 1))
    centres = np.round(found.points.positions).astype(int)
    assert (found.labels[centres[:, 0], centres[:, 1]] == np.arange(len(centres)) + 1).mean() > 0.95
    areas = np.bincount(found.labels.ravel())[1:]
    assert np.median(areas) == pytest.approx(SIDE**2, rel=0.15)


def test_the_same_cells_are_found_on_tiles_of_any_size(trained: tuple[Detector, list[float]]) -> None:
    detector, _ = trained
    image, _ = squares(12, (150, 260), n=60)
    reference = _on_tiles_of(detector, 320, image)
    for tile in (80, 96, 140):
        found = _on_tiles_of(detector, tile, image)
        i, _, _ = nearest_pairs(reference.positions, found.positions, 3)
        assert len(i) >= len(reference) - 2
        assert len(found) <= len(reference) + 2


def test_more_than_a_hundred_cells_of_one_tile_are_found(trained: tuple[Detector, list[float]]) -> None:
    rows, columns = np.mgrid[:280, :280]
    picture = np.random.default_rng(0).normal(60, 8, (280, 280))
    picture[(rows % 20 < SIDE) & (columns % 20 < SIDE)] += 100
    found = _on_tiles_of(trained[0], 288, Image.from_array(picture.clip(0, 255).astype(np.uint8)))
    assert len(found) == pytest.approx(14**2, abs=6)


def _on_tiles_of(detector: Detector, tile: int, image: Image) -> Points:
    architecture = Architecture(SIDE, tile)
    net = small_net(architecture)
    net.load_state_dict(detector.net.state_dict())
    return detect(image, Detector(net, architecture), device="cpu").points


def test_a_trained_detector_is_saved_and_finds_the_same(trained: tuple[Detector, list[float]], tmp_path: Path) -> None:
    detector, _ = trained
    saved = detector.save(tmp_path / "model")
    image, _ = squares(13)
    first, second = detect(image, detector, device="cpu"), detect(image, tmp_path / "model", device="cpu")
    assert (first.labels == second.labels).all()
    assert (first.boxes == second.boxes).all()
    assert saved.hash == Detector.load(tmp_path / "model").hash
    assert "| Points" not in (tmp_path / "model" / "README.md").read_text()
    assert json.loads((tmp_path / "model" / "model.json").read_text())["kind"] == "mask-rcnn"


def test_images_without_cells_and_smaller_than_a_tile(trained: tuple[Detector, list[float]]) -> None:
    detector, _ = trained
    for shape in ((1, 40), (30, 20), (100, 300)):
        flat = np.random.default_rng(0).normal(60, 0.1, shape).astype(np.float32)
        found = detect(np.full_like(flat, 5), detector, device="cpu")
        assert found.labels.shape == shape
        assert found.labels.max() == len(found.points) == len(found.boxes)
    image, points = squares(14, (60, 70), n=6)
    found = detect(image, detector, device="cpu")
    i, _, _ = nearest_pairs(points.positions, found.points.positions, 5)
    assert len(i) >= len(points) - 1


def test_wrong_thresholds_are_named(trained: tuple[Detector, list[float]]) -> None:
    image, _ = squares(14)
    with pytest.raises(InputError, match=r"confidence is 2"):
        detect(image, trained[0], confidence=2)
    with pytest.raises(InputError, match=r"overlap is -1"):
        detect(image, trained[0], overlap=-1)
    with pytest.raises(InputError, match="Mask R-CNN looks at 3"):
        detect(image, trained[0], channels="gray")


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(60, 80), (96, 96), (150, 130)]))
def test_crops_show_boxes_where_their_points_are(seed: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    positions = np.unique(np.floor(rng.uniform(0, shape, (8, 2))), axis=0)
    pixels = np.zeros((3, *shape), np.float32)
    for k, (y, x) in enumerate(positions.astype(int), 1):
        pixels[:, y, x] = k
    image, target = make_crop(pixels, positions, np.ones(shape, bool), settings_of(Path("unused")), rng)
    assert image.shape == (3, 96, 96)
    boxes, masks, known = target["boxes"].numpy(), target["masks"].numpy(), target["known"].numpy()
    assert len(boxes) == len(masks) == len(target["labels"]) == np.count_nonzero(image[0])
    assert (boxes[:, 2:] - boxes[:, :2] >= SIDE / 2).all()
    assert ((boxes >= 0) & (boxes <= 96)).all()
    for (x0, y0, x1, y1), mask in zip(boxes, masks, strict=True):
        assert mask.sum() == np.round(y1 - 0.01 - y0) * np.round(x1 - 0.01 - x0) or mask.sum() > 0
        rows, columns = np.nonzero(mask)
        assert (rows + 0.5 >= y0).all()
        assert (columns + 0.5 < x1).all()
        inside = image[0].numpy()[mask > 0]
        assert (inside > 0).any()  # the point itself
    # What is not known belongs to boxes of points beside the crop: near its borders.
    assert known[SIDE // 2 + 1 : -SIDE // 2 - 1, SIDE // 2 + 1 : -SIDE // 2 - 1].all()


def test_nothing_is_learned_of_places_where_nobody_looked() -> None:
    labels, boxes = (
        torch.tensor([0, 0, 1, -1]),
        torch.tensor([[0.0, 0, 4, 4], [4, 4, 8, 8], [4, 4, 8, 8], [4, 4, 8, 8]]),
    )
    known = torch.zeros(10, 10, dtype=torch.bool)
    known[:4, :4] = True
    assert module._told(labels, boxes, known).tolist() == [0, -1, 1, -1]
    # A point beside the crop, whose box reaches into it.
    positions, everywhere = np.array([[50.0, 100.0]]), np.ones((96, 192), bool)
    pixels = np.zeros((3, 96, 192), np.float32)
    hidden = 0
    for seed in range(60):
        _, target = make_crop(pixels, positions, everywhere, settings_of(Path("unused")), np.random.default_rng(seed))
        if not len(target["boxes"]) and not target["known"].all():
            hidden += 1
            assert (~target["known"]).sum() <= SIDE * SIDE / 2 + SIDE
    assert hidden


def test_a_training_with_unknown_places_stays_finite(tmp_path: Path) -> None:
    image, points = squares(3)
    known = np.zeros((120, 140), bool)
    for y, x in points.positions[:4].astype(int):
        known[max(0, y - 12) : y + 12, max(0, x - 12) : x + 12] = True
    sparse = Example("sparse", image, points[:4], known=known)
    nothing = Example("nothing", image, Points(np.empty((0, 2))), known=np.zeros((120, 140), bool))
    detector = train_mask_rcnn([sparse, nothing], settings_of(tmp_path, steps=6))
    assert detector.card["Images"] == 1
    with pytest.raises(InputError, match="no point in the training data"):
        train_mask_rcnn([nothing], settings_of(tmp_path, steps=1))
    with pytest.raises(InputError, match=r"wrong: known has shape"):
        train_mask_rcnn([Example("wrong", image, points, known=known[:5])], settings_of(tmp_path, steps=1))


def test_a_resumed_training_is_the_unbroken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [Example("a", *squares(0)), Example("b", *squares(1), weight=2.0)]
    whole = train_mask_rcnn(examples, settings_of(tmp_path / "whole", steps=5))
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", -1.0)

    class Stop(Exception):
        pass

    def stop(task: str, done: int, total: int, note: str) -> None:
        if task == "training" and done == 4:
            raise Stop

    broken = settings_of(tmp_path / "broken", steps=5)
    with showing(stop), pytest.raises(Stop):
        train_mask_rcnn(examples, broken)
    assert torch.load(broken.out / "checkpoint.pt", weights_only=True)["state"]["step"] == 3
    resumed = train_mask_rcnn(examples, broken, resume=True)
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, resumed.net.state_dict()[name]), name
    with pytest.raises(InputError, match=r"other settings \(seed=0\)"):
        train_mask_rcnn(examples, settings_of(tmp_path / "broken", steps=5, seed=1), resume=True)
    (broken.out / "checkpoint.pt").write_bytes(b"damaged")
    with pytest.raises(InputError, match="is damaged"):
        train_mask_rcnn(examples, broken, resume=True)
    with pytest.raises(InputError, match="nothing to resume"):
        train_mask_rcnn(examples, settings_of(tmp_path / "new"), resume=True)


def test_debris_is_background_and_labels_have_centroids() -> None:
    image, points = squares(0)
    classes = np.where(np.arange(len(points)) < 3, DEBRIS, LIVE)
    sample = module._prepare(Example("x", image, Points(points.positions, classes, shape=points.shape)), "color")
    assert len(sample.positions) == len(points) - 3
    labels = np.zeros((120, 140), np.int32)
    labels[10:13, 20:23] = 1
    assert module._prepare(Example("x", image, labels), "color").positions.tolist() == [[11.0, 21.0]]


def test_the_rate_rises_and_falls_twice() -> None:
    assert rate_at(0) == pytest.approx(1e-3)
    assert rate_at(0.025) == pytest.approx(0.5)
    assert [rate_at(share) for share in (0.05, 0.6, 0.7, 0.95)] == pytest.approx([1, 1, 0.1, 0.01])


def test_settings_that_make_no_sense_are_named(tmp_path: Path) -> None:
    for changes, message in (
        ({"steps": 0}, "steps is 0"),
        ({"side": 1}, "side is 1"),
        ({"tile": 20}, "tile is 20"),
        ({"backbone": "vgg"}, "backbone is 'vgg'"),
        ({"learning_rate": -1.0}, "learning_rate is -1"),
        ({"seed": -1}, "seed is -1"),
    ):
        with pytest.raises(InputError, match=message):
            settings_of(tmp_path, **changes)


def test_a_training_that_diverges_says_so(tmp_path: Path) -> None:
    with pytest.raises(CellweaveError, match=r"lower the learning rate"):
        train_mask_rcnn([Example("a", *squares(0))], settings_of(tmp_path, steps=60, learning_rate=1e30))
