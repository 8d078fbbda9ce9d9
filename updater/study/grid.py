"""The `[arms.NAME.grid]` of a study file: one table stands for an arm of each combination.

Called by `updater.study.arms`, which resolves and checks the settings.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from updater.errors import InputError
from updater.settings import CompressionSettings
from updater.study.plan import Arm
from updater.study.tables import Table
from updater.study.ways import Way

KEYS = tuple(f.name for f in fields(CompressionSettings) if f.name not in ("keep", "start"))
"""The settings of `[compression]` that a grid may name: those of one value each that are heeded."""

_NAMED = ("method", "remove", "sparsity", "pattern", "quantize", "recovery")
"""Those that `Way.name` tells."""


def choices(table: Table) -> list[dict[str, Any]]:
    """Every combination of the arm's grid, setting of `[compression]` -> value, the last setting
    fastest; one that is empty where there is no grid.

    Raises:
        InputError: a key is none of `KEYS`, has no list of distinct values, or stands in the arm's
            own `compression` as well.
    """
    grid = table.table("grid")
    if "grid" in table.values and not grid.values:
        raise grid.wrong("it is empty", "it names settings and their values", "take it out")
    grid.check(KEYS)
    for key in grid.values:
        if key in table.table("compression").values:
            raise grid.wrong(key, "the arm has one value of it already", "take one out")
    several = [grid.several(key) for key in grid.values]
    return [dict(zip(grid.values, some, strict=True)) for some in itertools.product(*several)]


def where(table: Table, choice: Mapping[str, Any]) -> str:
    """What an error about the combination calls its place."""
    told = ", ".join(f"{key} = {value!r}" for key, value in choice.items())
    return f"{table.where} grid, {told}" if choice else table.where


def name(way: Way, choice: Mapping[str, Any]) -> str:
    """Of the arm with the combination: what it does, and what else the grid says of it."""
    more = [f"{key} {value}" for key, value in choice.items() if key not in _NAMED]
    return ", ".join([way.name, *more])


def check_names(top: Table, arms: Sequence[Arm]) -> None:
    """No two arms have one name. Raises: InputError."""
    names = [arm.name for arm in arms]
    for one in names:
        if names.count(one) > 1:
            raise InputError(
                f"{top.where}: two arms are called {one!r}",
                "an arm of a grid is called by what it does; what tells it from another must be"
                " in its grid",
                "give what differs as a list in the grid, or take one out",
            )
