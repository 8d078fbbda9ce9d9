"""Another program that runs beside us until it is stopped: its log, its health, its processes.

Not a supervisor: nothing is restarted. Called by `updater.local`, which says which programs, and by
`updater.orphans`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

TAIL_BYTES = 4000
ORPHANED_SECONDS = 3  # for what left the program's session: tasks, which report before they end
ASKED_SECONDS = 15  # for the program, told as by Ctrl-C
FETCH_SECONDS = 5.0  # for an answer from this machine
TOLD_SECONDS = 5  # after SIGTERM, before SIGKILL


class Daemon:
    """One program in a session of its own, so that Ctrl-C in the terminal reaches us alone.

    `is_healthy` asks the program whether it serves; it may raise OSError or ValueError for "no".
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environ: Mapping[str, str],
        log: Path,
        is_healthy: Callable[[], bool],
    ) -> None:
        self.name = name
        self.log = log
        self._is_healthy = is_healthy
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                list(command),
                env=dict(environ),
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._program = psutil.Process(self._process.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_healthy(self) -> bool:
        try:
            return self._is_healthy()
        except (OSError, ValueError):
            return False

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def tail(self) -> str:
        """The last lines of the log."""
        text = self.log.read_bytes()[-TAIL_BYTES:].decode("utf-8", "replace")
        return "\n".join(text.splitlines()[-25:])

    def stop(self) -> None:
        """None of its processes runs any more, whatever session they moved to."""
        stop(self._program)
        self._process.wait()


def stop(program: psutil.Process) -> None:
    """It has ended, and so has all that it started; it leads a group of its own.

    First what left the group (Airflow's tasks, which thereby stop their commands and can still
    report), then the program and its group as by Ctrl-C, then whatever is left, at last by SIGKILL.
    """
    family = _family(program, [])
    moved = [one for one in family if _group(one) not in (program.pid, None)]
    _send(moved, signal.SIGTERM)
    _wait(moved, ORPHANED_SECONDS)
    family = _family(program, family)
    if _is_alive(program):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGINT)
    _wait(family, ASKED_SECONDS)
    for number in (signal.SIGTERM, signal.SIGKILL):
        family = [one for one in _family(program, family) if _is_alive(one)]
        _send(family, number)
        _wait(family, TOLD_SECONDS)


def _family(program: psutil.Process, known: Sequence[psutil.Process]) -> list[psutil.Process]:
    """`known`, and every process that now descends from the program or is in its group."""
    found = [*known, *_members(program.pid)]
    with contextlib.suppress(psutil.NoSuchProcess):
        found += [program, *program.children(recursive=True)]
    return list({one.pid: one for one in found}.values())


def fetch(url: str) -> bytes:
    """The body at `url` on this machine, past any proxy. Raises OSError: none, or HTTP >= 400."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=FETCH_SECONDS) as answer:
        body: bytes = answer.read()
    return body


def _group(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return None


def _members(group: int) -> list[psutil.Process]:
    """The processes of a group, whosever children they have become."""
    return [process for process in psutil.process_iter() if _group(process) == group]


def _is_alive(process: psutil.Process) -> bool:
    """Not ended. One whose parent has not asked for its exit code yet (a zombie) has."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _wait(processes: Sequence[psutil.Process], seconds: float) -> None:
    """Return when all have ended, or the time is up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(map(_is_alive, processes)):
        time.sleep(0.05)


def _send(processes: Sequence[psutil.Process], number: int) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
