"""A machine that joins: it takes part in one task after the other, and comes back when it fell out.

Both machines are this one; only files and a rendezvous are between them.
"""

import contextlib
import dataclasses
import logging
import os
import re
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
from updater import __version__
from updater.errors import CrashError, InputError
from updater.evaluate import outcomes
from updater.files import write_json
from updater.launch import answer, call, meeting, processes, together
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
ENVIRON = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "1000"}
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
    with joins(workspace) as said:
        yield said


@contextlib.contextmanager
def joins(
    workspace: Path, *before: str, by: signal.Signals = signal.SIGINT
) -> Iterator[Callable[[], str]]:
    """As `joiner`. `before`: of the command. `by`: what it is stopped by."""
    said = workspace / f"joined-{len(list(workspace.glob('joined-*')))}.log"
    with said.open("w") as log:
        process = subprocess.Popen(
            [*before, sys.executable, "-c", CODE, "join", "--workspace", str(workspace)],
            stdout=log,
            stderr=log,
            env=ENVIRON,
        )
    try:
        yield said.read_text
    finally:
        process.send_signal(by)
        assert process.wait(60) == 130, said.read_text()
        assert said.read_text().endswith("updater: interrupted; run the same command to go on\n")


@pytest.fixture
def networks() -> Iterator[tuple[list[str], list[str]]]:
    """Two networks that reach each other, as two machines have them, and what runs a command in
    each. The host's name stands for 127.0.0.1 in both, or for nothing."""
    names = [f"updater-{os.getpid()}-{side}" for side in "ab"]
    made = [["netns", "add", name] for name in names]
    ends = [f"ua{os.getpid() % 10**6}", f"ub{os.getpid() % 10**6}"]
    made.append(["link", "add", ends[0], "type", "veth", "peer", "name", ends[1]])
    for name, end, address in zip(names, ends, ("10.77.0.5/24", "10.77.0.1/24"), strict=True):
        made.append(["link", "set", end, "netns", name])
        made.append(["-n", name, "addr", "add", address, "dev", end])
        made += [["-n", name, "link", "set", device, "up"] for device in (end, "lo")]
    try:
        for words in made:
            done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"no networks can be made here: {done.stderr.strip()}")
        first, second = (["ip", "netns", "exec", name] for name in names)
        yield first, second
    except FileNotFoundError:
        pytest.skip("there is no `ip` here to make networks with")
    finally:
        with contextlib.suppress(FileNotFoundError):
            for name in names:
                subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def parts_of(workspace: Path) -> list[psutil.Process]:
    """torchrun as the machine that joined started it for a task of the workspace."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        joins = any(word.startswith("--rdzv-conf=is_host=0") for word in words)
        if joins and words[-1].startswith(str(workspace)):
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
    ask = Asking(
        trained, ("t",), TWO.sharded, batch_size=5, max_length_tokens=64, gather_bytes=2**32
    )
    asked = workspace / "cache" / "asked"
    found = together.outcomes(ask, {"t": table}, TWO, folder=asked, progress=False, calls=calls)
    model, _ = checkpoint.load(trained)
    expected_said = outcomes(model, tokenizer, table, batch_size=5, max_length_tokens=64)
    assert found.outcomes["t"]["correct"].to_pylist() == expected_said["correct"].to_pylist()

    wait_until(lambda: joiner().count("is done") == 3, seconds=60)
    for what in ("a training", "an estimate of importance", "an evaluation"):
        assert f"takes part in {what}, called by " in joiner()
    assert "Traceback" not in joiner()
    assert not list(calls.glob("*.json"))  # nobody is called any more


def test_more_machines_than_are_needed_stand_by(
    trained: Path, language: Any, workspace: Path, calls: Path
) -> None:
    """One of them is stopped in the middle, as a service is, and the other one takes its place."""
    lesson = lesson_of(trained, language)
    training = dataclasses.replace(TWO, epochs=12, learning_rate=1e-3)
    folder = workspace / "runs" / "u" / "training"
    stopped: list[str] = []
    with joins(workspace) as said, contextlib.ExitStack() as other:
        first = other.enter_context(joins(workspace, by=signal.SIGTERM))
        wait_until(lambda: len(list(calls.glob("*.joined"))) == 2, seconds=60)

        def stop_one(step: int, _metrics: dict[str, float]) -> None:
            if step >= 4 and not stopped:
                other.close()
                stopped.append(first())

        watch = Watch(stop_one, progress=False)
        task = Learning(trained, training, NONE, None, "")
        together.fit(task, lesson, folder=folder, watch=watch, calls=calls)
        wait_until(lambda: "a training is done" in said(), seconds=60)
        assert not parts_of(workspace)
    (line,) = [line for line in stopped[0].splitlines() if "takes part" in line]
    assert "a training, called by" in line
    same_weights(folder, trained, lesson, training)


@pytest.mark.parametrize("place", ["auto", "10.77.0.5:29411"])
def test_two_machines_meet_by_the_network_that_is_between_them(
    trained: Path,
    language: Any,
    workspace: Path,
    calls: Path,
    networks: tuple[list[str], list[str]],
    place: str,
) -> None:
    """Not by what their names stand for, which is nothing to another machine."""
    lesson = lesson_of(trained, language)
    folder = workspace / "runs" / "u" / "training"
    folder.mkdir(parents=True)
    asked = dataclasses.replace(TWO, rendezvous=place)
    Learning(trained, asked, NONE, None, "").write(folder, lesson)
    driver = Path(__file__).with_name("calling_driver.py")
    first, second = networks
    with joins(workspace, *second) as said:
        done = subprocess.run(
            [*first, sys.executable, str(driver), str(folder), str(calls)],
            capture_output=True,
            text=True,
            timeout=200,
            env=ENVIRON,
            check=False,
        )
        assert done.returncode == 0, done.stderr + said()
        wait_until(lambda: "a training is done" in said(), seconds=30)
    same_weights(folder, trained, lesson, TWO)


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
    """It called from a place that does not answer: torchrun would look for it for a minute."""
    folder = told(workspace, "u")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        asked = dataclasses.replace(TWO, rendezvous=f"127.0.0.1:{silent.getsockname()[1]}")
        with call.open_call(calls, asked, folder, gpus=False):
            wait_until(lambda: parts_of(workspace), seconds=60)
        wait_until(lambda: not parts_of(workspace), seconds=50)
    wait_until(lambda: "calls no longer" in joiner(), seconds=10)


def test_who_calls_anew_is_answered_at_once(
    workspace: Path, calls: Path, joiner: Callable[[], str]
) -> None:
    """As one that was killed and is run again, long before its first call counts as dead."""
    folder = told(workspace, "u")
    nowhere = dataclasses.replace(TWO, rendezvous="127.0.0.1:9")
    with call.open_call(calls, nowhere, folder, gpus=False):
        wait_until(lambda: parts_of(workspace), seconds=60)
        (first,) = parts_of(workspace)
        with call.open_call(calls, nowhere, folder, gpus=False):
            wait_until(lambda: first.pid not in [p.pid for p in parts_of(workspace)], seconds=20)
            wait_until(lambda: parts_of(workspace), seconds=20)


def test_a_workspace_may_have_its_folders_elsewhere(
    workspace: Path, calls: Path, tmp_path: Path
) -> None:
    """As links, for the large ones: all machines see them by the same."""
    (tmp_path / "disk").mkdir()
    (workspace / "runs").symlink_to(tmp_path / "disk")
    with (
        call.joined(calls) as heard,
        call.open_call(calls, TWO, told(workspace, "u"), gpus=False),
    ):
        assert all(joining._sees(one, calls) for one in heard())
        assert len(heard()) == 1


def told(workspace: Path, name: str) -> Path:
    """The folder of a task: an evaluation, for which there is no checkpoint."""
    folder = workspace / "runs" / name / "training"
    folder.mkdir(parents=True)
    task = Asking(
        workspace / "gone", (), sharded=False, batch_size=1, max_length_tokens=8, gather_bytes=2**32
    )
    task.write(folder, {})
    return folder


def age(file: Path, seconds: float) -> None:
    at = file.stat().st_mtime - seconds
    os.utime(file, (at, at))


def test_who_was_killed_calls_no_more(workspace: Path, calls: Path) -> None:
    """Its file is there, and touched no longer; of whatever machine it was."""
    folder, other = told(workspace, "u"), told(workspace, "v")
    with call.joined(calls) as heard, call.open_call(calls, TWO, folder, gpus=False):
        (living,) = heard()
        assert (living.host, living.version) == (socket.gethostname(), __version__)
        dead = dataclasses.replace(living, id="0-a", folder=str(other), host="other")
        write_json(calls / "0-a.json", dataclasses.asdict(dead))
        assert heard() == [dead, living]
        age(calls / "0-a.json", 31)
        assert heard() == [living]
        with call.open_call(calls, TWO, folder, gpus=False):
            assert not (calls / "0-a.json").exists()
            (newer,) = heard()  # of two of one task the last
            assert newer.id > living.id
        assert heard() == [living]
        age(calls / f"{living.id}.json", 31)
        assert heard() == []
        assert call.is_open(calls, living)  # which its processes here go by, if there are any


def test_a_beat_is_seen(workspace: Path, calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of who calls and of who has joined, whatever both wait for meanwhile."""
    monkeypatch.setattr(call, "BEAT_SECONDS", 1.0)
    folder = told(workspace, "u")
    with call.joined(calls) as heard, call.open_call(calls, TWO, folder, gpus=False):
        (one,) = heard()
        assert call.num_joined(calls) == 1
        (own,) = calls.glob("*.joined")
        for file in (calls / f"{one.id}.json", own):
            age(file, 31)
        wait_until(lambda: (call.num_joined(calls), heard()) == (1, [one]), seconds=20)
        for file in (calls / f"{one.id}.json", own):  # by somebody who took it for dead
            file.unlink()
        wait_until(lambda: (call.num_joined(calls), heard()) == (1, [one]), seconds=20)
    assert not list(calls.iterdir())


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"id": "1"}', b'{"more": 1}', b"\xff"])
def test_what_is_no_call_of_this_version_is_passed_over(
    workspace: Path, calls: Path, text: bytes
) -> None:
    folder = told(workspace, "u")
    with call.joined(calls) as heard, call.open_call(calls, TWO, folder, gpus=False):
        (calls / "0-a.json").write_bytes(text)
        assert len(heard()) == 1
        with call.open_call(calls, TWO, told(workspace, "v"), gpus=False):
            assert len(heard()) == 2


def answered_by(calls: Path, one: call.Call) -> Any:
    """What becomes of the call where a machine has joined that is asked once."""
    write_json(calls / f"{one.id}.json", dataclasses.asdict(one))
    return joining._take_part(one, calls, list)


@pytest.mark.parametrize(
    ("changes", "here", "why"),
    [
        ({"gpus": True, "devices": 8}, 4, r"has 4 GPUs. other calls for training.devices = 8 of"),
        ({"gpus": True, "devices": 1}, 0, "has 0 GPUs"),
        ({"gpus": False, "devices": 2}, 4, "2 processes without any"),
        ({"version": "0.0.1"}, 0, f"by updater {__version__}. other calls by 0.0.1"),
    ],
)
def test_what_a_machine_that_joined_can_not_do_is_told_to_who_calls(
    workspace: Path,
    calls: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    here: int,
    why: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: here)
    folder = told(workspace, "u")
    with call.joined(calls) as heard, call.open_call(calls, TWO, folder, gpus=False):
        one = dataclasses.replace(heard()[0], host="other", **changes)
        assert answered_by(calls, one)
    (told_why,) = answer.unfit(folder)
    assert re.search(why, told_why)
    answer.read_refusal(folder)  # nothing ends by it


def test_who_calls_says_why_a_machine_can_not_take_part(
    workspace: Path, calls: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "torchrun", lambda *_: ["sleep", "3"])
    monkeypatch.setattr(processes, "_SEEN_SECONDS", 0.2)
    folder = told(workspace, "u")
    answer.stand_back(folder, "other-1", InputError("other has 0 GPUs", "1 is needed", "buy one"))
    with caplog.at_level(logging.WARNING), pytest.raises(CrashError):
        processes.run(TWO, folder, calls=calls, on_metrics=lambda *_: None)
    assert caplog.text.count("other has 0 GPUs. 1 is needed. buy one.") == 1
    answer.clear(folder)
    assert not answer.unfit(folder)


def test_a_workspace_under_another_path_is_told_once(
    workspace: Path, calls: Path, joiner: Callable[[], str], tmp_path: Path
) -> None:
    elsewhere = told(tmp_path / "elsewhere", "u")
    gone = workspace / "runs" / "gone" / "training"
    with (
        call.open_call(calls, TWO, elsewhere, gpus=False),
        call.open_call(calls, TWO, gone, gpus=False),
    ):
        wait_until(lambda: joiner().count("does not see in its workspace") == 2, seconds=60)
        time.sleep(3)
        assert joiner().count("does not see in its workspace") == 2
        assert "takes part" not in joiner()


def test_where_they_meet_is_chosen_by_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    met, words = meeting.met_at(TWO)
    host, _, port = met.rendezvous.partition(":")
    assert host == meeting.own_address()
    assert words == ("--rdzv-conf=is_host=1,join_timeout=1800",)
    with socket.create_server((host, int(port))):
        assert meeting.met_at(TWO)[0].rendezvous != met.rendezvous
    given = dataclasses.replace(TWO, rendezvous="first.example:29400")
    assert meeting.met_at(given) == (given, words)
    alone = dataclasses.replace(TWO, nodes=1)
    assert meeting.met_at(alone) == (alone, ())
    monkeypatch.setenv("PET_NNODES", "2")
    assert meeting.met_at(given) == (given, ())


def test_a_pytorchjob_calls_nobody_else(
    workspace: Path, calls: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PET_NNODES", "2")
    monkeypatch.setattr(processes, "torchrun", lambda *_: ["false"])
    with pytest.raises(CrashError, match="exit code 1"):
        processes.run(TWO, told(workspace, "u"), calls=calls, on_metrics=lambda *_: None)
    assert not calls.exists()
    assert "updater join" not in caplog.text


def test_each_machine_is_called_by_its_address_on_the_way_to_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["--nnodes=2", "--rdzv-endpoint=first.example:29400", "-m", "x"]
    assert meeting.place_of(words) == "first.example"
    assert meeting.place_of(["--standalone", "--nnodes=1"]) == ""
    own = meeting.own_address()
    for host in (own, "127.0.0.1", socket.gethostname(), "nobody.invalid"):
        assert meeting.own_address(host) == own
    networks = meeting.addresses()
    assert networks[meeting.network(own)["GLOO_SOCKET_IFNAME"]] == own

    def no_way(*_: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", no_way)
    networks = {"lo": "127.0.0.1", "eth1": "10.0.0.7", "eth2": "10.1.0.7"}
    monkeypatch.setattr(meeting, "addresses", lambda: networks)
    assert meeting.own_address("10.1.0.1") == "10.0.0.7"
    assert meeting.network("10.1.0.7") == {"GLOO_SOCKET_IFNAME": "eth2"}
    assert meeting.network("10.2.0.7") == {}
    monkeypatch.setattr(meeting, "addresses", lambda: {"lo": "127.0.0.1"})
    assert meeting.own_address() == "127.0.0.1"


def test_the_loopback_has_its_address() -> None:
    assert meeting.addresses()["lo"] == "127.0.0.1"


def test_what_the_others_are_told(
    workspace: Path, calls: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are missing: a machine where nothing has joined can do one task by hand."""
    monkeypatch.setattr(processes, "torchrun", lambda *_: ["false"])
    folder = told(workspace, "u")
    for missing in (True, False):
        with caplog.at_level(logging.WARNING), pytest.raises(CrashError, match="exit code 1"):
            processes.run(TWO, folder, calls=calls, on_metrics=lambda *_: None)
        command = f"waits for 1 more machines: run `updater join --workspace {workspace}`"
        assert (command in caplog.text) is missing
        assert not list(calls.glob("*.json"))
        caplog.clear()
        calls.mkdir(exist_ok=True)
        (calls / "other-1.joined").touch()


def test_that_nobody_came_is_told_as_that(
    workspace: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "_JOIN_SECONDS", 3)
    folder = told(workspace, "u")
    with pytest.raises(CrashError, match=r"fewer machines than training\.nodes = 2 came to .* in"):
        processes.run(TWO, folder, calls=calls, on_metrics=lambda *_: None)


def test_silence_is_told_of(
    workspace: Path, calls: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "torchrun", lambda *_: ["sleep", "3"])
    monkeypatch.setattr(processes, "_SILENT_SECONDS", 0.2)
    monkeypatch.setattr(processes, "_SEEN_SECONDS", 0.2)
    folder = told(workspace, "u")
    with caplog.at_level(logging.WARNING), pytest.raises(CrashError):
        processes.run(TWO, folder, calls=calls, on_metrics=lambda *_: None)
    assert caplog.text.count("nothing was heard for a minute") == 1
