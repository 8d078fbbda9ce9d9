"""The requirements of some of pyproject.toml's extras, without those of the project itself.

    python deploy/requirements_of.py service airflow > wanted.txt

pip knows no way to leave out a project's own requirements, and ours are torch and what trains: an
image that schedules, judges and releases has no use for their gigabytes. Standard library only.
"""

import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def requirements(names: list[str]) -> list[str]:
    """Of these extras, each once.

    Raises:
        SystemExit: there is no such extra.
    """
    extras = tomllib.loads(PROJECT.read_text("utf-8"))["project"]["optional-dependencies"]
    for name in names:
        if name not in extras:
            raise SystemExit(f"{name} is no extra of {PROJECT}; there are {', '.join(extras)}")
    return list(dict.fromkeys(one for name in names for one in extras[name]))


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))  # noqa: T201 (it is a filter)
