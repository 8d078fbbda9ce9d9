"""docs/install.md: what its timer starts learns what is due, and systemd can read its units."""

import os
import re
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest
from commands import command
from pages import DOCS
from stack import ROOT

SCRIPT = ROOT / "deploy" / "learn_due.sh"


def learn_due(folder: Path, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [SCRIPT],
        env={**os.environ, "PYTHONPATH": str(ROOT), "UPDATER_WORKSPACE": str(folder), **environ},
        capture_output=True,
        text=True,
        check=False,
    )


needs_setup = pytest.mark.skipif(
    not (ROOT / ".venv" / "bin" / "updater").exists(),
    reason="the script runs what `make setup` installs, and there is no .venv",
)


@needs_setup
def test_the_timer_says_what_keeps_it_from_asking_what_is_due(tmp_path: Path) -> None:
    failed = learn_due(tmp_path)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith("updater: ")
    assert "Traceback" not in failed.stderr


@needs_setup
@pytest.mark.slow
def test_the_timer_learns_what_is_due_once_and_says_what_fails(folder: Path) -> None:
    config = folder / "updater.toml"
    config.write_text(config.read_text().replace(', "south", "west"]', "]"))
    command(folder, "init", str(folder))
    failed = learn_due(folder)
    assert failed.returncode == 2
    assert "nothing is deployed yet" in failed.stderr
    command(folder, "scratch", "--periods", "north", "--deploy")
    assert command(folder, "due")["due"] == ["east"]
    learnt = learn_due(folder)
    assert learnt.returncode == 0, learnt.stderr
    assert command(folder, "scores")["versions"] == ["1", "2"]
    assert command(folder, "status")["deployed"] == "2"
    again = learn_due(folder)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    with config.open() as file:
        text = file.read().replace(
            'order = ["north", "east"]', 'order = ["north", "east", "south", "west"]'
        )
    config.write_text(text + 'approval = "manual"\n')
    waits = learn_due(folder)
    (waiting,) = command(folder, "status")["awaiting_approval"]
    assert waits.returncode == 0
    assert f"{waiting} waits for `updater approve` or `updater reject`; west is not" in waits.stderr
    assert command(folder, "scores")["versions"] == ["1", "2", "3"], "west was not begun"


def test_systemd_reads_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze, which asks no running systemd")
    text = (DOCS / "install.md").read_text("utf-8")
    units = re.findall(r"^`/etc/systemd/system/(\S+)`\n\n((?:    .*\n|\n)+)", text, re.MULTILINE)
    assert [name for name, _ in units] == [
        "updater.service",
        "updater.timer",
        "updater-up.service",
    ]
    program = tmp_path / "clone" / ".venv" / "bin" / "updater"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    for name, block in units:
        unit = textwrap.dedent(block).replace("/srv/updater/updater/deploy", str(SCRIPT.parent))
        unit = unit.replace("/srv/updater/updater/.venv", f"{tmp_path}/clone/.venv")
        (tmp_path / name).write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(tmp_path / name for name, _ in units)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
