"""Reading a checkpoint's tensors into memory that waits for them.

Called by `updater.nemotron.checkpoint` and `updater.nemotron.mtp`.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from updater.nemotron.validate import Contents
from updater.nemotron.weights import parts


def fill(
    state: Mapping[str, torch.Tensor], folder: Path, contents: Contents, *, device: str
) -> None:
    """Every tensor of a model's state dict, on `device`, is what the checked folder has of it. Of
    one in shards this process reads its own rows alone."""
    views = {name: (view, first) for name, view, first in parts(state)}
    assert views.keys() <= contents.entries.keys(), "layout.py and transformers disagree"
    for file, header in contents.headers.items():
        with safe_open(folder / file, framework="pt", device=device) as stream:
            for name in header.entries.keys() & views.keys():
                view, first = views[name]
                rows = slice(first, first + len(view))
                view.copy_(stream.get_slice(name)[rows])
