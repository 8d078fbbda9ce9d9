"""The types of the columns that the templates name, and whether they changed between periods.

Not the types of a file format: those of the values, so that JSONL, CSV, Parquet and databases are
alike. Called by `updater.ingest`.
"""

import datetime
import decimal
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping

from updater.errors import InputError
from updater.templates import ABSENT

TYPE_NAMES = {
    str: "string",
    uuid.UUID: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    decimal.Decimal: "number",
    datetime.date: "date",
    datetime.datetime: "timestamp",
    datetime.time: "time",
    list: "list",
    dict: "object",
    type(None): "null",
    type(ABSENT): "absent",
}

TypeCounts = Counter[tuple[str, type]]  # (column, type of its value) -> rows


def schema_of(counts: TypeCounts) -> dict[str, str]:
    """Each column's type: the commonest among its values, so that a stray value changes nothing.

    Whole numbers and others are one type when it is sought; it is `integer` only if all are.
    "null" or "absent" if no row has a value.
    """
    return {column: _type(dict(rows)) for column, rows in _by_column(counts).items()}


def check_present(counts: TypeCounts, existing: Iterable[str], expected: Mapping) -> None:
    """Every column that a template names is in at least one row.

    Args:
        counts: of all rows that were looked at.
        existing: the columns that the source does have.
        expected: the earlier schema, if any: then it is the source that changed.

    Raises:
        InputError: a column is in no row.
    """
    gone = sorted(c for c, rows in _by_column(counts).items() if set(rows) == {"absent"})
    if not gone:
        return
    changed = [column for column in gone if column in expected]
    why = "; earlier periods had it: the source has changed" if changed else ""
    raise InputError(
        f"the source has no column {', '.join(map(repr, gone))}{why}",
        f"source.fields may only name its columns: {', '.join(sorted(existing)) or 'none'}",
        "mend source.fields in updater.toml, or the source",
    )


def check_unchanged(schema: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Every column has the type that it had in earlier periods. An integer is a number.

    Raises:
        InputError: one has another.
    """
    changed = [
        f"{column!r} was {expected[column]} and is {found}"
        for column, found in sorted(schema.items())
        if column in expected
        and found not in (expected[column], "null")
        and (expected[column], found) != ("number", "integer")
    ]
    if changed:
        raise InputError(
            f"the source's columns have changed since earlier periods: {', '.join(changed)}",
            "a column that source.fields names must keep its type",
            "give the source the old types, or name a column that has them in source.fields",
        )


def _by_column(counts: TypeCounts) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for (column, kind), rows in counts.items():
        name = TYPE_NAMES.get(kind, kind.__name__)
        found.setdefault(column, Counter())[name] += rows
    return dict(sorted(found.items()))


def _type(rows: dict[str, int]) -> str:
    values = {kind: n for kind, n in rows.items() if kind not in ("null", "absent")}
    if not values:
        return "null" if "null" in rows else "absent"
    if "number" in values:
        values["number"] += values.pop("integer", 0)
    return min(values, key=lambda kind: (-values[kind], kind))
