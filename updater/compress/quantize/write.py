"""A checkpoint folder with quantized weights, made of one without.

Tensor by tensor, so that one matrix at a time is in memory. Called by whoever wants it smaller.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from updater.compress.quantize.groups import group_of
from updater.compress.quantize.kept import Choice, choose
from updater.compress.quantize.pack import input_scale, pack
from updater.compress.quantize.told import compressed_tensors, model_opt, unquantized
from updater.errors import InputError, did_you_mean
from updater.nemotron import files
from updater.nemotron.checkpoint import check
from updater.nemotron.folders import copy_all_but_weights, renamed_when_whole
from updater.nemotron.packed import BITS, Packed, stem
from updater.nemotron.quantised import CONFIG
from updater.nemotron.saving import Pieces, save_instead
from updater.nemotron.tokenizer import write_json
from updater.nemotron.validate import Contents
from updater.settings.compression import SCHEMES


def write(
    base: Path,
    target: Path,
    *,
    scheme: str,
    keep: Collection[str] = (),
    group_size: int | None = None,
    inputs: Mapping[str, float] | None = None,
) -> Path:
    """`target` is the checkpoint folder `base` with its weights quantized, and is returned.

    Weights that stay as they are have the bytes that they had, in the shard that they were in; so
    has every other file, but for config.json and the index. The same base and arguments make the
    same bytes. What stood at `target` is replaced, and until it is whole it is not there.

    Args:
        scheme: one of `updater.settings.compression.SCHEMES`: weights alone in whole numbers of 8
            or 4 bits, a scale for each group of columns; E4M3, one scale for a matrix; E2M1, a
            scale in E4M3 for each 16 columns and one in float32 for a matrix.
        keep: what stays beside `kept.KEPT`, as `kept.choose` has it.
        group_size: of int8 and int4, one of `GROUPS`; None: the largest that divides the columns
            of all that is quantized. One for all: serving stacks run experts of a layer as one.
        inputs: the largest absolute value that comes into each module, as
            `activations.largest_inputs` finds it. fp8 is served with inputs quantized too, by
            scales made of these. nvfp4 is with them (ModelOpt's NVFP4), and without them weights
            alone are 4 bits (W4A16_NVFP4).

    Raises:
        InputError: `base` is not a whole checkpoint, or quantized already; an unknown scheme; an
            argument that the scheme does not take, or wants; columns that no group divides; a
            weight that is not finite; as `kept.choose`.
        OSError: the disk refuses.
    """
    base = Path(base)
    contents = check(base)
    config = base / "config.json"
    choice = choose(contents.config, keep, where=str(config))
    _check_arguments(scheme, group_size, inputs)
    group = group_of(scheme, choice, group_size, where=str(config))
    _check_inputs(choice, inputs)
    planned = {
        name: Packed(scheme, shape, group, contents.entries[name].dtype, inputs is not None)
        for name, shape in choice.quantized.items()
    }
    names = unquantized(contents.config, choice, where=str(config))

    def make(name: str, weight: Tensor) -> dict[str, Tensor]:
        pieces = pack(weight, planned[name], where=f"{base}: {name}")
        if inputs is not None:
            pieces["input_scale"] = input_scale(scheme, inputs[stem(name)])
        return {f"{stem(name)}.{piece}": tensor for piece, tensor in pieces.items()}

    with renamed_when_whole(Path(target)) as folder:
        copy_all_but_weights(base, contents, folder)
        instead = {name: _named(name, packed) for name, packed in planned.items()}
        for file in contents.headers:
            save_instead(base / file, folder / file, instead, make)
        _write_index(contents, folder)
        fields = json.loads(config.read_text(encoding="utf-8"))
        if scheme in BITS:
            told = compressed_tensors(scheme, group, names)
        else:
            told, beside = model_opt(scheme, inputs is not None, names)
            write_json(folder / CONFIG, beside)
        write_json(folder / "config.json", fields | {"quantization_config": told})
    return Path(target)


def num_bytes(folder: Path) -> int:
    """What the weights of a checkpoint folder, quantized or not, take in its files.

    Raises:
        InputError: there are none, or a file is damaged.
    """
    folder = Path(folder)
    headers = (files.read_header(folder / name) for name in files.weight_files(folder))
    return sum(entry.num_bytes for header in headers for entry in header.entries.values())


def _named(name: str, packed: Packed) -> Pieces:
    return {f"{stem(name)}.{piece}": told for piece, told in packed.pieces().items()}


def _check_arguments(
    scheme: str, group_size: int | None, inputs: Mapping[str, float] | None
) -> None:
    if scheme not in SCHEMES:
        cure = did_you_mean(scheme, SCHEMES)
        raise InputError(f"scheme {scheme!r}", f"must be one of {', '.join(SCHEMES)}", cure)
    if scheme not in BITS and group_size is not None:
        what = f"group_size = {group_size} with {scheme}"
        raise InputError(what, "only int8 and int4 have groups of a chosen size", "leave it out")
    if scheme in BITS and inputs is not None:
        what = f"largest inputs with {scheme}"
        raise InputError(what, "only fp8 and nvfp4 quantize what comes in", "leave them out")
    if scheme == "fp8" and inputs is None:
        raise InputError(
            "fp8 without the largest inputs",
            "it is served with inputs quantized by scales that are in the checkpoint",
            "find them on some examples, or take nvfp4, int8 or int4, which need none",
        )


def _check_inputs(choice: Choice, inputs: Mapping[str, float] | None) -> None:
    for name in choice.quantized if inputs is not None else ():
        largest = (inputs or {}).get(stem(name))
        if largest is None or not 0 <= largest < float("inf"):
            raise InputError(
                f"the largest input of {stem(name)} is {largest}",
                "each module that is quantized must have one, at least 0 and finite",
                "find them on the same checkpoint",
            )


def _write_index(contents: Contents, folder: Path) -> None:
    path = folder / files.INDEX
    if not path.exists():
        return
    where: dict[str, str] = {}
    for file in contents.headers:
        where |= dict.fromkeys(files.read_header(folder / file).entries, file)
    fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    metadata = fields.get("metadata") or {}
    fields["metadata"] = metadata | {"total_size": num_bytes(folder)}
    fields["weight_map"] = dict(sorted(where.items()))
    write_json(path, fields)
