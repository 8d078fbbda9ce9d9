"""How a quantized weight lies in a checkpoint: the tensors that stand for it, and their shapes.

`int8` and `int4` as compressed-tensors' `pack-quantized`, `fp8` and `nvfp4` as NVIDIA's ModelOpt
(`vllm/model_executor/layers/quantization/compressed_tensors` and `modelopt.py` read them). Of a
weight STEM.weight of `rows` by `columns`:

    int8, int4  STEM.weight_packed   I32 (rows, columns * bits / 32), each value plus half of the
                                     range, the first one in the lowest bits
                STEM.weight_scale    the base's dtype (rows, columns / group)
                STEM.weight_shape    I64 (2,)
    fp8         STEM.weight          F8_E4M3 (rows, columns)
                STEM.weight_scale    F32 ()
    nvfp4       STEM.weight          U8 (rows, columns / 2), E2M1, the first one in the low bits
                STEM.weight_scale    F8_E4M3 (rows, columns / 16)
                STEM.weight_scale_2  F32 ()
    both        STEM.input_scale     F32 (), where what comes in is quantized too

No torch, and no numbers: those are `updater.nemotron.unpack`'s. Called by
`updater.nemotron.validate` and `updater.compress.quantize`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from updater.errors import InputError
from updater.nemotron.files import Entry

BITS = {"int8": 8, "int4": 4}
"""Of the schemes whose values are whole numbers."""

BLOCK = 16
"""Columns of NVFP4 that share a scale: the format's, whose tensor cores have no other."""

_WORD = 32
_BY_DTYPE = {"F8_E4M3": "fp8", "U8": "nvfp4"}


@dataclass(frozen=True)
class Packed:
    """One weight that lies quantized.

    Args:
        scheme: int8, int4, fp8 or nvfp4.
        shape: rows and columns of the weight.
        group: how many columns share a scale, which divides them. Of fp8 it says nothing.
        scales: the dtype of int8's and int4's scales, as safetensors writes it.
        inputs: there is a scale of what comes in.
    """

    scheme: str
    shape: tuple[int, int]
    group: int
    scales: str = "F32"
    inputs: bool = False

    def pieces(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """What follows "STEM." -> the dtype and the shape of that tensor."""
        rows, columns = self.shape
        found: dict[str, tuple[str, tuple[int, ...]]]
        if self.scheme in BITS:
            found = {
                "weight_packed": ("I32", (rows, columns * BITS[self.scheme] // _WORD)),
                "weight_scale": (self.scales, (rows, columns // self.group)),
                "weight_shape": ("I64", (2,)),
            }
        elif self.scheme == "fp8":
            found = {"weight": ("F8_E4M3", self.shape), "weight_scale": ("F32", ())}
        else:
            found = {
                "weight": ("U8", (rows, columns // 2)),
                "weight_scale": ("F8_E4M3", (rows, columns // self.group)),
                "weight_scale_2": ("F32", ()),
            }
        return found | ({"input_scale": ("F32", ())} if self.inputs else {})

    def numbers(self) -> list[str]:
        """Those of the pieces that the weight is made of."""
        return [piece for piece in self.pieces() if piece not in ("weight_shape", "input_scale")]


def stem(name: str) -> str:
    """The name of a weight's module."""
    return name.removesuffix(".weight")


def find(
    folder: Path, entries: Mapping[str, Entry], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Packed]:
    """Those of the weights of these names and shapes that lie quantized among the entries. A
    tensor that belongs to none of them stays the caller's matter.

    Raises:
        InputError: a piece of one is missing, or has another dtype or shape.
    """
    found = {}
    for name, shape in shapes.items():
        packed = _told(name, shape, entries)
        if packed is None:
            continue
        for piece, expected in packed.pieces().items():
            entry = entries.get(f"{stem(name)}.{piece}")
            is_there = "is not there" if entry is None else f"is {entry.dtype} {list(entry.shape)}"
            if entry is None or (entry.dtype, entry.shape) != expected:
                raise InputError(
                    f"{folder}: {stem(name)}.{piece} {is_there}",
                    f"of a weight of {list(shape)} in {packed.scheme} it is {expected[0]}"
                    f" {list(expected[1])}",
                    "quantize the checkpoint again",
                )
        found[name] = packed
    return found


def plain(entries: Mapping[str, Entry], packed: Mapping[str, Packed]) -> dict[str, Entry]:
    """The entries as if those weights had not been quantized: each an F32 of its whole shape."""
    pieces = {f"{stem(name)}.{piece}" for name, one in packed.items() for piece in one.pieces()}
    found = {name: entry for name, entry in entries.items() if name not in pieces}
    for name, one in packed.items():
        file = entries[f"{stem(name)}.weight_scale"].file
        found[name] = Entry(file, "F32", one.shape)
    return found


def _told(name: str, shape: tuple[int, ...], entries: Mapping[str, Entry]) -> Packed | None:
    """What the tensors there say of a weight; None: it is not quantized."""
    scale = entries.get(f"{stem(name)}.weight_scale")
    if scale is None or len(shape) != 2:
        return None
    rows, columns = shape
    inputs = f"{stem(name)}.input_scale" in entries
    words = entries.get(f"{stem(name)}.weight_packed")
    if words is not None:
        bits = words.shape[-1] * _WORD // columns if words.shape else 0
        scheme = next((known for known, of in BITS.items() if of == bits), "int4")
        groups = scale.shape[-1] if scale.shape else 0
        group = columns // groups if groups and columns % groups == 0 else BLOCK
        return Packed(scheme, (rows, columns), group, scale.dtype)
    weight = entries.get(name)
    scheme = _BY_DTYPE.get(weight.dtype, "") if weight is not None else ""
    return Packed(scheme, (rows, columns), BLOCK, inputs=inputs) if scheme else None
