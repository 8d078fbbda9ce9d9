"""What is computed in float32 wherever autocast is on: the routers, and (`updater.nemotron.scan`)
the scan by PyTorch's operators. What the fused kernels do in its place: docs/gpu.md.

transformers' router casts its tokens and weights to float32 and multiplies them, a product that
autocast takes back to bfloat16: of random tokens 3.6 % went to other experts than the float32
router sends them to, as which it was trained and is served. Called by `updater.nemotron.checkpoint`
and `updater.nemotron.mtp`.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHTopkRouter


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """In the block autocast is off on the tensor's device."""
    device = tensor.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def route_in_float32(model: nn.Module) -> None:
    """The routers of `model` compute in float32 from now on; twice is once."""
    for module in model.modules():
        if isinstance(module, NemotronHTopkRouter):
            module.__class__ = _Router


class _Router(NemotronHTopkRouter):
    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, and the weights and numbers of each token's experts."""
        with without_autocast(hidden_states):
            routed: tuple[Tensor, Tensor, Tensor] = super().forward(hidden_states)
        return routed
