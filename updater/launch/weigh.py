"""One of the processes that estimate one model's importance together.

Called by `updater.launch.worker`.
"""

from contextlib import ExitStack
from pathlib import Path

from regularizers import importance
from updater.launch import answer
from updater.launch.task import Weighing
from updater.nemotron import checkpoint
from updater.train.adapt import freeze, frozen_dtype
from updater.train.importance import estimate
from updater.train.ranks import Ranks
from updater.train.shards import arranged


def weigh(folder: Path, ranks: Ranks, device: str) -> None:
    """The importance lies in the folder."""
    task, examples = Weighing.read(folder)
    dtype = frozen_dtype(task.training, checkpoint.check(task.checkpoint))
    model, _ = checkpoint.load(
        task.checkpoint, device=device, dtype=dtype, arranged=arranged(ranks.mesh)
    )
    freeze(model, task.training)
    with ExitStack() as told:
        tell = None
        if ranks.first:
            metrics = told.enter_context(answer.metrics(folder))
            share = 1 if ranks.mesh is not None else ranks.world

            def tell(done: int) -> None:
                metrics(done * share, {})

        found = estimate(
            model,
            examples,
            estimator=task.estimator,
            checkpoint_digest=task.checkpoint_digest,
            data_digest=task.data_digest,
            form=task.form,
            precision=task.training.precision,
            activation_checkpointing=task.training.activation_checkpointing,
            progress=False,
            on_progress=tell,
            ranks=ranks,
        )
    if ranks.first:
        importance.save(found, folder / answer.IMPORTANCE)
        answer.finish(folder, {})
