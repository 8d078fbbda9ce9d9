"""One weight as it lies quantized: torchao's scales and rounding, laid out as
`updater.nemotron.packed` says.

Round to nearest, with the largest value of each group, block or matrix at the end of the range;
no data is used. Of float32 weights FP8 and NVFP4 are bit for bit what NVIDIA's ModelOpt 0.47 makes
of them (compared); bfloat16 ones it divides in bfloat16, and here it is in float32. Called by
`updater.compress.quantize.write`.

Shape suffixes: r rows, c columns, g groups or blocks of columns.
"""

import torch
from torch import Tensor

from updater.errors import InputError
from updater.nemotron.packed import BITS, BLOCK, Packed
from updater.nemotron.unpack import limits

SCALES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}

_LEAST = 2.0**-64
"""The largest absolute value that a matrix of zeros (an expert that was pruned) is taken to have:
its scale must not be 0. Chosen; far below any weight, and its square is a float32 still."""

_E4M3_MAX, _E2M1_MAX = 448.0, 6.0


def pack(weight_rc: Tensor, packed: Packed, *, where: str) -> dict[str, Tensor]:
    """The pieces of the weight, but for `input_scale`, by what follows its module's name.

    Args:
        weight_rc: float32, float16 or bfloat16.
        packed: what it is to be.
        where: what an error message calls it.

    Raises:
        InputError: a value of it is not finite.
    """
    weight_rc = weight_rc.float()
    if not bool(weight_rc.isfinite().all()):
        raise InputError(
            f"{where}: holds values that are not finite",
            "only finite weights can be quantized",
            "look for the update that made them so",
        )
    if packed.scheme in BITS:
        return _integers(weight_rc, packed)
    return _fp8(weight_rc) if packed.scheme == "fp8" else _nvfp4(weight_rc)


def input_scale(scheme: str, largest: float) -> Tensor:
    """float32 (): what inputs of at most this absolute value are divided by: E4M3's end, and in
    NVFP4 that times E2M1's (ModelOpt, `get_activation_scaling_factor`)."""
    end = _E4M3_MAX if scheme == "fp8" else _E4M3_MAX * _E2M1_MAX
    return torch.tensor(max(largest, _LEAST) / end, dtype=torch.float32)


def _integers(weight_rc: Tensor, packed: Packed) -> dict[str, Tensor]:
    from torchao.quantization.quant_primitives import (
        MappingType,
        choose_qparams_affine,
        quantize_affine,
    )

    bits, dtype, block = BITS[packed.scheme], SCALES[packed.scales], (1, packed.group)
    low, high = limits(bits)
    scale_rg, zero_rg = choose_qparams_affine(
        weight_rc,
        MappingType.SYMMETRIC,
        block,
        torch.int8,
        low,
        high,
        # Of a group of zeros. float16 goes on below its least normal number, and has to.
        eps=torch.finfo(dtype).smallest_normal if packed.scales != "F16" else 2.0**-24,
        scale_dtype=dtype,
    )
    scale_rg = scale_rg.view(len(weight_rc), -1)  # torchao drops the columns where there is one
    # By the scale as it is written, so that what is read is the nearest value that there is.
    values_rc = quantize_affine(weight_rc, block, scale_rg.float(), zero_rg, torch.int8, low, high)
    unsigned = (values_rc.to(torch.int16) - low).to(torch.uint8)
    bytes_ = unsigned if bits == 8 else unsigned[:, 0::2] | unsigned[:, 1::2] << 4
    return {
        "weight_packed": bytes_.contiguous().view(torch.int32),
        "weight_scale": scale_rg,
        "weight_shape": torch.tensor(packed.shape),
    }


def _fp8(weight_rc: Tensor) -> dict[str, Tensor]:
    from torchao.quantization.quant_primitives import _choose_scale_float8, _quantize_affine_float8

    scale = _choose_scale_float8(weight_rc, list(weight_rc.shape), hp_value_lb=_LEAST)
    values_rc = _quantize_affine_float8(weight_rc, scale, torch.float8_e4m3fn)
    return {"weight": values_rc, "weight_scale": scale.view(())}


def _nvfp4(weight_rc: Tensor) -> dict[str, Tensor]:
    from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize, per_tensor_amax_to_scale

    scale = per_tensor_amax_to_scale(weight_rc.abs().amax().clamp(min=_LEAST))
    scale_rg, values = nvfp4_quantize(weight_rc.contiguous(), BLOCK, scale)
    return {
        "weight": values,
        "weight_scale": scale_rg.view(len(weight_rc), -1),
        "weight_scale_2": scale,
    }
