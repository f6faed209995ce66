"""Omnipose's side of the benchmarks: run by the interpreter of its environment, see `peer.run_peer`.

python _omnipose_side.py FUNCTION INPUT.npz OUTPUT.npz REPEATS
"""

from __future__ import annotations

import logging
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from _side import Work, run_side

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts" / "peer"))
from golden_distance_flows import core

CPU = torch.device("cpu")
OMNIPOSE = core()


def encode(labels: np.ndarray) -> Work:
    """`masks_to_flows` of one (Y, X) label image: ``flows`` (2, Y, X), ``distance`` and ``boundary`` (Y, X)."""

    def work() -> dict[str, np.ndarray]:
        made = OMNIPOSE.masks_to_flows(labels, dim=2, use_gpu=False, device=CPU, normalize=True)
        _, distance, boundary, _, flows = made
        return {"flows": np.asarray(flows), "distance": np.asarray(distance), "boundary": np.asarray(boundary)}

    return work


def decode(flows: np.ndarray, distance: np.ndarray, boundary: np.ndarray, foreground: np.ndarray) -> Work:
    """`compute_masks` without flow check, else with its defaults; flows (2, Y, X) of length 1. Gives ``masks``."""
    options = {"mask_threshold": 0.5, "flow_threshold": 0, "min_size": 15, "nclasses": 2, "dim": 2}

    def work() -> dict[str, np.ndarray]:
        masks = OMNIPOSE.compute_masks(
            5 * flows, distance, bd=boundary, iscell=foreground, use_gpu=False, device=CPU, **options
        )[0]
        return {"masks": np.asarray(masks)}

    return work


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    run_side(
        {"encode": encode, "decode": decode},
        sys.argv[1:],
        threads=torch.get_num_threads,
        versions=lambda: f"omnipose {version('omnipose')}, torch {torch.__version__}",
    )
