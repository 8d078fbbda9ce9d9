"""The numbers that a quantized weight stands for, by torchao's own arithmetic.

What a serving stack multiplies by, but for its dtype: products of value and scale are kept in
float32 here. Not how a weight is quantized (`updater.compress.quantize.pack`). Called by
`updater.nemotron.reading`.

Shape suffixes: r rows, c columns, g groups or blocks of columns.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from updater.nemotron.packed import BITS, BLOCK, Packed


def unpack(packed: Packed, pieces: Mapping[str, Tensor]) -> Tensor:
    """float32 (r, c), on the pieces' device: exactly what torchao makes of them.

    Args:
        packed: what the weight is.
        pieces: by what follows the module's name, with the same rows of each that has rows: all
            of them, or a part.
    """
    if packed.scheme in BITS:
        return _integers(packed, pieces["weight_packed"], pieces["weight_scale"])
    if packed.scheme == "fp8":
        return _fp8(pieces["weight"], pieces["weight_scale"])
    return _nvfp4(pieces["weight"], pieces["weight_scale"], pieces["weight_scale_2"])


def limits(bits: int) -> tuple[int, int]:
    """The least and the largest whole number of so many bits, in two's complement."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def _integers(packed: Packed, words: Tensor, scale_rg: Tensor) -> Tensor:
    from torchao.quantization.quant_primitives import dequantize_affine

    bits = BITS[packed.scheme]
    low, high = limits(bits)
    # An int32 is written with its lowest byte first.
    bytes_ = words.contiguous().view(torch.uint8)
    unsigned = bytes_ if bits == 8 else torch.stack((bytes_ & 15, bytes_ >> 4), -1).flatten(1)
    values_rc = (unsigned.to(torch.int16) + low).to(torch.int8)
    found: Tensor = dequantize_affine(
        values_rc,
        (1, packed.group),
        scale_rg.float(),
        None,
        torch.int8,
        low,
        high,
        output_dtype=torch.float32,
    )
    return found


def _fp8(values_rc: Tensor, scale: Tensor) -> Tensor:
    from torchao.quantization.quant_primitives import _dequantize_affine_float8

    found: Tensor = _dequantize_affine_float8(values_rc, scale.view(1, 1), torch.float32)
    return found


def _nvfp4(values: Tensor, scale_rg: Tensor, scale: Tensor) -> Tensor:
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor

    whole = NVFP4Tensor(values.contiguous(), scale_rg, BLOCK, torch.float32, scale)
    found: Tensor = whole.dequantize(torch.float32)
    return found
