"""One arm of kind "compress" with one seed: the first model made smaller, measured, and recorded.

It learns no update: what later periods find is the compressed model. The work is
`updater.compress`'s. One that was killed starts anew, so that its seconds are those of the whole of
it. Called by `updater.study.pool`'s workers.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from updater.compress.engine import Learnt, compress
from updater.compress.matrices import is_prunable
from updater.compress.measured import bytes_of, measured
from updater.compress.recover import ZerosStay
from updater.errors import UpdateError
from updater.nemotron import checkpoint
from updater.nemotron.weights import released
from updater.settings import Settings
from updater.stopwatch import Stopwatch
from updater.study import records
from updater.study.first import Model, emptied, from_scratch, scores
from updater.study.job import Job
from updater.study.results import Compressed, Run, Stage
from updater.study.run import begun, peak_memory_bytes
from updater.study.shown import learnt, shown
from updater.study.speed import side_by_side
from updater.train.encode import encode
from updater.train.guards import Guards

NUM_CLOCKED = 128
"""Holdout examples that go forward in each pass of the clocks. Chosen: some tenths of a second for
a model of a million weights on one core."""


def run(job: Job, tell: Callable[[], None]) -> Run:
    """The first model is compressed, or its control trained, and scored on every period; or the
    run says why it could not be: it diverged. `tell` is called when that is done.

    Raises:
        InputError: the first model has not what should go, or too little would stay.
        OSError: the disk refuses.
    """
    if (known := records.finished(job)) is not None:
        return known
    emptied(job.place).mkdir(parents=True)
    before = begun(job)
    try:
        found = _control(job) if job.arm.control == "scratch" else _made(job)
    except UpdateError as error:
        done = dataclasses.replace(before, failure=str(error))
    else:
        done = _measured(job, before, found)
    records.write(job, done)
    tell()
    return done


def _made(job: Job) -> Compressed:
    """The compressed checkpoint lies in the job's place; what it is and cost."""
    base, steps = job.first.place / "checkpoint", [0]
    looks, seconds = shown(job)
    again = learnt(job, lambda step, _: steps.append(step))
    with Stopwatch() as watch:
        found = compress(
            base,
            _target(job),
            job.settings.compression,
            looks,
            learnt=again,
            work=job.place / "work",
        )
    return Compressed(
        num_parameters=found.num_parameters,
        base_parameters=measured(base).num_parameters,
        nonzero_fraction=found.nonzero_fraction,
        num_bytes=found.num_bytes,
        base_bytes=found.base_bytes,
        seconds=watch.seconds + seconds,
        steps=steps[-1],
        tokens=_tokens(again) * job.settings.compression.recovery_epochs,
        gone=found.gone,
        zeros=found.zeros,
    )


def _tokens(again: Learnt | None) -> int:
    """That a recovery goes through in each of its epochs."""
    return 0 if again is None else int(again.lesson.examples.lengths.sum())


def _control(job: Job) -> Compressed:
    """In the job's place lies a checkpoint of the shape that compression comes to, with zeros where
    it has some, trained from random weights on all that the first model learnt; what it is, and
    what the training cost."""
    base, shape = job.first.place / "checkpoint", job.place / "shape"
    looks, _ = shown(job)
    compress(base, shape, job.settings.compression, looks, work=job.place / "work")
    with Stopwatch() as watch:
        model, done = from_scratch(
            _of_shape(job.settings, shape),
            job.stream,
            job.stream.span.first,
            job.place,
            begun=partial(_sparse, shape) if job.settings.compression.remove == "weights" else None,
        )
    checkpoint.export(model.network, job.place / "initial", _target(job))
    counted = measured(_target(job))
    return Compressed(
        num_parameters=counted.num_parameters,
        base_parameters=measured(base).num_parameters,
        nonzero_fraction=counted.num_nonzero / counted.num_parameters,
        num_bytes=bytes_of(_target(job)),
        base_bytes=bytes_of(base),
        seconds=watch.seconds,
        steps=done.num_steps,
        tokens=done.num_tokens,
    )


def _of_shape(settings: Settings, shape: Path) -> Settings:
    """A new model is as the checkpoint in that folder, and reads as it does."""
    architecture = str(shape / "config.json")
    model = dataclasses.replace(settings.model, architecture=architecture, tokenizer=str(shape))
    return dataclasses.replace(settings, model=model)


@torch.no_grad()
def _sparse(shape: Path, model: NemotronHForCausalLM) -> Guards:
    """The model's weights are zero, and stay so, where those of the checkpoint `shape` are."""
    mask = dict(released(checkpoint.load(shape)[0]))
    for name, weight in released(model):
        if is_prunable(name):
            weight.mul_(mask[name] != 0)
    return Guards(ZerosStay())


def _measured(job: Job, before: Run, found: Compressed) -> Run:
    """With its scores, and beside the first model's its speed."""
    quantized = job.settings.compression.quantize != "none"
    small = Model(*checkpoint.load(_target(job), quantized=quantized))
    scored = scores(small, job.stream, job.settings)
    if not quantized:
        mine, bases = _clocked(job, small)
        found = dataclasses.replace(found, per_second=mine, base_per_second=bases)
    periods = (before.stages[0].period, *job.stream.span.then)
    return dataclasses.replace(
        before,
        stages=tuple(Stage(period, scored) for period in periods),
        peak_memory_bytes=peak_memory_bytes(),
        compressed=found,
    )


def _clocked(job: Job, small: Model) -> tuple[float, float]:
    """Examples a second, of the small model and of the first one."""
    first, _ = checkpoint.load(job.first.place / "checkpoint")
    holdouts = pa.concat_tables(job.stream.holdout(period) for period in job.stream.span.first)
    some = np.linspace(0, len(holdouts) - 1, min(NUM_CLOCKED, len(holdouts))).astype(np.int64)
    examples = encode(
        small.tokenizer,
        holdouts.take(pa.array(some)),
        max_length_tokens=job.settings.model.max_length_tokens,
    )
    return side_by_side(
        small.network, first, examples, batch_size=job.settings.evaluation.batch_size
    )


def _target(job: Job) -> Path:
    return job.place / "compressed"
