"""How long work tells where it is: a callback ``(task, done, total, note)``; the command line draws it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int, str], None]
"""Called with the task's name, steps done, steps in all, and a short note (a loss, a file name)."""


def silent(task: str, done: int, total: int, note: str = "") -> None:
    """Progress that shows nothing."""


@contextmanager
def console_progress() -> Iterator[Progress]:
    """Live bars on standard error, one a task; plain lines every few seconds where it is not a terminal."""
    import time

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        last = {"time": 0.0}

        def line(task: str, done: int, total: int, note: str = "") -> None:
            now = time.monotonic()
            if now - last["time"] >= 4.0 or done >= total:
                last["time"] = now
                console.print(f"{task}: {done}/{total} {note}".rstrip(), highlight=False, soft_wrap=True)

        yield line
        return

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bars(*columns, console=console) as bars:
        known: dict[str, int] = {}

        def draw(task: str, done: int, total: int, note: str = "") -> None:
            if task not in known:
                known[task] = int(bars.add_task(task, total=total, note=note))
            bars.update(known[task], completed=done, total=total, note=note)  # type: ignore[arg-type]

        yield draw
