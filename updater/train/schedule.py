"""Which batch comes at which optimizer step, and at which learning rate: a pure plan of the run.

No tensors of the model and no Lightning. Called by `updater.train.fit`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch

from rehearsal.mix import MixedBatches
from updater.settings import TrainingSettings
from updater.train.encode import PADDING, Batch, collate
from updater.train.lesson import Lesson

FINAL_FRACTION = 0.1
"""Cosine and linear decay end at this part of the peak: what Ibrahim et al. 2024 (arXiv
2403.08763) and NVIDIA's Nemotron 3 recipes (1e-5 to 1e-6) use."""

_EMPTY_LENGTH = 8  # positions of a part without examples: more than any convolution's kernel


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass, of these `examples` of the lesson. The first `num_new` of them are new; the
    others are rehearsed. `normaliser`: what its summed loss is divided by, so that after
    accumulation the gradient is that of the mean over all completion tokens of the optimizer
    step. `num_examples` and `num_tokens` are those of all processes that share it."""

    batch: Batch
    examples: tuple[int, ...]
    num_new: int
    num_examples: int
    num_tokens: int
    normaliser: float

    def to(self, device: torch.device | str) -> "MicroBatch":
        """The same with its tensors on `device`."""
        return replace(self, batch=self.batch.to(device))

    def pinned(self) -> "MicroBatch":
        """The same with its tensors in pinned memory."""
        return replace(self, batch=self.batch.pinned())

    def part(self, rank: int, world: int) -> "MicroBatch":
        """What the process `rank` of `world` takes of it: every `world`-th example. Where there is
        none for it, one of padding that teaches nothing, since what is sharded needs every process
        in every forward pass."""
        if world == 1:
            return self
        chosen = range(rank, len(self.examples), world)
        counts_b = self.batch.targets_bl.sum(1)
        most = max(int(counts_b[other::world].sum()) for other in range(world))
        if not chosen:
            nothing = torch.full((1, _EMPTY_LENGTH), PADDING)
            targets = torch.zeros_like(nothing, dtype=torch.bool)
            lengths = (_EMPTY_LENGTH,) if self.batch.lengths else ()
            empty = Batch(nothing, targets, most, lengths)
            return replace(self, batch=empty, examples=(), num_new=0)
        targets_bl = self.batch.targets_bl[rank::world]
        # Each example ends with a token that is learnt, so what comes after the last is padding.
        length = int(targets_bl.any(0).nonzero().max()) + 1
        part = Batch(
            self.batch.tokens_bl[rank::world, :length],
            targets_bl[:, :length],
            most,
            self.batch.lengths[rank::world],
        )
        num_new = len([place for place in chosen if place < self.num_new])
        return replace(self, batch=part, examples=self.examples[rank::world], num_new=num_new)


class Plan:
    """The micro-batches of a whole run, from any optimizer step on, and the run's size.

    Args:
        lesson: what is learnt.
        training: epochs, the most steps, batch size, accumulation, seed.
    """

    def __init__(self, lesson: Lesson, training: TrainingSettings) -> None:
        self._encoded, self._num_new, self._training = lesson.examples, lesson.num_new, training
        self._mixed = MixedBatches(
            lesson.num_new,
            len(lesson.examples) - lesson.num_new,
            batch_size=training.batch_size,
            seed=training.seed,
            lengths=lesson.examples.lengths.tolist(),
        )
        num_batches = len(self._mixed) * training.epochs
        most = training.max_steps * training.accumulate or num_batches
        self._num_batches = min(num_batches, most)
        self.num_steps = math.ceil(self._num_batches / training.accumulate)
        epochs, rest = divmod(self._num_batches, max(len(self._mixed), 1))
        num_examples = len(lesson.examples)
        self.num_examples = epochs * num_examples + min(rest * training.batch_size, num_examples)
        num_tokens = float(lesson.examples.completion_lengths.mean()) * self.num_examples
        self.examples_per_step = self.num_examples / self.num_steps
        self.completion_tokens_per_step = num_tokens / self.num_steps

    def longest_row(self, world: int = 1) -> int:
        """Tokens of the longest row of any pass of the run in any of `world` processes, padding and
        all: of the longest text, or of those that are packed into one."""
        lengths = self._encoded.lengths
        if not self._training.packing:
            return int(lengths.max())
        batches = islice(self._chosen(0), self._num_batches)
        return max(
            int(lengths[batch[rank::world]].sum()) for batch in batches for rank in range(world)
        )

    def num_batches(self, first_step: int) -> int:
        """How many micro-batches come from this optimizer step on."""
        return max(self._num_batches - first_step * self._training.accumulate, 0)

    def batches(self, first_step: int) -> Iterator[MicroBatch]:
        """The micro-batches from this optimizer step (0-based) on, the same in every process."""
        first = first_step * self._training.accumulate
        chosen = islice(self._chosen(first), self.num_batches(first_step))
        sizes = self._encoded.completion_lengths
        while window := list(islice(chosen, self._training.accumulate)):
            num_tokens = sum(int(sizes[batch].sum()) for batch in window)
            for batch in window:
                yield MicroBatch(
                    batch=collate(self._encoded, batch, packed=self._training.packing),
                    examples=tuple(batch),
                    num_new=int((np.asarray(batch) < self._num_new).sum()),
                    num_examples=len(batch),
                    num_tokens=int(self._encoded.lengths[batch].sum()),
                    # Lightning divides every loss by `accumulate`.
                    normaliser=num_tokens / self._training.accumulate,
                )

    def _chosen(self, first_batch: int) -> Iterator[list[int]]:
        epoch, batch = divmod(first_batch, len(self._mixed))
        for number in range(epoch, self._training.epochs):
            yield from self._mixed.epoch(number, batch if number == epoch else 0)


def rate_fraction(step: int, num_steps: int, training: TrainingSettings) -> float:
    """The learning rate at optimizer step `step` (0-based) as a part of the peak, in (0, 1].

    It rises linearly over `warmup_fraction` of the steps, then falls to `FINAL_FRACTION` at the
    end along a cosine or a line, or stays.
    """
    num_warmup = round(training.warmup_fraction * num_steps)
    if step < num_warmup:
        return (step + 1) / (num_warmup + 1)
    passed = (step - num_warmup) / max(num_steps - num_warmup, 1)
    shape = {
        "constant": 1.0,
        "linear": 1 - passed,
        "cosine": (1 + math.cos(math.pi * min(passed, 1.0))) / 2,
    }[training.decay]
    return FINAL_FRACTION + (1 - FINAL_FRACTION) * max(shape, 0.0)
