"""One of the processes that estimate one model's importance together.

Called by `updater.launch.worker`; for one process alone by `updater.steps.weigh`.
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from regularizers import importance
from updater.launch import answer
from updater.launch.task import Weighing
from updater.nemotron import checkpoint
from updater.train.adapt import freeze, frozen_dtype
from updater.train.encode import Encoded
from updater.train.importance import estimate
from updater.train.ranks import ALONE, Ranks
from updater.train.shards import arranged


def weigh(folder: Path, ranks: Ranks, device: str) -> None:
    """The importance lies in the folder."""
    task, examples = Weighing.read(folder)
    with ExitStack() as told:
        tell = None
        if ranks.first:
            metrics = told.enter_context(answer.metrics(folder))
            share = 1 if ranks.mesh is not None else ranks.world

            def tell(done: int) -> None:
                metrics(done * share, {})

        model = ready(task, device=device, ranks=ranks)
        found = weighed(model, task, examples, on_progress=tell, ranks=ranks)
    if ranks.first:
        importance.save(found, folder / answer.IMPORTANCE)
        answer.finish(folder, {})


def ready(
    task: Weighing, *, device: str | None = None, ranks: Ranks = ALONE
) -> NemotronHForCausalLM:
    """The task's checkpoint, loaded and frozen as its training would have it."""
    model, _ = checkpoint.load(
        task.checkpoint,
        device=device,
        dtype=frozen_dtype(task.training, checkpoint.check(task.checkpoint)),
        arranged=arranged(
            ranks.mesh,
            gather_bytes=task.training.gather_bytes,
            precision=task.training.precision,
        ),
    )
    freeze(model, task.training)
    return model


def weighed(
    model: NemotronHForCausalLM,
    task: Weighing,
    examples: Encoded,
    *,
    progress: bool = False,
    on_progress: Callable[[int], object] | None = None,
    ranks: Ranks = ALONE,
) -> importance.Importance:
    """What the task asks for of the model that is `ready`, by this process or with others:
    `updater.train.importance.estimate`."""
    return estimate(
        model,
        examples,
        estimator=task.estimator,
        checkpoint_digest=task.checkpoint_digest,
        data_digest=task.data_digest,
        form=task.form,
        precision=task.training.precision,
        activation_checkpointing=task.training.activation_checkpointing,
        progress=progress,
        on_progress=on_progress,
        ranks=ranks,
    )
