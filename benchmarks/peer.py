"""Run a peer package (cellpose, stardist, omnipose) in an environment of its own and compare with it.

The environment is never cellweave's: peers pin old versions, and nothing of them may be imported here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
TORCH = "torch==2.13.0"


class Peer(NamedTuple):
    """A package to compare with.

    Parameters
    ----------
    variable
        Environment variable that names an interpreter which has it.
    folder
        Where its environment is made else.
    requirements
        Arguments of ``pip install``, one call each.
    side
        The script here that its interpreter runs.
    """

    variable: str
    folder: Path
    requirements: tuple[tuple[str, ...], ...]
    side: str


def _listed(name: str) -> tuple[str, str]:
    return "-r", str(REPOSITORY / "scripts" / "peer" / name)


CELLPOSE = Peer(
    "CELLWEAVE_PEER_PYTHON",
    REPOSITORY / ".venv-peer",
    ((TORCH,), _listed("requirements.txt")),  # torch first, so that its version is the tested one
    "_peer_side.py",
)
STARDIST = Peer(
    "CELLWEAVE_STARDIST_PYTHON",
    REPOSITORY / ".venv-stardist",
    (_listed("requirements-stardist.txt"),),
    "_stardist_side.py",
)
OMNIPOSE = Peer(
    "CELLWEAVE_OMNIPOSE_PYTHON",
    REPOSITORY / ".venv-omnipose",
    ((TORCH,), _listed("requirements-omnipose.txt")),
    "_omnipose_side.py",
)
BASIC = Peer(
    "CELLWEAVE_BASIC_PYTHON",
    REPOSITORY / ".venv-basic",
    ((TORCH,), _listed("requirements-basic.txt")),
    "_basic_side.py",
)


def find_peer(peer: Peer = CELLPOSE) -> Path | None:
    """The peer's interpreter if it is there: the one that its variable names, or that of its folder."""
    chosen = os.environ.get(peer.variable)
    if chosen:
        return Path(chosen)
    python = _python(peer.folder)
    return python if python.exists() and (peer.folder / "complete").exists() else None


def peer_python(peer: Peer = CELLPOSE) -> Path:
    """The peer's interpreter; makes its environment (minutes, once) where there is none."""
    found = find_peer(peer)
    if found:
        return found
    print(f"making {peer.folder.name} for the peer package (once, some minutes)", file=sys.stderr, flush=True)
    venv.create(peer.folder, clear=True, with_pip=True)
    python = _python(peer.folder)
    for what in peer.requirements:
        subprocess.run([python, "-m", "pip", "install", "--disable-pip-version-check", *what], check=True)
    (peer.folder / "complete").touch()
    return python


def run_peer(function: str, *, repeats: int = 3, peer: Peer = CELLPOSE, **arrays: Any) -> dict[str, Any]:
    """Run a function of the peer's side in its interpreter, once to warm up and `repeats` times timed.

    The process keeps this one's environment, so that limits on threads hold for both.

    Parameters
    ----------
    function
        ``labels_to_flows(labels)``, ``compute_masks(flows, cellprob)``, ``average_precision(truth,
        predicted)``, ``net_maps(x, weights_seed)`` or ``segment(image, diameter, weights_seed)``; of stardist
        ``suppress(points, distances, threshold)``; of omnipose ``encode(labels)`` or ``decode(flows, distance,
        boundary, foreground)``.
    repeats
        Timed runs, 1 or more.
    peer
        Which package.
    **arrays
        Its arguments, anything `np.asarray` takes.

    Returns
    -------
    dict
        The arrays that the function gives; ``seconds`` (the least) and ``seconds_median``, the same for the
        parts it times (``net_seconds``, ...); ``threads`` it uses; ``versions``.

    Raises
    ------
    RuntimeError
        When the peer fails; holds what it wrote.
    """
    side = Path(__file__).with_name(peer.side)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(source, **{name: np.asarray(value) for name, value in arrays.items()})
        command = [peer_python(peer), "-W", "ignore", side, function, source, target, str(repeats)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the peer's {function} failed with status {done.returncode}:\n{done.stderr[-4000:]}")
        with np.load(target) as file:
            return {name: value if value.ndim else value.item() for name, value in file.items()}


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
