"""``cellweave train``: one model, one for each modality, or a model set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from cellweave.cli.strategy import run_strategy
from cellweave.cli.train_counting import OPTIONS, run_counting
from cellweave.core.errors import InputError
from cellweave.core.progress import console_progress
from cellweave.models import CellSegmenter, Segmenter
from cellweave.prep import Preparation
from cellweave.representations import PointRepresentation
from cellweave.train import TrainConfig, prepare_only, ranks, self_train, train_cell_segmenter
from cellweave.train import train as train_one
from cellweave.train.strategies import AUGMENTATION, BASE, PATIENCE


@dataclass(frozen=True)
class Plan:
    """What is trained on which data, besides the settings of each training; as the options of the command say it."""

    data: Sequence[Path]
    validation: Path | None
    weights: str | None
    resume: bool
    only_prepare: bool
    method: str | None
    unlabelled: Path | None
    oversample: float
    imagenet: Path | None
    strategy: str | None
    cell_line: str | None
    reporters: tuple[str, ...]
    prepared: Preparation

    @property
    def folders(self) -> Path | Sequence[Path]:
        """The data as the functions of training take them."""
        return self.data[0] if len(self.data) == 1 else self.data


def run(plan: Plan, settings: dict[str, Any]) -> None:
    """Train, and say how the model is used.

    Parameters
    ----------
    plan
        See `Plan`.
    settings
        Of `TrainConfig`, without weights; None where the strategy or the config has a value of its own.

    Raises
    ------
    InputError
        When options do not go together.
    """
    first = ranks.rank() == 0  # of the processes that torchrun starts; the others are silent
    logging.getLogger("cellweave").setLevel(logging.INFO if first else logging.WARNING)
    if plan.method in OPTIONS:
        run_counting(plan, settings)
        typer.echo(_told(settings["out"], "count"))
        return
    config = _config(plan, settings)
    _check(plan, config)
    if plan.strategy:
        run_strategy(
            plan.data[0],
            plan.strategy,
            config,
            cell_line=plan.cell_line,
            validation=plan.validation,
            reporters=plan.reporters,
            prepared=plan.prepared,
            resume=plan.resume,
        )
        return
    with console_progress() if first else nullcontext():
        told = _prepare(plan, config) if plan.only_prepare else _train(plan, config)
    if first:
        typer.echo(told)


def _config(plan: Plan, settings: dict[str, Any]) -> TrainConfig:
    usual: dict[str, Any] = {"augmentation": "standard"}
    if plan.strategy:
        usual = {"base": BASE, "patience": PATIENCE, "augmentation": AUGMENTATION}
    settings = usual | {name: value for name, value in settings.items() if value is not None}
    imagenet = str(plan.imagenet) if plan.imagenet and not plan.method else None
    return TrainConfig(weights=_shares(plan), imagenet=imagenet, **settings)


def _shares(plan: Plan) -> dict[str, float] | None:
    """Shares of the data folders by name."""
    if plan.weights is None:
        return None
    try:
        shares = [float(part) for part in plan.weights.split(",")]
    except ValueError:
        shares = []
    if len(shares) != len(plan.data) or len(plan.data) < 2:
        raise InputError(
            f"--weights '{plan.weights}': write one number for each of the {len(plan.data)} DATA folders: 0.7,0.3"
        )
    return {folder.resolve().name: share for folder, share in zip(plan.data, shares, strict=True)}


def _check(plan: Plan, config: TrainConfig) -> None:
    several = plan.method or plan.unlabelled or plan.strategy
    if plan.method not in (None, "cell-segmenter"):
        known = ", ".join(["cell-segmenter", *OPTIONS])
        raise InputError(f"--method '{plan.method}' is unknown; there are {known}, or leave it out")
    if config.target == "points" and several:
        raise InputError(
            "--target points is one training; leave out --method cell-segmenter, --unlabelled and --strategy"
        )
    if plan.only_prepare and several:
        raise InputError("--prepare-only is for one training; leave out --method, --unlabelled and --strategy")
    if plan.resume and config.overwrite:
        raise InputError("--resume goes on with a run and --overwrite replaces it; leave one of them out")
    if plan.strategy and (plan.method or plan.unlabelled or len(plan.data) != 1):
        raise InputError("--strategy takes one DATA folder; leave out --method and --unlabelled")
    if (plan.cell_line or plan.reporters or plan.prepared != Preparation()) and not plan.strategy:
        raise InputError("--cell-line, --reporters, --illumination, --clahe and --scaling are for --strategy; add it")


def _prepare(plan: Plan, config: TrainConfig) -> str:
    files = prepare_only(plan.folders, config, validation=plan.validation)
    size = sum(file.stat().st_size for file in files) / 1e6
    return (
        f"{len(files)} shards of {size:.0f} MB in all are in {config.out / 'shards'}. On the other machine, with the "
        "folder src of cellweave: PYTHONPATH=src python -m cellweave.train.bare SHARDS RUN\n"
        f"Copy RUN back into {config.out}, then repeat this command with --resume in the place of --prepare-only."
    )


def _train(plan: Plan, config: TrainConfig) -> str:
    options: dict[str, Any] = {"validation": plan.validation, "resume": plan.resume}
    model: Segmenter | CellSegmenter
    if plan.method:
        options |= {"unlabelled": plan.unlabelled, "oversample": plan.oversample, "imagenet": plan.imagenet}
        model = train_cell_segmenter(plan.folders, config, **options)
    elif plan.unlabelled:
        model = self_train(plan.folders, config, plan.unlabelled, oversample=plan.oversample, **options)
    else:
        model = train_one(plan.folders, config, **options)
    points = isinstance(model, Segmenter) and isinstance(model.representation, PointRepresentation)
    return _told(config.out, "count" if points else "segment")


def _told(out: Path, command: str) -> str:
    folder = out / "model"
    return f"The model is in {folder}. Use it with: cellweave {command} IMAGES --out RESULTS --model {folder}"
