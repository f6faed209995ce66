"""How long work tells where it is: it calls `report`; whoever started it decides how that is shown."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec

Sink = Callable[[str, int, int, str], None]
"""Called with the task's name, steps done, steps in all, and a short note (a loss, a file name)."""

_sink: ContextVar[Sink | None] = ContextVar("sink", default=None)


def report(task: str, done: int, total: int, note: str = "") -> None:
    """Tell the current sink, if there is one, that `done` of `total` steps of `task` are done."""
    sink = _sink.get()
    if sink is not None:
        sink(task, done, total, note)


def is_shown() -> bool:
    """Whether anyone is listening."""
    return _sink.get() is not None


@contextmanager
def showing(sink: Sink) -> Iterator[None]:
    """Send every `report` within the block to `sink`."""
    token = _sink.set(sink)
    try:
        yield
    finally:
        _sink.reset(token)


@contextmanager
def console_progress() -> Iterator[None]:
    """Show reports on standard error: live bars, or a plain line every four seconds.

    Lines where standard error is no terminal, or `rich` is not installed (see `cellweave.train.bare`).
    """
    if not sys.stderr.isatty() or find_spec("rich") is None:
        last: dict[str, float] = {}

        def line(task: str, done: int, total: int, note: str = "") -> None:
            if task not in last or time.monotonic() - last[task] >= 4.0 or done >= total:
                last[task] = time.monotonic()
                sys.stderr.write(f"{task}: {done}/{total} {note}".rstrip() + "\n")

        with showing(line):
            yield
        return

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        known = {}

        def draw(task: str, done: int, total: int, note: str = "") -> None:
            if task not in known:
                known[task] = bars.add_task(task, total=total, note=note)
            bars.update(known[task], completed=done, total=total, note=note)

        with showing(draw):
            yield
