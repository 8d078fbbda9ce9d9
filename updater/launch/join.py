"""A machine that takes part in what others work on, one call after the other, until it is stopped.

It knows no store: a call names a task's folder, which this machine sees under the same path. Called
by the command line.
"""

import logging
import subprocess
import sys
import time
from pathlib import Path

import torch

from updater.errors import InputError
from updater.launch import call, command, processes
from updater.launch.call import Call
from updater.launch.command import MAX_RESTARTS

log = logging.getLogger("updater")

_POLL_SECONDS = 0.5
_AGAIN_SECONDS = 5.0
_LINGER_SECONDS = 30.0
"""For which processes may go on whose call is over: they end by themselves, if all is well."""


def join(calls: Path) -> None:
    """Every call in the folder is answered, until this process is stopped; its processes end with
    it.

    Raises:
        InputError: a call asks for more GPUs than there are here.
    """
    log.info("waiting for calls in %s", calls)
    answered: set[str] = set()
    while True:
        found = call.open_calls(calls)
        answered.intersection_update(one.id for one in found)
        # One that failed here is tried again, when others have had their turn.
        for one in found:
            if one.id in answered:
                continue
            if _take_part(calls, one):
                answered.add(one.id)
            else:
                time.sleep(_AGAIN_SECONDS)
        time.sleep(_POLL_SECONDS)


def _take_part(calls: Path, one: Call) -> bool:
    """Whether it is done, or over; not: this machine's part of it failed."""
    here = torch.cuda.device_count()
    if here and one.devices > here:
        raise InputError(
            f"{one.host} calls for training.devices = {one.devices}",
            f"this machine has {here} GPUs",
            "all machines of a training have as many: set training.devices, or take another one",
        )
    what = "/".join(Path(one.folder).parts[-2:])
    log.info("takes part in %s, with %s", what, one.host)
    words = command.torchrun(
        one.training,
        Path(one.folder),
        python=sys.executable,
        max_restarts=MAX_RESTARTS,
        meeting=("--rdzv-conf=is_host=0", f"--local-addr={call.own_address()}"),
    )
    part = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, env=processes.environment(one.training)
    )
    try:
        code = _ended(part, calls, one)
    finally:
        processes.stop(part)
    if code == 0:
        log.info("%s is done", what)
        return True
    if not call.is_open(calls, one):
        log.info("%s: %s calls no longer", what, one.host)
        return True
    log.warning("%s: ended here with exit code %s; tries again", what, code)
    return False


def _ended(part: "subprocess.Popen[bytes]", calls: Path, one: Call) -> int | None:
    """The exit code; None: it went on after the call was over."""
    over: float | None = None
    while (code := part.poll()) is None:
        time.sleep(_POLL_SECONDS)
        if over is None and not call.is_open(calls, one):
            over = time.monotonic()
        if over is not None and time.monotonic() > over + _LINGER_SECONDS:
            return None
    return code
