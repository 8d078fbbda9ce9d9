"""Writing tensors to a safetensors file, with the disk's refusals told as what they are.

Called by `updater.nemotron.checkpoint` and `updater.train.state`.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file


def save_tensors(
    tensors: Mapping[str, torch.Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """The tensors, contiguous each, are in the file.

    Raises:
        OSError: the disk refuses. safetensors has an error of its own for it (0.8: SafetensorError
            "I/O error: No space left on device"), which would be taken for a defect.
    """
    try:
        save_file(dict(tensors), path, dict(metadata) if metadata else None)
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from error
