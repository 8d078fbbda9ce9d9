"""`docker compose` for a Stack: what the docs type runs as it is written, on processes.

A program called `docker` is put on the PATH. `exec` becomes the service's environment and the
command, `run` the same with the service's entrypoint before it; `up`, `start`, `stop` and `down`
are asked of the test's own process, whose children the services are. Of the engine there is nothing
else: no images, and for mounts other folder names.
"""

import contextlib
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Client, Listener
from pathlib import Path

from pages import run_script
from stack import Stack

FLAGS = ("-T", "--rm", "--no-deps", "--detach", "--wait", "--volumes", "--build")
VALUES = ("--user", "--volume", "--entrypoint")
SHIM = """#!{python}
import sys
sys.path[:0] = {path!r}
from engine import docker
docker({settings!r}, sys.argv[1:])
"""


class Engine:
    """The stack under `docker compose`; `everything` is what `up` starts that names no service."""

    def __init__(self, stack: Stack, everything: Sequence[str]) -> None:
        self._stack, self._everything = stack, everything

    def script(self, text: str, cwd: Path) -> str:
        """What the shell script printed to stdout, `docker` being this engine.

        Raises:
            AssertionError: it failed; with what it said.
        """
        bin = self._stack.folder / "bin"
        bin.mkdir(exist_ok=True)
        with self._served(bin / "socket"):
            settings = bin / "settings.json"
            settings.write_text(json.dumps(self._settings(str(bin / "socket"))))
            shim = bin / "docker"
            path = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "deploy")]
            shim.write_text(SHIM.format(python=sys.executable, path=path, settings=str(settings)))
            shim.chmod(0o755)
            environ = {**os.environ, "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}"}
            return run_script(self._stack.here(text), cwd, environ)

    def _settings(self, socket: str) -> dict[str, object]:
        environments = {name: self._stack.environment(name) for name in self._stack.services}
        # The image lets its own user in through its socket, which here nobody asks for.
        environments["postgres"] |= {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self._stack.ports[5432]),
            "PGPASSWORD": self._stack.environ["POSTGRES_PASSWORD"],
        }
        entrypoints = {
            name: service.get("entrypoint", []) for name, service in self._stack.services.items()
        }
        return {
            "socket": socket,
            "environments": environments,
            "entrypoints": entrypoints,
        }

    @contextlib.contextmanager
    def _served(self, socket: Path) -> Iterator[None]:
        """`up`, `start`, `stop` and `down` are done for who asks at the socket."""
        with Listener(str(socket), "AF_UNIX") as listener:
            thread = threading.Thread(target=self._serve, args=(listener,))
            thread.start()
            try:
                yield
            finally:
                with Client(str(socket), "AF_UNIX") as connection:
                    connection.send(None)
                thread.join()

    def _serve(self, listener: Listener) -> None:
        while True:
            with listener.accept() as connection:
                asked = connection.recv()
                if asked is None:
                    return
                try:
                    self._do(*asked)
                    connection.send("")
                except Exception as error:
                    connection.send(f"{type(error).__name__}: {error}")

    def _do(self, verb: str, names: list[str], wipe: bool) -> None:
        if verb == "down":
            # moto has no volume: what it keeps would go with its process.
            kept = () if wipe else ("objectstore",)
            self._stack.halt(*(name for name in self._stack.running if name not in kept))
            if wipe:
                self._stack.wipe()
        elif verb == "stop":
            self._stack.halt(*names)
        else:
            self._stack.up(*(names or self._everything))


def docker(settings: str, arguments: list[str]) -> None:
    """The program: one command of `docker compose`, in this process's place."""
    found = json.loads(Path(settings).read_text())
    word, *rest = arguments
    assert word == "compose", arguments
    if rest[0] == "--env-file":
        assert Path(rest[1]).is_file(), f"{rest[1]}: no such file"
        rest = rest[2:]
    verb, *rest = rest
    options: dict[str, str] = {}
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        assert option in FLAGS + VALUES, f"docker compose {verb} {option}: not known here"
        options[option] = rest.pop(0) if option in VALUES else ""
    if verb in ("up", "start", "stop", "down"):
        with Client(found["socket"], "AF_UNIX") as connection:
            connection.send((verb, rest, "--volumes" in options))
            sys.exit(connection.recv() or 0)
    assert verb in ("exec", "run"), f"docker compose {verb}: not known here"
    service, *command = rest
    if verb == "run":
        given = options.get("--entrypoint")
        command = [*([given] if given else found["entrypoints"][service]), *command]
    outside, _, inside = options.get("--volume", "").partition(":")
    environ = found["environments"][service]
    if inside:
        command = [re.sub(rf"^{inside}(?=/|$)", lambda _: outside, word) for word in command]
    program = shutil.which(command[0], path=environ["PATH"])
    assert program, f"{command[0]}: no such program"
    os.execve(program, command, environ)
