"""What an update takes of the main memory beside GPUs, reckoned before there is any of it.

Of a machine without GPUs all is main memory: `updater.train.footprint`. Called by
`updater.reckoning`.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from regularizers.formats import kept, parts
from updater.nemotron.checkpoint import build
from updater.nemotron.layout import tensor_shapes
from updater.settings import RegularizerSettings, TrainingSettings
from updater.settings.regularizing import HOLD_WEIGHTS, METHODS
from updater.train.adapt import freeze
from updater.train.footprint import anchor_bytes, anchor_dtype, of_a_pass
from updater.train.sharded_state import FILE_BYTES

PROCESS_BYTES = 2**31
"""Of a process with torch, transformers and CUDA beside its tensors: chosen, about that."""


@dataclass(frozen=True)
class HostFootprint:
    """Bytes of one machine, all its processes together, part by part. `estimated`: an importance on
    its way to the disk; `read`: from there, before it is cut and moved; `pinned`: anchor and
    importance that are offloaded, and `rounding`: by which torch's allocator of pinned memory
    rounds each of them up; `saved`: a run's state on its way to the disk; `streamed`: the largest
    tensor while a checkpoint is read or written; `processes`: themselves.

    Not counted: several terms (`regularizer.terms = "periods"`, or a line of updates under a method
    that adds them up), which many processes consolidate each for itself.
    """

    estimated: int
    read: int
    pinned: int
    rounding: int
    saved: int
    streamed: int
    processes: int

    @property
    def least(self) -> int:
        """What is there at once, whatever the allocator does."""
        return max(self.estimated, self.pinned + max(self.read, self.saved, self.streamed))

    @property
    def peak(self) -> int:
        """The most at any time."""
        training = self.pinned + self.rounding + max(self.read, self.saved, self.streamed)
        return self.processes + max(self.estimated, training)


def host_footprint(
    fields: Mapping[str, Any],
    *,
    training: TrainingSettings,
    regularizer: RegularizerSettings,
    released_dtype: torch.dtype = torch.float32,
) -> HostFootprint:
    """Of the first of the machines. Arguments as of `updater.train.footprint.footprint`. Counted,
    not measured."""
    method = METHODS[regularizer.method]
    sizes = _sizes(
        json.dumps(dict(fields)),
        of_a_pass(training.on_one_device),
        regularizer.format,
        anchor_dtype(regularizer, released_dtype),
    )
    # Each process has all of it, or its part of what all nodes' processes have together.
    copies = training.devices / (training.num_processes if training.sharded else 1)
    ones = method.importance == "ones"
    holds = regularizer.method in HOLD_WEIGHTS
    importance = 0 if ones or not holds else int(copies * sum(sizes.importance))
    estimates = method.importance in ("fisher", "mas") and not regularizer.is_recorded
    estimated = sum(sizes.importance)
    if training.beside_training.sharded:
        # The first has one after the other whole, in float32, and experts once more while they are
        # made comparable.
        estimated += 2 * sizes.largest
    pinned = rounding = 0
    if holds and regularizer.offload:
        each = sizes.anchor if ones else [*sizes.anchor, *sizes.importance]
        pinned = int(copies * sum(each))
        rounding = int(copies * sum(_rounded(size) for size in each)) - pinned
    largest = max(math.prod(s) for s in tensor_shapes(fields, where="config.json").values())
    return HostFootprint(
        estimated=estimated if estimates else 0,
        read=importance,
        pinned=pinned,
        rounding=rounding,
        # Weights and both moments; safetensors has a file's tensors in main memory all at once.
        saved=_saved(training, 12 * sizes.trained),
        streamed=2 * 4 * largest,
        processes=PROCESS_BYTES * (1 + (training.devices if training.devices > 1 else 0)),
    )


def _saved(training: TrainingSettings, whole: int) -> int:
    """Of a state in shards each process has a file of its own part at a time. Low-rank factors are
    whole."""
    if not training.sharded or training.adapt == "lora":
        return whole
    return training.devices * min(FILE_BYTES, whole // training.num_processes)


def _rounded(size: int) -> int:
    """As torch's CachingHostAllocator: to a power of two."""
    return 1 << max(size - 1, 0).bit_length()


@dataclass(frozen=True)
class _Sizes:
    """Of what an update holds: bytes of each anchor and each tensor of the importance, and of its
    largest one in float32; how many entries are trained."""

    anchor: list[int]
    importance: list[int]
    largest: int
    trained: int


@lru_cache(maxsize=64)
def _sizes(fields: str, training: TrainingSettings, form: str, dtype: torch.dtype) -> _Sizes:
    with torch.device("meta"):
        model = build(json.loads(fields))
        freeze(model, training)
    held = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    tensors = [part for weight in kept(held, form).values() for part in parts(weight)]
    entries = sum(weight.numel() for weight in held.values())
    trained = entries
    if training.adapt == "lora":  # which are far fewer than the entries that they move
        trained = sum(
            math.prod(w.shape[:-2]) * training.lora_rank * sum(w.shape[-2:]) for w in held.values()
        )
    largest = 4 * max(weight.numel() for weight in held.values())
    return _Sizes(
        anchor_bytes(held, dtype), [tensor.nbytes for tensor in tensors], largest, trained
    )
