"""What of a model in shards is whole at a time, reckoned before there is any of it.

Called by the footprints of `updater.train`.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from updater.nemotron.layout import pattern
from updater.nemotron.pieces import rows_of_a_piece
from updater.settings import TrainingSettings


@dataclass(frozen=True)
class ExpertPieces:
    """How a layer's routed experts are gathered.

    Attributes:
        apart: parameters of a layer that are gathered by themselves, all its experts'; 0: they are
            whole with their layer, or there are none.
        piece: bytes of a piece.
        itemsize: bytes of an entry.
        pairs: bytes of what comes into the experts, for each token once for each of its experts, in
            float32.
    """

    apart: int = 0
    piece: int = 0
    itemsize: int = 0
    pairs: int = 0

    def shard(self, shards: int, *, trained: bool) -> int:
        """Of each device, a layer's gradient where one is there already: it is summed by itself
        first."""
        return 4 * self.apart // shards if trained else 0

    def bytes(self, *, gradients: bool = False, factors: bool = False) -> int:
        """Of a device: the piece that computes and the one on its way; with `gradients` of the
        stacks that one's, and the float32 sum of the one before; with `factors` the piece that they
        were added to, and its gradient."""
        most = 2 * self.piece
        if gradients:
            most += self.piece + self.piece * 4 // max(self.itemsize, 1)
        if factors:
            most += 2 * self.piece
        return most


def expert_pieces(
    fields: Mapping[str, Any],
    training: TrainingSettings,
    dtype: torch.dtype,
    *,
    num_tokens: int,
    every: bool = False,
) -> ExpertPieces:
    """Of a model of these fields of a config.json, by these processes.

    Args:
        dtype: of the experts' shards, which under "bf16-mixed" are cast before they are sent.
        num_tokens: of a pass, on each device.
        every: as `updater.train.shards.shard` takes `with_factors`.
    """
    if not training.sharded or "E" not in pattern(fields, where="config.json"):
        return ExpertPieces()
    inner = fields.get("moe_latent_size") or fields["hidden_size"]
    one = 2 * inner * fields["moe_intermediate_size"]
    num_experts, world = fields["n_routed_experts"], training.num_processes
    cast = training.precision == "bf16-mixed" and not every
    itemsize = min(dtype.itemsize, 2 if cast else 4)
    if not every and itemsize * one * num_experts <= training.gather_bytes:
        return ExpertPieces()
    rows = rows_of_a_piece(num_experts, world, itemsize * one, training.gather_bytes // 2)
    return ExpertPieces(
        apart=one * num_experts,
        piece=itemsize * one * world * rows,
        itemsize=itemsize,
        pairs=4 * num_tokens * fields["num_experts_per_tok"] * inner,
    )


def gathered_bytes(total: Counter[str], dtype: torch.dtype, *, gradients: bool) -> int:
    """What FSDP2 has whole of a model in shards of `dtype`: the layer that computes, the next one
    on its way, and a gradient before it is cut, if they take any; from the forward pass to the end
    of the way back, embeddings and output head.

    Args:
        total: as of `updater.train.footprint.summed`.
    """
    layers, ends = (3, 2) if gradients else (2, 1)
    return dtype.itemsize * (layers * total["largest"] + ends * total["ends"])
