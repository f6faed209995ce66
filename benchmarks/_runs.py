"""The command line of the scripts that train models for benchmarks, and which of their runs are done."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from cellweave.core.files import write_atomically
from cellweave.core.progress import console_progress
from cellweave.train.api import MODEL
from cellweave.train.loop import CHECKPOINT

PLAN = "plan.json"
"""In the folder of a run: what it was made by."""


class Planned(Protocol):
    """A training, as far as the list tells of it."""

    @property
    def steps(self) -> int: ...
    @property
    def seconds(self) -> float:
        """Of a step on two processor cores, about."""


def is_done(run: Path) -> bool:
    """Whether the run in this folder has made its model."""
    return (run / MODEL).is_dir()


def fits(run: Path, plan: Mapping[str, Any]) -> bool:
    """Whether the run in this folder, if there is one, was begun by this plan. What came without a plan is believed."""
    file = run / PLAN
    return not file.is_file() or json.loads(file.read_text(encoding="utf-8")) == plan


def begins(run: Path, plan: Mapping[str, Any]) -> bool:
    """Whether a run is still to be made. Then its folder is there, without what another plan has left in it."""
    if is_done(run) and fits(run, plan):
        return False
    if not fits(run, plan):
        print(f"{run.name} was made with other settings, and is made again", flush=True)
        shutil.rmtree(run)
    run.mkdir(parents=True, exist_ok=True)
    write_atomically(run / PLAN, lambda path: path.write_text(json.dumps(plan, indent=1), encoding="utf-8"))
    return True


def state(run: Path, plan: Mapping[str, Any] | None = None) -> str:
    """For people: done, started, made by another plan, or nothing yet."""
    if plan is not None and not fits(run, plan):
        return "other settings"
    return "done" if is_done(run) else "started" if (run / CHECKPOINT).is_file() else ""


def listing(trainings: Mapping[str, Planned], runs: Path) -> str:
    """One line a training: how long it takes, and whether it is done; and one of all together."""
    width = max(map(len, trainings))
    lines = []
    minutes = {name: training.steps * training.seconds / 60 for name, training in trainings.items()}
    for name, training in trainings.items():
        told = state(runs / name, getattr(training, "plan", None))
        lines.append(f"{name:<{width}} {training.steps:>6} steps, about {minutes[name]:.1f} min on two cores  {told}")
    return "\n".join([*lines, f"all together about {sum(minutes.values()) / 60:.1f} h"])


def command_line(script: str, trainings: Mapping[str, Planned], runs: Path, make: Callable[[str, str], object]) -> None:
    """Names of trainings, --all or --list; `make` gets a name and a device. Runs are in folders of `runs`."""
    arguments = argparse.ArgumentParser(prog=f"benchmarks/{script}", description="Train models of a benchmark.")
    arguments.add_argument("names", nargs="*", metavar="NAME", help="which; --list tells")
    arguments.add_argument("--list", action="store_true", help="what there is, and what is done")
    arguments.add_argument("--all", action="store_true", help="all that are not done")
    arguments.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    chosen = arguments.parse_args()
    unknown = [name for name in chosen.names if name not in trainings]
    if unknown or not (chosen.list or chosen.all or chosen.names):
        arguments.error(f"name one or more of {', '.join(trainings)}; or --all, or --list")
    if chosen.list:
        print(listing(trainings, runs))
        return
    try:
        with console_progress():
            for name in trainings if chosen.all else chosen.names:
                make(name, chosen.device)
    except KeyboardInterrupt:
        raise SystemExit("Stopped. The same command goes on where it was stopped.") from None
