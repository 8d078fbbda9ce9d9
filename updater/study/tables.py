"""Reading a table of a study file strictly: unknown keys, types, names and their nearest cure.

Knows no key itself: `updater.study.file` names them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from updater.config_values import TYPE_NAMES
from updater.errors import InputError, did_you_mean


class Table:
    """One table of the file. `where` is what errors call it, as in "clinc.toml [stream]"."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise InputError(f"{where} is {values!r}", "it must be a table, its keys below it")
        self.values: Mapping[str, Any] = values
        self.where = where

    def check(self, allowed: Sequence[str]) -> None:
        """It has no other keys. Raises: InputError."""
        for name in self.values:
            if name not in allowed:
                raise self.wrong(
                    f"key {name!r} is unknown",
                    f"the keys are {', '.join(allowed)}",
                    did_you_mean(name, allowed) or "take it out",
                )

    def table(self, name: str) -> "Table":
        """The table below `name`, empty where there is none. Raises: InputError."""
        inner = f"{self.where[:-1]}.{name}]" if self.where.endswith("]") else None
        return Table(self.values.get(name, {}), inner or f"{self.where} [{name}]")

    def tables(self, name: str) -> list["Table"]:
        """The tables of the array `name`, none where there is none. Raises: InputError."""
        found = self.values.get(name, [])
        if not isinstance(found, list):
            raise self.wrong(f"{name} is {found!r}", "it must be tables", f"write [[{name}]]")
        return [Table(one, f"{self.where} [[{name}]] {n}") for n, one in enumerate(found, start=1)]

    def value(self, name: str, default: Any) -> Any:
        """The value of `name`, of the type that `default` has. Raises: InputError."""
        value = self.values.get(name, default)
        kind = type(default)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise self.wrong(f"{name} = {value!r}", f"it must be {TYPE_NAMES[kind]}")
        return value

    def choice(self, name: str, allowed: Sequence[str]) -> str:
        """The text `name`, one of these; the first of them by default. Raises: InputError."""
        value = self.value(name, allowed[0])
        if value not in allowed:
            raise self.wrong(
                f'{name} = "{value}"',
                f"it must be one of {', '.join(allowed)}",
                did_you_mean(value, allowed) or f'write {name} = "{allowed[0]}"',
            )
        return str(value)

    def texts(self, name: str) -> list[str]:
        """The list of texts `name`, not empty. Raises: InputError."""
        found = self.values.get(name, [])
        if not found:
            raise self.wrong(
                f"{name} is missing or empty", "it must name at least one", f'write {name} = [".."]'
            )
        if not isinstance(found, list) or any(type(one) is not str for one in found):
            raise self.wrong(f"{name} = {found!r}", f"it must be {TYPE_NAMES[tuple]}")
        return found

    def several(self, name: str) -> tuple[Any, ...]:
        """The list of values `name`, distinct and not empty. Raises: InputError."""
        found = self.values.get(name)
        if not isinstance(found, list) or not found:
            raise self.wrong(
                f'"{name}" = {found!r}',
                "it must be a list of values to choose from",
                "write [1e3, 1e4]",
            )
        twice = next((value for value in found if found.count(value) > 1), None)
        if twice is not None:
            raise self.wrong(
                f'"{name}" = {found!r}',
                f"{twice!r} stands there more than once, however it is written",
                "take one out",
            )
        return tuple(found)

    def seeds(self) -> tuple[int, ...]:
        """The list `seeds`, distinct and not empty. Raises: InputError."""
        found = self.values.get("seeds", [])
        if found == []:
            raise self.wrong(
                "seeds is missing or empty", "every run has a seed", "write seeds = [0, 1, 2, 3, 4]"
            )
        is_list = isinstance(found, list) and all(type(s) is int and s >= 0 for s in found)
        if not is_list or len(set(found)) != len(found):
            raise self.wrong(
                f"seeds = {found!r}",
                "it must be a list of different whole numbers from 0 on",
                "write seeds = [0, 1, 2, 3, 4]",
            )
        return tuple(found)

    @contextmanager
    def named(self) -> Iterator[None]:
        """An InputError from the block, which knows no file, says that it is about this table."""
        try:
            yield
        except InputError as error:
            raise self.wrong(error.what, error.rule, error.cure) from None

    def wrong(self, what: str, rule: str, cure: str = "") -> InputError:
        """The error that says so."""
        return InputError(f"{self.where}: {what}", rule, cure)
