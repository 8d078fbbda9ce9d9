"""A checkpoint written by the processes that have its weights together.

Called by `updater.launch.learn` and `updater.launch.draft`.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from updater.nemotron import checkpoint
from updater.train.ranks import Ranks
from updater.train.shards import Whole


def export(state: Mapping[str, Tensor], base: Path, target: Path, ranks: Ranks) -> None:
    """As `checkpoint.export_tensors` of a state dict, by all processes together: the first one
    writes, and one tensor of what is in shards is whole at a time."""
    whole = Whole(state)
    if ranks.first:
        checkpoint.export_tensors(whole, base, target)
    elif ranks.mesh is not None:
        for name in checkpoint.exported(whole, base):
            whole[name]  # its part is the first one's to write
