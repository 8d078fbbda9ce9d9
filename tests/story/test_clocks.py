"""Workers whose clocks are ten hours apart take turns at one update: one promotion, in order."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from commands import command

from updater.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DRIVER = Path(__file__).with_name("skew_driver.py")
AHEAD, BEHIND = 5.0, -5.0


def by_workers(folder: Path, *commands: tuple[float, list[str]]) -> list[dict[str, Any]]:
    """The answers of the commands, each by a worker whose clock is wrong by so many hours."""
    words = [sys.executable, str(DRIVER), str(folder), json.dumps(commands)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=850)
    assert done.returncode == 0, done.stderr[-3000:]
    ended = json.loads(done.stdout.splitlines()[-1])
    assert [code for code, _ in ended] == [0] * len(commands), done.stderr[-3000:]
    return [answer for _, answer in ended]


def test_an_update_by_workers_with_wrong_clocks(
    lay_out: Callable[[Path], Path], tmp_path: Path, postgres_url: str
) -> None:
    started = datetime.now(UTC)
    folder = lay_out(tmp_path / "ws")
    with (folder / "updater.toml").open("a") as file:
        file.write(f'[store]\nurl = "{postgres_url}"\n')
    step = ["rehearse", "importance", "train", "evaluate", "gate", "release"]
    turns = [
        (BEHIND if n % 2 else AHEAD, ["step", s, "--update", "UPDATE"]) for n, s in enumerate(step)
    ]
    *_, opened, _, _, _, _, _, released, again, status, _, _, _ = by_workers(
        folder,
        (0, ["init", str(folder)]),
        (BEHIND, ["scratch", "--periods", "north", "--deploy"]),
        (AHEAD, ["step", "ingest", "--period", "east"]),
        *turns,
        (AHEAD, ["step", "release", "--update", "UPDATE"]),
        (BEHIND, ["status"]),
        (AHEAD, ["rollback", "--reason", "drill"]),
        (BEHIND, ["promote", "2", "--reason", "drill", "--force"]),
        (AHEAD, ["rollback", "--reason", "drill"]),
    )
    assert released["promoted"] is again["promoted"] is True
    assert (status["deployed"], status["consistent"], status["unfinished"]) == ("2", True, [])

    ledger = Workspace.open(folder).ledger
    events = ledger.events()
    releases = [(e.kind, e.version) for e in events if e.kind in ("promoted", "rolled_back")]
    assert releases == [
        ("promoted", "1"),
        ("promoted", "2"),
        ("rolled_back", "1"),
        ("promoted", "2"),
        ("rolled_back", "1"),
    ]
    times = [event.at for event in events]
    assert times == sorted(times)
    steps = ledger.steps(opened["update"])
    times += [moment for s in steps for moment in (s.started_at, s.finished_at) if moment]
    times += [update.created_at for update in ledger.updates()]
    times += [score.created_at for score in ledger.scores()]
    assert started - timedelta(minutes=1) < min(times)
    assert max(times) < datetime.now(UTC) + timedelta(minutes=1)
    status = command(folder, "status")
    assert (status["deployed"], status["consistent"]) == ("1", True)
