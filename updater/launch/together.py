"""A training by many processes is started, watched, and ended with the one that asked for it.

torchrun (torch.distributed.run) starts them, and starts them again after a crash, from the state
that they saved. Called by the train step of `updater.pipeline`.
"""

import gc
import logging
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch

from updater.errors import InputError, UpdateError
from updater.launch import answer
from updater.launch.parent import PARENT
from updater.launch.task import Task
from updater.progress import Progress
from updater.settings import TrainingSettings
from updater.train.fit import Fit
from updater.train.lesson import Lesson
from updater.train.record import Watch
from updater.train.schedule import Plan

MAX_RESTARTS = 3
"""After a crash of any process all are started again so many times; chosen, not measured. What
the settings are to blame for is not tried again."""

log = logging.getLogger("updater")

_LOG = "processes.log"
_POLL_SECONDS = 0.5
_STOP_SECONDS = 30.0


def check(training: TrainingSettings) -> None:
    """This machine has as many devices as the training asks of each.

    Raises:
        InputError: it has GPUs, and fewer.
    """
    here = torch.cuda.device_count()
    if here and training.devices > here:
        raise InputError(
            f"training.devices = {training.devices}",
            f"this machine has {here} GPUs",
            f"set it to {here} at most; more machines are training.nodes",
        )


def fit(task: Task, lesson: Lesson, *, folder: Path, watch: Watch) -> Fit:
    """The checkpoint `folder / answer.LEARNT` has learnt the lesson, by the processes that
    `task.training` asks for. As `updater.train.fit.fit`: called again after a kill it goes on.

    With several nodes the others run the same command, which is logged, and see the folder under
    the same path.

    Raises:
        InputError, UpdateError: as `updater.train.fit.fit`, and `check`.
        UpdateError: the processes crashed time and again.
    """
    check(task.training)
    folder.mkdir(parents=True, exist_ok=True)
    answer.clear(folder)
    task.write(folder, lesson)
    command = torchrun(task.training, folder)
    _make_room()
    heard, steps = answer.Heard(folder), Plan(lesson, task.training).num_steps
    with (
        (folder / _LOG).open("ab") as said,
        Progress("train", steps, unit="steps", shown=watch.progress) as progress,
    ):
        if task.training.nodes > 1:
            log.warning("run this on each of the other nodes: %s", shlex.join(command))
        processes = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=_environment(task)
        )
        try:
            while (ended := processes.poll()) is None:
                time.sleep(_POLL_SECONDS)
                _tell(heard, watch, progress)
                answer.read_refusal(folder)
        finally:
            _stop(processes)
        _tell(heard, watch, progress)
    done = answer.read(folder)
    if done is None:
        raise UpdateError(_crashed(folder, ended))
    return done


def torchrun(training: TrainingSettings, folder: Path) -> list[str]:
    """The command that starts this node's processes."""
    meet = ["--standalone"]
    if training.nodes > 1:
        meet = [
            f"--nnodes={training.nodes}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={training.rendezvous}",
            f"--rdzv-id={folder.parent.name}",
        ]
    return [
        *(sys.executable, "-m", "updater.launch.torchrun"),
        *meet,
        f"--nproc-per-node={training.devices}",
        f"--max-restarts={MAX_RESTARTS}",
        *("-m", "updater.launch.worker", str(folder.resolve())),
    ]


def _environment(task: Task) -> dict[str, str]:
    """torchrun would give each process one thread."""
    threads = max(torch.get_num_threads() // task.training.devices, 1)
    return {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        PARENT: str(os.getpid()),
    }


def _make_room() -> None:
    """What this process held on a GPU, for importance or trials, is the processes' to use."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _tell(heard: answer.Heard, watch: Watch, progress: Progress) -> None:
    for step, metrics in heard.new():
        watch.on_metrics(step, metrics)
        progress.set_postfix_str(f"loss {metrics['train/loss']:.3f}", refresh=False)
        progress.reach(step)


def _stop(processes: subprocess.Popen[bytes]) -> None:
    """None of them is left."""
    if processes.poll() is not None:
        return
    processes.terminate()
    try:
        processes.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        processes.kill()
        processes.wait()


def _crashed(folder: Path, code: int) -> str:
    return (
        f"the training's processes ended with exit code {code}, after at most {MAX_RESTARTS}"
        f" restarts: {answer.read_crash(folder)}. {folder / _LOG} has all of what they said"
    )
