"""What every peer's side has in common: arrays in, a function timed, arrays out; imports NumPy only."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Work = Callable[[], dict[str, Any]]


def run_side(functions: Mapping[str, Callable[..., Work]], arguments: list[str], **facts: Callable[[], object]) -> None:
    """Run ``FUNCTION INPUT.npz OUTPUT.npz REPEATS``, once to warm up and REPEATS times with the clock on.

    A function prepares its work from the arrays of the input and returns a callable without arguments, which gives a
    dict of arrays. The output holds these, the least and the median of the times, and the facts.
    """
    function, source, target, repeats = arguments
    with np.load(source) as file:
        work = functions[function](**file)
    work()
    times: dict[str, list[float]] = {"seconds": []}
    for _ in range(int(repeats)):
        start = time.perf_counter()
        result = work()
        times["seconds"].append(time.perf_counter() - start)
        for name in [name for name in result if name.endswith("_seconds")]:
            times.setdefault(name, []).append(result.pop(name))
    for name, values in times.items():
        result[name], result[f"{name}_median"] = np.min(values), np.median(values)
    np.savez(target, **result, **{name: np.array(fact()) for name, fact in facts.items()})
