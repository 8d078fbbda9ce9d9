"""What of a training in shards survives a kill: a folder that all processes write together.

Each writes its own shards as safetensors (torch's distributed checkpoints in that format: no
pickle), and the first one the record of how far the run is; the folder has its name only once it
is whole. Read by any number of processes, one too. Not `updater.train.state`'s one file, which
holds whole tensors. Called by `updater.train.saver`.
"""

import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.distributed import checkpoint as distributed
from torch.distributed.checkpoint import (
    CheckpointException,
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from updater.files import read_json, write_json
from updater.train.ranks import Ranks
from updater.train.state import Counters, Live

_PREFIX = "step-"
_RECORD = "training.json"
FILE_BYTES = 2**31  # of each process


def save(
    folder: Path,
    fingerprint: str,
    live: Live,
    counters: Counters,
    losses: list[float],
    *,
    ranks: Ranks,
) -> None:
    """The run's state is on the disk; until then the one before is. Each process has to ask.

    Raises:
        OSError: the disk refuses.
    """
    target = folder / f"{_PREFIX}{counters.num_steps:08}"
    partial = folder / f".{target.name}.partial"
    if ranks.first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    ranks.wait()
    tensors = live.named()
    writer = HuggingFaceStorageWriter(
        str(partial), fqn_to_index_mapping=_files(tensors, ranks.world), save_distributed=True
    )
    try:
        distributed.save(dict(tensors), storage_writer=writer)
    except CheckpointException as error:
        raise OSError(f"{target} could not be written: {error}") from error
    if ranks.first:
        record = {"fingerprint": fingerprint, "losses": losses, **asdict(counters)}
        write_json(partial / _RECORD, record)
        shutil.rmtree(target, ignore_errors=True)  # of another run
        partial.replace(target)
        for older in folder.glob(f"{_PREFIX}*"):
            if older != target:
                shutil.rmtree(older)
    ranks.wait()


def _files(tensors: Mapping[str, torch.Tensor], world: int) -> dict[str, int]:
    """Name -> number of its file: a process has a file's tensors in memory once more while it
    writes them."""
    files, filled = {}, 0
    for name, tensor in tensors.items():
        filled += tensor.numel() * tensor.element_size()
        files[name] = 1 + filled // (world * FILE_BYTES)
    return files


def num_steps(folder: Path, fingerprint: str) -> int:
    """Of the state that `restore` would read; 0: there is none."""
    found = _found(folder, fingerprint)
    return 0 if found is None else int(found[1]["num_steps"])


def restore(folder: Path, fingerprint: str, live: Live) -> tuple[Counters, list[float]]:
    """`live` is as it was saved, by however many processes, and so are the counters and losses that
    are returned; all untouched and at zero where there is no state of this very run. Each process
    has to ask."""
    found = _found(folder, fingerprint)
    if found is None:
        return Counters(), []
    saved, record = found
    losses = record.pop("losses")
    _read(saved, live)
    return Counters(**record), losses


def _found(folder: Path, fingerprint: str) -> tuple[Path, dict[str, Any]] | None:
    for saved in sorted(folder.glob(f"{_PREFIX}*"), reverse=True):
        try:
            record = read_json(saved / _RECORD)
        except (OSError, json.JSONDecodeError):
            continue
        if record.pop("fingerprint", None) == fingerprint:
            return saved, record
    return None


def _read(saved: Path, live: Live) -> None:
    reader = HuggingFaceStorageReader(str(saved))
    tensors = live.named()
    for name, about in reader.read_metadata().state_dict_metadata.items():
        if name not in tensors:  # an optimizer that has taken no step has no state yet
            assert isinstance(about, TensorStorageMetadata), "nothing but tensors is saved"
            owner = live.parameters[name.split("/", 2)[2]]
            dtype = about.properties.dtype
            alike = about.size == owner.shape
            tensors[name] = (
                torch.zeros_like(owner, dtype=dtype, requires_grad=False)
                if alike
                else torch.zeros(about.size, dtype=dtype)
            )
    with warnings.catch_warnings():
        # What torch says to one process alone, which is meant.
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        distributed.load(tensors, storage_reader=reader)
    for name, tensor in tensors.items():
        live.put(name, tensor)
