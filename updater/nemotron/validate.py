"""A checkpoint folder is looked over before any work: a pure read, cheap at any size.

Reads config.json, the tokenizer's tokens and the headers of the safetensors files, without torch.
Not a proof that the numbers are right: digests of whole files are `store`'s matter. Called by
`updater.nemotron.checkpoint` and by the commands that take a checkpoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from updater.errors import InputError
from updater.nemotron import files, presets, quantised, vocabulary
from updater.nemotron.layout import mtp_shapes, tensor_shapes
from updater.nemotron.packed import Packed, find, plain

TRAINABLE = ("F32", "BF16", "F16")
_HEAD = "mtp."


@dataclass(frozen=True)
class Contents:
    """What a checked folder holds: config.json's fields, each file's tensors, and by their released
    names the weights that lie quantized among them."""

    config: dict[str, Any]
    headers: dict[str, files.Header]
    packed: dict[str, Packed] = field(default_factory=dict)

    @property
    def entries(self) -> dict[str, files.Entry]:
        """Every tensor in the folder, by its name there."""
        return {name: e for h in self.headers.values() for name, e in h.entries.items()}


def check(folder: Path, *, quantized: bool = False) -> Contents:
    """The folder is a whole Nemotron-H checkpoint, as far as can be told without reading weights.

    Reads the JSON files and the headers of the safetensors files: cheap at any size, and without
    torch. `quantized`: its weights may be, in the forms of `updater.nemotron.packed`, for it is to
    be asked and not trained.

    Raises:
        InputError: the first thing that is wrong, with its cure.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder", "must be a checkpoint folder")
    config = presets.read_config(folder / "config.json")
    # First, for a quantised checkpoint has tensors of other shapes, and more of them.
    if not quantized:
        quantised.refuse_told(folder, config)
    names = files.weight_files(folder)
    contents = Contents(config, {name: files.read_header(folder / name) for name in names})
    entries = contents.entries
    if not quantized:
        quantised.refuse_tensors(folder, config, entries)
    where = str(folder / "config.json")
    shapes, head = tensor_shapes(config, where=where), mtp_shapes(config, where=where)
    vocabulary.check(folder, config)
    if sum(len(h.entries) for h in contents.headers.values()) != len(entries):
        raise InputError(f"{folder}: a tensor is in two files", "each must be in one")
    _check_index(folder, entries)
    drafts = {name for name in entries if name.startswith(_HEAD)}
    if drafts and head:
        shapes |= head
    contents = replace(contents, packed=find(folder, entries, shapes) if quantized else {})
    # A head that config.json says nothing of is carried from base to export as it is.
    carried = set() if head else drafts
    _check_tensors(folder, plain(entries, contents.packed), shapes, carried=carried)
    return contents


def check_length(config: Mapping[str, Any], length: int, *, where: str) -> None:
    """Texts of `length` tokens are no longer than these fields of a config.json say. Those without
    a limit say nothing.

    Raises:
        InputError: they are.
    """
    longest = config.get("max_position_embeddings")
    if isinstance(longest, int) and 0 < longest < length:
        raise InputError(
            f"model.max_length_tokens = {length}",
            f"{where}: max_position_embeddings = {longest} tokens are the longest text that the"
            " model is made for",
            f"set it to {longest} at most; longer examples are left out, with a count",
        )


def _check_index(folder: Path, entries: dict[str, files.Entry]) -> None:
    index = folder / files.INDEX
    if not index.exists():
        return
    found = {name: entry.file for name, entry in entries.items()}
    listed = files.read_index(index)
    for name in sorted(found.keys() | listed.keys()):
        if found.get(name) != listed.get(name):
            what = (
                f"{index}: says that {name} is in {listed.get(name, 'no file')},"
                f" but it is in {found.get(name, 'no file')}"
            )
            raise InputError(what, "index and files must agree", "fetch the checkpoint again")


def _check_tensors(
    folder: Path,
    entries: dict[str, files.Entry],
    shapes: dict[str, tuple[int, ...]],
    *,
    carried: set[str],
) -> None:
    cure = "give the whole checkpoint, with the config.json that belongs to it"
    missing = [name for name in shapes if name not in entries]
    if missing:
        what = f"{folder}: {len(missing)} tensors are missing, the first is {missing[0]}"
        raise InputError(what, "every tensor of config.json's shape must be there", cure)
    extra = [name for name in entries if name not in shapes and name not in carried]
    if extra:
        what = f"{folder}: {len(extra)} tensors belong to no layer, the first is {extra[0]}"
        raise InputError(what, "only tensors of config.json's shape may be there", cure)
    for name, shape in shapes.items():
        entry = entries[name]
        if entry.shape != shape:
            what = f"{folder / entry.file}: {name} has the shape {list(entry.shape)}"
            raise InputError(what, f"config.json makes it {list(shape)}", cure)
        if entry.dtype not in TRAINABLE:
            what = f"{folder / entry.file}: {name} is {entry.dtype}"
            rule = f"weights must be {', '.join(TRAINABLE)}"
            raise InputError(what, rule, "convert it to one of these")
