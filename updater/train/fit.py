"""Fine-tuning with Lightning: new and rehearsed examples in every batch, an anchor, exact resume.

Changes the model it is given and writes its own state in one folder; no evaluation, no export, no
tracking. Called by the train step of `updater.pipeline` and by benchmarks.
"""

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from transformers import PreTrainedTokenizerFast
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from updater.errors import InputError, UpdateError
from updater.nemotron.checkpoint import freeze_routers
from updater.progress import Progress
from updater.settings import TrainingSettings
from updater.train import state
from updater.train.encode import Encoded, encode, join
from updater.train.learner import Anchor, Learner
from updater.train.record import Metrics, Record
from updater.train.schedule import MicroBatch, Plan


@dataclass(frozen=True)
class Fit:
    """What a finished training run did, resumed or not.

    `losses`: the mean loss per completion token of each optimizer step, nats, without the
    penalty. `too_long`: the ids of the examples that were left out. `seconds`: without those of
    steps that a kill made vain.
    """

    num_steps: int
    num_examples: int
    num_tokens: int
    seconds: float
    losses: tuple[float, ...]
    too_long: tuple[str, ...]


def _no_metrics(_step: int, _metrics: dict[str, float]) -> None:
    """Metrics go nowhere."""


def fit(
    model: NemotronHForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    new: pa.Table,
    rehearsed: pa.Table | None,
    *,
    training: TrainingSettings,
    max_length_tokens: int,
    anchor: Anchor,
    folder: Path,
    on_metrics: Metrics = _no_metrics,
    progress: bool = True,
) -> Fit:
    """`model` has learnt `new` (columns id, prompt, completion), reminded of `rehearsed`.

    Each epoch passes once over the new and the rehearsed examples, in their ratio in every batch
    of `training.batch_size`. The loss is the mean negative log-likelihood per completion token
    (end of sequence included) of an optimizer step's examples. Examples of more than
    `max_length_tokens` are left out and reported.

    `folder` keeps the run's state every `training.checkpoint_every_steps` steps and at the end.
    Called again with the same arguments after a kill, training goes on from there; on a CPU the
    weights end bit for bit as if it had never stopped. A state of other arguments is not used.
    `on_metrics(step, metrics)` is called every few steps; steps that a kill made vain come twice.

    Raises:
        InputError: `training.devices` is not 1.
        UpdateError: nothing to learn is short enough, or the loss is no number or has diverged.
    """
    if training.devices != 1:
        what = f"training.devices = {training.devices}"
        raise InputError(what, "training runs on one device", "set it to 1")
    encoded = encode(tokenizer, new, max_length_tokens=max_length_tokens)
    num_new = len(encoded)
    if not num_new:
        raise UpdateError(
            f"nothing to learn: {len(encoded.too_long)} of {new.num_rows} new examples are longer"
            f" than model.max_length_tokens = {max_length_tokens}, and there are no others"
        )
    if rehearsed is not None:
        encoded = join(encoded, encode(tokenizer, rehearsed, max_length_tokens=max_length_tokens))
    if not training.train_routers:
        freeze_routers(model)
    plan = Plan(encoded, num_new, training)
    learner = Learner(model, training, num_steps=plan.num_steps, anchor=anchor)
    fingerprint = _fingerprint(training, encoded, num_new, learner.trained, anchor)
    counters, losses = state.restore(folder, fingerprint, learner.trained, learner.optimizer)
    shown = Progress("train", plan.num_examples, done=counters.num_examples, shown=progress)
    learner.record = record = Record(
        counters,
        losses,
        plan=plan,
        vocabulary_size=model.config.vocab_size,
        on_metrics=on_metrics,
        penalty=learner.penalty,
        progress=shown,
    )
    if not record.finished:
        every = training.checkpoint_every_steps
        saver = _Saver(folder, fingerprint, every, last=counters.num_steps)
        _train(learner, plan, training, saver)
    shown.close()
    done = asdict(record.counters)
    return Fit(**done, losses=tuple(record.losses), too_long=encoded.too_long)


class _Saver(Callback):
    """Writes the run's state now and then, and when it is done."""

    def __init__(self, folder: Path, fingerprint: str, every_steps: int, *, last: int) -> None:
        self._folder, self._fingerprint, self._every_steps = folder, fingerprint, every_steps
        self._last = last

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
            pl_module.optimizer,
            record.counters,
            record.losses,
        )


class _Stream:
    """What Lightning reads batches from: the plan from one optimizer step on."""

    def __init__(self, plan: Plan, first_step: int) -> None:
        self._plan, self._first_step = plan, first_step

    def __len__(self) -> int:
        return self._plan.num_batches(self._first_step)

    def __iter__(self) -> Iterator[MicroBatch]:
        return self._plan.batches(self._first_step)


def _train(learner: Learner, plan: Plan, training: TrainingSettings, saver: _Saver) -> None:
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


def _fingerprint(
    training: TrainingSettings,
    encoded: Encoded,
    num_new: int,
    parameters: Mapping[str, torch.Tensor],
    anchor: Anchor,
) -> str:
    """A digest of what decides where training ends: settings, tokens, the first weights' sums, and
    the anchor's kind and strength."""
    settings = asdict(training)
    settings.pop("checkpoint_every_steps")
    digest = hashlib.sha256(json.dumps([settings, num_new], sort_keys=True).encode())
    for array in (encoded.tokens, encoded.starts, encoded.prompt_lengths):
        digest.update(np.ascontiguousarray(array).tobytes())
    with torch.no_grad():
        for name, parameter in parameters.items():
            digest.update(f"{name} {parameter.double().sum().item()!r}".encode())
    digest.update(f"{type(anchor).__name__} {getattr(anchor, 'strength', None)!r}".encode())
    return digest.hexdigest()
