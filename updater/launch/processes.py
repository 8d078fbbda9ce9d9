"""Many processes that do one thing together: started, watched, and ended with the one that asked.

torchrun (torch.distributed.run) starts them, and starts them again after a crash. What they are
to do stands in a folder (`updater.launch.task`), and so does what comes of it
(`updater.launch.answer`). Called by `updater.launch.together`.
"""

import logging
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from updater.errors import CrashError, InputError
from updater.gpu_memory import give_back
from updater.launch import answer, command
from updater.launch.call import num_joined, open_call
from updater.launch.command import MAX_RESTARTS
from updater.launch.crashes import Crashes
from updater.launch.ends import LOG
from updater.launch.meeting import answering, in_pytorchjob, met_at
from updater.launch.parent import PARENT
from updater.settings import TrainingSettings
from updater.train.record import GOES_ON

log = logging.getLogger("updater")

_POLL_SECONDS = 0.5
_STOP_SECONDS = 30.0
_SEEN_SECONDS = 90.0  # for which a network's file system may say that there is no such file
_SILENT_SECONDS = 60.0
_SILENT = (
    "nothing was heard for a minute: a step takes long, or a machine has not come or has left, and "
    "is waited for. %s has what is said here"
)


def check(training: TrainingSettings) -> None:
    """This machine has as many devices as the training asks of each, and several know where to
    meet.

    Raises:
        InputError: it has GPUs, and fewer; or nobody said where.
    """
    if training.nodes > 1 and not training.rendezvous:
        raise InputError(
            f"training.nodes = {training.nodes}",
            "several nodes meet at training.rendezvous, which is not given",
            "on Kubernetes start what `updater pytorchjob UPDATE` prints, elsewhere set host:port, "
            'or "auto" where the others run `updater join`',
        )
    here = torch.cuda.device_count()
    if here and training.devices > here:
        raise InputError(
            f"training.devices = {training.devices}",
            f"this machine has {here} GPUs",
            f"set it to {here} at most; more machines are training.nodes",
        )


def run(
    training: TrainingSettings,
    folder: Path,
    *,
    calls: Path | None = None,
    on_metrics: Callable[[int, dict[str, float]], None],
) -> None:
    """The task in the folder is done by as many processes as `training` says.

    With several nodes the others run a command, which is logged, or `updater join`, and see the
    folder under the same path.

    Args:
        calls: where those that `updater join` look for what there is to do; None: they are not
            called.
        on_metrics: told how far the processes are and what they measured on the way.

    Raises:
        InputError, UpdateError: what the first of them raised, and `check`.
        CrashError: they crashed time and again.
    """
    check(training)
    training, meeting = met_at(training)
    give_back()
    heard, unfit = answer.Heard(folder), set[str]()
    resumed, crashes = answer.Resumed(folder), Crashes(folder, max_restarts=MAX_RESTARTS)
    with (folder / LOG).open("ab") as said, _others(training, folder, calls):
        silent_since = time.monotonic()
        processes = subprocess.Popen(
            torchrun(training, folder, meeting),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env=environment(training),
        )
        try:
            while (ended := processes.poll()) is None:
                time.sleep(_POLL_SECONDS)
                for told in heard.new():
                    on_metrics(*told)
                    silent_since = time.monotonic()
                crashes.look()
                for resumption in resumed.new():
                    log.info(GOES_ON, *resumption)
                for why in sorted(answer.unfit(folder) - unfit):
                    log.warning("%s", why)
                    unfit.add(why)
                if training.nodes > 1 and time.monotonic() > silent_since + _SILENT_SECONDS:
                    log.warning(_SILENT, folder / LOG)
                    silent_since = math.inf  # until it is heard of again
        finally:
            stop(processes)
        for resumption in resumed.new():
            log.info(GOES_ON, *resumption)
        for told in heard.new():
            on_metrics(*told)
    answer.read_refusal(folder)
    if not (_is_done(folder) if ended == 0 else answer.is_done(folder)):
        raise CrashError(crashes.told(ended, training))


def torchrun(training: TrainingSettings, folder: Path, meeting: Sequence[str] = ()) -> list[str]:
    """The command that starts this node's processes. `meeting`: as of `command.torchrun`."""
    return command.torchrun(
        training,
        folder.resolve(),
        python=sys.executable,
        max_restarts=MAX_RESTARTS,
        meeting=meeting,
    )


def _is_done(folder: Path) -> bool:
    """It may be another machine that wrote so, a moment ago."""
    end = time.monotonic() + _SEEN_SECONDS
    while not answer.is_done(folder):
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_SECONDS)
    return True


@contextmanager
def _others(training: TrainingSettings, folder: Path, calls: Path | None) -> Iterator[None]:
    """In the block the other nodes are asked to take part, if there are any."""
    if training.nodes == 1 or in_pytorchjob():  # whose own pods take part
        yield
        return
    words = shlex.join(torchrun(training, folder, answering()))
    if calls is None:
        log.warning("run this on each of the other nodes: %s", words)
        yield
        return
    with open_call(calls, training, folder, gpus=torch.cuda.is_available()):
        missing = training.nodes - 1 - num_joined(calls)
        if missing > 0:
            log.warning(
                "waits for %d more machines: run `updater join --workspace %s` on each, or, for "
                "this once, %s",
                *(missing, calls.parents[1], words),
            )
        yield


def environment(training: TrainingSettings) -> dict[str, str]:
    """Of torchrun, which ends with this process. It would give each process one thread."""
    threads = max(torch.get_num_threads() // training.devices, 1)
    return {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        PARENT: str(os.getpid()),
    }


def stop(processes: subprocess.Popen[bytes]) -> None:
    """None of them is left."""
    if processes.poll() is not None:
        return
    processes.terminate()
    try:
        processes.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        processes.kill()
        processes.wait()
