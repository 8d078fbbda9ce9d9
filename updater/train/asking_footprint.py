"""What memory asking a model takes, as step evaluate does and what verifies an export, reckoned
before there is any of it.

As `updater.train.footprint`, which reckons a training. Called by `updater.reckoning`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from updater.nemotron.layout import pattern, tensor_shapes
from updater.settings import TrainingSettings
from updater.train.gathered import expert_pieces
from updater.train.likelihood import LOGITS_BYTES
from updater.train.portions import token_bytes


@dataclass(frozen=True)
class AskingFootprint:
    """Bytes of one device, part by part. `logits`: of one piece of the answers; `states`: of the
    layer that computes; `gathered`: of shards, that layer, embedding and output head, which are
    whole meanwhile; `ahead`: the layer after it, on its way. Counted, not measured on a GPU."""

    weights: int
    logits: int
    states: int
    gathered: int = 0
    ahead: int = 0

    @property
    def least(self) -> int:
        """What is there at once, however short the texts are."""
        return self.weights + self.gathered + self.logits

    @property
    def peak(self) -> int:
        """The most at any time: while a layer computes, or the answers are made."""
        return self.weights + self.gathered + max(self.states + self.ahead, self.logits)


def asking_footprint(
    fields: Mapping[str, Any],
    *,
    training: TrainingSettings,
    dtype: torch.dtype,
    num_tokens: int,
) -> AskingFootprint:
    """Of a model of these fields, on each device. No model is built.

    Args:
        fields: a config.json's.
        training: by which processes it is asked, and how they have its weights.
        dtype: that it is asked in, `updater.nemotron.dtypes.served_dtype`. The few weights that
            stay float32 in any are counted in it too.
        num_tokens: of a pass, all of which may be completions.
    """
    shards = training.num_processes if training.sharded else 1
    # Not under autocast.
    plain = replace(training, precision="32-true")
    pieces = expert_pieces(fields, plain, dtype, num_tokens=num_tokens)
    shapes = tensor_shapes(fields, where="config.json")
    numels = {name: math.prod(shape) for name, shape in shapes.items()}
    letters = pattern(fields, where="config.json")
    layers = [0] * len(letters)
    for name, numel in numels.items():
        if name.startswith("backbone.layers."):
            layers[int(name.split(".")[2])] += numel
    ends = sum(numels.values()) - sum(layers)
    whole = max(
        n - (pieces.apart if letter == "E" else 0)
        for n, letter in zip(layers, letters, strict=True)
    )
    # In the model's dtype and in float32, and the log-softmax of that.
    each = dtype.itemsize + 4 + 4
    piece = min(num_tokens, max(LOGITS_BYTES // (4 * fields["vocab_size"]), 1))
    return AskingFootprint(
        weights=dtype.itemsize * sum(numels.values()) // shards,
        logits=each * piece * fields["vocab_size"],
        states=num_tokens * states_of_token(fields, dtype),
        gathered=dtype.itemsize * (whole + ends) + pieces.piece if shards > 1 else 0,
        ahead=dtype.itemsize * whole + pieces.piece if shards > 1 else 0,
    )


def states_of_token(fields: Mapping[str, Any], dtype: torch.dtype) -> int:
    """Bytes that a layer's states take of a token, `updater.train.portions.token_bytes` of these
    fields of a config.json."""
    widest, routed = 0, 0
    for name, shape in tensor_shapes(fields, where="config.json").items():
        if not name.startswith("backbone.layers.") or len(shape) != 2:
            continue
        times = 1
        if ".mixer.experts." in name:
            times = fields["num_experts_per_tok"]
            if "down_proj" in name:
                routed = times * shape[0]
        widest = max(widest, times * shape[0])
    return token_bytes(
        itemsize=dtype.itemsize, hidden=fields["hidden_size"], widest=widest, routed=routed
    )
