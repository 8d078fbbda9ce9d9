"""What is wrong with a checkpoint folder is said before any work."""

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from updater.errors import InputError
from updater.nemotron import files, reading
from updater.nemotron.checkpoint import check

Spoil = Callable[[Path], object]
WEIGHTS = files.SINGLE
GATE = "backbone.layers.1.mixer.gate.weight"


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return spoil


def write(name: str, content: str | bytes) -> Spoil:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(data)


def truncate(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-100])


def widen(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 48}))


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def index(change: Callable[[dict[str, str]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        where = dict.fromkeys(load_file(folder / WEIGHTS), WEIGHTS)
        change(where)
        (folder / files.INDEX).write_text(json.dumps({"weight_map": where}))

    return spoil


def twice(folder: Path) -> None:
    shutil.copy(folder / WEIGHTS, folder / "b.safetensors")
    index(lambda where: where.update({GATE: "b.safetensors"}))(folder)


def header(fields: object) -> bytes:
    text = json.dumps(fields).encode()
    return struct.pack("<Q", len(text)) + text


BAD: dict[str, tuple[Spoil, str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: not found"),
    "config of another width": (widen, "has the shape"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json: not found"),
    "broken tokenizer": (write("tokenizer.json", "{"), "must be a tokenizers file"),
    "foreign tokenizer": (
        write("tokenizer.json", '{"model": {"vocab": {"a": 99999}}}'),
        "token id 99999",
    ),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "neither model.safetensors nor"),
    "pickles": (pickled, "are pickles"),
    "truncated": (truncate, "whole safetensors file"),
    "empty": (write(WEIGHTS, b""), "has 0 bytes"),
    "not safetensors": (write(WEIGHTS, b"\xff" * 64), "header is longer"),
    "a header of no tensors": (write(WEIGHTS, header([1])), "whole safetensors file"),
    "an unknown dtype": (
        write(WEIGHTS, header({"a": {"dtype": "X", "shape": [], "data_offsets": [0, 0]}})),
        "unknown dtype X",
    ),
    "overlapping tensors": (
        write(WEIGHTS, header({"a": {"dtype": "U8", "shape": [1], "data_offsets": [5, 6]}})),
        "does not lie where",
    ),
    "a tensor is missing": (weights(lambda t: t.pop(GATE)), "first is backbone.layers.1"),
    "a tensor too many": (weights(lambda t: t.update(spare=torch.ones(1))), "first is spare"),
    "a wrong shape": (weights(lambda t: t.update({GATE: torch.ones(2, 2)})), r"shape \[2, 2\]"),
    "quantised": (
        weights(lambda t: t.update({GATE: t[GATE].to(torch.float8_e4m3fn)})),
        "F8_E4M3",
    ),
    "index names no file": (index(lambda w: w.update({GATE: "x.safetensors"})), "not beside it"),
    "index leaves the folder": (index(lambda w: w.update({GATE: "../x"})), "not beside it"),
    "index lacks a tensor": (index(lambda w: w.pop(GATE)), "no file"),
    "index is broken": (write(files.INDEX, "[]"), "weight_map"),
    "a tensor in two files": (twice, "two files"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_folder_is_named_with_its_fault(case: str, base: Path, tmp_path: Path) -> None:
    spoil, message = BAD[case]
    folder = tmp_path / "checkpoint"
    shutil.copytree(base, folder)
    spoil(folder)
    with pytest.raises(InputError, match=message) as error:
        check(folder)
    assert str(tmp_path) in str(error.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        check(tmp_path / "nowhere")


def test_an_mtp_head_that_the_config_says_nothing_of_is_no_fault(
    base: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(base, folder)
    weights(lambda t: t.update({"mtp.layers.0.norm.weight": torch.ones(3)}))(folder)
    assert "mtp.layers.0.norm.weight" in check(folder).entries


def test_a_whole_folder_is_described(base: Path) -> None:
    found = check(base)
    assert found.config["model_type"] == "nemotron_h"
    assert found.entries[GATE] == files.Entry(WEIGHTS, "F32", (6, 32))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(release: Path, value: float) -> None:
    contents = check(release)
    reading.check_numbers(release, contents)
    file, header = next(iter(contents.headers.items()))
    name = next(n for n, entry in header.entries.items() if entry.dtype == "BF16")
    tensors = load_file(release / file)
    tensors[name].view(-1)[-1] = value
    save_file(tensors, release / file, {"format": "pt"})
    with pytest.raises(InputError, match=rf"{re.escape(name)} has entries that are no number"):
        reading.check_numbers(release, check(release))
