"""The keys that a configuration may have, read off the dataclasses of `updater.settings`.

Not their values. Called by `updater.config` and `updater.config_reader`, and by a test that holds
the documentation to it.
"""

import dataclasses
import types
import typing
from functools import cache
from typing import NamedTuple

from updater.errors import closest
from updater.settings import Settings

Key = tuple[str, ...]  # ("training", "epochs"), ("source", "fields", "prompt")


class Leaf(NamedTuple):
    """What a key takes: its type, whether it may be taken away with `none`, and the type of a
    list's items."""

    kind: type
    is_optional: bool
    item: type = str


@cache
def leaves() -> dict[Key, Leaf]:
    """Every key of the configuration, in the order of the settings."""
    found: dict[Key, Leaf] = {}

    def walk(cls: type, section: Key) -> None:
        for name, hint in typing.get_type_hints(cls).items():
            if dataclasses.is_dataclass(hint):
                walk(typing.cast(type, hint), (*section, name))
                continue
            choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
            kind = typing.get_origin(choices[0]) or choices[0]
            item = typing.get_args(choices[0])[0] if kind is tuple else str
            found[*section, name] = Leaf(kind, len(choices) > 1, item)

    walk(Settings, ())
    return found


@cache
def sections() -> tuple[Key, ...]:
    """Every table of the configuration, ("source",) and ("source", "fields") among them."""
    return tuple(dict.fromkeys(key[:n] for key in leaves() for n in range(1, len(key))))


def spell(key: Key) -> str:
    """`key` as the file has it: "[training] epochs"."""
    return f"[{'.'.join(key[:-1])}] {key[-1]}" if len(key) > 1 else f"[{key[0]}]"


def variable(key: Key) -> str:
    """The environment's name of `key`: UPDATER_TRAINING_EPOCHS."""
    return "_".join(("UPDATER", *key)).upper()


def nearest(key: Key) -> tuple[str, str]:
    """The rule and the cure for a key that does not exist."""
    section, name = key[:-1], key[-1]
    if section in sections():
        (rule, _), beside = keys_of(section), _beside(section)
    else:
        named = [".".join(s) for s in sections()]
        rule, beside = f"the sections are {', '.join(named)}", [] if section else named
        near = closest(".".join(section), named)
        if (*near.split("."), name) in leaves():
            return rule, f"did you mean {near}.{name}"
    elsewhere = [k for k in leaves() if k[-1] == name]
    if near := closest(name, beside):
        return rule, f"did you mean {near}"
    if elsewhere:
        return rule, f"did you mean {spell(elsewhere[0])}"
    if near := closest(name, [k[-1] for k in leaves()]):
        return rule, f"did you mean {spell(next(k for k in leaves() if k[-1] == near))}"
    return rule, "take it out"


def keys_of(section: Key) -> tuple[str, str]:
    """The rule and the cure where a section stands in the place of a key."""
    spelled, beside = ".".join(section), _beside(section)
    return f"the keys of [{spelled}] are {', '.join(beside)}", f"name one, as {spelled}.{beside[0]}"


def _beside(section: Key) -> list[str]:
    """What stands directly in `section`: its keys, and the sections within it."""
    names = [k[len(section)] for k in leaves() if k[: len(section)] == section]
    return list(dict.fromkeys(names))
