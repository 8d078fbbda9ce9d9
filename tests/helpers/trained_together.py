"""One training by one process and by many, and how like what comes of them is."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from regularizers import importance as weights
from regularizers.consolidate import Held
from updater.launch import answer
from updater.launch.task import Learning, TermFiles
from updater.nemotron import checkpoint
from updater.settings import RegularizerSettings, TrainingSettings
from updater.train.fit import Fit, fit
from updater.train.lesson import Lesson
from updater.train.memory import Memory, ones
from updater.train.objective import Objective
from updater.train.record import Watch

QUIET = Watch(progress=False)
# 60 examples in batches of 7: the last one has 4, and after accumulation the processes' parts are
# of unlike sizes.
TRAINING = TrainingSettings(
    epochs=1, batch_size=7, accumulate=2, learning_rate=1e-3, checkpoint_every_steps=2
)
EWC = RegularizerSettings(method="ewc", strength=10.0)


def alone(
    base: Path,
    lesson: Lesson,
    importance: Path,
    folder: Path,
    *,
    trace: str = "",
    watch: Watch = QUIET,
    regularizer: RegularizerSettings = EWC,
    num_terms: int = 1,
    objective: Objective | None = None,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> tuple[NemotronHForCausalLM, Fit]:
    """The same in this process."""
    model, _ = checkpoint.load(base, dtype=dtype)
    training = dataclasses.replace(TRAINING, **changes)
    if not training.train_routers:
        checkpoint.freeze_routers(model)
    found = weights.load(importance).in_format(regularizer.format).tensors
    if regularizer.method == "l2":
        found = ones(model)
    held = [Held(dict(model.named_parameters()), found)] * num_terms
    guards = Memory.of(regularizer, held).guards(regularizer, model, lesson)
    if objective is not None:
        guards = dataclasses.replace(guards, objective=objective)
    done = fit(
        model,
        lesson,
        training=training,
        guards=guards,
        folder=folder,
        watch=watch,
        trace=trace,
    )
    return model, done


def task(base: Path, importance: Path, *, trace: str = "", **changes: Any) -> Learning:
    training = dataclasses.replace(TRAINING, **changes)
    return Learning(base, training, EWC, (TermFiles(base, importance),), trace)


def same_weights(folder: Path, model: NemotronHForCausalLM) -> None:
    learnt, _ = checkpoint.load(folder / answer.LEARNT)
    expected = model.state_dict()
    for name, tensor in learnt.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-5, msg=name)


def same_experts(many: Fit, one: Fit) -> None:
    """Every token has gone to the same experts, but where rounding decides between two."""
    assert many.experts.keys() == one.experts.keys()
    for layer, tokens in one.experts.items():
        assert sum(many.experts[layer]) == sum(tokens) == 2 * one.num_tokens
        assert many.experts[layer] == pytest.approx(tokens, abs=3)


def wait_until(holds: Callable[[], bool], *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.1)
