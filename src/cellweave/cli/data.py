"""``cellweave data``: looking at annotated images before a training."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from cellweave.core.progress import console_progress
from cellweave.train.audit import PICTURES, TABLE, audit


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
