"""Templates over a source's columns, as in `"{text}\\nIntent:"`: parsing and rendering.

Not validation: what a rendered text must be is `updater.ingest`'s. The standard library only, so
that `updater.settings` can check a template before any work. Called by `updater.settings` and
`updater.ingest`.

`{column}` takes a column, `{a.b}` or `{a[b]}` a field inside one, `{price:.2f}` formats the value
as Python's `format` does, and `{{` is a brace.
"""

import datetime
import decimal
import math
import string
import uuid
from collections.abc import Mapping
from typing import Any

ABSENT = object()

SCALARS = (
    str,
    bool,
    int,
    float,
    decimal.Decimal,
    datetime.datetime,
    datetime.date,
    datetime.time,
    uuid.UUID,
)


class RenderError(ValueError):
    """A row's value can't be rendered. Caught by the ingest, which quarantines the row."""

    def __init__(self, column: str, rule: str, value: object) -> None:
        self.column, self.rule, self.value = column, rule, value
        super().__init__(f"{column}: {rule}")


class Column:
    """One column that a template names, possibly a field inside it."""

    __slots__ = ("is_plain", "name", "parts")

    def __init__(self, name: str) -> None:
        self.name = name
        self.parts = tuple(name.replace("[", ".").replace("]", "").split("."))
        self.is_plain = len(self.parts) == 1

    @property
    def root(self) -> str:
        """The source's column that holds it, unless a column is named with the dots."""
        return self.parts[0]

    def value(self, row: Mapping[str, Any]) -> Any:
        """The row's value, or `ABSENT`. A column whose own name has the dots comes first."""
        found = row.get(self.name, ABSENT)
        if found is not ABSENT or self.is_plain:
            return found
        found = row
        for part in self.parts:
            if isinstance(found, Mapping):
                found = found.get(part, ABSENT)
            elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
                found = found[int(part)]
            else:
                return ABSENT
        return found


class Template:
    """A parsed template. `columns` are the columns it names, in order.

    Raises:
        ValueError: it is malformed; the message is the rule that it breaks.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.pieces: list[tuple[str, Column | None, str]] = []
        for literal, name, spec, conversion in string.Formatter().parse(text):
            if conversion:
                raise ValueError(f"must not convert a column as {{{name}!{conversion}}} does")
            if spec and ("{" in spec or "}" in spec):
                raise ValueError("must not have braces inside a column's format")
            if name is not None and not name.strip():
                raise ValueError("must name a column between its braces; {{ is a brace itself")
            self.pieces.append((literal, None if name is None else Column(name), spec or ""))
        self.columns = [column for _, column, _ in self.pieces if column is not None]

    def render(self, row: Mapping[str, Any]) -> str:
        """The text of one row.

        Raises:
            RenderError: a column is absent, empty, no scalar, or its format doesn't fit.
        """
        parts = []
        for literal, column, spec in self.pieces:
            parts.append(literal)
            if column is not None:
                value = column.value(row)
                is_plain = type(value) is str and not spec and value and not value.isspace()
                parts.append(value if is_plain else _text(column.name, value, spec))
        return "".join(parts)


def _text(name: str, value: Any, spec: str) -> str:
    """What is not simply a text that is there."""
    if isinstance(value, str) and (not value or value.isspace()):
        raise RenderError(name, "must not be blank", value)
    if value is ABSENT:
        raise RenderError(name, "must be there", None)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise RenderError(name, "must not be null", None)
    if not isinstance(value, SCALARS):
        raise RenderError(name, "must be text, a number, a boolean or a date", value)
    if spec:
        try:
            return format(value, spec)
        except (ValueError, TypeError, OverflowError) as error:
            raise RenderError(name, f"must fit the format {spec!r}", value) from error
    if isinstance(value, bool):
        return "true" if value else "false"  # as JSON writes it, whatever the source
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)
