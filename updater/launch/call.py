"""How other machines are asked to take part: files of the workspace, which `updater join` watches.

Written by `updater.launch.processes`, read by `updater.launch.join`. Imports no torch.
"""

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from updater.files import read_json, write_json
from updater.settings import AUTO, TrainingSettings

_ELSEWHERE = ("192.0.2.1", 9)
"""An address that is nobody's (RFC 5737): the way to it says which of its own a machine has there.
Nothing is sent."""


@dataclass(frozen=True)
class Call:
    """One task, for which `nodes` machines with `devices` processes each meet at `rendezvous`.
    `folder`: of the task, by the path that all see it under. `host`, `process`: who calls."""

    id: str
    folder: str
    nodes: int
    devices: int
    rendezvous: str
    host: str
    process: int

    @property
    def training(self) -> TrainingSettings:
        """The places alone, for the command that takes part."""
        return TrainingSettings(devices=self.devices, nodes=self.nodes, rendezvous=self.rendezvous)


@contextlib.contextmanager
def open_call(calls: Path, training: TrainingSettings, folder: Path) -> Iterator[None]:
    """In the block there is a call in the folder `calls`."""
    calls.mkdir(parents=True, exist_ok=True)
    for file, call in _read(calls):
        if call.host == socket.gethostname() and not Path(f"/proc/{call.process}").exists():
            file.unlink(missing_ok=True)  # of one that was killed
    name = f"{time.time_ns()}-{uuid.uuid4().hex[:8]}"
    call = Call(
        id=name,
        folder=str(folder.resolve()),
        nodes=training.nodes,
        devices=training.devices,
        rendezvous=training.rendezvous,
        host=socket.gethostname(),
        process=os.getpid(),
    )
    file = calls / f"{name}.json"
    write_json(file, asdict(call))
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def open_calls(calls: Path) -> list[Call]:
    """Those that wait for others, or are at work, oldest first."""
    return [call for _, call in _read(calls)]


def is_open(calls: Path, call: Call) -> bool:
    """Whether who called still waits, or works."""
    return (calls / f"{call.id}.json").exists()


def met_at(training: TrainingSettings) -> tuple[TrainingSettings, tuple[str, ...]]:
    """The training with a place where its nodes meet, of this machine where it is to choose one;
    and what torchrun has to be told then."""
    if training.nodes == 1 or training.rendezvous != AUTO:
        return training, ()
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    address = own_address()
    chosen = replace(training, rendezvous=f"{address}:{port}")
    return chosen, ("--rdzv-conf=is_host=1", f"--local-addr={address}")


def own_address() -> str:
    """Of this machine, as others reach it: the one of its way out; 127.0.0.1 where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        try:
            way.connect(_ELSEWHERE)
        except OSError:
            return "127.0.0.1"
        return str(way.getsockname()[0])


def _read(calls: Path) -> Iterator[tuple[Path, Call]]:
    for file in sorted(calls.glob("*.json")):
        # It may be over by now, or half written by a disk that was full.
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            told: dict[str, Any] = read_json(file)
            yield file, Call(**told)
