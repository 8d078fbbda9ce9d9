"""Part of step importance: one term's importance is estimated, here or by many processes.

What has been estimated is the cache's (`updater.steps.importance`), and not looked for here.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from rehearsal import window
from rehearsal.manifest import Manifest
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
    from updater.launch.task import Weighing

    folder = workspace.checkpoints.local(term.weights)
    examples = encoded(workspace, folder, term.sample)
    file.parent.mkdir(parents=True, exist_ok=True)
    task = Weighing(
        folder,
        workspace.settings.training.beside_training,
        estimator=estimator_of(workspace),
        form=workspace.settings.regularizer.format,
        checkpoint_digest=term.weights,
        data_digest=term.sample.digest,
    )
    if task.training.num_processes == 1:
        from regularizers import importance
        from updater.launch.weigh import ready, weighed

        model = ready(task)
        with watch:
            found = weighed(model, task, examples, progress=workspace.progress)
        importance.save(found, file)
        return
    from updater.launch import together

    place = file.with_suffix(".processes")
    with together.passing(place):
        with watch:
            made = together.estimate(
                task, examples, folder=place, calls=workspace.calls, progress=workspace.progress
            )
        made.replace(file)


def encoded(workspace: Workspace, folder: Path, sample: Manifest) -> "Encoded":
    """The examples that the sample names, as the checkpoint in the folder reads them."""
    from updater.nemotron import tokenizer
    from updater.train.encode import encode

    return encode(
        tokenizer.read(folder),
        window.load(sample, lambda version: workspace.datasets.path(version, "train.parquet")),
        max_length_tokens=workspace.settings.model.max_length_tokens,
        thinking=workspace.settings.training.train_thinking,
    )
