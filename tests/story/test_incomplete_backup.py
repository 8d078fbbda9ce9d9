"""docs/backup.md: a copy that is not whole is refused before anything is deleted."""

import hashlib
import os
import sys
from pathlib import Path

import pytest
from pages import run_script, script

DUMPS = ("airflow.dump", "ledger.dump", "mlflow.dump", "mlflow_logins.dump")
FILES = {
    "Restore": ("store.db", "mlflow.db", "workspace.tar"),
    "Restore the servers": (*DUMPS, "workspace.tar"),
    "Restore the service": ("env", *DUMPS, "workspaces.tar", "workspace-model.tar"),
}
"""What a copy is made of, by the heading of the script that restores it."""
PROGRAM = """#!/bin/sh
echo "$(basename "$0") $*" >> "$LOG"
case "$*" in *--list*) exit "$READS" ;; esac
"""


class Site:
    """A copy, what it would replace, and in the place of Docker and PostgreSQL's program who writes
    down how it is called."""

    def __init__(self, folder: Path, heading: str) -> None:
        self.copy, self.workspace, self._bin = folder / "copy", folder / "ws", folder / "bin"
        self.env, self._log, self._heading = folder / ".env", folder / "log", heading
        for one in (self.workspace, self._bin):
            one.mkdir()
        for bucket in ("datasets", "checkpoints", "artifacts"):
            (self.copy / "objects" / bucket).mkdir(parents=True)
        for name in FILES[heading]:
            (self.copy / name).write_text(f"{name}, whole\n")
        lines = (f"{self._digest(name)}  {name}\n" for name in FILES[heading])
        (self.copy / "SHA256SUMS").write_text("".join(lines))
        self.env.write_text("old\n")
        (self.workspace / "updater.toml").write_text("old\n")
        for name in ("docker", "pg_restore"):
            (self._bin / name).write_text(PROGRAM)
            (self._bin / name).chmod(0o755)

    def _digest(self, name: str) -> str:
        return hashlib.sha256((self.copy / name).read_bytes()).hexdigest()

    def restore(self, reads: bool = True) -> None:
        """The page's script has run; `reads`: whether the dumps can be read."""
        values = {"BACKUP": str(self.copy)}
        if self._heading != "Restore the service":
            values["WORKSPACE"] = str(self.workspace)
        typed = script("backup.md", self._heading, **values)
        environ = {
            "PATH": f"{self._bin}{os.pathsep}{os.environ['PATH']}",
            "LOG": str(self._log),
            "READS": str(int(not reads)),
        }
        run_script(typed.replace(".venv/bin/python", sys.executable), self.env.parent, environ)

    def calls(self) -> list[str]:
        """Of the programs, but for those that look."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [line for line in lines if "--list" not in line]

    def is_as_it_was(self) -> bool:
        """Whether nothing was deleted, moved or asked for."""
        beside = {path.name for path in self.env.parent.iterdir()} - {"log"}
        texts = {path.read_text() for path in (self.env, self.workspace / "updater.toml")}
        return (beside, texts, self.calls()) == ({".env", "bin", "copy", "ws"}, {"old\n"}, [])


@pytest.mark.parametrize(
    ("heading", "name"),
    [(heading, name) for heading, names in FILES.items() for name in (*names, "SHA256SUMS")],
)
def test_a_copy_without_a_file_or_with_another_is_refused(
    tmp_path: Path, heading: str, name: str
) -> None:
    site = Site(tmp_path, heading)
    (site.copy / name).write_text("cut sh")
    with pytest.raises(AssertionError):
        site.restore()
    assert site.is_as_it_was()
    (site.copy / name).unlink()
    with pytest.raises(AssertionError, match=f"{name}: No such file"):
        site.restore()
    assert site.is_as_it_was()


@pytest.mark.parametrize("heading", ["Restore the servers", "Restore the service"])
def test_a_copy_without_objects_or_with_a_dump_that_cannot_be_read_is_refused(
    tmp_path: Path, heading: str
) -> None:
    site = Site(tmp_path, heading)
    with pytest.raises(AssertionError):
        site.restore(reads=False)
    assert site.is_as_it_was()
    (site.copy / "objects" / "datasets").rmdir()
    with pytest.raises(AssertionError, match="'datasets': No such file"):
        site.restore()
    assert site.is_as_it_was()


def test_a_whole_copy_is_taken_and_the_old_secrets_stay_beside_the_new(tmp_path: Path) -> None:
    site = Site(tmp_path, "Restore the service")
    site.restore()
    assert site.env.read_text() == "env, whole\n"
    (kept,) = tmp_path.glob(".env.before-*")
    assert kept.read_text() == "old\n"
    assert site.calls()[0] == "docker compose down --volumes"
