"""What the processes that do one thing together are told, as files in one folder.

The stores are the launching process's alone: whatever the others know from them stands here.
Written by `updater.launch.together`, read by each `updater.launch.worker`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open
from safetensors.numpy import save_file

from updater.files import read_json, write_json
from updater.settings import RegularizerSettings, SearchSettings, TrainingSettings
from updater.train.encode import Encoded
from updater.train.lesson import Lesson

_TASK, _EXAMPLES, _ASKED = "task.json", "examples.safetensors", "asked.safetensors"
_ARRAYS = ("tokens", "starts", "prompt_lengths", "rows")


@dataclass(frozen=True)
class TermFiles:
    """Where a term that holds the update lies. `checkpoint`: of its weights. `importance`: the
    file, verified by who writes this, for no process hashes it again; None: nothing of this term
    is held."""

    checkpoint: Path
    importance: Path | None


@dataclass(frozen=True)
class Learning:
    """`start`: the checkpoint that learns. `terms`: what its line taught, oldest first, the last of
    `start` itself; None: nothing was learnt before. `trace`: what is recorded on the way, as
    `updater.train.fit` takes it."""

    KIND: ClassVar = "learning"

    start: Path
    training: TrainingSettings
    regularizer: RegularizerSettings
    terms: tuple[TermFiles, ...] | None
    trace: str

    def write(self, folder: Path, lesson: Lesson) -> None:
        """The folder says all of it."""
        _write_lesson(folder, lesson)
        _write(folder, self, sharded=self.training.sharded)

    @classmethod
    def read(cls, folder: Path) -> tuple["Learning", Lesson]:
        """What `write` wrote."""
        told = read_json(folder / _TASK)["told"]
        terms = told["terms"]
        task = cls(
            start=Path(told["start"]),
            training=_training(told["training"]),
            regularizer=RegularizerSettings(**told["regularizer"]),
            terms=None if terms is None else tuple(map(_term, terms)),
            trace=told["trace"],
        )
        return task, _read_lesson(folder)


@dataclass(frozen=True)
class Weighing:
    """How much the weights of the checkpoint matter: the arguments of
    `updater.train.importance.estimate`, and how the weights are trained."""

    KIND: ClassVar = "weighing"

    checkpoint: Path
    training: TrainingSettings
    estimator: str
    form: str
    checkpoint_digest: str
    data_digest: str

    def write(self, folder: Path, examples: Encoded) -> None:
        """The folder says all of it."""
        _write_examples(folder / _EXAMPLES, examples)
        _write(folder, self, sharded=self.training.sharded)

    @classmethod
    def read(cls, folder: Path) -> tuple["Weighing", Encoded]:
        """What `write` wrote."""
        told = read_json(folder / _TASK)["told"]
        told |= {
            "checkpoint": Path(told["checkpoint"]),
            "training": _training(told["training"]),
        }
        return cls(**told), _read_examples(folder / _EXAMPLES)[0]


@dataclass(frozen=True)
class Drafting:
    """The head of the checkpoint, which has learnt, is to learn as much. `training`: how the
    checkpoint was trained, by the nodes that see to this. `batch_size`: of what is asked before and
    after."""

    KIND: ClassVar = "drafting"

    checkpoint: Path
    training: TrainingSettings
    batch_size: int

    def write(self, folder: Path, lesson: Lesson, asked: Encoded) -> None:
        """The folder says all of it."""
        _write_lesson(folder, lesson)
        _write_examples(folder / _ASKED, asked)
        _write(folder, self, sharded=self.training.sharded)

    @classmethod
    def read(cls, folder: Path) -> tuple["Drafting", Lesson, Encoded]:
        """What `write` wrote."""
        told = read_json(folder / _TASK)["told"]
        told |= {
            "checkpoint": Path(told["checkpoint"]),
            "training": _training(told["training"]),
        }
        return cls(**told), _read_lesson(folder), _read_examples(folder / _ASKED)[0]


@dataclass(frozen=True)
class Asking:
    """What the checkpoint says to the examples of `names`, tables: the arguments of
    `updater.evaluate.outcomes`. `sharded`: whether each process has a part of the weights alone;
    `gather_bytes`: as of `updater.train.shards.shard`."""

    KIND: ClassVar = "asking"

    checkpoint: Path
    names: tuple[str, ...]
    sharded: bool
    batch_size: int
    max_length_tokens: int
    gather_bytes: int

    def write(self, folder: Path, tables: Mapping[str, pa.Table]) -> None:
        """The folder says all of it."""
        for number, name in enumerate(self.names):
            pq.write_table(tables[name], self.examples(folder, number))
        _write(folder, self, sharded=self.sharded)

    @classmethod
    def read(cls, folder: Path) -> "Asking":
        """What `write` wrote."""
        told = read_json(folder / _TASK)["told"]
        return cls(**told | {"checkpoint": Path(told["checkpoint"]), "names": tuple(told["names"])})

    @staticmethod
    def examples(folder: Path, number: int) -> Path:
        """Where the table of that number lies."""
        return folder / f"examples-{number}.parquet"


def is_told(folder: Path) -> bool:
    """Whether there is a task in the folder."""
    return (folder / _TASK).exists()


def kind_of(folder: Path) -> str:
    """Which of them the folder tells."""
    return str(read_json(folder / _TASK)["kind"])


def saves_state(folder: Path) -> bool:
    """Whether what it tells goes on after a kill, and does not begin again."""
    return kind_of(folder) in (Learning.KIND, Drafting.KIND)


def is_sharded(folder: Path) -> bool:
    """Whether each process has a part of the weights alone."""
    return bool(read_json(folder / _TASK)["sharded"])


def _write(folder: Path, task: Learning | Weighing | Drafting | Asking, *, sharded: bool) -> None:
    told = json.loads(json.dumps(asdict(task), default=str))
    write_json(folder / _TASK, {"kind": task.KIND, "sharded": sharded, "told": told})


def _training(told: dict[str, Any]) -> TrainingSettings:
    search: dict[str, Any] = told.pop("search")
    for name, value in search.items():
        if isinstance(value, list):
            search[name] = tuple(value)
    return TrainingSettings(**told, search=SearchSettings(**search))


def _term(told: dict[str, str | None]) -> TermFiles:
    importance = told["importance"]
    return TermFiles(
        Path(str(told["checkpoint"])), None if importance is None else Path(importance)
    )


def _write_lesson(folder: Path, lesson: Lesson) -> None:
    _write_examples(folder / _EXAMPLES, lesson.examples, num_new=lesson.num_new)


def _read_lesson(folder: Path) -> Lesson:
    examples, about = _read_examples(folder / _EXAMPLES)
    return Lesson(examples, about["num_new"])


def _write_examples(file: Path, examples: Encoded, **about: int) -> None:
    arrays = {name: getattr(examples, name) for name in _ARRAYS}
    told = json.dumps(about | {"too_long": examples.too_long})
    save_file(arrays, file, {"about": told})


def _read_examples(file: Path) -> tuple[Encoded, dict[str, Any]]:
    with safe_open(file, framework="np") as stream:
        about = json.loads(stream.metadata()["about"])
        arrays: dict[str, np.ndarray] = {name: stream.get_tensor(name) for name in _ARRAYS}
    return Encoded(**arrays, too_long=tuple(about["too_long"])), about
