"""MLflow as the dashboard: what an update leaves on a server, and that a person in a browser gets
from the experiment to the run, its parent's charts, the report and the model card."""

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browser
import pytest
from commands import command, said
from mlflow_server import mlflow_server

from updater.steps.publish import publish
from updater.workspace import Workspace

pytestmark = pytest.mark.slow

# Under CI=true too: its machines have no browser unless somebody installed one.
needs_browser = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())
SECONDS = 60_000  # that a page may take on a machine that does other things, in milliseconds


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as url:
        yield url


@pytest.fixture(scope="module")
def story(
    server: str, tmp_path_factory: pytest.TempPathFactory, lay_out: Callable[[Path], Path]
) -> Path:
    """A first version of two periods, and an update with a third, told to the server."""
    folder = lay_out(tmp_path_factory.mktemp("dashboard") / "ws")
    with (folder / "updater.toml").open("a") as file:
        file.write(f'[store]\nmlflow_uri = "{server}"\n')
    command(folder, "init", str(folder))
    command(folder, "scratch", "--periods", "north", "east", "--deploy")
    command(folder, "update", "south")
    return folder


def client_of(server: str) -> Any:
    import mlflow

    return mlflow.MlflowClient(server)


def life_of(server: str) -> Any:
    client = client_of(server)
    experiment = client.get_experiment_by_name("story").experiment_id
    [life] = client.search_runs([experiment], "tags.`updater.kind` = 'life'")
    return life


def run_of(server: str, story: Path) -> Any:
    return client_of(server).get_run(command(story, "show", "2")["mlflow_run"])


def history(server: str, name: str) -> list[tuple[int, float]]:
    found = client_of(server).get_metric_history(life_of(server).info.run_id, name)
    return sorted((point.step, point.value) for point in found)


def test_an_updates_row_reads_at_a_glance(server: str, story: Path) -> None:
    run = run_of(server, story)
    answer = command(story, "update", "south")
    assert run.info.run_name == "update south: version 2"
    assert (run.data.tags["verdict"], run.data.tags["decision"]) == ("accepted", "promoted")
    assert run.data.params["base"] == "1"
    metrics = run.data.metrics
    assert metrics["new_period_accuracy"] == round(answer["scores"]["south"]["candidate"], 4)
    worst = min(
        row["candidate"] - row["base"] for p, row in answer["scores"].items() if p != "south"
    )
    assert metrics["worst_past_change"] == pytest.approx(worst, abs=1e-4)
    assert metrics["minutes"] > 0
    assert metrics["gpu_hours"] == 0
    assert "energy_kwh" not in metrics, "there is no meter"
    assert any(name.startswith("system/") for name in metrics)


def test_the_parent_has_every_score_by_version_once(server: str, story: Path) -> None:
    matrix = command(story, "scores")
    wanted = {
        period: [
            (int(version), row[column])
            for version, row in zip(matrix["versions"], matrix["accuracy"], strict=True)
            if row[column] is not None
        ]
        for column, period in enumerate(matrix["periods"])
    }
    assert len(wanted["north"]) == 2
    workspace = Workspace.open(story)
    opened = workspace.ledger.update(command(story, "show", "2")["update"])
    for _ in range(2):
        assert {p: history(server, f"accuracy/{p}") for p in wanted} == wanted
        assert [step for step, _ in history(server, "average_accuracy")] == [1, 2]
        publish(workspace, opened)  # as a step that was killed after its work does it again
    parent = life_of(server)
    assert parent.info.status == "FINISHED"
    assert run_of(server, story).data.tags["mlflow.parentRunId"] == parent.info.run_id


def test_a_parent_that_was_lost_is_made_whole_again(server: str, story: Path) -> None:
    before = history(server, "accuracy/north")
    client_of(server).delete_run(life_of(server).info.run_id)
    workspace = Workspace.open(story)
    publish(workspace, workspace.ledger.update(command(story, "show", "2")["update"]))
    assert history(server, "accuracy/north") == before
    parent = life_of(server).info.run_id
    for version in ("1", "2"):
        run = client_of(server).get_run(command(story, "show", version)["mlflow_run"])
        assert run.data.tags["mlflow.parentRunId"] == parent


def test_the_version_has_its_card_and_the_model_its_page(server: str, story: Path) -> None:
    client = client_of(server)
    card = client.get_model_version("story", "2").description
    run = run_of(server, story).info.run_id
    whole = Path(client.download_artifacts(run, "model_card.md")).read_text("utf-8")
    assert card == whole, "three periods fit"
    assert "## Limits" in card
    assert re.search(r"\| south \(new\) \| \d+\.\d % \|", card)
    model = client.get_registered_model("story")
    assert "models:/story@deployed" in model.description
    assert model.tags["made_by"] == "updater"
    assert model.aliases == {"deployed": "2"}


def test_commands_print_where_to_look(server: str, story: Path) -> None:
    run = run_of(server, story).info.run_id
    links = command(story, "update", "south")["links"]
    assert links == command(story, "show", "2")["links"]
    assert links["run"].startswith(f"{server}/#/experiments/")
    assert links["run"].endswith(f"/runs/{run}")
    for words in (["update", "south"], ["show", "2"], ["report", "2", "-o", str(story / "r.html")]):
        assert f"MLflow, report: {links['report']}\n" in said(story, *words)[0]
    assert f"MLflow, updates: {server}/#/experiments/" in said(story, "status")[0]


def test_a_run_that_somebody_deleted_stops_no_update(
    server: str, story: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_of(server)
    gone = command(story, "show", "1")["mlflow_run"]
    client.delete_run(gone)
    client.delete_run(life_of(server).info.run_id)
    opened = command(story, "show", "2")["update"]
    workspace = Workspace.open(story)
    logging.getLogger("updater").propagate = True  # which every command takes away
    with caplog.at_level(logging.WARNING, "updater"):
        publish(workspace, workspace.ledger.update(opened))
    assert [step for step, _ in history(server, "accuracy/north")] == [1, 2]
    assert "version 1 has no run in MLflow any longer" in caplog.text
    client.restore_run(gone)


@needs_browser
def test_from_the_experiment_to_the_report_by_clicks(server: str, story: Path) -> None:
    with browser.opened() as page:
        page.set_default_timeout(SECONDS)
        page.goto(command(story, "status")["links"]["updates"])
        page.get_by_text("worst_past_change").first.wait_for()
        row = page.get_by_role("row").filter(has_text="accepted").filter(has_text="promoted")
        row.first.wait_for()
        page.get_by_role("link", name="update south: version 2").click()
        page.get_by_role("tab", name="Artifacts").click()
        page.get_by_text("report.html").click()
        report = page.frame_locator("iframe").first
        report.get_by_role("heading", name="Version 2: learnt south").wait_for()
        report.get_by_role("heading", name="Score matrix").wait_for()


@needs_browser
def test_every_link_leads_to_its_page(server: str, story: Path) -> None:
    links = command(story, "show", "2")["links"]
    with browser.opened() as page:
        page.set_default_timeout(SECONDS)
        page.goto(links["report"])
        report = page.frame_locator("iframe").first
        report.get_by_role("heading", name="Version 2: learnt south").wait_for()
        page.goto(links["model"])
        page.get_by_role("heading", name="story, version 2").wait_for()
        page.get_by_role("cell", name="south (new)").wait_for()
        page.goto(command(story, "status")["links"]["versions"])
        page.get_by_text("average_accuracy vs worst_accuracy").first.wait_for()
        page.goto(links["run"])
        page.get_by_text("story: every version").first.click()
        page.get_by_role("tab", name="Model metrics").click()
        page.get_by_text("north", exact=True).first.wait_for()
