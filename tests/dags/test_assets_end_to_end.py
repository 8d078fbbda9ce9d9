"""Other pipelines and ours, joined by assets, in a running Airflow: events start updates, with and
without a partition, and a promotion of a scheduled run starts a plain downstream DAG. A person
promotes by the form and is named. The command is the stand-in; scheduler and server are real."""

import json
import shutil
import urllib.error
from pathlib import Path

import pytest
from far_ticks import YEARLY
from running_airflow import running, until

DAGS = Path(__file__).resolve().parents[2] / "dags"
OTHERS = """
from airflow.sdk import DAG, Asset, CronPartitionTimetable, Metadata, PartitionedAtRuntime, task

data, deployed = Asset(name="tickets", uri="s3://lake/tickets"), Asset("x-updater://w/deployed")

with DAG("load", schedule=None, params={"extra": {}}):

    @task(outlets=[data])
    def load(params=None):
        yield Metadata(data, params["extra"])

    load()

with DAG("load_partition", schedule=PartitionedAtRuntime()):

    @task(outlets=[data])
    def load_partition(outlet_events=None):
        outlet_events[data].add_partitions("2026-05")

    load_partition()

with DAG("deploy", schedule=[deployed]):

    @task
    def deploy(triggering_asset_events=None):
        return [event.extra for event in triggering_asset_events[deployed]]

    deploy()
"""
SCHEDULE = f'[periods]\nevery = "month"\nschedule = "{YEARLY}"\n'
TICK = "2026-05-01T03:00:00"
SECONDS = 400  # on a busy machine
RELEASE = {
    "event": 9,
    "at": "2026-05-01T03:00:00+00:00",
    "actor": "joe",
    "kind": "promoted",
    "version": "3",
    "previous": "2",
    "update": "u-1",
    "period": "2026-04",
    "reason": "accepted by the gate",
}
ANSWERS = {
    "release": {"update": "u-1", "promoted": True},
    "promote": {"deployed": "3", "previous": "2"},
    "due": {"due": ["2026-02", "2026-03"]},
    "status": {"consistent": True, "release": RELEASE},
}


@pytest.fixture
def api(airflow, tmp_path):
    """A running Airflow on a folder of DAGs, ours below it beside others'."""
    folder = tmp_path / "dags"
    shutil.copytree(DAGS, folder / "models")
    (folder / "others.py").write_text(OTHERS)
    (airflow.workspace / "updater.toml").write_text('[workspace]\nname = "w"\n' + SCHEDULE)
    gate = {"verdict": "accepted", "reasons": [], "approval": "none"}
    answers = {name: json.dumps(answer) for name, answer in ANSWERS.items()}
    airflow.orders(gate=gate, answers=answers, exits={"ingest": [0, 0, 0, 2]})
    names = {"model_update", "model_data", "model_data_partition", "model_announcement"}
    names |= {"load", "load_partition", "deploy", "model_promote"}
    environ = {
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
        "UPDATER_DAG_DATA_ASSET": "tickets s3://lake/tickets",
    }
    with running(airflow, tmp_path / "airflow.log", names, **environ) as api:
        yield api


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_events_start_updates_and_a_release_starts_what_waits_for_it(api, airflow, tmp_path):
    folder = str(tmp_path / "dags")

    def learnt(number: int) -> list[list[str]]:
        asked = [c["arguments"][2:] for c in airflow.calls() if c["name"] == "ingest"]
        return asked if len(asked) >= number else []

    def due() -> list[dict]:
        names = ("data__2026-02__", "data__2026-03__")
        return [r for r in api.runs("model_update") if r["dag_run_id"].startswith(names)]

    def ended(number: int) -> list[str]:
        states = [run["state"] for run in due()]
        return states if len(states) == number and {"queued", "running"}.isdisjoint(states) else []

    def deployed() -> list[dict]:
        return [run for run in api.runs("deploy") if run["state"] == "success"]

    api.trigger("model_update", partition_key=TICK)  # as its schedule does
    until(deployed, SECONDS)
    api.trigger("load", conf={"extra": {"period": "2026-04"}})
    until(lambda: learnt(2), SECONDS)
    api.trigger("load_partition")
    until(lambda: learnt(3), SECONDS)
    api.trigger("load")  # it names none: all that are due, and the first is refused
    assert until(lambda: ended(2), SECONDS) == ["failed", "failed"]
    assert len(learnt(4)) == 4  # nothing is learnt ahead of it
    for run in due():
        cleared = ("dags", "clear", "model_update", "--run-id", run["dag_run_id"])
        airflow.run(*cleared, "--only-failed", "--yes", AIRFLOW__CORE__DAGS_FOLDER=folder)
    assert until(lambda: learnt(6), SECONDS) == [
        ["--partition", TICK],
        ["--period", "2026-04"],
        ["--partition", "2026-05"],
        ["--period", "2026-02"],
        ["--period", "2026-02"],
        ["--period", "2026-03"],
    ]

    api.trigger("model_promote", conf={"version": "3", "reason": "again"})
    until(lambda: "promote" in airflow.names(), SECONDS)
    (call,) = (call for call in airflow.calls() if call["name"] == "promote")
    assert call["actor"] == "admin"
    told = "model_announcement"
    until(lambda: len(api.runs(told)) == 6, SECONDS)
    until(lambda: all(run["state"] == "success" for run in api.runs(told)), SECONDS)
    (run,) = api.runs("deploy")  # six runs have released the same: it is one release
    path = f"/api/v2/dags/deploy/dagRuns/{run['dag_run_id']}/taskInstances/deploy/xcomEntries"
    told = api("GET", f"{path}/return_value?deserialize=true")["value"]
    assert told == [{"model": "w", **RELEASE}]

    with pytest.raises(urllib.error.HTTPError) as refused:
        api.trigger("model_rollback", conf={})
    with refused.value as why:
        assert why.code in (400, 422)
    for setting in ("gate.approval=auto", "rehearsal.policy=hard"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            api.trigger("model_update", conf={"period": "2026-04", "settings": [setting]})
        with refused.value as why:
            assert why.code in (400, 422)
            assert setting in why.read().decode()
