"""Our rules for the services of docker-compose.yml: hardening, order, volumes, secrets.

Each says in words what breaks it. Called by deploy/compose_check.py, which reads the file; of its
format knows deploy/compose_schema.py.
"""

import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any

from compose_file import COMPOSE, VARIABLE

Services = dict[str, dict[str, Any]]

PINNED = re.compile(r"[^:@]+:(?!latest$)[^:@]*\d[^:@]*")
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|CREDENTIAL|_KEY$|AUTH$|FERNET", re.IGNORECASE)
ASKED_FOR = re.compile(r"\$\{[A-Z_]+:\?[^}]*\}")
WITH_DEFAULT = re.compile(r"\$\{([A-Z_]+):?[-+]")
IN_A_URL = re.compile(r"://[^/\s:@]*:(?!\$\{)[^/\s@]+@")
LOOPBACK = "127.0.0.1"
ONE_SHOT = ("setup", "updater")
"""Services that end by themselves: nobody waits for their health, and nobody starts them again."""
BY_HAND = "updater"
"""Waits for nothing: a rollback must not wait for what else may be broken."""
ALWAYS = {
    "read_only": (True, "its file system can be written to"),
    "cap_drop": (["ALL"], "keeps capabilities"),
    "security_opt": (["no-new-privileges:true"], "may get more rights than it starts with"),
}
KEPT = {
    "postgres": {"/var/lib/postgresql/data"},
    "redis": {"/data"},
    "objectstore": {"/data"},
    "airflow-apiserver": {"/logs"},
    "airflow-scheduler": {"/logs"},
    "airflow-triggerer": {"/logs"},
    "cpu-worker": {"/workspaces", "/logs"},
    "release-worker": {"/workspaces", "/logs"},
    "gpu-worker": {"/workspaces", "/logs"},
    "airflow-dag-processor": {"/workspaces:ro", "/logs"},
    "setup": {"/workspaces", "/logs"},
    "updater": {"/workspaces"},
}
"""Where each service's volumes are: what is written anywhere else is gone when it starts again."""


def problems(whole: dict[str, Any]) -> Iterator[str]:
    """What breaks a rule, in words."""
    services = whole["services"]
    yield from _circles(services)
    for name, service in services.items():
        said = (
            *_hardening(service),
            *_work(name, service),
            *_order(name, services),
            *_mounts(name, service, whole.get("volumes", {})),
        )
        yield from (f"{name}: {line}" for line in said)


def _hardening(service: dict[str, Any]) -> Iterator[str]:
    if not PINNED.fullmatch(str(service.get("image", ""))):
        yield f"image {service.get('image')} is not pinned to a version"
    if str(service.get("user", "0")).split(":")[0] in ("0", "root"):
        yield "runs as root"
    for key, (wanted, otherwise) in ALWAYS.items():
        if service.get(key) != wanted:
            yield f"{otherwise}: {key} is not {wanted}"
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


def _work(name: str, service: dict[str, Any]) -> Iterator[str]:
    """It runs something, is started again, and is seen to be well."""
    if "build" in service and not service.get("command") and name != BY_HAND:
        yield "has no command, and our images have none"
    if name == BY_HAND and not service.get("entrypoint"):
        yield "has no entrypoint"
    wanted = "no" if name in ONE_SHOT else "unless-stopped"
    if service.get("restart") != wanted:
        yield f"restart is {service.get('restart')}, not {wanted}"
    if name not in ONE_SHOT and "test" not in service.get("healthcheck", {}):
        yield "has no health check"


def _circles(services: Services) -> Iterator[str]:
    try:
        TopologicalSorter({n: s.get("depends_on", {}) for n, s in services.items()}).prepare()
    except CycleError as error:
        yield f"services wait for each other: {' -> '.join(error.args[1])}"


def _order(name: str, services: Services) -> Iterator[str]:
    for other, how in services[name].get("depends_on", {}).items():
        if other not in services:
            yield f"waits for {other}, which is no service"
        elif how["condition"] == "service_healthy" and "healthcheck" not in services[other]:
            yield f"waits for the health of {other}, which has no check"
    if name == BY_HAND:
        return
    for other in sorted(_needed(name, services) - _awaited(name, services)):
        if name not in _awaited(other, services):
            yield f"needs {other} and does not wait for it"


def _needed(name: str, services: Services) -> set[str]:
    """The services whose addresses it is told, and `setup`, where it is a part of Airflow."""
    service = services[name]
    told = " ".join(map(str, (*service.get("environment", {}).values(), service.get("command"))))
    # Of a name before a password, which may begin with a digit, this finds none.
    found = {one for one in services if re.search(rf"(?://|@){one}:\d+(?![\w@])", told)}
    if "AIRFLOW_HOME" in service.get("environment", {}):
        found.add("setup")
    return found - {name}


def _awaited(name: str, services: Services) -> set[str]:
    """The services that run when it starts."""
    found: set[str] = set()
    todo = [name]
    while todo:
        new = services.get(todo.pop(), {}).get("depends_on", {}).keys() - found
        found |= new
        todo += new
    return found


def _mounts(name: str, service: dict[str, Any], volumes: dict[str, Any]) -> Iterator[str]:
    kept = set()
    for mount in service.get("volumes", []):
        source, _, target = mount.partition(":")
        if not source.startswith((".", "/")):
            kept.add(target)
            if source not in volumes:
                yield f"volume {source} is not declared"
        elif not source.startswith("./deploy/") or ".." in source or not target.endswith(":ro"):
            yield f"{mount}: of the machine only files of deploy/ are mounted, to be read"
        elif not (COMPOSE.parent / source).exists():
            yield f"{source} does not exist"
    if kept != KEPT.get(name, set()):
        wanted = " and ".join(sorted(KEPT.get(name, set()))) or "nowhere"
        yield f"has volumes at {' and '.join(sorted(kept)) or 'nowhere'}, not {wanted}"


def defaults(raw: Any) -> Iterator[str]:
    """Secrets that have a default, or are written down, in a file's contents as they stand."""
    yield from dict.fromkeys(_defaults("", raw))


def _defaults(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _defaults(str(name), one)
    elif isinstance(value, list):
        for one in value:
            yield from _defaults(key, one)
    elif value is not None:
        yield from _of_text(key, str(value))


def _of_text(key: str, text: str) -> Iterator[str]:
    secrets = [name for name in WITH_DEFAULT.findall(text) if SECRET.search(name)]
    yield from (f"{name} has a default" for name in secrets)
    if SECRET.search(key) and not secrets and not ASKED_FOR.fullmatch(text):
        yield f"{key} is written down, or may be empty"
    if IN_A_URL.search(text):
        yield f"{key}: a password is written down in a URL"
    if "$" in VARIABLE.sub("", text):
        yield f"{key}: a variable in a form that this check does not know"
