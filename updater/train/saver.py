"""When a training run's state is written, and whose it is: the run's own fingerprint.

Not the file (`updater.train.state`). Called by `updater.train.fit`; Lightning calls it after every
batch.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from updater.settings import TrainingSettings
from updater.train import state
from updater.train.guards import Guards
from updater.train.learner import Learner
from updater.train.lesson import Lesson


class Saver(Callback):
    """Writes the run's state now and then, and when it is done."""

    def __init__(self, folder: Path, fingerprint: str, training: TrainingSettings) -> None:
        self._folder, self._fingerprint = folder, fingerprint
        self._every_steps = training.checkpoint_every_steps
        self._last = 0

    def restore(self, learner: Learner) -> tuple[state.Counters, list[float]]:
        """The learner is as it was saved; its counters and losses then, or those of a start."""
        counters, losses = state.restore(
            self._folder, self._fingerprint, learner.trained, learner.moved, learner.optimizer
        )
        self._last = counters.num_steps
        return counters, losses

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: object, **__: object
    ) -> None:
        """The state is on the disk if its turn has come."""
        assert isinstance(pl_module, Learner)
        record = pl_module.record
        step = record.counters.num_steps
        if step == self._last or (step % self._every_steps and not record.finished):
            return
        self._last = step
        record.read()  # a state with a broken loss is never written
        state.save(
            self._folder,
            self._fingerprint,
            pl_module.trained,
            pl_module.moved,
            pl_module.optimizer,
            record.counters,
            record.losses,
        )


def fingerprint(
    training: TrainingSettings,
    lesson: Lesson,
    parameters: Mapping[str, torch.Tensor],
    guards: Guards,
) -> str:
    """A digest of what decides where training ends: settings, tokens, the first weights' sums, and
    the guards' kinds and strengths."""
    settings = asdict(training)
    settings.pop("checkpoint_every_steps")
    digest = hashlib.sha256(json.dumps([settings, lesson.num_new], sort_keys=True).encode())
    examples = lesson.examples
    for array in (examples.tokens, examples.starts, examples.prompt_lengths):
        digest.update(np.ascontiguousarray(array).tobytes())
    with torch.no_grad():
        for name, parameter in parameters.items():
            digest.update(f"{name} {parameter.double().sum().item()!r}".encode())
    digest.update(guards.fingerprint.encode())
    return digest.hexdigest()
