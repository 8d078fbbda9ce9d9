"""What comes after an update, or in its way: new data of old periods, rollback, a person's answer,
a training that fails. By the public commands, on a tiny checkpoint."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import command, said

from updater.workspace import Workspace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, lay_out: Callable[[Path], Path]) -> Path:
    """A workspace whose deployed version has learnt north."""
    folder = lay_out(tmp_path_factory.mktemp("afterwards") / "ws")
    command(folder, "init", str(folder))
    command(folder, "scratch", "--periods", "north", "--deploy")
    return folder


def add_rows(folder: Path, region: str, count: int) -> None:
    """The source has so many new rows of the period."""
    answers = {"north": ("snow", "ski"), "east": ("tea", "cup")}
    keyword, answer = answers[region]
    with (folder / "rows.jsonl").open("a") as file:
        for number in range(count):
            text = f"late {keyword} {region} {number}"
            row = {"id": f"late-{region}-{number}", "text": text, "answer": answer}
            file.write(json.dumps({**row, "region": region}) + "\n")


def mlflow_run(folder: Path, update: str) -> Any:
    import mlflow

    client = mlflow.MlflowClient(Workspace.open(folder).mlflow_uri)
    experiment = client.get_experiment_by_name("story").experiment_id
    found = client.search_runs([experiment], f"tags.`updater.key` = '{update}'")
    assert len(found) == 1
    return found[0]


def test_mlflow_shows_what_a_first_model_was_trained_by(first: Path) -> None:
    answer = command(first, "scratch", "--periods", "north", "--deploy")  # as it was
    parameters = mlflow_run(first, answer["update"]).data.params
    assert (parameters["training/epochs"], parameters["training/train_routers"]) == ("10", "True")
    assert not [name for name in parameters if name.startswith(("rehearsal", "regularizer"))]
    run_folder = first / "runs" / answer["update"]
    assert not (run_folder / "candidate").exists(), "the checkpoint store has it"
    assert not (run_folder / "initial").exists()


def test_new_data_of_the_only_learnt_period_has_no_past_to_hold_on_to(first: Path) -> None:
    add_rows(first, "north", 60)
    answer = command(first, "update", "north", "--set", "regularizer.method=ewc")
    assert answer["verdict"] in ("accepted", "review", "rejected")
    assert set(answer["scores"]) == {"north"}
    assert answer["compute_seconds"]["importance"] == 0.0


def test_what_was_abandoned_goes_on_no_more_and_the_same_begins_anew(first: Path) -> None:
    wild = ("--set", "training.learning_rate=1e6", "--set", "training.gradient_clip=0")
    said(first, "update", "east", *wild, code=1)
    [given_up] = command(first, "status")["unfinished"]
    ingested = command(first, "periods")
    answer = command(first, "abandon", given_up, "--reason", "too hot")
    assert (answer["update"], answer["reason"]) == (given_up, "too hot")
    assert command(first, "status")["unfinished"] == []
    assert mlflow_run(first, given_up).info.status == "KILLED"
    _, errors = said(first, "step", "train", "--update", given_up, *wild, code=2)
    assert "was abandoned by" in errors
    made = {given_up}
    for _ in range(2):
        again = command(first, "step", "ingest", "--period", "east", *wild)["update"]
        assert again == command(first, "step", "ingest", "--period", "east", *wild)["update"]
        made.add(again)
        command(first, "abandon", again, "--reason", "still too hot")
    assert len(made) == 3
    assert command(first, "periods") == ingested, "the next update learns the same data"


def test_a_training_that_fails_is_failed_in_mlflow_and_goes_on_when_mended(first: Path) -> None:
    wild = ("--set", "training.learning_rate=1e6", "--set", "training.gradient_clip=0")
    _, errors = said(first, "update", "east", *wild, code=1)
    assert "training stopped" in errors
    [unfinished] = command(first, "status")["unfinished"]
    assert mlflow_run(first, unfinished).info.status == "FAILED"
    answer = command(first, "update", "east")
    assert mlflow_run(first, answer["update"]).info.status == "FINISHED"


def test_an_update_that_was_rolled_back_says_so(first: Path) -> None:
    base = command(first, "status")["deployed"]
    answer = command(first, "update", "east")
    assert (answer["promoted"], answer["rolled_back"]) == (True, False)
    assert command(first, "rollback", "--reason", "drill")["deployed"] == answer["base"]
    again = command(first, "update", "east")
    assert again["update"] == answer["update"]
    assert (again["promoted"], again["rolled_back"]) == (True, True)
    text = " ".join(said(first, "update", "east")[0].split())
    assert "rolled back" in text
    assert f"updater promote {answer['candidate']} --reason TEXT`" in text
    command(first, "promote", answer["candidate"], "--reason", "it was not that")
    assert command(first, "update", "east")["rolled_back"] is False
    assert command(first, "status")["deployed"] == answer["candidate"] == base


def test_the_gate_pairs_on_the_data_that_the_update_was_judged_by(first: Path) -> None:
    deployed = command(first, "status")["deployed"]
    opened = command(first, "step", "ingest", "--period", "south")["update"]
    add_rows(first, "east", 60)  # versioned, and the base scored on it, before the gate looks
    assert command(first, "ingest", "east")["dataset_version"] == "east@v2"
    command(first, "evaluate", deployed, "--periods", "east")
    command(first, "update", "south")
    verdict = Workspace.open(first).ledger.verdict(opened)
    assert verdict is not None
    east = [c for c in verdict.comparisons if c["period"] == "east"]
    assert east
    assert {c["num_examples"] for c in east} == {num_holdout(first, "east@v1")}


def num_holdout(folder: Path, dataset_version: str) -> int:
    return Workspace.open(folder).ledger.dataset_version(dataset_version).num_holdout


def test_the_best_so_far_is_asked_the_same_examples(first: Path) -> None:
    learnt = command(first, "update", "east")  # the data that was versioned above
    if not learnt["promoted"]:
        command(first, "promote", learnt["candidate"], "--reason", "new data", "--force")
    ever = {e["version"] for e in command(first, "history")["events"] if e["kind"] == "promoted"}
    answer = command(
        first, "update", "west", "--set", "training.seed=9", "--set", "gate.approval=manual"
    )
    scores = Workspace.open(first).ledger.scores(period="east")
    on_old, on_new = (
        {s.version for s in scores if s.dataset_version == data} for data in ("east@v1", "east@v2")
    )
    assert len(ever & on_old) > 1
    assert ever & on_old <= on_new
    verdict = Workspace.open(first).ledger.verdict(answer["update"])
    assert verdict is not None
    east = {c["num_examples"] for c in verdict.comparisons if c["period"] == "east"}
    assert east == {num_holdout(first, "east@v2")}
    if answer["verdict"] != "rejected":
        command(first, "reject", answer["update"], "--reason", "only a test")


def test_what_a_person_decides_stands_in_mlflow_s_report(first: Path) -> None:
    answer = command(first, "update", "west", "--set", "gate.approval=manual")
    assert answer["verdict"] == "accepted"
    assert deployed_in_report(first, answer["update"]) == answer["base"]
    command(first, "approve", answer["update"], "--reason", "looked at the flips")
    assert deployed_in_report(first, answer["update"]) == answer["candidate"]
    assert "Accepted by the gate, approved by " in report_of(first, answer["update"])


def deployed_in_report(folder: Path, update: str) -> str:
    """The version that the report on the update's MLflow run calls deployed."""
    pattern = r'<b>version (\d+)</b>(?:(?!<li>).)*"chip good">deployed<'
    [version] = re.findall(pattern, report_of(folder, update), re.DOTALL)
    return version


def report_of(folder: Path, update: str) -> str:
    """The report on the update's MLflow run."""
    import mlflow

    client = mlflow.MlflowClient(Workspace.open(folder).mlflow_uri)
    run_id = mlflow_run(folder, update).info.run_id
    return Path(client.download_artifacts(run_id, "report.html")).read_text("utf-8")


def test_without_mlflow_an_update_stops_and_goes_on_when_it_is_back(
    first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(first, "rollback", "--reason", "so that west is new again")
    opened = command(first, "step", "ingest", "--period", "west", "--set", "training.seed=3")
    with monkeypatch.context() as gone:
        gone.setenv("UPDATER_STORE_MLFLOW_URI", "http://127.0.0.1:9")
        _, errors = said(first, "update", "west", "--set", "training.seed=3", code=1)
    assert "http://127.0.0.1:9 can't be reached" in errors
    assert "Traceback" not in errors
    answer = command(first, "update", "west", "--set", "training.seed=3")
    assert answer["update"] == opened["update"]
    assert mlflow_run(first, answer["update"]).info.status == "FINISHED"
    assert command(first, "status")["unfinished"] == []


def test_on_call_waits_less_than_three_seconds(first: Path) -> None:
    deployed = command(first, "status")["deployed"]
    for words in (["rollback"], ["promote", deployed, "--force"]):
        before = os.times().children_user
        main = "from updater.cli import main; main()"
        asked = [*words, "--reason", "drill", "--workspace", str(first)]
        subprocess.run([sys.executable, "-c", main, *asked], check=True, capture_output=True)
        # CPU seconds of the whole process: wall time would measure the other tests on this machine.
        assert os.times().children_user - before < 3
    assert command(first, "status")["deployed"] == deployed


def test_on_call_is_answered_without_mlflow(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = command(first, "status")
    monkeypatch.setenv("UPDATER_STORE_MLFLOW_URI", "http://127.0.0.1:9")
    answer, errors = said(first, "status", "--json")
    told = json.loads(answer)
    assert told.pop("links")["model"] == "http://127.0.0.1:9/#/models/story", "though it is lost"
    assert told == {key: value for key, value in whole.items() if key != "links"} | {
        "consistent": False
    }
    assert "can't be reached" in errors
    _, errors = said(first, "rollback", "--reason", "drill", code=1)
    assert "can't be reached" in errors
    assert json.loads(said(first, "status", "--json")[0])["deployed"] != whole["deployed"]
    _, errors = said(first, "rollback", "--reason", "drill", code=1)
    assert "updater rollback --to VERSION" in " ".join(errors.split())
    _, errors = said(first, "rollback", "--to", "1", "--reason", "drill", code=1)
    assert json.loads(said(first, "status", "--json")[0])["deployed"] == "1"
    monkeypatch.undo()
    command(first, "status", "--repair")
    assert command(first, "status")["consistent"] is True
