"""Part of step train: the checkpoint's multi-token-prediction head drafts for the new backbone.

By `training.mtp`: "keep" leaves the base's head as it is, which goes on drafting for a backbone
that has moved; "align" trains it on what the update learnt. Drafts decide how fast a serving stack
is, and never what it says. The training is `updater.launch.draft`'s.
"""

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from store.ledger import Update
from updater.steps.trainings import training_of
from updater.workspace import Workspace

if TYPE_CHECKING:
    from updater.train.encode import Encoded
    from updater.train.lesson import Lesson

_NUM_EXAMPLES = 256
"""Holdout examples of the new periods that acceptance is measured on, at most: some thousand
drafts, whose share has a standard error of about a point."""


def align(
    workspace: Workspace, update: Update, learnt: Path, lesson: "Lesson"
) -> tuple[Path, dict[str, Any]]:
    """The checkpoint `learnt` with its head aligned to what it has learnt, by this process or by
    many, and what the train step's result has to say of that.

    Raises:
        InputError, UpdateError: as `updater.train.fit.fit`.
    """
    from updater.launch import answer
    from updater.launch.task import Drafting
    from updater.train.record import Watch

    training = training_of(workspace, update).beside_training
    task = Drafting(learnt, training, workspace.settings.evaluation.batch_size)
    asked = _asked(workspace, update, learnt)
    folder = workspace.run_folder(update.id) / "drafting"
    watch = Watch(progress=workspace.progress, title="align")
    if training.num_processes == 1:
        from updater.launch.draft import aligned, ready

        gc.collect()  # a model that Lightning has trained is in circles, and would be there beside
        found = aligned(ready(task), task, lesson, asked, folder=folder, watch=watch)
    else:
        from updater.launch import together

        found = together.align(
            task, lesson, asked, folder=folder, calls=workspace.calls, watch=watch
        )
    return folder / answer.LEARNT, {"mtp": found | {"num_devices": training.num_processes}}


def _asked(workspace: Workspace, update: Update, learnt: Path) -> "Encoded":
    from updater.nemotron import tokenizer
    from updater.train.encode import encode

    versions = update.config["datasets"].values()
    holdout = pa.concat_tables(
        [
            pq.read_table(workspace.datasets.path(version, "holdout.parquet"))
            for version in versions
        ],
        promote_options="default",
    )
    longest = workspace.settings.model.max_length_tokens
    examples = holdout[:_NUM_EXAMPLES]
    return encode(tokenizer.read(learnt), examples, max_length_tokens=longest)
