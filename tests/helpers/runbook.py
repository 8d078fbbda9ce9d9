"""docs/runbook.md taken apart: the commands of a section, run as they stand, and what it says that
`updater` says."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from commands import said

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "runbook.md"
SHELL = re.compile(r"[|&>$*]|^[A-Z_]+=")
WORDS = (
    *("BASE", "CODE", "DIGEST", "FILE", "FOLDER", "HOST", "MLFLOW", "NAME", "NUMBER", "PERIOD"),
    *("PID", "PLACE", "PORT", "REASON", "REASONS", "RUN", "TASK", "TIME", "UPDATE", "URL"),
    "VERSION",
)
WORD = re.compile(rf"(?<![\w$])({'|'.join(WORDS)})(?!\w)")


def sections() -> dict[str, list[str]]:
    """Heading -> the indented lines below it."""
    found: dict[str, list[str]] = {}
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
            found[heading] = []
        elif line.startswith("    "):
            found[heading].append(line.strip())
    return {heading: lines for heading, lines in found.items() if lines}


class Section:
    """A context manager: at its end every command has been run and everything been said.

    `words` stand in the place of those in capitals.
    """

    def __init__(self, heading: str, **words: str) -> None:
        lines = sections()[heading]
        self.sayings = [line for line in lines if line.startswith("updater: ")]
        self.commands = [line for line in lines if not line.startswith("updater: ")]
        self._words = words

    def __enter__(self) -> "Section":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            assert self.commands == [], "not run"
            assert self.sayings == [], "not said"

    def take(self, start: str, **words: str) -> str:
        """The next command that starts so, with these words in it."""
        command = next(c for c in self.commands if c.startswith(start))
        self.commands.remove(command)
        known = self._words | words
        return WORD.sub(lambda word: known.get(word[1], word[1]), command)

    def run(
        self,
        start: str,
        folder: Path,
        *,
        code: int = 0,
        environ: Mapping[str, str] = {},
        **words: str,
    ) -> str:
        """All that the command printed, in the workspace's folder; it ended with this code."""
        command = self.take(start, **words)
        if command.startswith("updater ") and not SHELL.search(command) and not environ:
            printed = "".join(said(folder, *shlex.split(command)[1:], code=code))
        else:
            printed = shell(command, folder, code=code, environ=environ)
        self.hear(printed)
        return printed

    def hear(self, printed: str) -> None:
        """What of the section's sayings is printed has been said."""
        self.sayings = [one for one in self.sayings if not pattern(one).search(printed)]


def pattern(saying: str) -> re.Pattern[str]:
    """The saying with anything in the place of its capital words."""
    return re.compile(WORD.sub(".+?", re.escape(saying).replace(r"\ ", " ")))


def shell(command: str, folder: Path, *, code: int = 0, environ: Mapping[str, str] = {}) -> str:
    """All that bash printed, in the folder, with `updater` on its path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path, "UPDATER_WORKSPACE": str(folder), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )
    assert done.returncode == code, f"{command}\n{done.stdout}"
    return done.stdout
