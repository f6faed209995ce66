"""The peer's side of the benchmarks: run by the peer's interpreter, see `peer.run_peer`.

    python _peer_side.py FUNCTION INPUT.npz OUTPUT.npz REPEATS

The first run, to warm up, is when numba compiles.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cellpose import dynamics, metrics, models, train
from cellpose.resnet_torch import CPnet

from _side import Work, run_side

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts" / "peer"))
from seeded import seeded_weights

CPU = torch.device("cpu")
WIDTHS = [2, 32, 64, 128, 256]


def labels_to_flows(labels: np.ndarray) -> Work:
    """`dynamics.labels_to_flows` of one (Y, X) label image; gives ``flows`` (2, Y, X)."""
    return lambda: {"flows": dynamics.labels_to_flows([labels.copy()], device=CPU)[0][2:]}


def compute_masks(flows: np.ndarray, cellprob: np.ndarray) -> Work:
    """`dynamics.resize_and_compute_masks` with its defaults; flows (2, Y, X) times 5 and logits (Y, X).

    Gives ``masks`` (Y, X).
    """
    return lambda: {"masks": dynamics.resize_and_compute_masks(flows, cellprob, device=CPU)}


def average_precision(truth: np.ndarray, predicted: np.ndarray) -> Work:
    """`metrics.average_precision` at its thresholds 0.5, 0.75, 0.9; gives ``ap``, ``tp``, ``fp``, ``fn``."""
    return lambda: dict(zip(("ap", "tp", "fp", "fn"), metrics.average_precision(truth, predicted), strict=True))


def net_maps(x: np.ndarray, weights_seed: np.ndarray) -> Work:
    """The bare network on (B, 2, Y, X) float32; gives ``maps`` (B, 3, Y, X) and ``style`` (B, 256)."""
    net = CPnet(WIDTHS, nout=3, sz=3)
    with tempfile.TemporaryDirectory() as folder:
        net.load_model(_seeded_model(folder, int(weights_seed)))
    net.eval()

    def work() -> dict[str, Any]:
        with torch.no_grad():
            maps, style = net(torch.from_numpy(x))[:2]
        return {"maps": maps.numpy(), "style": style.numpy()}

    return work


def segment(image: np.ndarray, diameter: np.ndarray, weights_seed: np.ndarray) -> Work:
    """`CellposeModel.eval` of a (Y, X) image, as a user on a CPU calls it, with seeded weights.

    Gives ``masks`` (Y, X), ``net_seconds``: time inside `run_net` (resizing, tiling, network, joining the
    tiles), and ``masks_seconds``: time inside `resize_and_compute_masks`. With random weights the masks mean
    nothing and finding them may take more or less time than with trained ones, so compare `net_seconds` too.
    """
    with tempfile.TemporaryDirectory() as folder:
        model = models.CellposeModel(gpu=False, pretrained_model=_seeded_model(folder, int(weights_seed)))
    clock = {"net_seconds": 0.0, "masks_seconds": 0.0}
    models.run_net = _timed(models.run_net, clock, "net_seconds")
    dynamics.resize_and_compute_masks = _timed(dynamics.resize_and_compute_masks, clock, "masks_seconds")

    def work() -> dict[str, Any]:
        clock.update(dict.fromkeys(clock, 0.0))
        masks = model.eval(image, channels=[0, 0], diameter=float(diameter))[0]
        return {"masks": masks, **clock}

    return work


def train_steps(images: np.ndarray, labels: np.ndarray, weights_seed: np.ndarray) -> Work:
    """The package's own training loop on (N, Y, X) images, with seeded weights; ``step_seconds`` for 8 crops.

    Two lengths are timed and their difference counts, so that what is made once is left out.
    """

    def seconds(folder: str, n: int) -> float:
        model = models.CellposeModel(gpu=False, pretrained_model=_seeded_model(folder, int(weights_seed)))
        data = {"train_data": list(images), "train_labels": list(labels), "channels": [0, 0]}
        start = time.perf_counter()
        train.train_seg(model.net, **data, n_epochs=1, nimg_per_epoch=n, min_train_masks=1, save_path=folder)
        return time.perf_counter() - start

    def work() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            return {"step_seconds": (seconds(folder, 40) - seconds(folder, 8)) / 4}

    return work


def _seeded_model(folder: str, seed: int) -> str:
    """Path of a state dict with seeded weights, saved by Cellpose; its diam_mean is 30, as cyto's."""
    net = CPnet(WIDTHS, nout=3, sz=3)
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    net.load_state_dict({k: torch.from_numpy(v) for k, v in seeded_weights(shapes, seed).items()})
    path = str(Path(folder) / "seeded_cellpose")
    net.save_model(path)
    return path


def _timed(function: Callable[..., Any], clock: dict[str, float], name: str) -> Callable[..., Any]:
    def timed(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            clock[name] += time.perf_counter() - start

    return timed


FUNCTIONS = {f.__name__: f for f in (labels_to_flows, compute_masks, average_precision, net_maps, segment, train_steps)}


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    run_side(
        FUNCTIONS,
        sys.argv[1:],
        threads=torch.get_num_threads,
        versions=lambda: f"cellpose {version('cellpose')}, torch {torch.__version__}",
    )
