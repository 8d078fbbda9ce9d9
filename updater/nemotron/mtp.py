"""The multi-token-prediction head: drafts tokens after the next one, for a serving stack to check.

transformers 5.23 builds none, and drops its tensors. Form: DeepSeek-V3 (arXiv 2412.19437, eq. 21 to
23), as Nemotron 3 Super and 3.5 Lightning were released and vLLM's nemotron_h_mtp.py runs them,

    h'_i = eh_proj([enorm(embedding(t_i+1)); hnorm(h_i)])
    h''_i = final_layernorm(blocks(h'_i)),    p(t_i+2) = softmax(lm_head(h''_i))

with the backbone's own embedding and lm_head, and h_i its last hidden state after norm_f, which is
what serving stacks hand over. For the draft after, h''_i stands in h_i's place. Not its training
(`updater.train.drafting`). Called by `updater.launch.draft` and `updater.compress`.

Shape suffixes: b examples of a batch, l positions, d hidden size.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_causal_mask
from transformers.models.nemotron_h.configuration_nemotron_h import NemotronHConfig
from transformers.models.nemotron_h.modeling_nemotron_h import (
    NemotronHBlock,
    NemotronHForCausalLM,
    NemotronHRMSNorm,
)

from updater.nemotron import heads
from updater.nemotron.precise import route_in_float32
from updater.nemotron.reading import fill
from updater.nemotron.validate import check


class MtpHead(nn.Module):
    """One step of a head, run once for every token that it drafts. Where a release has more steps,
    the first of them drafts all: no released Nemotron 3 has.

    Args:
        config: of the backbone, as `checkpoint.load` built it.
    """

    def __init__(self, config: NemotronHConfig) -> None:
        super().__init__()
        self._config = copy.deepcopy(config)
        self._config.layers_block_type = kinds = config.mtp_layers_block_type or []
        self.layers = nn.ModuleList(NemotronHBlock(self._config, i) for i in range(len(kinds)))
        size, eps = config.hidden_size, config.layer_norm_epsilon
        first, last = self.layers[0], self.layers[-1]
        first.enorm, first.hnorm = (NemotronHRMSNorm(size, eps=eps) for _ in range(2))
        first.eh_proj = nn.Linear(2 * size, size, bias=False)
        last.final_layernorm = NemotronHRMSNorm(size, eps=eps)
        route_in_float32(self)

    def forward(self, hidden_bld: Tensor, embedded_bld: Tensor) -> Tensor:
        """h''_bld of the hidden states and, at the same positions, the embeddings of the next
        tokens, both of a backbone in any dtype. Right-padded: the head is causal as the backbone
        is."""
        first: Any = self.layers[0]
        dtype = first.eh_proj.weight.dtype
        normed = first.enorm(embedded_bld.to(dtype)), first.hnorm(hidden_bld.to(dtype))
        fused = torch.cat(normed, dim=-1)
        hidden_bld = first.eh_proj(fused)
        places = torch.arange(hidden_bld.shape[1], device=hidden_bld.device)[None]
        mask = create_causal_mask(
            config=self._config,
            inputs_embeds=hidden_bld,
            attention_mask=None,
            past_key_values=None,
            position_ids=places,
        )
        for layer in self.layers:
            attends = layer.block_type == "full_attention"
            hidden_bld = layer(
                hidden_bld, attention_mask=mask if attends else None, position_ids=places
            )
        last: Any = self.layers[-1]
        return last.final_layernorm(hidden_bld)


def has_head(folder: Path) -> bool:
    """Whether the checkpoint has a head that its config.json describes.

    Raises:
        InputError: as `checkpoint.load`.
    """
    contents = check(folder)
    return heads.has_head(contents.config, contents.entries, where=str(folder / "config.json"))


def attach(
    folder: Path,
    model: NemotronHForCausalLM,
    *,
    arranged: Callable[[MtpHead], object] | None = None,
) -> None:
    """`model`, which was loaded from the checkpoint, has its head as its module `mtp`, on its
    device and in float32, as it is trained. From there `checkpoint.export` writes it as it writes
    the rest. `arranged`: as of `checkpoint.load`. Ask `has_head` before.

    Raises:
        InputError: as `checkpoint.load`.
    """
    contents = check(folder)
    with torch.device("meta"):
        head = MtpHead(model.config)
    if arranged is not None:
        arranged(head)
    model.mtp = head.to_empty(device=model.device).eval()
    fill(head.state_dict(prefix="mtp."), folder, contents, device=str(model.device))
