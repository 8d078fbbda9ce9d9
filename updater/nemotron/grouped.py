"""Routed experts in the precision that autocast asks for.

transformers' grouped product (`experts_implementation = "grouped_mm"`) takes no part in autocast:
it brings the tokens to the weights' dtype. With float32 weights under bf16-mixed a GPU would run
every expert as a float32 product of its own, one after the other; here the weights are brought to
autocast's dtype, and one bfloat16 kernel runs them all. Experts that are gathered in pieces compute
so too (`updater.nemotron.piecewise`). Called by `updater.nemotron.checkpoint`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from updater.nemotron import piecewise
from updater.nemotron.pieces import STACKS, are_cut

_NAME = "grouped_mm_in_autocast"


def follow_autocast(model: NemotronHForCausalLM) -> None:
    """The routed experts of `model` compute in autocast's dtype wherever autocast is on."""
    ALL_EXPERTS_FUNCTIONS.register(_NAME, _forward)
    # Not set_experts_implementation: it takes none but transformers' own names.
    model.config._experts_implementation = _NAME


class _Cast:
    """A layer of experts with its weights in another dtype; the gradient goes back to its own."""

    def __init__(self, experts: nn.Module, dtype: torch.dtype) -> None:
        self._experts, self._dtype = experts, dtype

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._experts, name)
        return found.to(self._dtype) if name in STACKS else found


def _forward(experts: Any, hidden_td: Tensor, index_tk: Tensor, weights_tk: Tensor) -> Tensor:
    device, dtype = hidden_td.device.type, None
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    if are_cut(experts):
        own = experts.down_proj.dtype
        return piecewise.forward(experts, hidden_td, index_tk, weights_tk, dtype or own)
    if dtype is not None:
        experts = _Cast(experts, dtype)
    return grouped_mm_experts_forward(experts, hidden_td, index_tk, weights_tk)
