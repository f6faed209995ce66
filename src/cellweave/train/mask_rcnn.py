"""Training of Mask R-CNN on points: each is a box of one size, and the box is the mask."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cellweave.core.device import autocast, choose_device
from cellweave.core.errors import CellweaveError, InputError
from cellweave.core.files import make_output_folder
from cellweave.core.progress import report
from cellweave.predict.color_view import ColorView
from cellweave.predict.mask_rcnn import Architecture, Backbone, Detector, load_weights, padded
from cellweave.train.loop import CHECKPOINT, CHECKPOINT_SECONDS, save_weights
from cellweave.train.samples import Example

log = logging.getLogger(__name__)

MODEL = "model"
WARMUP, DROPS = 0.05, (2 / 3, 8 / 9)
"""Shares of the steps: the rate rises until the first and is divided by 10 at the others, as torchvision does."""
PLACES, FEWEST_KNOWN = 20, 0.5
"""Places that are tried for a crop; share of one without a point that must be known."""
Target = dict[str, Tensor]


@dataclass(frozen=True)
class MaskRCNNConfig:
    """Settings of `train_mask_rcnn`; the optimiser's are those of torchvision's tutorial on finetuning.

    Parameters
    ----------
    out
        Folder of the run: checkpoint and model.
    side
        Of the boxes around the points, in px: about a cell's diameter, or a little more.
    tile
        Side of the crops, and of the tiles of predictions, in px.
    backbone
        ``resnet50``, or ``resnet18``, which is quicker.
    weights
        File of the state dict of torchvision's Mask R-CNN (COCO) or ResNet (ImageNet) to start from; None starts from
        scratch, which takes many more steps.
    steps, batch_size
        Steps of the training, and crops in each.
    learning_rate
        At its peak. SGD with momentum 0.9 and weight decay 5e-4.
    proposals
        Of a crop, from which the heads learn in each step: most of its work. torchvision's 512 suit photographs.
    channels
        See `ColorView`.
    seed, device
        As everywhere.

    Raises
    ------
    InputError
        When a value makes no sense; names the setting.
    """

    out: Path
    side: float = 50.0
    tile: int = 512
    backbone: Backbone = "resnet50"
    weights: Path | None = None
    steps: int = 3000
    batch_size: int = 2
    learning_rate: float = 0.005
    proposals: int = 128
    channels: str = "color"
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", Path(self.out))
        object.__setattr__(self, "weights", None if self.weights is None else Path(self.weights))
        for name in ("steps", "batch_size", "proposals"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} is {value}; it must be a whole number from 1")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"learning_rate is {self.learning_rate}; it must be a number above 0")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise InputError(f"seed is {self.seed}; it must be a whole number from 0")
        _ = self.architecture

    @property
    def architecture(self) -> Architecture:
        """What builds the net."""
        return Architecture(self.side, self.tile, self.backbone, self.weights is not None)

    def to_json(self) -> str:
        """The settings that decide the result, as JSON."""
        settings = asdict(self) | {"weights": None if self.weights is None else str(self.weights)}
        return json.dumps({k: v for k, v in settings.items() if k not in ("out", "device")}, indent=2)


@dataclass(frozen=True, eq=False)
class _Sample:
    pixels: NDArray[np.float32]
    positions: NDArray[np.float64]
    known: NDArray[np.bool_]


def train_mask_rcnn(examples: Sequence[Example], config: MaskRCNNConfig, *, resume: bool = False) -> Detector:
    """Train a detector, and write it to the folder `model` in that of the run.

    A step sees random crops, flipped and turned. A point in a crop is an instance: its box, cut by the crop. Of a point
    beside a crop whose box reaches into it, nothing is known there, as where nobody looked (`Example.known`): neither
    that there is a cell nor that there is none is learned from anchors and proposals whose centres lie in it. Crops
    without any point teach what background is. Debris counts as background.

    Parameters
    ----------
    examples
        Images with points, or with labels, whose centroids are the points.
    config
        Settings.
    resume
        Go on at the last checkpoint of the run, which is written every two minutes and at the end. Every step depends
        on the seed and its number only.

    Raises
    ------
    InputError
        When there is no point, a mask of what is known has another shape than its image, or a run cannot be resumed.
    CellweaveError
        When the loss is not finite.
    MissingExtraError, ModelError
        When torchvision is missing; when `weights` do not fit.
    """
    usable = [example for example in examples if _teaches(example)]
    samples = [_prepare(example, config.channels) for example in usable]
    if not sum(len(sample.positions) for sample in samples):
        raise InputError("no point in the training data; check that the files of points belong to these images")
    shares = np.array([example.weight for example in usable])
    make_output_folder(config.out)
    device = choose_device(config.device)
    torch.manual_seed(config.seed)
    net = config.architecture.build()
    if config.weights is not None:
        load_weights(net, config.weights)
    net.roi_heads.fg_bg_sampler.batch_size_per_image = config.proposals  # type: ignore[union-attr]
    _leave_out_unknown(net)
    net.to(device).train()
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(parameters, lr=config.learning_rate, momentum=0.9, weight_decay=5e-4)
    state = {"step": 0, "seconds": 0.0, "loss": math.nan}
    if resume:
        _resume(config, net, optimiser, state)
    saved = clock = time.monotonic()
    for step in range(int(state["step"]), config.steps):
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * rate_at(step / config.steps)
        rng = np.random.default_rng((config.seed, step))
        chosen = rng.choice(len(samples), config.batch_size, p=shares / shares.sum())
        crops = [make_crop(samples[k].pixels, samples[k].positions, samples[k].known, config, rng) for k in chosen]
        torch.manual_seed(int(rng.integers(2**63)))  # torchvision draws anchors and proposals
        images = [image.to(device) for image, _ in crops]
        targets = [{k: v.to(device) for k, v in target.items()} for _, target in crops]
        with autocast(device):
            losses = net(images, targets)
        loss = torch.stack(list(losses.values())).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimiser.step()
        value, now = float(loss.detach()), time.monotonic()
        if not math.isfinite(value):
            raise CellweaveError(
                f"training diverged in step {step + 1} (loss {value}); lower the learning rate "
                f"(now {config.learning_rate:g}) and start again"
            )
        before = state["loss"] if math.isfinite(state["loss"]) else value
        state = {"step": step + 1, "seconds": state["seconds"] + now - clock, "loss": 0.95 * before + 0.05 * value}
        clock = now
        report("training", step + 1, config.steps, f"loss {state['loss']:.3f}")
        if now - saved > CHECKPOINT_SECONDS or step + 1 == config.steps:
            _save_checkpoint(config, net, optimiser, state)
            saved = now
    card = {
        "Images": len(samples),
        "Points": sum(len(sample.positions) for sample in samples),
        "Steps": config.steps,
        "Loss at the end": f"{state['loss']:.3f}",
        "Training time": f"{state['seconds'] / 60:.0f} min on {device.type}",
        "Settings": json.loads(config.to_json()),
    }
    detector = Detector(net.eval(), config.architecture, config.channels, config.out.resolve().name, card)
    return detector.save(config.out / MODEL)


def rate_at(share: float) -> float:
    """Learning rate as a share of its peak, after this share of the steps: rising, constant, divided by 10 twice."""
    if share < WARMUP:
        return max(share / WARMUP, 1e-3)
    return float(0.1 ** sum(share >= drop for drop in DROPS))


def make_crop(
    pixels: NDArray[np.float32],
    positions: NDArray[np.float64],
    known: NDArray[np.bool_],
    config: MaskRCNNConfig,
    rng: np.random.Generator,
) -> tuple[Tensor, Target]:
    """A random crop and its truth.

    Parameters
    ----------
    pixels, positions, known
        (3, Y, X) in 0..1; (N, 2); (Y, X) where someone looked.
    config, rng
        Size of boxes and crop; what draws the place, the flip and the turn.

    Returns
    -------
    image
        (3, tile, tile), zero beyond an image that is smaller.
    target
        As torchvision takes it: `boxes` (K, 4) x0, y0, x1, y1; `labels` (K,) of ones; `masks` (K, tile, tile) uint8.
        Besides, `known` (tile, tile) bool. All K boxes have at least a quarter of their area in the crop.
    """
    shape = np.array(pixels.shape[1:])
    start = _place(positions, known, config.tile, rng)
    size = np.minimum(config.tile, shape - start)
    window = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
    image = padded(pixels[:, *window], config.tile)
    seen = np.ones((config.tile, config.tile), bool)
    seen[: size[0], : size[1]] = known[window]
    centres = positions - start + 0.5
    near = ((centres > -config.side / 2) & (centres < size + config.side / 2)).all(axis=1)
    centres = centres[near]
    within = ((centres >= 0) & (centres < size)).all(axis=1)
    low = np.clip(centres - config.side / 2, 0, size)
    high = np.clip(centres + config.side / 2, 0, size)
    for first, last in zip(np.round(low[~within]).astype(int), np.round(high[~within]).astype(int), strict=True):
        seen[first[0] : last[0], first[1] : last[1]] = False
    image, seen, low, high = _turned(image, seen, low[within], high[within], rng)
    at = np.arange(config.tile) + 0.5
    inner = [(at >= low[:, k, None]) & (at < high[:, k, None]) for k in (0, 1)]
    masks = inner[0][:, :, None] & inner[1][:, None, :]
    target = {
        "boxes": torch.from_numpy(np.concatenate([low[:, ::-1], high[:, ::-1]], axis=1).astype(np.float32)),
        "labels": torch.ones(len(low), dtype=torch.int64),
        "masks": torch.from_numpy(masks.astype(np.uint8)),
        "known": torch.from_numpy(seen),
    }
    return torch.from_numpy(image), target


def _place(
    positions: NDArray[np.float64], known: NDArray[np.bool_], tile: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Where a crop begins: anywhere, but it holds a point, or half of it is known; else nothing would be learned."""
    latest = np.maximum(0, np.array(known.shape) - tile)
    for _ in range(PLACES):
        start = np.asarray(rng.integers(latest + 1))
        if known[start[0] : start[0] + tile, start[1] : start[1] + tile].mean() >= FEWEST_KNOWN:
            return start
        if ((positions >= start) & (positions < start + tile)).all(axis=1).any():
            return start
    point = positions[rng.integers(len(positions))] if len(positions) else start
    return np.asarray(np.clip(np.floor(point).astype(np.int64) - rng.integers(tile, size=2), 0, latest))


def _turned(
    image: NDArray[np.float32],
    known: NDArray[np.bool_],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """One of the eight flips and quarter turns of a square."""
    side = known.shape[0]
    for axis in (0, 1):
        if rng.random() < 0.5:
            image, known = np.flip(image, axis + 1), np.flip(known, axis)
            low, high = low.copy(), high.copy()
            low[:, axis], high[:, axis] = side - high[:, axis], side - low[:, axis]
    if rng.random() < 0.5:
        image, known, low, high = image.swapaxes(1, 2), known.T, low[:, ::-1], high[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(known), low, high


def _leave_out_unknown(net: Any) -> None:
    """Anchors and proposals of background whose centre lies where nothing is known are left out of the losses.

    torchvision marks what is left out with -1, and gives targets to both functions that decide it.
    """
    assign_anchors, assign_proposals = net.rpn.assign_targets_to_anchors, net.roi_heads.assign_targets_to_proposals
    select = net.roi_heads.select_training_samples
    masks: list[Tensor] = []

    def anchors(boxes: list[Tensor], targets: list[Target]) -> tuple[list[Tensor], list[Tensor]]:
        labels, matched = assign_anchors(boxes, targets)
        return [_told(*one) for one in zip(labels, boxes, (t["known"] for t in targets), strict=True)], matched

    def samples(proposals: list[Tensor], targets: list[Target]) -> Any:
        masks[:] = [target["known"] for target in targets]
        return select(proposals, targets)

    def proposals(boxes: list[Tensor], *truth: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        matched, labels = assign_proposals(boxes, *truth)
        return matched, [_told(*one) for one in zip(labels, boxes, masks, strict=True)]

    net.rpn.assign_targets_to_anchors = anchors
    net.roi_heads.select_training_samples = samples
    net.roi_heads.assign_targets_to_proposals = proposals


def _told(labels: Tensor, boxes: Tensor, known: Tensor) -> Tensor:
    """Labels with -1 for background boxes (x0, y0, x1, y1) with a centre that is not known."""
    centre = ((boxes[:, :2] + boxes[:, 2:]) / 2).floor().long().clamp(0, known.shape[0] - 1)
    return torch.where((labels == 0) & ~known[centre[:, 1], centre[:, 0]], torch.full_like(labels, -1), labels)


def _teaches(example: Example) -> bool:
    """Whether an example has a cell, or tells of most places that there is none."""
    if len(example.positions.cells) or example.known is None or example.known.mean() >= FEWEST_KNOWN:
        return True
    log.warning("%s: no cell, and little is known to be background; it is left out", example.name)
    return False


def _prepare(example: Example, channels: str) -> _Sample:
    try:
        pixels = ColorView(example.image, channels, "Mask R-CNN").read()
    except CellweaveError as error:
        raise type(error)(f"{example.name}: {error}") from error
    known = np.ones(pixels.shape[1:], bool) if example.known is None else example.known
    if known.shape != pixels.shape[1:]:
        raise InputError(f"{example.name}: known has shape {known.shape}, its image {pixels.shape[1:]}")
    return _Sample(pixels, example.positions.cells.positions, known)


def _save_checkpoint(
    config: MaskRCNNConfig, net: nn.Module, optimiser: torch.optim.Optimizer, state: dict[str, float]
) -> None:
    content = {"net": net.state_dict(), "optimiser": optimiser.state_dict(), "state": state, "config": config.to_json()}
    save_weights(config.out / CHECKPOINT, content)


def _resume(config: MaskRCNNConfig, net: nn.Module, optimiser: torch.optim.Optimizer, state: dict[str, float]) -> None:
    """Load the last checkpoint of a run with the same settings."""
    path = config.out / CHECKPOINT
    if not path.is_file():
        raise InputError(f"nothing to resume: there is no {path}; start without resume")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        before, now = json.loads(content["config"]), json.loads(config.to_json())
        changed = sorted(k for k in now if before.get(k) != now[k])
        if not changed:
            net.load_state_dict(content["net"])
            optimiser.load_state_dict(content["optimiser"])
            state.update(content["state"])
            return
    except Exception as error:  # damaged bytes make torch.load raise nearly anything
        raise InputError(f"{path} is damaged ({type(error).__name__}); start again without resume") from error
    raise InputError(
        f"{path} was started with other settings ({', '.join(f'{k}={before.get(k)}' for k in changed)}); "
        "resume with the same ones, or start a new run in another folder"
    )
