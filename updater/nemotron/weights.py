"""Between a model's memory and the released names on disk: one mapping, used both ways.

transformers 5 keeps a layer's experts stacked in one tensor (experts, out, in) and calls the
trunk `model.`; released checkpoints keep a tensor per expert and call it `backbone.`. Everything
of ours in memory (anchors, importance, optimizer state) uses the in-memory names. Called by
`updater.nemotron.checkpoint`.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

_EXPERTS = (".mixer.experts.up_proj", ".mixer.experts.down_proj")

# Kept in float32 whatever the model's dtype: the router and its bias decide which expert a token
# goes to, and the state's decay is an exponential of A_log. F32 on disk in Nano's release, and
# what NVIDIA's AutoModel keeps (`_fp32_params`).
CORRECTION_BIAS = ".e_score_correction_bias"
_FLOAT32 = (".mixer.gate.weight", CORRECTION_BIAS, ".A_log", ".D", ".dt_bias")


def is_experts(name: str) -> bool:
    """Whether this in-memory tensor holds one slice per routed expert along its first axis."""
    return name.endswith(_EXPERTS)


def stays_float32(name: str) -> bool:
    """Whether this in-memory tensor keeps float32 in a model of a smaller dtype."""
    return name.endswith(_FLOAT32)


def released_name(name: str, expert: int = 0) -> str:
    """The name on disk of an in-memory tensor, or of one expert's slice of it."""
    name = "backbone." + name.removeprefix("model.") if name.startswith("model.") else name
    if not is_experts(name):
        return name
    stem, kind = name.rsplit(".", 1)
    return f"{stem}.{expert}.{kind}.weight"


def released(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor of `model` under its released name, as a view: reading it exports, writing
    into it loads. Of a model in shards this process's part, as `parts` has it."""
    return ((name, view) for name, view, _ in parts(model.state_dict()))


def parts(state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor, int]]:
    """Released name, view, and the first row of it, of what this process has of each tensor in a
    model's state dict: all of it, or of DTensors, cut along their first axis, its own rows; of a
    stack of experts those of its own experts."""
    for name, tensor in state.items():
        first = 0
        if isinstance(tensor, DTensor):
            _, offset = compute_local_shape_and_global_offset(
                tensor.shape, tensor.device_mesh, tensor.placements
            )
            first, tensor = offset[0], tensor.to_local()
        if is_experts(name):
            for expert, view in enumerate(tensor, start=first):
                yield released_name(name, expert), view, 0
        else:
            yield released_name(name), tensor, first
