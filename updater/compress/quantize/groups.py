"""How many columns of a matrix share a scale. No torch."""

from updater.compress.quantize.kept import Choice
from updater.errors import InputError
from updater.nemotron.packed import BITS, BLOCK, stem

GROUPS = (128, 64, 32)
"""Columns that share a scale in int8 and int4, the first that divides all: what vLLM's kernels
take (Marlin's `MARLIN_SUPPORTED_GROUP_SIZES`)."""


def group_of(scheme: str, choice: Choice, group_size: int | None, *, where: str) -> int:
    """The columns that share a scale, one number for all that is quantized.

    Args:
        group_size: of int8 and int4, one of `GROUPS`; None: the largest that divides all columns.

    Raises:
        InputError: another size, or columns that no group divides.
    """
    if group_size is not None and group_size not in GROUPS:
        rule = f"must be one of {', '.join(map(str, GROUPS))}"
        raise InputError(f"group_size = {group_size}", rule)
    sizes = (GROUPS if group_size is None else (group_size,)) if scheme in BITS else (BLOCK,)
    columns = {shape[1]: stem(name) for name, shape in choice.quantized.items()}
    for size in sizes:
        if scheme == "fp8" or not any(number % size for number in columns):
            return size
    odd, name = next((number, name) for number, name in columns.items() if number % sizes[-1])
    raise InputError(
        f"{where}: {name} has {odd} columns",
        f"{scheme} takes groups of {sizes[-1]}, which must divide them",
        f'set compression.keep = ["{_kept_with(name)}"], or, where neurons go,'
        f" compression.multiple_of = {sizes[-1]}",
    )


def _kept_with(name: str) -> str:
    """What of the module's kind may stay, as `kept.choose` takes it: of experts all."""
    return "*.experts.*" if ".experts." in name else f"*.{name.rsplit('.', 1)[-1]}"
