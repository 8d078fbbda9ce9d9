"""How other machines are asked to take part: files of the workspace, which `updater join` watches.

Who calls, and who has joined, touches a file of its own all the while, so that one that was killed
is told from one that lives: by the times that the file system gives both (NFS by the server's
clock, others by each machine's). Used by `updater.launch.processes`, which calls, and
`updater.launch.join`. Imports no torch.
"""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from updater import __version__
from updater.files import read_json, write_json
from updater.settings import TrainingSettings

BEAT_SECONDS = 5.0
"""Between two touches."""

_DEAD_SECONDS = 30.0
"""After its last touch one counts as dead: some missed beats of a busy machine. Chosen."""


@dataclass(frozen=True)
class Call:
    """One task, for which `nodes` machines with `devices` processes each meet at `rendezvous`.
    `folder`: of the task, by the path that all see it under. `host`: who calls, by which `version`
    of updater, and whether by `gpus`."""

    id: str
    folder: str
    nodes: int
    devices: int
    rendezvous: str
    host: str
    version: str
    gpus: bool

    @property
    def training(self) -> TrainingSettings:
        """The places alone, for the command that takes part."""
        return TrainingSettings(devices=self.devices, nodes=self.nodes, rendezvous=self.rendezvous)


@contextlib.contextmanager
def open_call(
    calls: Path, training: TrainingSettings, folder: Path, *, gpus: bool
) -> Iterator[None]:
    """In the block there is a call in the folder `calls`, which another thread keeps alive, however
    long this one waits for MLflow meanwhile."""
    calls.mkdir(parents=True, exist_ok=True)
    name = f"{time.time_ns()}-{uuid.uuid4().hex[:8]}"
    file = calls / f"{name}.json"
    call = Call(
        id=name,
        folder=str(folder.absolute()),  # not resolved: the joiner's way to it goes by links too
        nodes=training.nodes,
        devices=training.devices,
        rendezvous=training.rendezvous,
        host=socket.gethostname(),
        version=__version__,
        gpus=gpus,
    )
    make = partial(write_json, file, asdict(call))
    make()
    try:
        for other in calls.glob("*.json"):
            if not _lives(other, file):
                other.unlink(missing_ok=True)
        with _kept_alive(file, make):
            yield
    finally:
        file.unlink(missing_ok=True)


@contextlib.contextmanager
def joined(calls: Path) -> Iterator[Callable[[], list[Call]]]:
    """In the block a machine has joined. Hands out what tells the calls that wait for others, or
    are at work, oldest first; of several of one task the last."""
    calls.mkdir(parents=True, exist_ok=True)
    own = calls / f"{own_name()}.joined"
    own.touch()
    for other in calls.glob("*.joined"):
        if not _lives(other, own):
            other.unlink(missing_ok=True)

    def heard() -> list[Call]:
        living = {call.folder: call for file, call in _read(calls) if _lives(file, own)}
        return sorted(living.values(), key=lambda call: call.id)

    try:
        with _kept_alive(own, own.touch):
            yield heard
    finally:
        own.unlink(missing_ok=True)


def own_name() -> str:
    """Of this process among all machines': what it writes where they do."""
    return f"{socket.gethostname()}-{os.getpid()}"


def is_open(calls: Path, call: Call) -> bool:
    """Whether who called has not taken it back. It may be dead."""
    return (calls / f"{call.id}.json").exists()


def num_joined(calls: Path) -> int:
    """How many machines have joined, of which the newest call may know."""
    newest = max(calls.glob("*.json"), default=None)
    if newest is None:
        return 0
    return sum(_lives(file, newest) for file in calls.glob("*.joined"))


@contextlib.contextmanager
def _kept_alive(file: Path, make: Callable[[], object]) -> Iterator[None]:
    """In the block the file is touched now and then, and made anew where somebody took its owner,
    who was stopped for a while, for dead."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):  # of a file system that is away for a moment
                if file.exists():
                    os.utime(file)
                else:
                    make()

    thread = threading.Thread(target=beat, name=f"beat {file.name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _lives(file: Path, own: Path) -> bool:
    """Whether the file was touched lately, `own` having been so."""
    try:
        return own.stat().st_mtime - file.stat().st_mtime < _DEAD_SECONDS
    except FileNotFoundError:
        return False


def _read(calls: Path) -> Iterator[tuple[Path, Call]]:
    for file in sorted(calls.glob("*.json")):
        # It may be over by now, or half written by a disk that was full, or another version's.
        with contextlib.suppress(OSError, ValueError, TypeError):
            told: dict[str, Any] = read_json(file)
            yield file, Call(**told)
