"""Lightning's loop over the plan, from whatever step the learner is at, and its banners silenced.

Called by `updater.train.fit`.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch import Trainer

from updater.settings import TrainingSettings
from updater.train.learner import Learner
from updater.train.saver import Saver
from updater.train.schedule import MicroBatch, Plan


def train(learner: Learner, plan: Plan, training: TrainingSettings, saver: Saver) -> None:
    """The learner has gone through the rest of the plan, if any of it is left.

    Raises:
        UpdateError: the loss is no number or has diverged.
    """
    if learner.record.finished:
        return
    first_step = learner.record.counters.num_steps
    learner.train()
    with _quiet_lightning():
        trainer = Trainer(
            accelerator="cuda" if torch.cuda.is_available() else "cpu",
            devices=1,
            precision=training.precision,  # type: ignore[arg-type]
            max_epochs=1,  # the plan's epochs are one stream, so that any step can be the first
            accumulate_grad_batches=training.accumulate,
            gradient_clip_val=training.gradient_clip or None,
            callbacks=[saver],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        try:
            trainer.fit(learner, train_dataloaders=_Stream(plan, first_step))
        except SystemExit as ended:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from ended
    learner.eval()


class _Stream:
    """What Lightning reads batches from: the plan from one optimizer step on."""

    def __init__(self, plan: Plan, first_step: int) -> None:
        self._plan, self._first_step = plan, first_step

    def __len__(self) -> int:
        return self._plan.num_batches(self._first_step)

    def __iter__(self) -> Iterator[MicroBatch]:
        return self._plan.batches(self._first_step)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """No banners and tips in the block; warnings come through, but for one of Lightning 2.6's
    own about torch 2.13, which no user can act on."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
