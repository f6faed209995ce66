"""`train_cell_segmenter`: the method of Cell Segmenter, from labelled images to a model of several branches.

Hu et al. 2022, *Cell Segmenter: A General Framework for Multi-modality Cell Segmentation*, Sec. 2.1, 2.4 and 3.2.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cellweave import __version__
from cellweave.core.cleaning import clean_labels
from cellweave.core.errors import CellweaveError, InputError
from cellweave.core.progress import console_progress, is_shown, report
from cellweave.io import write_table
from cellweave.models import CellSegmenter, Segmenter
from cellweave.models.cell_segmenter import GENERAL, OMNIPOSE
from cellweave.models.imagenet_weights import load_imagenet_encoder
from cellweave.nets import AnchorUNet
from cellweave.prep.modality import MODALITIES, modality
from cellweave.train.api import MODEL, Data, described, examples_of, figures, split, start
from cellweave.train.branch_choice import with_fitted_thresholds
from cellweave.train.config import TrainConfig
from cellweave.train.samples import Example
from cellweave.train.self_training import (
    OVERSAMPLE,
    PSEUDO,
    SHORTER,
    Images,
    begin,
    group_shares,
    pseudo_labels,
    run_stage,
)

log = logging.getLogger(__name__)

RATE = 0.01
FEWEST_IMAGES = 8
"""Training images under which a modality has no branch of its own."""
ELONGATED = ("bacteria", "filaments")
"""What is simulated for the Omnipose branch."""
OMNIPOSE_SHORTER = 3
"""100 epochs of 300 in the paper (Tables 2 and 4)."""
CLEANING, IMAGENET, RUN = "cleaning.csv", "imagenet", "cell-segmenter.json"
SELECTION = (
    "of each branch the epoch with the least validation loss, judged by weights averaged over about 1000 steps; "
    "the paper takes the last weights"
)


def train_cell_segmenter(
    data: Data,
    config: TrainConfig,
    *,
    validation: Data | None = None,
    unlabelled: Images | None = None,
    oversample: float = OVERSAMPLE,
    resume: bool = False,
    imagenet: str | os.PathLike[str] | None = None,
    card: dict[str, Any] | None = None,
) -> CellSegmenter:
    """Train one model on all images, fine-tune it for each modality, and make the Omnipose branch of it.

    The stages, each in a folder of `config.out` (see `stage_configs`):

    1. Labels are cleaned (`clean_labels`); ``cleaning.csv`` tells what was changed.
    2. ``general``: an `AnchorUNet` with `WatershedEnergy`, from scratch or from ImageNet's weights.
    3. With `unlabelled`, ``pseudo-labels``: what this model finds in those images (`pseudo_labels`).
    4. ``grayscale``, ``fluorescence``, ``brightfield``: the general model, fine-tuned on the labelled images of each
       modality and, `oversample` times as rarely (`group_shares`), on its pseudo-labels. A modality with fewer than 8
       training images has no branch; the general model serves it.
    5. ``omnipose``: the general model turned to `DistanceFlows`, trained on the labelled grayscale images; none with
       fewer than 8.

    They are put together in ``model/``. Where 16 or more grayscale images are held out, the thresholds that choose
    between the two branches of such images are fitted on them (`fit_thresholds`).

    Parameters
    ----------
    data, validation, card
        As for `train`; images that are held out serve all stages.
    config
        Epochs, batch size, crop (a multiple of 32), weights, simulated pictures, seed and the like; `width` below 1 for
        a smaller net. Net, representation, recipe, preparation and patience are the method's. The paper has 300
        epochs, batches of 32, crops of 640 px, a rate of 0.01 (80 hours on two graphics cards); the defaults of
        `TrainConfig` are for the processor of a laptop.
    unlabelled
        A folder of images, or files, to learn from by self-training.
    oversample
        How often a labelled image is shown for each time that a patch of confidence 1 is.
    resume
        Go on where the run in `config.out` was stopped. A stage with a finished model is not made again, also when
        that was trained elsewhere and its folder copied to ``STAGE/model``.
    imagenet
        State dict of a ResNet-18 that was trained on ImageNet; see `load_imagenet_encoder`.

    Raises
    ------
    InputError
        As `train`; also for a base, a crop that does not fit the net, or a resumed run with other settings.

    Notes
    -----
    Deviations: the paper takes the last weights of each training ("we never use early stopping"). Here, too, no
    training stops early, but of each the epoch with the least validation loss counts, and weights are averaged; with
    a rate that falls to zero both are close to the last ones, and safer where the data are few. Simulated pictures
    serve the general model and, those of bacteria and filaments, the Omnipose branch. Noisy images are not removed;
    `cellweave data audit` lists them for a person.
    """
    if not is_shown():
        with console_progress():
            return train_cell_segmenter(
                data,
                config,
                validation=validation,
                unlabelled=unlabelled,
                oversample=oversample,
                resume=resume,
                imagenet=imagenet,
                card=card,
            )
    if config.base:
        raise InputError(f"the Cell Segmenter starts from scratch or from ImageNet's weights, not from {config.base}")
    if config.crop % AnchorUNet.stride:
        raise InputError(
            f"crop is {config.crop}; the net of the Cell Segmenter needs a multiple of 32, for example 224"
        )
    options = {"imagenet": imagenet is not None, "unlabelled": unlabelled is not None, "oversample": oversample}
    begin(config, RUN, options, resume)
    stages = stage_configs(config)
    training, held_out = split(examples_of(data, config.out), validation, config)
    (training, held_out), cleaned = _cleaned((training, held_out), config.out / CLEANING)

    first = stages[GENERAL]
    if imagenet is not None:
        first = replace(first, base=_from_imagenet(first, imagenet, config.out / IMAGENET))
    branches = {GENERAL: run_stage(training, held_out, first, resume=resume)}
    facts = {
        "Made by": f"cellweave {__version__}",
        "Training data": described(training),
        "Validation data": described(held_out) if held_out else "none",
        "Cleaning of labels": cleaned,
        "Seed": config.seed,
        "Epochs that count": SELECTION,
    }
    pseudo: list[Example] = []
    if unlabelled is not None:
        made = pseudo_labels(branches[GENERAL], unlabelled, config.out / PSEUDO, seed=config.seed, device=config.device)
        pseudo, facts["Pseudo-labels"] = made.examples, str(made)
    rows = [_row(GENERAL, training, [], stages[GENERAL], branches[GENERAL])]
    mine, judged, guessed = (_by_modality(examples) for examples in (training, held_out, pseudo))
    for name in (*MODALITIES, OMNIPOSE):
        kind = "grayscale" if name == OMNIPOSE else name
        added = [] if name == OMNIPOSE else guessed[kind]
        if len(mine[kind]) < FEWEST_IMAGES:
            log.info("no branch '%s': there are %d %s images of at least 8", name, len(mine[kind]), kind)
            continue
        settings = replace(
            stages[name], weights=group_shares(mine[kind], added, oversample=oversample, weights=config.weights)
        )
        branches[name] = run_stage([*mine[kind], *added], judged[kind], settings, resume=resume)
        rows.append(_row(name, mine[kind], added, settings, branches[name]))
    facts["Branches"] = rows

    model = CellSegmenter(branches, name=config.out.resolve().name)
    model = with_fitted_thresholds(model, judged["grayscale"], device=config.device)
    if held_out:
        facts["Figures on the validation images"] = figures(model, held_out, config.device)
        kinds = [replace(e, group=kind) for kind, examples in judged.items() for e in examples]
        facts["Figures by modality"] = figures(model, kinds, config.device)
    return replace(model, card=facts | (card or {})).save(config.out / MODEL)


def stage_configs(config: TrainConfig) -> dict[str, TrainConfig]:
    """The settings of each training, by the name of the branch.

    ======================= ======= ============= ======= ==================================
    branch                  epochs  rate          warm-up paper
    ======================= ======= ============= ======= ==================================
    general                 all     0.01          3       Table 2: 300 epochs
    the three modalities    1/6     a tenth       1       Table 3: 50 epochs
    omnipose                1/3     a tenth       3       Table 4: 100 epochs
    ======================= ======= ============= ======= ==================================

    Warm-ups are in epochs, and at most a twentieth of them. The rate is `config.learning_rate`, if it is given. All
    have the recipe ``cosine``.
    """
    rate = config.learning_rate or RATE
    general = replace(
        config,
        out=config.out / GENERAL,
        net="AnchorUNet",
        representation="WatershedEnergy",
        recipe="cosine",
        learning_rate=rate,
        warmup=None,
        patience=None,
        diameter=None,
        channels="auto",
    )
    base = str(config.out / GENERAL / MODEL)
    later = replace(general, base=base, learning_rate=rate / 10, simulated=0.0, recipes=())
    epochs = max(1, config.epochs // SHORTER)
    tuned = replace(later, epochs=epochs, warmup=min(1.0, 0.05 * epochs))
    omnipose = replace(later, epochs=max(1, config.epochs // OMNIPOSE_SHORTER), representation="DistanceFlows")
    if config.simulated:
        omnipose = replace(omnipose, simulated=config.simulated, recipes=ELONGATED)
    return (
        {GENERAL: general}
        | {name: replace(tuned, out=config.out / name) for name in MODALITIES}
        | {OMNIPOSE: replace(omnipose, out=config.out / OMNIPOSE)}
    )


def _cleaned(parts: Sequence[list[Example]], told: Path) -> tuple[list[list[Example]], str]:
    """Examples with clean labels; the file `told` gets a row an image, and the text is their sum."""
    rows: list[dict[str, Any]] = []
    done = []
    for part, examples in zip(("training", "validation"), parts, strict=True):
        clean = []
        for k, example in enumerate(examples):
            report("cleaning the labels", k, len(examples), example.name)
            try:
                labels, found = clean_labels(example.outlines)
            except CellweaveError as error:
                raise type(error)(f"{example.name}: {error}") from error
            clean.append(replace(example, labels=labels))
            rows.append({"image": example.name, "group": example.group, "part": part} | found.as_dict())
        report("cleaning the labels", len(examples), len(examples), "")
        done.append(clean)
    write_table(told, {name: np.array([row[name] for row in rows]) for name in rows[0]})
    objects, apart, removed, kept = (sum(row[name] for row in rows) for name in ("objects", "split", "removed", "kept"))
    return done, f"of {objects:,} objects {apart:,} not in one piece were split, {removed:,} removed; {kept:,} left"


def _from_imagenet(config: TrainConfig, weights: str | os.PathLike[str], folder: Path) -> str:
    """A model folder of the net before training, its encoder from `weights`."""
    model = start(config)
    assert isinstance(model.net, AnchorUNet)
    load_imagenet_encoder(model.net, weights)
    model.with_(name="imagenet").save(folder)
    return str(folder)


def _by_modality(examples: Sequence[Example]) -> dict[str, list[Example]]:
    found: dict[str, list[Example]] = {name: [] for name in MODALITIES}
    for example in examples:
        found[modality(example.image)].append(example)
    return found


def _row(
    name: str, mine: Sequence[Example], added: Sequence[Example], config: TrainConfig, model: Segmenter
) -> dict[str, Any]:
    return {
        "Branch": name,
        "Labelled": described(mine),
        "Pseudo-labelled patches": len(added),
        "Epochs": config.epochs,
        "Rate": f"{config.peak_rate:g}",
        "Time": model.card.get("Training time", "unknown"),
    }
