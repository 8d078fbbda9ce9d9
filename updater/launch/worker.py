"""One of the processes that train one model together, as torchrun starts it:

    python -m torch.distributed.run --nproc-per-node 2 -m updater.launch.worker FOLDER

FOLDER holds the task (`updater.launch.task`), then the run's state, and in the end what came of
it. Talks to no store; the first of the processes writes, and is heard.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from regularizers import importance
from regularizers.consolidate import Held
from regularizers.formats import Weight
from regularizers.methods import method_of
from updater.errors import InputError, UpdateError
from updater.launch import answer
from updater.launch.task import Task
from updater.launch.torchrun import end_with_parent
from updater.nemotron import checkpoint
from updater.train.adapt import frozen_dtype
from updater.train.fit import fit
from updater.train.lesson import Lesson
from updater.train.memory import Memory, ones
from updater.train.ranks import Ranks
from updater.train.record import Watch
from updater.train.shards import gathered, shard


def main() -> None:
    """The task in the folder of the first argument is done, or why not stands there."""
    end_with_parent()
    folder = Path(sys.argv[1])
    task, lesson = Task.read(folder)
    with _joined(task) as (ranks, device):
        try:
            _learn(task, lesson, folder, ranks, device)
        except (InputError, UpdateError) as error:
            if ranks.first:
                answer.refuse(folder, error)
            raise SystemExit(1) from error
        except Exception as error:
            answer.crash(folder, ranks.rank, error)
            raise


@contextmanager
def _joined(task: Task) -> Iterator[tuple[Ranks, str]]:
    """This process among the others, and the device that is its own."""
    local_rank = int(os.environ["LOCAL_RANK"])
    device = "cpu"
    if torch.cuda.is_available():
        device = f"cuda:{local_rank}"
        torch.cuda.set_device(local_rank)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device != "cpu" else "gloo")
    try:
        rank, world = distributed.get_rank(), distributed.get_world_size()
        mesh = None
        if task.training.sharded:
            mesh = init_device_mesh(device.partition(":")[0], (world,))
        yield Ranks(rank, world, mesh), device
    finally:
        distributed.destroy_process_group()


def _learn(task: Task, lesson: Lesson, folder: Path, ranks: Ranks, device: str) -> None:
    dtype = frozen_dtype(task.training, checkpoint.check(task.start))
    mesh = ranks.mesh
    arranged = None if mesh is None else lambda model: shard(model, mesh)
    model, _ = checkpoint.load(task.start, device=device, dtype=dtype, arranged=arranged)
    if not task.training.train_routers:  # before anything goes forward
        checkpoint.freeze_routers(model)
    memory = _memory(task, model)
    with answer.Metrics(folder, written=ranks.first) as metrics:
        done = fit(
            model,
            lesson,
            training=task.training,
            guards=memory.guards(task.regularizer, model, lesson),
            folder=folder,
            watch=Watch(metrics.add, progress=False),
            trace=task.trace,
            ranks=ranks,
        )
    state = gathered(model.state_dict(), kept=ranks.first)
    if ranks.first:
        checkpoint.export_state(state, task.start, folder / answer.LEARNT)
        answer.write(folder, done)


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
