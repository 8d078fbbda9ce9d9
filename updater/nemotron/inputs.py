"""What the model would take without a word and compute wrongly, refused.

A Mamba-2 layer's state runs through a row from its left end: padding there is read as text, and
several texts in one row run into each other unless the layer is told which is which (seq_idx). The
fused kernels can be told, which `updater.nemotron.packing` does; without them transformers refuses
seq_idx by itself. Nothing of ours pads on the left; a user of the model may.
Called by `updater.nemotron.checkpoint`.

Shape suffixes: b rows, l positions.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from updater.errors import InputError


def refuse_wrong_inputs(model: NemotronHForCausalLM) -> None:
    """From now on the model raises InputError where it is given an attention mask with padding
    before a text or within it, or positions of several texts in a row without seq_idx."""
    model.model.register_forward_pre_hook(_check, with_kwargs=True)


def _check(_model: nn.Module, _inputs: object, given: Mapping[str, Any]) -> None:
    mask_bl, position_bl = _rows(given, "attention_mask"), _rows(given, "position_ids")
    if mask_bl is not None and bool((mask_bl[:, 1:] > mask_bl[:, :-1]).any()):
        raise InputError(
            "an attention mask with padding before a text",
            "Mamba-2 layers read it as text",
            'pad on the right: tokenizer.padding_side = "right"',
        )
    if given.get("seq_idx") is not None:
        return
    if position_bl is not None and bool((position_bl[:, 1:] < position_bl[:, :-1]).any()):
        raise InputError(
            "several texts packed into a row",
            "the state of Mamba-2 layers runs from one into the next without seq_idx",
            "give each text a row of its own; or, with the fused kernels, seq_idx",
        )


def _rows(given: Mapping[str, Any], name: str) -> Tensor | None:
    tensor = given.get(name)
    return tensor if isinstance(tensor, Tensor) and tensor.ndim == 2 else None
