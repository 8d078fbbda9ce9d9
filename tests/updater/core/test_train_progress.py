"""The line that says how far a loop is."""

import io
import sys

import pytest

from updater.train import progress
from updater.train.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_rate_and_time_left(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress("train", 400, done=100)
    clock[0] += 11
    shown.add(110, "loss 1.5")
    assert shown.examples_per_second == pytest.approx(10)
    shown.close()
    err = capsys.readouterr().err.splitlines()
    assert err[0] == "train 210/400 (52%)  10 examples/s  0:19 left  loss 1.5"
    assert len(err) == 2


def test_on_a_terminal_one_line_is_rewritten(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    shown = Progress("evaluate", 100)
    for _ in range(4):
        clock[0] += 0.25
        shown.add(25)
    shown.close()
    assert terminal.getvalue().count("\r") == 5
    assert terminal.getvalue().count("\n") == 1


@pytest.mark.parametrize("options", [{"shown": False}, {"done": 50}])
def test_silent_when_not_wanted_or_nothing_is_left(
    options: dict, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Progress("train", 50, **options)
    clock[0] += 60
    shown.reach(50)
    shown.close()
    assert capsys.readouterr().err == ""
