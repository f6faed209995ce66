"""``cellweave train --strategy``: a model set for images without structural reporters."""

from __future__ import annotations

from pathlib import Path

import typer

from cellweave.core.errors import CellweaveError
from cellweave.core.progress import console_progress
from cellweave.prep import Preparation
from cellweave.train import TrainConfig, ranks
from cellweave.train.strategies import STRATEGIES, train_strategy


def run_strategy(
    data: Path,
    strategy: str,
    config: TrainConfig,
    *,
    cell_line: str | None,
    validation: Path | None,
    reporters: tuple[str, ...],
    prepared: Preparation,
    resume: bool,
) -> None:
    """Train, and say how the set is used."""
    chosen = next((one for one in STRATEGIES if one == strategy), None)
    if chosen is None:
        raise CellweaveError(f"--strategy '{strategy}' is unknown; choose from {', '.join(STRATEGIES)}")
    if ranks.count() > 1:
        raise CellweaveError("--strategy makes many short trainings; start it without torchrun, on one device")
    with console_progress():
        made = train_strategy(
            data,
            chosen,
            config,
            cell_line=cell_line,
            validation=validation,
            reporters=reporters,
            prepared=prepared,
            resume=resume,
        )
    lines = made.cell_lines
    of_line = f" --cell-line {lines[0]}" if len(lines) == 1 else " --cell-line NAME"
    typer.echo(
        f"{len(made.keys)} models for {', '.join(lines)} are in the model set {made.root}. Use it with: "
        f"cellweave segment IMAGES --out RESULTS --model-set {made.root}{of_line}"
    )
