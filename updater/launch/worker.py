"""One of the processes that train one model together, as torchrun starts it:

    python -m torch.distributed.run --nproc-per-node 2 -m updater.launch.worker FOLDER

FOLDER holds the task (`updater.launch.task`), then the run's state, and in the end what came of
it. Talks to no store; the first of the processes writes, and is heard.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from regularizers import importance
from regularizers.anchor import QuadraticAnchor
from regularizers.consolidate import Held
from regularizers.formats import Weight
from regularizers.methods import method_of
from updater.errors import InputError, UpdateError
from updater.launch import answer
from updater.launch.parent import end_with_parent
from updater.launch.task import Task
from updater.nemotron import checkpoint
from updater.train.adapt import frozen_dtype
from updater.train.fit import fit
from updater.train.guards import Guards
from updater.train.lesson import Lesson
from updater.train.memory import Memory, ones
from updater.train.ranks import Ranks
from updater.train.record import Watch
from updater.train.shards import gathered, reshard, shard


def main() -> None:
    """The task in the folder of the first argument is done, or why not stands there."""
    end_with_parent()
    folder = Path(sys.argv[1])
    try:
        _train(folder)
    except (InputError, UpdateError) as error:
        answer.refuse(folder, error)
        raise SystemExit(1) from error
    except Exception as error:
        answer.crash(folder, int(os.environ["RANK"]), error)
        raise


def _train(folder: Path) -> None:
    task, lesson = Task.read(folder)
    device = "cpu"
    if torch.cuda.is_available():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    distributed.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl")
    rank, world = distributed.get_rank(), distributed.get_world_size()
    mesh = None
    if task.training.sharded:
        mesh = init_device_mesh(torch.device(device).type, (world,))
    _learn(task, lesson, folder, Ranks(rank, world, mesh), device)
    distributed.destroy_process_group()  # after an error it could wait for those that hang


def _learn(task: Task, lesson: Lesson, folder: Path, ranks: Ranks, device: str) -> None:
    dtype = frozen_dtype(task.training, checkpoint.check(task.start))
    mesh = ranks.mesh
    arranged = None if mesh is None else lambda model: shard(model, mesh)
    model, _ = checkpoint.load(task.start, device=device, dtype=dtype, arranged=arranged)
    if not task.training.train_routers:  # before anything goes forward
        checkpoint.freeze_routers(model)
    guards = _guards(task, model, lesson)
    if mesh is not None:
        reshard(model)
    with ExitStack() as told:
        watch = Watch(progress=False)
        if ranks.first:
            watch = Watch(told.enter_context(answer.metrics(folder)), progress=False)
        done = fit(
            model,
            lesson,
            training=task.training,
            guards=guards,
            folder=folder,
            watch=watch,
            trace=task.trace,
            ranks=ranks,
        )
    state = gathered(model.state_dict(), kept=ranks.first)
    if ranks.first:
        checkpoint.export_state(state, task.start, folder / answer.LEARNT)
        answer.write(folder, done)


def _guards(task: Task, model: NemotronHForCausalLM, lesson: Lesson) -> Guards:
    """What they hold is cut as the model is; what was whole is gone with this call."""
    guards = _memory(task, model).guards(task.regularizer, model, lesson)
    if isinstance(guards.anchor, QuadraticAnchor):
        guards.anchor.settle(dict(model.named_parameters()))
    return guards


def _memory(task: Task, model: NemotronHForCausalLM) -> Memory:
    if task.terms is None:
        return Memory()
    method = method_of(task.regularizer.method, task.regularizer.terms)
    if method is not None and method.source == "ones":
        return Memory.of(task.regularizer, [Held(dict(model.named_parameters()), ones(model))])
    return Memory.of(task.regularizer, _held(task, model))


def _held(task: Task, model: NemotronHForCausalLM) -> Iterator[Held]:
    """One term after the other, oldest first. A single one is anchored at the model's own weights,
    in shards as they are; several are consolidated, and for that have to be whole."""
    assert task.terms is not None, "asked only where something was learnt"
    for term in task.terms:
        weights = model
        if len(task.terms) > 1:
            weights, _ = checkpoint.load(term.checkpoint, device="cpu")
        found: dict[str, Weight] = {}
        if term.importance is not None:
            found |= importance.load(term.importance).in_format(task.regularizer.format).tensors
        yield Held({name: p.detach() for name, p in weights.named_parameters()}, found)


if __name__ == "__main__":
    main()
