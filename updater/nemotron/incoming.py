"""What comes into each matrix that may lie quantized: looked at, and rounded as it is served.

A checkpoint that has scales of inputs is served with inputs quantized too, by those scales
(`updater.nemotron.packed`); what that costs is computed here in the model's own dtype, by torchao's
arithmetic. Called by `updater.nemotron.checkpoint` and `updater.compress.quantize.activations`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHExperts

from updater.nemotron.packed import BLOCK, stem
from updater.nemotron.weights import released_name

Look = Callable[[Tensor], Tensor | None]
"""What comes in -> what the matrix gets in its place; None for what it is."""


def watched(
    model: nn.Module, look_of: Callable[[Sequence[str]], Look | None]
) -> list[RemovableHandle]:
    """In every forward pass what comes into each matrix is looked at, until its handle is removed.

    Args:
        look_of: the released names of modules -> how what comes into them is looked at, if it is. A
            layer's experts are several that get the tokens of all of them as one tensor.
    """
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            if look := look_of([stem(released_name(f"{name}.weight"))]):
                handles.append(module.register_forward_pre_hook(partial(_before, look)))
        elif isinstance(module, NemotronHExperts):
            experts = range(module.num_experts)
            up, down = (
                look_of([stem(released_name(f"{name}.{kind}", e)) for e in experts])
                for kind in ("up_proj", "down_proj")
            )
            if up:
                handles.append(module.register_forward_pre_hook(partial(_before, up)))
            if down:  # what comes out of the activation
                handles.append(module.act_fn.register_forward_hook(partial(_after, down)))
    return handles


def round_inputs(model: nn.Module, scales: Mapping[str, tuple[str, Tensor]]) -> None:
    """From now on what comes into these modules is rounded as it is served.

    Args:
        scales: released name of a module -> the scheme of its weight, "fp8" or "nvfp4", and its
            `input_scale`, float32 (), on the model's device. Of a layer's experts the largest holds
            for all, as serving stacks have it.
    """

    def look_of(names: Sequence[str]) -> Look | None:
        mine = [scales[name] for name in names if name in scales]
        if not mine:
            return None
        return partial(_ROUNDED[mine[0][0]], torch.stack([scale for _, scale in mine]).amax())

    watched(model, look_of)


def _fp8(scale: Tensor, coming: Tensor) -> Tensor:
    from torchao.quantization.quant_primitives import (
        _dequantize_affine_float8,
        _quantize_affine_float8,
    )

    flat, scale = coming.float().flatten(0, -2), scale.view(1, 1)
    values = _quantize_affine_float8(flat, scale, torch.float8_e4m3fn)
    return _dequantize_affine_float8(values, scale, torch.float32).view(coming.shape).to(coming)


def _nvfp4(scale: Tensor, coming: Tensor) -> Tensor:
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, nvfp4_quantize

    flat = coming.float().flatten(0, -2).contiguous()
    scales, values = nvfp4_quantize(flat, BLOCK, scale)
    whole = NVFP4Tensor(values, scales.view(len(flat), -1), BLOCK, torch.float32, scale)
    return whole.dequantize(torch.float32).view(coming.shape).to(coming)


_ROUNDED: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"fp8": _fp8, "nvfp4": _nvfp4}


def _before(
    look: Look, _module: nn.Module, inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...] | None:
    found = look(inputs[0])
    return None if found is None else (found, *inputs[1:])


def _after(look: Look, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor | None:
    return look(output)
