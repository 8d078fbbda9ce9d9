"""Workers of one machine take GPUs that no other has; the driver's answer is a script's here."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from compose_file import COMPOSE

Start = Callable[..., "subprocess.Popen[str]"]
SHOW = ["sh", "-c", "echo $CUDA_VISIBLE_DEVICES; exec sleep 60"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a worker of `number` GPUs on a machine that has four."""
    (tmp_path / "bin").mkdir()
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.write_text("#!/bin/sh\nfor n in 0 1 2 3; do echo GPU-$n; done\n")
    smi.chmod(0o755)
    started = []

    def begin(number: int, path: str = f"{tmp_path / 'bin'}:/usr/bin:/bin") -> object:
        words = [str(COMPOSE.parent / "deploy" / "gpus.py"), str(number), str(tmp_path / "gpus")]
        worker = subprocess.Popen(
            [sys.executable, *words, *SHOW],
            env={**os.environ, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(worker)
        return worker

    yield begin  # type: ignore[misc]
    for worker in started:
        worker.kill()
        worker.communicate()


def shown(worker: "subprocess.Popen[str]") -> list[str]:
    """The GPUs that its command was told of."""
    assert worker.stdout is not None
    return worker.stdout.readline().strip().split(",")


def test_workers_started_together_share_no_gpu(start: Start) -> None:
    first, second = start(2), start(2)
    assert sorted([*shown(first), *shown(second)]) == [f"GPU-{n}" for n in range(4)]
    late = start(1)
    assert late.wait(30) == 1
    said = late.communicate()[1]
    assert "1 GPUs are asked for, and 0 of 4 are free: stop a worker that has one" in said


def test_what_a_killed_worker_had_is_free(start: Start) -> None:
    all_of_them = start(4)
    assert len(shown(all_of_them)) == 4
    all_of_them.send_signal(signal.SIGKILL)
    all_of_them.wait()
    assert shown(start(3)) == ["GPU-0", "GPU-1", "GPU-2"]


def test_a_machine_without_gpus_runs_a_worker_of_none(start: Start, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert shown(start(0, path="/usr/bin:/bin")) == [""]
    refused = start(1, path=str(empty))
    assert refused.wait(30) == 1
    assert "no GPU can be seen" in refused.communicate()[1]
