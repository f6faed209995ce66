"""`train`: labelled images in, a model folder out."""

from __future__ import annotations

import csv
import inspect
import json
import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cellweave import __version__
from cellweave.core.cores import cores
from cellweave.core.device import choose_device
from cellweave.core.errors import CellweaveError, InputError
from cellweave.core.files import make_output_folder, write_atomically
from cellweave.core.labels import Labels
from cellweave.core.progress import console_progress, is_shown, report
from cellweave.io import read_image, read_labels
from cellweave.metrics import evaluate
from cellweave.models import CellSegmenter, Segmenter, load_segmenter
from cellweave.models.imagenet_weights import load_imagenet_encoder
from cellweave.nets import NETS, AnchorUNet, NestedUNet
from cellweave.predict import segment
from cellweave.prep import Channels, Normalisation
from cellweave.representations import REPRESENTATIONS, Heatmap, MapFormat, PointRepresentation, Representation
from cellweave.train import ranks
from cellweave.train.augment import AUGMENTATIONS
from cellweave.train.bare import START
from cellweave.train.calibrate import train_calibration
from cellweave.train.config import TrainConfig
from cellweave.train.counts import fit_decoding, fit_gain, judge_counts
from cellweave.train.loop import LOG, check_new, fit, save_weights
from cellweave.train.pairs import Pair, check_folder
from cellweave.train.point_data import read_point_folder
from cellweave.train.pseudo_masks import outlined
from cellweave.train.samples import Example, Preparation, Samples, joined, prepare, usual_diameter
from cellweave.train.shards import pack
from cellweave.train.simulated import Order, Workers, drawn
from cellweave.train.sizes import train_size_model

log = logging.getLogger(__name__)

MODEL, SETTINGS, REPORT, CACHE, SHARDS = "model", "config.json", "data.txt", "cache", "shards"
NO_RECIPE = ("out", "device", "overwrite")
PACKED = 512
MOST_DRAWERS = 16
"""Processes that draw simulated pictures; each takes some hundred MB."""
VALIDATION_SEED = 1_000_003
"""Added to the seed for simulated pictures that the training never sees."""
DEFAULT_DIAMETER = {"FastUNet": 24.0, "CellposeUNet": 30.0, "AnchorUNet": 0.0, "NestedUNet": 24.0}
"""Of a net from scratch; 0: cells keep their sizes."""
ANY_SIZE = Normalisation(0.1, 99.9, clip=(0.0, 1.0))
"""How images are prepared for the net of the Cell Segmenter: a channel to 0..1 (Hu et al. 2022, Sec. 2.1), the darkest
and brightest thousandth cut off."""

Data = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Sequence[Example]


def train(
    data: Data,
    config: TrainConfig,
    *,
    validation: Data | None = None,
    resume: bool = False,
    card: dict[str, Any] | None = None,
) -> Segmenter:
    """Train a net on labelled images, then its size model, calibrate its confidence, and measure it.

    A model of heatmaps, which finds positions, has no size model; its counts are calibrated and measured.

    The validation images serve for all that is chosen: the best epoch, the calibration, the figures of the card. What
    counts as a cell in a heatmap (`counts.fit_decoding`) is chosen by the training images where there are none.

    Parameters
    ----------
    data
        A folder of images and labels (`find_pairs` lists the namings), or of images and points (`read_point_folder`),
        as `config.target` says; a list of such folders (each one a group of `config.weights`, by its name), or a list
        of `Example`.
    config
        See `TrainConfig`. Everything the run writes goes to `config.out`: `data.txt` (the check of the data),
        `config.json`, `checkpoint.pt`, `log.csv`, `tensorboard/`, `best.pt`, and at the end the model folder `model/`.
    validation
        Images to choose the best epoch by; None holds out `config.validation` of the data.
    resume
        Go on where the run in `config.out` was stopped.
    card
        Entries for the model card: what the data are, under which licence.

    Raises
    ------
    InputError
        When no image can be used, or images and labels do not fit; the report says why. When `config.out` holds a run
        that is neither resumed nor overwritten.

    Notes
    -----
    Under ``torchrun`` every process trains; the first one prepares before and writes everything.
    """
    if not is_shown() and ranks.rank() == 0:
        with console_progress():
            return train(data, config, validation=validation, resume=resume, card=card)
    make_output_folder(config.out)
    if not resume:
        check_new(config.out, config)
    segmenter = start(config)
    _check(segmenter, config)
    training, held_out = split(_examples(data, config, config.out), validation, config)
    samples, judged = _prepared(segmenter, training, held_out, config)
    if not resume and ranks.rank() == 0:
        _save_settings(config)
    drawers = min(MOST_DRAWERS, max(1, cores() // ranks.count() - 1))
    with ExitStack() as stack:
        stream = stack.enter_context(Workers(_order(segmenter, config), drawers)) if config.simulated else None
        fit(segmenter.net, segmenter.representation, samples, judged, config, stream=stream, resume=resume)
    ranks.leave()
    segmenter = segmenter.with_(name=config.out.resolve().name)
    if ranks.rank() > 0:
        return segmenter
    _save_settings(config)
    if isinstance(segmenter.representation, PointRepresentation):
        return _counting(segmenter, training, held_out, config, card)
    if segmenter.diameter and not all(example.given for example in training):
        size_model = train_size_model(segmenter, training, seed=config.seed, device=config.device)
        segmenter = segmenter.with_(size_model=size_model)
    calibration, reliability = train_calibration(segmenter, held_out, device=config.device)
    segmenter = segmenter.with_(calibration=calibration)
    facts = _facts(config, training, held_out) | (card or {})
    if held_out:
        facts["Figures on the validation images"] = figures(segmenter, held_out, config.device)
    if reliability:
        facts["Confidence on the validation images"] = reliability
    return segmenter.with_(card=facts).save(config.out / MODEL)


def _counting(
    segmenter: Segmenter,
    training: Sequence[Example],
    held_out: Sequence[Example],
    config: TrainConfig,
    card: dict[str, Any] | None,
) -> Segmenter:
    """Fit gain and what counts as a cell in the maps of a trained model, calibrate its counts, measure and save it."""
    segmenter = fit_gain(segmenter, held_out, device=config.device)
    segmenter = fit_decoding(segmenter, held_out or training, device=config.device)
    calibration, rows = judge_counts(segmenter, held_out, device=config.device)
    facts = _facts(config, training, held_out) | (card or {})
    if rows:
        facts["Figures on the validation images"] = rows
    if calibration and len(calibration.scores) > 1:
        facts["True counts within 90 % intervals calibrated on the other validation images"] = (
            f"{100 * calibration.held(0.9):.0f} % of {len(calibration.scores)} images"
        )
    return segmenter.with_(card=facts, count_calibration=calibration).save(config.out / MODEL)


def prepare_only(data: Data, config: TrainConfig, *, validation: Data | None = None) -> list[Path]:
    """Write `config.out`/shards: all that `cellweave.train.bare` needs to train on a machine with PyTorch alone.

    Simulated pictures are drawn now, `PACKED` of them. The finished run goes back into `config.out`, where
    ``train(..., resume=True)`` makes a model of it.
    """
    make_output_folder(config.out)
    segmenter = start(config)
    _check(segmenter, config)
    training, held_out = split(_examples(data, config, config.out), validation, config)
    samples, judged = _prepared(segmenter, training, held_out, config)
    parts = {"training": samples} | ({"validation": judged} if judged else {})
    if config.simulated:
        parts["simulated"] = drawn(_order(segmenter, config), range(PACKED))
    _save_settings(config)
    representation = segmenter.representation
    settings = {
        "config": json.loads(config.to_json()),
        "net": segmenter.net_settings(),
        "representation": (type(representation).__name__, asdict(representation)),  # type: ignore[call-overload]
    }
    files = pack(parts, settings, config.out / SHARDS)
    save_weights(config.out / SHARDS / START, segmenter.net.state_dict())
    return files


def _save_settings(config: TrainConfig) -> None:
    write_atomically(config.out / SETTINGS, lambda path: path.write_text(config.to_json(), encoding="utf-8"))


def _check(segmenter: Segmenter, config: TrainConfig) -> None:
    if AUGMENTATIONS[config.augmentation].superposed and not segmenter.representation.sums:
        raise InputError(
            f"augmentation '{config.augmentation}' adds pictures up, which densities alone can follow; choose another, "
            "or learn from points"
        )
    if segmenter.channels.planes != segmenter.net.in_channels:
        raise InputError(
            f"channels '{segmenter.channels}' give {segmenter.channels.planes} planes, and the net of {config.base} "
            f"looks at {segmenter.net.in_channels}; leave the channels out, or the base, for a new net"
        )
    stride = int(segmenter.net.stride)  # type: ignore[arg-type]
    if config.crop % stride:
        raise InputError(
            f"crop is {config.crop}; {type(segmenter.net).__name__} needs a multiple of {stride}, "
            f"for example {-(-config.crop // stride) * stride}"
        )


def start(config: TrainConfig) -> Segmenter:
    """The model before training: the base, or a new net."""
    if config.base:
        base = load_segmenter(config.base)
        channels = base.channels if config.channels == "auto" else Channels.parse(config.channels)
        representation = _representation(config, base.representation)
        base = base.with_(
            diameter=config.diameter or (base.diameter if isinstance(representation, Representation) else 0.0),
            channels=channels,
            size_model=None,
            calibration=None,
            count_calibration=None,
            hash="",
            name="unnamed",
        )
        return base if representation == base.representation else _converted(base, representation, config.seed)
    torch.manual_seed(config.seed)
    representation = _representation(config, None)
    widths = {} if config.width == 1 else {"widths": _widths(config.net, config.width)}
    usually = "color" if config.net == "AnchorUNet" else "auto"
    channels = Channels.parse(usually if config.channels == "auto" else config.channels)
    net = _net(config.net, representation, in_channels=channels.planes, **widths)
    if config.imagenet:
        assert isinstance(net, NestedUNet)
        load_imagenet_encoder(net, config.imagenet)
    usual = DEFAULT_DIAMETER[config.net] if isinstance(representation, Representation) else 0.0
    diameter = config.diameter or usual
    normalisation = ANY_SIZE if config.net == "AnchorUNet" else Normalisation()
    return Segmenter(net, representation, diameter, channels=channels, normalisation=normalisation)


def _representation(config: TrainConfig, base: MapFormat | None) -> MapFormat:
    """What the net shall learn: the representation that is asked for, else that of the base."""
    name = config.learned or ("DiffusionFlows" if base is None else type(base).__name__)
    chosen = base if base is not None and type(base).__name__ == name else REPRESENTATIONS[name]()
    if isinstance(chosen, Heatmap):
        chosen = replace(chosen, sigma=config.sigma or chosen.sigma, debris=config.debris or chosen.debris)
    return chosen


def _net(name: str, representation: MapFormat, **settings: Any) -> nn.Module:
    """A new net of this class that makes what the representation reads."""
    maps = len(representation.map_names) - representation.points
    if name == "AnchorUNet":
        return AnchorUNet(out_maps=maps, boxes=representation.points > 0, **settings)
    if representation.points:
        raise InputError(f"{type(representation).__name__} needs the boxes of AnchorUNet; choose it in place of {name}")
    return NETS[name](out_maps=maps, **settings)


def _widths(name: str, share: float) -> tuple[int, ...]:
    """The usual channels of a net times `share`, made even."""
    usual: tuple[int, ...] = inspect.signature(NETS[name]).parameters["widths"].default
    return tuple(max(2, 2 * round(share * n / 2)) for n in usual)


def _converted(base: Segmenter, representation: MapFormat, seed: int) -> Segmenter:
    """The model with another representation: all weights that fit are kept, the others are new."""
    torch.manual_seed(seed)
    built = base.net_settings()
    net = _net(built["name"], representation, in_channels=built["in_channels"], widths=tuple(built["widths"]))
    weights, old = net.state_dict(), base.net.state_dict()
    net.load_state_dict({name: old[name] if _fits(old.get(name), new) else new for name, new in weights.items()})
    return base.with_(net=net, representation=representation)


def _fits(old: torch.Tensor | None, new: torch.Tensor) -> bool:
    return old is not None and old.shape == new.shape


def _prepared(
    segmenter: Segmenter, training: Sequence[Example], held_out: Sequence[Example], config: TrainConfig
) -> tuple[Samples, Samples | None]:
    """Samples to learn from and to judge by; simulated ones with the share they have in training."""
    preparation = _preparation(segmenter)
    if ranks.rank() > 0:  # the first process writes the cache that the others read
        ranks.join(choose_device(config.device))
        ranks.wait()
    samples = prepare(training, preparation, config.out / CACHE / "training.f16")
    if ranks.rank() > 0:
        return samples, None
    usual = usual_diameter([example.diameter for example in training])
    validation = config.out / CACHE / "validation.f16"
    judged = prepare(held_out, preparation, validation, usual=usual) if held_out else None
    if judged and config.simulated:
        n = round(len(judged) * config.simulated / (1 - config.simulated))
        order = _order(segmenter, config)
        judged = joined([judged, drawn(replace(order, seed=order.seed + VALIDATION_SEED), range(n))])
    ranks.join(choose_device(config.device))
    ranks.wait()
    return samples, judged


def _preparation(segmenter: Segmenter) -> Preparation:
    return Preparation(segmenter.diameter, segmenter.channels, segmenter.normalisation, segmenter.representation)


def _order(segmenter: Segmenter, config: TrainConfig) -> Order:
    return Order.of(_preparation(segmenter), config.seed, config.recipes)


def _examples(data: Data, config: TrainConfig, out: Path) -> list[Example]:
    examples = examples_of(data, out, target=config.target, sparse=config.sparse)
    return list(map(outlined, examples)) if config.guessed else examples


def examples_of(data: Data, out: Path, *, target: str = "labels", sparse: bool = False) -> list[Example]:
    """Read the data; the report of the check goes to the folder `out`.

    Parameters
    ----------
    data, out
        See `train`.
    target, sparse
        See `TrainConfig`.
    """
    read_folder = partial(_read_points, sparse=sparse) if target == "points" else _read_folder
    if isinstance(data, (str, os.PathLike)):
        return read_folder(Path(data), out / REPORT)
    entries = list(data)
    folders = [Path(entry) for entry in entries if not isinstance(entry, Example)]
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise InputError(f"two data folders have one name ({', '.join(names)}); rename one, so that they can be told")
    read = [read_folder(folder, out / f"data-{name}.txt", name) for folder, name in zip(folders, names, strict=True)]
    return [e for e in entries if isinstance(e, Example)] + [e for examples in read for e in examples]


def _read_folder(data: Path, told: Path, group: str = "") -> list[Example]:
    checked = check_folder(data)
    _tell(data, checked.text(), told, usable=bool(checked.usable))
    examples = []
    for k, pair in enumerate(checked.usable):
        report("reading the data", k, len(checked.usable), pair.name)
        examples.append(read_example(pair, group))
    report("reading the data", len(examples), len(examples))
    return examples


def _read_points(data: Path, told: Path, group: str = "", *, sparse: bool) -> list[Example]:
    found = read_point_folder(data, sparse=sparse, group=group)
    _tell(data, found.text(), told, usable=bool(found.examples))
    return list(found.examples)


def _tell(data: Path, text: str, told: Path, *, usable: bool) -> None:
    """Write and log the report of a check.

    Raises
    ------
    InputError
        When nothing is usable.
    """
    if ranks.rank() == 0:
        write_atomically(told, lambda path: path.write_text(text + "\n", encoding="utf-8"))
        log.info("%s", text)
    if not usable:
        raise InputError(f"{data}: no image can be used for training\n{text}")


def read_example(pair: Pair, group: str = "") -> Example:
    """Read one pair of files."""
    return Example(pair.name, read_image(pair.image), read_labels(pair.labels), group)


def split(examples: list[Example], validation: Data | None, config: TrainConfig) -> tuple[list[Example], list[Example]]:
    """Training and validation examples; without validation data, a random share that depends on the seed only."""
    if not examples:
        raise InputError("no training image was given")
    if validation is not None:
        return examples, _examples(validation, config, make_output_folder(config.out / "validation"))
    n = min(round(config.validation * len(examples)), len(examples) - 1)
    if n == 0:
        return examples, []
    chosen = set(np.random.default_rng(config.seed).permutation(len(examples))[:n].tolist())
    return (
        [e for k, e in enumerate(examples) if k not in chosen],
        [e for k, e in enumerate(examples) if k in chosen],
    )


def described(examples: Sequence[Example]) -> str:
    """Numbers of images and cells, for the card."""
    cells = sum(e.n_cells for e in examples)
    return f"{len(examples)} images, {cells:,} cells"


def _facts(config: TrainConfig, training: Sequence[Example], held_out: Sequence[Example]) -> dict[str, Any]:
    guessed = {"Outlines": "guessed from points; all figures are against those"} if config.guessed else {}
    return guessed | {
        "Made by": f"cellweave {__version__}",
        "Training data": described(training),
        "Validation data": described(held_out) if held_out else "none: the last epoch is not chosen by held-out images",
        "Training time": _time_spent(config),
        "Recipe": {k: str(v) for k, v in asdict(config).items() if k not in NO_RECIPE and v not in (None, ())},
    }


def _time_spent(config: TrainConfig) -> str:
    """Hours of all epochs, also of those before an interruption, and the device of this run."""
    with (config.out / LOG).open(newline="") as stream:
        hours = sum(float(row["seconds"]) for row in csv.DictReader(stream)) / 3600
    device = choose_device(config.device)
    return f"{hours:.2g} h on " + (
        f"{torch.get_num_threads()} processor cores" if device.type == "cpu" else device.type
    )


def figures(model: Segmenter | CellSegmenter, examples: Sequence[Example], device: str) -> list[dict[str, Any]]:
    """One row a group of examples: figures of what `segment` finds with a loaded model.

    Of a model with a training diameter, they are with the true diameter given, and with it estimated. Objects that lie
    mostly where the truth is not known do not count.
    """
    rows = []
    groups = sorted({e.group for e in examples})
    done = 0
    for group in groups:
        members = [e for e in examples if e.group == group]
        sized = isinstance(model, Segmenter) and model.diameter > 0
        ways = (", diameter given", ", diameter estimated") if sized else ("",)
        if sized and all(e.given for e in members):
            ways = ways[:1]
        found: dict[str, list[Labels]] = {way: [] for way in ways}
        for example in members:
            report("measuring the model", done, len(examples), example.name)
            done += 1
            for way in found:
                found[way].append(_labels(model, example, sized and way == ways[0], device))
        row: dict[str, Any] = {"Images": group or "all", "n": len(members)}
        for way, labels in found.items():
            total = evaluate([e.judged(e.outlines) for e in members], labels, thresholds=(0.5, 0.75)).total
            row[f"F1@0.5{way}"] = round(total.at(0.5).f1, 3)
            row[f"F1@0.75{way}"] = round(total.at(0.75).f1, 3)
        rows.append(row)
    report("measuring the model", len(examples), len(examples), "")
    return rows


def _labels(model: Segmenter | CellSegmenter, example: Example, given: bool, device: str) -> Labels:
    diameter = example.diameter if given else None
    try:
        return example.judged(segment(example.image, model, diameter=diameter or None, device=device).labels)
    except CellweaveError as error:
        raise type(error)(f"{example.name}: {error}") from error
