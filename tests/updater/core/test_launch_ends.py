"""What torchrun says of processes that could not say why they end."""

from pathlib import Path

import pytest

from updater.errors import InputError
from updater.files import write_json
from updater.launch import answer, ends
from updater.launch.crashes import Crashes
from updater.settings import TrainingSettings

SAYS = "E1 api.py:1] failed (exitcode: {}) local_rank: {} (pid: 7) of binary: python\n"
LAST_STATE = "all start again from the last saved state"


def says(log: Path, code: int, rank: int) -> None:
    with log.open("a") as file:
        file.write(SAYS.format(code, rank))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a training, in which an earlier run has left its words."""
    write_json(tmp_path / "task.json", {"kind": "learning"})
    says(tmp_path / ends.LOG, -9, 5)
    return tmp_path


@pytest.mark.parametrize(
    ("code", "why"),
    [(-9, "signal 9 (SIGKILL)"), (-11, "signal 11 (SIGSEGV)"), (-40, "signal 40")],
)
def test_a_signal_has_its_name(code: int, why: str) -> None:
    assert str(ends.End(1, code)) == f"process 1 was killed by {why}"
    assert ("memory" in ends.kills([ends.End(1, code)])) is (code == -9)


def test_half_a_line_waits(folder: Path) -> None:
    logs = ends.Logs(folder)
    line = SAYS.format(-9, 1)
    for part, found in ((line[:40], []), (line[40:], [ends.End(1, -9)]), ("more\n", [])):
        with (folder / ends.LOG).open("a") as file:
            file.write(part)
        assert list(logs.new()) == found
    assert logs.said() == line + "more\n"


def test_a_process_killed_on_another_machine_is_told_first(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """This machine's own has lost it, and says so."""
    crashes = Crashes(folder, max_restarts=1)
    for again in (True, False):
        answer.crash(folder, 0, RuntimeError("Connection reset by peer"))
        says(ends.joined_log(folder, "node-b-12"), -9, 1)
        says(folder / ends.LOG, 1, 0)
        if again:
            crashes.look()
    lost = "process 0 ended by RuntimeError: Connection reset by peer"
    assert sorted(caplog.messages) == [
        f"{lost}; {LAST_STATE}, 1 of at most 1 times",
        f"process 1 of node-b-12 was killed by signal 9 (SIGKILL); {LAST_STATE}",
    ]
    told = crashes.told(1, TrainingSettings())
    assert told.index("process 1 of node-b-12 was killed") < told.index(lost)
    assert told.count("node-b-12") == 1
    assert "Run the same command again: it goes on" in told


def test_the_last_crash_is_told(folder: Path) -> None:
    """And not the first, from which all went on."""
    crashes = Crashes(folder, max_restarts=1)
    for error in (RuntimeError("first"), MemoryError("second")):
        answer.crash(folder, 1, error)
        says(folder / ends.LOG, 1, 1)
        crashes.look()
    told = crashes.told(1, TrainingSettings())
    assert "process 1 ended by MemoryError: second" in told
    assert "Run the same" not in told


def test_a_killed_torchrun_is_told(folder: Path) -> None:
    (folder / ends.LOG).unlink()
    crashes = Crashes(folder, max_restarts=3)
    (folder / ends.LOG).touch()
    assert "torchrun was killed by signal 9" in crashes.told(-9, TrainingSettings())


def test_what_is_refused_does_not_start_again(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    crashes = Crashes(folder, max_restarts=3)
    answer.refuse(folder, InputError("it", "is none", "make one"))
    says(folder / ends.LOG, 1, 0)
    with pytest.raises(InputError, match="is none"):
        crashes.look()
    assert not caplog.messages


def test_what_has_no_state_begins_again(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_json(folder / "task.json", {"kind": "weighing"})
    crashes = Crashes(folder, max_restarts=3)
    says(folder / ends.LOG, -9, 1)
    crashes.look()
    assert caplog.messages[0].endswith("(SIGKILL); all start again, 1 of at most 3 times")
