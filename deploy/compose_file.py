"""docker-compose.yml as the engine would see it: anchors merged, variables filled in, the second
file laid over it.

For the check and for the tests, which have no Docker engine. Knows the forms of the interpolation
that the files use: $$, ${NAME}, ${NAME:-default} and ${NAME:?message}; and of what a second file
may say what ours does: mappings go together, a command takes the place of another, !reset removes.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

COMPOSE = Path(__file__).resolve().parent.parent / "docker-compose.yml"
WITHOUT_GPU = COMPOSE.with_name("docker-compose.cpu.yml")
VARIABLE = re.compile(r"\$(?:(\$)|\{([A-Z_][A-Z0-9_]*)(?::([-?])([^}]*))?\})")


class MissingError(ValueError):
    """A variable that must be set is not."""


class _Loader(yaml.SafeLoader):
    """YAML with Compose's !reset."""


class _Reset:
    """Stands in the second file for what is to go."""


_Loader.add_constructor("!reset", lambda *_: _Reset())


def load(environ: Mapping[str, str], path: Path = COMPOSE, over: Path | None = None) -> Any:
    """The file's contents, with those of `over` laid over them.

    Raises:
        MissingError: a variable without which nothing starts is not set, or empty.
        yaml.YAMLError: it is no YAML.
    """
    texts = [one.read_text("utf-8") for one in (path, over) if one is not None]
    first, *second = (_filled(parsed(text), environ) for text in texts)
    for one in second:
        _lay(one, first)
    return first


def parsed(text: str) -> Any:
    """The file's contents as they are written, variables not filled in. Raises: yaml.YAMLError."""
    return yaml.load(text, _Loader)


def _lay(over: dict[str, Any], whole: dict[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, _Reset):
            whole.pop(key, None)
        elif isinstance(value, dict) and key in whole:
            _lay(value, whole[key])
        else:
            whole[key] = value


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
