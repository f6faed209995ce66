"""How many cores a process may use."""

from __future__ import annotations

import os

import pytest

from cellweave.core.cores import cores


def test_cores_of_the_job_alone_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert cores() == 2


@pytest.mark.parametrize(("there", "told"), [(6, 6), (None, 1)])
def test_all_cores_count_where_jobs_have_none_of_their_own(
    monkeypatch: pytest.MonkeyPatch, there: int | None, told: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: there)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert cores() == told
