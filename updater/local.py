"""Airflow and the MLflow server on one workspace, on this machine, without Docker (`make up`).

For trying out and for one person: Airflow runs standalone on SQLite, both listen on this machine
only. Not how to deploy them (docs/airflow.md). Called by `updater up`; what it needs is in the
extras `service` and `airflow`.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import secrets
import shlex
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from updater.daemon import Daemon, fetch
from updater.errors import InputError, UpdateError
from updater.files import write_text
from updater.orphans import Keeper

HOST = "127.0.0.1"
DAGS = Path(__file__).resolve().parent.parent / "dags"  # installed beside this package
COMMAND_LINE = "environment"
"""In Airflow's home: what a shell sources before it calls `airflow` (docs/runbook.md)."""
TOLD = ("AIRFLOW_", "UPDATER_DAG_", "UPDATER_EXECUTABLE", "UPDATER_WORKSPACE")
START_SECONDS = 180  # a cold start took 20 s on 2 cores
PROBE_SECONDS = 15.0
NUM_FAILED_PROBES = 8  # in a row: two minutes without an answer
PARALLELISM = 2  # every worker of Airflow's is a process of 130 MB; a run has one task at a time


def up(
    workspace: Path,
    *,
    mlflow_uri: str,
    mlflow_artifacts: str,
    airflow_port: int = 8080,
    mlflow_port: int = 5000,
) -> int:
    """Both served until Ctrl-C or SIGTERM, and no process of theirs is left; the exit code.

    Airflow's home is `.airflow` in the workspace, with logs of both in `.airflow/logs-local`. A
    port that is taken is replaced by a free one. Where `mlflow_uri` is a server already
    (http..), that one is named and none is started. 0 when stopped, 1 when one of them ended.

    Raises:
        InputError: Airflow or MLflow is not installed.
        UpdateError: the workspace is already being served.
    """
    _require("airflow", "mlflow")
    home = workspace.resolve() / ".airflow"
    logs = home / "logs-local"
    logs.mkdir(parents=True, exist_ok=True)
    (home / ".gitignore").write_text("*\n", encoding="utf-8")
    daemons: list[Daemon] = []
    with _only_one(home) as lock, Keeper(lock) as keeper, _stop_event() as stop:
        try:
            airflow_port, mlflow_port = free_port(airflow_port), free_port(mlflow_port)
            environ = airflow_environment(workspace.resolve(), home, airflow_port, os.environ)
            write_text(home / COMMAND_LINE, exports(environ))
            daemons.append(_airflow(environ, logs, airflow_port))
            keeper.keep(daemons[-1])
            if not mlflow_uri.startswith(("http://", "https://")):
                daemons.append(_mlflow(mlflow_uri, mlflow_artifacts, logs, mlflow_port))
                keeper.keep(daemons[-1])
                mlflow_uri = f"http://{HOST}:{mlflow_port}"
            failed = _start(daemons, stop)
            if failed is None and not stop.is_set():
                password = _password(home)
                _make_gpu_pool(airflow_port, password)
                _say(f"Airflow  http://{HOST}:{airflow_port}   login admin / {password}")
                _say(f"MLflow   {mlflow_uri}")
                _say(f"`airflow` on the command line: source {home / COMMAND_LINE}")
                _say("Ctrl-C stops what was started here.")
                failed = _watch(daemons, stop)
        finally:
            _say("stopping ..")
            with ThreadPoolExecutor() as pool:
                list(pool.map(Daemon.stop, daemons))
    if failed is not None:
        _say(f"{failed.name} ended or no longer answers. The end of {failed.log}:\n{failed.tail()}")
        return 1
    _say("stopped.")
    return 0


def free_port(wanted: int) -> int:
    """`wanted`, or where that port is taken one that the system gives."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            number: int = probe.getsockname()[1]
            return number
    raise UpdateError(f"no free port on {HOST}")


def airflow_environment(
    workspace: Path, home: Path, port: int, environ: Mapping[str, str]
) -> dict[str, str]:
    """What `airflow standalone` is started with: nothing of another Airflow's settings."""
    kept = {key: value for key, value in environ.items() if not key.startswith("AIRFLOW_")}
    folder = Path(sys.executable).parent  # not resolved: a virtual environment's is a link
    settings = {
        "CORE__DAGS_FOLDER": str(DAGS),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": str(PARALLELISM),
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "CORE__EXECUTION_API_SERVER_URL": f"http://{HOST}:{port}/execution/",
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "API__HOST": HOST,
        "API__PORT": str(port),
        "API__BASE_URL": f"http://{HOST}:{port}",
        "API__WORKERS": "1",
        "API__SECRET_KEY": secrets.token_urlsafe(32),
        "API_AUTH__JWT_SECRET": secrets.token_urlsafe(64),
        "LOGGING__WORKER_LOG_SERVER_PORT": str(free_port(8793)),
        "LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port(8794)),
    }
    return {
        **kept,
        **{f"AIRFLOW__{key}": value for key, value in settings.items()},
        "AIRFLOW_HOME": str(home),
        "PATH": f"{folder}{os.pathsep}{environ.get('PATH', '')}",  # standalone calls `airflow`
        "UPDATER_WORKSPACE": str(workspace),
        "UPDATER_EXECUTABLE": environ.get("UPDATER_EXECUTABLE") or str(folder / "updater"),
        "NO_PROXY": ",".join(filter(None, (environ.get("NO_PROXY"), HOST))),
    }


def exports(environ: Mapping[str, str]) -> str:
    """The lines of a shell by which `airflow` is that of `up`, and speaks to it: without its keys,
    which no command asks for, and the stores' passwords."""
    names = [name for name in environ if name.startswith(TOLD) and "SECRET" not in name]
    lines = [f"export {name}={shlex.quote(environ[name])}" for name in sorted(names)]
    path = shlex.quote(str(Path(sys.executable).parent))
    return "\n".join([*lines, f'export PATH={path}:"$PATH"', ""])


def _airflow(environ: Mapping[str, str], logs: Path, port: int) -> Daemon:
    def is_healthy() -> bool:
        parts = json.loads(fetch(f"http://{HOST}:{port}/api/v2/monitor/health"))
        names = ("metadatabase", "scheduler", "dag_processor")
        return all(parts[name].get("status") == "healthy" for name in names)

    return Daemon(
        "Airflow",
        [sys.executable, "-P", "-m", "airflow", "standalone"],
        environ=environ,
        log=logs / "airflow.log",
        is_healthy=is_healthy,
    )


def _mlflow(uri: str, artifacts: str, logs: Path, port: int) -> Daemon:
    serve = ["--backend-store-uri", uri, "--host", HOST, "--port", str(port), "--workers", "1"]
    destination = ["--artifacts-destination", artifacts] if artifacts else []
    return Daemon(
        "MLflow",
        [sys.executable, "-P", "-m", "mlflow", "server", *serve, *destination],
        environ={
            **os.environ,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        },
        log=logs / "mlflow.log",
        is_healthy=lambda: fetch(f"http://{HOST}:{port}/health") == b"OK",
    )


def _start(daemons: list[Daemon], stop: threading.Event) -> Daemon | None:
    """The one that did not come up, if any; on return the others answer, or `stop` is set."""
    for daemon in daemons:
        _say(f"starting {daemon.name} .. (log: {daemon.log})")
    waiting = list(daemons)
    end = time.monotonic() + START_SECONDS
    while waiting and not stop.wait(0.3):
        for daemon in daemons:
            if daemon.exit_code() is not None:
                return daemon
        if time.monotonic() > end:
            return waiting[0]
        for daemon in [daemon for daemon in waiting if daemon.is_healthy()]:
            _say(f"{daemon.name} is up")
            waiting.remove(daemon)
    return None


def _watch(daemons: list[Daemon], stop: threading.Event) -> Daemon | None:
    """The first that ended or stopped answering; None once `stop` is set."""
    failed = dict.fromkeys(daemons, 0)
    waited_seconds = 0.0
    while not stop.wait(0.5):
        waited_seconds += 0.5
        is_due = waited_seconds % PROBE_SECONDS == 0
        for daemon in daemons:
            if daemon.exit_code() is not None:
                return daemon
            if is_due:
                failed[daemon] = 0 if daemon.is_healthy() else failed[daemon] + 1
            if failed[daemon] >= NUM_FAILED_PROBES:
                return daemon
    return None


def _password(home: Path) -> str:
    """Airflow's generated password of the user admin."""
    path = home / "simple_auth_manager_passwords.json.generated"
    password: str = json.loads(path.read_text("utf-8"))["admin"]
    return password


def _make_gpu_pool(port: int, password: str) -> None:
    """The pool `gpu` exists; one that was there keeps its slots."""
    login = {"username": "admin", "password": password}
    token = _post(f"http://{HOST}:{port}/auth/token", login, {})["access_token"]
    pool = {"name": "gpu", "slots": 1, "description": "Heavy steps: one slot per GPU"}
    try:
        _post(f"http://{HOST}:{port}/api/v2/pools", pool, {"Authorization": f"Bearer {token}"})
    except urllib.error.HTTPError as error:
        if error.code != 409:
            raise


def _post(url: str, body: dict, headers: dict[str, str]) -> dict:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as answer:
        answered: dict = json.load(answer)
    return answered


@contextmanager
def _only_one(home: Path) -> Iterator[int]:
    """Two Airflows on one database would each think the other's tasks lost. Gives the lock."""
    with (home / "up.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UpdateError(
                f"{home.parent} is already being served; stop the other `updater up`, or wait half "
                "a minute where it was killed: what it had started is being stopped"
            ) from None
        yield file.fileno()


@contextmanager
def _stop_event() -> Iterator[threading.Event]:
    """Set by the first SIGINT or SIGTERM; a second one is ignored while we stop the others."""
    stop = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stop.set()) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _require(*names: str) -> None:
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"{name} is not installed",
                cure="pip install '.[service,airflow]' in the clone of updater",
            )


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
