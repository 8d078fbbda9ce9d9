"""Writing tensors to a safetensors file: a new one, one with other numbers in it, or one with
other tensors in the place of some.

Called by `updater.nemotron.checkpoint`, `updater.nemotron.smaller`, `updater.train.state` and
`updater.compress.quantize`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from updater.nemotron.files import Entry, Header, header_bytes, read_header

_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_PIECE_BYTES = 2**24


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


def save_over(tensors: Mapping[str, torch.Tensor], base: Path, target: Path) -> None:
    """`target` is the safetensors file `base`, byte for byte, but for the numbers of the tensors
    that are in both, which are cast to the file's dtypes. Each is asked for once, in the order in
    which they lie in the file, and one at a time is in memory: safetensors would have all of them.

    Raises:
        OSError: the disk refuses.
        InputError: `base` is not a whole safetensors file.
    """
    entries = read_header(base).entries
    with base.open("rb") as old, target.open("wb") as new:
        length = 8 + int.from_bytes(old.read(8), "little")
        old.seek(0)
        new.write(old.read(length))
        for name, entry in entries.items():
            if name in tensors:
                new.write(_bytes(name, tensors[name], entry))
                old.seek(entry.num_bytes, 1)
                continue
            _copy(old, new, entry.num_bytes)


Pieces = Mapping[str, tuple[str, tuple[int, ...]]]
"""By its name, the dtype of a tensor as safetensors writes it, and its shape."""


def save_instead(
    base: Path,
    target: Path,
    instead: Mapping[str, Pieces],
    make: Callable[[str, torch.Tensor], Mapping[str, torch.Tensor]],
) -> None:
    """`target` is the safetensors file `base`, with others in the place of some of its tensors.

    What is not replaced has the bytes that it had. One tensor at a time is in memory. As
    safetensors itself writes a file, larger dtypes come first, so that each tensor is aligned.

    Args:
        instead: of each tensor that is replaced, what is in its place.
        make: the numbers of that, of the tensor's name and its own numbers.

    Raises:
        OSError: the disk refuses.
        InputError: `base` is not a whole safetensors file.
    """
    header = read_header(base)
    entries: dict[str, Entry] = {}
    for name, entry in header.entries.items():
        pieces = instead.get(name, {name: (entry.dtype, entry.shape)})
        entries |= {piece: Entry(target.name, *told) for piece, told in pieces.items()}
    order = sorted(entries, key=lambda name: -entries[name].item_bytes)
    starts, end = {}, 0
    for name in order:
        starts[name], end = end, end + entries[name].num_bytes
    with base.open("rb") as old, target.open("wb") as new:
        old.seek(8 + int.from_bytes(old.read(8), "little"))
        first = new.write(header_bytes({n: entries[n] for n in order}, header.metadata))
        for name, entry in header.entries.items():
            if name not in instead:
                new.seek(first + starts[name])
                _copy(old, new, entry.num_bytes)
                continue
            numbers = torch.frombuffer(bytearray(old.read(entry.num_bytes)), dtype=torch.uint8)
            whole = numbers.view(_DTYPES[entry.dtype]).view(entry.shape)
            for piece, tensor in make(name, whole).items():
                new.seek(first + starts[piece])
                assert tensor.nbytes == entries[piece].num_bytes, f"{piece} is not as planned"
                new.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _copy(old: BinaryIO, new: BinaryIO, num_bytes: int) -> None:
    for start in range(0, num_bytes, _PIECE_BYTES):
        new.write(old.read(min(_PIECE_BYTES, num_bytes - start)))


def save_each(
    entries: Mapping[str, Entry],
    tensor: Callable[[str], torch.Tensor],
    path: Path,
    metadata: Mapping[str, str],
) -> None:
    """The file has these tensors, in this order and cast to these dtypes. Each is asked for once,
    by its name, and one at a time is in memory.

    Raises:
        OSError: the disk refuses.
    """
    with path.open("wb") as new:
        new.write(header_bytes(entries, metadata))
        for name, entry in entries.items():
            new.write(_bytes(name, tensor(name), entry))


def save_zeros(path: Path, header: Header, name: str, mask: torch.Tensor) -> None:
    """In the file of that header, where it lies, the tensor is 0 where the mask is false.

    Raises:
        OSError: the disk refuses.
        ValueError: the mask is not bool of the tensor's shape.
    """
    entry = header.entries[name]
    if mask.dtype != torch.bool or tuple(mask.shape) != entry.shape:
        wanted = f"must be bool {entry.shape}"
        raise ValueError(f"the mask of {name} is {mask.dtype} {tuple(mask.shape)}: {wanted}")
    with path.open("r+b") as stream:
        stream.seek(header.starts[name])
        numbers = torch.frombuffer(bytearray(stream.read(entry.num_bytes)), dtype=torch.uint8)
        tensor = numbers.view(_DTYPES[entry.dtype]).view(entry.shape)
        tensor.masked_fill_(~mask.cpu(), 0)
        stream.seek(header.starts[name])
        stream.write(numbers.numpy().data)


def _bytes(name: str, tensor: torch.Tensor, entry: Entry) -> memoryview:
    if tuple(tensor.shape) != entry.shape:
        raise AssertionError(f"{name}: the model is not of the base's shape")
    written = tensor.detach().to("cpu", _DTYPES[entry.dtype]).contiguous()
    return written.reshape(-1).view(torch.uint8).numpy().data
