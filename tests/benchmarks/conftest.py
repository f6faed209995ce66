"""Benchmarks are scripts: their folder is on the path while their tests run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    for script in BENCHMARKS.glob("*.py"):  # a folder of tests may have the name of a benchmark
        module = sys.modules.get(script.stem)
        if module is not None and getattr(module, "__file__", None) != str(script):
            monkeypatch.delitem(sys.modules, script.stem)
