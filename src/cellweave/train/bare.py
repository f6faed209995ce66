"""Train from shards where only Python, NumPy and PyTorch are installed: ``python -m cellweave.train.bare SHARDS OUT``.

The folder SHARDS comes from ``cellweave train DATA --out RUN --prepare-only``. Copy it and the folder `src` of
cellweave to the machine, and run there, with ``PYTHONPATH=src``. OUT then goes back to RUN, and ``cellweave train DATA
--out RUN --resume`` makes the model of it. Under ``torchrun`` all devices of the machine train together.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from cellweave.core.errors import CellweaveError, InputError
from cellweave.core.files import make_output_folder
from cellweave.core.progress import console_progress
from cellweave.nets import NETS
from cellweave.representations import REPRESENTATIONS
from cellweave.train import ranks
from cellweave.train.config import TrainConfig
from cellweave.train.loop import CHECKPOINT, fit
from cellweave.train.shards import PackedStream, settings_of, unpack

START = "start.pt"
"""Weights that the net starts from."""


def main(shards: Path, out: Path, device: str) -> None:
    """Train the net of `shards` as its settings say; a run that is in `out` goes on."""
    settings = settings_of(shards)
    config = replace(TrainConfig(**settings["config"]), out=make_output_folder(out), device=device)
    name, parameters = settings["representation"]
    built = dict(settings["net"])
    net = NETS[built.pop("name")](**(built | {"widths": tuple(built["widths"])}))
    net.load_state_dict(torch.load(shards / START, map_location="cpu", weights_only=True))
    training = unpack(shards, "training")
    if training is None:
        raise InputError(f"{shards} has no training.json; copy the whole folder")
    packed = unpack(shards, "simulated")
    fit(
        net,
        REPRESENTATIONS[name](**parameters),
        training,
        unpack(shards, "validation"),
        config,
        stream=PackedStream(packed) if packed else None,
        resume=(out / CHECKPOINT).is_file(),
    )


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(prog="python -m cellweave.train.bare")
    arguments.add_argument("shards", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    chosen = arguments.parse_args()
    try:
        with console_progress():
            main(chosen.shards, chosen.out, chosen.device)
        ranks.leave()
    except CellweaveError as error:
        raise SystemExit(f"cellweave: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("Stopped. The same command goes on where the training was.") from None
