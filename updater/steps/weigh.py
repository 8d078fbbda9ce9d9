"""Part of step importance: one term's importance is estimated, here or by many processes.

What has been estimated is the cache's (`updater.steps.importance`), and not looked for here.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from rehearsal import window
from updater.steps.terms import Term, estimator_of
from updater.stopwatch import Stopwatch
from updater.workspace import Workspace

if TYPE_CHECKING:
    from updater.train.encode import Encoded


def estimate(workspace: Workspace, term: Term, file: Path, watch: Stopwatch) -> None:
    """The term's importance lies at `file`; `watch` is told how long that took.

    Raises:
        UpdateError: the weights have none, they diverge.
    """
    from updater.nemotron import tokenizer
    from updater.train.encode import encode

    folder = workspace.checkpoints.local(term.version.digest)
    table = window.load(
        term.sample, lambda version: workspace.datasets.path(version, "train.parquet")
    )
    longest = workspace.settings.model.max_length_tokens
    examples = encode(
        tokenizer.read(folder),
        table,
        max_length_tokens=longest,
        thinking=workspace.settings.training.train_thinking,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    many = workspace.settings.training.devices > 1
    (_together if many else _here)(workspace, term, folder, examples, file, watch)


def _here(
    workspace: Workspace,
    term: Term,
    folder: Path,
    examples: "Encoded",
    file: Path,
    watch: Stopwatch,
) -> None:
    """In this process, on one device."""
    from regularizers import importance as weights
    from updater.nemotron import checkpoint
    from updater.train.adapt import freeze, frozen_dtype
    from updater.train.importance import estimate

    training = workspace.settings.training
    dtype = frozen_dtype(training, checkpoint.check(folder))
    model, _ = checkpoint.load(folder, dtype=dtype)
    freeze(model, training)
    with watch:
        estimated = estimate(
            model,
            examples,
            estimator=estimator_of(workspace),
            checkpoint_digest=term.version.digest,
            data_digest=term.sample.digest,
            form=workspace.settings.regularizer.format,
            precision=training.precision,
            activation_checkpointing=training.activation_checkpointing,
            progress=workspace.progress,
        )
    weights.save(estimated, file)


def _together(
    workspace: Workspace,
    term: Term,
    folder: Path,
    examples: "Encoded",
    file: Path,
    watch: Stopwatch,
) -> None:
    """By as many processes as train on this node."""
    from updater.launch import together
    from updater.launch.task import Weighing

    task = Weighing(
        folder,
        workspace.settings.training.on_one_node,
        estimator=estimator_of(workspace),
        form=workspace.settings.regularizer.format,
        checkpoint_digest=term.version.digest,
        data_digest=term.sample.digest,
    )
    place = file.with_suffix(".processes")
    with watch:
        found = together.estimate(task, examples, folder=place, progress=workspace.progress)
    found.replace(file)
    shutil.rmtree(place)
