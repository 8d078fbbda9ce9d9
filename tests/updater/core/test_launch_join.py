"""A machine that joins: it takes part in one task after the other, and comes back when it fell out.

Both machines are this one; only files and a rendezvous are between them.
"""

import dataclasses
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from regularizers import importance as weights
from regularizers.formats import parts
from updater.errors import InputError
from updater.evaluate import outcomes
from updater.files import write_json
from updater.launch import answer, call, processes, together
from updater.launch import join as joining
from updater.launch.task import Asking, Learning, Weighing
from updater.nemotron import checkpoint
from updater.settings import RegularizerSettings, TrainingSettings
from updater.train.adapt import freeze
from updater.train.encode import encode
from updater.train.fit import fit
from updater.train.guards import Guards
from updater.train.importance import estimate
from updater.train.lesson import Lesson
from updater.train.record import Watch

QUIET = Watch(progress=False)
CODE = "from updater.cli import main; main()"
TWO = TrainingSettings(
    nodes=2,
    nodes_for="all",
    rendezvous="auto",
    adapt="lora",
    strategy="fsdp",
    batch_size=7,
    epochs=1,
    learning_rate=1e-2,
    checkpoint_every_steps=2,
)
NONE = RegularizerSettings(method="none")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    (folder / "updater.toml").write_text('[workspace]\nname = "w"\n')
    return folder


@pytest.fixture
def calls(workspace: Path) -> Path:
    return workspace / "cache" / "calls"


@pytest.fixture
def joiner(workspace: Path) -> Iterator[Callable[[], str]]:
    """`updater join` in a process of its own; a function: what it has said so far."""
    said = workspace / "joined.log"
    with said.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", CODE, "join", "--workspace", str(workspace)],
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "1000"},
        )
    try:
        yield said.read_text
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130, said.read_text()
        assert not parts_of(workspace)


def parts_of(workspace: Path) -> list[psutil.Process]:
    """torchrun as the machine that joined started it for a task of the workspace."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "--rdzv-conf=is_host=0" in words and words[-1].startswith(str(workspace)):
            found.append(process)
    return found


def wait_until(holds: Callable[[], Any], *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.05)


def lesson_of(base: Path, language: Any) -> Lesson:
    _, tokenizer = checkpoint.load(base)
    return Lesson.of(tokenizer, language(0, 40), language(100, 20), max_length_tokens=64)


def same_weights(folder: Path, base: Path, lesson: Lesson, training: TrainingSettings) -> None:
    """As one process alone has them."""
    model, _ = checkpoint.load(base)
    alone = dataclasses.replace(training, nodes=1)
    fit(model, lesson, training=alone, guards=Guards(), folder=folder / "one", watch=QUIET)
    learnt, _ = checkpoint.load(folder / answer.LEARNT)
    expected = model.state_dict()
    for name, tensor in learnt.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-5, msg=name)


def test_a_machine_that_joined_takes_part_in_whatever_works_with_the_model(
    trained: Path, language: Any, workspace: Path, calls: Path, joiner: Callable[[], str]
) -> None:
    lesson = lesson_of(trained, language)
    folder = workspace / "runs" / "u" / "training"
    task = Learning(trained, TWO, NONE, None, "")
    together.fit(task, lesson, folder=folder, watch=QUIET, calls=calls)
    same_weights(folder, trained, lesson, TWO)

    _, tokenizer = checkpoint.load(trained)
    examples = encode(tokenizer, language(0, 9), max_length_tokens=64)
    weigh = Weighing(trained, TWO, "empirical", "float32", "c", "d")
    model, _ = checkpoint.load(trained)
    freeze(model, TWO)
    one = estimate(
        *(model, examples),
        estimator="empirical",
        checkpoint_digest="c",
        data_digest="d",
        progress=False,
    )
    place = workspace / "cache" / "weighed"
    file = together.estimate(weigh, examples, folder=place, progress=False, calls=calls)
    many = weights.load(file)
    assert many.tensors.keys() == one.tensors.keys()
    for name, expected in one.tensors.items():
        largest = max(float(part.abs().max()) for part in parts(expected))
        for mine, part in zip(parts(many.tensors[name]), parts(expected), strict=True):
            torch.testing.assert_close(mine, part, rtol=1e-4, atol=1e-5 * largest)

    table = language(500, 11)
    ask = Asking(trained, ("t",), TWO.sharded, batch_size=5, max_length_tokens=64)
    asked = workspace / "cache" / "asked"
    found = together.outcomes(ask, {"t": table}, TWO, folder=asked, progress=False, calls=calls)
    model, _ = checkpoint.load(trained)
    expected_said = outcomes(model, tokenizer, table, batch_size=5, max_length_tokens=64)
    assert found.outcomes["t"]["correct"].to_pylist() == expected_said["correct"].to_pylist()

    wait_until(lambda: joiner().count("is done") == 3, seconds=60)
    for what in ("u/training", "cache/weighed", "cache/asked"):
        assert f"takes part in {what}" in joiner()
    assert not list(calls.iterdir())  # nobody is called any more


def test_a_machine_that_fell_out_comes_back(
    trained: Path,
    language: Any,
    workspace: Path,
    calls: Path,
    joiner: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its processes are killed in the middle, as by a machine that goes down: the training goes on
    from its last state when they are back, to the same weights."""
    monkeypatch.setattr(processes, "_POLL_SECONDS", 0.02)
    lesson = lesson_of(trained, language)
    training = dataclasses.replace(TWO, epochs=8, learning_rate=1e-3)
    folder = workspace / "runs" / "u" / "training"
    killed: list[int] = []
    steps: list[int] = []

    def kill(step: int, _metrics: dict[str, float]) -> None:
        if killed:
            steps.append(step)
        elif step >= 10:
            (torchrun,) = parts_of(workspace)
            for process in [torchrun, *torchrun.children(recursive=True)]:
                process.kill()
                killed.append(process.pid)

    task = Learning(trained, training, NONE, None, "")
    watch = Watch(kill, progress=False)
    together.fit(task, lesson, folder=folder, watch=watch, calls=calls)
    assert len(killed) >= 2
    assert min(steps) >= 10, steps
    assert "tries again" in joiner()
    same_weights(folder, trained, lesson, training)


def test_what_goes_on_after_its_call_is_over_is_ended(
    workspace: Path, calls: Path, joiner: Callable[[], str]
) -> None:
    """It called from a place that can't be reached: torchrun would look for it for a minute."""
    asked = dataclasses.replace(TWO, rendezvous="127.0.0.1:9")
    with call.open_call(calls, asked, workspace / "runs" / "u" / "training"):
        wait_until(lambda: parts_of(workspace), seconds=60)
    wait_until(lambda: not parts_of(workspace), seconds=90)
    wait_until(lambda: "calls no longer" in joiner(), seconds=30)


def test_the_call_of_one_that_was_killed_is_taken_back_by_the_next(
    workspace: Path, calls: Path
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    folder = workspace / "runs" / "u" / "training"
    with call.open_call(calls, TWO, folder):
        (left,) = call.open_calls(calls)
        elsewhere = dataclasses.replace(left, id="0-a", host="other", process=ended.pid)
        dead = dataclasses.replace(left, id="0-b", process=ended.pid)
        for one in (elsewhere, dead):
            write_json(calls / f"{one.id}.json", dataclasses.asdict(one))
        (calls / "3-c.json").write_text("{")  # of a full disk
        assert call.open_calls(calls) == [elsewhere, dead, left]
        with call.open_call(calls, TWO, folder):
            assert not call.is_open(calls, dead)
            assert call.is_open(calls, elsewhere)
            assert call.is_open(calls, left)
            assert len(call.open_calls(calls)) == 3
    assert call.open_calls(calls) == [elsewhere]


def test_where_they_meet_is_chosen_by_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    met, told = call.met_at(TWO)
    host, _, port = met.rendezvous.partition(":")
    assert told == ("--rdzv-conf=is_host=1", f"--local-addr={host}")
    with socket.create_server((host, int(port))):
        assert call.met_at(TWO)[0].rendezvous != met.rendezvous
    given = dataclasses.replace(TWO, rendezvous="first.example:29400")
    assert call.met_at(given) == (given, ())
    alone = dataclasses.replace(TWO, nodes=1)
    assert call.met_at(alone) == (alone, ())

    def no_way(*_: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", no_way)
    assert call.own_address() == "127.0.0.1"


def test_more_gpus_than_this_machine_has_are_refused(
    workspace: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    eight = dataclasses.replace(TWO, devices=8)
    with (
        call.open_call(calls, eight, workspace / "runs" / "u" / "training"),
        pytest.raises(InputError, match=r"training\.devices = 8\. this machine has 4 GPUs"),
    ):
        joining.join(calls)


def test_what_the_others_are_told(
    workspace: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine where nothing has joined can do one task by hand."""
    monkeypatch.setattr(processes, "torchrun", lambda *_: ["false"])
    folder = workspace / "runs" / "u" / "training"
    folder.mkdir(parents=True)
    with caplog.at_level(logging.WARNING), pytest.raises(Exception, match="exit code 1"):
        processes.run(TWO, folder, calls=workspace / "calls", on_metrics=lambda *_: None)
    assert "waits for the other nodes, which `updater join`" in caplog.text
    assert not list((workspace / "calls").iterdir())
