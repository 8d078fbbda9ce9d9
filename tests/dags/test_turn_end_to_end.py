"""Runs of `model_update` under a real scheduler: backfills and missed ticks, in order and never two
at a time; what follows one that fails; and a question that nobody answers. The command is the
stand-in, with real waits, so that runs at the same time would be seen."""

import json
from datetime import datetime
from pathlib import Path

import pytest
from far_ticks import MONTHLY, newest_ticks
from running_airflow import running, until

STEPS = ["ingest", "rehearse", "importance", "train", "evaluate", "gate", "release"]
CONFIG = f'[periods]\nevery = "month"\nschedule = "{MONTHLY}"\n'
SECONDS = 600  # on a busy machine; a minute or two on an idle one
TICKS = newest_ticks(4)
KEYS = [f"{tick:%Y-%m-%dT%H:%M:%S}" for tick in TICKS]


class Model:
    """A workspace, and the DAG `model_update` of it."""

    def __init__(self, folder: Path, start: datetime | None = None, **orders: object) -> None:
        self.folder, self.dag = folder, f"model_update.{folder.name}"
        self.start = f"{start:%Y-%m-%d}" if start else ""
        folder.mkdir()
        (folder / "updater.toml").write_text(CONFIG)
        accepted = {"verdict": "accepted", "reasons": [], "approval": "none"}
        (folder / "fake.json").write_text(json.dumps({"gate": accepted, **orders}))

    def table(self) -> str:
        return f'[{self.folder.name}]\nfolder = "{self.folder}"\nstart = "{self.start}"\n'

    def calls(self) -> list[dict]:
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def names(self) -> list[str]:
        return [call["name"] for call in self.calls()]

    def learnt(self) -> list[str]:
        """What was ingested, in that order."""
        return [call["arguments"][3] for call in self.calls() if call["name"] == "ingest"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    slow, refused = {"train": 1}, {"ingest": [2]}
    asked = {"verdict": "review", "reasons": ["can't tell"], "approval": "needed"}
    return {
        "filled": Model(folder / "filled", TICKS[3], sleeps=slow),  # and a backfill beside it
        "caught": Model(folder / "caught", TICKS[1], exits=refused),
        "broken": Model(folder / "broken", exits=refused),
        "stood": Model(folder / "stood"),  # still, after its first tick, for three
        "asked": Model(folder / "asked", gate=asked),
    }


@pytest.fixture(scope="module")
def airflow(make_airflow, tmp_path_factory):
    return make_airflow(tmp_path_factory.mktemp("turn"))


@pytest.fixture(scope="module")
def api(airflow, models, tmp_path_factory):
    listed = tmp_path_factory.mktemp("listed") / "list.toml"
    listed.write_text("".join(model.table() for model in models.values()))
    airflow.environ |= {
        "UPDATER_WORKSPACES": str(listed),
        "UPDATER_GATE_APPROVAL_TIMEOUT_SECONDS": "5",
        "UPDATER_DAG_RETRY_SECONDS": "1",  # so that who waits looks every five
    }
    environ = {"AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True"}  # until all can be asked
    dags = [model.dag for model in models.values()]
    with running(airflow, listed.with_name("airflow.log"), dags, **environ) as api:
        for dag in dags:
            api.unpause(dag)
        backfill(api, models["filled"])  # as the docs say not to: all at once
        backfill(api, models["broken"])
        backfill(api, models["stood"], 1)
        api.trigger(models["asked"].dag, conf={"period": "2026-04"})
        yield api


def backfill(api, model, number: int = 3) -> None:
    """Of the first ticks, by default up to ten of its runs at a time."""
    dates = {
        "from_date": f"{TICKS[0]:%Y-%m-%dT00:00:00Z}",
        "to_date": f"{TICKS[number - 1]:%Y-%m-%dT04:00:00Z}",
    }
    api("POST", "/api/v2/backfills", {"dag_id": model.dag, **dates})


def ended(api, model, number: int) -> list[str]:
    """How the runs have ended that the DAG has then, oldest first."""

    def states() -> list[str]:
        found = [run["state"] for run in api.runs(model.dag)]
        done = len(found) >= number and {"queued", "running"}.isdisjoint(found)
        return found if done else []

    return until(states, SECONDS)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_nothing_is_learnt_after_a_run_that_failed_until_that_is_mended(api, airflow, models):
    caught = models["caught"]
    first, *_ = ended(api, caught, 3) and api.runs(caught.dag)
    assert [run["state"] for run in api.runs(caught.dag)] == ["failed"] * 3
    assert caught.names() == ["ingest"]
    assert caught.learnt() == KEYS[1:2]

    cleared = ("dags", "clear", caught.dag, "--only-failed", "--yes")
    airflow.run(*cleared, "--run-id", first["dag_run_id"])
    assert ended(api, caught, 3) == ["success", "failed", "failed"]  # that run and no other
    assert caught.names() == ["ingest", *STEPS]

    airflow.run(*cleared, "--partition-date-start", f"{TICKS[1]:%Y-%m-%d}")
    assert ended(api, caught, 3) == ["success"] * 3
    assert caught.names() == ["ingest", *STEPS * 3]
    assert caught.learnt() == [KEYS[1], *KEYS[1:]]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_backfill_whose_first_run_fails_learns_nothing(api, models):
    """Nor does the run that the schedule makes for the tick after the backfill's last."""
    broken = models["broken"]
    assert ended(api, broken, 4) == ["failed"] * 4
    assert broken.names() == ["ingest"]
    assert broken.learnt() == KEYS[:1]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_nobody_answering_is_a_rejection_that_says_so(api, models):
    asked = models["asked"]
    assert ended(api, asked, 1) == ["success"]
    assert asked.names() == [*STEPS, "reject"]
    last = asked.calls()[-1]
    why = "nobody answered in time in Airflow, where the default answer is Reject"
    assert last["arguments"] == ["reject", "--if-undecided", "u-1", "--reason", why]
    assert last["actor"] == "airflow"
    (run,) = api.runs(asked.dag)
    path = f"/api/v2/dags/{asked.dag}/dagRuns/{run['dag_run_id']}/taskInstances"
    states = {task["task_id"]: task["state"] for task in api("GET", path)["task_instances"]}
    assert (states["approve"], states["announce"]) == ("skipped", "skipped")
    assert api.runs("model_announcement.asked") == []


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_backfill_and_the_schedule_go_one_after_the_other(api, models):
    filled = models["filled"]
    assert ended(api, filled, 4) == ["success"] * 4
    assert filled.names() == STEPS * 4
    assert [key for key in filled.learnt() if key != KEYS[3]] == KEYS[:3]
    assert {run["run_type"] for run in api.runs(filled.dag)} == {"backfill", "scheduled"}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_after_an_outage_of_three_ticks_all_are_learnt_in_order_by_default(api, models):
    stood = models["stood"]
    assert ended(api, stood, 4) == ["success"] * 4
    assert stood.learnt() == KEYS
    kinds = [run["run_type"] for run in api.runs(stood.dag)]
    assert kinds == ["backfill", "scheduled", "scheduled", "scheduled"]
