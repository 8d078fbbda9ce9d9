"""When a training run's state is written, and whose it is: the run's own fingerprint.

Not the files: `updater.train.state`, and `updater.train.sharded_state` where what is trained is in
shards. Called by `updater.train.fit`; Lightning calls it after every batch.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from regularizers.shards import is_shard, local, over_shards
from updater.settings import PLACES, TrainingSettings
from updater.train import sharded_state, state
from updater.train.guards import Guards
from updater.train.learner import Learner
from updater.train.lesson import Lesson
from updater.train.ranks import Ranks


class Saver(Callback):
    """Writes the run's state now and then, and when it is done."""

    def __init__(
        self, folder: Path, fingerprint: str, training: TrainingSettings, ranks: Ranks
    ) -> None:
        self._folder, self._fingerprint, self._ranks = folder, fingerprint, ranks
        self._every_steps = training.checkpoint_every_steps
        self._last = 0

    def restore(self, learner: Learner) -> tuple[state.Counters, list[float]]:
        """The learner is as it was saved; its counters and losses then, or those of a start."""
        of_run = (self._folder, self._fingerprint)
        # The first one's view of the disk counts: all have to read the same.
        in_file = self._ranks.agreed(state.num_steps(*of_run))
        in_shards = self._ranks.agreed(sharded_state.num_steps(*of_run))
        form = sharded_state if in_shards > in_file else state
        counters, losses = form.restore(*of_run, learner.live)
        if counters.num_steps != max(in_file, in_shards):
            raise OSError(f"{self._folder} does not look the same to all processes of the training")
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
        saved = (
            *(self._folder, self._fingerprint, pl_module.live),
            *(record.counters, record.losses),
        )
        if any(map(is_shard, pl_module.trained.values())):
            sharded_state.save(*saved, ranks=self._ranks)
        elif self._ranks.first:
            state.save(*saved)


def fingerprint(
    training: TrainingSettings,
    lesson: Lesson,
    parameters: Mapping[str, torch.Tensor],
    guards: Guards,
) -> str:
    """A digest of what decides where training ends: settings, tokens, the first weights' sums, and
    the guards' kinds and strengths. Not by how many processes, so that others may go on."""
    settings = asdict(training)
    for name in ("checkpoint_every_steps", *PLACES):
        settings.pop(name)
    digest = hashlib.sha256(json.dumps([settings, lesson.num_new], sort_keys=True).encode())
    examples = lesson.examples
    for array in (examples.tokens, examples.starts, examples.prompt_lengths):
        digest.update(np.ascontiguousarray(array).tobytes())
    with torch.no_grad():
        for name, parameter in parameters.items():
            digest.update(f"{name} {_checksum(parameter)}".encode())
    digest.update(guards.fingerprint.encode())
    return digest.hexdigest()


_BITS = {2: torch.int16, 4: torch.int32}


def _checksum(tensor: torch.Tensor) -> int:
    """The sum of its numbers' bits: the same in whatever order and shards it is summed."""
    here = local(tensor.detach()).contiguous()
    return int(over_shards(here.view(_BITS[here.element_size()]).sum(dtype=torch.int64), tensor))
