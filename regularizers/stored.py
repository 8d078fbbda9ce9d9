"""An importance's file, tensor by tensor: verified in a stream, or read as parameters are cut.

Many processes that train one model need no more of it than their own rows; who starts them sees to
it that it is whole. Called by `regularizers.importance`, `updater.launch` and the importance
step of `updater.pipeline`.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from regularizers.finite import check_weight
from regularizers.formats import FORMATS, Weight, flat, flat_names, from_flat, keep, whole
from regularizers.shards import is_cut_by_rows, rows_of, shard_of


def dtype_of(form: str) -> torch.dtype:
    """Of all tensors that an importance of this format is kept in.

    Raises:
        ValueError: no such format.
    """
    if form not in FORMATS:
        raise ValueError(f"format is {form!r}: must be one of {', '.join(FORMATS)}")
    return torch.bfloat16 if form == "bfloat16" else torch.float32


def digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of every name, shape and content, which come in order of the names."""
    found = hashlib.sha256()
    for name, tensor in tensors:
        found.update(f"{name} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Hands out the open file and what it says of itself.

    Raises:
        ValueError: the file is no importance, or the block finds it damaged.
        FileNotFoundError: no such file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            yield file, json.loads((file.metadata() or {})["importance"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is no importance, or damaged ({reason}); delete it") from error


def told(path: Path) -> dict[str, Any]:
    """What the file says of the importance in it, beside the tensors: what `Importance` has.

    Raises:
        ValueError: the file is no importance.
        FileNotFoundError: no such file.
    """
    with opened(path) as (_, about):
        return about


def verify(path: Path) -> None:
    """The file holds what `regularizers.importance.save` wrote: what `load` refuses is refused,
    with one tensor in memory at a time.

    Raises:
        ValueError: the file is damaged, or is no importance.
        FileNotFoundError: no such file.
    """
    with opened(path) as (file, about):
        names = sorted(file.keys())
        flat_names(names)
        wanted = dtype_of(about.get("format", "float32"))

        def sound(name: str) -> Tensor:
            tensor: Tensor = file.get_tensor(name)
            if tensor.dtype != wanted:
                raise ValueError(f"{name!r} is {tensor.dtype}: must be {wanted}")
            check_weight(name, tensor)
            return tensor

        if about["sha256"] != digest((name, sound(name)) for name in names):
            raise ValueError("its tensors are not those that were saved")


def cut(path: Path, parameters: Mapping[str, Tensor], form: str) -> dict[str, Weight]:
    """The weights in the file, in the format `form`, cut as the parameters of their names are; in
    the CPU's memory. Of a parameter in shards this rank reads its own rows alone, or, where the
    file has another format, one whole weight after the other. The file is taken as it is: `verify`
    it.

    Raises:
        ValueError: the file is no importance.
        FileNotFoundError: no such file.
    """
    with opened(path) as (file, about):
        weights: dict[str, Weight] = {}
        for name, stored in flat_names(file.keys()).items():
            sources = {part: _in_file(file, part) for part in stored}
            if about.get("format", "float32") != form:
                read = from_flat({part: source.read(None) for part, source in sources.items()})
                converted = flat({name: keep(whole(read[name]), form)})
                sources = {part: _in_memory(tensor) for part, tensor in converted.items()}
            theta = parameters.get(name)
            weights |= from_flat({part: _cut(theta, source) for part, source in sources.items()})
        return weights


class _Source(NamedTuple):
    """A tensor's shape, and what reads some of its rows, or with None all of it."""

    shape: torch.Size
    read: Callable[[slice | None], Tensor]


def _in_file(file: Any, name: str) -> _Source:
    part = file.get_slice(name)
    return _Source(
        torch.Size(part.get_shape()),
        lambda rows: file.get_tensor(name) if rows is None else part[rows],
    )


def _in_memory(tensor: Tensor) -> _Source:
    return _Source(tensor.shape, lambda rows: tensor if rows is None else tensor[rows])


def _cut(theta: Tensor | None, source: _Source) -> Tensor:
    """A copy, so that the file can be let go of."""
    if theta is None or not is_cut_by_rows(theta):
        return source.read(None).clone()
    # A factored weight's columns may be the same for all rows.
    rows = rows_of(theta) if source.shape[:1] == theta.shape[:1] else None
    return shard_of(theta, source.read(rows).clone(), source.shape, cut=rows is not None)
