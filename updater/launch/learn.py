"""One of the processes that train one model together.

Writes the run's state in the task's folder, and in the end what came of it. Called by
`updater.launch.worker`.
"""

from collections.abc import Iterator
from pathlib import Path

from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from regularizers import stored
from regularizers.consolidate import Held
from regularizers.formats import Weight
from regularizers.methods import Method, method_of
from updater.launch import answer
from updater.launch.export import export
from updater.launch.task import Learning
from updater.nemotron import checkpoint
from updater.nemotron.dtypes import load_aside
from updater.train.adapt import freeze, frozen_dtype
from updater.train.fit import fit
from updater.train.memory import Memory, ones
from updater.train.ranks import Ranks
from updater.train.shards import arranged, gathered_in, reshard


def learn(folder: Path, ranks: Ranks, device: str) -> None:
    """The checkpoint that came of the training lies in the folder."""
    task, lesson = Learning.read(folder)
    dtype = frozen_dtype(task.training, checkpoint.check(task.start))
    cut = arranged(
        ranks.mesh,
        gather_bytes=task.training.gather_bytes,
        precision=gathered_in(task.training, task.regularizer.method),
        with_factors=task.training.factors_on_experts,
    )
    model, _ = checkpoint.load(task.start, device=device, dtype=dtype, arranged=cut)
    freeze(model, task.training)  # before anything goes forward
    # What was whole in memory is gone with this call: the guards' parts are cut as the model is.
    guards = _memory(task, model).guards(task.regularizer, model, lesson)
    if ranks.mesh is not None:
        reshard(model)
    with answer.watch(folder, ranks) as watch:
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
    export(model.state_dict(), task.start, folder / answer.LEARNT, ranks)
    if ranks.first:
        answer.write_fit(folder, done)


def _memory(task: Learning, model: NemotronHForCausalLM) -> Memory:
    if task.terms is None:
        return Memory()
    method = method_of(task.regularizer.method, task.regularizer.terms)
    if method is not None and method.source == "ones":
        return Memory.of(task.regularizer, [Held(dict(model.named_parameters()), ones(model))])
    if method is None or not task.terms:
        return Memory.of(task.regularizer, ())
    return Memory.of(task.regularizer, _held(task, method, model))


def _held(task: Learning, method: Method, model: NemotronHForCausalLM) -> Iterator[Held]:
    """One term after the other, oldest first. A single one is anchored at the model's own weights,
    in shards as they are, and so is its importance; several are consolidated, and for that have to
    be whole. Older weights are read where they count. The files were verified before there were any
    processes (`steps.importance.files`): one that hashes hundreds of gigabytes here would have the
    others wait longer than NCCL does."""
    assert task.terms, "asked only where something weighs"
    *older, newest = task.terms
    at_newest = load_aside(newest.checkpoint) if older else model
    for term in task.terms:
        is_read = term is not newest and method.reads_older_weights
        weights = load_aside(term.checkpoint) if is_read else at_newest
        anchor = {name: p.detach() for name, p in weights.named_parameters()}
        found: dict[str, Weight] = {}
        if term.importance is not None:
            found |= stored.cut(term.importance, anchor, task.regularizer.format)
        yield Held(anchor, found)
