"""Checks docker-compose.yml, alone and with docker-compose.cpu.yml on top, without a Docker engine:
`make compose-check`.

    python deploy/compose_check.py [.env]

With .env, its secrets too, as Compose would take them: the shell's own variables before the file's.
Says everything that breaks a rule of ours, one line each, and ends with 1 where there is any; a key
that the file does not use so far is one. Where Docker's own command is there it is asked too, since
it alone knows the whole format.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
from compose_file import COMPOSE, WITHOUT_GPU, MissingError, load
from compose_schema import SCHEMA
from env_check import faults
from env_file import variables
from secrets_file import asked, made

PINNED = re.compile(r"[^:@]+:(?!latest$)[^:@]*\d[^:@]*")
SECRET = re.compile(r"PASSWORD|SECRET|_KEY$|FERNET", re.IGNORECASE)
LOOPBACK = "127.0.0.1"
IN_A_URL = re.compile(r"://[^/\s:@]*:(?!\$\{)[^/\s@]+@")
ONE_SHOT = ("setup", "updater")
"""Services that end by themselves: nothing waits for their health."""


def problems(whole: dict[str, Any]) -> Iterator[str]:
    """What breaks a rule, in words."""
    volumes = whole.get("volumes", {})
    services = whole["services"]
    for name, service in services.items():
        for said in (*_hardening(service), *_order(name, service, services)):
            yield f"{name}: {said}"
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if not source.startswith((".", "/")) and source not in volumes:
                yield f"{name}: volume {source} is not declared"
            if source.startswith(".") and not (COMPOSE.parent / source).exists():
                yield f"{name}: {source} does not exist"


def misshapen(whole: dict[str, Any]) -> Iterator[str]:
    """What the engine would not know, or not as it stands here: a slip of the pen, mostly."""
    for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(whole):
        where = ".".join(map(str, error.absolute_path)) or "the file"
        yield f"{where}: {error.message}"


def _hardening(service: dict[str, Any]) -> Iterator[str]:
    if not PINNED.fullmatch(str(service.get("image", ""))):
        yield f"image {service.get('image')} is not pinned to a version"
    if str(service.get("user", "0")).split(":")[0] in ("0", "root"):
        yield "runs as root"
    if service.get("read_only") is not True:
        yield "its file system can be written to"
    if service.get("cap_drop") != ["ALL"]:
        yield "keeps capabilities"
    for what in ("cpus", "memory"):
        if what not in service.get("deploy", {}).get("resources", {}).get("limits", {}):
            yield f"has no limit of {what}"
    for port in service.get("ports", []):
        if str(port).rpartition(":")[0].rpartition(":")[0] != LOOPBACK:
            yield f"port {port} is open beyond this machine"
    build = service.get("build")
    if build:
        text = (COMPOSE.parent / build["dockerfile"]).read_text("utf-8")
        if not re.search(rf"^FROM .* AS {build['target']}$", text, re.MULTILINE):
            yield f"{build['dockerfile']} has no target {build['target']}"


def devices(whole: dict[str, Any]) -> Iterator[str]:
    """Services that the engine refuses on a machine without a GPU."""
    for name, service in whole["services"].items():
        if service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices"):
            yield f"{name}: asks for a device"


def _order(name: str, service: dict[str, Any], services: dict[str, Any]) -> Iterator[str]:
    if name not in ONE_SHOT and "test" not in service.get("healthcheck", {}):
        yield "has no health check"
    for other, how in service.get("depends_on", {}).items():
        if other not in services:
            yield f"waits for {other}, which is no service"
        elif how["condition"] == "service_healthy" and "healthcheck" not in services[other]:
            yield f"waits for the health of {other}, which has no check"


def defaults(text: str) -> Iterator[str]:
    """Secrets that have a default, or are written down."""
    for number, line in enumerate(text.splitlines(), start=1):
        key, _, value = line.strip().partition(":")
        if SECRET.search(key) and value.strip() and "${" not in value and " " not in key:
            yield f"line {number}: {key} is written down"
        if IN_A_URL.search(line):
            yield f"line {number}: a password is written down in a URL"
    for name in re.findall(r"\$\{([A-Z_]+):-", text):
        if SECRET.search(name):
            yield f"{name} has a default"


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
    found += defaults(COMPOSE.read_text("utf-8"))
    second = [*misshapen(without), *problems(without), *devices(without)]
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
