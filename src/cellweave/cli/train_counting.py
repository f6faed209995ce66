"""``cellweave train --method area|blobs|mask-rcnn``: the ways of counting besides nets that make maps."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellweave.core.errors import InputError
from cellweave.core.files import make_output_folder
from cellweave.core.progress import console_progress
from cellweave.prep import Preparation
from cellweave.train import TrainConfig
from cellweave.train.counters import check_no_run, counting_examples, train_counter
from cellweave.train.loop import FEWEST_STEPS
from cellweave.train.mask_rcnn import MaskRCNNConfig, train_mask_rcnn
from cellweave.train.self_training import OVERSAMPLE

if TYPE_CHECKING:
    from cellweave.cli.train import Plan

COMMON = {"out", "target", "sparse", "channels", "seed", "device", "overwrite"}
OPTIONS = {
    "area": COMMON,
    "blobs": COMMON,
    "mask-rcnn": COMMON | {"epochs", "batch_size", "learning_rate", "crop", "diameter", "net", "imagenet", "resume"},
}
"""By method, the options of the command that it uses."""
DETECTOR = {
    "batch_size": "batch_size",
    "learning_rate": "learning_rate",
    "crop": "tile",
    "diameter": "side",
    "net": "backbone",
    "channels": "channels",
}
"""Options of the command as `MaskRCNNConfig` calls them."""


def run_counting(plan: Plan, settings: dict[str, Any]) -> None:
    """Train what `plan.method` says, into the folder `model` of the run.

    Raises
    ------
    InputError
        For options that the method does not use; names them.
    """
    assert plan.method in OPTIONS
    given = _given(plan, settings)
    if wrong := sorted(given - OPTIONS[plan.method]):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
        raise InputError(f"--method {plan.method} does not use {options}; leave it out")
    if plan.resume and settings["overwrite"]:
        raise InputError("--resume goes on with a run and --overwrite replaces it; leave one of them out")
    with console_progress():
        if plan.method == "mask-rcnn":
            _train_detector(plan, settings, given)
        else:
            data = {name: settings[name] for name in ("target", "sparse", "channels", "overwrite")}
            train_counter(plan.folders, plan.method, settings["out"], **data)


def _train_detector(plan: Plan, settings: dict[str, Any], given: set[str]) -> None:
    """One epoch shows as many crops as there are images, as in other trainings."""
    out: Path = make_output_folder(settings["out"])
    if not plan.resume:
        check_no_run(out, overwrite=settings["overwrite"])
    options = {name: settings[option] for option, name in DETECTOR.items() if option in given}
    config = MaskRCNNConfig(out, weights=plan.imagenet, seed=settings["seed"], device=settings["device"], **options)
    examples = counting_examples(plan.folders, out, target=settings["target"], sparse=settings["sparse"])
    steps = settings["epochs"] * max(FEWEST_STEPS, len(examples) // config.batch_size)
    train_mask_rcnn(examples, replace(config, steps=steps), resume=plan.resume)


def _given(plan: Plan, settings: dict[str, Any]) -> set[str]:
    """Names of the options that differ from their defaults."""
    usual = {one.name: one.default for one in fields(TrainConfig)}
    given = {name for name, value in settings.items() if value is not None and value != usual[name]}
    plain = {
        "validation": plan.validation,
        "weights": plan.weights,
        "resume": plan.resume,
        "prepare_only": plan.only_prepare,
        "unlabelled": plan.unlabelled,
        "oversample": plan.oversample != OVERSAMPLE,
        "imagenet": plan.imagenet,
        "strategy": plan.strategy,
        "cell_line": plan.cell_line,
        "reporters": plan.reporters,
        "illumination, --clahe or --scaling": plan.prepared != Preparation(),
    }
    return given | {name for name, value in plain.items() if value}
