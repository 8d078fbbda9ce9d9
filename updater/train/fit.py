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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from updater.errors import InputError
from updater.nemotron.checkpoint import freeze_routers
from updater.progress import Progress
from updater.settings import TrainingSettings
from updater.train import state
from updater.train.adapt import adapted
from updater.train.guards import Guards
from updater.train.learner import Learner
from updater.train.lesson import Lesson
from updater.train.record import Record, Watch
from updater.train.schedule import MicroBatch, Plan
from updater.train.tracers import TRACERS


@dataclass(frozen=True)
class Fit:
    """What a finished training run did, resumed or not.

    `losses`: the mean loss per completion token of each optimizer step, nats, without the
    penalty. `too_long`: the ids of the examples that were left out. `seconds`: without those of
    steps that a kill made vain. `trace`: name of a trained parameter -> float32, what was recorded
    on the way: the Fisher that the optimizer's accumulator has (`fisher.from_second_moment`), or
    SI's omega, and then `moved` says how far each weight went.
    """

    num_steps: int
    num_examples: int
    num_tokens: int
    seconds: float
    losses: tuple[float, ...]
    too_long: tuple[str, ...]
    trace: Mapping[str, torch.Tensor] = field(default_factory=dict, compare=False)
    moved: Mapping[str, torch.Tensor] = field(default_factory=dict, compare=False)


def fit(
    model: NemotronHForCausalLM,
    lesson: Lesson,
    *,
    training: TrainingSettings,
    guards: Guards,
    folder: Path,
    watch: Watch,
    trace: str = "",
) -> Fit:
    """`model` has learnt the new examples of `lesson`, reminded of the rehearsed ones.

    Each epoch passes once over the new and the rehearsed examples, in their ratio in every batch
    of `training.batch_size`. The loss is the mean negative log-likelihood per completion token
    (end of sequence included) of an optimizer step's examples.

    `folder` keeps the run's state every `training.checkpoint_every_steps` steps and at the end.
    Called again with the same arguments after a kill, training goes on from there; on a CPU the
    weights end bit for bit as if it had never stopped. A state of other arguments is not used.

    `trace`: what is recorded on the way, for `Fit.trace`: "" nothing, "optimizer", or "path". Also
    there where a finished run is asked again.

    Under `training.adapt = "lora"` low-rank factors learn it, and are merged into the weights at
    the end: the model has the same parameters as before, with other values.

    Raises:
        InputError: `training.devices` is not 1, this machine has no such precision, or a trace is
            asked of LoRA.
        UpdateError: the loss is no number or has diverged.
    """
    _check(training, trace)
    if not training.train_routers:
        freeze_routers(model)
    plan = Plan(lesson, training)
    with adapted(model, training) as adaptation:
        guards = replace(guards, anchor=adaptation.hold(guards.anchor))
        learner = Learner(model, training, num_steps=plan.num_steps, guards=guards)
        tracer = TRACERS[trace](learner, plan)
        start = dict(model.named_parameters())
        saver = _Saver(folder, _fingerprint(training, lesson, start, guards) + trace, training)
        restored = saver.restore(learner)
        done = restored[0].num_examples
        with Progress("train", plan.num_examples, done=done, shown=watch.progress) as progress:
            learner.record = record = Record(
                restored,
                plan=plan,
                vocabulary_size=model.config.vocab_size,
                penalty=learner.penalty,
                on_metrics=watch.on_metrics,
                progress=progress,
            )
            if not record.finished:
                _train(learner, plan, training, saver)
        traced, moved = tracer()
    return Fit(
        **asdict(record.counters),
        losses=tuple(record.losses),
        too_long=lesson.examples.too_long,
        trace=traced,
        moved=moved,
    )


def _check(training: TrainingSettings, trace: str) -> None:
    if trace and training.adapt == "lora":
        raise InputError(
            f'the trace "{trace}" of a training with training.adapt = "lora"',
            "only low-rank factors are trained: nothing is recorded of the full weights",
            'take training.adapt = "full", or a regularizer that is estimated afterwards',
        )
    if training.devices != 1:
        what = f"training.devices = {training.devices}"
        raise InputError(what, "training runs on one device", "set it to 1")
    if training.precision == "16-mixed" and not torch.cuda.is_available():
        # Lightning would take bfloat16 instead, with a warning.
        raise InputError(
            'training.precision = "16-mixed"',
            "float16 is trained on a GPU, and here is none",
            "take 32-true or bf16-mixed",
        )


class _Saver(Callback):
    """Writes the run's state now and then, and when it is done."""

    def __init__(self, folder: Path, fingerprint: str, training: TrainingSettings) -> None:
        self._folder, self._fingerprint = folder, fingerprint
        self._every_steps = training.checkpoint_every_steps
        self._last = 0

    def restore(self, learner: Learner) -> tuple[state.Counters, list[float]]:
        """The learner is as it was saved; its counters and losses then, or those of a start."""
        counters, losses = state.restore(
            self._folder, self._fingerprint, learner.trained, learner.optimizer
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
