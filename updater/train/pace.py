"""How long an optimizer step takes on this machine, timed before there is a model that large.

One layer of each kind is trained for a few steps, at its real size, on random tokens; a step of the
whole is the sum over the layers, and the embedding and output head on top. Called by
`updater.doctor`.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from updater.nemotron.checkpoint import random
from updater.nemotron.layout import pattern
from updater.settings import TrainingSettings
from updater.train.activations import checkpointed
from updater.train.adapt import adapted, freeze
from updater.train.encode import Batch
from updater.train.learner import adamw
from updater.train.likelihood import negative_log_likelihood

_WARM_UP, _TIMED = 1, 3
_FEW = 512  # entries of a vocabulary that costs next to nothing


def step_seconds(
    fields: Mapping[str, Any],
    *,
    training: TrainingSettings,
    length: int,
    device: str,
    frozen_dtype: torch.dtype = torch.float32,
) -> float:
    """Seconds of an optimizer step of `training.batch_size` x `training.accumulate` examples of
    `length` tokens, half of each its completion, without anchor and rehearsal. Of many devices: of
    one's share, without what they tell each other.

    Raises:
        torch.OutOfMemoryError, RuntimeError: one layer alone doesn't fit.
    """
    letters = pattern(fields, where="config.json")
    training = replace(training.on_one_device, batch_size=training.share)

    def timed(layers: str, vocabulary: int = _FEW) -> float:
        changed = {"hybrid_override_pattern": layers, "num_hidden_layers": len(layers)}
        part = dict(fields) | changed | {"vocab_size": vocabulary}
        return _seconds(part, training, length, device, frozen_dtype)

    kinds = set(letters)
    light = next(kind for kind in "*-ME" if kind in kinds)
    alone = {kind: timed(kind) for kind in kinds}
    frame = max(2 * alone[light] - timed(2 * light), 0.0)
    ends = max(timed(light, fields["vocab_size"]) - alone[light], 0.0)
    return frame + ends + sum(max(alone[kind] - frame, 0.0) for kind in letters)


def _seconds(
    fields: dict[str, Any],
    training: TrainingSettings,
    length: int,
    device: str,
    frozen_dtype: torch.dtype,
) -> float:
    dtype = frozen_dtype if training.adapt == "lora" else torch.float32
    model = random(fields, device=device, dtype=dtype)
    tokens_bl = torch.randint(3, fields["vocab_size"], (training.batch_size, length), device=device)
    targets_bl = torch.zeros_like(tokens_bl, dtype=torch.bool)
    targets_bl[:, length // 2 :] = True
    batch = Batch(tokens_bl, targets_bl)
    freeze(model, training)
    model.train()
    with adapted(model, training), checkpointed(model, on=training.activation_checkpointing):
        optimizer = adamw({n: p for n, p in model.named_parameters() if p.requires_grad}, training)
        for step in range(_WARM_UP + _TIMED):
            if step == _WARM_UP:
                _finish(device)
                started = time.perf_counter()
            for _ in range(training.accumulate):
                with torch.autocast(
                    torch.device(device).type,
                    torch.bfloat16,
                    enabled=training.precision != "32-true",
                ):
                    sums_b, counts_b = negative_log_likelihood(model, batch)
                (sums_b.sum() / counts_b.sum()).backward()
            optimizer.step()
            optimizer.zero_grad()
        _finish(device)
        return (time.perf_counter() - started) / _TIMED


def _finish(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
