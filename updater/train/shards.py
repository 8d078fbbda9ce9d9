"""The model in shards: each process holds its part of every weight, and reads no more of it.

FSDP2 (Zhao et al. 2023, arXiv 2304.11277; torch's `fully_shard`): a block's weights are whole only
while it computes, and its gradients are summed into shards on the way back. Called by
`updater.launch` and, for what a training recorded, by `updater.train.fit`.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from updater.nemotron.mtp import MtpHead


def shard(model: NemotronHForCausalLM, mesh: DeviceMesh) -> None:
    """The weights of `model` are DTensors over the mesh, a group for each block.

    Trunk and head are roots of their own, for the likelihood calls them one after the other and
    never the whole model. What is to stay frozen has to be so before the first forward pass.
    """
    for block in model.model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(model.model, mesh=mesh)
    fully_shard(model.lm_head, mesh=mesh)


def shard_head(head: MtpHead, mesh: DeviceMesh) -> None:
    """The same of a multi-token-prediction head: a group for each mixer. All else is small, and the
    head's own, for it calls what fuses its inputs without the layer that has it."""
    for layer in head.layers:
        fully_shard(layer.get_submodule("mixer"), mesh=mesh)
    fully_shard(head, mesh=mesh)


def arranged(mesh: DeviceMesh | None) -> Callable[[NemotronHForCausalLM], None] | None:
    """What `updater.nemotron.checkpoint.load` takes to cut the model over the mesh; None: nothing
    is cut."""
    return None if mesh is None else lambda model: shard(model, mesh)


def arranged_head(mesh: DeviceMesh | None) -> Callable[[MtpHead], None] | None:
    """The same for `updater.nemotron.mtp.attach`."""
    return None if mesh is None else lambda head: shard_head(head, mesh)


def reshard(model: NemotronHForCausalLM) -> None:
    """After forward passes without a backward one: the roots, which stay whole in between, are
    shards again, and so are their parameters."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


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
