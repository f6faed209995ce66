"""The trainings of the benchmark `points`: one command each, resumable, found done when they are done.

    python benchmarks/_point_trainings.py --list
    python benchmarks/_point_trainings.py NAME... [--device cuda]
    python benchmarks/_point_trainings.py --all

The benchmark makes those it needs and does not find. A run is in runs/points/NAME; the same command goes on where it
was stopped. One whose steps or settings were changed here is made again. All of them together take about four hours
on two processor cores; the first in the list matter most.

Heatmaps of point sets, NAME = set-N-draw: N images to learn from and N others to choose the epoch by, as Cohen et al.
2017 (*Count-ception*) draw them; of VGG both out of the pool, of the others out of all images, the rest of which are
for the test.

Phase contrast, NAME = phase-KIND-H: without the annotated image H. KIND is ``heatmap``, ``nested`` (the net that the
thesis names), ``flows`` and ``star`` (fine-tuned on pseudo-masks from the points), or ``detect`` (Mask R-CNN on fixed
boxes). No epoch is chosen, as there is no image left to choose by: the last one is taken.

star-generalist is StarDist's representation as it comes: learned from the other sets whose weights may be given away.

Short trainings, all of as many steps, to be compared with each other only: vgg-curve-N, of N images and as many others
to choose the epoch by; phase-clicks-N, of N clicks on two images; vgg-sigma-S and phase-sigma-S, with another sigma
than the others have; and vgg-nested, of about as many minutes.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from _runs import begins, command_line
from _trainings import DATA, all_kinds, free_examples
from cellweave.core.image import Image
from cellweave.core.labels import median_diameter
from cellweave.core.points import Annotation, Points
from cellweave.io import read_annotations, read_image, read_points
from cellweave.models import Segmenter, load_segmenter
from cellweave.prep.foreground import foreground
from cellweave.representations import Heatmap, known_region
from cellweave.train import Example, TrainConfig
from cellweave.train.api import MODEL
from cellweave.train.loop import CHECKPOINT, FEWEST_STEPS
from cellweave.train.pseudo_masks import masks_from_points
from cellweave.train.self_training import run_stage
from record import REPOSITORY

if TYPE_CHECKING:
    from cellweave.predict.mask_rcnn import Detector

RUNS = REPOSITORY / "runs" / "points"
SEED = 5050
PHASE = ("1", "2", "4")
"""The annotated images of the phase-contrast set."""
DRAWS = {"vgg": 5, "mbm": 3, "adi": 3}
IMAGES = {"vgg": 32, "mbm": 15, "adi": 50}
CURVE = (2, 8, 32)
"""Images of VGG to learn from, of the learning curve."""
CLICKS = (25, 100, 400)
EVERY_CLICK = "phase-clicks-all"
ONE = "4"
"""The phase-contrast image that the learning curve of clicks and the sweep of sigma are tested on."""
SIGMAS = (3.0, 4.0, 5.0, 6.0, 7.0)
"""The thesis' sweep, in px."""

Mask = NDArray[np.bool_]
Split = tuple[list[Example], list[Example]]


@dataclass(frozen=True)
class Training:
    """One model of the experiments.

    Parameters
    ----------
    images
        Gives those to learn from, and those to choose the epoch by.
    steps
        Batches to learn from, about: whole epochs are made.
    seconds
        Of a step on two processor cores, about; for the list only.
    settings
        Of `TrainConfig`, besides.
    learned
        Number of images to learn from.
    detector
        A Mask R-CNN, which has settings of its own.
    """

    images: Callable[[], Split]
    steps: int
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)
    learned: int = len(PHASE) - 1
    detector: bool = False

    @property
    def plan(self) -> dict[str, Any]:
        """What decides the result; where it was another, a run is made again."""
        base = {"base": hash_of(self.settings["base"])} if "base" in self.settings else {}
        return {"steps": self.steps, "seed": SEED, "images": self.learned, **self.settings, **base}


@cache
def hash_of(model: str) -> str:
    return load_segmenter(model).hash


def drawn(name: str, n: int, draw: int) -> tuple[list[str], list[str], list[str]]:
    """Images of a set to learn from, to choose the epoch by, and to test on, by their stems."""
    with (DATA / "splits.csv").open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["dataset"] == f"{name}_points"]
    pool = sorted(row["stem"] for row in rows if row["split"] != "test")
    fixed = sorted(row["stem"] for row in rows if row["split"] == "test")
    order = [pool[k] for k in np.random.default_rng([SEED, draw]).permutation(len(pool))]
    most = IMAGES[name]
    return order[:n], order[most : most + n], fixed or order[2 * most :]


@cache
def example(name: str, stem: str) -> Example:
    """An image of a set and its points, all of them known."""
    folder = DATA / f"{name}_points"
    image = read_image(next((folder / "images").glob(f"{stem}.*")))
    points = read_points(folder / "points" / f"{stem}.csv", shape=(image.height, image.width))
    return Example(stem, image, points, name)


def some_images(name: str, n: int, draw: int) -> Split:
    """N images to learn from, and others to choose by."""
    learned, chosen_by, _ = drawn(name, n, draw)
    return [example(name, stem) for stem in learned], [example(name, stem) for stem in chosen_by]


def plane_of(image: Image) -> NDArray[np.float32]:
    """(Y, X): the mean of the channels."""
    return np.asarray(image.read(), np.float32).mean(axis=0)


@cache
def phase(stem: str) -> Example:
    """An annotated phase-contrast image. It is known near a click, and where foreground and clicks say background.

    Annotators left out what is too dense to tell cells apart; the foreground tells it from an empty place.
    """
    folder = DATA / "phase_points"
    image = read_image(next((folder / "images").glob(f"{stem}.*")))
    shape = (image.height, image.width)
    marked = marks(stem).points
    points = Points(marked.positions, marked.classes, shape=shape)
    clicks = Points(np.concatenate([points.positions, marks(stem).background_points]))
    known = known_region(clicks, ~foreground(plane_of(image)), shape)
    return Example(stem, image, points, "phase", known=known)


def marks(stem: str) -> Annotation:
    """What was clicked on a phase-contrast image; background on image 1 only."""
    folder = DATA / "phase_points" / "label_studio"
    return read_annotations([folder / f"{name}.json" for name in ("points2", "background")])[stem]


def others(held_out: str) -> list[str]:
    return [stem for stem in PHASE if stem != held_out]


def without(held_out: str) -> Split:
    """The annotated phase-contrast images but one."""
    return [phase(stem) for stem in others(held_out)], []


def with_masks(held_out: str) -> Split:
    """The same with outlines guessed from the points, and the diameter to resize by."""
    made = [masks_from_points(plane_of(phase(s).image), phase(s).positions) for s in others(held_out)]
    size = float(np.median([median_diameter(one.labels) for one in made]))
    return [
        Example(s, phase(s).image, one.labels, "phase", known=one.known, given=size)
        for s, one in zip(others(held_out), made, strict=True)
    ], []


@cache
def guessed_diameter(held_out: str) -> float:
    """Median diameter in px of the outlines guessed on the other images; the held-out one has no part in it."""
    return with_masks(held_out)[0][0].diameter


def generalists() -> Split:
    """What a general model learns from: images of every kind of the sets whose weights may be given away."""
    return all_kinds(free_examples("train")), []


def clicked(stem: str, n: int) -> Example:
    """An image on which someone clicked the `n` cells around one place, and no other."""
    full = phase(stem)
    points = full.positions
    start = np.random.default_rng([SEED, n, int(stem)]).integers(len(points))
    order = np.argsort(np.hypot(*(points.positions - points.positions[start]).T), kind="stable")
    return Example(stem, full.image, points[order[:n]], "phase", known=known_to(points, order, n, full))


def known_to(points: Points, order: NDArray[np.intp], n: int, full: Example) -> Mask:
    """(Y, X): what the first n clicks tell of: what is near one of them and not nearer to a later one, and the empty
    places around."""
    shape = (full.image.height, full.image.width)
    near = known_region(points[order[:n]], None, shape)
    ours = cKDTree(points.positions).query(np.argwhere(near), workers=-1)[1]
    near[near] = np.isin(ours, order[:n])
    return near | ~foreground(plane_of(full.image))


def with_clicks(held_out: str, n: int) -> Split:
    """`n` clicks in all, on all images but one, as many on each."""
    stems = others(held_out)
    parts = [len(part) for part in np.array_split(np.arange(n), len(stems))]
    return [clicked(stem, part) for stem, part in zip(stems, parts, strict=True)], []


HEATMAP: dict[str, Any] = {"target": "points", "recipe": "adam", "augmentation": "square", "crop": 256, "batch_size": 8}
"""The thesis': crops of 256 px, Adam with steps, quarter turns and flips, brightness and contrast."""
SETS: dict[str, dict[str, Any]] = {
    "vgg": HEATMAP | {"sigma": 2.0, "batch_size": 4, "augmentation": "superposed"},
    "mbm": HEATMAP | {"sigma": 5.0, "crop": 608, "batch_size": 2, "channels": "color"},
    "adi": HEATMAP | {"sigma": 2.5, "crop": 160, "batch_size": 20},
}
"""Crops hold whole images (256, 600 and 150 px a side). On images of VGG's pool that have no other part, batches of 4
were as good in half the time as those of 8, with sums of crops less went uncounted where cells overlap, and in full
trainings of draw 0 the error of the count grew with sigma: 2.3 cells with 2 px, 2.6 with 3, 2.9 with 4, 3.0 with 5. The
stained marrow is seen in all colours: on the images that choose the epoch of draw 0, the error of the count was 5.6
cells, and 8.0 by green and blue only. Other sigmas were set by hand: neighbours are 8.9 (VGG), 27.3 (MBM) and 9.2 px
(ADI) apart in the median, 24 to 31 px in phase contrast."""
STEPS = {"vgg": (4000, 0.21), "mbm": (1000, 0.65), "adi": (1000, 0.42)}
"""And the seconds of each, with its share of the validation."""
SHORT = 352
FINE_TUNED: dict[str, Any] = {"base": "default"}
DETECTOR: dict[str, Any] = {"backbone": "resnet18", "tile": 320}
"""The thesis has ResNet-50 with weights of COCO and a GPU; no weights are at hand here."""
NESTED: dict[str, Any] = {"net": "NestedUNet"}
STARS = FINE_TUNED | {"representation": "StarConvex"}
GENERALIST = "star-generalist"
GENERALISTS = 341
"""Images that it learns from."""


def _planned() -> dict[str, Training]:
    made: dict[str, Training] = {}
    for name, n in IMAGES.items():
        for draw in range(DRAWS[name]):
            made[f"{name}-{n}-{draw}"] = Training(partial(some_images, name, n, draw), *STEPS[name], SETS[name], n)
    made |= {f"phase-heatmap-{stem}": Training(partial(without, stem), 1000, 0.4, HEATMAP) for stem in PHASE}
    for stem in PHASE:
        made[f"phase-nested-{stem}"] = Training(partial(without, stem), 400, 0.65, HEATMAP | NESTED)
        made[f"phase-flows-{stem}"] = Training(partial(with_masks, stem), 400, 0.3, FINE_TUNED)
        made[f"phase-star-{stem}"] = Training(partial(with_masks, stem), 400, 0.3, STARS)
        made[f"phase-detect-{stem}"] = Training(partial(without, stem), 400, 1.2, DETECTOR, detector=True)
    made[GENERALIST] = Training(generalists, 336, 0.7, STARS, GENERALISTS)
    for n in CURVE:
        made[f"vgg-curve-{n}"] = Training(partial(some_images, "vgg", n, 0), SHORT, 0.21, SETS["vgg"], n)
    for n in CLICKS:
        made[f"phase-clicks-{n}"] = Training(partial(with_clicks, ONE, n), SHORT, 0.4, HEATMAP)
    made[EVERY_CLICK] = Training(partial(without, ONE), SHORT, 0.4, HEATMAP)
    most = CURVE[-1]
    for sigma in SIGMAS:
        if sigma != SETS["vgg"]["sigma"]:
            images = partial(some_images, "vgg", most, 0)
            made[f"vgg-sigma-{sigma:g}"] = Training(images, SHORT, 0.21, SETS["vgg"] | {"sigma": sigma}, most)
        if sigma != Heatmap.sigma:
            made[f"phase-sigma-{sigma:g}"] = Training(partial(without, ONE), SHORT, 0.4, HEATMAP | {"sigma": sigma})
    nested = SETS["vgg"] | NESTED
    made["vgg-nested"] = Training(partial(some_images, "vgg", most, 0), 240, 0.7, nested, most)
    return made


def with_sigma(name: str, sigma: float) -> str:
    """The training of the sweep of a set, vgg or phase."""
    other = f"{name}-sigma-{sigma:g}"
    return other if other in TRAININGS else {"vgg": f"vgg-curve-{CURVE[-1]}", "phase": EVERY_CLICK}[name]


TRAININGS = _planned()


def trained(name: str, device: str = "auto") -> Segmenter:
    """The model of a training; made now where it is not there yet."""
    folder, training = RUNS / name, TRAININGS[name]
    if begins(folder, training.plan):
        print(f"training {name}", flush=True)
        learned, chosen_by = training.images()
        run_stage(learned, chosen_by, config_of(name, device), resume=True)
        shutil.rmtree(folder / "cache", ignore_errors=True)
    return load_segmenter(folder / MODEL)


def config_of(name: str, device: str = "auto") -> TrainConfig:
    """The settings of a training: as many epochs as make its steps."""
    training = TRAININGS[name]
    settings = training.settings
    batches = max(FEWEST_STEPS, training.learned // settings.get("batch_size", TrainConfig.batch_size))
    epochs = max(1, round(training.steps / batches))
    return TrainConfig(RUNS / name, epochs=epochs, validation=0.0, seed=SEED, device=device, **settings)


def trained_detector(name: str, device: str = "auto") -> Detector:
    """The same of a Mask R-CNN."""
    from cellweave.predict.mask_rcnn import Detector
    from cellweave.train.mask_rcnn import MaskRCNNConfig, train_mask_rcnn

    folder, training = RUNS / name, TRAININGS[name]
    if begins(folder, training.plan):
        print(f"training {name}", flush=True)
        config = MaskRCNNConfig(folder, steps=training.steps, seed=SEED, device=device, **training.settings)
        train_mask_rcnn(training.images()[0], config, resume=(folder / CHECKPOINT).is_file())
    return Detector.load(folder / MODEL)


def make(name: str, device: str) -> None:
    """The model of a training, of whichever kind."""
    (trained_detector if TRAININGS[name].detector else trained)(name, device)


if __name__ == "__main__":
    command_line("_point_trainings.py", TRAININGS, RUNS, make)
