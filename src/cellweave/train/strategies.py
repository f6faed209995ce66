"""Models for images without structural reporters, out of one data set with nuclei and cells.

*Cell Segmentation in Images Without Structural Fluorescent Reporters*, Sec. 3.2: a model for each reporter
("channel-wise", the paper's choice), one for all reporters ("universal"), or one for the average of the channels
("grayscale"). Each is fine-tuned from one base, stopped early, and used at the diameter that it was trained at.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from cellweave.core.errors import InputError
from cellweave.core.files import make_output_folder, sha256, write_atomically
from cellweave.core.image import Image
from cellweave.core.names import plain
from cellweave.models import Segmenter, Training
from cellweave.models.model_set import ANY, AVERAGE, OBJECTS, Key, ModelSet, checked, is_model_set
from cellweave.predict.fused import with_channels
from cellweave.prep import Preparation
from cellweave.train.config import TrainConfig
from cellweave.train.objects import Field, cell_line_folders, object_diameters, read_fields
from cellweave.train.samples import Example
from cellweave.train.self_training import run_stage

log = logging.getLogger(__name__)

Strategy = Literal["channel-wise", "universal", "grayscale"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
BASE, PATIENCE, AUGMENTATION = "default", 20, "microscopy"
"""What ``cellweave train --strategy`` takes where nothing else is said: Sec. 3.3 and 3.4 of the paper."""
RUNS, SET, REPORT = "runs", "set", "data-{}.txt"


def train_strategy(
    data: str | os.PathLike[str],
    strategy: Strategy,
    config: TrainConfig,
    *,
    cell_line: str | None = None,
    validation: str | os.PathLike[str] | None = None,
    reporters: Sequence[str] = (),
    prepared: Preparation | None = None,
    resume: bool = False,
) -> ModelSet:
    """Train the models of a strategy and put them into a model set.

    All objects of a kind are resized by one factor, which makes their mean diameter that of the base; the set keeps
    that mean with each model, and images are segmented with it. So the diameter is the same in training and in use
    (Sec. 3.4).

    Parameters
    ----------
    data
        Folder with images/, nuclei/ and cells/, files of one name belonging together; or sub-folders like it, each
        named by its cell line. Channels of the images are named by their reporters; not every image need have all.
    strategy
        ``"channel-wise"``, ``"universal"`` or ``"grayscale"``.
    config
        Of each training; `TrainConfig.out` gets a run for each model in runs/ and the model set in set/. The paper
        fine-tunes a base, with patience 20, on 40 images. The channel policy is always "gray": each model sees one
        channel, or the mean of all.
    cell_line
        Of the images; with sub-folders, the one to train. None trains all of them.
    validation
        Another data set of the same layout; None holds out `config.validation` of the images, for all models the same.
    reporters
        Names of the channels in their order, where files do not tell them.
    prepared
        What is done to all images; the set keeps it.
    resume
        Keep the models that are finished, and go on with the one that was stopped.

    Returns
    -------
    ModelSet
        By (object, cell line, reporter); `ANY` stands for the reporter of the universal model, `AVERAGE` for that of
        the one of averages. A set that is there already is added to.

    Raises
    ------
    InputError
        When an image or a channel name cannot be used; names it.
    """
    if strategy not in STRATEGIES:
        raise InputError(f"strategy is '{strategy}'; choose from {', '.join(STRATEGIES)}")
    out, folders = make_output_folder(config.out), cell_line_folders(data, cell_line)
    for line in folders:
        checked(Key(OBJECTS[0], line, ANY))
    judged = {} if validation is None else cell_line_folders(validation, cell_line or _only(folders))
    if validation is not None and (missing := [line for line in folders if line not in judged]):
        raise InputError(f"{validation} has no images of {', '.join(missing)}; it has {', '.join(judged)}")
    before = prepared or Preparation()
    lines = {line: _read(folder, reporters, before, out / REPORT.format(line)) for line, folder in folders.items()}
    made = ModelSet.load(out / SET) if is_model_set(out / SET) else ModelSet.create(out / SET)
    for line, fields in lines.items():
        training, chosen_by = split_fields(fields, config)
        if judged:
            report = out / REPORT.format(f"{line}-validation")
            training, chosen_by = fields, _read(judged[line], reporters, before, report)
        if not chosen_by:
            log.warning(
                "%s: of %d images none is held out, so that every training goes on to its last epoch; give more "
                "images, or others with --validation",
                line,
                len(fields),
            )
        for name in OBJECTS:
            diameter = mean_diameter(training, name)
            if not diameter:
                continue
            for key, one, learned, held in trainings(strategy, Key(name, line, ""), (training, chosen_by), config):
                log.info("%s: %d images", key, len(learned))
                run = replace(one, out=out / RUNS / folder_name(key))
                model = run_stage(learned, held, run, resume=resume, card=_card(key, learned))
                made = _added(made, key, model, _training(learned + held, before))
    return made


def trainings(
    strategy: Strategy, key: Key, fields: tuple[list[Field], list[Field]], config: TrainConfig
) -> Iterator[tuple[Key, TrainConfig, list[Example], list[Example]]]:
    """The models that a strategy trains for an object and cell line.

    Yields
    ------
    What the model is for; its settings (all but the folder); examples to learn from; examples to choose by.
    """
    diameter = mean_diameter(fields[0], key.object)
    training, held_out = ([one for one in some if key.object in one.labels] for some in fields)
    names = _spellings(training)

    def by_reporter(some: list[Field]) -> dict[str, list[Example]]:
        """Each channel as an image of its own."""
        found: dict[str, list[Example]] = {}
        for one in some:
            for channel in one.reporters:
                name, image = names.get(plain(channel), channel), single_channel(one.image, channel)
                found.setdefault(name, []).append(replace(example(one, image, key.object, diameter), group=name))
        return found

    config = replace(config, channels="gray")
    if strategy == "channel-wise":
        parts = by_reporter(training), by_reporter(held_out)
        for name in names.values():
            yield key._replace(reporter=name), config, parts[0][name], parts[1].get(name, [])
        return
    if strategy == "universal":
        learned, held = (list(chain(*by_reporter(some).values())) for some in (training, held_out))
    else:
        learned, held = (
            [example(one, averaged(one.image), key.object, diameter) for one in some] for some in (training, held_out)
        )
    reporter = ANY if strategy == "universal" else AVERAGE
    yield key._replace(reporter=reporter), config, learned, held


def example(field: Field, image: Image, name: str, diameter: float) -> Example:
    """One image with the objects of this name, to be resized by a diameter that is the same for all."""
    return Example(field.name, image, field.labels[name], given=diameter)


def single_channel(image: Image, name: str) -> Image:
    """One channel of a (C, Y, X) image, as an image of its own."""
    return with_channels(image, [image.channel_names.index(name)])


def averaged(image: Image) -> Image:
    """The image as one of which the policy "gray" sees the mean of all channels, each normalised before."""
    return replace(image, color=True)


def mean_diameter(fields: Sequence[Field], name: str) -> float:
    """Mean diameter of all objects of this name in px; 0 where there are none."""
    found = object_diameters(fields, name)
    return round(float(found.mean()), 2) if len(found) else 0.0


def split_fields(fields: Sequence[Field], config: TrainConfig) -> tuple[list[Field], list[Field]]:
    """Images to learn from, and a random share to choose by, which depends on the seed only."""
    n = min(round(config.validation * len(fields)), len(fields) - 1)
    chosen = set(np.random.default_rng(config.seed).permutation(len(fields))[:n].tolist())
    return (
        [one for k, one in enumerate(fields) if k not in chosen],
        [one for k, one in enumerate(fields) if k in chosen],
    )


def folder_name(key: Key) -> str:
    """Of a run: the same for names that are the `same`, another for all others, on any system."""
    return "_".join(re.sub(r"[^a-z0-9.-]", lambda m: f"%{ord(m[0]):x}", plain(part)) for part in key)


def _spellings(fields: Sequence[Field]) -> dict[str, str]:
    """Names of the channels as they are written first, by what all spellings share."""
    names: dict[str, str] = {}
    for one in fields:
        for name in one.reporters:
            names.setdefault(plain(name), name)
    return names


def _added(made: ModelSet, key: Key, model: Segmenter, training: Training) -> ModelSet:
    there = made.find(key)
    if there and made.model(there).hash == model.hash and made.training(there) == training:
        return made
    return made.add(model, **key._asdict(), training=training, overwrite=there is not None)


def _training(examples: Sequence[Example], prepared: Preparation) -> Training:
    images = {one.name: sha256(one.image.source) for one in examples if one.image.source}
    return Training(examples[0].given, images, prepared.record)


def _card(key: Key, learned: Sequence[Example]) -> dict[str, Any]:
    return {
        "Finds": f"{key.object} of {key.cell_line}",
        "Reporter": {ANY: "any, one channel at a time", AVERAGE: "the average of all channels"}.get(
            key.reporter, key.reporter
        ),
        "Diameter in the images": f"{learned[0].given:g} px, in training and in use",
    }


def _read(folder: Path, reporters: Sequence[str], prepared: Preparation, file: Path) -> list[Field]:
    """The fields of a cell line, and the report; a name that no model could have is refused before any is trained."""
    fields, text = read_fields(folder, reporters, prepared)
    for reporter in _spellings(fields).values():
        checked(Key(OBJECTS[0], ANY, reporter))
    write_atomically(file, lambda path: path.write_text(text + "\n", encoding="utf-8"))
    log.info("%s", text)
    return fields


def _only(folders: dict[str, Path]) -> str | None:
    return next(iter(folders)) if len(folders) == 1 else None
