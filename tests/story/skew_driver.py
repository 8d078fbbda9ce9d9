"""Runs commands of `updater` in workers whose clocks are wrong by hours, one after the other.

    python skew_driver.py WORKSPACE COMMANDS

COMMANDS is a JSON list of [hours, [argument ..]]; UPDATE stands for the newest answer's update.
Everything is imported once; each command is a fork, in which every clock that our packages read is
wrong by its hours. (Not that of compiled libraries, which have their own.) Prints a JSON list of
[exit code, answer].
"""

import datetime
import json
import os
import pkgutil
import sys
import time
from importlib import import_module
from typing import Any

import kill_driver

import store
import updater.steps
from updater.cli import run

_real = time.time


class Skewed(datetime.datetime):
    """What our modules take for the time."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> "Skewed":
        return cls.fromtimestamp(time.time(), tz)


def skew(hours: float) -> None:
    """From here on this process's clock is ahead by so many hours."""
    time.time = lambda: _real() + hours * 3600
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in ("store", "updater"):
            for key, value in list(vars(module).items()):
                if value is datetime.datetime:
                    setattr(module, key, Skewed)


def told(folder: str, hours: float, arguments: list[str]) -> tuple[int, dict[str, Any]]:
    """The exit code of a command of a worker whose clock is ahead by `hours`, and its answer."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        skew(hours)
        os.dup2(writing, 1)
        os.close(reading)
        sys.stdout = os.fdopen(1, "w")
        code = 70
        try:
            code = run(["--workspace", folder, "--json", *arguments])
            sys.stdout.flush()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as said:
        lines = said.read().splitlines()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, json.loads(lines[-1]) if lines else {}


if __name__ == "__main__":
    for package in (store, updater.steps):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.startswith("store.ledger.migrations"):
                import_module(found.name)
    for preloaded in kill_driver.PRELOADED:
        import_module(preloaded)
    ended: list[tuple[int, dict[str, Any]]] = []
    update = ""
    for hours, given in json.loads(sys.argv[2]):
        ended.append(told(sys.argv[1], hours, [update if w == "UPDATE" else w for w in given]))
        update = ended[-1][1].get("update", update)
    sys.stdout.write(json.dumps(ended) + "\n")
