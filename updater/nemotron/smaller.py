"""A checkpoint with less in it: without whole parts, and smaller; or with weights that are 0.

Not the choice (`compression`, `updater.nemotron.parts`). A tensor at a time is in memory, so a
checkpoint of any size is cut in little of it.
"""

import json
import math
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from safetensors import safe_open
from torch import Tensor

from updater.errors import InputError
from updater.nemotron import files
from updater.nemotron.cuts import Cut, cut
from updater.nemotron.folders import copy_all_but_weights, renamed_when_whole
from updater.nemotron.layout import mtp_pattern, resized
from updater.nemotron.saving import save_each, save_zeros
from updater.nemotron.tokenizer import write_json
from updater.nemotron.validate import Contents, check

_SHARD = re.compile(r"(?P<name>.*)-\d{5}-of-\d{5}(?P<ending>\.safetensors)")
_NOTHING: Mapping[str, Tensor] = MappingProxyType({})


def shrink(
    base: Path,
    kept: Mapping[str, Tensor],
    target: Path,
    *,
    replaced: Mapping[str, Tensor] = _NOTHING,
) -> Path:
    """`target` is the checkpoint `base` without the parts that `kept` is false for, and is
    returned: a model of its own, which everything loads that loads the base.

    It says what the base would say if nothing came of those parts: of neurons and layers their
    outgoing weights 0, of experts a correction bias with which none is chosen. Of Mamba heads it is
    their rows of z that would be 0: the gated norm then still counts them in its mean, so the
    weights of the norm are multiplied by the root of heads before over heads after. What is left
    apart is the norm's epsilon, in effect larger by heads before over heads after. (Where heads
    that do speak were cut from a small trained model, its divergence from the whole one was so 0.5
    to 1.1 times as large as without: measured, 3 of 12 cuts were worse by up to 10 %.)

    Sizes in config.json change, and of the index what it says of files; layers and experts are
    numbered anew. All else is the base's: files byte for byte, but for pickles, which stay behind;
    dtypes; the order of tensors, and in which shard each is. Shards with nothing left are gone.
    What stood at `target` is replaced, and until it is whole it is not there.

    Args:
        kept: by `Parts.key`, bool (count,), as `cuts.cut` takes it.
        replaced: by their released names, tensors to take in the place of the base's, in its
            shapes; each is asked for once.

    Raises:
        InputError: as `checkpoint.check` and `cuts.cut`; a tensor is replaced that there is not; or
            there is a multi-token-prediction head that config.json says nothing of.
        ValueError: as `cuts.cut`, or a tensor is replaced by one of another shape.
        OSError: the disk refuses.
    """
    base, target = Path(base), Path(target)
    contents = check(base)
    where = str(base / "config.json")
    _refuse_unknown(contents, replaced, where)
    cutting = cut(contents.config, kept, contents.entries, where=where)
    shards = _shards(contents, cutting)
    written = json.loads((base / "config.json").read_text(encoding="utf-8"))
    with renamed_when_whole(target) as folder:
        copy_all_but_weights(base, contents, folder)
        fields = resized(written, cutting.sizes, cutting.layers)
        write_json(folder / "config.json", fields)
        for file, entries in shards.items():
            _save_shard(base / file, folder, entries, contents, cutting, replaced)
        if (base / files.INDEX).is_file():
            _write_index(base, folder, shards, cutting)
        check(folder)
    return target


def zero(base: Path, masks: Iterable[tuple[str, Tensor]], target: Path) -> Path:
    """`target` is the checkpoint `base` with each weight 0 that a mask is false for, and is
    returned: as large, and byte for byte the same everywhere else.

    Args:
        masks: released name and bool mask of the tensor's shape, in any order; one at a time is in
            memory.

    Raises:
        InputError: as `checkpoint.check`, or there is no tensor of that name.
        ValueError: a mask is not bool of its tensor's shape.
        OSError: the disk refuses.
    """
    base, target = Path(base), Path(target)
    contents = check(base)
    entries = contents.entries
    with renamed_when_whole(target) as folder:
        copy_all_but_weights(base, contents, folder)
        for file in contents.headers:
            shutil.copyfile(base / file, folder / file)
        for name, mask in masks:
            if name not in entries:
                raise InputError(f"mask of {name!r}", f"{base}: has no such tensor")
            file = entries[name].file
            save_zeros(folder / file, contents.headers[file], name, mask)
    return target


def _refuse_unknown(contents: Contents, replaced: Mapping[str, Tensor], where: str) -> None:
    for name in replaced:
        if name not in contents.entries:
            raise InputError(f"replaced: {name!r}", f"{where}: the model has no such tensor")
    drafts = [name for name in contents.entries if name.startswith("mtp.")]
    if drafts and not mtp_pattern(contents.config, where=where):
        raise InputError(
            f"{where}: says nothing of a multi-token-prediction head, and {drafts[0]} is there",
            "its sizes must be known, for they are the backbone's",
            "set num_nextn_predict_layers and mtp_hybrid_override_pattern as its release has them",
        )


Shards = dict[str, dict[str, files.Entry]]


def _shards(contents: Contents, cutting: Cut) -> Shards:
    """By the file that it is in, and its name there, what becomes of each tensor that stays."""
    headers = contents.headers.items()
    old = [file for file, header in headers if header.entries.keys() & cutting.names.keys()]
    new = _numbered(old) if len(old) < len(contents.headers) else old
    return {
        file: {
            name: replace(entry, file=renamed, shape=cutting.shape(name, entry.shape))
            for name, entry in contents.headers[file].entries.items()
            if name in cutting.names
        }
        for file, renamed in zip(old, new, strict=True)
    }


def _numbered(shards: list[str]) -> list[str]:
    """Their names, counted anew; as they are where they are not counted."""
    found = [_SHARD.fullmatch(shard) for shard in shards]
    return [
        f"{match['name']}-{number:05}-of-{len(shards):05}{match['ending']}" if match else shard
        for number, (shard, match) in enumerate(zip(shards, found, strict=True), start=1)
    ]


def _save_shard(
    path: Path,
    folder: Path,
    entries: Mapping[str, files.Entry],
    contents: Contents,
    cutting: Cut,
    replaced: Mapping[str, Tensor],
) -> None:
    before = {cutting.names[name]: name for name in entries}
    given = frozenset(replaced)  # `in` would ask a mapping for the tensor
    with safe_open(path, framework="pt") as stream:

        def tensor(new: str) -> Tensor:
            name = before[new]
            whole = replaced[name] if name in given else stream.get_tensor(name)
            wanted = contents.entries[name].shape
            if tuple(whole.shape) != wanted:
                found = f"has shape {tuple(whole.shape)}: must be {wanted}"
                raise ValueError(f"what replaces {name!r} {found}")
            return cutting.tensor(name, whole)

        named = {new: entries[name] for new, name in before.items()}
        file = next(iter(entries.values())).file
        save_each(named, tensor, folder / file, contents.headers[path.name].metadata)


def _write_index(base: Path, folder: Path, shards: Shards, cutting: Cut) -> None:
    index = json.loads((base / files.INDEX).read_text(encoding="utf-8"))
    entries = {name: entry for shard in shards.values() for name, entry in shard.items()}
    totals = {"total_size": sum(entry.num_bytes for entry in entries.values())}
    metadata = index.get("metadata") or {}
    if "total_parameters" in metadata:  # as transformers 5 writes it
        totals["total_parameters"] = sum(math.prod(entry.shape) for entry in entries.values())
    where = {cutting.names[n]: entries[n].file for n in index["weight_map"] if n in entries}
    write_json(
        folder / files.INDEX, {**index, "metadata": {**metadata, **totals}, "weight_map": where}
    )
