"""The figures of the first release: the same numbers as the peer, faster, in bounded memory; accuracy on open data.

"The peer" is cellpose 3.1.1.3 in an environment of its own (`peer.py`), run on the same machine right before or after
our code. Ratios compare medians of several runs. `scripts/bench foundation` runs all; names of figures run only those.
"""

from __future__ import annotations

import csv
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cellweave import evaluate, read_image, segment
from cellweave.core.labels import Labels, median_diameter
from cellweave.io import read_labels
from cellweave.metrics import Match, match
from cellweave.metrics.matching import match_overlap
from cellweave.metrics.overlap import overlap
from cellweave.models import load_model
from cellweave.nets import CellposeUNet, FastUNet
from cellweave.representations import DiffusionFlows
from cellweave.representations.diffusion_flows import diffusion_flows
from peer import REPOSITORY, run_peer
from record import Row

sys.path.insert(0, str(REPOSITORY / "scripts" / "peer"))
from seeded import seeded_image, seeded_weights

DATA = REPOSITORY.parent / "shared" / "data"
SEED = 0
DIAMETER = 27.0
MADE = "cells drawn by benchmarks/foundation.py"


def drawn_cells(side: int, spacing: int = 37, seed: int = SEED) -> Labels:
    """Ellipses on a jittered grid, many of them touching: (side, side), about (side / spacing) ** 2 cells."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((side, side), np.int32)
    rows, columns = np.mgrid[:side, :side]
    n = side // spacing
    for k in range(n * n):
        y, x = (np.array(divmod(k, n)) + 0.5) * spacing + rng.uniform(-2, 2, 2)
        a, b = rng.uniform(0.3, 0.5, 2) * spacing
        window = np.s_[max(0, int(y) - spacing) : int(y) + spacing, max(0, int(x) - spacing) : int(x) + spacing]
        inside = ((rows[window] - y) / a) ** 2 + ((columns[window] - x) / b) ** 2 <= 1
        labels[window][inside] = k + 1
    return labels


def drawn_image(labels: Labels, seed: int = SEED) -> NDArray[np.uint16]:
    """A fluorescence picture of labels: cells apart by a dark line, blurred, with noise."""
    apart = labels > 0
    apart[:, 1:] &= labels[:, 1:] == labels[:, :-1]
    apart[1:] &= labels[1:] == labels[:-1]
    light = 200 + 3000 * gaussian_filter(apart.astype(np.float32), 1.5)
    light += np.random.default_rng(seed).normal(0, 60, labels.shape).astype(np.float32)
    return light.clip(0, 65535).astype(np.uint16)


def noisy_maps(labels: Labels, seed: int = SEED) -> NDArray[np.float32]:
    """Maps like a net's: exact ones blurred a little, with smooth noise in the flows."""
    maps = DiffusionFlows().encode(labels)
    rng = np.random.default_rng(seed)
    for k in (0, 1):
        noise = gaussian_filter(rng.normal(size=labels.shape).astype(np.float32), 3) * 3
        maps[k] = gaussian_filter(maps[k], 1) + noise * (maps[2] > 0)
    maps[2] = 0.02 + 0.96 * maps[2]
    return maps


def seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """Median of several runs after one that does not count."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def maps_equal() -> Iterator[Row]:
    """The same weights give the same maps."""
    x = seeded_image((2, 2, 224, 224), SEED)
    theirs = run_peer("net_maps", repeats=1, x=x, weights_seed=SEED)
    with tempfile.TemporaryDirectory() as folder:
        net = load_model(_peer_weights(Path(folder))).net
    with torch.inference_mode():
        ours = net(torch.from_numpy(x)).maps.numpy()
    difference = float(np.abs(ours - theirs["maps"]).max())
    yield Row(
        "maps with the same weights, float32: largest difference", difference, "", "cellpose 3.1.1.3", at_most=1e-4
    )


def _peer_weights(folder: Path) -> Path:
    """A Cellpose state dict with the seeded weights that the peer's side uses."""
    from cellweave.models.cellpose_weights import _peer_name

    net = CellposeUNet()
    shapes = {_peer_name(name): tuple(value.shape) for name, value in net.state_dict().items()}
    shapes |= {"diam_mean": (1,), "diam_labels": (1,)}
    file = folder / "seeded"
    torch.save({k: torch.from_numpy(v) for k, v in seeded_weights(shapes, SEED).items()}, file)
    return file


def encode_speed() -> Iterator[Row]:
    """Flows from labels."""
    labels = drawn_cells(2048)
    theirs = run_peer("labels_to_flows", repeats=3, labels=labels)
    ours = seconds(lambda: diffusion_flows(labels))
    against = f"dynamics.labels_to_flows, {theirs['seconds_median']:.2f} s to {ours:.3f} s"
    yield Row(
        "encode, 2048 x 2048, 3,025 cells: times faster", theirs["seconds_median"] / ours, "x", against, at_least=10
    )


def decode_speed() -> Iterator[Row]:
    """Labels from maps, with the flow check; and the same objects."""
    labels = drawn_cells(2048)
    maps = noisy_maps(labels)
    logits = np.log(maps[2] / (1 - maps[2]))
    theirs = run_peer("compute_masks", repeats=3, flows=5 * maps[:2], cellprob=logits)
    decoder = DiffusionFlows(check_border=True)
    ours = seconds(lambda: decoder.decode(maps))
    against = f"resize_and_compute_masks, {theirs['seconds_median']:.2f} s to {ours:.3f} s"
    ratio = theirs["seconds_median"] / ours
    yield Row("decode with flow check, 2048 x 2048, 3,025 cells: times faster", ratio, "x", against, at_least=15)
    same = match(theirs["masks"].astype(np.int32), decoder.decode(maps), iou=0.9).f1
    yield Row("decode: F1@0.9 of ours against the peer's", same, "", "resize_and_compute_masks", at_least=0.99)


def average_precision_speed() -> Iterator[Row]:
    """AP at three thresholds, as the peer computes it."""
    truth = drawn_cells(4096)
    predicted = np.roll(truth, (2, 3), axis=(0, 1))
    n = len(np.unique(truth)) - 1
    theirs = run_peer("average_precision", repeats=1, truth=truth, predicted=predicted)
    thresholds = (0.5, 0.75, 0.9)

    def matches() -> list[Match]:  # one overlap for all thresholds, as the peer has it
        shared = overlap(truth, predicted)
        return [match_overlap(shared, t) for t in thresholds]

    ours = seconds(matches)
    equal = [m.tp for m in matches()] == theirs["tp"].ravel().astype(int).tolist()
    against = (
        f"metrics.average_precision, {theirs['seconds_median']:.1f} s to {ours:.3f} s; same true positives: {equal}"
    )
    yield Row(f"AP of {n:,} objects: times faster", theirs["seconds_median"] / ours, "x", against, at_least=50)


def segment_speed() -> Iterator[Row]:
    """A whole 1024 x 1024 image with a given diameter."""
    image = drawn_image(drawn_cells(1024))
    theirs = run_peer("segment", repeats=3, image=image, diameter=DIAMETER, weights_seed=SEED)
    model = load_model("default")
    ours = seconds(lambda: segment(image, model, diameter=DIAMETER, device="cpu"))
    ratio = theirs["seconds_median"] / ours
    against = f"CellposeModel.eval, CPnet with random weights, {theirs['seconds_median']:.1f} s to {ours:.2f} s"
    yield Row("segment, 1024 x 1024, diameter given: times faster", ratio, "x", against, at_least=8)
    net = theirs["net_seconds_median"] / ours
    against = f"run_net alone, {theirs['net_seconds_median']:.1f} s to {ours:.2f} s of our whole segment"
    yield Row("segment, 1024 x 1024: times faster than the peer's net alone", net, "x", against)
    unknown = seconds(lambda: segment(image, model, device="cpu"))
    yield Row(
        "segment, 1024 x 1024, diameter unknown: time over diameter given", unknown / ours, "x", "our own, same run"
    )
    yield Row(
        "operations a pixel: FastUNet under CellposeUNet",
        _operations(CellposeUNet()) / _operations(FastUNet()),
        "x",
        "multiply-adds of convolutions",
        at_least=5,
    )


def _operations(net: torch.nn.Module) -> float:
    total = 0.0

    def count(module: torch.nn.Module, _: Any, out: torch.Tensor) -> None:
        nonlocal total
        total += out.numel() * module.weight[0].numel()  # type: ignore[operator,index]

    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    with torch.inference_mode():
        net.eval()(torch.zeros(1, 2, 224, 224))
    return total / 224**2


def memory() -> Iterator[Row]:
    """Peak memory of a process that segments an 8192 x 8192 uint16 image, Python and torch included."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "large.npy"
        tile = drawn_image(drawn_cells(2048))
        np.save(file, np.tile(tile, (4, 4)))
        command = [sys.executable, __file__, str(file)]
        peak, cells, took = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    against = f"{int(cells):,} cells in {float(took):.0f} s"
    yield Row("segment, 8192 x 8192 uint16: peak memory", float(peak), "GiB", against, at_most=4)


def _segment_large(file: str) -> None:
    start = time.perf_counter()
    result = segment(read_image(file), "default", diameter=DIAMETER)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(peak, result.count, time.perf_counter() - start)


def _split(dataset: str, split: str) -> list[tuple[str, Path, Path]]:
    with (DATA / "splits.csv").open(newline="") as stream:
        stems = [r["stem"] for r in csv.DictReader(stream) if r["dataset"] == dataset and r["split"] == split]
    folders = DATA / dataset / "images", DATA / dataset / "labels"
    return [(s, *(next(p for p in f.iterdir() if p.stem == s) for f in folders)) for s in stems]


def _predictions(dataset: str, split: str, known: bool) -> tuple[list[Labels], list[Labels]]:
    model = load_model("default")
    truth, found = [], []
    for _, image, labels in _split(dataset, split):
        true = read_labels(labels)
        truth.append(true)
        diameter = median_diameter(true) or None if known else None
        found.append(segment(read_image(image), model, diameter=diameter).labels)
    return truth, found


def accuracy_stardist_test() -> Iterator[Row]:
    """The 50 test images of StarDist's split of DSB2018. AP is the mean over images, as StarDist's Table 1 has it."""
    for known in (False, True):
        truth, found = _predictions("dsb2018_stardist_test", "test", known)
        result = evaluate(truth, found, thresholds=(0.5, 0.75, 0.9))
        way = "diameter given" if known else "diameter unknown"
        row = {"data": "dsb2018_stardist_test", "split": "test"}
        wanted = None if known else 0.85
        ap = float(result.mean["ap@0.5"])  # type: ignore[arg-type]
        yield Row(
            f"DSB2018 (StarDist's split), {way}: AP@0.5", ap, "", "StarDist's paper: 0.864", at_least=wanted, **row
        )
        pooled = result.total.at(0.5)
        yield Row(f"DSB2018 (StarDist's split), {way}: AP@0.5, pooled", pooled.average_precision, **row)
        yield Row(f"DSB2018 (StarDist's split), {way}: F1@0.5, pooled", pooled.f1, **row)
        ap = float(result.mean["ap@0.75"])  # type: ignore[arg-type]
        yield Row(f"DSB2018 (StarDist's split), {way}: AP@0.75", ap, "", "", **row)


def accuracy_other_tests() -> Iterator[Row]:
    """Every other test split, whatever it says. None of these kinds was trained on."""
    truth, found = _predictions("dense_tcell_if", "test", known=False)
    total = evaluate(truth, found, thresholds=(0.5, 0.75)).total
    row = {"data": "dense_tcell_if", "split": "test"}
    note = "such cells were not trained on; of those found, only marker-positive ones are labelled"
    yield Row("dense T cells (membrane, DAPI): F1@0.5", total.at(0.5).f1, "", note, **row)
    yield Row("dense T cells (membrane, DAPI): AP@0.5, pooled", total.at(0.5).average_precision, "", note, **row)
    model = load_model("default")
    with (DATA / "splits.csv").open(newline="") as stream:
        stems = [r["stem"] for r in csv.DictReader(stream) if (r["dataset"], r["split"]) == ("vgg_points", "test")]
    errors = []
    for stem in stems:
        image = next(p for p in (DATA / "vgg_points" / "images").iterdir() if p.stem == stem)
        with (DATA / "vgg_points" / "points" / f"{stem}.csv").open(newline="") as stream:
            true = sum(1 for _ in csv.DictReader(stream))
        errors.append(abs(segment(read_image(image), model).count - true) / true)
    row = {"data": "vgg_points", "split": "test"}
    yield Row(
        "VGG synthetic cells: mean error of the count", 100 * float(np.mean(errors)), "%", "annotated points", **row
    )


def accuracy_validation() -> Iterator[Row]:
    """The validation splits of the sets trained on; the best epoch was chosen on them."""
    for dataset in ("dsb2018", "bbbc039", "bitdepth_nucseg", "usiigaci_phase"):
        truth, found = _predictions(dataset, "val", known=False)
        total = evaluate(truth, found, thresholds=(0.5, 0.75)).total
        row = {"data": dataset, "split": "val"}
        yield Row(
            f"{dataset}, validation, diameter unknown: F1@0.5", total.at(0.5).f1, "", "epoch chosen on these", **row
        )


MEASURES: dict[str, Callable[[], Iterator[Row]]] = {
    f.__name__: f
    for f in (
        maps_equal,
        encode_speed,
        decode_speed,
        average_precision_speed,
        segment_speed,
        memory,
        accuracy_stardist_test,
        accuracy_other_tests,
        accuracy_validation,
    )
}

if __name__ == "__main__":
    _segment_large(sys.argv[1])
