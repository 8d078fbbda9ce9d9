"""Making a workspace: what is refused is refused before anything is made, by the file's own name.

That a whole one can be worked in is the story's business (tests/story).
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from store.errors import NotFoundError
from updater.cli import run
from updater.opening import open_first, open_update
from updater.workspace import Workspace

GOOD = """
[workspace]
name = "clinc"
[source]
uri = "rows.jsonl"
[source.fields]
prompt = "{text}"
completion = " {intent}"
period = "{domain}"
[periods]
order = ["banking", "home"]
"""


def said(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on stderr of a command that ends with exit code 2."""
    assert run(words) == 2
    (line,) = capfd.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    "text", [GOOD + "[training]\nepochs = 0\n", GOOD + "[traning]\n", "name = clinc", GOOD[:20]]
)
def test_a_bad_configuration_is_named_as_the_user_named_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str
) -> None:
    given = tmp_path / "bad.toml"
    given.write_text(text)
    line = said(capfd, "init", str(tmp_path / "ws"), "--config", str(given))
    assert line.startswith(f"updater: {given}")
    assert not (tmp_path / "ws").exists()


def test_a_lost_ledger_is_not_begun_anew_beside_its_checkpoints(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = tmp_path / "good.toml"
    given.write_text(GOOD)
    folder = tmp_path / "ws"
    assert run(["init", str(folder), "--config", str(given)]) == 0
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("w")
    Workspace.open(folder).checkpoints.add(tmp_path / "model")
    assert run(["init", str(folder)]) == 0  # it is there
    for path in folder.glob("store.db*"):
        path.rename(path.with_suffix(".lost"))
    capfd.readouterr()
    assert "a ledger that was lost comes back from its backup" in said(
        capfd, "--workspace", str(folder), "status"
    )
    line = said(capfd, "init", str(folder))
    assert "1 checkpoints lie in" in line
    assert "move the checkpoints away first" in line
    assert not (folder / "store.db").exists()
    shutil.rmtree(folder / "checkpoints")
    assert run(["init", str(folder)]) == 0


def test_a_malformed_address_is_refused_before_anything_is_made(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPDATER_STORE_URL", "postgresql+psycopg:/x")
    given = tmp_path / "good.toml"
    given.write_text(GOOD)
    line = said(capfd, "init", str(tmp_path / "ws"), "--config", str(given))
    assert line.startswith("updater: UPDATER_STORE_URL=postgresql+psycopg:/x in the environment.")
    assert line.endswith("change UPDATER_STORE_URL.")
    assert not (tmp_path / "ws").exists()


def test_a_remote_that_is_configured_later_gets_what_was_versioned_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ws"
    folder.mkdir()
    rows = [{"text": f"request {n}", "intent": "x", "domain": "home"} for n in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "updater.toml").write_text(GOOD)
    assert run(["init", str(folder)]) == 0
    assert run(["ingest", "home", "--workspace", str(folder), "--quiet"]) == 0
    monkeypatch.setenv("UPDATER_STORE_DVC_REMOTE", str(tmp_path / "remote"))
    assert run(["init", str(folder)]) == 0
    workspace = Workspace.open(folder)
    whole = workspace.datasets.path("home@v1", "train.parquet").read_bytes()
    shutil.rmtree(folder / ".dvc" / "cache")
    again = Workspace.open(folder)
    assert again.datasets.path("home@v1", "train.parquet").read_bytes() == whole
    shutil.rmtree(tmp_path / "remote")
    assert run(["init", str(folder)]) == 0


def test_a_workspace_that_was_renamed_is_refused_before_any_work(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], tiny_json: str, story_of: Callable
) -> None:
    folder = tmp_path / "ws"
    folder.mkdir()
    (folder / "tiny.json").write_text(tiny_json)
    rows = [{"text": f"request {n}", "intent": "x", "domain": "home"} for n in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = GOOD + '[model]\narchitecture = "tiny.json"\n'
    (folder / "updater.toml").write_text(text)
    assert run(["init", str(folder), "--quiet"]) == 0
    (folder / "updater.toml").write_text(text.replace('name = "clinc"', 'name = "renamed"'))
    capfd.readouterr()
    where = ("--workspace", str(folder), "--quiet")
    line = said(capfd, "scratch", "--periods", "home", "--deploy", *where)
    assert "no active experiment renamed; run `updater init`" in line
    workspace = Workspace.open(folder)
    ledger = workspace.ledger
    with pytest.raises(NotFoundError, match="renamed"):
        open_first(workspace, "adopt", ["home"], {"deploy": True, "checkpoint": "x"})
    assert (ledger.dataset_versions(), ledger.updates()) == ([], [])
    story_of(ledger).candidate("1", None)
    ledger.append_release("promoted", "1", expected_deployed=None, actor="a", reason="r")
    before = (ledger.dataset_versions(), ledger.updates())
    with pytest.raises(NotFoundError, match="renamed"):
        open_update(workspace, "home")
    assert (ledger.dataset_versions(), ledger.updates()) == before
    assert run(["init", str(folder), "--quiet"]) == 0
    Workspace.open(folder).registry.check()


def test_the_next_step_is_what_comes_next_in_this_workspace(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], story_of: Callable
) -> None:
    given = tmp_path / "good.toml"
    given.write_text(GOOD)
    folder = tmp_path / "ws"

    def following() -> str:
        capfd.readouterr()
        assert run(["init", str(folder), "--config", str(given)]) == 0
        return capfd.readouterr().out.splitlines()[-1].removesuffix(f"--workspace {folder}")

    first = "Next: `updater scratch --periods P... --deploy` or `updater adopt CHECKPOINT --periods"
    assert following().startswith(first)
    ledger = Workspace.open(folder).ledger
    story_of(ledger).candidate("1", None)
    assert following().startswith("Next: `updater promote 1 --reason TEXT` (nothing is deployed")
    ledger.append_release("promoted", "1", expected_deployed=None, actor="a", reason="r")
    then = "Next: `updater due`, then `updater update PERIOD` (version 1 is deployed), in"
    assert following().startswith(then)
