"""Processes that do a task together, forked from a server that has imported all that they need.

Most of what torchrun's processes take in a test is imports: seven seconds each. A test that asks
what many come to, and not how they are started, watched and ended, has them forked: on a CPU alone,
where that is safe after the imports. What they run is the worker, or a test's driver of it, over
gloo as ever.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO

from updater.launch.parent import PARENT
from updater.local import HOST, free_port

_WORKER = "updater.launch.worker"


class ForkedWorkers:
    """In the place of a `subprocess.Popen` of torchrun on one node, which starts nobody again."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdin: int,
        stdout: IO[bytes],
        stderr: IO[bytes],
        env: Mapping[str, str],
    ) -> None:
        assert stdin == subprocess.DEVNULL
        assert stdout is stderr
        (number,) = (
            int(word.partition("=")[2]) for word in command if word.startswith("--nproc-per-node=")
        )
        assert "--nnodes=1" in command
        world = {
            "WORLD_SIZE": str(number),
            "MASTER_ADDR": HOST,
            "MASTER_PORT": str(free_port(0)),
        }
        driver, folder = command[-2:]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([_WORKER])
        self._processes = [
            context.Process(
                target=_work,
                args=(driver, folder, {**env, **world, "RANK": str(rank)}, stdout.name),
                daemon=True,
            )
            for rank in range(number)
        ]
        for process in self._processes:
            process.start()

    def poll(self) -> int | None:
        """0 once all have ended, 1 once one has failed, and the others with it."""
        codes = [process.exitcode for process in self._processes]
        if any(codes):
            self.kill()
            self.wait()
            return 1
        return None if None in codes else 0

    def wait(self, timeout: float | None = None) -> None:
        """Until all have ended, or for so many seconds for each."""
        for process in self._processes:
            process.join(timeout)
            if process.is_alive():
                raise subprocess.TimeoutExpired("forked workers", timeout or 0)

    def terminate(self) -> None:
        """All are asked to end."""
        for process in self._processes:
            process.terminate()

    def kill(self) -> None:
        """All end."""
        for process in self._processes:
            process.kill()


def _work(driver: str, folder: str, environ: Mapping[str, str], said: str) -> None:
    os.environ.clear()
    os.environ.update(environ, LOCAL_RANK=environ["RANK"], **{PARENT: str(os.getppid())})
    log = os.open(said, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    sys.argv = [driver, folder]
    if driver == _WORKER:
        from updater.launch import worker

        worker.main()
    else:
        runpy.run_path(driver, run_name="__main__")
