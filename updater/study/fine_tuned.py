"""An arm that fine-tunes the model it has, by the service's own core.

Rehearsal's plan with its cursors, the memory's guards, `fit`, then what the memory keeps. Where
rehearsal begins in each period, and the examples that importance looks at, differ from seed to
seed, so that intervals over seeds have the chance of the draw in them. (`reservoir` alone keeps one
sample.) With a `weight` below 1 the old and the new weights are averaged (Wortsman et al. 2022,
arXiv 2109.01903, eq. 1). Called through `updater.study.students`.
"""

import dataclasses
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from safetensors import safe_open

from regularizers.consolidate import Held
from regularizers.formats import Weight, flat, from_flat, num_bytes
from regularizers.methods import method_of
from rehearsal import window
from rehearsal.choose import choose
from rehearsal.manifest import CURSOR_UNITS, Manifest, plan
from rehearsal.policies import Past
from rehearsal.strata import DEALT
from updater.evaluate import of_numbers, outcomes
from updater.nemotron import checkpoint
from updater.nemotron.saving import save_tensors
from updater.settings import TrainingSettings
from updater.stopwatch import Stopwatch
from updater.study import first as firsts
from updater.study.job import Job
from updater.study.results import Stage, learnt
from updater.train.adapt import freeze
from updater.train.encode import Encoded, encode, select
from updater.train.fit import Fit, fit
from updater.train.lesson import Lesson
from updater.train.memory import Memory, ones, trace_of
from updater.train.record import Watch

_FILE = "state.safetensors"
_RECORD = "record"


class Cost(NamedTuple):
    """What an update took, its evaluation aside: as in `Stage`."""

    steps: int
    examples: int
    tokens: int
    seconds: float
    importance_bytes: int | None = None

    @classmethod
    def of(cls, done: Fit, seconds: float, importance_bytes: int | None = None) -> "Cost":
        """Of this training, in so many seconds with all that belongs to it."""
        return cls(done.num_steps, done.num_examples, done.num_tokens, seconds, importance_bytes)


class FineTuned:
    """The model, its memory, and where rehearsal goes on. `owed_seconds`: of the importance that
    the last update left for the next one, which pays for it, as in the service."""

    def __init__(self, job: Job) -> None:
        self._job, self._settings = job, job.settings
        self.model = firsts.Model(*checkpoint.load(job.first.place / "checkpoint"))
        freeze(self.model.network, self._settings.training)
        self._memory = Memory()
        self._starts = starts(job)
        self._cursors = self._starts
        self._owed_seconds = 0.0

    def learn(self, period: str, before: Sequence[Stage]) -> Cost:
        """The period is learnt, and the past rehearsed and held as the settings say.

        Raises:
            UpdateError: it diverged, in training or in what is made of it, or nothing is short
                enough.
        """
        if self._memory.held is None:
            with Stopwatch() as watch:
                self._memory = self._after_first(before[0])
            self._owed_seconds = watch.seconds
        # An update that was not deployed has paid: the next one finds the importance in the cache.
        owed_seconds = self._owed_seconds if before[-1].deployed else 0.0
        with Stopwatch() as watch:
            manifest = self._rehearsal(before)
            lesson = self._lesson(period, manifest)
            done = self._fit(lesson)
            self._cursors = dict(manifest.cursors)
        held = num_bytes(self._memory.held.importance) if self._memory.held else 0
        cost = Cost.of(done, watch.seconds + owed_seconds, held)
        with Stopwatch() as watch:
            if period != self._job.stream.span.then[-1]:
                self._memory = self._after(period, before, lesson, done)
        self._owed_seconds = watch.seconds
        return cost

    def _after(self, period: str, before: Sequence[Stage], lesson: Lesson, done: Fit) -> Memory:
        newest = select(lesson.examples, np.arange(lesson.num_new))
        past = self._sample((*self._learnt(before), period))
        return self._kept(self._memory, done, past=past, newest=newest)

    def _after_first(self, stage: Stage) -> Memory:
        sample = self._sample(self._job.stream.span.first)
        done = firsts.trained(self._job.first, stage)
        return self._kept(Memory(), done, past=sample, newest=sample)

    def _kept(self, memory: Memory, done: Fit, *, past: Encoded, newest: Encoded) -> Memory:
        return memory.after(
            self._settings.regularizer,
            self.model.network,
            done,
            past=past,
            newest=newest,
            precision=self._settings.training.precision,
        )

    def _learnt(self, before: Sequence[Stage]) -> tuple[str, ...]:
        return learnt(self._job.stream.span.first, before)

    def _rehearsal(self, before: Sequence[Stage]) -> Manifest:
        past = self._past(self._learnt(before), before)
        num_past = sum(one.num_train for one in past)
        request = self._settings.rehearsal.request(
            num_past, cursors=self._cursors, seed=self._job.seed
        )
        return choose(past, request, locate=self._locate, score=self._score)

    def _locate(self, period: str) -> Path:
        return self._job.stream.data[period].train

    def _score(self, examples: pa.Table) -> pa.Table:
        """What the model, as it stands, makes of examples: for the policies that ask it."""
        return of_numbers(
            outcomes(
                self.model.network,
                self.model.tokenizer,
                examples,
                batch_size=self._settings.evaluation.batch_size,
                max_length_tokens=self._settings.model.max_length_tokens,
            )
        )

    def _past(self, periods: Sequence[str], before: Sequence[Stage] = ()) -> list[Past]:
        data = self._job.stream.data
        return [
            Past(
                period=period,
                dataset_version=period,
                num_train=data[period].num_train,
                ordinal=ordinal,
                accuracy=before[-1].accuracy(period) if before else None,
                best_accuracy=max((stage.accuracy(period) for stage in before), default=None),
            )
            for ordinal, period in enumerate(periods)
        ]

    def _sample(self, periods: Sequence[str]) -> Encoded:
        """A uniform sample of the periods, of as many examples as importance looks at."""
        budget = self._settings.regularizer.num_examples
        past = self._past(periods)
        return self._encoded(
            self._load(plan(past, policy="uniform", budget=budget, cursors=self._starts))
        )

    def _load(self, manifest: Manifest) -> pa.Table:
        return window.load(manifest, self._locate)

    def _encoded(self, table: pa.Table) -> Encoded:
        return encode(
            self.model.tokenizer,
            table,
            max_length_tokens=self._settings.model.max_length_tokens,
            thinking=self._settings.training.train_thinking,
        )

    def _lesson(self, period: str, manifest: Manifest) -> Lesson:
        return Lesson.of(
            self.model.tokenizer,
            self._job.stream.train(period),
            self._load(manifest) if manifest.choices else None,
            max_length_tokens=self._settings.model.max_length_tokens,
            thinking=self._settings.training.train_thinking,
        )

    def _fit(self, lesson: Lesson) -> Fit:
        network, folder = self.model.network, self._job.place / "training"
        averages = self._job.arm.kind == "average"
        before = [p.detach().clone() for p in network.parameters()] if averages else []
        done = fit(
            network,
            lesson,
            training=self._training(lesson.num_new),
            guards=self._memory.guards(self._settings.regularizer, network, lesson),
            folder=firsts.emptied(folder),
            watch=Watch(progress=False),
            trace=trace_of(self._settings.regularizer),
        )
        shutil.rmtree(folder)
        with torch.no_grad():
            for new, old in zip(network.parameters(), before, strict=averages):
                new.copy_(torch.lerp(old, new, self._job.arm.weight))
        return done

    def _training(self, num_new: int) -> TrainingSettings:
        """At equal compute: no more steps than the new examples alone would take."""
        training = self._settings.training
        if not self._job.arm.equal_compute:
            return training
        batches = math.ceil(num_new / training.batch_size) * training.epochs
        steps = math.ceil(batches / training.accumulate)
        return dataclasses.replace(training, max_steps=min(training.max_steps or steps, steps))

    def save(self, folder: Path) -> None:
        """Weights, memory, cursors and what is owed are in the folder."""
        named = self.model.network.named_parameters()
        tensors: dict[str, torch.Tensor] = {f"model/{n}": p for n, p in named}
        held = self._memory.held
        if held is not None:
            tensors |= {f"anchor/{n}": t for n, t in held.anchor.items()}
            tensors |= {f"importance/{n}": t for n, t in flat(held.importance).items()}
        record = {
            "holds": held is not None,
            "cursors": self._cursors,
            "owed_seconds": self._owed_seconds,
        }
        # A copy each: safetensors takes no two names for one memory.
        copies = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
        save_tensors(copies, folder / _FILE, {_RECORD: json.dumps(record)})

    @torch.no_grad()
    def restore(self, folder: Path) -> None:
        """All of that is as it was saved."""
        parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "anchor": {}, "importance": {}}
        device = self.model.network.device
        with safe_open(folder / _FILE, framework="pt", device=str(device)) as stream:
            record = json.loads((stream.metadata() or {})[_RECORD])
            for name in stream.keys():  # noqa: SIM118 - not a dict
                part, _, parameter = name.partition("/")
                parts[part][parameter] = stream.get_tensor(name)
        for name, parameter in self.model.network.named_parameters():
            parameter.copy_(parts["model"][name])
        held = Held(parts["anchor"], self._importance(parts["importance"]))
        self._memory = Memory(held if record["holds"] else None)
        self._cursors, self._owed_seconds = record["cursors"], record["owed_seconds"]

    def _importance(self, saved: dict[str, torch.Tensor]) -> dict[str, Weight]:
        """As it was in memory: ones, which a file has whole, are one number again."""
        method = method_of(self._settings.regularizer.method, self._settings.regularizer.terms)
        if method is not None and method.source == "ones":
            return {**ones(self.model.network)}
        return from_flat(saved)


def starts(job: Job) -> dict[str, int]:
    """Cursors at a place in the first round that is the seed's own, in each period and in the deal
    of `class_balanced`."""
    random = np.random.default_rng(job.seed)
    places = random.integers(CURSOR_UNITS, size=len(job.stream.span.periods) + 1).tolist()
    return dict(zip((*job.stream.span.periods, DEALT), places, strict=True))
