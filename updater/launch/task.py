"""What the processes of one training are told, as files in one folder.

The stores are the launching process's alone: whatever it knows from them stands here. Written by
`updater.launch.together`, read by each `updater.launch.worker`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from updater.files import read_json, write_json
from updater.settings import RegularizerSettings, SearchSettings, TrainingSettings
from updater.train.encode import Encoded
from updater.train.lesson import Lesson

_TASK, _LESSON = "task.json", "lesson.safetensors"
_ARRAYS = ("tokens", "starts", "prompt_lengths", "rows")


@dataclass(frozen=True)
class TermFiles:
    """Where a term that holds the update lies. `checkpoint`: of its weights. `importance`: the
    file; None: nothing of this term is held."""

    checkpoint: Path
    importance: Path | None


@dataclass(frozen=True)
class Task:
    """`start`: the checkpoint that learns. `terms`: what its line taught, oldest first, the last of
    `start` itself; None: nothing was learnt before. `trace`: what is recorded on the way, as
    `updater.train.fit` takes it."""

    start: Path
    training: TrainingSettings
    regularizer: RegularizerSettings
    terms: tuple[TermFiles, ...] | None
    trace: str

    def write(self, folder: Path, lesson: Lesson) -> None:
        """The folder says all of it."""
        arrays = {name: getattr(lesson.examples, name) for name in _ARRAYS}
        about = {"num_new": lesson.num_new, "too_long": lesson.examples.too_long}
        save_file(arrays, folder / _LESSON, {"about": json.dumps(about)})
        write_json(folder / _TASK, json.loads(json.dumps(asdict(self), default=str)))

    @classmethod
    def read(cls, folder: Path) -> tuple["Task", Lesson]:
        """What `write` wrote."""
        told = read_json(folder / _TASK)
        search = SearchSettings(**_without_lists(told["training"].pop("search")))
        terms = told["terms"]
        task = cls(
            start=Path(told["start"]),
            training=TrainingSettings(**told["training"], search=search),
            regularizer=RegularizerSettings(**told["regularizer"]),
            terms=None if terms is None else tuple(map(_term, terms)),
            trace=told["trace"],
        )
        return task, _lesson(folder / _LESSON)


def _without_lists(section: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in section.items()}


def _term(told: dict[str, str | None]) -> TermFiles:
    importance = told["importance"]
    return TermFiles(
        Path(str(told["checkpoint"])), None if importance is None else Path(importance)
    )


def _lesson(file: Path) -> Lesson:
    with safe_open(file, framework="np") as stream:
        about = json.loads(stream.metadata()["about"])
        arrays: dict[str, np.ndarray] = {name: stream.get_tensor(name) for name in _ARRAYS}
    return Lesson(Encoded(**arrays, too_long=tuple(about["too_long"])), about["num_new"])
