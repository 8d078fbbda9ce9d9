"""What a checkpoint folder holds: parameters, how many of them are zero, bytes.

One tensor in memory at a time. Called by `updater.compress.engine`.
"""

from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from updater.nemotron.files import weight_files


@dataclass(frozen=True)
class Measured:
    """`num_bytes`: of the weight files, as they are shipped."""

    num_parameters: int
    num_nonzero: int
    num_bytes: int


def measured(folder: Path) -> Measured:
    """Of all tensors of the checkpoint, a multi-token-prediction head's among them."""
    num_parameters = num_nonzero = num_bytes = 0
    for file in weight_files(folder):
        num_bytes += (folder / file).stat().st_size
        with safe_open(folder / file, framework="pt") as stream:
            for name in stream.keys():  # noqa: SIM118
                tensor = stream.get_tensor(name)
                num_parameters += tensor.numel()
                num_nonzero += int(tensor.count_nonzero())
    return Measured(num_parameters, num_nonzero, num_bytes)
