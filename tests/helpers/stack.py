"""docker-compose.yml as processes on loopback: each service by its own command and environment.

Of the images there is nothing here; what they would bring is this machine's: PostgreSQL's and
Redis's programs, the test's Python for Airflow, MLflow and `updater`, and moto's server in the
place of the object store. Host names, ports and folders are other ones, by substitution in the
file's text; everything else is as in the file.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import psutil
from compose_file import COMPOSE, load
from secrets_file import asked, made

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ("postgres", "redis", "objectstore", "mlflow", "airflow-apiserver")
PORTS = (5432, 6379, 8333, 5000, 8080)
ONLY_ON_GPU_WORKERS = ("torch", "lightning", "transformers", "peft", "safetensors", "tokenizers")
START_SECONDS = 180
STOP_SECONDS = 20
GUARD = f"""
import sys
from importlib.machinery import PathFinder

class WithoutThem(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in {ONLY_ON_GPU_WORKERS} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutThem
"""


class Service:
    """One of the file's services as a process, with what it starts."""

    def __init__(
        self, name: str, command: list[str], environ: dict[str, str], folder: Path
    ) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                env=environ,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def ended(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def tail(self) -> str:
        """The end of what it said."""
        return self.log.read_text("utf-8", "replace")[-4000:]

    def kill(self, number: int = signal.SIGKILL) -> None:
        """It and all that it started are gone, as a container's processes are."""
        family = self._family()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    def _family(self) -> list[psutil.Process]:
        if self.ended is not None:
            return []
        program = psutil.Process(self._process.pid)
        return [*program.children(recursive=True), program]


class Stack:
    """The services of docker-compose.yml in `folder`.

    Args:
        environ: variables of `.env` beside the secrets, which are made.
        more: environment variables of every service of Airflow, beside the file's.
    """

    def __init__(
        self, folder: Path, *, environ: Mapping[str, str] = {}, more: Mapping[str, str] = {}
    ) -> None:
        self.folder = folder
        self.ports = {port: _free_port() for port in PORTS}
        self.environ = {name: made(name) for name in asked()} | dict(environ)
        self._more = dict(more)
        # Not in `folder`, which the user that PostgreSQL runs as may not enter.
        self._database = Path(tempfile.mkdtemp(prefix="updater-postgres-"))
        for name in ("workspaces", "logs", "updater", "home", "services", "guard", "driver"):
            (folder / name).mkdir(parents=True)
        # A machine with one GPU, so that who takes it is seen; torch finds none by that name.
        smi = folder / "driver" / "nvidia-smi"
        smi.write_text("#!/bin/sh\necho GPU-0\n")
        smi.chmod(0o755)
        (folder / "guard" / "sitecustomize.py").write_text(GUARD)
        shutil.copytree(ROOT / "dags", folder / "updater" / "dags")
        shutil.copytree(ROOT / "deploy", folder / "updater" / "deploy")
        for path in (folder / "updater" / "deploy").glob("*.ini"):
            path.write_text(self.here(path.read_text("utf-8")))
        self._compose = folder / "docker-compose.yml"
        self._compose.write_text(self.here(COMPOSE.read_text("utf-8")))
        self.services: dict[str, Any] = load(self.environ, self._compose)["services"]
        self.running: dict[str, Service] = {}

    def url(self, port: int, path: str = "") -> str:
        """Of what listens to the port in the file."""
        return f"http://127.0.0.1:{self.ports[port]}{path}"

    def environment(self, name: str) -> dict[str, str]:
        """The service's, on what a container of any image has."""
        given = {key: str(value) for key, value in self.services[name]["environment"].items()}
        binaries = [Path(sys.executable).parent, *_postgres_binaries()]
        if name == "gpu-worker":
            binaries.insert(0, self.folder / "driver")
        path = os.pathsep.join(map(str, (*binaries, "/usr/local/bin", "/usr/bin", "/bin")))
        found = {"PATH": path, "LANG": "C.UTF-8", "NO_PROXY": "*", "OMP_NUM_THREADS": "1"}
        python = [str(ROOT)] if name == "gpu-worker" else [str(self.folder / "guard"), str(ROOT)]
        found["PYTHONPATH"] = os.pathsep.join(python)
        found["CUDA_VISIBLE_DEVICES"] = ""
        if "AIRFLOW_HOME" in given:
            home = self.folder / "home" / name
            home.mkdir(exist_ok=True)
            given |= {"AIRFLOW_HOME": str(home), "HOME": str(home), **self._more}
        return found | given

    def change(self, *names: str) -> dict[str, str]:
        """`.env` has new values of these secrets, for what is started from now on; the old ones."""
        old = {name: self.environ[name] for name in names}
        self.environ |= {name: made(name) for name in names}
        self.services = load(self.environ, self._compose)["services"]
        return old

    def start(self, name: str) -> Service:
        """The service runs; whether it is healthy is `wait`'s."""
        environ = self.environment(name)
        if name == "postgres":
            command = self._postgres(environ)
        elif name == "objectstore":
            moto = ["-m", "moto.server", "--host", "127.0.0.1", "--port", str(self.ports[8333])]
            command = [sys.executable, *moto]
        else:
            given = [*self.services[name].get("entrypoint", []), *self.services[name]["command"]]
            own = ["--port", str(self.ports[6379]), "--bind", "127.0.0.1"]
            command = [*given, *own] if name == "redis" else list(given)
        self.running[name] = Service(name, command, environ, self.folder / "services")
        return self.running[name]

    def wait(self, *names: str, seconds: float = START_SECONDS) -> None:
        """All are healthy by the file's own checks."""
        end = time.monotonic() + seconds
        for name in names:
            while not self.is_healthy(name):
                service = self.running[name]
                assert service.ended is None, f"{name} ended:\n{service.tail()}"
                assert time.monotonic() < end, f"{name} is not healthy:\n{service.tail()}"
                time.sleep(0.5)
        if "postgres" in names:
            self.make_databases()

    def is_healthy(self, name: str) -> bool:
        """What the file's health check says."""
        if name == "objectstore":  # moto's has no such page; that it answers is enough
            test = [
                "CMD",
                "python",
                str(ROOT / "deploy" / "answers.py"),
                self.url(8333, "/moto-api/"),
            ]
        else:
            test = self.services[name]["healthcheck"]["test"]
        kind, *command = test
        if name == "postgres":
            command += ["--port", str(self.ports[5432])]
        if kind == "CMD-SHELL":
            command = ["/bin/sh", "-c", *command]
        done = subprocess.run(
            command, env=self.environment(name), capture_output=True, cwd=self.folder, check=False
        )
        return done.returncode == 0

    def run(self, name: str) -> str:
        """What a service that ends by itself printed."""
        return self.execute(name, *self.services[name]["command"])

    def updater(self, *arguments: str, on: str = "updater") -> dict[str, Any]:
        """The JSON answer of a command of `updater` in a container of the service."""
        said = self.execute(on, "updater", "--json", "--quiet", *arguments)
        answer: dict[str, Any] = json.loads(said.splitlines()[-1])
        return answer

    def execute(self, name: str, *command: str, seconds: float = 900, given: str = "") -> str:
        """What a command in a container of the service printed; as `exec` it knows no entrypoint.

        Args:
            given: what it reads from stdin.
        """
        done = subprocess.run(
            command,
            input=given,
            env=self.environment(name),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def up(self, *names: str) -> None:
        """The services run and are healthy, `setup` has run, each after those that its `depends_on`
        names, as the engine starts them: what waits for the same runs up at the same time."""
        order = TopologicalSorter({n: s.get("depends_on", {}) for n, s in self.services.items()})
        order.prepare()
        while order.is_active():
            ready = order.get_ready()
            new = [name for name in ready if name in names and name not in self.running]
            if "setup" in new:
                self.run("setup")
                new.remove("setup")
            for name in new:
                self.start(name)
            self.wait(*new)
            order.done(*ready)

    def halt(self, *names: str) -> None:
        """The services are stopped; their volumes stay."""
        for name in reversed(list(self.running)):
            if name in names:
                # PostgreSQL would wait for its clients on SIGTERM.
                self.running.pop(name).kill(
                    signal.SIGQUIT if name == "postgres" else signal.SIGTERM
                )

    def wipe(self) -> None:
        """The volumes of the stopped services are gone; moto's went with its process."""
        shutil.rmtree(self._database / "data")
        shutil.rmtree(self.folder / "services" / "appendonlydir", ignore_errors=True)  # Redis
        shutil.rmtree(self.folder / "workspaces")
        (self.folder / "workspaces").mkdir()

    def stop(self) -> None:
        """No process of any service is left."""
        self.halt(*self.running)
        shutil.rmtree(self._database)

    def here(self, text: str) -> str:
        """The text with this machine's addresses and folders."""
        ports = "|".join(map(str, PORTS))
        text = re.sub(
            rf"\b({'|'.join(HOSTS)}):({ports})\b",
            lambda found: f"127.0.0.1:{self.ports[int(found[2])]}",
            text,
        )
        text = re.sub(rf"\b({ports})\b", lambda found: str(self.ports[int(found[1])]), text)
        return re.sub(  # not what is under another folder, as in copy/workspaces.tar
            r"(?<!\w)(/workspaces|/logs|/opt/updater)\b",
            lambda found: str(self.folder / found[1].rpartition("/")[2]),
            text,
        )

    def _postgres(self, environ: dict[str, str]) -> list[str]:
        """The server's command, on a cluster that asks for passwords; made where none is."""
        data, secret = self._database / "data", self._database / "password"
        secret.write_text(environ["POSTGRES_PASSWORD"])
        user = _unprivileged()
        if user:
            for path in (self._database, secret):
                shutil.chown(path, "postgres", "postgres")
        setup = ["initdb", "--auth=scram-sha-256", "--username=postgres", f"--pwfile={secret}"]
        if not data.exists():
            command = [*user, *setup, "--no-sync", str(data)]
            subprocess.run(command, env=environ, check=True, capture_output=True)
        port = ["-p", str(self.ports[5432]), "-k", str(data), "-c", "listen_addresses=127.0.0.1"]
        return [*user, "postgres", "-D", str(data), *port, "-c", "fsync=off"]

    def make_databases(self) -> None:
        """What PostgreSQL's image does once, and a person after a change of passwords: the script
        of the file's mount has run."""
        environ = self.environment("postgres")
        environ |= {"PGHOST": "127.0.0.1", "PGPORT": str(self.ports[5432])}
        environ["PGPASSWORD"] = environ["POSTGRES_PASSWORD"]
        for _ in range(2):  # twice is once
            subprocess.run([str(ROOT / "deploy" / "databases.sh")], env=environ, check=True)


class Api:
    """Airflow's REST API, signed in as its administrator."""

    def __init__(self, stack: Stack) -> None:
        self._url = stack.url(8080)
        login = {"username": "admin", "password": stack.environ["AIRFLOW_ADMIN_PASSWORD"]}
        self.token = ""
        self.token = self.ask("POST", "/auth/token", login)["access_token"]

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's JSON.

        Raises:
            AssertionError: it is an error; with what the server said.
        """
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(
                f"{method} {path}: {error.code} {error.read().decode()}"
            ) from error

    def wait(self, path: str, wanted: str, *, seconds: float, key: str = "state") -> Any:
        """The answer once its `key` is `wanted`.

        Raises:
            AssertionError: it is not in time, or has failed.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                found = self.ask("GET", path)
            except AssertionError:
                found = {key: "not there yet"}
            if found[key] == wanted:
                return found
            assert found[key] != "failed", found
            assert time.monotonic() < end, f"{path}: {found[key]}, not {wanted}"
            time.sleep(1)


def missing_programs(*more: str) -> list[str]:
    """What the stack, and whoever calls, needs of this machine and does not find."""
    path = os.pathsep.join([*map(str, _postgres_binaries()), os.environ.get("PATH", "")])
    wanted = ("initdb", "postgres", "psql", "pg_isready", "redis-server", "redis-cli", "git")
    return [name for name in (*wanted, *more) if shutil.which(name, path=path) is None]


def _postgres_binaries() -> Iterator[Path]:
    """Debian keeps the server's programs off the PATH."""
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def _unprivileged() -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number
