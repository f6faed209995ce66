"""Mask R-CNN (He et al. 2017) that finds cells as boxes of one size: torchvision's, extra ``[detect]``.

Large images are cut into tiles that overlap; what is found near a tile's inner border belongs to the neighbour, which
sees it whole, and boxes of all tiles are compared once more.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cellweave.core.device import autocast, choose_device
from cellweave.core.errors import InputError, ModelError
from cellweave.core.files import atomic_path, sha256
from cellweave.core.image import Image
from cellweave.core.labels import Labels
from cellweave.core.points import Points
from cellweave.core.progress import report
from cellweave.models.folder import (
    CARD,
    FORMAT,
    WEIGHTS,
    card_text,
    check_file,
    read_settings,
    refusing,
    write_settings,
)
from cellweave.models.imagenet_weights import read_state
from cellweave.predict.color_view import ColorView
from cellweave.predict.counters import Count
from cellweave.predict.tiling import plan
from cellweave.predict.torchvision_ops import load_torchvision
from cellweave.prep import Channels
from cellweave.representations.boxes import non_maximum_suppression

KIND = "mask-rcnn"
MOST = 4000
"""Proposals and detections of a tile; torchvision's own limits are 1000 and 100."""
OBJECTNESS = 0.05
"""Least probability that a proposal is of a cell. On images of a training in phase contrast, less likely ones took
more than half of the time, and gave 2 % of the true cells and 28 % of the false ones."""
ANCHORS = (0.5, 1.0, 2.0, 2.0, 2.0)
"""Of the sides of boxes: anchors at 1/4, 1/8, 1/16, 1/32 and 1/64 of the size."""
MARGIN, SLACK = 0.75, 0.2
"""Shares of a box's side: as far from an inner border a tile's own objects begin, and less strictly by the slack, so
that nothing between two tiles is lost. Boxes that the border cuts have their centre within 0.5 sides of it."""

Backbone = Literal["resnet50", "resnet18"]


@dataclass(frozen=True)
class Architecture:
    """What builds the net.

    Parameters
    ----------
    side
        Of the boxes, in px.
    tile
        Side in px of the square that the net looks at; at its size, nothing is resized.
    backbone
        The ResNet under the feature pyramid.
    pretrained
        Whether it starts from weights that were trained with batch normalisation, whose statistics are then frozen;
        from scratch, groups are normalised, which works for the few images of a batch (He et al. 2019).
    """

    side: float = 50.0
    tile: int = 512
    backbone: Backbone = "resnet50"
    pretrained: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.side) and self.side >= 4):
            raise InputError(f"side is {self.side}; boxes have 4 px or more")
        if self.tile < 2 * self.side:
            raise InputError(f"tile is {self.tile}; it must be at least two boxes of {self.side:g} px wide")
        if self.backbone not in ("resnet50", "resnet18"):
            raise InputError(f"backbone is '{self.backbone}'; choose resnet50 or resnet18")

    def build(self) -> nn.Module:
        """A new net of two classes, background and cell, with random weights.

        As ``maskrcnn_resnet50_fpn``, but for the anchors, squares of `ANCHORS` times the side of the boxes, as all
        boxes are squares of that side, the limits on the number of objects, and the normalisation.

        Raises
        ------
        MissingExtraError
            When torchvision is not installed.
        """
        torchvision = load_torchvision()
        detection, norms = torchvision.models.detection, torchvision.ops.misc
        norm = norms.FrozenBatchNorm2d if self.pretrained else partial(nn.GroupNorm, 32)
        backbone = detection.backbone_utils.resnet_fpn_backbone(
            backbone_name=self.backbone, weights=None, norm_layer=norm, trainable_layers=5 - 2 * self.pretrained
        )
        sizes = tuple((self.side * share,) for share in ANCHORS)
        anchors = detection.anchor_utils.AnchorGenerator(sizes, ((1.0,),) * len(sizes))
        net: nn.Module = detection.MaskRCNN(
            backbone,
            num_classes=2,
            min_size=self.tile,
            max_size=self.tile,
            rpn_anchor_generator=anchors,
            rpn_pre_nms_top_n_test=MOST,
            rpn_post_nms_top_n_test=MOST,
            box_detections_per_img=MOST,
        )
        # Masks stay as the net gives them, 28 x 28 px in each box, until they are put into the labels.
        net.transform.postprocess = lambda found, *_: found  # type: ignore[union-attr]
        return net


@dataclass(frozen=True)
class Detector:
    """A trained Mask R-CNN.

    Parameters
    ----------
    net
        What `Architecture.build` made.
    architecture
        What made it.
    channels
        What it was shown as red, green and blue.
    name, card
        For people.
    hash
        SHA-256 of the weights file; empty for one that was never saved.
    """

    net: nn.Module
    architecture: Architecture
    channels: str = "color"
    name: str = "unnamed"
    card: dict[str, Any] = field(default_factory=dict)
    hash: str = ""

    def save(self, folder: str | os.PathLike[str]) -> Detector:
        """Write weights, settings and a card into a new or replaced folder; returns the detector with its hash."""
        from safetensors.torch import save

        with atomic_path(folder) as root:
            root.mkdir(parents=True)
            weights = {k: v.detach().cpu().contiguous() for k, v in self.net.state_dict().items()}
            (root / WEIGHTS).write_bytes(save(weights))
            weights_hash = sha256(root / WEIGHTS)
            settings = {
                "format": FORMAT,
                "kind": KIND,
                "name": self.name,
                "architecture": vars(self.architecture),
                "channels": self.channels,
                "card": self.card,
                "sha256": weights_hash,
            }
            write_settings(root, settings)
            saved = replace(self, hash=weights_hash)
            (root / CARD).write_text(saved.card_text(), encoding="utf-8")
            return saved

    def card_text(self) -> str:
        """The model card, in Markdown."""
        facts = {
            "Net": "Mask R-CNN",
            "Boxes": f"{self.architecture.side:g} px",
            "Channels": self.channels,
            "Weights (SHA-256)": self.hash,
        }
        return card_text(self.name, facts | self.card)

    def count_cells(
        self, image: Image, *, channels: str | Channels | None, device: str, min_confidence: float
    ) -> Count:
        """Count the cells of a 2-D image by `detect`, with its usual least confidence unless another is given.

        Raises
        ------
        InputError
            As `detect`.
        """
        least = {"confidence": min_confidence} if min_confidence else {}
        found = detect(image, self, channels=channels, device=device, **least)
        return Count(
            count=float(len(found.points)),
            points=found.points,
            model=self,
            image=image,
            labels=found.labels,
            note="a Mask R-CNN tells no interval",
        )

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Detector:
        """Read the folder that `save` wrote; nothing in it is run.

        Raises
        ------
        ModelError
            When a file is missing, was altered, or the folder holds another kind of model.
        MissingExtraError
            When torchvision is not installed.
        """
        from safetensors.torch import load_file

        root = Path(folder)
        with refusing(root):
            settings = read_settings(root)
            if settings.get("kind") != KIND:
                raise ModelError(f"model folder {root} holds no Mask R-CNN; use it with load_model")
            check_file(root, WEIGHTS, settings["sha256"])
            architecture = Architecture(**settings["architecture"])
        net = architecture.build()
        with refusing(root):
            net.load_state_dict(load_file(root / WEIGHTS))
            return cls(
                net.eval(),
                architecture,
                settings["channels"],
                settings["name"],
                settings["card"],
                settings["sha256"],
            )


@dataclass(frozen=True)
class Detections:
    """What a detector found in an image, the most confident first.

    Parameters
    ----------
    points
        Centres of the boxes, with their confidence.
    labels
        (Y, X) int32: object k + 1 is point k. A pixel of several masks belongs to the nearest centre.
    boxes
        (N, 4) float32: y0, x0, y1, x1 in px, pixel k spanning k to k + 1.
    """

    points: Points
    labels: Labels
    boxes: NDArray[np.float32]


def detect(
    image: Image | NDArray[Any],
    detector: Detector | str | os.PathLike[str],
    *,
    confidence: float = 0.5,
    overlap: float = 0.5,
    channels: str | Channels | None = None,
    device: str = "auto",
) -> Detections:
    """Find the cells of a 2-D image.

    Parameters
    ----------
    image
        2-D image of any size.
    detector
        A detector, or its folder.
    confidence
        Least score of a cell.
    overlap
        Of two boxes with an IoU above this, the one with the lower score is left out, also when they come from
        different tiles. Boxes of 50 px have an IoU of 0.5 when they are 17 px apart.
    channels
        As for `ColorView`; None for what the detector was trained with.
    device
        auto, cpu, cuda or mps.

    Raises
    ------
    InputError
        For a confidence or an overlap outside of 0..1, and as `ColorView`.
    ModelError, MissingExtraError
        As `Detector.load`.
    """
    for name, value in (("confidence", confidence), ("overlap", overlap)):
        if not 0 <= value <= 1:
            raise InputError(f"{name} is {value}; it must be between 0 and 1")
    model = detector if isinstance(detector, Detector) else Detector.load(detector)
    view = ColorView(image, model.channels if channels is None else channels, "Mask R-CNN")
    net = model.net.eval().to(choose_device(device))
    net.rpn.score_thresh = OBJECTNESS  # type: ignore[union-attr]
    net.roi_heads.score_thresh, net.roi_heads.nms_thresh = confidence, overlap  # type: ignore[union-attr]
    parts = list(_parts(view, net, model.architecture))
    boxes, scores, masks = (np.concatenate([part[k] for part in parts]) for k in range(3))
    kept = non_maximum_suppression(boxes, scores, iou=overlap)
    kept = kept[(boxes[kept, :2] < view.shape).all(axis=1)]  # not beside an image that is smaller than a tile
    centres = _centres(boxes[kept], model.architecture.side, view.shape)
    labels, found = _draw(boxes[kept], masks[kept], centres, view.shape)
    kept = kept[found]
    points = Points(centres[found], confidence=scores[kept].clip(0, 1), shape=view.shape)
    return Detections(points, labels, boxes[kept])


def _parts(
    view: ColorView, net: nn.Module, architecture: Architecture
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]]:
    """Boxes (N, 4), scores (N,) and masks (N, y, x) of each tile's own objects, in the image."""
    margin, slack = math.ceil(MARGIN * architecture.side), SLACK * architecture.side
    rows, columns = (plan(n, tile=architecture.tile, stride=1, margin=margin, ramp=2) for n in view.shape)
    total = len(rows.starts) * len(columns.starts)
    device = next(net.parameters()).device
    for number, (k, j) in enumerate(np.ndindex(len(rows.starts), len(columns.starts))):
        report("tiles", number, total)
        starts = np.array([rows.starts[k], columns.starts[j]])
        pixels = view.read(*(slice(s, s + t.size) for s, t in zip(starts.tolist(), (rows, columns), strict=True)))
        tile = torch.from_numpy(padded(pixels, max(architecture.tile, *pixels.shape[1:])))
        with torch.inference_mode(), autocast(device):
            (found,) = net([tile.to(device)])
        boxes, scores, masks = (found[name].float().cpu().numpy() for name in ("boxes", "scores", "masks"))
        boxes = boxes[:, [1, 0, 3, 2]] + np.tile(starts, 2).astype(np.float32)
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        own = np.ones(len(boxes), bool)
        for axis, (tiles, index) in enumerate(((rows, k), (columns, j))):
            mine = tiles.starts[index] + np.flatnonzero(tiles.owned[index])
            own &= (centre[:, axis] >= mine[0] - slack) | (index == 0)
            own &= (centre[:, axis] <= mine[-1] + 1 + slack) | (index + 1 == len(tiles.starts))
        yield boxes[own], scores[own], masks[own, 0]
    report("tiles", total, total)


def padded(pixels: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """(3, Y, X) with zeros below and to the right, up to a square of `side`."""
    return np.pad(pixels, [(0, 0), *((0, side - n) for n in pixels.shape[1:])])


def _centres(boxes: NDArray[np.float32], side: float, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Positions (N, 2) of the cells; where the image's border cuts a box, half a side from its inner end."""
    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    before, after = low <= 1, high >= np.array(shape) - 1
    cut = (before ^ after) & (high - low < side)
    centres = np.where(cut, np.where(before, high - side / 2, low + side / 2), (low + high) / 2) - 0.5
    return np.asarray(np.clip(centres, 0, np.array(shape) - 1))


def _draw(
    boxes: NDArray[np.float32], masks: NDArray[np.float32], centres: NDArray[np.float64], shape: tuple[int, int]
) -> tuple[Labels, NDArray[np.int64]]:
    """Labels 1..n of the masks, each pixel to the nearest centre, and the numbers of those that have a pixel."""
    labels = np.zeros(shape, np.int32)
    nearest = np.full(shape, np.inf, np.float32)
    for number, (box, mask, centre) in enumerate(zip(boxes, masks, centres, strict=True), 1):
        first = np.maximum(np.ceil(box[:2] - 0.5), 0).astype(int)
        last = np.minimum(np.ceil(box[2:] - 0.5), shape).astype(int)
        rows, columns = (np.arange(a, b) for a, b in zip(first, last, strict=True))
        if not (len(rows) and len(columns)):
            continue
        down = _interpolation(rows, box[0], box[2], mask.shape[0])
        across = _interpolation(columns, box[1], box[3], mask.shape[1])
        squared = (rows[:, None] - centre[0]) ** 2 + (columns - centre[1]) ** 2
        window = (slice(first[0], last[0]), slice(first[1], last[1]))
        mine = (down @ mask @ across.T >= 0.5) & (squared < nearest[window])
        labels[window][mine] = number
        nearest[window][mine] = squared[mine]
    kept = np.flatnonzero(np.bincount(labels.ravel(), minlength=len(boxes) + 1)[1:])
    new = np.zeros(len(boxes) + 1, np.int32)
    new[kept + 1] = np.arange(1, len(kept) + 1)
    return new[labels], kept


def _interpolation(at: NDArray[np.int64], start: float, end: float, n: int) -> NDArray[np.float32]:
    """(len(at), n) weights that interpolate n values, spread from `start` to `end`, at the centres of pixels."""
    position = np.clip((at + 0.5 - start) / (end - start) * n - 0.5, 0, n - 1)
    return np.asarray(np.clip(1 - np.abs(position[:, None] - np.arange(n)), 0, None), np.float32)


def load_weights(net: nn.Module, path: str | os.PathLike[str]) -> None:
    """Set a net from a state dict of torchvision's Mask R-CNN (of any classes) or ResNet; the rest stays as it is.

    Raises
    ------
    ModelError
        When the file cannot be read or its weights are not of such a net. Nothing in it is run.
    """
    state: dict[str, Tensor] = read_state(Path(path))
    if not any(name.startswith("backbone.") for name in state):
        state = {f"backbone.body.{k}": v for k, v in state.items() if not k.startswith("fc.")}
    own = net.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    lacking = [k for k in own if k.startswith("backbone.body.") and k not in fitting]
    if lacking:
        raise ModelError(
            f"{path} does not fit: it lacks {len(lacking)} weights of the backbone ({lacking[0]}, ...); "
            "give the state dict of torchvision's ResNet or Mask R-CNN with the same backbone"
        )
    net.load_state_dict(own | fitting)
