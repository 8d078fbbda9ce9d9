"""Processes that do a task together, forked from a server that has imported all that they need.

Most of what torchrun's processes take in a test is imports: seven seconds each. A test that asks
what many come to, and not how they are started, watched and ended, has them forked: on a CPU alone,
where that is safe after the imports. What they run is the worker, or a test's driver of it, over
gloo as ever.

Of one server they have one hash seed and like addresses, so that an order of calls that depends on
either differs in none of them, and they don't end as an interpreter does: some tests of each kind
are torchrun's. The server is multiprocessing's own, of which a process has one: where another test
has begun it for something else, each imports what is missing.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO

from torch.distributed import TCPStore

from updater.launch.parent import PARENT
from updater.local import HOST

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
        # Here, as torchrun's agent has it, so that nobody takes its port before the first is there.
        self._store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
        self._said = stdout
        world = {
            "WORLD_SIZE": str(number),
            "MASTER_ADDR": HOST,
            "MASTER_PORT": str(self._store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
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
        try:
            for process in self._processes:
                process.start()
        except BaseException:  # the first start waits for the server's imports
            self.kill()
            raise

    def poll(self) -> int | None:
        """0 once all have ended, 1 once one has failed, and the others with it."""
        codes = [process.exitcode for process in self._processes]
        if any(codes):
            for rank, code in enumerate(codes):
                if code:
                    self._said.write(f"failed (exitcode: {code}) local_rank: {rank}\n".encode())
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
        """All that have begun end."""
        for process in self._processes:
            if process.pid is not None:
                process.kill()


def _end_with_the_test() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(driver: str, folder: str, environ: Mapping[str, str], said: str) -> None:
    # The server lives as long as one of these does, so they can't leave it to the kernel.
    threading.Thread(target=_end_with_the_test, daemon=True).start()
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
