"""`updater abandon`: what is given up, what is refused, and what nobody may do with it after; and
other steps that are refused, or wait."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from commands import command, said

from store.ledger import migrate
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
WHY = ("--reason", "the labels were wrong")


@pytest.fixture
def workspace(tmp_path: Path, mlflow_tables: Any, story_of: Callable) -> Workspace:
    """Version 1 is deployed. On it `half` has been opened, version 2 was judged and not released,
    3 waits for a person, 4 was rejected by the gate."""
    (tmp_path / "updater.toml").write_text(CONFIG)
    made = Workspace.open(tmp_path)
    migrate(made.ledger_url)
    story = story_of(made.ledger)
    verdicts = {"1": "accepted", "2": "accepted", "3": "review", "4": "rejected"}
    for version, verdict in verdicts.items():
        base = None if version == "1" else "1"
        (tmp_path / f"model-{version}").mkdir()
        (tmp_path / f"model-{version}" / "weights").write_text(version)
        digest = made.checkpoints.add(tmp_path / f"model-{version}")
        update = story.update(f"u-{version}", base).id
        story.version(version, base, update=update, digest=digest)
        story.judge(update, verdict)
        if version == "1":
            command(tmp_path, "promote", "1", "--reason", "the first")
        if version != "2":
            awaiting = verdict == "review"
            story.step(update, "release", {"promoted": version == "1", "awaiting": awaiting})
    story.update("half", "1")
    return made


def test_an_unfinished_update_is_given_up(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPDATER_ACTOR", "ann")
    folder = workspace.run_folder("half")
    for name in ("training", "candidate", "trace", "initial", "drafting"):
        (folder / name).mkdir()
        (folder / name / "state").write_text("large")
    (folder / "manifest.json").write_text("{}")
    assert command(workspace.root, "status")["unfinished"] == ["u-2", "half"]
    answer = command(workspace.root, "abandon", "half", *WHY)
    assert answer == {
        "update": "half",
        "abandoned": True,
        "actor": "ann",
        "reason": "the labels were wrong",
    }
    assert command(workspace.root, "status")["unfinished"] == ["u-2"]
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]
    told = command(workspace.root, "history")["events"][-1]
    assert (told["kind"], told["update"], told["actor"]) == ("abandoned", "half", "ann")
    assert " abandoned half " in said(workspace.root, "history")[0]
    assert "p-half@v1" in [d.id for d in workspace.ledger.dataset_versions()]


def test_again_it_changes_nothing_and_the_first_reason_stays(workspace: Workspace) -> None:
    command(workspace.root, "abandon", "half", *WHY)
    before = workspace.ledger.events()
    answer = command(workspace.root, "abandon", "half", "--reason", "another")
    assert answer["reason"] == "the labels were wrong"
    assert workspace.ledger.events() == before
    text, _ = said(workspace.root, "abandon", "half", *WHY)
    assert text == "Update half is abandoned; what it ingested stays.\n"


def test_its_candidate_waits_no_more_and_is_deployed_by_force_alone(workspace: Workspace) -> None:
    """MLflow's tables of runs are missing here: that is said, and the rest is done."""
    command(workspace.root, "status", "--repair")
    assert workspace.aliases.get("candidate") == "3"
    command(workspace.root, "reject", "u-3", *WHY)
    assert workspace.aliases.get("candidate") == "2"
    _, errors = said(workspace.root, "abandon", "u-2", *WHY)
    assert "it is abandoned; MLflow still shows u-2 as it was" in errors
    assert workspace.aliases.get("candidate") is None
    for words in (["approve", "u-2", *WHY], ["promote", "2", *WHY], ["reject", "u-2", *WHY]):
        _, errors = said(workspace.root, *words, code=2)
        assert "u-2 was abandoned" in errors
    assert command(workspace.root, "promote", "2", "--force", *WHY)["deployed"] == "2"


@pytest.mark.parametrize(
    ("update", "state", "cure"),
    [
        ("u-1", "was promoted", "updater rollback --reason TEXT"),
        ("u-3", "waits for a person", "updater reject u-3 --reason TEXT"),
        ("u-4", "is finished", "updater show 4"),
        ("u-9", "no update u-9", "there are: "),
    ],
)
def test_what_is_decided_is_not_given_up(
    workspace: Workspace, update: str, state: str, cure: str
) -> None:
    before = workspace.ledger.events()
    _, errors = said(workspace.root, "abandon", update, *WHY, code=2)
    (line,) = errors.splitlines()
    assert state in line
    assert cure in line
    assert workspace.ledger.events() == before


def test_what_a_person_rejected_is_not_given_up(workspace: Workspace) -> None:
    command(workspace.root, "reject", "u-3", "--reason", "refunds")
    _, errors = said(workspace.root, "abandon", "u-3", *WHY, code=2)
    assert "u-3 was rejected by " in errors
    assert "(refunds)" in errors


def test_why_has_to_be_said(workspace: Workspace) -> None:
    said(workspace.root, "abandon", "half", "--reason", " ", code=2)
    assert command(workspace.root, "status")["unfinished"] == ["u-2", "half"]


def test_not_while_a_command_is_at_work(workspace: Workspace) -> None:
    before = workspace.ledger.events()
    with workspace.lock():
        _, errors = said(workspace.root, "abandon", "half", *WHY, code=1)
        said(workspace.root, "compress", "1", "--quantize", "int8", code=1)
    (line,) = errors.splitlines()
    assert "update half can't be abandoned now: another updater command is at work" in line
    assert line.endswith("wait for it, or stop it and run again")
    assert workspace.ledger.events() == before


def test_its_steps_are_refused(workspace: Workspace) -> None:
    command(workspace.root, "abandon", "half", *WHY)
    _, errors = said(workspace.root, "step", "rehearse", "--update", "half", code=2)
    assert "update half was abandoned by" in errors
    assert "updater update p-half" in errors


def test_an_update_on_what_is_deployed_no_more_goes_on_no_more(workspace: Workspace) -> None:
    """It would train for hours for a candidate that nothing may be replaced by."""
    command(workspace.root, "promote", "4", "--reason", "a test", "--force")
    _, errors = said(workspace.root, "step", "rehearse", "--update", "half", code=2)
    assert "update half began at version 1, and version 4 is deployed by now" in errors
    assert "updater update p-half" in errors
    assert "airflow dags clear DAG --run-id RUN --yes" in errors
    command(workspace.root, "rollback", "--reason", "back")
    _, errors = said(workspace.root, "step", "train", "--update", "half", code=2)
    assert "step rehearse comes before it" in errors


def test_a_step_waits_while_a_command_is_at_work(workspace: Workspace) -> None:
    with ThreadPoolExecutor() as pool:
        with workspace.lock():
            asked = pool.submit(step_in_a_process, workspace.root)
            with pytest.raises(TimeoutError):
                asked.result(timeout=5)
        done = asked.result(timeout=60)
    assert done.returncode == 0
    assert json.loads(done.stdout.splitlines()[-1])["version"] == "2"
    assert f"(process {os.getpid()}): waiting until it has ended" in done.stderr


def step_in_a_process(folder: Path) -> subprocess.CompletedProcess[str]:
    """A finished step of u-2, by a process of its own: the lock is a process's."""
    program = Path(sys.executable).with_name("updater")
    asked = [program, "--workspace", folder, "--json", "step", "train", "--update", "u-2"]
    return subprocess.run(asked, capture_output=True, text=True, check=False)


def test_a_finished_step_of_it_is_told_as_it_was(workspace: Workspace) -> None:
    command(workspace.root, "abandon", "u-2", *WHY)
    answer = command(workspace.root, "step", "train", "--update", "u-2")
    assert answer["version"] == "2"


def test_status_names_an_update_whose_base_was_taken_back(workspace: Workspace) -> None:
    """It may train for hours more, and nothing can finish it."""
    folder = workspace.root

    def told() -> tuple[list[str], list[str]]:
        status = command(folder, "status")
        return [one["update"] for one in status["superseded"]], status["unfinished"]

    assert told() == ([], ["u-2", "half"])
    command(folder, "promote", "4", "--reason", "a test", "--force")
    assert told() == (["u-2", "half"], [])
    _, half = command(folder, "status")["superseded"]
    assert half == {"update": "half", "period": "p-half", "base": "1"}
    shown, _ = said(folder, "status")
    assert "half began at version 1, which is deployed no more: begin anew with" in shown
    assert "`updater update p-half`" in shown
    command(folder, "abandon", "u-2", *WHY)
    assert told() == (["half"], [])
    ledger = workspace.ledger
    again = dataclasses.replace(ledger.update("half"), id="anew", base="4")
    ledger.open_update(again)
    ledger.start_step("anew", "ingest")
    assert told() == ([], ["anew"])
    command(folder, "rollback", "--reason", "back")
    assert told() == (["anew"], ["half"])


def test_what_a_person_said_is_shown_beside_the_verdict(workspace: Workspace) -> None:
    folder = workspace.root
    assert command(folder, "show", "3")["decision"] is None
    assert command(folder, "step", "release", "--update", "u-3")["awaiting"] is True
    command(folder, "reject", "u-3", "--reason", "refunds got worse")
    found = command(folder, "show", "3")["decision"]
    (event,) = workspace.ledger.events("rejected")
    at = event.at.isoformat(timespec="seconds")
    assert found == {
        "kind": "rejected",
        "at": at,
        "actor": event.actor,
        "reason": "refunds got worse",
    }
    at = at.replace("T", " ").removesuffix("+00:00")
    said_no = f"rejected at {at} UTC by {event.actor}: refunds got worse"
    assert said_no in said(folder, "show", "3")[0]
    done = command(folder, "step", "release", "--update", "u-3")
    assert (done["decision"], done["awaiting"], done["promoted"]) == (found, False, False)


def test_a_release_that_was_approved_awaits_nobody(workspace: Workspace) -> None:
    folder = workspace.root
    command(folder, "approve", "u-3", "--reason", "looked at the flips")
    done = command(folder, "step", "release", "--update", "u-3")
    assert (done["promoted"], done["awaiting"]) == (True, False)
    assert "approved at" in said(folder, "show", "3")[0]
