"""What the first of the processes tells the one that launched them, as files in the task's folder.

Written by each `updater.launch.worker`, read by `updater.launch.processes` and `together`.
"""

import json
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from updater.errors import InputError, UpdateError
from updater.files import read_json, write_json
from updater.train.fit import Fit
from updater.train.ranks import Ranks
from updater.train.record import Watch

LEARNT = "learnt"
"""The folder of the checkpoint that came of a training."""

IMPORTANCE = "importance.safetensors"
"""The file of an importance."""

_DONE, _REFUSED, _CRASHED = "done.json", "refused.json", "crashed.json"
_METRICS, _RESUMED, _UNFIT = "metrics.jsonl", "resumed.jsonl", "unfit-"
_TENSORS = ("trace", "moved")


@contextmanager
def metrics(folder: Path) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Hands out what takes metrics while the work goes on: a line each time they are told."""
    with (folder / _METRICS).open("a", encoding="utf-8") as file:

        def add(step: int, metrics: dict[str, float]) -> None:
            file.write(json.dumps([step, metrics]) + "\n")
            file.flush()

        yield add


@contextmanager
def watch(folder: Path, ranks: Ranks) -> Iterator[Watch]:
    """Hands out what a training tells its metrics to, and where it goes on: the first process
    writes them down."""
    if not ranks.first:
        yield Watch(progress=False)
        return

    def resumed(step: int, num_steps: int) -> None:
        with (folder / _RESUMED).open("a", encoding="utf-8") as file:
            file.write(json.dumps([step, num_steps]) + "\n")

    with metrics(folder) as tell:
        yield Watch(tell, progress=False, on_resumed=resumed)


class _Lines:
    """A file of lines of JSON as they come."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0

    def new(self) -> Iterator[Any]:
        """Those that were written since this was last asked; a half line waits."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read)
            whole, end, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(end)
        yield from map(json.loads, whole.splitlines())


class Heard:
    """The metrics as they come."""

    def __init__(self, folder: Path) -> None:
        self._lines = _Lines(folder / _METRICS)

    def new(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Those that were told since this was last asked."""
        yield from self._lines.new()


class Resumed:
    """Each time that a training went on from a saved state."""

    def __init__(self, folder: Path) -> None:
        self._lines = _Lines(folder / _RESUMED)

    def new(self) -> Iterator[tuple[int, int]]:
        """From which step, of how many, since this was last asked."""
        yield from self._lines.new()


def clear(folder: Path) -> None:
    """Nothing is said of an earlier run in the folder; its state stays."""
    for name in (_DONE, _REFUSED, _CRASHED, _METRICS, _RESUMED):
        (folder / name).unlink(missing_ok=True)
    for file in folder.glob(f"{_UNFIT}*.json"):
        file.unlink(missing_ok=True)


def outcomes(folder: Path, number: int) -> Path:
    """Where what was said to the table of that number lies."""
    return folder / f"outcomes-{number}.parquet"


def write_fit(folder: Path, done: Fit) -> None:
    """The training is done, and so it went."""
    for name in _TENSORS:
        save_file(dict(getattr(done, name)), folder / f"{name}.safetensors")
    names = [field.name for field in fields(done) if field.name not in _TENSORS]
    finish(folder, {name: getattr(done, name) for name in names})


def finish(folder: Path, told: dict[str, Any]) -> None:
    """It is done, and this is said of it."""
    write_json(folder / _DONE, told)


def refuse(folder: Path, error: InputError | UpdateError) -> None:
    """It can't be done, and why."""
    told: dict[str, Any] = {"kind": type(error).__name__, "message": str(error)}
    if isinstance(error, InputError):
        told |= {"what": error.what, "rule": error.rule, "cure": error.cure}
    write_json(folder / _REFUSED, told)


def stand_back(folder: Path, host: str, error: InputError) -> None:
    """This machine has joined and can't take part, and why. Others may: nothing ends by it."""
    write_json(folder / f"{_UNFIT}{host}.json", str(error))


def unfit(folder: Path) -> set[str]:
    """Why machines that have joined can't take part."""
    return {str(read_json(file)) for file in folder.glob(f"{_UNFIT}*.json")}


def crash(folder: Path, rank: int, error: BaseException) -> None:
    """A process of this rank ends, by no fault of the settings. The first to say so is kept: the
    others end because it did."""
    if not (folder / _CRASHED).exists():
        said = traceback.format_exception_only(error)[-1].strip()
        with suppress(OSError):  # where the disk is what failed
            write_json(folder / _CRASHED, f"process {rank} ended by {said}")


def forget_crash(folder: Path) -> None:
    """It was told, and all start again: what ends them next is another."""
    (folder / _CRASHED).unlink(missing_ok=True)


def read_crash(folder: Path) -> str:
    """Which process crashed first, and by what; "" where none could say so."""
    path = folder / _CRASHED
    return str(read_json(path)) if path.exists() else ""


def read_refusal(folder: Path) -> None:
    """Nothing was said against it so far.

    Raises:
        InputError, UpdateError: why it can't be done.
    """
    if (folder / _REFUSED).exists():
        told = read_json(folder / _REFUSED)
        if told["kind"] == "InputError":
            raise InputError(told["what"], told["rule"], told["cure"])
        raise UpdateError(told["message"])


def is_done(folder: Path) -> bool:
    """Whether `finish` said so."""
    return (folder / _DONE).exists()


def told(folder: Path) -> dict[str, Any]:
    """What `finish` said."""
    found: dict[str, Any] = read_json(folder / _DONE)
    return found


def read_fit(folder: Path) -> Fit:
    """How the training went."""
    told = read_json(folder / _DONE)
    for name in ("losses", "too_long"):
        told[name] = tuple(told[name])
    for name in _TENSORS:
        told[name] = load_file(folder / f"{name}.safetensors")
    return Fit(**told)
