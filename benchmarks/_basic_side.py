"""BaSiC's side of the benchmarks: run by the interpreter of its environment, see `peer.run_peer`.

python _basic_side.py FUNCTION INPUT.npz OUTPUT.npz REPEATS
"""

from __future__ import annotations

import sys
from importlib.metadata import version

import numpy as np
import torch
from basicpy import BaSiC

from _side import Work, run_side


def flatfield(frames: np.ndarray, darkfield: np.ndarray, sort: np.ndarray) -> Work:
    """Its flat field (Y, X) of frames (N, Y, X); with or without a dark field, and with or without sorting."""

    def work() -> dict[str, np.ndarray]:
        basic = BaSiC(get_darkfield=bool(darkfield), sort_intensity=bool(sort), device="cpu")
        basic.fit(frames)
        return {"flatfield": np.asarray(basic.flatfield), "darkfield": np.asarray(basic.darkfield)}

    return work


if __name__ == "__main__":
    run_side(
        {"flatfield": flatfield},
        sys.argv[1:],
        threads=torch.get_num_threads,
        versions=lambda: f"basicpy {version('basicpy')}",
    )
