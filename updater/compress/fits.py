"""Whether a checkpoint has what compression takes away, told by its config.json before any work.

No torch: asked by whoever opens an update, wherever that is.
"""

from collections.abc import Mapping
from typing import Any

from updater.compress.quantize.groups import group_of
from updater.compress.quantize.kept import choose
from updater.nemotron.sparsity import LAYERS, staying
from updater.settings import CompressionSettings


def check(fields: Mapping[str, Any], settings: CompressionSettings, *, where: str) -> None:
    """So many parts can go, and what is left can be quantized.

    Args:
        fields: a config.json in released form.
        where: what an error message calls it.

    Raises:
        InputError: the model has no such parts, or too few would stay; or the columns of what is
            left fit no group of the scheme.
    """
    left = dict(fields)
    if settings.method != "none" and settings.remove != "weights":
        sizes = staying(
            fields,
            settings.remove,
            settings.sparsity,
            multiple_of=settings.multiple_of,
            attention=settings.attention,
            where=where,
        )
        left |= {name: size for name, size in sizes.items() if name != LAYERS}
    if settings.quantize != "none":
        choice = choose(left, settings.keep, where=where)
        group_of(settings.quantize, choice, None, where=where)
