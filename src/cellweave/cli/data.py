"""``cellweave data``: looking at annotated images before a training."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from cellweave.core.progress import console_progress
from cellweave.train.audit import PICTURES, TABLE, audit
from cellweave.train.summary import summarise


def run_audit(data: Path, out: Path | None, model: str, *, channels: str | None, device: str) -> int:
    """Print what `audit` finds; returns the number of files that failed."""
    with console_progress():
        found = audit(data, model, channels=channels, device=device, out=out)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    console.print(found.text())
    if out is not None:
        pictures = f"; pictures of the listed ones are in {out / PICTURES}" if found.noisy else ""
        console.print(f"\nEvery image is in {out / TABLE}{pictures}")
    return found.failed


def run_summary(data: list[Path]) -> int:
    """Print what `summarise` finds; returns the number of images that were left out."""
    left_out = 0
    for folder in data:
        with console_progress():
            found = summarise(folder)
        for one in found:
            typer.echo(f"{one.text()}\n")
            left_out += len(one.problems)
    return left_out
