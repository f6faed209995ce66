"""Self-training: a model labels images that nobody has outlined, then learns from them beside those that are.

Hu et al. 2022, *Cell Segmenter: A General Framework for Multi-modality Cell Segmentation*, Sec. 2.4.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from cellweave.core.errors import CellweaveError, InputError, WriteError
from cellweave.core.files import make_output_folder, write_atomically
from cellweave.core.image import Image
from cellweave.core.labels import Labels, relabel
from cellweave.core.progress import console_progress, is_shown, report
from cellweave.io import read_image, read_labels, read_table, write_labels, write_table
from cellweave.models import CellSegmenter, Segmenter, load_segmenter
from cellweave.predict import segment
from cellweave.train import ranks
from cellweave.train.api import MODEL, Data, examples_of, split, train
from cellweave.train.augment import sampling_weights
from cellweave.train.config import TrainConfig
from cellweave.train.loop import CHECKPOINT, OTHER_DATA, check_new
from cellweave.train.pairs import pictures_below
from cellweave.train.samples import Example, fingerprint

log = logging.getLogger(__name__)

PATCH = 640
"""Largest side in px of what is labelled at once (Sec. 2.4)."""
LEAST_CONFIDENCE = 0.5
AROUND = 2
"""So far around objects that the model is not sure of, in px, nothing is learned either."""
MOST_PATCHES = 1000
OVERSAMPLE = 8.0
"""The paper's Table 3: 8 to 30."""
SHORTER = 6
"""A fine-tuning has the epochs of the training over this: 50 of 300 in the paper (Tables 2 and 3)."""
GROUP = "pseudo"
"""Group of the images that a model has labelled."""
TEACHER, PSEUDO = "teacher", "pseudo-labels"
IMAGES, LABELS, TABLES, RUN, SUMMARY = "images", "labels", "confidence", "run.json", "patches.csv"
STAGE = "stage.json"
SINCE = {"augmentation": "standard", "target": "labels", "sparse": False, "sigma": None, "debris": False}
"""Settings that stages of earlier versions did not know, and what they did: their models are still found."""

Images = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """What `pseudo_labels` made.

    Attributes
    ----------
    examples
        Patches with objects, of the group ``pseudo``; the weight of each is the mean confidence of its objects.
    patches
        Number of patches that were looked at.
    problems
        What is wrong with each file that could not be used, wholly or from some patch on.
    """

    examples: list[Example]
    patches: int
    problems: tuple[str, ...] = ()

    def __str__(self) -> str:
        cells = sum(int(example.outlines.max(initial=0)) for example in self.examples)
        bad = f"; {len(self.problems)} files could not be used" if self.problems else ""
        return f"{len(self.examples)} of {self.patches} patches with {cells:,} cells in all{bad}"


@dataclass(frozen=True)
class _Patch:
    """A rectangle of a file; `name` tells the file and the place."""

    file: Path
    y: slice
    x: slice
    name: str


def pseudo_labels(
    model: Segmenter | CellSegmenter,
    images: Images,
    out: str | os.PathLike[str],
    *,
    min_confidence: float = LEAST_CONFIDENCE,
    limit: int = MOST_PATCHES,
    seed: int = 0,
    device: str = "auto",
) -> PseudoLabels:
    """Segment images and keep what the model is sure of, as examples to learn from.

    Images larger than 640 px are cut into patches of equal sizes, at most 640 px a side; only a patch is read at a
    time, so that slides may be larger than memory. Each patch is prepared and segmented as an image of its own.
    Objects with a low confidence, and what is within 2 px of them, count as unknown: nothing is learned there. Patches
    without any other object are left out.

    `out` gets ``images/`` and ``labels/``, ``confidence/`` with a table of the objects of each patch, and
    ``patches.csv``. A patch whose table is there is not made again as long as the model is the same.

    Parameters
    ----------
    model
        Saved or loaded: its hash tells whose labels lie in `out`.
    images
        A folder, which is searched with its sub-folders (files and folders named as labels are left out), or files.
    out
        A folder of its own.
    min_confidence
        Objects under it are unknown, 0..1.
    limit
        Most patches to look at. Of more, some are drawn at random, as many from each image as there are, up to a
        number that is the same for all.
    seed, device
        As everywhere.

    Raises
    ------
    InputError
        When there is no image, none can be read, the model was never saved, or `out` holds other files. A single bad
        file is logged, and told in `PseudoLabels.problems`.
    """
    if not is_shown():
        with console_progress():
            return pseudo_labels(
                model, images, out, min_confidence=min_confidence, limit=limit, seed=seed, device=device
            )
    if limit < 1:
        raise InputError(f"limit is {limit}; it must be a number of patches from 1")
    if not model.hash:
        raise InputError("the model was never saved, so that its labels could not be told from others; save it first")
    folder = _own_folder(Path(out), {"model": model.hash})
    problems: dict[Path, str] = {}
    patches = _chosen(_patches(images, problems), limit, seed)
    opened: tuple[Path, Image] | None = None
    for k, patch in enumerate(patches):
        report("labelling patches", k, len(patches), patch.file.name)
        if patch.file in problems or (folder / TABLES / f"{patch.name}.csv").is_file():
            continue
        try:
            if opened is None or opened[0] != patch.file:
                opened = patch.file, read_image(patch.file).plane()
            _label(model, opened[1], patch, folder, device)
        except WriteError:
            raise
        except (CellweaveError, OSError, ValueError) as error:
            problems[patch.file] = _said(patch.file, error)
    report("labelling patches", len(patches), len(patches), "")
    if problems and not any(patch.file not in problems for patch in patches):
        raise InputError("none of the unlabelled images can be used:\n" + "\n".join(problems.values()))
    return PseudoLabels(_collected(patches, folder, min_confidence), len(patches), tuple(problems.values()))


def group_shares(
    labelled: Sequence[Example],
    pseudo: Sequence[Example],
    *,
    oversample: float = OVERSAMPLE,
    weights: dict[str, float] | None = None,
) -> dict[str, float] | None:
    """`TrainConfig.weights` for a training on both: labelled images are shown `oversample` times as often.

    With n labelled images and pseudo-labels of the weights c, the group ``pseudo`` gets the share
    ``sum(c) / (oversample * n + sum(c))``: a labelled image is shown `oversample` times as often, in the mean, as a
    patch of weight 1. What is left is divided among the groups of the labelled images as without pseudo-labels.

    Parameters
    ----------
    labelled, pseudo
        Examples; those of `pseudo` have the group ``pseudo``.
    oversample
        Positive. The paper has 8 to 30.
    weights
        As in `TrainConfig`, for the groups of all data; names that `labelled` does not have are left out.

    Raises
    ------
    InputError
        When `oversample` is not positive, or labelled images have the group ``pseudo``.
    """
    if not oversample > 0:
        raise InputError(f"oversample is {oversample}; it must be a number above 0, for example 8")
    groups = np.array([example.group for example in labelled])
    if (groups == GROUP).any():
        raise InputError(f"'{GROUP}' is the name of what the model labels; give your data folder another name")
    known = {name: share for name, share in (weights or {}).items() if name in groups}
    known = known if any(known.values()) or len(known) < len(np.unique(groups)) else {}
    if not pseudo:
        return known or None
    sure = sum(example.weight for example in pseudo)
    share = sure / (oversample * len(labelled) + sure)
    each = sampling_weights(groups.tolist(), known)
    return {str(g): float((1 - share) * each[groups == g].sum()) for g in np.unique(groups)} | {GROUP: share}


def self_train(
    data: Data,
    config: TrainConfig,
    unlabelled: Images,
    *,
    validation: Data | None = None,
    oversample: float = OVERSAMPLE,
    resume: bool = False,
    card: dict[str, Any] | None = None,
) -> Segmenter:
    """Train a model, let it label images, and fine-tune it on both; any net and representation.

    Three stages, each in a folder of `config.out`: ``teacher/``, the training as `config` says; ``pseudo-labels/``, see
    `pseudo_labels`; and in `config.out` itself the fine-tuning, with a sixth of the epochs, a tenth of the rate, and
    crops shared out as `group_shares` says. The model is in ``model/``, as of every training.

    Parameters
    ----------
    data, config, validation, card
        As for `train`.
    unlabelled
        A folder of images, or files; see `pseudo_labels`.
    oversample
        How often a labelled image is shown for each time that a patch of confidence 1 is.
    resume
        Go on where the run was stopped: finished stages and labelled patches are not made again.

    Raises
    ------
    InputError
        As `train` and `pseudo_labels`; when the model finds no cell in the unlabelled images; or when the run was
        started with other settings.
    """
    if not is_shown():
        with console_progress():
            return self_train(
                data, config, unlabelled, validation=validation, oversample=oversample, resume=resume, card=card
            )
    begin(config, "self-training.json", {"oversample": oversample}, resume)
    training, held_out = split(examples_of(data, config.out), validation, config)
    teacher = run_stage(training, held_out, replace(config, out=config.out / TEACHER), resume=resume)
    made = pseudo_labels(teacher, unlabelled, config.out / PSEUDO, seed=config.seed, device=config.device)
    if not made.examples:
        raise InputError(
            f"the model found no cell in the unlabelled images with a confidence of {LEAST_CONFIDENCE} or more; "
            f"it is in {config.out / TEACHER / MODEL}, without self-training"
        )
    student = replace(
        config,
        base=str(config.out / TEACHER / MODEL),
        epochs=max(1, config.epochs // SHORTER),
        warmup=None,
        learning_rate=config.peak_rate / 10,
        weights=group_shares(training, made.examples, oversample=oversample, weights=config.weights),
    )
    facts = {"Pseudo-labels": str(made)} | (card or {})
    return run_stage([*training, *made.examples], held_out, student, resume=resume, card=facts)


def begin(config: TrainConfig, name: str, options: dict[str, Any], resume: bool) -> None:
    """Write the settings of a run of several stages, or check that a resumed one has the same.

    Raises
    ------
    InputError
        When there is nothing to resume, it was started with other settings, there is a run that is neither resumed nor
        overwritten, or several processes run.
    """
    if ranks.count() > 1:
        raise InputError("a training of several stages runs in one process; start it without torchrun")
    file = make_output_folder(config.out) / name
    now = json.loads(config.to_json()) | options
    if resume:
        before = _read_json(file)
        if before is None and any(config.out.glob(f"*/{MODEL}")):  # of a stage that was trained elsewhere
            before = {}
        if before is None:
            raise InputError(f"nothing to resume: there is no {file}; start without --resume")
        changed = sorted(k for k in now if k not in ("out", "device") and before.get(k, now[k]) != now[k])
        if changed:
            raise InputError(
                f"{file} was started with other settings ({', '.join(f'{k}={before[k]}' for k in changed)}); "
                "resume with the same ones, or start a new run in another folder"
            )
        now = now | before
    else:
        for folder in (config.out, *(checkpoint.parent for checkpoint in config.out.glob(f"*/{CHECKPOINT}"))):
            check_new(folder, config)
    _write_json(file, now)


def run_stage(
    training: Sequence[Example],
    held_out: Sequence[Example],
    config: TrainConfig,
    *,
    resume: bool,
    card: dict[str, Any] | None = None,
) -> Segmenter:
    """`train` as one stage of several.

    With `resume`, a stage that is finished gives its model (also one that was trained elsewhere and put into
    ``config.out/model``), and one that was stopped goes on. One that was made with another base starts anew.

    Raises
    ------
    InputError
        When one that would go on was made with other settings, images or labels.
    """
    base = load_segmenter(config.base).hash if config.base else ""
    settings = {k: v for k, v in json.loads(config.to_json()).items() if k not in ("out", "device", "base")}
    for name, usual in SINCE.items():
        if settings.get(name) == usual:
            del settings[name]
    key = hashlib.sha256(json.dumps([settings, base], sort_keys=True).encode()).hexdigest()
    file, model = make_output_folder(config.out) / STAGE, config.out / MODEL
    before = _read_json(file) if resume else {}
    if resume:
        config = replace(config, overwrite=True)
    else:
        check_new(config.out, config)
    if before is None and model.is_dir():
        return Segmenter.load(model)
    goes_on = before is None or before.get("key") == key or before.get("base") == base
    data = [fingerprint(training), fingerprint(held_out)]
    if before and goes_on and before.get("data", data) != data:
        raise InputError(OTHER_DATA.format(file))
    if before and before.get("key") == key and before.get("model") and model.is_dir():
        return Segmenter.load(model)
    now = {"key": key, "base": base, "data": data}
    goes_on = resume and goes_on and (config.out / CHECKPOINT).is_file()
    if not goes_on:
        _write_json(file, now | {"model": ""})
    trained = train(list(training), config, validation=list(held_out), resume=goes_on, card=card)
    _write_json(file, now | {"model": trained.hash})
    return trained


def _own_folder(folder: Path, settings: dict[str, Any]) -> Path:
    """The folder with its sub-folders, emptied where it holds what was made with other settings."""
    parts = [folder / name for name in (IMAGES, LABELS, TABLES)]
    before = _read_json(folder / RUN)
    if before is None and any(part.is_dir() and any(part.iterdir()) for part in parts):
        raise InputError(f"{folder} holds images or labels of another origin; choose another folder")
    if before != settings:
        for part in parts:
            shutil.rmtree(part, ignore_errors=True)
    for part in parts:
        make_output_folder(part)
    _write_json(folder / RUN, settings)
    return folder


def _patches(images: Images, problems: dict[Path, str]) -> list[list[_Patch]]:
    """The patches of each image; files that cannot be read are noted in `problems`."""
    if isinstance(images, (str, os.PathLike)):
        root = Path(images)
        files = pictures_below(root)
        if not files:
            raise InputError(f"{root}: there is no image in this folder, nor in those below; check the path")
    else:
        files = [Path(file) for file in images]
        root = Path(os.path.commonpath([file.absolute().parent for file in files])) if files else Path()
        files = [file.absolute() for file in files]
    if not files:
        raise InputError("no unlabelled image was given")
    found = []
    for k, file in enumerate(files):
        report("looking at the unlabelled images", k, len(files), file.name)
        try:
            image = read_image(file).plane()
        except (CellweaveError, OSError, ValueError) as error:
            problems[file] = _said(file, error)
            continue
        size = file.stat().st_size if file.is_file() else 0
        digest = hashlib.sha256(f"{file.relative_to(root).as_posix()} {size}".encode()).hexdigest()[:8]
        found.append(
            [
                _Patch(file, y, x, f"{file.stem}-{digest}-y{y.start:05d}-x{x.start:05d}")
                for y in _pieces(image.height)
                for x in _pieces(image.width)
            ]
        )
    report("looking at the unlabelled images", len(files), len(files), "")
    if not found:
        raise InputError("none of the unlabelled images can be used:\n" + "\n".join(problems.values()))
    return found


def _pieces(length: int) -> list[slice]:
    """The fewest pieces of at most `PATCH` px that cover an axis, of equal sizes up to rounding."""
    n = -(-length // PATCH)
    ends = [round(k * length / n) for k in range(n + 1)]
    return [slice(a, b) for a, b in pairwise(ends)]


def _chosen(patches: list[list[_Patch]], limit: int, seed: int) -> list[_Patch]:
    """All patches, or `limit` of them: one of every image, then a second one, and so on; in the order of the files."""
    rng = np.random.default_rng(seed)
    ranked = [(rank, k, i) for k, some in enumerate(patches) for rank, i in enumerate(rng.permutation(len(some)))]
    order = sorted(rng.permutation(len(ranked)), key=lambda j: ranked[j][0])[:limit]
    return [patches[k][i] for k, i in sorted(ranked[j][1:] for j in order)]


def _label(model: Segmenter | CellSegmenter, image: Image, patch: _Patch, folder: Path, device: str) -> None:
    """Write a patch and its labels, if it has cells, and then the table that says that it is done."""
    pixels = image.read(patch.y, patch.x)
    shown = Image(
        pixels,
        channel_names=image.channel_names,
        pixel_size_um=image.pixel_size_um,
        color=image.color,
        source=f"{patch.file} [{patch.y.start}:{patch.y.stop}, {patch.x.start}:{patch.x.stop}]",
    )
    found = segment(shown, model, device=device)
    if found.count:
        _write_image(folder / IMAGES / f"{patch.name}.tif", shown)
        write_labels(folder / LABELS / f"{patch.name}.tif", found.labels)
    table = {"label": np.arange(1, found.count + 1), "confidence": found.confidence.astype(np.float64)}
    write_table(folder / TABLES / f"{patch.name}.csv", table)


def _collected(patches: Sequence[_Patch], folder: Path, min_confidence: float) -> list[Example]:
    """Examples of all patches with sure objects, read from their files; `SUMMARY` tells of every patch."""
    examples, done, objects, sure = [], [], [], []
    for patch in patches:
        if not (folder / TABLES / f"{patch.name}.csv").is_file():
            continue
        confidence = np.asarray(read_table(folder / TABLES / f"{patch.name}.csv")["confidence"], np.float64)
        kept = confidence >= min_confidence
        done.append(patch)
        objects.append(int(kept.sum()))
        sure.append(float(confidence[kept].mean()) if kept.any() else np.nan)
        if kept.any():
            image, found = (folder / kind / f"{patch.name}.tif" for kind in (IMAGES, LABELS))
            labels, known = _known(read_labels(found), kept)
            examples.append(Example(patch.name, read_image(image), labels, GROUP, sure[-1], known))
    write_table(
        folder / SUMMARY,
        {
            "patch": np.array([patch.name for patch in done]),
            "file": np.array([str(patch.file) for patch in done]),
            "y": np.array([patch.y.start for patch in done]),
            "x": np.array([patch.x.start for patch in done]),
            "objects": np.array(objects),
            "confidence": np.array(sure),
        },
    )
    return examples


def _known(labels: Labels, kept: NDArray[np.bool_]) -> tuple[Labels, NDArray[np.bool_] | None]:
    """The labels without objects that are not kept, and where they are known: not in those, nor near them."""
    if kept.all():
        return labels, None
    doubtful = np.concatenate([[False], ~kept])[labels]
    labels = relabel(np.where(doubtful, 0, labels))[0]
    return labels, ~binary_dilation(doubtful, iterations=AROUND) | (labels > 0)


def _write_image(path: Path, image: Image) -> None:
    """A (C, Y, X) image as OME-TIFF, photographs as (Y, X, 3); types that OME lacks become uint8 or float32."""
    import tifffile

    pixels = image.read()
    kind, size = pixels.dtype.kind, pixels.dtype.itemsize
    if kind == "b":
        pixels = pixels.astype(np.uint8)
    elif size > 4 or (kind, size) == ("f", 2):
        pixels = pixels.astype(np.float32)
    metadata: dict[str, Any] = {"axes": "CYX", "Channel": {"Name": list(image.channel_names)}}
    photometric = "minisblack"
    if image.color and len(pixels) == 3:
        pixels, metadata, photometric = np.moveaxis(pixels, 0, -1), {"axes": "YXS"}, "rgb"
    if image.pixel_size_um is not None:
        y, x = image.pixel_size_um
        metadata |= {"PhysicalSizeY": y, "PhysicalSizeYUnit": "µm", "PhysicalSizeX": x, "PhysicalSizeXUnit": "µm"}

    def write(temporary: Path) -> None:
        tifffile.imwrite(
            temporary,
            np.ascontiguousarray(pixels),
            ome=True,
            photometric=photometric,
            metadata=metadata,
            compression="zlib",
        )

    write_atomically(path, write)


def _said(file: Path, error: Exception) -> str:
    text = str(error)
    text = text if str(file) in text else f"{file}: {text}"
    log.warning("%s; the other images are used", text)
    return text


def _read_json(file: Path) -> dict[str, Any] | None:
    """What a JSON file holds; None where there is none, {} where it is damaged."""
    if not file.is_file():
        return None
    with suppress(OSError, ValueError):
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def _write_json(file: Path, content: dict[str, Any]) -> None:
    write_atomically(file, lambda path: path.write_text(json.dumps(content, indent=2), encoding="utf-8"))
