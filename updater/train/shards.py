"""The model in shards: each process holds its part of every weight, and reads no more of it.

FSDP2 (Zhao et al. 2023, arXiv 2304.11277; torch's `fully_shard`): a block's weights are whole only
while it computes, and its gradients are summed into shards on the way back. Called by
`updater.launch.worker` and, for what a training recorded, by `updater.train.fit`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

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


def shard(model: NemotronHForCausalLM, mesh: DeviceMesh, *, precision: str = "32-true") -> None:
    """The weights of `model` are DTensors over the mesh, a group for each block.

    Trunk and head are roots of their own, for the likelihood calls them one after the other and
    never the whole model. What is to stay frozen has to be so before the first forward pass.

    `precision`: of a training. Under "bf16-mixed" the blocks' matrices are groups of their own,
    gathered in bfloat16, which takes half the time, and half the memory of what is kept for the way
    back; forward passes have to be under autocast. Values and gradients are autocast's own.
    """
    for block in model.model.layers:
        if precision == "bf16-mixed":
            for name in _MULTIPLIED[block.block_type]:
                fully_shard(block.get_submodule(name), mesh=mesh, mp_policy=_BFLOAT16)
        fully_shard(block, mesh=mesh)
    fully_shard(model.model, mesh=mesh)
    fully_shard(model.lm_head, mesh=mesh)


def arranged(
    mesh: DeviceMesh | None, precision: str = "32-true"
) -> Callable[[NemotronHForCausalLM], None] | None:
    """What `updater.nemotron.checkpoint.load` takes to cut the model over the mesh; None: nothing
    is cut. `precision`: as of `shard`."""
    return None if mesh is None else lambda model: shard(model, mesh, precision=precision)


def reshard(model: NemotronHForCausalLM) -> None:
    """After forward passes without a backward one: trunk and head, which stay whole in between, are
    shards again, and so are their parameters."""
    for root in (model.model, model.lm_head):
        assert isinstance(root, FSDPModule), "only a model in shards"
        root.reshard()


@torch.no_grad()
def gathered(tensors: Mapping[str, Tensor], *, kept: bool) -> dict[str, Tensor]:
    """The tensors, whole and in the CPU's memory, one after the other; none where not `kept`. Each
    process has to ask."""
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if kept:
            whole[name] = full.detach().cpu()
    return whole
