"""Whether a checkpoint has a multi-token-prediction head, told by its small files.

No torch: asked by whoever opens an update, wherever that is. `updater.nemotron.mtp` is the head.
"""

from collections.abc import Collection, Mapping
from typing import Any

from updater.errors import InputError
from updater.nemotron.layout import mtp_shapes
from updater.settings import TrainingSettings


def has_head(fields: Mapping[str, Any], tensors: Collection[str] | None, *, where: str) -> bool:
    """Whether these fields of a config.json describe a head, and its tensors are there.

    Args:
        tensors: the names of the checkpoint's; None where they aren't known, and config.json is
            believed.
        where: what an error message calls it.

    Raises:
        InputError: config.json describes a head that no release has.
    """
    names = mtp_shapes(fields, where=where)
    return bool(names) and (tensors is None or names.keys() <= set(tensors))


def check(
    training: TrainingSettings,
    fields: Mapping[str, Any],
    tensors: Collection[str] | None,
    *,
    where: str,
) -> None:
    """What `training.mtp` asks for can be done to the checkpoint. Args: as of `has_head`.

    Raises:
        InputError: it has no head to align.
    """
    if training.mtp == "align" and not has_head(fields, tensors, where=where):
        raise InputError(
            f'training.mtp = "align", but {where} has no multi-token-prediction head',
            "only a head that is there can be aligned",
            'take training.mtp = "keep", or the release with its mtp.* tensors',
        )
