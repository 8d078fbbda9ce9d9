"""What memory a multi-token-prediction head's alignment takes, reckoned before there is any of it.

As `updater.train.footprint`, which reckons the training before it. Called by `updater.reckoning`.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from updater.nemotron.checkpoint import build
from updater.nemotron.layout import mtp_pattern, mtp_shapes, tensor_shapes
from updater.settings import TrainingSettings
from updater.train.drafting import NUM_DRAFTS
from updater.train.footprint import Footprint, idle_bytes, of_a_pass
from updater.train.gathered import ExpertPieces, expert_pieces
from updater.train.kept import kept_bytes
from updater.train.likelihood import LOGITS_BYTES


def head_footprint(
    fields: Mapping[str, Any],
    *,
    training: TrainingSettings,
    length: int,
    resting_dtype: torch.dtype = torch.float32,
    kernels: bool = False,
) -> Footprint | None:
    """On each device; None where no head is aligned. Arguments as of `footprint`.

    Not measured on a GPU: what the head's blocks keep for the way back is read off as `footprint`
    does, once for each draft, and the rest is counted.

    Args:
        resting_dtype: of the backbone, which takes no gradient (`updater.train.adapt`).
    """
    letters = mtp_pattern(fields, where="config.json")
    if training.mtp != "align" or not letters:
        return None
    training = training.beside_training
    shards = training.num_processes if training.sharded else 1
    # All of the head is trained, however its backbone was.
    alone = replace(training.on_one_device, batch_size=training.share, adapt="full")
    shapes = mtp_shapes(fields, where="config.json")
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    head = sum(sizes.values())
    trained = head - sum(n for name, n in sizes.items() if ".gate." in name) * (
        not training.train_routers
    )
    backbone = sum(math.prod(s) for s in tensor_shapes(fields, where="config.json").values())
    num_tokens = alone.batch_size * length
    blocks = dict(fields) | {"hybrid_override_pattern": letters, "num_hidden_layers": len(letters)}
    hidden = fields["hidden_size"]
    plain = replace(training, precision="32-true")  # asked outside of autocast
    pieces = expert_pieces(blocks, plain, torch.float32, num_tokens=num_tokens)
    of_backbone = expert_pieces(fields, plain, resting_dtype, num_tokens=num_tokens).bytes()
    # Beside its blocks: the norms' and eh_proj's inputs of each draft, and the backbone's states.
    fused = num_tokens * hidden * (NUM_DRAFTS * 4 * (2 + 2) + 2 * resting_dtype.itemsize)
    mixers = [
        sum(n for name, n in sizes.items() if name.startswith(f"mtp.layers.{layer}."))
        - (pieces.apart if letter == "E" else 0)
        for layer, letter in enumerate(letters)
    ]
    of_head = 2 * 4 * max(mixers) + _gathered(pieces, shards)
    ends = resting_dtype.itemsize * 2 * hidden * fields["vocab_size"]
    gradients = 4 * trained // shards
    kept = [
        _kept(json.dumps(blocks), of_a_pass(alone), length, kernels=kernels, in_pieces=in_pieces)
        for in_pieces in (False, True)
    ]
    again = kept[False] - kept[True] + 3 * pieces.pairs if pieces.apart else 0
    return Footprint(
        weights=(resting_dtype.itemsize * backbone + 4 * head) // shards,
        gradients=gradients,
        optimizer=8 * trained // shards,
        anchor=0,
        importance=0,
        activations=NUM_DRAFTS * kept[bool(pieces.apart)] + fused,
        recomputed=again,
        logits=3 * min(4 * num_tokens * fields["vocab_size"], LOGITS_BYTES),
        # Of shards: a mixer of the head and its gradient; embedding and output head.
        gathered=(ends + max(of_head, of_backbone)) * (shards > 1),
        idle=idle_bytes(blocks, alone, shards=shards),
        accumulated=gradients if training.accumulate > 1 else 0,
    )


def _gathered(pieces: ExpertPieces, shards: int) -> int:
    """Each draft has a gradient of its own."""
    return pieces.bytes(gradients=True) + pieces.shard(shards, trained=True)


@lru_cache(maxsize=64)
def _kept(
    fields: str, training: TrainingSettings, length: int, *, kernels: bool, in_pieces: bool
) -> int:
    """What the head's blocks keep of one draft; `fields`: of config.json, as JSON."""
    with torch.device("meta"):
        model = build(json.loads(fields))
    return kept_bytes(model, training, length, kernels=kernels, in_pieces=in_pieces)
