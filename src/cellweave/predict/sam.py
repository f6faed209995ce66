"""Segment Anything (Kirillov et al. 2023), prompted with points: transformers' `SamModel`, extra ``[sam]``.

SAM looks at a square of 1024 px: an image that is larger is cut into tiles that overlap, and each prompt is given to
the tile in whose middle it lies. A tile's embedding, which is nearly all of the work, is computed once and kept.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cellweave.core.device import choose_device
from cellweave.core.errors import InputError, MissingExtraError, ModelError, require
from cellweave.core.image import Image
from cellweave.core.labels import Labels
from cellweave.core.points import Points, Positions, inside
from cellweave.core.progress import report
from cellweave.models.folder import card_text
from cellweave.predict.color_view import ColorView
from cellweave.predict.counters import Count
from cellweave.predict.masks import Mask, cut, masks_to_labels, suppress
from cellweave.predict.tiling import plan
from cellweave.predict.torchvision_ops import load_torchvision
from cellweave.prep import Channels

log = logging.getLogger(__name__)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the red, green and blue that SAM was trained on, in 0..1."""
MARGIN = 64
"""Px at a tile's inner borders that belong to its neighbour; objects up to about twice as large are seen whole."""
SAME = 0.7
"""Of two masks of the grid with an IoU above this, the one with the lower score is left out."""
POSITIVE, NEGATIVE, NOTHING = 1, 0, -1
"""What SAM is told of a point; the last is its padding."""

PointPrompt = Literal["point", "negatives", "box"]
SIZES = {"point": 0.0, "negatives": 12.0, "box": 50.0}
"""Usual distance of the negative points, and side of the box, in px."""


@dataclass(frozen=True)
class SamSegmentation:
    """What SAM found in an image.

    Parameters
    ----------
    labels
        (Y, X) int32, 0 = background, ids 1..n.
    confidence
        (n,) float32 in 0..1, in the order of the ids, falling: the IoU with the true object that SAM expects.
    prompts
        (n,) int64: index of the point that each object comes from.
    """

    labels: Labels
    confidence: NDArray[np.float32]
    prompts: NDArray[np.int64]


class Prompts(NamedTuple):
    """Prompts for one tile, (row, column) in px of the tile.

    Parameters
    ----------
    points, kinds
        (N, P, 2), and (N, P) of `POSITIVE`, `NEGATIVE`, `NOTHING`; None for boxes.
    boxes
        (N, 2, 2): the first corner and the last; None for points.
    """

    points: Positions | None
    kinds: NDArray[np.int64] | None
    boxes: Positions | None

    def __len__(self) -> int:
        found = self.points if self.boxes is None else self.boxes
        return 0 if found is None else len(found)


class Sam:
    """A SAM on a device, with the embeddings of the tiles it saw last; made by `load_sam`.

    Parameters
    ----------
    net
        `transformers.SamModel`.
    name
        Where the weights come from.
    cache
        Number of embeddings to keep, 4 MB each.
    """

    def __init__(self, net: Any, device: torch.device, *, name: str = "", cache: int = 32) -> None:
        self.net, self.device, self.name = net.eval().to(device), device, name
        self.side: int = net.config.vision_config.image_size
        self._cache: OrderedDict[bytes, Tensor] = OrderedDict()
        self._most = max(1, cache)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the weights."""
        digest = hashlib.sha256()
        for name, weights in sorted(self.net.state_dict().items()):
            digest.update(name.encode())
            digest.update(weights.float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def card_text(self) -> str:
        """What it is, in Markdown."""
        facts = {"Net": "Segment Anything", "Counts by": "its grid of points", "Weights (SHA-256)": self.hash}
        return card_text(self.name, facts)

    def count_cells(
        self, image: Image, *, channels: str | Channels | None, device: str, min_confidence: float
    ) -> Count:
        """Count the cells of a 2-D image by `segment_grid`.

        Raises
        ------
        InputError
            As `segment_grid`.
        """
        self._move(choose_device(device))
        found = segment_grid(self, image, channels="color" if channels is None else channels)
        points = Points.from_labels(found.labels, found.confidence)
        kept = found.confidence >= min_confidence
        labels = np.concatenate([[0], np.cumsum(kept) * kept]).astype(np.int32)[found.labels]
        return Count(
            count=float(kept.sum()),
            points=points[kept],
            model=self,
            image=image,
            labels=labels,
            dropped=int((~kept).sum()),
            note="SAM tells no interval, and knows nothing of cells: look at the picture",
        )

    def _move(self, device: torch.device) -> None:
        if device != self.device:
            self.net.to(device)
            self.device = device
            self._cache.clear()

    @torch.inference_mode()
    def embed(self, tile: NDArray[np.float32]) -> Tensor:
        """Embedding (1, C, y, x) of a tile (3, Y, X) in 0..1; computed again only when it is not among the last ones.

        What is kept is found by the pixels themselves, of this model.
        """
        key = hashlib.sha256(repr(tile.shape).encode() + tile.tobytes()).digest()
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        height, width = self._seen(tile.shape[1:])
        pixels = torch.from_numpy(np.ascontiguousarray(tile)).to(self.device)[None]
        pixels = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
        pixels = (pixels - pixels.new_tensor(MEAN)[:, None, None]) / pixels.new_tensor(STD)[:, None, None]
        pixels = F.pad(pixels, (0, self.side - width, 0, self.side - height))
        self._cache[key] = self.net.get_image_embeddings(pixels)
        if len(self._cache) > self._most:
            self._cache.popitem(last=False)
        return self._cache[key]

    @torch.inference_mode()
    def answer(
        self, tile: NDArray[np.float32], prompts: Prompts, *, several: bool, batch: int
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """What SAM says to each prompt, which does not depend on those beside it, `batch` at a time.

        Yields
        ------
        The numbers of the prompts, low-resolution logits (B, M, y, x) and expected IoU (B, M); M is 3 with `several`,
        for prompts that may mean a part or a whole, else 1.
        """
        embedding, shape = self.embed(tile), tile.shape[1:]
        for start in range(0, len(prompts), batch):
            which = slice(start, min(start + batch, len(prompts)))
            given: dict[str, Tensor] = {}
            if prompts.points is not None and prompts.kinds is not None:
                given["input_points"] = self._seen_at(prompts.points[which], shape)
                given["input_labels"] = torch.from_numpy(prompts.kinds[which]).to(self.device)[None]
            if prompts.boxes is not None:
                given["input_boxes"] = self._seen_at(prompts.boxes[which], shape).flatten(2)
            answer = self.net(image_embeddings=embedding, multimask_output=several, **given)
            yield which, answer.pred_masks[0], answer.iou_scores[0]

    @torch.inference_mode()
    def enlarge(self, logits: Tensor, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Logits (N, y, x) as the net gives them, at the size of the tile (N, Y, X)."""
        height, width = self._seen(shape)
        square = F.interpolate(logits[None], (self.side, self.side), mode="bilinear", align_corners=False)
        whole = F.interpolate(square[..., :height, :width], shape, mode="bilinear", align_corners=False)
        return np.asarray(whole[0].float().cpu().numpy())

    def _seen(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Size at which the net sees a tile: its longest side is the net's."""
        height, width = (max(1, int(n * self.side / max(shape) + 0.5)) for n in shape)
        return height, width

    def _seen_at(self, positions: Positions, shape: tuple[int, ...]) -> Tensor:
        """Positions (..., row and column) in the tile, as (1, ..., x and y) in the picture that the net sees."""
        scale = np.array(self._seen(shape)) / shape
        seen = (positions + 0.5) * scale - 0.5
        return torch.from_numpy(np.ascontiguousarray(seen[..., ::-1], np.float32)).to(self.device)[None]


def load_sam(weights: str | os.PathLike[str], *, device: str = "auto", cache: int = 32) -> Sam:
    """Load a SAM.

    Parameters
    ----------
    weights
        Folder with ``config.json`` and ``model.safetensors``, as `save_pretrained` writes it, or a name on the Hugging
        Face hub, such as ``facebook/sam-vit-base``, which is downloaded once.
    device
        auto, cpu, cuda or mps.
    cache
        Number of tiles whose embeddings are kept.

    Raises
    ------
    MissingExtraError
        When transformers is not installed.
    ModelError
        When there are no such weights, or they are not those of a SAM. Nothing in them is run.
    """
    from safetensors import SafetensorError

    transformers = _transformers()
    text, folder = str(weights), Path(weights)
    local = folder.is_dir()
    if local:
        lacking = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
        if lacking and not (lacking == ["model.safetensors"] and any(folder.glob("model-*.safetensors"))):
            raise ModelError(f"folder {folder} lacks {' and '.join(lacking)}; save a SAM there with save_pretrained")
    elif folder.exists() or folder.is_absolute() or text.startswith(".") or text.count("/") != 1:
        raise ModelError(
            f"there is no folder {text} with the weights of a SAM; give one with config.json and model.safetensors, "
            "or a name on the Hugging Face hub, for example facebook/sam-vit-base"
        )
    try:
        net, loading = transformers.SamModel.from_pretrained(
            text, local_files_only=local, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        remedy = "copy the folder again" if local else "check the name and the connection, or give a local folder"
        raise ModelError(f"the weights of SAM {text} cannot be loaded ({error}); {remedy}") from error
    if missing := sorted(loading["missing_keys"]):
        raise ModelError(
            f"{text} is no SAM: it lacks {len(missing)} of its weights ({missing[0]}, ...); "
            "give one of the first SAM (transformers' SamModel), for example facebook/sam-vit-base"
        )
    return Sam(net, choose_device(device), name=text, cache=cache)


def _transformers() -> Any:
    if find_spec("torchvision") is not None:
        load_torchvision()  # transformers imports it where it is installed
    transformers = require("transformers", extra="sam")
    try:
        _ = transformers.SamModel
    except (ImportError, AttributeError) as error:
        raise MissingExtraError(
            f"the installed transformers has no SAM that can be used ({error}); "
            "install a newer one with: pip install -U 'cellweave[sam]'"
        ) from error
    return transformers


def segment_points(
    sam: Sam,
    image: Image | NDArray[Any],
    points: Points,
    *,
    prompt: PointPrompt = "point",
    size: float | None = None,
    tile: int = 1024,
    batch: int = 32,
    channels: str | Channels = "color",
) -> SamSegmentation:
    """One object for each point, where SAM sees one.

    ============= ============================================================ ==========================
    prompt        SAM is told                                                  answer that is taken
    ============= ============================================================ ==========================
    ``point``     the point                                                    of three, the one of the
                                                                               highest expected IoU
    ``negatives`` the point, and four negative ones in an X at `size` px: the  its only one
                  object is not larger
    ``box``       a square of side `size` px around the point                  its only one
    ============= ============================================================ ==========================

    Parameters
    ----------
    sam
        See `load_sam`.
    image
        2-D image. Its 1st to 99th percentiles become 0..1.
    points
        The points; of classes, all are prompts (``points.cells`` for the cells only).
    prompt, size
        See the table; None for 12 px and 50 px. Negative points outside of the image are left out.
    tile
        Largest side of what SAM sees at once, in px. A smaller one is enlarged more: cells that are small in SAM's
        view of 1024 px are found better with 512.
    batch
        Prompts at once. What SAM says to one does not depend on the others.
    channels
        What is shown as red, green and blue, a `Channels` policy of that kind: ``color``, ``color:2``, ``color:2,1``.

    Raises
    ------
    InputError
        For points outside of the image, an image with times or depths to choose from, other policies, or a size, tile
        or batch that is not positive.

    See Also
    --------
    cellweave.predict.masks.masks_to_labels : who gets a pixel that several masks cover.
    """
    if prompt not in SIZES:
        raise InputError(f"prompt is '{prompt}'; choose from {', '.join(SIZES)}")
    size = SIZES[prompt] if size is None else size
    if prompt != "point" and not (np.isfinite(size) and size > 0):
        raise InputError(f"size is {size}; it must be a positive number of pixels")
    view = _View(image, tile=tile, batch=batch, channels=channels)
    _check_points(points.positions, view.shape, "points")
    found: list[Mask] = []
    for part in view.parts(points.positions):
        pixels = part.read()
        shape = pixels.shape[1:]
        prompts = _around(part.owned, prompt, size, part.offset, view.shape)
        for which, logits, ious in sam.answer(pixels, prompts, several=prompt == "point", batch=batch):
            best = ious.argmax(dim=1)
            chosen = sam.enlarge(logits[torch.arange(len(best)), best], (shape[0], shape[1])) > 0
            scores = ious.amax(dim=1).clamp(0, 1).tolist()
            for mask, score, source in zip(chosen, scores, part.numbers[which].tolist(), strict=True):
                if one := cut(mask, score, source, top=part.offset[0], left=part.offset[1]):
                    found.append(one)
    return _segmentation(found, view.shape)


def segment_grid(
    sam: Sam,
    image: Image | NDArray[Any],
    *,
    points_per_side: int = 32,
    iou: float = 0.88,
    stability: float = 0.95,
    largest: float = 0.1,
    tile: int = 1024,
    batch: int = 32,
    channels: str | Channels = "color",
) -> SamSegmentation:
    """All objects, without prompts: SAM is asked at each point of a grid (Kirillov et al. 2023, Appendix B).

    Of the three answers at a point, those stay whose expected IoU is at least `iou`, which are stable, and which
    neither are cut by a tile's border inside the image nor cover more than `largest` of the tile (the background).
    Masks like a better one (IoU above 0.7) are left out, over all tiles.

    Parameters
    ----------
    points_per_side
        Points along the longest side of a tile.
    iou, stability, largest
        See above; a mask is stable when its pixels with a logit above 1 are at least this share of those above -1.
    sam, image, tile, batch, channels
        As for `segment_points`.

    Returns
    -------
    SamSegmentation
        `prompts` are the numbers of the points of the grid, row by row.

    Raises
    ------
    InputError
        As `segment_points`; also when `points_per_side` is not positive.
    """
    if points_per_side < 1:
        raise InputError(f"points_per_side is {points_per_side}; it must be a whole number from 1")
    view = _View(image, tile=tile, batch=batch, channels=channels)
    spacing = max(view.rows.size, view.columns.size) / points_per_side
    down, across = (np.arange(spacing / 2, n, spacing) - 0.5 if n >= spacing / 2 else [(n - 1) / 2] for n in view.shape)
    grid = np.stack(np.meshgrid(down, across, indexing="ij"), axis=-1).reshape(-1, 2)
    found: list[Mask] = []
    for part in view.parts(grid):
        pixels = part.read()
        shape = (pixels.shape[1], pixels.shape[2])
        prompts = _around(part.owned, "point", 0.0, part.offset, view.shape)
        for which, logits, ious in sam.answer(pixels, prompts, several=True, batch=batch):
            sources = np.repeat(part.numbers[which], ious.shape[1])
            good = (ious.flatten() >= iou).nonzero()[:, 0]
            for start in range(0, len(good), batch):
                chosen = good[start : start + batch]
                values = sam.enlarge(logits.flatten(0, 1)[chosen], shape)
                scores = ious.flatten()[chosen].clamp(0, 1).tolist()
                for value, score, source in zip(values, scores, sources[chosen.cpu().numpy()].tolist(), strict=True):
                    mask = value > 0
                    sure, maybe = np.count_nonzero(value > 1), np.count_nonzero(value > -1)
                    if sure < stability * maybe or np.count_nonzero(mask) > largest * mask.size or part.cuts(mask):
                        continue
                    if one := cut(mask, score, source, top=part.offset[0], left=part.offset[1]):
                        found.append(one)
    return _segmentation(suppress(found, iou=SAME), view.shape)


def sam_foreground(
    sam: Sam,
    image: Image | NDArray[Any],
    points: Points,
    background: Positions,
    *,
    positive: Literal["cells", "background"] = "cells",
    tile: int = 1024,
    channels: str | Channels = "color",
) -> NDArray[np.bool_]:
    """Where there are cells: all points in a tile are one prompt for one large object.

    Parameters
    ----------
    points
        Cells.
    background
        (M, 2) positions without any.
    positive
        Which of both are the positive points; the others are negative. With ``background`` SAM is asked for the
        background, and the foreground is the rest.
    sam, image, tile, channels
        As for `segment_points`.

    Returns
    -------
    (Y, X) bool. In a tile without a positive point, nothing is what was asked for.

    Raises
    ------
    InputError
        As `segment_points`; also when there is no positive point at all.
    """
    if positive not in ("cells", "background"):
        raise InputError(f"positive is '{positive}'; choose cells or background")
    view = _View(image, tile=tile, batch=1, channels=channels)
    background = np.asarray(background, np.float64).reshape(-1, 2)
    _check_points(points.positions, view.shape, "points")
    _check_points(background, view.shape, "background points")
    wanted, others = (points.positions, background)
    if positive == "background":
        wanted, others = others, wanted
    if not len(wanted):
        raise InputError(f"SAM is asked for {positive}, but there is no such point; click some, or ask for the other")
    found = np.zeros(view.shape, bool)
    for part in view.parts():
        here = [positions[part.holds(positions)] - part.offset for positions in (wanted, others)]
        if not len(here[0]):
            continue
        kinds = np.repeat([POSITIVE, NEGATIVE], [len(p) for p in here])
        prompt = Prompts(np.concatenate(here)[None], kinds[None], None)
        pixels = part.read()
        (_, logits, _), *_ = sam.answer(pixels, prompt, several=False, batch=1)
        mask = sam.enlarge(logits[:, 0], (pixels.shape[1], pixels.shape[2]))[0] > 0
        window = found[part.window]
        window[part.mine] = mask[part.mine]
    return found if positive == "cells" else ~found


class _Part:
    """One tile: where it lies, and which prompts it is given."""

    def __init__(self, view: _View, k: int, j: int, positions: Positions) -> None:
        self._view = view
        self.offset = (view.rows.starts[k], view.columns.starts[j])
        self.window = tuple(
            slice(start, start + tiles.size)
            for start, tiles in zip(self.offset, (view.rows, view.columns), strict=True)
        )
        self.mine = np.outer(view.rows.owned[k] > 0, view.columns.owned[j] > 0)
        near = self.holds(positions)
        pixels = np.floor(positions[near] + 0.5).astype(np.int64) - self.offset  # as `inside` counts, in any tile
        cells = np.clip(pixels, 0, np.array(self.mine.shape) - 1)
        self.numbers = np.flatnonzero(near)[self.mine[cells[:, 0], cells[:, 1]]]
        self.owned = positions[self.numbers] - self.offset
        self._inner = (k > 0, j > 0, k + 1 < len(view.rows.starts), j + 1 < len(view.columns.starts))

    def read(self) -> NDArray[np.float32]:
        """(3, y, x) in 0..1."""
        return self._view.color.read(*self.window)

    def holds(self, positions: Positions) -> NDArray[np.bool_]:
        """Which positions lie in the tile."""
        return inside(positions - self.offset, (self._view.rows.size, self._view.columns.size))

    def cuts(self, mask: NDArray[np.bool_]) -> bool:
        """Whether a mask of the tile reaches one of its borders that is not the image's."""
        borders = (mask[0], mask[:, 0], mask[-1], mask[:, -1])
        return any(inner and border.any() for inner, border in zip(self._inner, borders, strict=True))


class _View:
    """An image as SAM sees it, in tiles."""

    def __init__(self, image: Image | NDArray[Any], *, tile: int, batch: int, channels: str | Channels) -> None:
        for name, value in (("tile", tile), ("batch", batch)):
            if value < 1:
                raise InputError(f"{name} is {value}; it must be a whole number from 1")
        self.color = ColorView(image, channels, "SAM")
        self.shape = self.color.shape
        self.rows, self.columns = (plan(n, tile=tile, stride=1, margin=MARGIN, ramp=2) for n in self.shape)

    def parts(self, positions: Positions | None = None) -> Iterator[_Part]:
        """All tiles, or those that are given any of the positions."""
        total = len(self.rows.starts) * len(self.columns.starts)
        for number, (k, j) in enumerate(np.ndindex(len(self.rows.starts), len(self.columns.starts))):
            report("SAM's tiles", number, total)
            part = _Part(self, k, j, np.empty((0, 2)) if positions is None else positions)
            if positions is None or len(part.numbers):
                yield part
        report("SAM's tiles", total, total)


def _around(
    centres: Positions, prompt: PointPrompt, size: float, offset: tuple[int, int], shape: tuple[int, int]
) -> Prompts:
    """Prompts around positions in a tile that begins at `offset` of an image of this shape."""
    if prompt == "box":
        corners = np.array([[-0.5, -0.5], [0.5, 0.5]]) * size
        low, high = -0.5 - np.array(offset), np.array(shape) - 0.5 - offset
        return Prompts(None, None, np.clip(centres[:, None] + corners, low, high))
    steps = np.zeros((1, 2))
    if prompt == "negatives":
        steps = np.concatenate([steps, np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]]) * size / np.sqrt(2)])
    points = centres[:, None] + steps
    kinds = np.full(points.shape[:2], NEGATIVE, np.int64)
    kinds[~inside((points + offset).reshape(-1, 2), shape).reshape(kinds.shape)] = NOTHING
    kinds[:, 0] = POSITIVE
    return Prompts(points, kinds, None)


def _check_points(positions: Positions, shape: tuple[int, int], name: str) -> None:
    if not (within := inside(positions, shape)).all():
        row, column = positions[~within][0]
        raise InputError(
            f"{(~within).sum()} {name} lie outside the image of {shape[0]} x {shape[1]} px (the first at row {row:g}, "
            f"column {column:g}); are they of another image?"
        )


def _segmentation(masks: list[Mask], shape: tuple[int, int]) -> SamSegmentation:
    labels, kept = masks_to_labels(masks, shape)
    confidence = np.array([mask.score for mask in kept], np.float32)
    return SamSegmentation(labels, confidence, np.array([mask.source for mask in kept], np.int64))
