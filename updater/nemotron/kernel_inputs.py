"""What the fused kernels demand of what they are given, where transformers does not see to it.

causal-conv1d wants the strides of a channel-last input to be multiples of 8, and transformers gives
it a slice of in_proj's output, whose rows are as long as in_proj is wide: 580 of nemotron-3-tiny.
(In training mamba-ssm's own function copies it.) mamba-ssm's Triton kernels reckon in 32 bits where
an element lies, and past 2^31 elements read and write elsewhere. Rows are nothing to each other, so
a layer takes as many at a time as it can; one row that is too long by itself is refused. Called by
`updater.nemotron.checkpoint`, and by whoever knows how long the rows of its work will be.

Shape suffixes: b rows, l positions, c channels of the convolution, d hidden size.
"""

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.fsdp import FSDPModule
from transformers import NemotronHConfig
from transformers.models.nemotron_h import modeling_nemotron_h
from transformers.models.nemotron_h.modeling_nemotron_h import (
    NemotronHForCausalLM,
    NemotronHMamba2Mixer,
)

from updater.errors import InputError
from updater.nemotron import kernels

ELEMENTS = 2**31
"""Of a tensor, the most that mamba-ssm's kernels reach (2.3.2: Triton's program ids, sizes and
strides are int32, and so are their products)."""

_STRIDE = 8


def meet_demands(model: NemotronHForCausalLM) -> None:
    """From now on the model gives the kernels that it runs by what they take, and raises InputError
    of what they can't."""
    if kernels.CONVOLUTION in kernels.taken():
        align()
    if not kernels.taken().isdisjoint(kernels.SCANS):
        for module in model.modules():
            if isinstance(module, NemotronHMamba2Mixer):
                module.__class__ = _Mixer
        model.model.register_forward_pre_hook(_check, with_kwargs=True)


def align() -> None:
    """From now on models give their convolution strides that it takes; twice is once."""
    plain = modeling_nemotron_h.causal_conv1d_fn
    if not isinstance(plain, _Aligned):
        modeling_nemotron_h.causal_conv1d_fn = _Aligned(plain)


class _Aligned:
    """A convolution whose input is copied where its strides are not what the kernel takes."""

    def __init__(self, plain: Any) -> None:
        self._plain = plain

    def __call__(self, hidden_bcl: Tensor, *given: Any, **more: Any) -> Any:
        per_row, per_channel, per_position = hidden_bcl.stride()
        channel_last = per_channel == 1 and per_position > 1
        if channel_last and (per_row % _STRIDE or per_position % _STRIDE):
            # Not contiguous(): one token of one row counts as that whatever its strides are.
            rows_blc = hidden_bcl.transpose(1, 2).clone(memory_format=torch.contiguous_format)
            hidden_bcl = rows_blc.transpose(1, 2)
        return self._plain(hidden_bcl, *given, **more)


class _Mixer(NemotronHMamba2Mixer):
    def forward(
        self,
        hidden_states: Tensor,
        cache_params: Any = None,
        attention_mask: Tensor | None = None,
        **more: Any,
    ) -> Tensor:
        """The layer's output, of as many rows at a time as the kernels reach."""
        rows, length, _ = hidden_states.shape
        at_once = max(ELEMENTS // _elements(self.config, length), 1)
        if rows <= at_once:
            whole: Tensor = super().forward(hidden_states, cache_params, attention_mask, **more)
            return whole
        if any(isinstance(part, FSDPModule) for part in self.in_proj.modules()):  # LoRA wraps it
            # Each use gathers its weight, and processes of unlike rows would use it unlike often.
            raise InputError(
                f"{rows:,} rows of {length:,} tokens in one of many processes",
                f"mamba-ssm's kernels take {at_once:,} such rows of this model at a time, and one "
                "in shards under bf16-mixed goes through all of them at once",
                "lower training.batch_size, and raise training.accumulate",
            )
        if cache_params is not None:  # which is of all rows
            raise InputError(
                f"{rows:,} rows of {length:,} tokens with a cache",
                f"mamba-ssm's kernels take {at_once:,} such rows of this model",
                "take fewer at a time, or use_cache = False",
            )
        outs_bld, seq_idx_bl = [], more.get("seq_idx")
        for first in range(0, rows, at_once):
            some = slice(first, first + at_once)
            mask_bl = None if attention_mask is None else attention_mask[some]
            if seq_idx_bl is not None:
                more["seq_idx"] = seq_idx_bl[some]
            outs_bld.append(super().forward(hidden_states[some], None, mask_bl, **more))
        return torch.cat(outs_bld)


def longest_row(config: NemotronHConfig) -> int:
    """Tokens of the longest row that the kernels take of this model."""
    if "linear_attention" not in config.layer_types:
        return sys.maxsize
    per_token, per_chunk = _per_token(config), _per_chunk(config)
    return min(ELEMENTS // per_token, ELEMENTS // per_chunk * config.chunk_size)


def check_row(config: NemotronHConfig, length: int, *, what: str, cure: str = "") -> None:
    """Rows of `length` tokens can be computed on this machine.

    Args:
        what: whose row it is, as an error message begins.
        cure: what shortens it; without, that of a text by itself.

    Raises:
        InputError: the kernels would run them, and don't reach so far.
    """
    if kernels.taken().isdisjoint(kernels.SCANS) or length <= longest_row(config):
        return
    raise InputError(
        f"{what} of {length:,} tokens",
        f"mamba-ssm's kernels take {longest_row(config):,} of this model in a row: they count to"
        " 2^31 elements",
        cure
        or f"set model.max_length_tokens to {longest_row(config)} at most; longer examples are"
        " left out, with a count",
    )


def _elements(config: NemotronHConfig, length: int) -> int:
    """Of the largest tensor that the kernels go through, those of one row."""
    chunks = -(-length // config.chunk_size)
    return max(length * _per_token(config), chunks * _per_chunk(config))


def _per_token(config: NemotronHConfig) -> int:
    """in_proj's width: z and dt are read where it wrote them."""
    inner = config.mamba_num_heads * config.mamba_head_dim
    return 2 * (inner + config.n_groups * config.ssm_state_size) + config.mamba_num_heads


def _per_chunk(config: NemotronHConfig) -> int:
    """The state after it, or the products of its C with its B."""
    states = config.mamba_num_heads * config.mamba_head_dim * config.ssm_state_size
    return max(states, config.n_groups * config.chunk_size**2)


def _check(model: Any, inputs: tuple[Any, ...], given: Mapping[str, Any]) -> None:
    """Before a pass. What has a shape and no memory (`updater.train.kept`) is nobody's work."""
    first = inputs[0] if inputs else given.get("input_ids")
    if first is None:
        first = given.get("inputs_embeds")
    if isinstance(first, Tensor) and not isinstance(first, FakeTensor):
        packed = given.get("seq_idx") is not None
        check_row(
            model.config,
            first.shape[1],
            what="a row of several texts" if packed else "a text",
            cure="put fewer texts into it, or take training.packing = false" if packed else "",
        )
