"""What an arm that compresses looks at, and what it learns again: the same for all arms of a seed.

As the service has it (`updater.steps.compress`), but that examples are drawn by the seed, so that
intervals over seeds have the chance of the draw in them. Called by `updater.study.compressing`.
"""

import dataclasses
import fcntl
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from regularizers import importance
from rehearsal import window
from rehearsal.manifest import Manifest, plan
from rehearsal.policies import Past
from updater.compress.engine import Learnt
from updater.compress.looking import Shown
from updater.files import read_json, write_json
from updater.nemotron import checkpoint, tokenizer
from updater.stopwatch import Stopwatch
from updater.study.fine_tuned import starts
from updater.study.job import Job
from updater.train.encode import Encoded, encode
from updater.train.importance import estimate
from updater.train.lesson import Lesson
from updater.train.record import Metrics, Watch


def shown(job: Job) -> tuple[Shown, float]:
    """What the arm's method may look at, and the seconds that its Fisher took, whichever arm of
    the seed found it.

    Raises:
        UpdateError: the first model has no Fisher.
    """
    assert job.arm.way is not None, "only what compresses looks"
    given, seconds = job.settings.compression, 0.0
    training = job.settings.training
    found = Shown(
        job.settings.regularizer.estimated_by,
        job.seed,
        precision=training.precision,
        activation_checkpointing=training.activation_checkpointing,
    )
    if given.looks == "fisher":
        file, seconds = _fisher(job)
        found = dataclasses.replace(found, fisher=file)
    if job.arm.way.needs_examples:
        found = dataclasses.replace(found, examples=_encoded(job, given.num_examples))
    return found, seconds


def learnt(job: Job, on_metrics: Metrics) -> Learnt | None:
    """What a recovery learns: of all that was learnt a uniform sample, of as many examples as an
    update would rehearse, by default as many where that is none. None without a recovery.

    Raises:
        UpdateError: no example is short enough.
    """
    settings = job.settings
    if settings.compression.recovery == "none":
        return None
    num_train = sum(job.stream.data[period].num_train for period in job.stream.span.first)
    lesson = Lesson.of(
        tokenizer.read(job.first.place / "checkpoint"),
        _loaded(job, _sample(job, settings.rehearsal.sample(num_train))),
        None,
        max_length_tokens=settings.model.max_length_tokens,
        thinking=settings.training.train_thinking,
    )
    return Learnt(lesson, settings.training, Watch(on_metrics, progress=False))


def _fisher(job: Job) -> tuple[Path, float]:
    """The file of the first model's Fisher, beside the model, and the seconds that it took."""
    number = job.settings.regularizer.num_examples
    manifest = _sample(job, number)
    training, longest = job.settings.training, job.settings.model.max_length_tokens
    how = (job.settings.regularizer.estimated_by, training.precision, training.train_thinking)
    said = json.dumps([*how, longest, manifest.digest])
    key = hashlib.sha256(said.encode()).hexdigest()[:16]
    file = job.first.place / f"fisher-{key}.safetensors"
    told = file.with_suffix(".json")
    with _alone(file.with_suffix(".lock")):
        if not told.exists():
            with Stopwatch() as watch:
                model, _ = checkpoint.load(job.first.place / "checkpoint")
                checkpoint.freeze_routers(model)  # as by default no training moves them
                found = estimate(
                    model,
                    _encoded(job, number),
                    estimator=job.settings.regularizer.estimated_by,
                    checkpoint_digest="",
                    data_digest=manifest.digest,
                    precision=job.settings.training.precision,
                    progress=False,
                )
                importance.save(found, file)
            write_json(told, {"seconds": watch.seconds})
    return file, float(read_json(told)["seconds"])


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time; the kernel lets go of it where one dies."""
    with path.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _sample(job: Job, budget: int) -> Manifest:
    """At most so many train examples of the first model's periods, uniform, the seed's own."""
    past = [
        Past(period, period, job.stream.data[period].num_train, ordinal)
        for ordinal, period in enumerate(job.stream.span.first)
    ]
    return plan(past, policy="uniform", budget=budget, cursors=starts(job))


def _loaded(job: Job, manifest: Manifest) -> pa.Table:
    return window.load(manifest, lambda period: job.stream.data[period].train)


def _encoded(job: Job, budget: int) -> Encoded:
    return encode(
        tokenizer.read(job.first.place / "checkpoint"),
        _loaded(job, _sample(job, budget)),
        max_length_tokens=job.settings.model.max_length_tokens,
        thinking=job.settings.training.train_thinking,
    )
