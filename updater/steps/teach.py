"""Part of step train: a checkpoint learns what the update has to teach, here or by many processes.

Not the trials of a search (`updater.steps.search`), and not what becomes of the result
(`updater.steps.train`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from store.ledger import Update
from updater.settings import TrainingSettings
from updater.steps import importance as importance_step
from updater.steps import traces
from updater.steps.holdback import Tables
from updater.steps.registration import training_of
from updater.steps.student import Student
from updater.workspace import Workspace

if TYPE_CHECKING:
    from updater.train.fit import Fit
    from updater.train.guards import Guards
    from updater.train.lesson import Lesson
    from updater.train.record import Watch


def check_devices(training: TrainingSettings) -> None:
    """This machine has what the training asks of it.

    Raises:
        InputError: it has not.
    """
    if training.num_processes > 1:
        from updater.launch import together

        together.check(training)


class Ready(NamedTuple):
    """A student before it learns its lesson, and what will hold it meanwhile."""

    student: Student
    lesson: "Lesson"
    guards: "Guards"


def ready(
    workspace: Workspace, update: Update, start: Path, tables: Tables, *, progress: bool
) -> Ready:
    """The checkpoint `start` is loaded, the tables are tokens, and the guards know its weights."""
    from updater.nemotron import checkpoint
    from updater.train.adapt import frozen_dtype
    from updater.train.lesson import Lesson

    dtype = frozen_dtype(training_of(workspace, update), checkpoint.check(start))
    student = Student(*checkpoint.load(start, dtype=dtype))
    longest = workspace.settings.model.max_length_tokens
    lesson = Lesson.of(student.tokenizer, tables.new, tables.rehearsed, max_length_tokens=longest)
    memory = importance_step.memory(workspace, update, student.model)
    regularizer = workspace.settings.regularizer
    guards = memory.guards(regularizer, student.model, lesson, progress=progress)
    return Ready(student, lesson, guards)


class Taught(NamedTuple):
    """Who has learnt the lesson, in memory or on the disk, and how that went."""

    learnt: Student | Path
    lesson: "Lesson"
    done: "Fit"


def _here(
    workspace: Workspace, update: Update, start: Path, tables: Tables, watch: "Watch"
) -> Taught:
    """In this process, on one device."""
    from updater.train.fit import fit

    student, lesson, guards = ready(workspace, update, start, tables, progress=watch.progress)
    done = fit(
        student.model,
        lesson,
        training=training_of(workspace, update),
        guards=guards,
        folder=workspace.run_folder(update.id) / "training",
        watch=watch,
        trace=traces.trace_of(workspace),
    )
    return Taught(student, lesson, done)


def _together(
    workspace: Workspace, update: Update, start: Path, tables: Tables, watch: "Watch"
) -> Taught:
    """By many processes, which leave on the disk what they come to."""
    from updater.launch import answer
    from updater.launch import together as processes
    from updater.launch.task import Task
    from updater.nemotron import tokenizer
    from updater.train.lesson import Lesson

    longest = workspace.settings.model.max_length_tokens
    lesson = Lesson.of(
        tokenizer.read(start), tables.new, tables.rehearsed, max_length_tokens=longest
    )
    task = Task(
        start,
        training_of(workspace, update),
        workspace.settings.regularizer,
        importance_step.files(workspace, update),
        traces.trace_of(workspace),
    )
    folder = workspace.run_folder(update.id) / "training"
    done = processes.fit(task, lesson, folder=folder, watch=watch)
    return Taught(folder / answer.LEARNT, lesson, done)


def learn(
    workspace: Workspace, update: Update, start: Path, tables: Tables, watch: "Watch"
) -> Taught:
    """The checkpoint `start` has learnt the tables, held by what its line was taught.

    Raises:
        InputError, UpdateError: as `updater.train.fit.fit`.
    """
    many = training_of(workspace, update).num_processes > 1
    return (_together if many else _here)(workspace, update, start, tables, watch)
