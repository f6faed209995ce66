"""Everything that decides a training run, in one object that is saved beside its results."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainConfig(BaseModel):
    """Settings of `train`; the defaults train the fast net from scratch, or fine-tune `base`.

    Parameters
    ----------
    out
        Folder of the run: checkpoint, log, best model.
    base
        Model to start from (name or folder): its net, diameter and preparation are kept. None starts from scratch.
    net
        Net to build without `base`.
    epochs, batch_size, crop
        One epoch shows as many crops of `crop` x `crop` px as there are images, at least 8 batches.
    recipe
        ``"adamw"``: AdamW, cosine decay. ``"sgd"``: the challenge paper's: Nesterov momentum 0.9, weight decay 1e-5,
        rate warmed up over 10 epochs, halved every 10 epochs after 70 % of them.
    learning_rate
        Peak rate; None for the recipe's (0.002 adamw, 0.001 sgd; a tenth of it when fine-tuning).
    diameter
        Cells are resized to this median diameter in px. None: the base model's, else 24.
    validation
        Share of the images held out, where no validation data is given.
    patience
        Stop after this many epochs without a better validation loss; None never stops early.
    channels
        Channel policy, see `cellweave.prep.Channels`; "auto" keeps that of the base.
    seed, device
        As everywhere.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    out: Path
    base: str | None = None
    net: Literal["FastUNet", "CellposeUNet"] = "FastUNet"
    epochs: int = Field(100, ge=1)
    batch_size: int = Field(8, ge=1)
    crop: int = Field(224, ge=32, multiple_of=16)
    recipe: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float | None = Field(None, gt=0)
    diameter: float | None = Field(None, gt=2)
    validation: float = Field(0.1, ge=0, lt=1)
    patience: int | None = Field(None, ge=1)
    channels: str = "auto"
    seed: int = 0
    device: str = "auto"

    @property
    def peak_rate(self) -> float:
        """Learning rate at its highest."""
        rate = self.learning_rate or {"adamw": 2e-3, "sgd": 1e-3}[self.recipe]
        return rate if self.learning_rate or self.base is None else rate / 10


def rate_at(config: TrainConfig, epoch: float) -> float:
    """Learning rate at a point of training; `epoch` is fractional, 0..epochs."""
    import math

    if config.recipe == "sgd":
        warm, from_epoch = min(10.0, 0.1 * config.epochs), 0.7 * config.epochs
        if epoch < warm:
            return config.peak_rate * epoch / warm
        return float(
            config.peak_rate * 0.5 ** (math.floor((epoch - from_epoch) / 10) + 1 if epoch >= from_epoch else 0)
        )
    warm = min(3.0, 0.05 * config.epochs)
    if epoch < warm:
        return config.peak_rate * epoch / warm
    return config.peak_rate * 0.5 * (1 + math.cos(math.pi * (epoch - warm) / (config.epochs - warm)))
