"""`choose_channels`: which channels to fuse, and how, by what comes out on labelled images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import CellweaveError, InputError
from cellweave.core.image import Image
from cellweave.core.labels import Labels, as_labels
from cellweave.core.progress import report
from cellweave.fusion import flow_fusion
from cellweave.metrics import Evaluation, Scores, evaluate_image, match
from cellweave.models import Calibration, Choice, ModelSet, Segmenter, fit_calibration
from cellweave.models.model_set import FLOW_FUSION, FUSION_METHODS
from cellweave.predict.fused import averageable, find_raters, fuse, fuse_labels, rater_maps
from cellweave.representations.base import Maps

MOST_CHANNELS = 8
"""Up to so many channels every subset is scored; with more, a greedy search looks for a good one."""
IN_MEMORY = 2 << 30
"""Maps of more bytes than this are kept in a temporary file."""
IOU = 0.5
FEWEST = 10
"""Objects that match, and objects that do not, under which no calibration is fitted."""

Subset = tuple[str, ...]


@dataclass(frozen=True)
class Scored:
    """A subset of channels, a method, and the figures of all images together, at IoU 0.5."""

    reporters: Subset
    method: str
    total: Scores

    @property
    def f1(self) -> float:
        return self.total.at(IOU).f1

    def row(self) -> dict[str, str | int | float]:
        """For a table."""
        found = self.total.at(IOU)
        return {
            "reporters": "+".join(self.reporters),
            "channels": len(self.reporters),
            "method": self.method if len(self.reporters) > 1 else "",
            "f1": found.f1,
            "precision": found.precision,
            "recall": found.recall,
            "jaccard": self.total.jaccard,
            "n_true": self.total.n_true,
            "n_predicted": self.total.n_predicted,
        }


@dataclass(frozen=True)
class ChannelChoice:
    """What `choose_channels` found.

    Parameters
    ----------
    object, cell_line
        What was looked for.
    rows
        Everything that was scored, best first: by F1, then fewer channels, then flow fusion before other methods.
    reporters
        All channels that have a model, in their order.
    greedy
        Whether subsets were searched in place of all of them being scored.
    n_images
        Images that were scored.
    left_out
        What kept other images from being scored, a sentence each.
    calibration
        Of the scores of the best, where it fuses several channels and enough of its objects match, and do not.
    """

    object: str
    cell_line: str
    rows: tuple[Scored, ...]
    reporters: Subset
    greedy: bool
    n_images: int
    left_out: tuple[str, ...] = ()
    calibration: Calibration | None = None

    @property
    def best(self) -> Scored:
        """The first row."""
        return self.rows[0]

    @property
    def choice(self) -> Choice:
        """The best as the set keeps it."""
        found = self.best.total.at(IOU)
        figures = {"f1": found.f1, "precision": found.precision, "recall": found.recall}
        scores = {name: round(value, 4) for name, value in figures.items()} | {"images": self.n_images}
        return Choice(self.best.reporters, self.best.method, scores, self.calibration)

    def of(self, reporters: Subset) -> list[Scored]:
        """The rows of a subset, best first."""
        return [row for row in self.rows if set(row.reporters) == set(reporters)]


def choose_channels(
    images: Sequence[Image],
    truth: Sequence[Labels],
    model_set: ModelSet,
    *,
    object: str,
    cell_line: str,
    methods: Sequence[str] = FUSION_METHODS,
    device: str = "auto",
) -> ChannelChoice:
    """Score subsets of channels and methods of fusion on labelled images.

    The maps of each channel are predicted once. Up to 8 channels, every subset is scored with every method; with more,
    a greedy forward search starts with the best channel and adds the one that helps most, until none does; all channels
    together are scored, too. A channel that an image lacks is left out there, as `segment_set` does; an image with none
    of a subset counts as one in which nothing was found.

    Parameters
    ----------
    images, truth
        Images with names of channels, and (Y, X) labels of the objects; better others than the models learned from.
    model_set, object, cell_line
        Whose models.
    methods
        Some of `FUSION_METHODS`. Flow fusion is left out where the models' maps cannot be averaged.
    device
        auto, cpu, cuda or mps.

    Raises
    ------
    InputError
        When there are no images, or none has a channel with a model, or no method is left.
    ModelError
        When the set has no model for the object and cell line.

    References
    ----------
    *Cell Segmentation in Images Without Structural Fluorescent Reporters*, Sec. 3.5: "we evaluate the aggregation
    methods over the power-set of channel combinations and select the channel combinations which yield the best score".
    The score is F1 at IoU 0.5 of all objects together.
    """
    unknown = [method for method in methods if method not in FUSION_METHODS]
    if unknown or not methods:
        raise InputError(f"fusion method '{', '.join(unknown)}' is unknown; choose from {', '.join(FUSION_METHODS)}")
    if len(images) != len(truth) or not len(images):
        raise InputError(f"{len(images)} images and {len(truth)} label images; give one for each, and at least one")
    with tempfile.TemporaryDirectory(prefix="cellweave-") as folder:
        table = _Table(model_set, object, cell_line, Path(folder))
        left_out: list[CellweaveError] = []
        for k, (image, labels) in enumerate(zip(images, truth, strict=True)):
            report(f"maps of {object}", k, len(images), image.source)
            try:
                table.add(image.plane(), as_labels(labels), device)
            except CellweaveError as error:
                left_out.append(error)
        report(f"maps of {object}", len(images), len(images))
        if not table.n_images:
            raise left_out[0]
        names = table.reporters
        usable = [m for m in methods if m != FLOW_FUSION or table.averageable]
        if not usable:
            raise InputError("the maps of these models cannot be averaged; choose other methods than flow fusion")
        greedy = len(names) > MOST_CHANNELS
        rows = _greedy(table, names, usable) if greedy else _all(table, names, usable)
        place = {name: k for k, name in enumerate(names)}
        rows.sort(
            key=lambda r: (-r.f1, len(r.reporters), FUSION_METHODS.index(r.method), [place[n] for n in r.reporters])
        )
        fitted = table.calibration(rows[0])
    excuses = tuple(map(str, left_out))
    return ChannelChoice(object, cell_line, tuple(rows), names, greedy, table.n_images, excuses, fitted)


def _all(table: _Table, names: Subset, methods: Sequence[str]) -> list[Scored]:
    """Every subset with every method."""
    subsets = [subset for n in range(1, len(names) + 1) for subset in combinations(names, n)]
    rows: list[Scored] = []
    for k, subset in enumerate(subsets):
        report(f"subsets for {table.object}", k, len(subsets), "+".join(subset))
        rows += table.scored(subset, methods)
    report(f"subsets for {table.object}", len(subsets), len(subsets))
    return rows


def _greedy(table: _Table, names: Subset, methods: Sequence[str]) -> list[Scored]:
    """Single channels, all together, and on the way from the best single one the subsets with one more."""
    rows = [row for name in names for row in table.scored((name,), methods)]
    best = max(rows, key=lambda row: row.f1)
    rows += table.scored(names, methods)
    for n in range(1, len(names) - 1):
        report(f"subsets for {table.object}", n, len(names), "+".join(best.reporters))
        rest = [name for name in names if name not in best.reporters]
        larger = [tuple(x for x in names if x in best.reporters or x == name) for name in rest]
        step = [row for subset in larger for row in table.scored(subset, methods)]
        rows += step
        next_best = max(step, key=lambda row: row.f1)
        if next_best.f1 <= best.f1:
            break
        best = next_best
    report(f"subsets for {table.object}", len(names), len(names))
    return rows


class _Table:
    """Maps and labels of every channel of every image, predicted once, and the scores of their fusions."""

    def __init__(self, model_set: ModelSet, object: str, cell_line: str, folder: Path) -> None:
        self.object = object
        self._set, self._line, self._folder = model_set, cell_line, folder
        self._truth: list[Labels] = []
        self._maps: list[dict[str, Maps]] = []
        self._labels: list[dict[str, Labels]] = []
        self._models: dict[str, Segmenter] = {}
        self._known: dict[tuple[int, Subset, str], Scores] = {}
        self._bytes = 0

    @property
    def n_images(self) -> int:
        return len(self._truth)

    @property
    def reporters(self) -> Subset:
        """Channels with a model that some image has."""
        return tuple(self._models)

    @property
    def averageable(self) -> bool:
        return averageable(list(self._models.values()))

    def add(self, image: Image, truth: Labels, device: str) -> None:
        """Predict the maps of an image."""
        if truth.shape != (image.height, image.width):
            raise InputError(
                f"{image.source or 'image'} is {image.height} x {image.width}, and its labels {truth.shape[0]} x "
                f"{truth.shape[1]}; give the labels of this image"
            )
        raters = find_raters(image, self._set, self.object, self._line).raters
        maps, _ = rater_maps(image, self._set, raters, device=device)
        models = {rater.reporter: self._set.model(rater.key) for rater in raters}
        self._labels.append(
            {name: model.decode_scored(one)[0] for (name, model), one in zip(models.items(), maps, strict=True)}
        )
        self._maps.append({name: self._kept(one) for name, one in zip(models, maps, strict=True)})
        self._truth.append(truth)
        self._models |= {name: model for name, model in models.items() if name not in self._models}

    def scored(self, subset: Subset, methods: Sequence[str]) -> Iterator[Scored]:
        """A row a method; one for a lone channel, where nothing is fused."""
        for method in methods if len(subset) > 1 else methods[:1]:
            images = tuple(self._score(k, subset, method) for k in range(self.n_images))
            yield Scored(subset, method, Evaluation(images, 2.0).total)

    def calibration(self, best: Scored) -> Calibration | None:
        """From the scores of what several channels give together to probabilities to match; None for too few objects.

        Of images that have all of the channels.
        """
        names = best.reporters
        if len(names) == 1:
            return None
        scores, hits = [np.zeros(0)], [np.zeros(0, bool)]
        for truth, maps in zip(self._truth, self._maps, strict=True):
            if set(names) <= set(maps):
                models = [self._models[name] for name in names]
                labels, found, _ = fuse([maps[name] for name in names], models, best.method)
                pairs = match(truth, labels, IOU)
                scores.append(found.astype(np.float64))
                hits.append(np.isin(np.arange(1, len(found) + 1), pairs.predicted_ids))
        matched = np.concatenate(hits)
        enough = min(np.count_nonzero(matched), np.count_nonzero(~matched)) >= FEWEST
        return fit_calibration(np.concatenate(scores), matched) if enough else None

    def _score(self, k: int, subset: Subset, method: str) -> Scores:
        """Of one image; the same channels there give the same, whichever others a subset has."""
        there = tuple(name for name in subset if name in self._maps[k])
        key = k, there, method if len(there) > 1 else ""
        if key not in self._known:
            self._known[key] = evaluate_image(self._truth[k], self._fused(k, there, method), thresholds=(IOU,))
        return self._known[key]

    def _fused(self, k: int, names: Subset, method: str) -> NDArray[Any]:
        if not names:
            return np.zeros_like(self._truth[k])
        if len(names) == 1:
            return self._labels[k][names[0]]
        if method == FLOW_FUSION:
            mean = flow_fusion([self._maps[k][name] for name in names])
            return self._models[names[0]].decode_scored(mean)[0]
        return fuse_labels([self._labels[k][name] for name in names], [self._models[name] for name in names], method)

    def _kept(self, maps: Maps) -> Maps:
        """The same values, in a file where the memory is full."""
        self._bytes += maps.nbytes
        if self._bytes <= IN_MEMORY:
            return maps
        file = np.memmap(self._folder / f"{self._bytes}.maps", np.float32, "w+", shape=maps.shape)
        file[:] = maps
        file.flush()
        return file
