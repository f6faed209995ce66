"""Run the peer package, cellpose 3.1.1.3, in an environment of its own and compare with it.

The environment is never cellweave's: the peer pins old versions, and nothing of it may be imported here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDER = REPOSITORY / ".venv-peer"
REQUIREMENTS = REPOSITORY / "scripts" / "peer" / "requirements.txt"
TORCH = "torch==2.13.0"


def find_peer() -> Path | None:
    """The peer's interpreter if it is there: ``$CELLWEAVE_PEER_PYTHON``, or that of ``.venv-peer``."""
    chosen = os.environ.get("CELLWEAVE_PEER_PYTHON")
    if chosen:
        return Path(chosen)
    python = _python(FOLDER)
    return python if python.exists() and (FOLDER / "complete").exists() else None


def peer_python() -> Path:
    """The peer's interpreter; makes ``.venv-peer`` (minutes, once) where there is none."""
    found = find_peer()
    if found:
        return found
    print(f"making {FOLDER.name} for the peer package (once, some minutes)", file=sys.stderr, flush=True)
    venv.create(FOLDER, clear=True, with_pip=True)
    python = _python(FOLDER)
    for what in ([TORCH], ["-r", str(REQUIREMENTS)]):  # torch first, so that its version is the tested one
        subprocess.run([python, "-m", "pip", "install", "--disable-pip-version-check", *what], check=True)
    (FOLDER / "complete").touch()
    return python


def run_peer(function: str, *, repeats: int = 3, **arrays: Any) -> dict[str, Any]:
    """Run a function of `_peer_side` in the peer's interpreter, once to warm up and `repeats` times timed.

    The process keeps this one's environment, so that limits on threads hold for both.

    Parameters
    ----------
    function
        ``labels_to_flows(labels)``, ``compute_masks(flows, cellprob)``, ``average_precision(truth,
        predicted)``, ``net_maps(x, weights_seed)`` or ``segment(image, diameter, weights_seed)``.
    repeats
        Timed runs, 1 or more.
    **arrays
        Its arguments, anything `np.asarray` takes.

    Returns
    -------
    dict
        The arrays that the function gives; ``seconds`` (the least) and ``seconds_median``, the same for the
        parts it times (``net_seconds``, ...); ``threads`` of its torch; ``versions``.

    Raises
    ------
    RuntimeError
        When the peer fails; holds what it wrote.
    """
    side = Path(__file__).with_name("_peer_side.py")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(source, **{name: np.asarray(value) for name, value in arrays.items()})
        command = [peer_python(), "-W", "ignore", side, function, source, target, str(repeats)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the peer's {function} failed with status {done.returncode}:\n{done.stderr[-4000:]}")
        with np.load(target) as file:
            return {name: value if value.ndim else value.item() for name, value in file.items()}


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
