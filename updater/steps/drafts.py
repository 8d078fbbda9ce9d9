"""Part of step train: the checkpoint's multi-token-prediction head drafts for the new backbone.

By `training.mtp`: "keep" leaves the base's head as it is, which goes on drafting for a backbone
that has moved; "align" trains it on what the update learnt. Drafts decide how fast a serving stack
is, and never what it says. The training is `updater.train.drafting`'s.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from store.ledger import Update
from updater.errors import InputError
from updater.settings import TrainingSettings
from updater.steps.student import Student
from updater.workspace import Workspace

if TYPE_CHECKING:
    from updater.train.encode import Encoded
    from updater.train.lesson import Lesson

_NUM_EXAMPLES = 256
"""Holdout examples of the new periods that acceptance is measured on, at most: some thousand
drafts, whose share has a standard error of about a point."""


def check(training: TrainingSettings, base: Path) -> None:
    """What `training.mtp` asks for can be done to the checkpoint in the folder.

    Raises:
        InputError: it has no head to align.
    """
    if training.mtp != "align":
        return
    from updater.nemotron.mtp import has_head

    if not has_head(base):
        raise InputError(
            f'training.mtp = "align", but {base} has no multi-token-prediction head',
            "only a head that is there can be aligned",
            'take training.mtp = "keep", or the release with its mtp.* tensors',
        )


def align(
    workspace: Workspace,
    update: Update,
    base: Path,
    student: Student,
    lesson: "Lesson",
    training: TrainingSettings,
) -> dict[str, Any]:
    """The student's model has learnt, and the head of `base` now drafts for it; what the train
    step's result has to say of it, nothing where `training.mtp` is "keep"."""
    if training.mtp != "align":
        return {}
    from updater.nemotron import mtp
    from updater.train.drafting import DraftLikelihood, acceptance, drafting
    from updater.train.fit import fit
    from updater.train.guards import Guards
    from updater.train.record import Watch

    model = student.model
    mtp.attach(base, model)
    asked = _asked(workspace, update, student)
    batch_size = workspace.settings.evaluation.batch_size
    before = acceptance(model, asked, batch_size)
    with drafting(model):
        done = fit(
            model,
            lesson,
            training=replace(training.on_one_device, adapt="full"),
            guards=Guards(objective=DraftLikelihood()),
            folder=workspace.run_folder(update.id) / "drafting",
            watch=Watch(progress=workspace.progress),
        )
    after = acceptance(model, asked, batch_size)
    return {
        "mtp": {
            "acceptance_before": before,
            "acceptance_after": after,
            "num_examples": len(asked),
            "num_steps": done.num_steps,
            "compute_seconds": done.seconds,
        }
    }


def _asked(workspace: Workspace, update: Update, student: Student) -> "Encoded":
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
    return encode(student.tokenizer, holdout[:_NUM_EXAMPLES], max_length_tokens=longest)
