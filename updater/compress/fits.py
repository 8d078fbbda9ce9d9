"""Whether a checkpoint has what compression takes away, told by its config.json before any work.

No torch: asked by whoever opens an update, wherever that is.
"""

from collections.abc import Mapping
from typing import Any

from updater.compress.matrices import prunable
from updater.compress.quantize.groups import group_of
from updater.compress.quantize.kept import choose
from updater.errors import InputError
from updater.nemotron.layout import tensor_shapes
from updater.nemotron.sparsity import LAYERS, staying
from updater.settings import CompressionSettings

PATTERN_GROUP = 4
"""Of "2:4", the one pattern: how many weights in a row it is said of."""


def check(fields: Mapping[str, Any], settings: CompressionSettings, *, where: str) -> None:
    """So many parts can go, and what is left can be quantized.

    Args:
        fields: a config.json in released form.
        where: what an error message calls it.

    Raises:
        InputError: the model has no such parts, or too few would stay; or a matrix's columns fit
            no pattern, or, of what is left, no group of the scheme.
    """
    left = dict(fields)
    if settings.method != "none" and settings.remove != "weights":
        sizes = _staying(fields, settings, where=where)
        left |= {name: size for name, size in sizes.items() if name != LAYERS}
    if settings.method != "none" and settings.pattern != "none":
        _check_pattern(fields, attention=settings.attention, where=where)
    if settings.quantize != "none":
        choice = choose(left, settings.keep, where=where)
        group_of(settings.quantize, choice, None, where=where)


def _staying(
    fields: Mapping[str, Any], settings: CompressionSettings, *, where: str
) -> dict[str, int]:
    """How many parts of each size stay. Raises: InputError: too few, by the names of the settings
    and of the options that take their place."""
    try:
        return staying(
            fields,
            settings.remove,
            settings.sparsity,
            multiple_of=settings.multiple_of,
            attention=settings.attention,
            where=where,
        )
    except InputError as error:
        raise InputError(
            f"compression.sparsity (--sparsity) = {settings.sparsity:g} of compression.remove "
            f"(--remove) = {settings.remove}",
            error.rule,
            error.cure,
        ) from error


def _check_pattern(fields: Mapping[str, Any], *, attention: bool, where: str) -> None:
    shapes = tensor_shapes(fields, where=where)
    for name in prunable(shapes, attention=attention):
        if shapes[name][-1] % PATTERN_GROUP:
            raise InputError(
                f'{where}: compression.pattern = "2:4", and {name} has {shapes[name][-1]} columns',
                f"of each {PATTERN_GROUP} weights in a row two stay",
                "leave the pattern out, and give a sparsity",
            )
