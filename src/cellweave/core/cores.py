"""How much work may run at once."""

from __future__ import annotations

import os


def cores() -> int:
    """Processor cores that this process may use: of a job on a shared machine, its own."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
