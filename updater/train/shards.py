"""The model in shards: each process holds its part of every weight, and reads no more of it.

FSDP2 (Zhao et al. 2023, arXiv 2304.11277; torch's `fully_shard`): a block's weights are whole only
while it computes, and its gradients are summed into shards on the way back. Where a block's experts
would take too much so, they are gathered in pieces (`updater.nemotron.pieces`). Called by
`updater.launch` and, for what a training recorded, by `updater.train.fit`.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers.models.nemotron_h.modeling_nemotron_h import (
    NemotronHExperts,
    NemotronHForCausalLM,
)

from updater.nemotron.mtp import MtpHead
from updater.nemotron.pieces import are_cut, cut
from updater.nemotron.weights import is_experts, released_name
from updater.settings import TrainingSettings
from updater.train.distilled import RECIPES

_MULTIPLIED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "linear_attention": ("mixer.in_proj",),  # its fused kernel reads out_proj's weight itself
        "full_attention": ("mixer",),
        "moe": ("mixer.experts", "mixer.shared_experts"),
        "mlp": ("mixer",),
    }
)
"""Kind of block -> what of it holds nothing but matrices that autocast casts, each used once in a
forward pass. Not lm_head: its logits are made in pieces, whose gradients would be added up in
bfloat16."""

# As autocast has it: the gradient is bfloat16 too, and summed in float32. What comes in is cast by
# autocast, and the experts' routing weights stay float32.
_BFLOAT16 = MixedPrecisionPolicy(
    param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
)


def gathered_in(training: TrainingSettings, method: str) -> str:
    """The `precision` of `shard` for a training held by `method`: float32 where the base is asked
    for its answers, outside of autocast."""
    return "32-true" if method in RECIPES else training.precision


def shard(
    model: NemotronHForCausalLM,
    mesh: DeviceMesh,
    *,
    gather_bytes: int,
    precision: str = "32-true",
    with_factors: bool = False,
) -> None:
    """The weights of `model` are DTensors over the mesh, a group for each block.

    Trunk and head are roots of their own, for the likelihood calls them one after the other and
    never the whole model. What is to stay frozen has to be so before the first forward pass.

    Args:
        gather_bytes: of a block's routed experts, what is whole at a time, at most.
        precision: of a training. Under "bf16-mixed" the blocks' matrices are groups of their own,
            gathered in bfloat16, which takes half the time, and half the memory of what is kept for
            the way back; forward passes have to be under autocast. Values and gradients are
            autocast's own.
        with_factors: low-rank factors will be put on top of routed experts, whose pieces they are
            added to: all are gathered so.
    """
    mixed = precision == "bf16-mixed"
    apart = _in_pieces(model, mesh, gather_bytes, mixed=mixed, every=with_factors)
    if mixed:
        for module in multiplied(model):
            if not are_cut(module):
                fully_shard(module, mesh=mesh, mp_policy=_BFLOAT16)
    for block in model.model.layers:
        fully_shard(block, mesh=mesh, ignored_params=apart)
    fully_shard(model.model, mesh=mesh, ignored_params=apart)
    fully_shard(model.lm_head, mesh=mesh)


def _in_pieces(
    model: nn.Module, mesh: DeviceMesh, gather_bytes: int, *, mixed: bool, every: bool = False
) -> set[nn.Parameter]:
    """Experts of which a layer's are more than `gather_bytes`, or all, are cut by themselves;
    returned are their weights, which are not FSDP's."""
    apart: set[nn.Parameter] = set()
    for module in model.modules():
        if not isinstance(module, NemotronHExperts):
            continue
        itemsize = 2 if mixed and not every else module.up_proj.element_size()
        if every or itemsize * sum(p.numel() for p in module.parameters()) > gather_bytes:
            # The next piece is on its way while one computes.
            cut(module, mesh, piece_bytes=gather_bytes // 2, itemsize=itemsize)
            apart.update(module.parameters())
    return apart


def multiplied(model: NemotronHForCausalLM) -> Iterator[nn.Module]:
    """What is gathered in bfloat16 under "bf16-mixed", and cut again after its forward pass: of
    these autocast keeps no copies for the way back."""
    for block in model.model.layers:
        for name in _MULTIPLIED[block.block_type]:
            yield block.get_submodule(name)


def shard_head(head: MtpHead, mesh: DeviceMesh, *, gather_bytes: int) -> None:
    """The same of a multi-token-prediction head: a group for each mixer, in float32, which it is
    asked in. All else is small, and the head's own, for it calls what fuses its inputs without the
    layer that has it."""
    apart = _in_pieces(head, mesh, gather_bytes, mixed=False)
    for layer in head.layers:
        fully_shard(layer.get_submodule("mixer"), mesh=mesh, ignored_params=apart)
    fully_shard(head, mesh=mesh, ignored_params=apart)


def arranged(mesh: DeviceMesh | None, **how: Any) -> Callable[[NemotronHForCausalLM], None] | None:
    """What `updater.nemotron.checkpoint.load` takes to cut the model over the mesh; None: nothing
    is cut. `how`: as of `shard`."""
    return None if mesh is None else lambda model: shard(model, mesh, **how)


def arranged_head(mesh: DeviceMesh | None, **how: Any) -> Callable[[MtpHead], None] | None:
    """The same for `updater.nemotron.mtp.attach`, as of `shard_head`."""
    return None if mesh is None else lambda head: shard_head(head, mesh, **how)


def reshard(model: NemotronHForCausalLM) -> None:
    """After forward passes without a backward one: the roots, which stay whole in between, are
    shards again, and so are their parameters."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


class Whole(Mapping[str, Tensor]):
    """The tensors of a model by their released names, each gathered when it is asked for and not
    kept. Of a model in shards each process has to ask for the same ones in the same order.

    Args:
        state: the model's state dict.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._parts = {
            released_name(name, expert): (tensor, expert if is_experts(name) else None)
            for name, tensor in state.items()
            for expert in range(tensor.shape[0] if is_experts(name) else 1)
        }

    @torch.no_grad()
    def __getitem__(self, name: str) -> Tensor:
        tensor, expert = self._parts[name]
        if not isinstance(tensor, DTensor):
            return tensor if expert is None else tensor[expert]
        return tensor.full_tensor() if expert is None else _slice(tensor, expert)

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


def _slice(stack: DTensor, index: int) -> Tensor:
    """One entry along the first axis, which one process has whole: the stack of a layer's experts
    would be gigabytes."""
    mesh, local = stack.device_mesh, stack.to_local()
    owner, row = divmod(index, -(-stack.shape[0] // mesh.size()))  # as torch.chunk cuts
    mine = mesh.get_local_rank() == owner
    part = local[row].contiguous() if mine else local.new_empty(local.shape[1:])
    distributed.broadcast(part, group=mesh.get_group(), group_src=owner)
    return part


@torch.no_grad()
def gathered(tensor: Tensor, *, kept: bool) -> Tensor | None:
    """The tensor, whole and in the CPU's memory; None where not `kept`. Each process has to ask."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().cpu() if kept else None
