"""Part of step train: of a checkpoint goes what [compression] takes away.

Here is what it is shown, and by which names that is kept: the Fisher is the one by which EWC holds
the next update at these weights, found in the same cache, so that either costs the other nothing.
The work is `updater.compress`'s.
"""

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rehearsal import window
from store.ledger import Update
from updater.files import read_json, write_json
from updater.settings import Settings
from updater.steps import importance
from updater.steps.holdback import Tables
from updater.steps.past import uniform_sample
from updater.steps.start import uncompressed
from updater.steps.terms import estimated
from updater.steps.weigh import encoded
from updater.stopwatch import Stopwatch
from updater.workspace import Workspace

if TYPE_CHECKING:
    from updater.compress.engine import Learnt
    from updater.compress.looking import Shown


def made(workspace: Workspace, update: Update) -> tuple[Path, dict[str, Any]]:
    """The base's uncompressed checkpoint, compressed, and what the step's result has to say."""
    assert update.base is not None, "only a version is compressed"
    base = workspace.ledger.model_version(update.base)
    begins = uncompressed(workspace, base).digest
    learnt = base.dataset_versions
    candidate, said = compressed(
        workspace, update, begins, learnt, partial(_past, workspace, learnt)
    )
    return candidate, {"num_steps": 0, "compute_seconds": said["compression"]["seconds"], **said}


def compressed(
    workspace: Workspace,
    update: Update,
    weights: str,
    datasets: Mapping[str, str],
    again: Callable[[], Tables],
) -> tuple[Path, dict[str, Any]]:
    """The checkpoint of that digest, compressed, in the update's folder.

    Args:
        datasets: period -> dataset version of what it has learnt, of which it is shown examples.
        again: gives what a recovery learns.

    Raises:
        InputError: it has not what should go, or too little would stay.
        UpdateError: the weights have no Fisher, they diverge.
    """
    from updater.compress.engine import compress

    folder = workspace.run_folder(update.id)
    target, told = folder / "compressed", folder / "compressed.json"
    if target.exists() and told.exists():
        return target, read_json(told)
    whole = workspace.checkpoints.local(weights)
    watch = Stopwatch()
    shown = _shown(workspace, weights, datasets, watch)
    shutil.rmtree(target, ignore_errors=True)
    with watch:
        found = compress(
            whole,
            target,
            workspace.settings.compression,
            shown,
            learnt=_learnt(workspace, whole, again),
            work=folder / "compressing",
        )
    write_json(folder / "taken_away.json", {"gone": found.gone, "zeros": found.zeros})
    said = {"uncompressed": weights, "compression": {**found.as_dict(), "seconds": watch.seconds}}
    write_json(told, said)
    return target, said


def _past(workspace: Workspace, datasets: Mapping[str, str]) -> Tables:
    """Of all that was learnt a uniform sample."""
    num_train = sum(workspace.ledger.dataset_version(d).num_train for d in datasets.values())
    sample = uniform_sample(workspace, datasets, workspace.settings.rehearsal.sample(num_train))
    return Tables(
        window.load(sample, lambda version: workspace.datasets.path(version, "train.parquet")), None
    )


def _learnt(workspace: Workspace, folder: Path, again: Callable[[], Tables]) -> "Learnt | None":
    settings = workspace.settings
    if settings.compression.recovery == "none":
        return None
    from updater.compress.engine import Learnt
    from updater.nemotron import tokenizer
    from updater.train.lesson import Lesson
    from updater.train.record import Watch

    tables = again()
    lesson = Lesson.of(
        tokenizer.read(folder),
        tables.new,
        tables.rehearsed,
        max_length_tokens=settings.model.max_length_tokens,
        thinking=settings.training.train_thinking,
    )
    return Learnt(lesson, settings.training, Watch(progress=workspace.progress, title="recover"))


def _shown(
    workspace: Workspace, weights: str, datasets: Mapping[str, str], watch: Stopwatch
) -> "Shown":
    from updater.compress.looking import Shown

    settings = workspace.settings
    folder, looks = workspace.checkpoints.local(weights), settings.compression.looks
    whole = workspace.tuned(_weighing(settings))
    estimator = settings.regularizer.estimated_by
    training = settings.training
    shown = Shown(
        estimator,
        training.seed,
        workspace.progress,
        precision=training.precision,
        activation_checkpointing=training.activation_checkpointing,
    )
    if looks == "fisher":
        term = estimated(whole, weights, datasets)
        shown = dataclasses.replace(shown, fisher=importance.checked(whole, term, watch))
    if settings.compression.needs_examples:
        sample = uniform_sample(workspace, datasets, settings.compression.num_examples)
        shown = dataclasses.replace(shown, examples=encoded(workspace, folder, sample))
    return shown


def _weighing(settings: Settings) -> Settings:
    """The same, but for what keeps a weight without an estimate: LoRA's are of what it moves alone,
    and what a training recorded is not of its end."""
    regularizer = settings.regularizer
    return dataclasses.replace(
        settings,
        regularizer=dataclasses.replace(
            regularizer, method="ewc", estimator=regularizer.estimated_by, terms="base"
        ),
        training=dataclasses.replace(settings.training, adapt="full"),
    )
