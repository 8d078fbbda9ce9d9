"""Reading a checkpoint's tensors into memory that waits for them.

Called by `updater.nemotron.checkpoint`, `updater.nemotron.mtp` and, before a checkpoint is adopted,
`updater.beginning`.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open

from updater.errors import InputError
from updater.nemotron.packed import stem
from updater.nemotron.unpack import unpack
from updater.nemotron.validate import TRAINABLE, Contents
from updater.nemotron.weights import parts
from updater.progress import Progress


def fill(
    state: Mapping[str, torch.Tensor], folder: Path, contents: Contents, *, device: str
) -> None:
    """Every tensor of a model's state dict, on `device`, is what the checked folder has of it, and
    of a quantized one what that stands for. Of one in shards this process reads its own rows
    alone."""
    views = {name: (view, first) for name, view, first in parts(state)}
    entries = contents.entries
    known = entries.keys() | contents.packed.keys()
    assert views.keys() <= known, "layout.py and transformers disagree"
    with ExitStack() as stack:
        streams = {
            file: stack.enter_context(safe_open(folder / file, framework="pt", device=device))
            for file in contents.headers
        }

        def read(name: str, rows: slice) -> torch.Tensor:
            stream = streams[entries[name].file]
            # A scalar has no rows, and all of them need it.
            return stream.get_slice(name)[rows] if entries[name].shape else stream.get_tensor(name)

        for name, (view, first) in views.items():
            rows = slice(first, first + len(view))
            packed = contents.packed.get(name)
            if packed is None:
                view.copy_(read(name, rows))
                continue
            module = stem(name)
            view.copy_(unpack(packed, {p: read(f"{module}.{p}", rows) for p in packed.numbers()}))


def check_numbers(folder: Path, contents: Contents, *, progress: bool = False) -> None:
    """Every weight of the checked folder that is no code of a quantized one is finite. Reads all of
    it, a tensor at a time; `progress`: of that, on stderr.

    Raises:
        InputError: one is not.
    """
    with Progress("check", len(contents.entries), unit="tensors", shown=progress) as shown:
        for file, header in contents.headers.items():
            with safe_open(folder / file, framework="pt") as stream:
                for name, entry in header.entries.items():
                    if entry.dtype in TRAINABLE and not _is_finite(stream.get_tensor(name)):
                        raise InputError(
                            f"{folder / file}: {name} has entries that are no number",
                            "every weight has to be finite",
                            "take a whole copy of the checkpoint, or export it anew where it was"
                            " trained",
                        )
                    shown.update()


def _is_finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def input_scales(
    folder: Path, contents: Contents, *, device: str
) -> dict[str, tuple[str, torch.Tensor]]:
    """Of each module whose inputs are quantized when it is served, by its released name: how its
    weight is, and the scale of its inputs, float32 () on `device`."""
    found = {}
    with ExitStack() as stack:
        streams = {
            file: stack.enter_context(safe_open(folder / file, framework="pt", device=device))
            for file in contents.headers
        }
        for name, packed in contents.packed.items():
            if packed.inputs:
                scale = f"{stem(name)}.input_scale"
                stream = streams[contents.entries[scale].file]
                found[stem(name)] = (packed.scheme, stream.get_tensor(scale))
    return found
