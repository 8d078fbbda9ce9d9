"""One value of a configuration: as it was given, of the type that its key has, and as it is told.

Not whether it is allowed: `updater.settings` says so. Called by `updater.config_reader`.
"""

import json
import tomllib
from typing import Any, NamedTuple

from updater.config_keys import Key, Leaf
from updater.settings import without_password

TYPE_NAMES = {
    str: 'text in quotes, as in "abc"',
    int: "a whole number, as in 3",
    float: "a number, as in 0.5",
    bool: "true or false",
}
LIST_NAMES = {
    str: 'a list of texts, as in ["a", "b"]',
    float: "a list of numbers, as in [0.1, 10]",
}


class Given(NamedTuple):
    """One value, the words for where it stands, and what its place calls it. `is_text`: the place
    has no types. `is_typed`: by whoever runs the command, who is obeyed or refused."""

    value: Any
    where: str
    name: str
    is_text: bool = False
    is_typed: bool = False


def typed(given: Given, leaf: Leaf) -> Any:
    """The value of a key, of its type; a whole number is right where a number is wanted.

    Raises:
        TypeError: it is of another type; the message is the rule. A boolean is no number.
    """
    value = given.value
    if given.is_text:
        if leaf.is_optional and value == "none":
            return None
        value = _from_text(value, leaf)
    if leaf.kind is float and type(value) is int:
        value = float(value)
    elif leaf.kind is tuple and type(value) is list:
        value = tuple(float(v) if leaf.item is float and type(v) is int else v for v in value)
        if any(type(item) is not leaf.item for item in value):
            value = None
    if type(value) is not leaf.kind:
        raise TypeError(f"it must be {named(leaf)}")
    return value


def named(leaf: Leaf) -> str:
    """What a key takes, in words."""
    return LIST_NAMES[leaf.item] if leaf.kind is tuple else TYPE_NAMES[leaf.kind]


def _from_text(text: str, leaf: Leaf) -> Any:
    """What a text from a shell stands for: what TOML reads in it, else the text itself."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    is_other = leaf.kind is str and type(parsed["value"]) is not str  # 42, 2026-01-31
    return text if is_other or len(parsed) > 1 else parsed["value"]


def shown(key: Key, value: Any) -> str:
    """What the file has for `key`, in an error."""
    return show(discreet(key, value) if isinstance(value, str) else value)


def show(value: Any) -> str:
    """A value in an error, as TOML writes it, cut to a line."""
    shown = json.dumps(value, default=str, ensure_ascii=False)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def discreet(key: Key, text: str) -> str:
    """`text` without its secrets, to be shown. Where an address is malformed, nobody can say which
    part of it is the password: what has room for one is not shown at all."""
    if key[0] == "store" and ("@" in text or "?" in text):
        return "***"
    return without_password(text)
