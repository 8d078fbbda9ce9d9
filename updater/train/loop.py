"""Lightning's loop over the plan, from whatever step the learner is at, and its banners silenced.

Called by `updater.train.fit`; what it asks of the weights, by `updater.study.peers` too.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn

from regularizers.shards import local
from updater.errors import UpdateError
from updater.settings import TrainingSettings
from updater.train.activations import checkpointed
from updater.train.learner import Learner
from updater.train.ranks import ALONE, Ranks
from updater.train.record import RATE
from updater.train.schedule import MicroBatch, Plan

Item = TypeVar("Item")

# Lightning 2.6's own about torch 2.13, which no user can act on. For good, not for a block: the
# filters are the process's, and MLflow puts back those it found, in the thread that watches the
# machine.
warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", FutureWarning)


def train(learner: Learner, plan: Plan, training: TrainingSettings, beside: Callback) -> None:
    """The learner has gone through the rest of the plan, if any of it is left, on the device that
    its model is on, and of each micro-batch took its part. `beside` is told of every micro-batch:
    it saves the run's state, or clocks it.

    Raises:
        UpdateError: the loss or a weight is no number, or the loss has diverged.
    """
    if not learner.record.finished:
        _go_on(learner, plan, training, beside)
    num_steps = learner.record.counters.num_steps
    said = f"training diverged at its last step, {num_steps}"
    check_finite(learner.model, said, ranks=learner.ranks)


def check_finite(model: nn.Module, said: str, *, ranks: Ranks = ALONE) -> None:
    """Every parameter is a number: the last step's harm would show in no loss.

    Raises:
        UpdateError: one is not, in any process; `said` begins the message.
    """
    named = dict(model.named_parameters())
    broken = [~torch.isfinite(local(parameter)).all() for parameter in named.values()]
    counts = ranks.total(torch.stack(broken).long()).tolist()
    for name, count in zip(named, counts, strict=True):
        if count:
            raise UpdateError(
                f"{said}: {name} is not finite; lower {RATE}, or clip by training.gradient_clip"
            )


def _go_on(learner: Learner, plan: Plan, training: TrainingSettings, beside: Callback) -> None:
    first_step = learner.record.counters.num_steps
    device = learner.model.device
    learner.train()
    with _quiet_lightning(), checkpointed(learner.model, on=training.activation_checkpointing):
        trainer = Trainer(
            accelerator=device.type,
            strategy=_Stays(device),
            devices=1,  # of this process; what many do together is not Lightning's here
            plugins=[LightningEnvironment()],  # whatever torchrun has set
            precision=training.precision,  # type: ignore[arg-type]
            max_epochs=1,  # the plan's epochs are one stream, so that any step can be the first
            accumulate_grad_batches=training.accumulate,
            gradient_clip_val=training.gradient_clip or None,
            callbacks=[beside],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        try:
            stream = Stream(plan, first_step, learner.ranks, device)
            trainer.fit(learner, train_dataloaders=stream)
        except SystemExit as ended:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from ended
    learner.eval()


class _Stays(SingleDeviceStrategy):
    """Leaves the model and the optimizer's state on their device when training ends. Lightning's
    own moves both to the CPU, where evaluation would go on without the GPU."""

    def teardown(self) -> None:
        """The rest of what Lightning tears down."""
        self.precision_plugin.teardown()
        assert self.accelerator is not None
        self.accelerator.teardown()
        self.checkpoint_io.teardown()


class Stream:
    """What Lightning reads batches from: this process's part of the plan from one optimizer step
    on. For a GPU another thread makes the next one meanwhile, in pinned memory."""

    def __init__(self, plan: Plan, first_step: int, ranks: Ranks, device: torch.device) -> None:
        self._plan, self._first_step, self._ranks = plan, first_step, ranks
        self._device = device

    def __len__(self) -> int:
        return self._plan.num_batches(self._first_step)

    def __iter__(self) -> Iterator[MicroBatch]:
        rank, world = self._ranks.rank, self._ranks.world
        mine = (batch.part(rank, world) for batch in self._plan.batches(self._first_step))
        if self._device.type != "cuda":
            return mine
        # A new thread would pin by the first GPU, and take memory of it.
        begin = partial(torch.cuda.set_device, self._device)
        return ahead((batch.pinned() for batch in mine), begin)


def ahead(made: Iterator[Item], begin: Callable[[], object]) -> Iterator[Item]:
    """The same items in the same order, each made by one other thread while the one before it is
    used, and no sooner. The thread calls `begin` first; it ends with the iterator."""
    with ThreadPoolExecutor(1, "ahead", begin) as thread:
        coming = thread.submit(next, made, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, made, None)
            yield item


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """No banners and tips in the block; warnings come through."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
