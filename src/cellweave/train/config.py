"""Everything that decides a training run, in one object that is saved beside its results."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from cellweave.core.errors import InputError

SETTLED = 0.6
"""Share of an AdamW training after which the rate falls; before that, a resumed run may be made longer or shorter.
Also the share after which batch norms settle where sums matter (`MapFormat.sums`)."""
CHOICES = {
    "net": ("FastUNet", "CellposeUNet", "AnchorUNet", "NestedUNet"),
    "target": ("labels", "points"),
    "representation": ("DiffusionFlows", "StarConvex", "DistanceFlows", "WatershedEnergy", "Heatmap"),
    "recipe": ("adamw", "sgd", "cosine", "adam"),
    "augmentation": ("standard", "microscopy", "classical", "square", "superposed", "none"),
}
STEPS = (0.6, 0.85)
"""Shares of an Adam training after which the rate falls to a tenth."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `train`; the defaults train the fast net from scratch, or fine-tune `base`.

    Parameters
    ----------
    out
        Folder of the run: checkpoint, log, best model.
    base
        Model to start from (name or folder): its net, diameter and preparation are kept. None starts from scratch.
    net
        Net to build without `base`.
    width
        Channels of that net as a share of its usual ones: with 0.5 it does about a quarter of the work.
    imagenet
        File of a MobileNetV3-Large trained on ImageNet for the encoder of a NestedUNet to start from; see
        `cellweave.models.imagenet_weights`.
    target
        What the data tell: ``"labels"``, or ``"points"``, one a cell (see `cellweave.train.point_data`). Points are
        learned as a `Heatmap`, at the size of the images, or with another `representation` as the outlines that
        `cellweave.train.pseudo_masks` guesses from them.
    sparse
        Not every cell of the images has its point: only what is near a point, or marked as background, is learned from.
    representation
        What the net predicts; None: as the base, else DiffusionFlows, and Heatmap for points. Another one than the
        base's keeps all weights of the base but those of the last layers, where the numbers of maps differ. Heatmap can
        be learned from labels, too: from the centroids.
    sigma, debris
        Of a Heatmap: width of its Gaussians in px (None: 5, or that of the base); whether dead cells and debris have a
        map of their own.
    epochs, batch_size, crop
        One epoch shows as many crops of `crop` x `crop` px as there are images, at least 8 batches. `crop` is a
        multiple of 16, and of the net's stride (32 of NestedUNet).
    accumulate
        Batches whose gradients are added before each step, where a larger batch does not fit in memory.
    recipe
        ``"adamw"``: AdamW, rate warmed up, constant, and falling to zero as a cosine over the last 40 %. ``"sgd"``:
        the challenge paper's: Nesterov momentum 0.9, weight decay 1e-5, rate warmed up over 10 epochs, halved every
        10 epochs after 70 % of them. ``"cosine"``: Cell Segmenter's: Nesterov momentum 0.9, rate warmed up over 3
        epochs and falling to zero as a cosine. ``"adam"``: Adam without weight decay, rate warmed up, and falling to a
        tenth after 60 % and again after 85 % of the epochs.
    warmup
        Epochs in which the rate rises to its peak; None for the recipe's.
    learning_rate
        Peak rate; None for the recipe's (0.002 adamw, 0.001 sgd, 0.01 cosine, 0.005 adam; a tenth of it when
        fine-tuning).
    diameter
        Cells are resized to this median diameter in px. None: the base model's, else that of the net: 24 of
        FastUNet and NestedUNet, 30 of CellposeUNet; AnchorUNet learns cells of any size, which keep theirs.
    weights
        Share of the crops by group of images (see `Example.group`); groups that are not named, and all without it,
        count by the square root of their number of images.
    simulated
        Share of the crops that come from the synthetic microscope (`cellweave.simulate`), drawn while training.
    recipes
        Recipes of the simulation, drawn equally often; empty for a mixture of all.
    reuse
        Crops cut from each simulated picture.
    augmentation
        What is random in the crops. ``"standard"``: any turn and size, contrast, blur, noise. ``"microscopy"``: scaling
        by 0.5 to 1, turns up to 90 degrees, flips, noise of several kinds and brightness, each with probability 0.5
        (see `cellweave.train.microscopy`). ``"classical"``: of those the scaling, turns and flips.
        ``"square"``: quarter turns, flips, brightness and contrast. ``"superposed"``: these, and half of the crops are
        sums of two, for counting fluorescent cells that overlap. ``"none"``: only the place.
    validation
        Share of the images held out, where no validation data is given.
    patience
        Stop after this many epochs without a better validation loss; None never stops early.
    channels
        Channel policy, see `cellweave.prep.Channels`; "auto" keeps that of the base. A new net has as many planes as
        the policy gives, so that with "color" it sees red, too.
    seed, device
        As everywhere.
    overwrite
        Whether a run in `out` that is not resumed is replaced. It is not saved.

    Raises
    ------
    InputError
        When a value makes no sense; names the setting.
    """

    out: Path
    base: str | None = None
    net: Literal["FastUNet", "CellposeUNet", "AnchorUNet", "NestedUNet"] = "FastUNet"
    width: float = 1.0
    imagenet: str | None = None
    target: Literal["labels", "points"] = "labels"
    sparse: bool = False
    representation: Literal["DiffusionFlows", "StarConvex", "DistanceFlows", "WatershedEnergy", "Heatmap"] | None = None
    sigma: float | None = None
    debris: bool = False
    epochs: int = 100
    batch_size: int = 8
    crop: int = 224
    accumulate: int = 1
    recipe: Literal["adamw", "sgd", "cosine", "adam"] = "adamw"
    warmup: float | None = None
    learning_rate: float | None = None
    diameter: float | None = None
    weights: dict[str, float] | None = None
    simulated: float = 0.0
    recipes: tuple[str, ...] = ()
    reuse: int = 3
    augmentation: Literal["standard", "microscopy", "classical", "square", "superposed", "none"] = "standard"
    validation: float = 0.1
    patience: int | None = None
    channels: str = "auto"
    seed: int = 0
    device: str = "auto"
    overwrite: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", Path(self.out))
        object.__setattr__(self, "recipes", tuple(self.recipes))
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value not in known and not (name == "representation" and value is None):
                raise InputError(f"{name} is '{value}'; choose from {', '.join(known)}")
        for name in ("epochs", "batch_size", "accumulate", "reuse", "patience"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"{name} is {value}; it must be a whole number from 1")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise InputError(f"seed is {self.seed}; it must be a whole number from 0")
        if not isinstance(self.crop, int) or self.crop < 32 or self.crop % 16:
            raise InputError(f"crop is {self.crop}; it must be a multiple of 16 from 32, for example 224")
        for name, least in (("learning_rate", 0.0), ("diameter", 2.0), ("width", 0.0)):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > least):
                raise InputError(f"{name} is {value}; it must be a number above {least:g}")
        if self.warmup is not None and not 0 <= self.warmup < self.epochs:
            raise InputError(f"warmup is {self.warmup}; it must be fewer epochs than the {self.epochs} of the training")
        for name in ("validation", "simulated"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it is a share, from 0 to below 1")
        if self.imagenet and (self.base or self.net != "NestedUNet"):
            raise InputError(
                "imagenet is for a new NestedUNet and for the method cell-segmenter; choose one, or leave it out"
            )
        if self.target == "points" and self.learned == "Heatmap" and self.diameter is not None:
            raise InputError(f"diameter is {self.diameter}; points tell no sizes to resize from, so leave it out")
        if self.learned == "WatershedEnergy" and self.diameter:
            raise InputError(f"diameter is {self.diameter}; WatershedEnergy finds cells of any size, so leave it out")
        if self.sparse and self.target != "points":
            raise InputError("sparse is for points; set target to points")
        if (self.sigma is not None or self.debris) and self.learned != "Heatmap":
            raise InputError("sigma and debris are for the representation Heatmap; choose it, or the target points")
        if self.recipes and not self.simulated:
            raise InputError(
                f"recipes are {', '.join(self.recipes)}, but simulated is 0; give a share, for example 0.5"
            )
        if self.weights is not None and not all(w >= 0 and math.isfinite(w) for w in self.weights.values()):
            raise InputError(f"weights are {self.weights}; none may be negative")

    @property
    def learned(self) -> str | None:
        """Name of the representation that is asked for; None for that of the base, or the usual one."""
        return self.representation or ("Heatmap" if self.target == "points" else None)

    @property
    def guessed(self) -> bool:
        """Whether outlines are learned that are guessed from points."""
        return self.target == "points" and self.learned != "Heatmap"

    @property
    def peak_rate(self) -> float:
        """Learning rate at its highest."""
        rate = self.learning_rate or {"adamw": 2e-3, "sgd": 1e-3, "cosine": 1e-2, "adam": 5e-3}[self.recipe]
        return rate if self.learning_rate or self.base is None else rate / 10

    def to_json(self) -> str:
        """The settings as JSON, one a line."""
        settings = asdict(self) | {"out": str(self.out)}
        del settings["overwrite"]
        return json.dumps(settings, indent=2)

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """The settings that `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise InputError(f"training settings name {', '.join(unknown)}, which this cellweave does not know")
        return cls(**values)


def rate_at(config: TrainConfig, epoch: float) -> float:
    """Learning rate at a point of training; `epoch` is fractional, 0..epochs."""
    if config.recipe == "sgd":
        warm, from_epoch = _warmup(config, min(10.0, 0.1 * config.epochs)), 0.7 * config.epochs
        if epoch < warm:
            return config.peak_rate * epoch / warm
        halvings = math.floor((epoch - from_epoch) / 10) + 1 if epoch >= from_epoch else 0
        return float(config.peak_rate * 0.5**halvings)
    warm = _warmup(config, min(3.0, 0.05 * config.epochs))
    settled = SETTLED * config.epochs if config.recipe == "adamw" else 0.0
    if epoch < warm:
        return config.peak_rate * epoch / warm
    if config.recipe == "adam":
        return config.peak_rate * 0.1 ** sum(epoch >= share * config.epochs for share in STEPS)
    fallen = max(0.0, (epoch - settled) / (config.epochs - settled))
    return config.peak_rate * 0.5 * (1 + math.cos(math.pi * fallen))


def _warmup(config: TrainConfig, usual: float) -> float:
    return usual if config.warmup is None else config.warmup
