"""A command in a process of its own that ends with the task. Called by `updater_dags.command`."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

KILL_AFTER_SECONDS = 4  # Airflow follows SIGTERM by SIGKILL after 5 seconds: be done before


def find_executable() -> str:
    """The `updater` to call: UPDATER_EXECUTABLE, else beside this Python, else on the PATH."""
    beside = Path(sys.executable).with_name("updater")
    found = os.environ.get("UPDATER_EXECUTABLE") or (beside if beside.exists() else "")
    return str(found or shutil.which("updater") or "updater")


class Child:
    """The process, leading its own session, so that all of its processes can be stopped."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def run(self, log: logging.Logger) -> tuple[int, list[str]]:
        """Exit code and lines of stdout; each line of stderr is logged as it comes."""
        lines: list[str] = []
        streams = (self._process.stdout, lines)
        reader = threading.Thread(target=collect, args=streams, daemon=True)
        reader.start()
        try:
            for line in self._process.stderr or ():
                log.info("%s", line.rstrip())
            reader.join()
            return self._process.wait(), lines
        finally:  # an execution timeout or Ctrl-C raises in the middle of the loop
            if self._process.poll() is None:
                self.stop(log)
                self._outlive()

    def stop(self, log: logging.Logger) -> None:
        """Ask its processes to end, and end them a few seconds later.

        Runs in a signal handler, where waiting for the child could dead-lock with the wait that
        the signal interrupted: so a timer follows up.
        """
        if self._process.poll() is not None:
            return
        group = self._process.pid
        log.warning("stopping updater, process group %d", group)
        signal_group(group, signal.SIGTERM)
        timer = threading.Timer(KILL_AFTER_SECONDS, signal_group, args=(group, signal.SIGKILL))
        timer.daemon = True
        timer.start()

    def _outlive(self) -> None:
        """Return when the child is gone: this process may end at once, and its timer with it."""
        try:
            self._process.wait(KILL_AFTER_SECONDS)
        except subprocess.TimeoutExpired:
            signal_group(self._process.pid, signal.SIGKILL)
            self._process.wait()


def collect(stream: IO[str], lines: list[str]) -> None:
    """All lines of the stream that are not empty."""
    lines.extend(line.rstrip("\n") for line in stream if line.strip())


def signal_group(group: int, number: int) -> None:
    """Send the signal; a group that is gone needs none."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
