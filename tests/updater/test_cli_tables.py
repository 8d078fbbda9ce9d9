"""What people read of answers: sentences, where programs read a word."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from store.ledger import migrate
from updater import release
from updater.cli import run, tables
from updater.workspace import Workspace

CONFIG = """
[workspace]
name = "m"
[source]
uri = "rows.jsonl"
[source.fields]
prompt = "{text}"
completion = "{label}"
period = "{period}"
[periods]
order = ["a"]
"""


@pytest.fixture
def workspace(tmp_path: Path, mlflow_tables: Any, story_of: Callable) -> Workspace:
    """Version 1 is deployed; on it 2 was accepted and 3 was left to a person, 4 was rejected."""
    (tmp_path / "updater.toml").write_text(CONFIG)
    made = Workspace.open(tmp_path)
    migrate(made.ledger_url)
    story = story_of(made.ledger)
    first = story.candidate("1", None)
    release.promote(made.ledger, made.aliases, "1", actor="ann", reason="first", update=first)
    for version, verdict in (("2", "accepted"), ("3", "review"), ("4", "rejected")):
        update = story.candidate(version, "1", verdict)
        story.step(update, "release", {"promoted": False, "awaiting": verdict == "review"})
    return made


def first_line(workspace: Workspace, update: str) -> str:
    text = io.StringIO()
    console = Console(file=text, width=200)
    tables.update(console, workspace, workspace.ledger.update(update))
    return text.getvalue().splitlines()[0]


def test_what_the_gate_said_is_a_sentence(workspace: Workspace) -> None:
    assert first_line(workspace, "u-2") == "Update u-2: version 2 is accepted, not promoted"
    assert first_line(workspace, "u-3") == "Update u-3: version 3 waits for review, not promoted"
    assert first_line(workspace, "u-4") == "Update u-4: version 4 is rejected, not promoted"


def test_what_a_person_has_decided_waits_no_more(workspace: Workspace) -> None:
    release.approve(workspace.ledger, workspace.aliases, "u-3", actor="ann", reason="fine")
    assert first_line(workspace, "u-3") == "Update u-3: version 3 was left to a person, promoted"


def test_what_is_to_be_typed_names_the_workspace_where_it_has_to(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decide() -> str:
        text = io.StringIO()
        console = Console(file=text, width=80)
        tables.update(console, workspace, workspace.ledger.update("u-3"))
        return next(x for x in text.getvalue().splitlines() if x.startswith("Decide"))

    there = f" --workspace {workspace.root}"
    assert f"`updater approve u-3 --reason TEXT{there}`" in decide()
    monkeypatch.setenv("UPDATER_WORKSPACE", str(workspace.root))
    assert "`updater approve u-3 --reason TEXT`" in decide()
    monkeypatch.delenv("UPDATER_WORKSPACE")
    monkeypatch.chdir(workspace.root)
    assert "`updater approve u-3 --reason TEXT`" in decide()


def test_a_command_that_is_none_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    for word, told in (("nosuch", "."), ("statsu", ": did you mean status?")):
        assert run([word]) == 2
        line = capfd.readouterr().err
        assert line == f"updater: no command {word!r}{told} Try `updater --help`.\n"
