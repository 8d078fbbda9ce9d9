"""A layer's routed experts in shards, of which a piece at a time is whole.

FSDP2 gathers a module at once: all experts of a layer of Ultra are 20 GiB in bfloat16, and they,
the next layer's, their gradients and the float32 sum of those would be there together. Here the
same shards (DTensors cut along the experts, as FSDP2 cuts) are gathered in pieces, each of the same
few experts of every process, so that all send and receive alike; the next piece is on its way while
one computes. `updater.train.shards` cuts; `updater.nemotron.piecewise` computes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHExperts

from regularizers.low_rank import Factors
from regularizers.shards import local, shard_of

STACKS = ("up_proj", "down_proj")
_ROWS, _FACTORS = "rows_of_a_piece", "factors_of_stacks"


def cut(experts: NemotronHExperts, mesh: DeviceMesh, *, piece_bytes: int, itemsize: int) -> None:
    """The stacks of these experts are DTensors over the mesh, and from now on are gathered in
    pieces of at most `piece_bytes`, or of one expert of each process, where an entry takes
    `itemsize` bytes."""
    one = itemsize * sum(getattr(experts, name)[0].numel() for name in STACKS)
    rows = rows_of_a_piece(experts.num_experts, mesh.size(), one, piece_bytes)
    setattr(experts, _ROWS, rows)
    for name in STACKS:
        stack = getattr(experts, name)
        shard = distribute_tensor(stack.detach(), mesh, [Shard(0)], src_data_rank=None)
        experts.register_parameter(name, nn.Parameter(shard, requires_grad=stack.requires_grad))


def rows_of_a_piece(num_experts: int, world: int, one: int, piece_bytes: int) -> int:
    """Of how many of each process' experts a piece is, `one` of which takes so many bytes: as few
    pieces as there can be of at most `piece_bytes`, all alike but for the last."""
    held = _parts(num_experts, world)
    return _parts(held, _parts(held, max(1, piece_bytes // (one * world))))


def are_cut(experts: Any) -> bool:
    """Whether these experts are gathered in pieces."""
    return hasattr(experts, _ROWS)


def put_on_top(experts: NemotronHExperts, factors: Mapping[str, Factors]) -> None:
    """From now on each piece that was gathered has its experts' part of s B A added; {}: nothing.

    Args:
        factors: of some of `STACKS`, which every process has whole.
    """
    setattr(experts, _FACTORS, dict(factors))


@dataclass(frozen=True)
class Pieces:
    """The experts of a layer, as one process of many sees them. Whatever is sent has to be asked
    for by all, in the same order.

    Attributes:
        experts: the module.
        dtype: in which they are gathered.
        world: processes that have a part each.
        held: experts that each process has; the last ones may have fewer, or none.
        rows: how many of them are in a piece; in the last one there may be fewer.
    """

    experts: Any
    stacks: Mapping[str, DTensor]
    factors: Mapping[str, Factors]
    dtype: torch.dtype
    world: int
    held: int
    rows: int

    @classmethod
    def of(cls, experts: Any, dtype: torch.dtype) -> "Pieces":
        """Of experts that are cut, for a product in `dtype`. Those with factors are gathered in
        their own, which these are added in, as peft adds them: in bfloat16 a small one is none."""
        stacks = {name: getattr(experts, name) for name in STACKS}
        factors = getattr(experts, _FACTORS, {})
        world = stacks[STACKS[0]].device_mesh.size()
        return cls(
            experts=experts,
            stacks=stacks,
            factors=factors,
            dtype=stacks[STACKS[0]].dtype if factors else dtype,
            world=world,
            held=_parts(experts.num_experts, world),
            rows=getattr(experts, _ROWS),
        )

    @property
    def size(self) -> int:
        """Places of a piece, each for an expert; where a process has fewer some are empty."""
        return self.world * self.rows

    def __len__(self) -> int:
        return _parts(self.held, self.rows)

    def places(self, expert: Tensor) -> tuple[Tensor, Tensor]:
        """In which piece each of these experts is, and at which of its places."""
        owner, row = expert // self.held, expert % self.held
        return row // self.rows, owner * self.rows + row % self.rows

    def experts_at(self, piece: int, device: torch.device) -> Tensor:
        """Which expert is at each place of a piece; at an empty one any."""
        rows = torch.arange(piece * self.rows, (piece + 1) * self.rows, device=device)
        found = torch.arange(self.world, device=device)[:, None] * self.held + rows
        return found.flatten().clamp_(max=self.experts.num_experts - 1)

    def of_piece(self, mine: Tensor, piece: int) -> Tensor:
        """A view: of this process' rows of a stack those of a piece."""
        return mine[piece * self.rows : (piece + 1) * self.rows]

    def gathered(self) -> Iterator[list[Tensor]]:
        """Of each piece what it has of each of `STACKS`, whole; zeros at empty places. The next one
        is on its way meanwhile, for which who asks has to have let go of the one before."""
        coming = self._gather(0)
        for piece in range(len(self)):
            arrived = [part.arrived() for part in coming]
            coming = self._gather(piece + 1) if piece + 1 < len(self) else []
            yield arrived
            arrived.clear()  # asked for what is next, nobody keeps this

    def _gather(self, piece: int) -> "list[Coming]":
        group, coming = self._group, []
        for stack in self.stacks.values():
            part = _padded(self.of_piece(local(stack).detach(), piece).to(self.dtype), self.rows)
            whole = part.new_empty(self.size, *part.shape[1:])
            work = distributed.all_gather_single(whole, part, group=group, async_op=True)
            coming.append(Coming(work, part, whole))
        return coming

    def mean_over_all(self, gradient: Tensor) -> "Coming":
        """Of a gradient of a piece, which each process has its own of, this one's rows of the mean,
        added up in float32: as FSDP2 has it. May use the gradient's memory."""
        gradient = gradient.float().contiguous().div_(self.world)
        mine = gradient.new_empty(self.rows, *gradient.shape[1:])
        work = distributed.reduce_scatter_single(mine, gradient, group=self._group, async_op=True)
        return Coming(work, gradient, mine)

    def as_shard(self, name: str, mine: Tensor | None) -> Tensor | None:
        """This process' rows of one of `STACKS` as a part of the whole."""
        stack = self.stacks[name]
        return None if mine is None else shard_of(stack, mine, stack.shape, cut=True)

    @property
    def _group(self) -> distributed.ProcessGroup:
        return self.stacks[STACKS[0]].device_mesh.get_group()


@dataclass(frozen=True)
class Coming:
    """What is on its way; and what others still read meanwhile."""

    work: Any
    sent: Tensor
    received: Tensor

    def arrived(self) -> Tensor:
        """It is here."""
        self.work.wait()
        return self.received


def _padded(part: Tensor, rows: int) -> Tensor:
    missing = rows - len(part)
    if missing:
        part = torch.cat([part, part.new_zeros(missing, *part.shape[1:])])
    return part.contiguous()


def _parts(number: int, most: int) -> int:
    """How many parts of at most so many there are."""
    return -(-number // most)
