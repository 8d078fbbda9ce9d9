"""docker-compose.yml as the engine would see it: anchors merged, variables filled in.

For the check and for the tests, which have no Docker engine. Knows the forms of the interpolation
that the file uses: $$, ${NAME}, ${NAME:-default} and ${NAME:?message}.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

COMPOSE = Path(__file__).resolve().parent.parent / "docker-compose.yml"
VARIABLE = re.compile(r"\$(?:(\$)|\{([A-Z_][A-Z0-9_]*)(?::([-?])([^}]*))?\})")


class MissingError(ValueError):
    """A variable that must be set is not."""


def load(environ: Mapping[str, str], path: Path = COMPOSE) -> dict[str, Any]:
    """The file's contents.

    Raises:
        MissingError: a variable without which nothing starts is not set, or empty.
        yaml.YAMLError: it is no YAML.
    """
    whole: dict[str, Any] = _filled(yaml.safe_load(path.read_text("utf-8")), environ)
    return whole


def environment(path: Path) -> dict[str, str]:
    """The variables of a .env file."""
    lines = path.read_text("utf-8").splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def _filled(value: Any, environ: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(one, environ) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, environ) for one in value]
    if not isinstance(value, str):
        return value

    def replaced(found: re.Match[str]) -> str:
        dollar, name, kind, said = found.groups()
        if dollar:
            return "$"
        given = environ.get(name, "")
        if not given and kind == "?":
            raise MissingError(f"{name} is not set: {said}")
        return given or (said if kind == "-" else "")

    return VARIABLE.sub(replaced, value)
