"""Several texts in one row, kept apart: no padding is computed.

Mamba-2's fused kernels are told where a text begins by seq_idx, int32, and restart their
convolution and their state there; transformers' operators can't. Attention here takes text by
text, so that it costs what it costs in rows of their own and needs no mask of the whole row.
Nemotron-H has no position embedding: a text's place in the row is nothing to it. Nor does it
matter to experts, which see one token at a time. Called by `updater.train.likelihood`.

Shape suffixes: n tokens of all texts, l positions of a row, h heads, d head size or hidden size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from updater.errors import InputError
from updater.nemotron import kernels

_BY_TEXT = "sdpa_by_text"


def check() -> None:
    """This machine can.

    Raises:
        InputError: it has no GPU, or not the fused kernels.
    """
    if not kernels.are_fused():
        raise InputError(
            "training.packing = true",
            "only the fused Mamba-2 kernels keep texts of one row apart, and they can't be imported"
            " here or there is no GPU",
            "install mamba-ssm and causal-conv1d (docs/gpu.md), or take training.packing = false",
        )


def hidden(model: NemotronHForCausalLM, tokens_n: Tensor, lengths: Sequence[int]) -> Tensor:
    """hidden_nd: the backbone's last hidden states of texts that lie one after the other, each as
    if it were alone.

    Args:
        tokens_n: int64.
        lengths: of the texts, in tokens, in order; their sum is n.
    """
    # For good: what activation checkpointing computes again, it computes long after this call.
    model.config._attn_implementation = _BY_TEXT
    sizes = torch.tensor(lengths, device=tokens_n.device)
    text_n = torch.arange(len(lengths), device=tokens_n.device, dtype=torch.int32)
    states = model.model(
        input_ids=tokens_n[None],
        # As `refuse_wrong_inputs` and transformers take a mask that is none.
        attention_mask={"full_attention": None, "linear_attention": None},
        seq_idx=text_n.repeat_interleave(sizes, output_size=len(tokens_n))[None],
        lengths=tuple(lengths),
        use_cache=False,
    )
    return states.last_hidden_state[0]


def _attend(
    module: nn.Module,
    query_bhld: Tensor,
    key_bhld: Tensor,
    value_bhld: Tensor,
    attention_mask: Tensor | None,
    *,
    lengths: Sequence[int] | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """out_blhd: transformers' scaled dot-product attention, within each text where there are
    `lengths`."""
    if lengths is None:
        plain: tuple[Tensor, None] = sdpa_attention_forward(
            module, query_bhld, key_bhld, value_bhld, attention_mask, **more
        )
        return plain
    texts = zip(
        *(row.split(lengths, dim=2) for row in (query_bhld, key_bhld, value_bhld)), strict=True
    )
    outs = [
        sdpa_attention_forward(module, query, key, value, None, **more)[0]
        for query, key, value in texts
    ]
    return torch.cat(outs, 1), None


AttentionInterface.register(_BY_TEXT, _attend)
AttentionMaskInterface.register(_BY_TEXT, sdpa_mask)
