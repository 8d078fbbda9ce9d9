"""Part of step importance: one term's importance is estimated, here or by many processes.

What has been estimated is the cache's (`updater.steps.importance`), and not looked for here.
"""

import shutil
from pathlib import Path

from rehearsal import window
from updater.steps.terms import Term, estimator_of
from updater.stopwatch import Stopwatch
from updater.workspace import Workspace


def estimate(workspace: Workspace, term: Term, file: Path, watch: Stopwatch) -> None:
    """The term's importance lies at `file`; `watch` is told how long that took.

    Raises:
        UpdateError: the weights have none, they diverge.
    """
    from updater.launch.task import Weighing
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
    task = Weighing(
        folder,
        workspace.settings.training.on_one_node,
        estimator=estimator_of(workspace),
        form=workspace.settings.regularizer.format,
        checkpoint_digest=term.version.digest,
        data_digest=term.sample.digest,
    )
    if task.training.devices == 1:
        from regularizers import importance
        from updater.launch.weigh import ready, weighed

        model = ready(task)
        with watch:
            found = weighed(model, task, examples, progress=workspace.progress)
        importance.save(found, file)
        return
    from updater.launch import together

    place = file.with_suffix(".processes")
    with watch:
        made = together.estimate(task, examples, folder=place, progress=workspace.progress)
    made.replace(file)
    shutil.rmtree(place)
