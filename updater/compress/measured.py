"""What a checkpoint folder holds: parameters, how many of them are zero, bytes.

Called by `updater.compress.engine`.
"""

from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from updater.nemotron.files import weight_files


@dataclass(frozen=True)
class Measured:
    """Of all tensors of a checkpoint, a multi-token-prediction head's among them."""

    num_parameters: int
    num_nonzero: int


def measured(folder: Path) -> Measured:
    """The folder, which is not quantized, read with one tensor in memory at a time."""
    num_parameters = num_nonzero = 0
    for file in weight_files(folder):
        with safe_open(folder / file, framework="pt") as stream:
            for name in stream.keys():  # noqa: SIM118
                tensor = stream.get_tensor(name)
                num_parameters += tensor.numel()
                num_nonzero += int(tensor.count_nonzero())
    return Measured(num_parameters, num_nonzero)


def bytes_of(folder: Path) -> int:
    """What the weight files take, as they are shipped."""
    return sum((folder / file).stat().st_size for file in weight_files(folder))
