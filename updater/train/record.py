"""The bookkeeping of a training run: counters, losses, metrics, and the watch for divergence.

Not the run's state on disk (`updater.train.state`). Called by `updater.train.learner` for every
micro-batch and step.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from updater.errors import UpdateError
from updater.progress import Progress
from updater.train.ranks import ALONE, Ranks
from updater.train.schedule import MicroBatch, Plan
from updater.train.state import Counters

log = logging.getLogger("updater")

EVERY_STEPS = 10
"""Losses are read, and metrics handed out, once in so many steps: on a GPU each read waits."""

DIVERGED_FACTOR = 2.0
"""A mean loss of EVERY_STEPS steps above so many times the larger of the first step's loss and
ln(vocabulary), which is what guessing costs, is called divergence. Chosen, not derived."""

RATE = "training.learning_rate (from random weights: scratch.learning_rate)"
"""What to lower, as users set it; a training is not told which of the two it has."""

Metrics = Callable[[int, dict[str, float]], None]


def _no_metrics(_step: int, _metrics: dict[str, float]) -> None:
    """Metrics go nowhere."""


GOES_ON = "goes on from step %d of %d"
"""Logged where a run was restored: nothing of it was lost."""


def _log_resumed(step: int, num_steps: int) -> None:
    log.info(GOES_ON, step, num_steps)


@dataclass(frozen=True)
class Watch:
    """Who looks on while a run goes. `on_metrics(step, metrics)` is called every few steps; steps
    that a kill made vain come twice. `progress` shows how far the run is, on stderr, by the name
    `title`: an update may train several times. `on_resumed(step, num_steps)` is called where it
    goes on from a saved state."""

    on_metrics: Metrics = _no_metrics
    progress: bool = True
    title: str = "train"
    on_resumed: Callable[[int, int], None] = _log_resumed


class Record:
    """What a run did so far, on top of what a saved run had done (`restored`)."""

    def __init__(
        self,
        restored: tuple[Counters, list[float]],
        *,
        plan: Plan,
        vocabulary_size: int,
        measured: Callable[[], dict[str, float]],
        ranks: Ranks = ALONE,
        on_metrics: Metrics,
        progress: Progress,
    ) -> None:
        self.counters, self.losses = restored
        self._ranks = ranks
        self._plan, self._on_metrics, self._progress = plan, on_metrics, progress
        self._guessing, self._measured = math.log(vocabulary_size), measured
        self._rate = 0.0
        self._step: torch.Tensor | float = 0.0
        self._unread: list[torch.Tensor] = []
        self._num_examples = 0
        self._ticked_at = time.monotonic()

    @property
    def finished(self) -> bool:
        """Whether the last optimizer step of the plan is done."""
        return self.counters.num_steps >= self._plan.num_steps

    def saw(self, batch: MicroBatch, sums_b: torch.Tensor, counts_b: torch.Tensor) -> None:
        """One micro-batch went forward, with these summed losses and token counts of this process's
        part of it."""
        new, old = slice(None, batch.num_new), slice(batch.num_new, None)
        parts = (sums_b[new], counts_b[new], sums_b[old], counts_b[old])
        self._step = self._step + torch.stack([part.sum().double() for part in parts])
        self._num_examples += batch.num_examples
        self.counters.num_tokens += batch.num_tokens

    def stepped(self, rate: float) -> None:
        """One optimizer step is done, at this learning rate.

        Raises:
            UpdateError: the loss is no number, or has diverged.
        """
        assert isinstance(self._step, torch.Tensor), "a step follows a forward pass"
        self._unread.append(self._step)
        self._step, self._rate = 0.0, rate
        self.counters.num_steps += 1
        if self.counters.num_steps % EVERY_STEPS == 0 or self.finished:
            self.read()

    def read(self) -> None:
        """The losses since the last reading are known, judged, and handed out with the metrics.

        Raises:
            UpdateError: the loss is no number, or has diverged.
        """
        if not self._unread:
            return
        # One row a step: new, tokens, rehearsed, tokens.
        sums = self._ranks.total(torch.stack(self._unread)).cpu()
        self._unread = []
        per_step = (sums[:, 0] + sums[:, 2]) / (sums[:, 1] + sums[:, 3])
        self.losses.extend(per_step.tolist())
        self._judge(len(per_step))
        total = sums.sum(0)
        metrics = {
            "train/loss": float((total[0] + total[2]) / (total[1] + total[3])),
            "train/learning_rate": self._rate,
            "train/examples_per_second": self._tick(),
            **{f"train/{name}": value for name, value in self._measured().items()},
        }
        for name, part in (("train/loss_new", total[:2]), ("train/loss_rehearsed", total[2:])):
            if part[1] > 0:
                metrics[name] = float(part[0] / part[1])
        self._on_metrics(self.counters.num_steps, metrics)
        self._progress.set_postfix_str(f"loss {metrics['train/loss']:.3f}", refresh=False)
        self._progress.update(self._shown)

    def _tick(self) -> float:
        now = time.monotonic()
        seconds, self._ticked_at = now - self._ticked_at, now
        self._shown, self._num_examples = self._num_examples, 0
        self.counters.seconds += seconds
        self.counters.num_examples += self._shown
        return self._shown / max(seconds, 1e-9)

    def _judge(self, num_read: int) -> None:
        recent = self.losses[-num_read:]
        before = self.counters.num_steps - num_read
        for step, loss in enumerate(recent, start=before + 1):
            if not math.isfinite(loss):
                self._stop(step, loss, "is not a number")
        limit = DIVERGED_FACTOR * max(self.losses[0], self._guessing)
        mean = sum(recent) / len(recent)
        if mean > limit:
            self._stop(self.counters.num_steps, mean, f"diverged, it is above {limit:.3g}")

    def _stop(self, step: int, loss: float, what: str) -> None:
        raise UpdateError(
            f"training stopped at step {step} of {self._plan.num_steps}: the loss {loss:.4g}"
            f" {what}, at learning rate {self._rate:.3g}. Nothing of it was released. Lower"
            f" {RATE}, raise training.warmup_fraction, set training.gradient_clip"
            " (1.0), or lower regularizer.strength"
        )
