"""Cell Segmenter: its kernels beside those of the paper, the ablation, the quality estimator, and F1 by modality.

Hu et al. 2022, *Cell Segmenter: A General Framework for Multi-modality Cell Segmentation*. Trainings are steps of their
own (`_cell_segmenter_trainings.py`). No real set here has outlines of long or bent cells; simulated pictures, with
other ranges than a training draws from, serve for them. F1 is at IoU 0.5, the mean over images, as in the challenge.
"""

from __future__ import annotations

import csv
import json
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

import record
from _calibration import _examples
from _cell_segmenter_trainings import TRAININGS, system, trained
from _floods import decode, tilted_cells, watershed_kernel
from _modality import accuracy, confusion, shows
from _trainings import DATA, free_examples
from ablation import verdict
from cellweave import Image, Segmenter, read_image, segment
from cellweave.core.labels import Labels, median_diameter
from cellweave.core.progress import report
from cellweave.metrics import match
from cellweave.models import CellSegmenter, load_model
from cellweave.predict.quality import LOWEST, MARGIN, choose_branch, fit_thresholds
from cellweave.prep.modality import MODALITIES, modality
from cellweave.representations import DiffusionFlows, DistanceFlows
from cellweave.simulate import RECIPES, Recipe, picture
from cellweave.simulate.recipes import LayoutRange, ShapeRange
from cellweave.train import Example
from cellweave.train.branch_choice import judge_branches
from foundation import seconds
from generalist import held_out
from peer import OMNIPOSE as PACKAGE
from peer import run_peer
from record import Row

SEED = 4040
"""Of simulated pictures; the trainings have 0."""
PICTURES, PICTURE_SIDE = 24, 384
SIZES = (12.0, 40.0)
LONG_SIDE, LONG_WIDTH = 1024, 20.0
REPEATS = 3
ABOVE = 1e-4
"""What counts as above."""
LOWESTS, MARGINS = (0.0, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 1.0), (-0.05, 0.0, 0.02, 0.1, 0.2, 1.0)
PARTS_OF = "two objects or more hold a fifth of the cell each"
CLOSE = 0.01
"""Branches whose F1 differ by less are equally good."""
PAPER_STEPS = {"one-step": 0.8312, "two-step": 0.8452, "+ self-training": 0.8537}
"""Table 5: F1 on the challenge's tuning set."""
PAPER_QUALITY = {"watershed": (0.900, 0.831), "omnipose": (0.626, 0.932)}
"""Table 8, tuning set: quality of the watershed branch and of Omnipose, on the images where each is the better one."""
PAPER_F1 = {"brightfield": 0.891, "fluorescence": 0.198, "grayscale": 0.785}
"""Table 6, final test set, means; of grayscale images those in phase contrast."""


def long_cells() -> dict[str, Recipe]:
    """Recipes of long and bent cells with other ranges than a training draws from."""
    bent = ShapeRange("rod", variation=(0.15, 0.3), elongation=(4.0, 8.0), bend=(0.5, 1.0))
    threads = ShapeRange("filament", variation=(0.15, 0.3), elongation=(10.0, 20.0), bend=(0.3, 1.0))
    layout = LayoutRange(density=(0.1, 0.35), patterns=("random", "patches"), packing=(0.75, 0.95), loose=0.0)
    return {
        "elongated bacteria": held_out()["elongated bacteria"],
        "bent bacteria": replace(RECIPES["bacteria"], shapes=(bent,), layout=layout),
        "filaments": replace(RECIPES["filaments"], shapes=(threads,)),
    }


def simulated(name: str, recipe: Recipe) -> list[Example]:
    """Held-out pictures of a recipe; their group is its name."""
    rng = np.random.default_rng([SEED, *name.encode()])
    made = []
    for k in range(PICTURES):
        diameter = float(np.exp(rng.uniform(*np.log(SIZES))))
        drawn = picture(recipe, k, seed=SEED, size=(PICTURE_SIDE, PICTURE_SIDE), diameter=diameter)
        if drawn.labels.any():
            made.append(Example(f"{name} {k}", drawn.image(), drawn.labels, name))
    return made


def flows_of_long_cells() -> Iterator[Row]:
    """Distance flows of 1024 x 1024 long cells: round trip, and time, beside diffusion flows and Omnipose's own."""
    drawn = picture(long_cells()["elongated bacteria"], 1, seed=SEED, size=(LONG_SIDE,) * 2, diameter=LONG_WIDTH)
    labels = drawn.labels
    ours, other = DistanceFlows(), DiffusionFlows()
    maps, theirs = ours.encode(labels), other.encode(labels)
    data = f"{len(np.unique(labels)) - 1} simulated bacteria, {LONG_SIDE} x {LONG_SIDE}"
    row = {"data": data, "seed": SEED}
    f1 = match(labels, ours.decode(maps), 0.5).f1
    against = f"diffusion flows: {match(labels, other.decode(theirs), 0.5).f1:.3f}"
    yield Row("distance flows, long cells: F1@0.5 of the round trip", f1, "", against, at_least=0.99, **row)
    bent = [e.labels for name, recipe in long_cells().items() for e in simulated(name, recipe)]
    both = [np.mean([match(one, way.decode(way.encode(one)), 0.5).f1 for one in bent]) for way in (ours, other)]
    name = "distance flows, long, bent and thread-like cells: mean F1@0.5 of the round trip"
    yield Row(name, float(both[0]), "", f"diffusion flows: {both[1]:.3f}", data=f"{len(bent)} pictures", seed=SEED)

    times = [seconds(lambda: ours.encode(labels), REPEATS), seconds(lambda: ours.decode(maps), REPEATS)]
    slow = [seconds(lambda: other.encode(labels), REPEATS), seconds(lambda: other.decode(theirs), REPEATS)]
    against = f"{sum(slow):.3f} s to {sum(times):.3f} s"
    name = "distance flows beside diffusion flows of our own, encode and decode: times faster"
    yield Row(name, sum(slow) / sum(times), "x", against, **row)

    made = run_peer("encode", repeats=REPEATS, peer=PACKAGE, labels=labels)
    fields = {name: made[name] for name in ("flows", "distance", "boundary")}
    found = run_peer("decode", repeats=REPEATS, peer=PACKAGE, foreground=labels > 0, **fields)
    peer = [float(made["seconds_median"]), float(found["seconds_median"])]
    for part, a, b, least in (
        ("encode and decode", sum(peer), sum(times), 5),
        ("encode", peer[0], times[0], None),
        ("decode", peer[1], times[1], None),
    ):
        against = f"{made['versions']}, {made['threads']} threads, {a:.2f} s to {b:.3f} s"
        yield Row(f"distance flows, {part}: times faster", a / b, "x", against, at_least=least, **row)
    f1 = match(labels, found["masks"].astype(np.int32), 0.5).f1
    yield Row("omnipose, long cells: F1@0.5 of the round trip", f1, "", "its own functions", **row)


def flows_after_training() -> Iterator[Row]:
    """Distance flows beside diffusion flows, learned by the same net from the same images: long, bent and thread-like
    cells, sizes given."""
    models = {"distance flows": trained("long_distance"), "diffusion flows": trained("long_diffusion")}
    against = f"{TRAININGS['long_distance'].steps} steps of 8 x 224 px each"
    for name, recipe in long_cells().items():
        members = simulated(name, recipe)
        row: dict[str, Any] = {"data": f"{len(members)} simulated pictures", "seed": SEED}
        for kind, model in models.items():
            found = [segment(e.image, model, diameter=median_diameter(e.labels)).labels for e in members]
            pairs = [(e.labels, one) for e, one in zip(members, found, strict=True)]
            f1 = np.mean([match(true, one, 0.5).f1 for true, one in pairs])
            yield Row(f"{kind}, {name}: mean F1@0.5", float(f1), "", against, **row)
            share = sum(n_split(*pair) for pair in pairs) / sum(int(true.max()) for true, _ in pairs)
            yield Row(f"{kind}, {name}: share of cells in several parts", share, "", PARTS_OF, **row)


def n_split(labels: Labels, found: Labels) -> int:
    """Number of cells of which two or more objects hold a fifth each."""
    areas = np.bincount(labels.ravel())
    both = labels.astype(np.int64) * (int(found.max()) + 1) + found
    pairs, overlap = np.unique(both[(labels > 0) & (found > 0)], return_counts=True)
    cells = pairs // (int(found.max()) + 1)
    parts = np.bincount(cells[overlap >= 0.2 * areas[cells]], minlength=len(areas))
    return int(np.count_nonzero(parts > 1))


def ablation() -> Iterator[Row]:
    """The rows of Table 5: one-step watershed, two-step watershed, and with self-training; as many steps each."""
    labelled, first = trained("labelled"), TRAININGS["teacher"]
    one_step = labelled.with_(representation=replace(labelled.representation, two_step=False))  # type: ignore[type-var]
    models = dict(zip(PAPER_STEPS, (one_step, labelled, trained("self_trained")), strict=True))
    crops = f"{first.settings['batch_size']} x {first.settings['crop']} px, width {first.settings['width']:g}"
    budget = f"{first.steps + TRAININGS['labelled'].steps} steps of {crops}"
    for split in ("val", "test"):
        members = [e for e in free_examples(split) if median_diameter(e.labels)]
        row = {"data": f"{len(members)} images of the sets trained on, or of like ones", "split": split}
        f1 = {name: f1_of(model, members) for name, model in models.items()}
        for name, paper in PAPER_STEPS.items():
            yield Row(f"{name}: F1@0.5", float(f1[name].mean()), "", f"{budget}; paper: {paper}", **row)
        for before, after in pairwise(PAPER_STEPS):
            paper = PAPER_STEPS[after] - PAPER_STEPS[before]
            change = f1[after] - f1[before]
            against = f"paper: {paper:+.3f}; {verdict(paper, change)}; {np.count_nonzero(change)} images change"
            least = ABOVE if after == "two-step" else None
            yield Row(f"{after} less {before}: F1@0.5", float(change.mean()), "", against, at_least=least, **row)


def f1_of(model: Segmenter | CellSegmenter | str, members: Sequence[Example]) -> NDArray[np.float64]:
    """F1 at IoU 0.5 (n,) of what a model finds in each image."""
    return np.array(
        [match(e.labels, found, 0.5).f1 for e, (found, _) in zip(members, _found(model, members), strict=True)]
    )


def _found(model: Segmenter | CellSegmenter | str, members: Sequence[Example]) -> Iterator[tuple[Labels, str]]:
    """Cells of each image, and the name of the branch that found them."""
    for k, example in enumerate(members):
        report("segmenting", k, len(members), example.name)
        found = segment(example.image, model)
        yield found.labels, found.branch.name if found.branch else ""
    report("segmenting", len(members), len(members), "")


@dataclass(frozen=True)
class Compared:
    """Both branches on grayscale images.

    Parameters
    ----------
    real
        (n,) bool: no simulated picture.
    f1, quality
        (2, n): of the watershed branch, and of Omnipose.
    """

    real: NDArray[np.bool_]
    f1: NDArray[np.float64]
    quality: NDArray[np.float64]

    def omnipose(self, lowest: float, margin: float) -> NDArray[np.bool_]:
        """(n,): where the quality estimator takes Omnipose with these thresholds."""
        taken = [choose_branch(awf, omni, lowest=lowest, margin=margin) == "omnipose" for awf, omni in self.quality.T]
        return np.array(taken, bool)

    def cross_fitted(self) -> NDArray[np.bool_]:
        """(n,): the same with thresholds that were fitted on the other images: every second one on those between."""
        taken, odd = np.empty(len(self.real), bool), np.arange(len(self.real)) % 2 == 1
        for part in (odd, ~odd):
            taken[part] = self.omnipose(*fit_thresholds(self.f1[:, ~part], self.quality[:, ~part]))[part]
        return taken

    def chosen_f1(self, omnipose: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(n,): F1 of the branch that was taken."""
        return np.where(omnipose, self.f1[1], self.f1[0])

    def right(self, omnipose: NDArray[np.bool_], close: float) -> NDArray[np.bool_]:
        """(n,): where the better branch was taken, or both are equally good."""
        better = np.where(omnipose, self.f1[1] - self.f1[0], self.f1[0] - self.f1[1])
        return better > -close


@cache
def compared() -> Compared:
    """Validation images, and simulated pictures of all held-out kinds, that the system takes for grayscale ones."""
    model = system()
    members = [e for e in free_examples("val") if median_diameter(e.labels)]
    n_real = len(members)
    for name, recipe in (held_out() | long_cells()).items():
        members += simulated(name, recipe)
    real = np.arange(len(members)) < n_real
    gray = np.array([modality(e.image) == "grayscale" for e in members])
    return Compared(real[gray], *judge_branches(model, [members[k] for k in np.flatnonzero(gray)]))


@cache
def fitted_system() -> CellSegmenter:
    """The system with thresholds of the quality estimator that were fitted on all images of `compared`."""
    lowest, margin = fit_thresholds(compared().f1, compared().quality)
    return replace(system(), lowest=lowest, margin=margin)


def quality_estimator() -> Iterator[Row]:
    """Table 8: quality of both branches where each is better; whether the estimator picks the better one."""
    found = compared()
    row = {"data": described(found), "split": "val", "seed": SEED}
    better = found.f1[1] > found.f1[0]
    for k, (branch, papers) in enumerate(PAPER_QUALITY.items()):
        for title, where, paper in zip(PAPER_QUALITY, (~better, better), papers, strict=True):
            name = f"mean quality of {branch} on images where {title} is better"
            against = f"paper: {paper}; {np.count_nonzero(where)} images"
            yield Row(name, _mean(found.quality[k][where]), "", against, **row)
    fitted = f"thresholds fitted on the other half of the images (on all: {thresholds(found)})"
    yield from choices(found, "estimator", found.cross_fitted(), fitted, row, wanted=True)
    yield from choices(found, "estimator, the paper's thresholds", found.omnipose(LOWEST, MARGIN), "", row)


def thresholds(found: Compared) -> str:
    lowest, margin = fit_thresholds(found.f1, found.quality)
    return f"{lowest:g} and {margin:g}"


def choices(
    found: Compared, title: str, omnipose: NDArray[np.bool_], how: str, row: dict[str, object], *, wanted: bool = False
) -> Iterator[Row]:
    """How good the choices of an estimator are."""
    better, how = found.f1[1] > found.f1[0], f"; {how}" if how else ""
    differ = np.abs(found.f1[1] - found.f1[0]) > CLOSE
    name = f"{title}: better branch taken, share of images"
    for part, some in (("", differ), (", real ones", differ & found.real), (", simulated ones", differ & ~found.real)):
        always = max(_mean(better[some]), 1 - _mean(better[some]))
        against = (
            f"{np.count_nonzero(some)} images whose branches differ by over {CLOSE:g} F1; Omnipose taken in "
            f"{_mean(omnipose[some]):.2f}, better in {_mean(better[some]):.2f} of them; always the same branch: "
            f"{always:.3f}{how}"
        )
        least = 0.8 if wanted and not part else None
        yield Row(f"{name}{part}", _mean(found.right(omnipose, 0)[some]), "", against, at_least=least, **row)  # type: ignore[arg-type]
    for part, close in (("like ones count as right", CLOSE), ("the smallest difference counts", 0.0)):
        value = _mean(found.right(omnipose, close))
        yield Row(f"{name}, all of them, {part}", value, "", trained_for(), **row)  # type: ignore[arg-type]
    mean = float(found.chosen_f1(omnipose).mean())
    ideal = float(found.f1.max(axis=0).mean())
    yield Row(f"{title}: mean F1@0.5", mean, "", f"always the better branch: {ideal:.3f}{how}", **row)  # type: ignore[arg-type]
    for k, branch in enumerate(PAPER_QUALITY):
        always = float(found.f1[k].mean())
        name, against = f"{title} less always {branch}: mean F1@0.5", f"always {branch}: {always:.3f}"
        yield Row(name, mean - always, "", against, at_least=ABOVE if wanted else None, **row)  # type: ignore[arg-type]


def quality_thresholds() -> Iterator[Row]:
    """How much depends on the two thresholds of the quality estimator: mean F1 with others."""
    found = compared()
    row = {"data": described(found), "split": "val", "seed": SEED}
    for lowest, margin in [(v, MARGIN) for v in LOWESTS] + [(LOWEST, v) for v in MARGINS]:
        omnipose = found.omnipose(lowest, margin)
        against = f"paper: {LOWEST:g} and {MARGIN:g}; Omnipose taken in {omnipose.mean():.2f} of the images"
        f1 = float(found.chosen_f1(omnipose).mean())
        yield Row(f"estimator with {lowest:g} and {margin:g}: mean F1@0.5", f1, "", against, **row)


def trained_for() -> str:
    """What the system was trained with, and how long."""
    parts = []
    for name, branch in system().branches.items():
        first = TRAININGS[name].settings
        crops = f"{first['batch_size']} x {first['crop']} px"
        parts.append(f"{name} {TRAININGS[name].steps} steps of {crops}, {branch.card['Training time']}")
    return "; ".join(parts)


def described(found: Compared) -> str:
    return f"{np.count_nonzero(found.real)} real grayscale images, {np.count_nonzero(~found.real)} simulated"


def _mean(values: NDArray[np.bool_] | NDArray[np.float64]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def modalities() -> Iterator[Row]:
    """The whole system on every test split, then on validation images and simulated pictures; by what images show."""
    model = fitted_system()
    everything = [e for members in outlined("test").values() for e in members]
    for kind in MODALITIES:
        if some := [e for e in everything if modality(e.image) == kind]:
            row = {"data": f"{len(some)} images that the analyser takes for {kind}", "split": "test"}
            yield _beside_embedded(model, f"all taken for {kind}", some, "", row)
    for split in ("test", "val"):
        for name, members in outlined(split).items():
            for shown in dict.fromkeys(showing(name, e) for e in members):
                some = [e for e in members if showing(name, e) == shown]
                yield _beside_embedded(model, f"{name}, {shown}", some, shown, {"data": name, "split": split})
    for name, recipe in (held_out() | long_cells()).items():
        members = simulated(name, recipe)
        row = {"data": f"{len(members)} simulated pictures", "seed": SEED}
        yield _beside_embedded(model, f"simulated, {name}", members, "", row)
    yield from counts(model)


def outlined(split: str) -> dict[str, list[Example]]:
    """The images of a split of all sets with outlines, whatever their licence, by set; groups tell kinds."""
    free: dict[str, list[Example]] = {}
    for example in free_examples(split):
        free.setdefault(example.group.partition("/")[0], []).append(example)
    others = {} if split == "val" else {"dense_tcell_if": _examples("dense_tcell_if", split)}
    return free | others


def showing(name: str, example: Example) -> str:
    """Fluorescence, brightfield (stained) or grayscale, by what is known of the image or its set."""
    kind = example.group.partition("/")[2]
    words = kind or str(json.loads((DATA / name / "META.json").read_text(encoding="utf-8"))["modality"])
    return shows(words)


def _beside_embedded(
    model: CellSegmenter, name: str, members: Sequence[Example], shown: str, row: dict[str, object]
) -> Row:
    """Mean F1 of the system, and of the embedded model with sizes unknown."""
    found = list(_found(model, members))
    f1 = np.array([match(e.labels, labels, 0.5).f1 for e, (labels, _) in zip(members, found, strict=True)])
    other = f1_of("default", members)
    branches = ", ".join(f"{branch} {n}" for branch, n in Counter(branch for _, branch in found).items())
    against = (
        f"the embedded model: {other.mean():.3f} (median {np.median(other):.3f}); {len(members)} images, median "
        f"{np.median(f1):.3f}; branches: {branches}"
    )
    if shown and row.get("split") == "test":
        against += f"; paper, {shown}: {PAPER_F1[shown]}"
    elif row.get("split") == "val":
        against += "; thresholds of the estimator, and the embedded model's epoch, were chosen on them"
    return Row(f"{name}: mean F1@0.5", float(f1.mean()), "", against, **row)  # type: ignore[arg-type]


def counts(model: CellSegmenter) -> Iterator[Row]:
    """Error of the number of cells where only points are annotated."""
    with (DATA / "splits.csv").open(newline="", encoding="utf-8") as stream:
        stems = [r["stem"] for r in csv.DictReader(stream) if (r["dataset"], r["split"]) == ("vgg_points", "test")]
    files = {file.stem: file for file in (DATA / "vgg_points" / "images").iterdir()}
    errors: dict[str, list[float]] = {"system": [], "default": []}
    for stem in stems:
        with (DATA / "vgg_points" / "points" / f"{stem}.csv").open(newline="", encoding="utf-8") as stream:
            true = sum(1 for _ in csv.DictReader(stream))
        image: Image = read_image(files[stem])
        for name, one in (("system", model), ("default", load_model("default"))):
            errors[name].append(abs(segment(image, one).count - true) / true)
    ours, other = (100 * statistics.mean(errors[name]) for name in errors)
    against = f"the embedded model: {other:.1f} %; annotated points"
    yield Row("VGG synthetic cells: mean error of the count", ours, "%", against, data="vgg_points", split="test")


def analyser() -> Iterator[Row]:
    """How many images of all sets the modality analyser puts into the expected class; python _modality.py shows all."""
    table = confusion(DATA)
    data = "all images of all sets"
    note = "an image of one channel is grayscale whatever it shows; thresholds were set while looking at some of these"
    yield Row("modality analyser: share of images in the expected class", accuracy(table), "", note, data=data)
    for kind in MODALITIES:
        counts = [found for (_, _, expected), found in table.items() if expected == kind]
        n, right = sum(c.total() for c in counts), sum(c[kind] for c in counts)
        yield Row(f"modality analyser, {kind}: share of images", right / n, "", f"{right} of {n}", data=data)


MEASURES: record.Measures = {
    f.__name__: f
    for f in (
        watershed_kernel,
        decode,
        tilted_cells,
        flows_of_long_cells,
        flows_after_training,
        analyser,
        ablation,
        quality_estimator,
        quality_thresholds,
        modalities,
    )
}
