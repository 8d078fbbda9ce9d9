"""What a checkpoint folder holds: parameters, how many of them are zero, bytes.

Called by `updater.compress.engine`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from updater.compress.matrices import is_prunable
from updater.nemotron.files import weight_files


@dataclass(frozen=True)
class Measured:
    """Of all tensors of a checkpoint, a multi-token-prediction head's among them. `zeros`: of each
    matrix that can lose weights, the share that is zero."""

    num_parameters: int
    num_nonzero: int
    zeros: Mapping[str, float]


def measured(folder: Path) -> Measured:
    """The folder, which is not quantized, read with one tensor in memory at a time."""
    num_parameters = num_nonzero = 0
    zeros: dict[str, float] = {}
    for file in weight_files(folder):
        with safe_open(folder / file, framework="pt") as stream:
            for name in stream.keys():  # noqa: SIM118
                tensor = stream.get_tensor(name)
                num_parameters += tensor.numel()
                nonzero = int(tensor.count_nonzero())
                num_nonzero += nonzero
                if is_prunable(name):
                    zeros[name] = 1 - nonzero / tensor.numel()
    return Measured(num_parameters, num_nonzero, zeros)


def bytes_of(folder: Path) -> int:
    """What the weight files take, as they are shipped."""
    return sum((folder / file).stat().st_size for file in weight_files(folder))
