"""What one process would do alone, done by many: a training, a head's, an importance, outcomes.

Each hands over a folder and waits. A backbone's training goes over all nodes; the others do too, or
are done by this node's devices alone, as `training.nodes_for` says. `calls`: as of `processes.run`.
Called by the steps of `updater.pipeline`.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from updater.errors import CrashError
from updater.launch import answer, processes
from updater.launch.task import Asking, Drafting, Learning, Weighing
from updater.progress import Progress
from updater.settings import TrainingSettings
from updater.train.encode import Encoded
from updater.train.fit import Fit
from updater.train.lesson import Lesson
from updater.train.record import Watch
from updater.train.schedule import Plan

Metrics = dict[str, float]


def fit(
    task: Learning, lesson: Lesson, *, folder: Path, watch: Watch, calls: Path | None = None
) -> Fit:
    """The checkpoint `folder / answer.LEARNT` has learnt the lesson, by the processes that
    `task.training` asks for. As `updater.train.fit.fit`: called again after a kill it goes on.

    Raises:
        InputError, UpdateError: as `updater.train.fit.fit`, and `processes.run`.
    """
    _prepare(folder)
    task.write(folder, lesson)
    _train(task.training, lesson, folder, watch, calls)
    return answer.read_fit(folder)


def align(
    task: Drafting,
    lesson: Lesson,
    asked: Encoded,
    *,
    folder: Path,
    watch: Watch,
    calls: Path | None = None,
) -> dict[str, Any]:
    """The checkpoint `folder / answer.LEARNT` is the task's with its head aligned, and what is to
    be said of that: as `updater.launch.draft.aligned`. Called again after a kill it goes on.

    Raises:
        InputError, UpdateError: as `updater.train.fit.fit`, and `processes.run`.
    """
    _prepare(folder)
    task.write(folder, lesson, asked)
    _train(task.training, lesson, folder, watch, calls)
    return answer.told(folder)


def _train(
    training: TrainingSettings, lesson: Lesson, folder: Path, watch: Watch, calls: Path | None
) -> None:
    steps = Plan(lesson, training).num_steps
    with Progress(watch.title, steps, unit="steps", shown=watch.progress) as progress:

        def tell(step: int, metrics: Metrics) -> None:
            watch.on_metrics(step, metrics)
            progress.set_postfix_str(f"loss {metrics['train/loss']:.3f}", refresh=False)
            progress.reach(step)

        processes.run(training, folder, calls=calls, on_metrics=tell)


def estimate(
    task: Weighing,
    examples: Encoded,
    *,
    folder: Path,
    progress: bool,
    calls: Path | None = None,
) -> Path:
    """The file of the importance of the examples, as `regularizers.importance.save` writes it.

    Raises:
        InputError, UpdateError: as `updater.train.importance.estimate`, and `processes.run`.
    """
    _prepare(folder)
    task.write(folder, examples)
    training = task.training.beside_training
    with Progress("importance", len(examples), shown=progress) as shown:

        def tell(done: int, _: Metrics) -> None:
            shown.reach(min(done, len(examples)))

        processes.run(training, folder, calls=calls, on_metrics=tell)
    return folder / answer.IMPORTANCE


class Answers(NamedTuple):
    """Of each table, in its order; and the seconds of the forward passes."""

    outcomes: Mapping[str, pa.Table]
    seconds: float


def outcomes(
    task: Asking,
    tables: Mapping[str, pa.Table],
    training: TrainingSettings,
    *,
    folder: Path,
    progress: bool,
    calls: Path | None = None,
) -> Answers:
    """What the checkpoint says to each of the tables' examples, as `updater.evaluate.outcomes`.

    Raises:
        InputError, UpdateError: as `updater.nemotron.checkpoint.load`, and `processes.run`.
    """
    _prepare(folder)
    task.write(folder, tables)
    num_examples = sum(table.num_rows for table in tables.values())
    with Progress("evaluate", num_examples, shown=progress) as shown:

        def tell(done: int, _: Metrics) -> None:
            shown.reach(min(done, num_examples))

        processes.run(training.beside_training, folder, calls=calls, on_metrics=tell)
    found = {
        name: pq.read_table(answer.outcomes(folder, number))
        for number, name in enumerate(task.names)
    }
    return Answers(found, float(answer.told(folder)["seconds"]))


@contextmanager
def passing(folder: Path) -> Iterator[None]:
    """The folder of a task that is done in the block is gone after it, but where the processes
    crashed: what they said is there."""
    try:
        yield
    except CrashError:
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)  # another machine may still write that it ends


def _prepare(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    answer.clear(folder)
