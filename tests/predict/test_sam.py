"""Prompting SAM: a small random one for the mechanics, and one that answers with what it was asked for places."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cellweave.core.errors import InputError, MissingExtraError, ModelError
from cellweave.core.points import Points
from cellweave.predict import sam as module
from cellweave.predict.sam import Prompts, Sam, load_sam, sam_foreground, segment_grid, segment_points
from sams import SIDE, save_small_sam


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random SAM, saved by transformers."""
    return save_small_sam(tmp_path_factory.mktemp("sam") / "tiny")


@pytest.fixture
def tiny(folder: Path) -> Sam:
    return load_sam(folder, device="cpu", cache=2)


class Obedient(torch.nn.Module):
    """Answers a point with a disk around it, of three radii, and a box with the box; nearer to what is asked for than
    to any negative point. Logits are distances in px of the net's picture, at a quarter of its size, as SAM's."""

    def __init__(self, side: int, radius: float) -> None:
        super().__init__()
        self.config = SimpleNamespace(vision_config=SimpleNamespace(image_size=side))
        self.side, self.radius, self.asked = side, radius, []

    def get_image_embeddings(self, pixels: torch.Tensor) -> torch.Tensor:
        assert pixels.shape == (1, 3, self.side, self.side)
        return pixels.mean(dim=1, keepdim=True)

    def forward(self, *, image_embeddings: Any, multimask_output: bool, **prompt: torch.Tensor) -> SimpleNamespace:
        self.asked.append(prompt)
        at = torch.arange(self.side // 4) * 4 + 1.5
        grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), dim=-1)
        if "input_boxes" in prompt:
            low, high = prompt["input_boxes"][0].view(-1, 1, 1, 2, 2).unbind(dim=3)
            logits = torch.minimum(grid - low, high - grid).amin(dim=-1)[:, None]
        else:
            points, kinds = prompt["input_points"][0], prompt["input_labels"][0]
            distance = (grid[None, None] - points[:, :, None, None]).norm(dim=-1)
            far = torch.full_like(distance, 1e6)
            wanted = torch.where((kinds == 1)[..., None, None], distance, far).amin(dim=1)
            other = torch.where((kinds == 0)[..., None, None], distance, far).amin(dim=1)
            radii = torch.tensor([2.0, 1.0, 0.5] if multimask_output else [1.0]) * self.radius
            logits = torch.minimum(radii[:, None, None] - wanted[:, None], (other - wanted)[:, None])
        ious = torch.tensor([0.5, 0.9, 0.7])[: logits.shape[1]].expand(len(logits), -1)
        return SimpleNamespace(pred_masks=logits[None], iou_scores=ious[None])


def obedient(side: int = 256, radius: float = 10.0) -> Sam:
    return Sam(Obedient(side, radius), torch.device("cpu"))


def picture(shape: tuple[int, int] = (150, 180), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def disk(shape: tuple[int, int], y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(rows - y, columns - x) <= radius


POINTS = Points(np.array([[20.0, 30.0], [75.0, 90.0], [130.0, 150.0], [64.0, 20.0], [5.0, 170.0]]), shape=(150, 180))


def test_batches_of_any_size_get_the_same_answers(tiny: Sam) -> None:
    rng = np.random.default_rng(1)
    points = Points(rng.uniform(0, [149, 179], (23, 2)), shape=(150, 180))
    for prompt in ("point", "negatives", "box"):
        first = segment_points(tiny, picture(), points, prompt=prompt, batch=1)
        for batch in (2, 7, 64):
            other = segment_points(tiny, picture(), points, prompt=prompt, batch=batch)
            assert (first.labels == other.labels).all()
            assert (first.prompts == other.prompts).all()
            np.testing.assert_allclose(first.confidence, other.confidence, atol=1e-5)
    one = segment_grid(tiny, picture(), points_per_side=6, iou=-10, stability=0, largest=1, batch=1)
    all_ = segment_grid(tiny, picture(), points_per_side=6, iou=-10, stability=0, largest=1, batch=50)
    assert one.labels.max() > 0
    assert (one.labels == all_.labels).all()


def test_what_sam_says_to_a_prompt_is_what_transformers_says(tiny: Sam) -> None:
    """Against the whole model, given pixels and one prompt at once."""
    tile = np.random.default_rng(0).random((3, SIDE, SIDE)).astype(np.float32)
    points = np.array([[[10.0, 20.0], [30.0, 5.0]], [[40.0, 50.0], [1.0, 2.0]]])
    kinds = np.array([[1, 0], [1, 0]])
    ((_, logits, ious),) = tiny.answer(tile, Prompts(points, kinds, None), several=True, batch=8)
    mean, std = (torch.tensor(v)[:, None, None] for v in (module.MEAN, module.STD))
    with torch.no_grad():
        for k in range(2):
            expected = tiny.net(
                pixel_values=((torch.from_numpy(tile) - mean) / std)[None],
                input_points=torch.tensor(points[None, k : k + 1, :, ::-1].copy(), dtype=torch.float32),
                input_labels=torch.tensor(kinds[None, k : k + 1]),
            )
            torch.testing.assert_close(logits[k], expected.pred_masks[0, 0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(ious[k], expected.iou_scores[0, 0], atol=1e-4, rtol=1e-4)


def test_an_embedding_is_computed_once_and_few_are_kept(tiny: Sam) -> None:
    runs = []
    tiny.net.vision_encoder.register_forward_hook(lambda *_: runs.append(1))
    segment_points(tiny, picture(), POINTS)
    segment_points(tiny, picture(), POINTS, prompt="box")
    sam_foreground(tiny, picture(), POINTS, np.array([[1.0, 1.0]]))
    assert len(runs) == 1
    for seed in (1, 2):
        segment_points(tiny, picture(seed=seed), POINTS)
    assert len(runs) == 3
    assert len(tiny._cache) == 2
    segment_points(tiny, picture(), POINTS)
    assert len(runs) == 4


def test_a_point_gets_the_answer_that_is_expected_to_fit_best() -> None:
    sam = obedient()
    found = segment_points(sam, picture(), POINTS)
    radius = 10 * 180 / 256
    assert sorted(found.prompts.tolist()) == [0, 1, 2, 3, 4]
    assert found.confidence.tolist() == pytest.approx([0.9] * 5)
    for k, source in enumerate(found.prompts.tolist(), 1):
        expected = disk((150, 180), *POINTS.positions[source], radius)
        assert (expected ^ (found.labels == k)).sum() < 0.12 * expected.sum()


def test_negative_points_stand_in_an_x_and_stay_in_the_image() -> None:
    sam = obedient(radius=50.0)
    found = segment_points(sam, picture(), POINTS, prompt="negatives")
    kinds = sam.net.asked[0]["input_labels"][0]
    assert kinds.tolist() == [[1, 0, 0, 0, 0]] * 4 + [[1, -1, -1, 0, 0]]
    seen = sam.net.asked[0]["input_points"][0][0]
    scale = 256 / 180
    assert torch.allclose((seen[1:] - seen[0]).norm(dim=1), torch.tensor(12.0 * scale), rtol=0.01)
    assert torch.allclose((seen[1:] - seen[0]).abs(), torch.tensor(12.0 / 2**0.5 * scale), rtol=0.01)
    areas = np.bincount(found.labels.ravel())[1:]
    assert areas[found.prompts == 1] == pytest.approx(12**2, rel=0.25)  # the square between four points at 12 px


def test_boxes_have_the_side_that_is_asked_for() -> None:
    sam = obedient()
    found = segment_points(sam, picture(), POINTS, prompt="box", size=40)
    for k, source in enumerate(found.prompts.tolist(), 1):
        rows, columns = np.nonzero(found.labels == k)
        y, x = POINTS.positions[source]
        expected = [max(y - 20, 0), min(y + 20, 149), max(x - 20, 0), min(x + 20, 179)]
        assert [rows.min(), rows.max(), columns.min(), columns.max()] == pytest.approx(expected, abs=2)
    assert sam.net.asked[0]["input_boxes"].min() >= -0.5


def test_tiles_give_what_the_whole_gives() -> None:
    shape = (300, 420)
    points = Points(np.random.default_rng(3).uniform(8, [290, 410], (40, 2)), shape=shape)
    radius = 7.0  # of the disks, in px of the image
    whole = segment_points(obedient(512, radius * 512 / 420), picture(shape), points, tile=512)
    for tile in (140, 200, 300):
        view = module._View(picture(shape), tile=tile, batch=1, channels="color")
        sam = obedient(512, radius * 512 / max(view.rows.size, view.columns.size))
        parts = list(view.parts(points.positions))
        assert sorted(np.concatenate([part.numbers for part in parts]).tolist()) == list(range(40))
        tiled = segment_points(sam, picture(shape), points, tile=tile)
        assert (tiled.labels > 0).sum() == pytest.approx((whole.labels > 0).sum(), rel=0.05)
        for source in set(tiled.prompts.tolist()) & set(whole.prompts.tolist()):
            one = tiled.labels == 1 + tiled.prompts.tolist().index(source)
            other = whole.labels == 1 + whole.prompts.tolist().index(source)
            assert (one & other).sum() > 0.7 * (one | other).sum()


@pytest.mark.parametrize("height", [1500, 1501, 1502, 1503])
def test_a_position_between_pixels_belongs_to_one_tile(height: int) -> None:
    view = module._View(np.zeros((height, 3), np.uint8), tile=1024, batch=1, channels="color")
    assert len(view.rows.starts) > 1
    positions = np.stack([np.arange(2 * height) / 2 - 0.5, np.full(2 * height, 1.5)], axis=1)
    numbers = np.concatenate([part.numbers for part in view.parts(positions)])
    np.testing.assert_array_equal(np.sort(numbers), np.arange(2 * height))


def test_the_grid_covers_the_image_and_leaves_out_what_repeats() -> None:
    sam = obedient(256, 10.0)
    found = segment_grid(sam, picture(), points_per_side=8, stability=0.3, largest=0.5)
    asked = torch.cat([prompt["input_points"][0][:, 0] for prompt in sam.net.asked])
    assert asked.shape == (8 * 7, 2)  # 150 of 180 px: 6.7 points
    assert torch.allclose(asked[1] - asked[0], torch.tensor([32.0, 0.0]), atol=1e-3)
    assert found.labels.max() == len(asked)  # expected IoU 0.9 only: one disk each, and none touch
    alike = segment_grid(obedient(256, 60.0), picture(), points_per_side=16, stability=0.3, largest=0.5)
    assert alike.labels.max() < 20
    assert segment_grid(sam, picture(), points_per_side=8, iou=0.95).labels.max() == 0
    assert segment_grid(sam, picture(), points_per_side=8, stability=0.99).labels.max() == 0
    assert segment_grid(obedient(256, 60.0), picture(), points_per_side=8, largest=0.01).labels.max() == 0


def test_grid_objects_on_the_borders_of_tiles_are_found_once() -> None:
    shape = (200, 400)
    found = segment_grid(obedient(256, 10.0), picture(shape), points_per_side=8, tile=220, stability=0.3)
    view = module._View(picture(shape), tile=220, batch=1, channels="color")
    assert len(view.columns.starts) > 1
    spacing = max(view.rows.size, view.columns.size) / 8
    assert found.labels.max() == round(200 / spacing) * round(400 / spacing)


@pytest.mark.parametrize("tile", [512, 150])
def test_foreground_of_either_polarity(tile: int) -> None:
    shape = (150, 180)
    cells = Points(np.array([[40.0, 40.0], [40.0, 60.0], [110.0, 60.0]]), shape=shape)
    background = np.array([[75.0, 150.0], [40.0, 120.0], [110.0, 120.0]])
    sam = obedient(256, 1000.0)
    for positive in ("cells", "background"):
        mask = sam_foreground(sam, picture(), cells, background, positive=positive, tile=tile)
        assert mask.shape == shape
        assert mask.dtype == bool
        # Nearer to a cell than to background: left of the middle.
        assert mask[:, :85].mean() > 0.95
        assert mask[30:120, 95:].mean() < 0.1
    with pytest.raises(InputError, match="no such point"):
        sam_foreground(sam, picture(), cells, np.empty((0, 2)), positive="background")


def test_empty_and_odd_images(tiny: Sam) -> None:
    none = Points(np.empty((0, 2)))
    found = segment_points(tiny, picture(), none)
    assert found.labels.shape == (150, 180)
    assert found.labels.max() == 0
    assert len(found.confidence) == len(found.prompts) == 0
    for odd in (np.zeros((40, 30), np.uint8), np.full((20, 20), np.nan, np.float32), picture((1, 50))):
        found = segment_points(tiny, odd, Points(np.array([[0.0, 10.0]])))
        assert found.labels.shape == odd.shape
        assert segment_grid(tiny, odd, points_per_side=2, iou=-10).labels.shape == odd.shape


def test_wrong_arguments_are_named(tiny: Sam) -> None:
    outside = Points(np.array([[10.0, 500.0]]))
    with pytest.raises(InputError, match="outside the image of 150 x 180"):
        segment_points(tiny, picture(), outside)
    for options, message in (
        ({"prompt": "blob"}, "prompt is 'blob'"),
        ({"prompt": "box", "size": 0}, "size is 0"),
        ({"tile": 0}, "tile is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"channels": "gray"}, "SAM looks at 3"),
    ):
        with pytest.raises(InputError, match=message):
            segment_points(tiny, picture(), POINTS, **options)
    with pytest.raises(InputError, match="points_per_side"):
        segment_grid(tiny, picture(), points_per_side=0)
    with pytest.raises(InputError, match="positive is"):
        sam_foreground(tiny, picture(), POINTS, np.empty((0, 2)), positive="nuclei")


def test_weights_that_are_not_there_or_no_sam(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no folder .* facebook/sam-vit-base"):
        load_sam(tmp_path / "nothing")
    with pytest.raises(ModelError, match=r"lacks config.json and model.safetensors"):
        load_sam(tmp_path)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert load_sam(tmp_path).side == SIDE
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_sam(tmp_path)
    from safetensors.torch import load_file, save_file

    rest = {k: v for k, v in load_file(folder / "model.safetensors").items() if "mask_decoder" not in k}
    save_file(rest, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="is no SAM"):
        load_sam(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ModelError):
        load_sam(tmp_path)


def test_a_name_on_the_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("no connection")

    monkeypatch.setattr(module._transformers().SamModel, "from_pretrained", refuse)
    with pytest.raises(ModelError, match=r"check the name and the connection"):
        load_sam("nobody/no-sam")


def test_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"cellweave\[sam\]"):
        load_sam("facebook/sam-vit-base")
