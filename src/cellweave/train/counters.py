"""Fitting the counters that have a few numbers and no weights: area and blobs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cellweave import __version__
from cellweave.core.errors import CellweaveError, InputError
from cellweave.core.files import make_output_folder
from cellweave.core.progress import report
from cellweave.predict.area import AreaDensity
from cellweave.predict.blobs import BlobFinder, fit_blobs
from cellweave.predict.color_view import gray_plane
from cellweave.prep.foreground import foreground
from cellweave.train.api import MODEL, Data, described, examples_of
from cellweave.train.config import TrainConfig
from cellweave.train.loop import CHECKPOINT
from cellweave.train.samples import Example

FITTED = ("area", "blobs")


def train_counter(
    data: Data,
    method: str,
    out: str | os.PathLike[str],
    *,
    target: str = "points",
    sparse: bool = False,
    channels: str = "auto",
    overwrite: bool = False,
) -> AreaDensity | BlobFinder:
    """Fit an `AreaDensity` or a `BlobFinder` on annotated images; the folder `model` in `out` holds it.

    Parameters
    ----------
    data, target, sparse
        As for `train`: with ``sparse``, only what is near a point, or marked as background, is fitted on. Of labels,
        the centroids are the points.
    method
        ``area`` or ``blobs``.
    out
        Folder for the report on the data, and the model.
    channels
        What is looked at; see `gray_plane`.
    overwrite
        Replace the model or run that is there.

    Raises
    ------
    InputError
        When there is nothing to fit on, or a run in the folder would be replaced.
    """
    folder = make_output_folder(out)
    check_no_run(folder, overwrite=overwrite)
    examples = counting_examples(data, folder, target=target, sparse=sparse)
    fitted = fit_counter(examples, method, channels=channels)
    return fitted.with_(name=folder.resolve().name).save(folder / MODEL)


def fit_counter(examples: Sequence[Example], method: str, *, channels: str = "auto") -> AreaDensity | BlobFinder:
    """As `train_counter`, from images that were read; nothing is written."""
    if method not in FITTED:
        raise InputError(f"method is '{method}'; choose from {', '.join(FITTED)}")
    planes = []
    for example in examples:
        try:
            planes.append(gray_plane(example.image, channels, method))
        except CellweaveError as error:
            raise type(error)(f"{example.name}: {error}") from error
    points = [example.positions for example in examples]
    known = [np.ones(p.shape, bool) if e.known is None else e.known for e, p in zip(examples, planes, strict=True)]
    fitted: AreaDensity | BlobFinder
    if method == "area":
        masks = []
        for k, plane in enumerate(planes):
            report("finding the foreground", k, len(planes), examples[k].name)
            masks.append(foreground(plane))
        report("finding the foreground", len(planes), len(planes), "")
        fitted = AreaDensity.fit(masks, points, known=known)
    else:
        fitted = fit_blobs(planes, points, known=known)
    facts = {"Made by": f"cellweave {__version__}", "Training data": described(examples)}
    if any(example.known is not None for example in examples):
        facts["Fitted on"] = (
            f"the {100 * np.mean([k.mean() for k in known]):.0f} % of the pixels where the truth is known"
        )
    return fitted.with_(channels=channels, card=facts | fitted.card)


def counting_examples(data: Data, out: Path, *, target: str, sparse: bool) -> list[Example]:
    """As `examples_of`, but a target that is unknown, or ``sparse`` without points, is refused as by `TrainConfig`."""
    _ = TrainConfig(out, target=target, sparse=sparse)  # type: ignore[arg-type]
    return examples_of(data, out, target=target, sparse=sparse)


def check_no_run(folder: Path, *, overwrite: bool) -> None:
    """Refuse to replace a model or a run, finished or not.

    Raises
    ------
    InputError
        When there is one.
    """
    if not overwrite and any((folder / name).exists() for name in (MODEL, CHECKPOINT)):
        raise InputError(f"{folder} holds a run already; replace it by --overwrite, or choose another folder")
