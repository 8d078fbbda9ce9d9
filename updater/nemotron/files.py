"""What stands in a folder of safetensors files, as their headers say it.

A header is a little-endian 64-bit length, then that much JSON: {name: {dtype, shape,
data_offsets}} (https://github.com/huggingface/safetensors, "Format"). No tensor is read and no
torch imported, so 60 GB are checked in milliseconds. Called by `updater.nemotron.checkpoint`.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from updater.errors import InputError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_BITS = {
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "F32": 32,
    "I32": 32,
    "U32": 32,
    "F16": 16,
    "BF16": 16,
    "I16": 16,
    "U16": 16,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
    "F4": 4,
}


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: its file's name, its dtype as safetensors writes it, its shape."""

    file: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """What it takes in the file."""
        return math.prod(self.shape) * _BITS[self.dtype] // 8

    @property
    def item_bytes(self) -> float:
        """What one number of it takes."""
        return _BITS[self.dtype] / 8


@dataclass(frozen=True)
class Header:
    """One file's tensors in the order of their bytes, its free metadata, and how many bytes it
    takes itself."""

    entries: dict[str, Entry]
    metadata: dict[str, str]
    num_bytes: int

    @property
    def starts(self) -> dict[str, int]:
        """The place of each tensor's first byte in the file."""
        sizes = (entry.num_bytes for entry in self.entries.values())
        return dict(zip(self.entries, accumulate(sizes, initial=self.num_bytes), strict=False))


def header_bytes(entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> bytes:
    """What a safetensors file begins with in which these tensors lie one after the other, as
    safetensors writes it: filled up with spaces to a multiple of 8 bytes."""
    fields: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name, entry in entries.items():
        stop = start + entry.num_bytes
        shape = list(entry.shape)
        fields[name] = {"dtype": entry.dtype, "shape": shape, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def read_header(path: Path) -> Header:
    """The header of one safetensors file, after it is shown to fit the file's size.

    Raises:
        InputError: the file is missing, truncated, or not a safetensors file.
    """
    cure = "fetch the file again from where it came from"
    try:
        num_bytes = path.stat().st_size
        if num_bytes < 8:  # a header's length
            raise ValueError(f"has {num_bytes} bytes")
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(num_bytes - 8, _MAX_HEADER_BYTES):
                raise ValueError("the header is longer than the file")
            fields = json.loads(stream.read(length))
        metadata = fields.pop("__metadata__", {})
        spans = sorted((*(int(x) for x in fields[n]["data_offsets"]), n) for n in fields)
        entries = {
            name: Entry(path.name, fields[name]["dtype"], tuple(fields[name]["shape"]))
            for _, _, name in spans
        }
        _check_spans(entries, spans, num_bytes - 8 - length)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "must be readable", cure) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{path}: {error}"
        raise InputError(what, "must be a whole safetensors file", cure) from None
    return Header(entries, metadata, 8 + length)


def _check_spans(
    entries: dict[str, Entry], spans: list[tuple[int, int, str]], num_bytes: int
) -> None:
    end = 0
    for start, stop, name in spans:
        entry = entries[name]
        if entry.dtype not in _BITS:
            raise ValueError(f"tensor {name} has an unknown dtype {entry.dtype}")
        if start != end or stop - start != entry.num_bytes:
            raise ValueError(f"tensor {name} does not lie where its shape says")
        end = stop
    if end != num_bytes:
        raise ValueError(f"holds {num_bytes} bytes of tensors where its header says {end}")


def weight_files(folder: Path) -> list[str]:
    """The names of the safetensors files that make up the checkpoint, sorted.

    Raises:
        InputError: there are none, only pickles are there, or the index names a file that is not.
    """
    index = folder / INDEX
    if index.exists():
        names = sorted(set(read_index(index).values()))
        for name in names:
            if Path(name).name != name or not (folder / name).is_file():
                what = f"{index}: names the file {name!r}, which is not beside it"
                raise InputError(what, "every shard must be there", "fetch the missing shard")
        return names
    if (folder / SINGLE).is_file():
        return [SINGLE]
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    if pickles:
        what = f"{folder}: the weights are pickles ({', '.join(pickles[:3])})"
        cure = "convert them to safetensors where you trust them"
        raise InputError(what, "weights are read from safetensors only", cure)
    what = f"{folder}: neither {SINGLE} nor {INDEX} is there"
    raise InputError(what, "weights must be safetensors", "give a checkpoint folder")


def read_index(path: Path) -> dict[str, str]:
    """Which file each tensor is in, as the index says.

    Raises:
        InputError: the index is not the JSON that it should be.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _no_index(str(path), error) from None
    return parse_index(data, where=str(path))


def parse_index(data: bytes, *, where: str) -> dict[str, str]:
    """The same of an index that was read already. `where`: what an error message calls it.

    Raises:
        InputError: as `read_index`.
    """
    try:
        found = json.loads(data.decode("utf-8"))["weight_map"]
        return {str(name): str(file) for name, file in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_index(where, error) from None


def _no_index(where: str, error: Exception) -> InputError:
    what = f"{where}: {type(error).__name__}: {error}"
    cure = "fetch the file again from where it came from"
    return InputError(what, 'must be JSON with a "weight_map"', cure)
