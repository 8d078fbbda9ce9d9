"""What people see of a loop: a bar on a terminal, a line now and then elsewhere."""

import io
import sys
from typing import Any

import pytest

from updater.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """stderr is one from now on. No fixture: pytest puts its own back before a test begins."""
    made = Terminal()
    monkeypatch.setattr(sys, "stderr", made)
    return made


def test_rate_and_time_left_of_a_resumed_run(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("train", 400, done=100) as shown:
        for _ in range(11):
            clock[0] += 1
            shown.set_postfix_str("loss 1.5", refresh=False)
            shown.update(10)
    first, last = capsys.readouterr().err.splitlines()
    assert first == "train:  50% 200/400 [00:10<00:20, 10.00 examples/s, loss 1.5]"
    assert last == "train:  52% 210/400 [00:11<00:19, 10.00 examples/s, loss 1.5]"


def test_of_unknown_length(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("ingest may", None, unit="rows") as shown:
        clock[0] += 16
        shown.reach(4000)
        shown.reach(6000)
    assert capsys.readouterr().err.splitlines() == [
        "ingest may: 4000 rows [00:16, 250.00 rows/s]",
        "ingest may: 6000 rows [00:16, 375.00 rows/s]",
    ]


def test_lines_are_sparse(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("train", 6000) as shown:
        for _ in range(6000):
            clock[0] += 0.01
            shown.update(1)
    assert 6 <= len(capsys.readouterr().err.splitlines()) <= 7


def test_on_a_terminal_one_line_is_rewritten(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = on_terminal(monkeypatch)
    with Progress("evaluate", 100) as shown:
        for _ in range(4):
            clock[0] += 0.6
            shown.update(25)
    assert terminal.getvalue().count("\r") == 5
    assert terminal.getvalue().count("\n") == 1
    assert "100%|" in terminal.getvalue()


@pytest.mark.parametrize("how", [{"shown": False}, {"done": 50}, {}])
def test_silent_when_not_wanted_or_over_at_once(
    how: dict[str, Any], clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = on_terminal(monkeypatch)
    with Progress("train", 50, **how) as shown:
        clock[0] += 0.1 if not how else 60
        shown.reach(50)
    assert terminal.getvalue() == ""
