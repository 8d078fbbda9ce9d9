"""Tasks in parallel processes, one process a task, with one progress line over all of them.

A process each makes the peak memory a task's own, and its death nobody else's. No thread or GPU
context of the parent is in it. Called by `updater.study.conduct`.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from tqdm import tqdm

from updater.errors import InputError, UpdateError
from updater.progress import Progress

Tell = Callable[[], None]


class Task(NamedTuple):
    """`work(job, tell)` in a process of its own; `tell()` counts one unit of progress. `title`:
    what people call it."""

    title: str
    work: Callable[[Any, Tell], Any]
    job: Any


@dataclass(frozen=True)
class Failed:
    """A task that came to no result: the worker died, or had an error of this text."""

    title: str
    why: str

    @property
    def reason(self) -> str:
        """The first line of `why`, which has a traceback below it."""
        return self.why.splitlines()[0]


@dataclass(frozen=True)
class Places:
    """Where tasks run: so many at a time, with so many threads each. `devices`: the GPUs, one for
    each of them; empty where there is none."""

    processes: int
    threads: int
    devices: tuple[str, ...] = ()

    @classmethod
    def found(cls, processes: int, threads: int) -> "Places":
        """`processes` as asked for; 0 is as many as there are GPUs, else as cores have room for.
        Never more than there are GPUs, where there are some."""
        import torch

        named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        number = torch.cuda.device_count()
        devices = tuple(named if len(named) == number else map(str, range(number)))
        cores = max(len(os.sched_getaffinity(0)) // threads, 1)
        most = number or processes or cores
        return cls(min(processes or most, most), threads, devices)


class Pool:
    """Runs tasks at its places. A context manager: leaving it by an error (Ctrl-C is one) ends
    every process that runs; what a task keeps on disk, it keeps whole."""

    def __init__(self, places: Places, progress: Progress) -> None:
        self._places, self._progress = places, progress
        self._running: dict[Connection, tuple[int, BaseProcess, Task]] = {}
        self._free = list(range(places.processes))

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for _place, process, _task in self._running.values():
            process.kill()
            process.join()

    def run(self, tasks: Sequence[Task]) -> list[Any]:
        """Each task's result, or `Failed`, in their order."""
        waiting = deque(enumerate(tasks))
        numbers: dict[Connection, int] = {}
        results: list[Any] = [None] * len(tasks)
        while waiting or self._running:
            while waiting and self._free:
                number, task = waiting.popleft()
                numbers[self._start(task)] = number
            for connection in wait(list(self._running)):
                assert isinstance(connection, Connection)
                result = self._heard(connection)
                if result is not None:
                    results[numbers.pop(connection)] = result
        return results

    def _start(self, task: Task) -> Connection:
        ours, theirs = multiprocessing.Pipe()
        place = self._free.pop()
        devices = self._places.devices
        device = devices[place] if devices else ""
        process = _process(self._places, task, theirs, device)
        theirs.close()
        ours.send((task.work, task.job))
        self._running[ours] = place, process, task
        self._show()
        return ours

    def _heard(self, connection: Connection) -> Any:
        """What the task came to; None while it runs."""
        place, process, task = self._running[connection]
        try:
            kind, value = connection.recv()
        except (EOFError, ConnectionResetError):
            process.join()
            kind, value = "failed", f"its process ended with {_spelled(process.exitcode)}"
        if kind == "unit":
            self._progress.update(1)
            return None
        process.join()
        connection.close()
        del self._running[connection]
        self._free.append(place)
        self._show()
        return value if kind == "done" else Failed(task.title, value)

    def _show(self) -> None:
        titles = [task.title for _, _, task in self._running.values()]
        self._progress.set_postfix_str("; ".join(titles), refresh=False)


def _process(places: Places, task: Task, connection: Connection, device: str) -> BaseProcess:
    """A worker that has begun: on a CPU from a server that has imported what the first task needs,
    which takes seconds, and done nothing else; with GPUs anew, for a library that looks for them
    while it is imported leaves CUDA unusable after a fork."""
    given = (connection, places.threads, device)
    process: BaseProcess
    if places.devices:
        process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=given, daemon=True
        )
        with _without_interrupts():
            process.start()
        return process
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([task.work.__module__])
    with _without_interrupts():
        forkserver.ensure_running()
    process = context.Process(target=_serve, args=given, daemon=True)
    process.start()  # waits for the server's imports, which Ctrl-C may end
    return process


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """What begins in here never hears Ctrl-C, also while its first imports run, which would end in
    a traceback on the terminal: it is the parent's, who ends it and hears of Ctrl-C after this."""
    resource_tracker.ensure_running()  # begun in here, it would lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _spelled(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _serve(connection: Connection, threads: int, device: str) -> None:
    """The worker: one task, then the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who ends us
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if device:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    # tqdm's own lock is a named semaphore, for processes that share a line: of a worker that is
    # killed it would be left behind, with a warning of multiprocessing's at the parent's end.
    tqdm.set_lock(threading.RLock())
    try:
        work, job = connection.recv()  # a spawned process imports torch only now
    except EOFError:  # the parent was interrupted before it could say
        return
    import torch

    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()
    try:
        result = work(job, lambda: connection.send(("unit", None)))
    except BaseException as error:
        connection.send(("failed", f"{_said(error)}\n{traceback.format_exc()}"))
    else:
        connection.send(("done", result))


def _said(error: BaseException) -> str:
    """Ours say what and cure by themselves; of the others the kind is half of what they say."""
    if isinstance(error, InputError | UpdateError):
        return str(error)
    return "".join(traceback.format_exception_only(error)).strip()


def _end_with_parent(connection: Connection) -> None:
    """A parent that was killed leaves no worker behind: nobody would hear it, and the next study
    would write in the same places."""
    try:
        connection.recv()
    except (EOFError, OSError):
        os._exit(1)
