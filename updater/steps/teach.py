"""Part of step train: a checkpoint learns what the update has to teach, here or by many processes.

Not what becomes of the result: that is `updater.steps.train`'s, or a trial's of the search.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from store.ledger import Update
from updater.steps import importance as importance_step
from updater.steps.holdback import Tables
from updater.steps.student import Student
from updater.steps.trainings import training_of
from updater.workspace import Workspace

if TYPE_CHECKING:
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
    """The checkpoint `start` has learnt the tables, held by what its line was taught: here, or by
    many processes, which leave on the disk what they come to. `folder` keeps the training's state;
    `trace`: what is recorded on the way.

    Raises:
        InputError, UpdateError: as `updater.train.fit.fit`.
    """
    from updater.nemotron import tokenizer
    from updater.train.lesson import Lesson

    training = training_of(workspace, update)
    lesson = Lesson.of(
        tokenizer.read(start),
        tables.new,
        tables.rehearsed,
        max_length_tokens=workspace.settings.model.max_length_tokens,
        thinking=workspace.settings.training.train_thinking,
    )
    if training.num_processes > 1:
        from updater.launch import answer, together
        from updater.launch.task import Learning

        held_by = importance_step.files(workspace, update)
        task = Learning(start, training, workspace.settings.regularizer, held_by, trace)
        done = together.fit(task, lesson, folder=folder, calls=workspace.calls, watch=watch)
        return Taught(folder / answer.LEARNT, lesson, done)

    from updater.nemotron import checkpoint
    from updater.train.adapt import frozen_dtype
    from updater.train.fit import fit

    dtype = frozen_dtype(training, checkpoint.check(start))
    student = Student(*checkpoint.load(start, dtype=dtype))
    # What was whole in main memory is gone with this call: the guards have what they need of it.
    guards = importance_step.memory(workspace, update, student.model).guards(
        workspace.settings.regularizer, student.model, lesson, progress=watch.progress
    )
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
