"""Of a configuration that is no TOML, what can be told all the same, section by section.

For commands that have to work at night, whoever has broken the file. A section reaches from its
heading to the next known one, and is taken where it is TOML by itself. One that isn't there has its
defaults only where nothing that can't be read may be it. Called by `updater.config_reader`.
"""

import re
import tomllib
from collections.abc import Collection
from typing import Any

from updater.config_keys import sections

_HEADING = re.compile(r"^[ \t]*\[[ \t]*([\w.]+)[ \t]*\][ \t]*(?:#.*)?$", re.MULTILINE)


def readable(text: str, wanted: Collection[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The tables of what is TOML by itself, and those of the sections `wanted` of which nobody can
    tell what they say."""
    parts = _parts(text)
    tables = [(heading, _table(part)) for heading, part in parts]
    torn = [part for (_, table), (_, part) in zip(tables, parts, strict=True) if table is None]
    # What stands above all headings may be any section, and where the end lacks so may that.
    is_open = tables[0][1] is None or (tables[-1][1] is None and not text.endswith("\n"))
    hidden = []
    for name in wanted:
        own = [table for heading, table in tables if heading == name]
        is_lost = not own and (is_open or any(_may_have(part, name) for part in torn))
        if is_lost or None in own or len(own) > 1:
            hidden.append(name)
    told = [table for heading, table in tables if heading not in hidden and table is not None]
    return told, hidden


def _may_have(torn: str, name: str) -> bool:
    """Whether another section may begin within what can't be read, by a heading that is wrong."""
    lines = torn.splitlines()[1:]
    return name in torn.lower() or any(line.lstrip().startswith("[") for line in lines)


def _parts(text: str) -> list[tuple[str, str]]:
    """(heading, text with it); the first is what stands above all headings."""
    known = {".".join(section) for section in sections()}
    found = [match for match in _HEADING.finditer(text) if match[1] in known]
    starts = [match.start() for match in found]
    return [
        (heading, text[start:end])
        for heading, start, end in zip(
            ["", *(match[1] for match in found)], [0, *starts], [*starts, len(text)], strict=True
        )
    ]


def _table(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None
