"""Whether the tokenizer beside a checkpoint is of the vocabulary that its weights know.

What can be told without asking the model: sizes, and where special tokens stand. A foreign
tokenizer of the same size whose special tokens have the same ids is not told from the right one.
No torch. Called by `updater.nemotron.validate`.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from updater.errors import InputError

_CURE = "fetch the checkpoint's own tokenizer.json"
# Embeddings are rounded up to a multiple of one of these, so that they can be cut: of 128 by
# Megatron, times the ways that a model is cut.
_UNITS = (8, 16, 32, 64, 128, 256, 512, 1024)
_IDS = ("eos_token_id", "bos_token_id", "pad_token_id")
_NEEDED = ("eos_token", "bos_token")
_NAMED = (*_NEEDED, "pad_token", "unk_token")
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json")


def check(folder: Path, config: Mapping[str, Any]) -> None:
    """As far as can be told, it is.

    Raises:
        InputError: it surely is not, or can't be read.
    """
    path = folder / "tokenizer.json"
    tokens, special = _tokens(path)
    _check_size(path, max(tokens), config["vocab_size"])
    numbers = {token: number for number, token in tokens.items()}
    for name in _BESIDE:
        fields = _fields(folder / name)
        for token, number in _placed(fields):
            if tokens.get(number, token) != token:
                what = f"{path}: {tokens[number]!r} is the token {number}"
                raise InputError(what, f"{name} says that {token!r} is", _CURE)
        for key, token in _named(fields):
            if token in numbers:
                special.add(numbers[token])
            elif key in _NEEDED:
                what = f"{path}: has no token {token!r}"
                raise InputError(what, f"{name} says that it is the {key}", _CURE)
    generation = _fields(folder / "generation_config.json")
    for name, key, number in (
        *_ids("config.json", config),
        *_ids("generation_config.json", generation),
    ):
        if number not in special:
            there = f"{tokens[number]!r}, a word" if number in tokens else "not there"
            what = f"{path}: the token {number} is {there}"
            raise InputError(what, f"{name} says that it is the {key}", _CURE)


def _tokens(path: Path) -> tuple[dict[int, str], set[int]]:
    """Each id's token, and the ids of those that were added to the vocabulary by name."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        tokens = {int(number): str(token) for token, number in fields["model"]["vocab"].items()}
        added = {int(t["id"]): str(t["content"]) for t in fields.get("added_tokens", ())}
        if not tokens | added:
            raise ValueError("it has no token")
    except FileNotFoundError:
        raise InputError(f"{path}: not found", "must be there", _CURE) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{path}: {type(error).__name__}: {error}"
        raise InputError(what, "must be a tokenizers file", _CURE) from None
    return tokens | added, set(added)


def _check_size(path: Path, largest: int, vocab_size: int) -> None:
    has = f"{path}: has the token id {largest}"
    if largest >= vocab_size:
        what = f"{has}, but config.json says vocab_size = {vocab_size}"
        raise InputError(what, "token ids must lie below vocab_size", _CURE)
    empty = vocab_size - largest - 1
    if empty and not any(vocab_size % unit == 0 and empty < unit for unit in _UNITS):
        what = f"{has} at most, but config.json says vocab_size = {vocab_size}"
        rule = f"no rounding up to a multiple of {_UNITS[-1]} or less leaves {empty} rows over"
        raise InputError(what, rule, _CURE)


def _ids(name: str, fields: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """The file's name, the field's, and the id of each special token; a field may have several."""
    for key in _IDS:
        value = fields.get(key)
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and number >= 0:
                yield name, key, number


def _named(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The field, and the special token that it names."""
    for key in _NAMED:
        value = fields.get(key)
        token = value.get("content") if isinstance(value, Mapping) else value
        if isinstance(token, str):
            yield key, token


def _placed(fields: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The tokens that a file gives an id."""
    placed = fields.get("added_tokens_decoder")
    for number, value in placed.items() if isinstance(placed, Mapping) else ():
        if isinstance(value, Mapping) and str(number).isdigit():
            yield str(value.get("content")), int(number)


def _fields(path: Path) -> Mapping[str, Any]:
    """Of a JSON file that may not be there."""
    if not path.is_file():
        return {}
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}", "must be a readable JSON file", _CURE) from None
    if not isinstance(fields, Mapping):
        raise InputError(f"{path}: is no JSON object", "must be one", _CURE)
    return fields
