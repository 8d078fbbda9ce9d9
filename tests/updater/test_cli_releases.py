"""The releasing commands where a store has lost something: exit code, one line, the ledger."""

from collections.abc import Callable
from pathlib import Path
from shutil import rmtree

import pytest

from store.ledger import Ledger, migrate
from updater.cli import run
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
WHY = ("--reason", "drill")


@pytest.fixture
def workspace(tmp_path: Path, mlflow_tables, story_of: Callable) -> Workspace:
    """Versions 1 and 2 were deployed one after the other, and 3 waits for a person."""
    (tmp_path / "updater.toml").write_text(CONFIG)
    made = Workspace.open(tmp_path)
    migrate(made.ledger_url)
    story = story_of(made.ledger)
    for version, base, verdict in (
        ("1", None, "accepted"),
        ("2", "1", "accepted"),
        ("3", "2", "review"),
    ):
        (tmp_path / f"model-{version}").mkdir()
        (tmp_path / f"model-{version}" / "weights").write_text(version)
        digest = made.checkpoints.add(tmp_path / f"model-{version}")
        update = story.update(f"u-{version}", base).id
        story.version(version, base, update=update, digest=digest)
        story.judge(update, verdict)
        if verdict == "accepted":
            assert run(["--workspace", str(tmp_path), "promote", version, *WHY]) == 0
            story.step(update, "release", {"promoted": True, "awaiting": False})
    story.step("u-3", "release", {"promoted": False, "awaiting": True})
    return made


def kinds(ledger: Ledger) -> list[tuple[str, str | None]]:
    return [(event.kind, event.version) for event in ledger.events() if event.kind != "verified"]


def said(capfd: pytest.CaptureFixture[str], workspace: Workspace, *words: str, code: int) -> str:
    """The one line on stderr of a command that ends with this exit code."""
    capfd.readouterr()
    assert run(["--workspace", str(workspace.root), *words]) == code
    (line,) = capfd.readouterr().err.splitlines()
    return line


def test_a_lost_mlflow_does_not_say_that_nothing_was_changed(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    (workspace.root / "mlflow.db").unlink()
    for words in (["rollback", *WHY], ["promote", "1", *WHY], ["status", "--repair"]):
        line = said(capfd, workspace, *words, code=1)
        assert "version 1 is deployed by the ledger" in line
        assert "restored from its backup" in line
    assert kinds(workspace.ledger)[-1] == ("rolled_back", "1")


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("1", ["rollback", *WHY]),
        ("1", ["rollback", "--to", "1", *WHY]),
        ("1", ["promote", "1", "--force", *WHY]),
        ("3", ["approve", "u-3", *WHY]),
    ],
)
@pytest.mark.parametrize(("lost", "code"), [("folder", 2), ("weights", 1)])
def test_what_has_no_checkpoint_is_not_deployed(
    workspace: Workspace,
    capfd: pytest.CaptureFixture[str],
    version: str,
    words: list[str],
    lost: str,
    code: int,
) -> None:
    before = kinds(workspace.ledger)
    digest = workspace.ledger.model_version(version).digest
    folder = workspace.root / "checkpoints" / digest
    if lost == "weights":
        (folder / "weights").unlink()
    else:
        rmtree(folder)
    assert digest[:12] in said(capfd, workspace, *words, code=code)
    assert kinds(workspace.ledger) == before
    assert workspace.aliases.get("deployed") == "2"
