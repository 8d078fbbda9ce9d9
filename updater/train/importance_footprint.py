"""What memory the importance step takes, reckoned before there is any of it.

As `updater.train.footprint`, which reckons the training that comes after it. Called by
`updater.reckoning`.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from updater.nemotron.checkpoint import build
from updater.nemotron.weights import is_experts, stays_float32
from updater.settings import RegularizerSettings, TrainingSettings
from updater.settings.regularizing import METHODS
from updater.train.activations import checkpointed
from updater.train.adapt import freeze
from updater.train.footprint import Pass, cast_as_gathered, of_a_pass, summed
from updater.train.gathered import expert_pieces, gathered_bytes
from updater.train.importance import SAMPLED_BATCH
from updater.train.kept import kept_bytes
from updater.train.likelihood import LOGITS_BYTES


@dataclass(frozen=True)
class ImportanceFootprint:
    """Bytes of one device, part by part. `totals`: what is added up, a float32 for each weight that
    the training moves, under LoRA for each entry of the matrices that have factors. `gradient`: of
    one tensor, the largest; it is gone before the next one is there. The others as of `Footprint`.
    """

    weights: int
    totals: int
    gradient: int
    activations: int
    recomputed: int
    logits: int
    gathered: int = 0

    @property
    def least(self) -> int:
        """What is there at once, however short the texts are."""
        return self.weights + self.totals + self.gradient

    @property
    def peak(self) -> int:
        """The most at any time: the last layers' gradients come while all activations are there."""
        passing = self.activations + max(self.logits, self.gradient + self.recomputed)
        return self.weights + self.totals + self.gathered + passing


def importance_footprint(
    fields: Mapping[str, Any],
    *,
    training: TrainingSettings,
    regularizer: RegularizerSettings,
    length: int,
    frozen_dtype: torch.dtype = torch.float32,
    kernels: bool = False,
) -> ImportanceFootprint | None:
    """Of the importance step before such an update, on each device; None where nothing is estimated
    in it. Arguments as of `footprint`.

    Not measured on a GPU: of its parts the activations are those of `footprint`, which was, and the
    rest is counted.
    """
    source = METHODS[regularizer.method].importance
    if source not in ("fisher", "mas") or regularizer.is_recorded:
        return None
    shards = training.num_processes if training.sharded else 1
    lora = training.adapt == "lora"
    resting = frozen_dtype if lora else torch.float32
    batch_size = SAMPLED_BATCH if source == "fisher" and regularizer.estimator == "sampled" else 1
    pieces = expert_pieces(fields, training, resting, num_tokens=batch_size * length)
    training = replace(training.on_one_device, batch_size=batch_size)

    def measured(part: dict[str, Any], passed: Pass) -> Counter[str]:
        given = (json.dumps(part), of_a_pass(training), length, frozen_dtype, passed)
        return Counter(_weighed(*given, kernels=kernels, in_shards=shards > 1))

    total = summed(fields, measured, checkpointed=training.activation_checkpointing, pieces=pieces)
    logits = 3 * 4 * batch_size * length * fields["vocab_size"]
    if source == "fisher" and regularizer.estimator == "empirical":
        logits = min(logits, 3 * LOGITS_BYTES)
    return ImportanceFootprint(
        weights=total["weights"] // shards,
        totals=4 * total["trained"] // shards,
        gradient=_gradient_bytes(training, frozen_dtype)
        * _largest(json.dumps(dict(fields)), of_a_pass(training), shards if pieces.apart else 1),
        activations=total["kept"],
        recomputed=total["recomputed"],
        logits=logits,
        # Of a layer under LoRA only what has factors takes a gradient, one after the other.
        gathered=gathered_bytes(total, resting, gradients=not lora)
        + pieces.bytes(gradients=not lora or training.factors_on_experts)
        if shards > 1
        else 0,
    )


def _gradient_bytes(training: TrainingSettings, frozen_dtype: torch.dtype) -> int:
    """An entry's, as it comes and, where that is another dtype, in float32."""
    own = frozen_dtype.itemsize if training.adapt == "lora" else 4
    return own if own == 4 else own + 4


@lru_cache(maxsize=1024)
def _weighed(
    fields: str,
    training: TrainingSettings,
    length: int,
    frozen_dtype: torch.dtype,
    passed: Pass,
    *,
    kernels: bool,
    in_shards: bool,
) -> Counter[str]:
    """Parameters trained, which are asked for their gradient, and frozen; bytes of both, and of
    what is kept: there are no factors yet. `fields`: of config.json, as JSON."""
    with torch.device("meta"):
        model = build(json.loads(fields))
        freeze(model, training)
    found: Counter[str] = Counter()
    resting = frozen_dtype if training.adapt == "lora" else torch.float32
    for name, parameter in model.named_parameters():
        found["trained" if parameter.requires_grad else "frozen"] += parameter.numel()
        if not stays_float32(name):
            parameter.data = parameter.data.to(resting)
        found["weights"] += parameter.nbytes
    if in_shards and training.precision == "bf16-mixed":
        cast_as_gathered(model)
    with checkpointed(model, on=passed.checkpointed):
        found["kept"] = kept_bytes(
            model, training, length, kernels=kernels, in_pieces=passed.in_pieces
        )
    return found


@lru_cache
def _largest(fields: str, training: TrainingSettings, shards: int) -> int:
    """Entries of the largest tensor whose gradient is asked for. Where experts are in so many
    shards, both stacks of a layer's come at once."""
    with torch.device("meta"):
        model = build(json.loads(fields))
        freeze(model, training)
    return max(
        2 * p.numel() // shards if shards > 1 and is_experts(name) else p.numel()
        for name, p in model.named_parameters()
        if p.requires_grad
    )
