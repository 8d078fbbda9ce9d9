"""A machine that takes part in what others work on, one call after the other, until it is stopped.

It knows no store: a call names a task's folder, which this machine sees under the same path. Called
by the command line.
"""

import logging
import math
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from updater import __version__
from updater.errors import InputError
from updater.launch import answer, call, ends, processes, task
from updater.launch.call import Call
from updater.launch.meeting import answering

log = logging.getLogger("updater")

_POLL_SECONDS = 0.5
_AGAIN_SECONDS = 5.0
_LINGER_SECONDS = 30.0
"""For which processes may go on whose call is over: they end by themselves, if all is well."""

_UNSEEN = (
    "%s calls from %s, which this machine does not see in its workspace: mount that under the same "
    "path on all machines"
)
_TITLES = {
    task.Learning.KIND: "a training",
    task.Weighing.KIND: "an estimate of importance",
    task.Drafting.KIND: "a drafting head's alignment",
    task.Asking.KIND: "an evaluation",
}


def join(calls: Path) -> None:
    """Every call in the folder is answered, until this process is stopped; its processes end with
    it. What this machine can't do is told to who calls, or, where that is not seen here, in the
    log, once."""
    log.info("has joined; waits to be called in %s", calls)
    answered: set[str] = set()
    unseen: set[str] = set()
    with call.joined(calls) as heard:
        while True:
            try:
                _answer(calls, heard, answered, unseen)
            except (OSError, ValueError) as error:  # of a file system that is away for a moment
                log.warning("%s; looks again", error)
                time.sleep(_AGAIN_SECONDS)
            time.sleep(_POLL_SECONDS)


def _answer(
    calls: Path, heard: Callable[[], list[Call]], answered: set[str], unseen: set[str]
) -> None:
    """Each call that waits now, once; one that failed here is tried again when others have had
    their turn. `unseen`: of which the log says already that they are not seen here."""
    found = heard()
    answered.intersection_update(one.id for one in found)
    for one in found:
        if one.id in answered or one not in heard():
            continue
        if not _sees(one, calls):
            if one.id not in unseen and call.is_open(calls, one):
                log.error(_UNSEEN, one.host, one.folder)
                unseen.add(one.id)
        elif _take_part(one, calls, heard):
            answered.add(one.id)
        else:
            time.sleep(_AGAIN_SECONDS)


def _sees(one: Call, calls: Path) -> bool:
    folder = Path(one.folder)
    return folder.is_relative_to(calls.parents[1]) and task.is_told(folder)


def _take_part(one: Call, calls: Path, heard: Callable[[], list[Call]]) -> bool:
    """Whether no more is to be done about it; not: this machine's part of it failed."""
    folder = Path(one.folder)
    try:
        _check(one)
    except InputError as refusal:
        log.error("%s", refusal)
        answer.stand_back(folder, call.own_name(), refusal)
        return True
    title = _TITLES[task.kind_of(folder)]
    log.info("takes part in %s, called by %s", title, one.host)
    said = ends.joined_log(folder, call.own_name())
    with said.open("ab") as output:
        part = subprocess.Popen(
            processes.torchrun(one.training, folder, answering()),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=processes.environment(one.training),
        )
        try:
            code = _ended(part, one, calls, heard)
        finally:
            processes.stop(part)
    if code == 0:
        log.info("%s is done", title)
        return True
    if code is None or not call.is_open(calls, one):
        log.info("%s calls no longer for %s", one.host, title)
        return True
    log.warning("%s ended here with exit code %s; tries again. %s says why", title, code, said)
    return False


def _check(one: Call) -> None:
    """This machine can do what is called for.

    Raises:
        InputError: not, and why.
    """
    name = socket.gethostname()
    if one.version != __version__:
        raise InputError(
            f"{name} has joined by updater {__version__}",
            f"{one.host} calls by {one.version}, and all machines run the same",
            f"install {one.version} there",
        )
    here = torch.cuda.device_count()
    if bool(here) != one.gpus or 0 < here < one.devices:
        raise InputError(
            f"{name}, which has joined, has {here} GPUs",
            f"{one.host} calls for training.devices = {one.devices}"
            + (" of them" if one.gpus else " processes without any"),
            "all machines have as many: set training.devices, or let another one join",
        )


def _ended(
    part: "subprocess.Popen[bytes]", one: Call, calls: Path, heard: Callable[[], list[Call]]
) -> int | None:
    """The exit code; None: it went on after the call was taken back. That who called seems to be
    dead is nothing to processes that work: if so they lose its own, and end."""
    over = math.inf
    while (code := part.poll()) is None:
        time.sleep(_POLL_SECONDS)
        with suppress(OSError):  # of a file system that is away for a moment
            if any(other.folder == one.folder and other != one for other in heard()):
                return None  # who called does so anew
            if call.is_open(calls, one):
                over = math.inf
            elif over == math.inf:
                over = time.monotonic()
        if time.monotonic() > over + _LINGER_SECONDS:
            return None
    return code
