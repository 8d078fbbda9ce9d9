"""Checks docker-compose.yml, alone and with docker-compose.cpu.yml on top, without a Docker engine:
`make compose-check`.

    python deploy/compose_check.py [.env]

With .env, its secrets too, as Compose would take them: the shell's own variables before the file's.
Says everything that breaks a rule of ours, one line each, and ends with 1 where there is any; a key
that the file does not use so far is one. Where Docker's own command is there it is asked too, since
it alone knows the whole format.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
from compose_file import COMPOSE, WITHOUT_GPU, MissingError, load, parsed
from compose_rules import defaults, devices, problems
from compose_schema import SCHEMA
from env_check import faults
from env_file import variables
from secrets_file import asked, made


def misshapen(whole: dict[str, Any]) -> Iterator[str]:
    """What the engine would not know, or not as it stands here: a slip of the pen, mostly."""
    for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(whole):
        where = ".".join(map(str, error.absolute_path)) or "the file"
        yield f"{where}: {error.message}"


def _engine(environ: dict[str, str], files: Sequence[Path]) -> Iterator[str]:
    if not shutil.which("docker"):
        return
    command = ["docker", "compose", *(f"--file={path}" for path in files)]
    if subprocess.run([*command, "version"], capture_output=True, check=False).returncode:
        return
    asked_of = subprocess.run(
        [*command, "config", "--quiet"], env=environ, capture_output=True, text=True, check=False
    )
    if asked_of.returncode:
        yield f"docker compose config: {asked_of.stderr.strip()}"


def secrets(path: Path) -> Iterator[str]:
    """What is wrong with those that Compose would start with."""
    if not path.exists():
        yield "there is no such file, and nothing starts without its secrets. Run `make env`"
        return
    shell = {name: os.environ[name] for name in asked() if name in os.environ}
    yield from faults(variables(path.read_text("utf-8")) | shell)


def broken(whole: dict[str, Any], environ: dict[str, str]) -> list[str]:
    """All that is wrong with the two files; `whole` is the first one with these variables."""
    path = {"PATH": str(Path(sys.executable).parent) + ":/usr/local/bin:/usr/bin:/bin"}
    without = load(environ, over=WITHOUT_GPU)
    found = [*misshapen(whole), *problems(whole), *_engine(environ | path, [COMPOSE])]
    found += defaults(parsed(COMPOSE.read_text("utf-8")))
    second = [*misshapen(without), *problems(without), *devices(without)]
    second += defaults(parsed(WITHOUT_GPU.read_text("utf-8")))
    second += _engine(environ | path, [COMPOSE, WITHOUT_GPU])
    found += [f"with {WITHOUT_GPU.name} on top: {line}" for line in second if line not in found]
    for name in environ:
        try:
            load({**environ, name: ""})
        except MissingError:
            continue
        found.append(f"starts without {name}")
    return found


def main() -> int:
    """The exit code."""
    environ = {name: made(name) for name in asked()}
    whole = load(environ)
    lines = [f"{COMPOSE.name}: {line}" for line in broken(whole, environ)]
    for path in map(Path, sys.argv[1:]):
        lines += [f"{path.name}: {line}" for line in secrets(path)]
    said = lines or [f"{COMPOSE.name}: {len(whole['services'])} services, no problem"]
    sys.stderr.write("".join(f"{line}\n" for line in said))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
