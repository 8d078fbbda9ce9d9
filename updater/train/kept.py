"""What autograd keeps of a forward pass for the way back, read off a pass on fake tensors.

They have shapes and no memory, so that it can be asked of a model that fits nowhere. Called by
`updater.train.footprint`.

Shape suffixes: b examples of a batch, l positions, p the projected states' size.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from transformers.integrations import moe
from transformers.models.nemotron_h import modeling_nemotron_h
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from updater.nemotron import grouped, piecewise
from updater.settings import TrainingSettings


def kept_bytes(
    model: NemotronHForCausalLM,
    training: TrainingSettings,
    length: int,
    *,
    kernels: bool = False,
    in_pieces: bool = False,
) -> int:
    """What autograd keeps of a forward pass over a batch of `training`, of texts of so many tokens:
    every tensor's memory once, the weights that autocast casts too, the model's own not. It may be
    on the meta device: its weights are not looked at. The mixed precisions, of 16 bits both, keep
    the same. `in_pieces`: routed experts are gathered so, and computed again."""
    found: dict[int, int] = {}
    alive = []  # a storage that is gone could have its name taken by another

    def pack(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        alive.append(tensor)
        return tensor

    model.train()
    with FakeTensorMode():
        weights = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype).requires_grad_(tensor.requires_grad)
            for name, tensor in chain(model.model.named_parameters(), model.model.named_buffers())
        }
        tokens_bl = torch.zeros(training.batch_size, length, dtype=torch.int64)
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=training.precision != "32-true"),
            _fused() if kernels else nullcontext(),
            _in_pieces() if in_pieces else nullcontext(),
            _without_mask(),
            _grouped_in_any_dtype(),
        ):
            given = {"input_ids": tokens_bl, "use_cache": False}
            functional_call(model.model, weights, (), given)
        own = {weight.untyped_storage()._cdata for weight in weights.values()}
    return sum(size for storage, size in found.items() if storage not in own)


@contextmanager
def _without_mask() -> Iterator[None]:
    """In the block attention is causal by itself, as it is of rows without padding. For fake
    tensors transformers would make a mask of length times length."""
    plain = modeling_nemotron_h.create_causal_mask
    modeling_nemotron_h.create_causal_mask = lambda **_: None
    try:
        yield
    finally:
        modeling_nemotron_h.create_causal_mask = plain


@contextmanager
def _grouped_in_any_dtype() -> Iterator[None]:
    """In the block each expert's product is the first one's weight times all tokens, which has the
    shape of `grouped_mm` and keeps the same: torch 2.13 tells that one's in bfloat16 alone."""

    plain = moe._grouped_mm
    moe._grouped_mm = lambda input, weight, offs: input.to(weight.dtype) @ weight[0]
    try:
        yield
    finally:
        moe._grouped_mm = plain


class _Piecewise(torch.autograd.Function):
    """Keeps what `updater.nemotron.piecewise` keeps, and computes nothing."""

    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> Tensor:
        hidden_td, index_tk, weights_tk, *_ = given
        ctx.save_for_backward(hidden_td, index_tk, weights_tk)
        return torch.empty_like(hidden_td)


@contextmanager
def _in_pieces() -> Iterator[None]:
    """In the block experts keep what they do in pieces: fake tensors only."""

    def kept(
        experts: Any, hidden_td: Tensor, index_tk: Tensor, weights_tk: Tensor, dtype: torch.dtype
    ) -> Tensor:
        given = (hidden_td, index_tk, weights_tk, experts.up_proj, experts.down_proj)
        made: Tensor = _Piecewise.apply(*given)
        return made

    forward, are_cut = piecewise.forward, grouped.are_cut
    piecewise.forward, grouped.are_cut = kept, lambda experts: True
    try:
        yield
    finally:
        piecewise.forward, grouped.are_cut = forward, are_cut


class _FusedScan(torch.autograd.Function):
    """Keeps what mamba-ssm's MambaSplitConv1dScanCombinedFn keeps of as many tokens (2.3.2: the
    projected states and the scan's output), and computes nothing."""

    @staticmethod
    def forward(ctx: Any, projected_blp: Tensor, out_weight: Tensor) -> Tensor:
        hidden, inner = out_weight.shape
        ctx.save_for_backward(
            projected_blp, projected_blp.new_empty(*projected_blp.shape[:2], inner)
        )
        return projected_blp.new_empty(*projected_blp.shape[:2], hidden)


@contextmanager
def _fused() -> Iterator[None]:
    """In the block Mamba-2 layers keep what the fused kernel keeps: fake tensors only."""
    plain = modeling_nemotron_h.mamba2_split_conv1d_scan_combined

    def fused(projected_blp: Tensor, *_: Any, outproj_weight: Tensor, **__: Any) -> Tensor:
        return _FusedScan.apply(projected_blp, outproj_weight)

    modeling_nemotron_h.mamba2_split_conv1d_scan_combined = fused
    try:
        yield
    finally:
        modeling_nemotron_h.mamba2_split_conv1d_scan_combined = plain
