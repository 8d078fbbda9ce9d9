"""One of the processes that teach one checkpoint's head to draft for it together.

Called by `updater.launch.worker`; for one process alone by `updater.steps.drafts`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from updater.launch import answer
from updater.launch.export import export
from updater.launch.task import Drafting
from updater.nemotron import checkpoint, mtp
from updater.settings import TrainingSettings
from updater.train.adapt import freeze, resting_dtype
from updater.train.drafting import DraftLikelihood, acceptance, freeze_backbone
from updater.train.encode import Encoded
from updater.train.fit import fit
from updater.train.guards import Guards
from updater.train.lesson import Lesson
from updater.train.ranks import ALONE, Ranks
from updater.train.record import Watch
from updater.train.shards import arranged, arranged_head, reshard


def draft(folder: Path, ranks: Ranks, device: str) -> None:
    """The checkpoint with its head aligned lies in the folder."""
    task, lesson, asked = Drafting.read(folder)
    model = ready(task, device=device, ranks=ranks)
    with answer.watch(folder, ranks) as watch:
        found = aligned(model, task, lesson, asked, folder=folder, watch=watch, ranks=ranks)
    if ranks.first:
        answer.finish(folder, found)


def ready(
    task: Drafting, *, device: str | None = None, ranks: Ranks = ALONE
) -> NemotronHForCausalLM:
    """The task's checkpoint with its head, of which alone anything takes a gradient."""
    contents, most = checkpoint.check(task.checkpoint), task.training.gather_bytes
    model, _ = checkpoint.load(
        task.checkpoint,
        device=device,
        dtype=resting_dtype(task.training, contents),
        arranged=arranged(ranks.mesh, gather_bytes=most),
    )
    head = arranged_head(ranks.mesh, gather_bytes=most)
    mtp.attach(task.checkpoint, model, arranged=head)
    freeze_backbone(model)
    freeze(model, _of_head(task.training))  # before anything goes forward
    return model


def aligned(
    model: NemotronHForCausalLM,
    task: Drafting,
    lesson: Lesson,
    asked: Encoded,
    *,
    folder: Path,
    watch: Watch,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """The head of the model that is `ready` has learnt the lesson, by this process or with others,
    and the checkpoint with it is `folder / answer.LEARNT`, whose backbone is that of the task's
    byte for byte. What is to be said of it: what part of the head's drafts was accepted, over
    `asked`, before and after, and how the training went."""
    before = acceptance(model, asked, task.batch_size, ranks)
    if ranks.mesh is not None:
        reshard(model)
    done = fit(
        model,
        lesson,
        training=_of_head(task.training),
        guards=Guards(objective=DraftLikelihood()),
        folder=folder,
        watch=watch,
        ranks=ranks,
    )
    after = acceptance(model, asked, task.batch_size, ranks)
    head = model.get_submodule("mtp").state_dict(prefix="mtp.")
    export(head, task.checkpoint, folder / answer.LEARNT, ranks)
    return {
        "acceptance_before": before,
        "acceptance_after": after,
        "num_examples": len(asked),
        "num_steps": done.num_steps,
        "compute_seconds": done.seconds,
    }


def _of_head(training: TrainingSettings) -> TrainingSettings:
    """All of a head is trained, however its backbone was, whose routers' biases stay."""
    return replace(training, adapt="full", router_bias_rate=0.0)
