"""Part of step train: a checkpoint learns what the update has to teach, here or by many processes.

Not what becomes of the result: that is `updater.steps.train`'s, or a trial's of the search.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from store.ledger import Update
from updater.steps import importance as importance_step
from updater.steps.holdback import Tables
from updater.steps.registration import training_of
from updater.steps.student import Student
from updater.workspace import Workspace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from updater.train.fit import Fit
    from updater.train.lesson import Lesson
    from updater.train.record import Watch


class Taught(NamedTuple):
    """Who has learnt the lesson, in memory or on the disk, and how that went."""

    learnt: Student | Path
    lesson: "Lesson"
    done: "Fit"


def learn(
    workspace: Workspace,
    update: Update,
    start: Path,
    tables: Tables,
    watch: "Watch",
    *,
    folder: Path,
    trace: str = "",
) -> Taught:
    """The checkpoint `start` has learnt the tables, held by what its line was taught. `folder`
    keeps the training's state; `trace`: what is recorded on the way.

    Raises:
        InputError, UpdateError: as `updater.train.fit.fit`.
    """
    many = training_of(workspace, update).num_processes > 1
    taught = _together if many else _here
    return taught(workspace, update, start, tables, watch, folder, trace)


def _here(
    workspace: Workspace,
    update: Update,
    start: Path,
    tables: Tables,
    watch: "Watch",
    folder: Path,
    trace: str,
) -> Taught:
    """In this process, on one device."""
    from updater.nemotron import checkpoint
    from updater.train.adapt import frozen_dtype
    from updater.train.fit import fit

    training = training_of(workspace, update)
    dtype = frozen_dtype(training, checkpoint.check(start))
    student = Student(*checkpoint.load(start, dtype=dtype))
    lesson = _lesson(workspace, student.tokenizer, tables)
    memory = importance_step.memory(workspace, update, student.model)
    regularizer = workspace.settings.regularizer
    guards = memory.guards(regularizer, student.model, lesson, progress=watch.progress)
    done = fit(
        student.model,
        lesson,
        training=training,
        guards=guards,
        folder=folder,
        watch=watch,
        trace=trace,
    )
    return Taught(student, lesson, done)


def _together(
    workspace: Workspace,
    update: Update,
    start: Path,
    tables: Tables,
    watch: "Watch",
    folder: Path,
    trace: str,
) -> Taught:
    """By many processes, which leave on the disk what they come to."""
    from updater.launch import answer, together
    from updater.launch.task import Learning
    from updater.nemotron import tokenizer

    lesson = _lesson(workspace, tokenizer.read(start), tables)
    task = Learning(
        start,
        training_of(workspace, update),
        workspace.settings.regularizer,
        importance_step.files(workspace, update),
        trace,
    )
    done = together.fit(task, lesson, folder=folder, watch=watch)
    return Taught(folder / answer.LEARNT, lesson, done)


def _lesson(workspace: Workspace, tokenizer: "PreTrainedTokenizerFast", tables: Tables) -> "Lesson":
    from updater.train.lesson import Lesson

    longest = workspace.settings.model.max_length_tokens
    return Lesson.of(
        tokenizer,
        tables.new,
        tables.rehearsed,
        max_length_tokens=longest,
        thinking=workspace.settings.training.train_thinking,
    )
