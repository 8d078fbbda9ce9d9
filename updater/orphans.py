"""What a killed `updater up` has left behind is stopped: Airflow, MLflow, their tasks.

A process of its own beside `up`, which alone holds the other end of its stdin: that ends when `up`
does, also by `kill -9` or for want of memory. (The kernel could kill the two programs with `up`,
but not the scheduler, the API server and the tasks that they have started.) Until all are stopped
it holds the lock of `up` too, so that a second one waits. Called by `updater.local`.

    python -m updater.orphans        # the programs' process ids come by stdin, one a line
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import psutil

from updater import daemon


class Keeper:
    """The process beside us, for as long as we are in its context.

    Args:
        lock: a file that is locked, which stays so until what we leave behind is stopped.
    """

    def __init__(self, lock: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "updater.orphans"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[lock],
            start_new_session=True,
            text=True,
        )

    def keep(self, program: daemon.Daemon) -> daemon.Daemon:
        """It is stopped also where we are killed."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{program.pid}\n")
        self._process.stdin.flush()
        return program

    def __enter__(self) -> Keeper:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """We have stopped all by ourselves: not by the end of its stdin, or it would look for
        processes whose numbers may be others' by now."""
        self._process.kill()
        self._process.communicate()


def stop_all(lines: Iterable[str]) -> None:
    """Once the lines end, the programs that they name are stopped, those that still run."""
    programs = []
    for line in lines:
        try:
            programs.append(psutil.Process(int(line)))
        except psutil.NoSuchProcess:
            continue
    alive = [program for program in programs if program.is_running()]
    with ThreadPoolExecutor() as pool:
        list(pool.map(daemon.stop, alive))


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # we end after all that we are to stop
        signal.signal(number, signal.SIG_IGN)
    stop_all(sys.stdin)
