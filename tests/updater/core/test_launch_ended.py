"""Training by many processes that ends before its time: what is lost, and what is told."""

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from trained_together import (
    QUIET,
    alone,
    same_experts,
    same_weights,
    task,
    wait_until,
)

from updater.errors import CrashError, InputError, UpdateError
from updater.launch import answer, processes, together
from updater.nemotron import checkpoint
from updater.train.lesson import Lesson
from updater.train.record import Watch


class Stopped(Exception):
    """The launching process is told to stop."""


def stop_at(step: int) -> Watch:
    def told(at: int, _metrics: dict[str, float]) -> None:
        if at >= step:
            raise Stopped

    return Watch(told, progress=False)


def rank_of(pid: int) -> int:
    """Of a process that trains."""
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    (rank,) = [word for word in words if word.startswith(b"RANK=")]
    return int(rank.partition(b"=")[2])


def workers(folder: Path) -> list[int]:
    """The processes that train in the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            mine = words[-3:-1] == [b"updater.launch.worker", str(folder).encode()]
            if mine and b"updater.launch.torchrun" not in words:
                found.append(int(path.parent.name))
    return sorted(found)


@pytest.mark.parametrize(
    ("first", "then", "adapt"),
    [("fsdp", 4, "full"), ("fsdp", 1, "full"), ("ddp", 2, "full"), ("fsdp", 3, "lora")],
)
def test_a_stopped_run_goes_on_with_another_number_of_processes(
    base: Path,
    lesson: Lesson,
    importance: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: str,
    then: int,
    adapt: str,
) -> None:
    monkeypatch.setattr(processes, "_POLL_SECONDS", 0.02)
    changes: dict[str, Any] = {"epochs": 8, "adapt": adapt, "lora_experts": adapt == "lora"}
    model, one = alone(base, lesson, importance, tmp_path / "one", **changes)
    asked = task(base, importance, devices=2, strategy=first, **changes)
    folder = tmp_path / "many"
    with pytest.raises(Stopped):
        together.fit(asked, lesson, folder=folder, watch=stop_at(10))
    saved = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    in_shards = (first, adapt) == ("fsdp", "full")  # low-rank factors each process has whole
    assert any(name.startswith("step-") for name in saved) == in_shards, saved
    steps: list[int] = []
    watch = Watch(lambda step, _: steps.append(step), progress=False)
    if then == 1:
        learnt, many = alone(base, lesson, importance, folder, watch=watch, **changes)
    else:
        other = task(base, importance, devices=then, strategy="fsdp", **changes)
        many = together.fit(other, lesson, folder=folder, watch=watch)
        learnt, _ = checkpoint.load(folder / answer.LEARNT)
    assert min(steps) > 10, steps
    assert many.losses == pytest.approx(one.losses, abs=1e-4)
    same_experts(many, one)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(learnt.state_dict()[name], tensor, rtol=0, atol=1e-5, msg=name)


def test_a_killed_process_costs_no_more_than_its_last_steps(
    base: Path,
    lesson: Lesson,
    importance: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, one = alone(base, lesson, importance, tmp_path / "one", epochs=8)
    folder = tmp_path / "many"
    killed: list[int] = []
    steps: list[int] = []

    def kill_one(step: int, _metrics: dict[str, float]) -> None:
        if killed:
            steps.append(step)
        elif step >= 10:
            killed.append(workers(folder)[0])
            os.kill(killed[0], signal.SIGKILL)

    asked = task(base, importance, devices=2, epochs=8)
    with caplog.at_level(logging.INFO, "updater"):
        many = together.fit(asked, lesson, folder=folder, watch=Watch(kill_one, progress=False))
    assert min(steps) >= 10, steps
    died, went_on = caplog.messages
    assert re.fullmatch(
        r"process \d was killed by signal 9 \(SIGKILL\); "
        r"all start again from the last saved state, 1 of at most 3 times",
        died,
    )
    assert re.fullmatch(rf"goes on from step \d+ of {one.num_steps}", went_on)
    same_weights(folder, model)
    assert (many.num_steps, many.num_examples) == (one.num_steps, one.num_examples)


def test_who_was_killed_is_told_before_who_lost_it(
    base: Path,
    lesson: Lesson,
    importance: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each time that it is, and what to do in the end, which is done. The survivor says that a peer
    has reset its connection."""
    monkeypatch.setattr(processes, "MAX_RESTARTS", 1)
    folder = tmp_path / "many"
    killed: list[int] = []

    def kill_second(step: int, _metrics: dict[str, float]) -> None:
        found = [pid for pid in workers(folder) if rank_of(pid) == 1]
        if step >= 10 and found and found[0] not in killed:
            killed.append(found[0])
            os.kill(found[0], signal.SIGKILL)

    asked = task(base, importance, devices=2, epochs=40)
    with pytest.raises(CrashError) as raised:
        together.fit(asked, lesson, folder=folder, watch=Watch(kill_second, progress=False))
    told = str(raised.value)
    assert len(killed) == 2
    assert re.search(
        r"exit code 1, after at most 1 restarts: process 1 was killed by signal 9 \(SIGKILL\); the "
        r"kernel does so where main memory runs out .*\. Run the same command again: it goes on "
        r"from the last saved state\. .*processes\.log",
        told,
    )
    assert "process 0" not in told
    assert caplog.text.count("1 of at most 1 times") == caplog.text.count("start again") == 1
    caplog.clear()
    with caplog.at_level(logging.INFO, "updater"), pytest.raises(Stopped):
        together.fit(asked, lesson, folder=folder, watch=stop_at(20))
    (went_on,) = caplog.messages
    assert re.fullmatch(r"goes on from step \d\d+ of \d+", went_on)


def test_no_process_outlives_the_one_that_asked(
    base: Path, lesson: Lesson, importance: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    asked = task(base, importance, devices=2, epochs=1000)
    asked.write(folder, lesson)
    code = (
        "import sys; from pathlib import Path; from updater.launch import together\n"
        "from updater.launch.task import Learning; from updater.train.record import Watch\n"
        "folder = Path(sys.argv[1]); task, lesson = Learning.read(folder)\n"
        "together.fit(task, lesson, folder=folder, watch=Watch(progress=False))"
    )
    asker = subprocess.Popen([sys.executable, "-c", code, str(folder)])
    try:
        wait_until(lambda: any(folder.glob("step-*")), seconds=60)
        assert len(workers(folder)) == 2
    finally:
        asker.kill()
        asker.wait()
    wait_until(lambda: not workers(folder), seconds=20)


def test_what_the_settings_are_to_blame_for_is_told_as_it_is(
    base: Path, lesson: Lesson, importance: Path, tmp_path: Path
) -> None:
    asked = task(base, importance, devices=2, learning_rate=1e4, gradient_clip=0, epochs=4)
    with pytest.raises(UpdateError, match=r"training stopped at step .* Lower training\.learning"):
        together.fit(asked, lesson, folder=tmp_path / "many", watch=QUIET)
    assert not workers(tmp_path / "many")


def test_a_base_that_is_none_is_told_as_it_is(
    lesson: Lesson, importance: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    asked = task(tmp_path / "empty", importance, devices=2)
    with pytest.raises(InputError, match="empty"):
        together.fit(asked, lesson, folder=tmp_path / "many", watch=QUIET)


def test_processes_that_crash_each_time_say_their_last_lines(
    base: Path, lesson: Lesson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "MAX_RESTARTS", 0)
    asked = task(base, tmp_path / "gone.safetensors", devices=2)
    with pytest.raises(UpdateError, match=r"exit code 1.*FileNotFoundError: .*gone\.safetensors"):
        together.fit(asked, lesson, folder=tmp_path / "many", watch=QUIET)


def test_what_ends_a_process_before_it_can_say_so_is_told(
    base: Path, lesson: Lesson, importance: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "MAX_RESTARTS", 0)
    (tmp_path / "many").mkdir()
    (tmp_path / "many" / "processes.log").write_text("OldError: of an earlier run\n")
    monkeypatch.setattr(
        processes, "torchrun", lambda *_: [sys.executable, "-c", "raise OSError('no room')"]
    )
    with pytest.raises(UpdateError, match=r"exit code 1.*one ended by OSError: no room"):
        together.fit(
            task(base, importance, devices=2), lesson, folder=tmp_path / "many", watch=QUIET
        )
