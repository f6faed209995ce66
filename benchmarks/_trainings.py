"""The trainings of the papers' experiments: one command each, resumable, found done when they are done.

    python benchmarks/_trainings.py --list
    python benchmarks/_trainings.py NAME... [--device cuda]
    python benchmarks/_trainings.py --all

`cellpose_benchmark` and `ablation` make those they need and do not find. A run is in runs/papers/NAME; the same command
goes on where it was stopped. To make one again, remove its folder, and those of the trainings that start from it.

All train a FastUNet on the `train` split of the sets whose weights may be given away, without simulated images. No
image is held out and no epoch chosen on `val`, so that `val` tells of images that had no part in the training.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from _runs import command_line, is_done
from cellweave.core.device import choose_device
from cellweave.core.files import write_atomically
from cellweave.core.image import Image
from cellweave.core.labels import median_diameter
from cellweave.core.progress import report
from cellweave.models import Segmenter, load_model
from cellweave.predict.maps import Planes, Runner
from cellweave.prep import Resampling
from cellweave.train import Example, TrainConfig, train
from cellweave.train.api import MODEL
from cellweave.train.loop import CHECKPOINT, FEWEST_STEPS
from record import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "scripts"))
from _train_default import examples, free_sets

DATA = REPOSITORY.parent / "shared" / "data"
RUNS = REPOSITORY / "runs" / "papers"
SEED = 0
CLUSTERS = 10
STYLE_SIDE = 512

T = TypeVar("T")
Styles = NDArray[np.float32]


@dataclass(frozen=True)
class Training:
    """One model of the experiments.

    Parameters
    ----------
    select
        Its images, out of all training images.
    steps
        Batches to learn from, about: whole epochs are made.
    base
        Name of the training that it starts from; empty: from scratch.
    settings
        Of `TrainConfig`, besides.
    seconds
        Of a step on two processor cores, about; for the list only.
    """

    select: Callable[[Sequence[Example]], list[Example]]
    steps: int
    base: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.3


def evenly(items: Sequence[T], n: int) -> list[T]:
    """At most `n` of the items, evenly spread over their order."""
    places = np.linspace(0, len(items) - 1, min(n, len(items))).round().astype(int)
    return [items[k] for k in places]


def of_each_kind(members: Sequence[Example], n: int) -> list[Example]:
    """At most `n` images of each kind (`Example.group`), evenly spread."""
    kinds = dict.fromkeys(e.group for e in members)
    return [e for kind in kinds for e in evenly([e for e in members if e.group == kind], n)]


def is_fluorescence(example: Example) -> bool:
    """Whether it shows the specialist's kind of image: the fluorescent nuclei of dsb2018."""
    return example.group.startswith("dsb2018/fluo")


def one_kind(members: Sequence[Example]) -> list[Example]:
    """100 images of one kind, as the paper's specialist had.

    The paper's were cultured neurons with a fluorescent stain, of the CellImageLibrary, which may not be used here. Of
    the open sets, dsb2018's fluorescent nuclei are the nearest: one stain, several laboratories, enough images, and
    test images of their own on which StarDist's figures are published.
    """
    return evenly([e for e in members if is_fluorescence(e)], 100)


def all_kinds(members: Sequence[Example]) -> list[Example]:
    """At most 60 images of each kind of every set: more would be of two kinds only."""
    return of_each_kind(members, 60)


def one_cluster(members: Sequence[Example], k: int) -> list[Example]:
    """The images of style cluster `k`."""
    return [e for e, cluster in zip(all_kinds(members), style_clusters()[1], strict=True) if cluster == k]


STAR = {"representation": "StarConvex"}
TRAININGS = {
    "specialist": Training(one_kind, 1500),
    "specialist_star": Training(one_kind, 1500, settings=STAR, seconds=0.7),
    "generalist": Training(all_kinds, 1500),
    "generalist_star": Training(all_kinds, 1500, settings=STAR, seconds=0.7),
    "fine_tuned": Training(all_kinds, 1000, "specialist"),
    "fine_tuned_merged": Training(all_kinds, 1000, "specialist", {"channels": "merged"}),
    # As many steps with about as many pixels: 2 crops of 512 px for 8 of 224 px.
    "fine_tuned_512": Training(all_kinds, 1000, "specialist", {"crop": 512, "batch_size": 2}),
    # As many steps for all clusters together.
    **{f"cluster_{k}": Training(partial(one_cluster, k=k), 1000 // CLUSTERS, "specialist") for k in range(CLUSTERS)},
}


@cache
def free_examples(split: str) -> tuple[Example, ...]:
    """The images of a split, of all sets whose weights may be given away; read once."""
    return tuple(examples(DATA, free_sets(DATA), split))


def trained(name: str, device: str = "auto") -> Segmenter:
    """The model of a training; made now where it is not there yet, after the one that it starts from."""
    folder = RUNS / name
    if not is_done(folder):
        print(f"training {name}", flush=True)
        training = TRAININGS[name]
        base = training.base or None
        if base:
            trained(base, device)
            base = str(RUNS / base / MODEL)
        chosen = training.select(free_examples("train"))
        batches = max(FEWEST_STEPS, len(chosen) // training.settings.get("batch_size", TrainConfig.batch_size))
        config = TrainConfig(
            folder,
            base=base,
            epochs=max(1, round(training.steps / batches)),
            validation=0.0,
            seed=SEED,
            device=device,
            **training.settings,
        )
        train(chosen, config, resume=(folder / CHECKPOINT).is_file())
        shutil.rmtree(folder / "cache", ignore_errors=True)
    return load_model(folder / MODEL)


def style_clusters() -> tuple[Styles, NDArray[np.int32]]:
    """Centroids (10, S) of the style vectors of `all_kinds` of images, and the cluster (N,) of each image.

    The styles are the base model's, with the images at its training diameter, so that clusters are of modalities and
    not of sizes. They are kept beside the runs.
    """
    file = RUNS / "style_clusters.npz"
    if not file.is_file():
        base, members = trained("specialist"), all_kinds(free_examples("train"))
        styles = []
        for k, example in enumerate(members):
            report("style vectors", k, len(members), example.name)
            styles.append(style(base, example.image, median_diameter(example.labels) or base.diameter))
        report("style vectors", len(members), len(members), "")
        centroids, clusters = cluster(np.array(styles), CLUSTERS)
        write_atomically(file, lambda path: _save(path, centroids=centroids, clusters=clusters))
    with np.load(file) as found:
        return found["centroids"], found["clusters"]


def _save(path: Path, **arrays: NDArray[Any]) -> None:
    with path.open("wb") as stream:
        np.savez(stream, **arrays)


def style(model: Segmenter, image: Image, diameter: float) -> Styles:
    """Style vector (S,) of the middle of an image, resized to the training diameter."""
    planes = Planes(image, model, None)
    zoom = min(4.0, model.diameter / diameter)
    axes = [Resampling(n, max(1, round(n * zoom))) for n in (planes.height, planes.width)]
    middles = [slice(max(0, (a.n_out - STYLE_SIDE) // 2), (a.n_out + STYLE_SIDE + 1) // 2) for a in axes]
    middles = [slice(m.start, min(m.stop, a.n_out)) for m, a in zip(middles, axes, strict=True)]
    window = planes.read(*axes, *middles)
    return Runner(model, choose_device("auto"), augment=False).styles(window[None])[0]


def cluster(styles: Styles, n: int) -> tuple[Styles, NDArray[np.int32]]:
    """k-means: centroids (n, S), and the cluster (N,) of each style; no cluster is empty."""
    centroids, clusters = kmeans2(styles.astype(np.float64), n, iter=50, minit="++", missing="raise", seed=SEED)
    return centroids.astype(np.float32), clusters.astype(np.int32)


def nearest(one: Styles, centroids: Styles) -> int:
    """The cluster of a style vector (S,)."""
    return int(np.argmin(((centroids - one) ** 2).sum(axis=1)))


if __name__ == "__main__":
    command_line("_trainings.py", TRAININGS, RUNS, trained)
