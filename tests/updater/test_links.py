"""Addresses of MLflow's pages, told without asking it."""

from pathlib import Path
from typing import Any

import pytest
from commands import said

from store.ledger import ModelVersion, migrate
from updater import links, outcome
from updater.workspace import Workspace

CONFIG = """
[workspace]
name = "tickets"
[source]
uri = "rows.jsonl"
[source.fields]
id = "{id}"
prompt = "{text}"
completion = "{answer}"
period = "{region}"
[periods]
order = ["north"]
"""


SERVER = """
[store]
mlflow_uri = "https://mlflow.example/team"
"""


@pytest.fixture
def make(tmp_path: Path, story_of: Any) -> Any:
    """A function: a workspace with version 1 of update u-1, whose train step had this result."""

    def workspace(store: str, train: dict[str, str]) -> Workspace:
        (tmp_path / "updater.toml").write_text(CONFIG + store)
        migrate(f"sqlite:///{tmp_path / 'store.db'}")
        opened = Workspace.open(tmp_path)
        story = story_of(opened.ledger)
        story.update("u-1", None)
        story.step("u-1", "train", {"version": "1", **train})
        opened.ledger.record_model_version(
            ModelVersion(
                id="1",
                kind="scratch",
                base=None,
                update="u-1",
                digest="sha-1",
                uri="checkpoints/sha-1",
                periods=["north"],
                dataset_versions={},
                run_id="abc",
                created_at=opened.ledger.update("u-1").created_at,
            )
        )
        opened.ledger.set_candidate("u-1", "1")
        return opened

    return workspace


def test_an_update_has_its_run_its_report_and_its_version(make: Any) -> None:
    workspace = make(SERVER, {"experiment": "7"})
    page = "https://mlflow.example/team/#"
    run = f"{page}/experiments/7/runs/abc"
    wanted = {
        "run": run,
        "report": f"{run}/artifacts/report.html",
        "model": f"{page}/models/tickets/versions/1",
    }
    assert links.of_update(workspace, workspace.ledger.update("u-1")) == wanted
    assert outcome.version(workspace, "1")["links"] == wanted
    assert links.of_workspace(workspace) == {
        "model": f"{page}/models/tickets",
        "updates": f"{page}/experiments/7/runs?viewStateShareKey=updates",
        "versions": f"{page}/experiments/7/runs?viewStateShareKey=versions&compareRunsMode=CHART",
    }


def test_people_see_them_too(make: Any, tmp_path: Path) -> None:
    make(SERVER, {"experiment": "7"})
    out, _ = said(tmp_path, "show", "1")
    assert "MLflow, run: https://mlflow.example/team/#/experiments/7/runs/abc\n" in out


def test_an_update_of_an_older_release_has_no_experiment(make: Any) -> None:
    workspace = make(SERVER, {})
    found = links.of_version(workspace, "1")
    assert found["run"] == "https://mlflow.example/team/#/runs/abc"
    assert "report" not in found
    assert set(links.of_workspace(workspace)) == {"model"}


def test_an_update_without_a_candidate_has_none_yet(make: Any, story_of: Any) -> None:
    workspace = make(SERVER, {"experiment": "7"})
    story_of(workspace.ledger).update("u-2", "1")
    assert links.of_update(workspace, workspace.ledger.update("u-2")) == {}


def test_an_embedded_mlflow_has_no_page_unless_one_is_named(make: Any, tmp_path: Path) -> None:
    workspace = make("", {"experiment": "7"})
    assert links.of_version(workspace, "1") == {}
    assert links.of_workspace(workspace) == {}
    (tmp_path / "updater.toml").write_text(
        f'{CONFIG}[store]\nmlflow_page = "http://127.0.0.1:5000"'
    )
    named = links.of_version(Workspace.open(tmp_path), "1")
    assert named["run"] == "http://127.0.0.1:5000/#/experiments/7/runs/abc"


def test_no_password_is_ever_told(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPDATER_STORE_MLFLOW_URI", "https://me:secret@mlflow.example:8443/")
    found = links.of_version(make("", {"experiment": "7"}), "1")
    assert found["run"] == "https://mlflow.example:8443/#/experiments/7/runs/abc"


def test_a_page_that_is_no_address_is_refused(make: Any, tmp_path: Path) -> None:
    (tmp_path / "updater.toml").write_text(f'{CONFIG}[store]\nmlflow_page = "mlflow:5000"')
    _, errors = said(tmp_path, "status", code=2)
    assert '[store] mlflow_page = "mlflow:5000". must be https://HOST, as people' in errors
