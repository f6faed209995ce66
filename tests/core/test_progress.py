"""Work reports where it is; who started it decides what is shown."""

from __future__ import annotations

import re
import threading

import pytest

from cellweave.core import progress
from cellweave.core.progress import console_progress, is_shown, report, showing

ODD_NAMES = ("x[red].tif", "a[/b].tif", "[/]", "100%", "µm-细胞.png", "{braces}", "\\[x]")


def test_without_a_sink_nothing_happens() -> None:
    assert not is_shown()
    report("work", 1, 2, "note")


def test_reports_go_to_the_innermost_sink() -> None:
    outer: list[tuple[str, int, int, str]] = []
    inner: list[tuple[str, int, int, str]] = []
    with showing(lambda *state: outer.append(state)):
        report("a", 0, 2)
        with showing(lambda *state: inner.append(state)):
            assert is_shown()
            report("b", 1, 2, "note")
        report("a", 2, 2)
    assert not is_shown()
    assert outer == [("a", 0, 2, ""), ("a", 2, 2, "")]
    assert inner == [("b", 1, 2, "note")]


def test_the_sink_is_gone_after_an_error() -> None:
    with pytest.raises(KeyError), showing(lambda *state: None):
        raise KeyError
    assert not is_shown()


def test_other_threads_do_not_report_here() -> None:
    told: list[tuple[str, int, int, str]] = []
    with showing(lambda *state: told.append(state)):
        thread = threading.Thread(target=report, args=("other", 0, 1))
        thread.start()
        thread.join()
    assert told == []


def test_in_a_log_there_is_a_plain_line_every_four_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with console_progress():
        for done in range(101):
            report("training", done, 100, f"loss {done}")
            now += 1.0
        report("measuring", 0, 3)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[:3] == ["training: 0/100 loss 0", "training: 4/100 loss 4", "training: 8/100 loss 8"]
    assert lines[-2:] == ["training: 100/100 loss 100", "measuring: 0/3"]
    assert len(lines) == 27
    assert "\x1b" not in err


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_file_name_can_be_shown(capsys: pytest.CaptureFixture[str], name: str) -> None:
    with console_progress():
        report("images", 0, 2, name)
    assert capsys.readouterr().err == f"images: 0/2 {name}\n"


def test_on_a_terminal_there_are_live_bars(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    with console_progress():
        for done in range(3):
            report("images", done, 3, "first.tif")
        for name in ODD_NAMES:
            report("images", 3, 3, name)
        report("rows of tiles", 1, 7)
    err = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    last = err.strip().splitlines()[-2:]
    assert last[0].startswith("images")
    assert "3/3" in last[0]
    assert ODD_NAMES[-1] in last[0]
    assert last[1].startswith("rows of tiles")
    assert "1/7" in last[1]
