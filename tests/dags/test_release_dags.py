"""The DAGs model_promote, model_rollback, model_announcement and model_study: real runs in Airflow
with a stand-in for the command. Their asset events, as other DAGs get them:
test_assets_end_to_end.py."""

import json

import pytest
from runbook import Section

RELEASE = {
    "event": 9,
    "at": "2026-05-01T03:00:00+00:00",
    "actor": "joe",
    "kind": "promoted",
    "version": "3",
    "previous": "2",
    "update": "2026-04-1a",
    "period": "2026-04",
    "reason": "accepted by the gate",
}
STATUS = {"deployed": "3", "consistent": True, "release": RELEASE}
LATER = {**RELEASE, "event": 10, "kind": "rolled_back", "version": "2", "previous": "3"}

NEWEST = {**RELEASE, "event": 13, "version": "4", "previous": "3"}


def announcement(**status):
    answers = {"status": json.dumps({**STATUS, **status})}
    return {"dag": "model_announcement", "conf": {}, "fake": {"answers": answers}}


def without_release():
    old = {name: value for name, value in STATUS.items() if name != "release"}
    return {**announcement(), "fake": {"answers": {"status": json.dumps(old)}}}


def run_of(dag, conf, **answers):
    told = {name: json.dumps(answer) for name, answer in answers.items()}
    return {"dag": dag, "conf": conf, "fake": {"answers": told}}


def failing(dag, conf, **exits):
    return {"dag": dag, "conf": conf, "fake": {"exits": exits, "answers": DRY_RUN}}


DRY_RUN = dict.fromkeys(("promote", "rollback"), '{"deployed": "3", "target": "2", "after": 9}')
WHY = {"reason": "wrong since noon"}
BACK = {"deployed": "2", "previous": "3", "target": "2", "after": 9}
PROMOTED = {"deployed": "3", "previous": "2", "target": "3", "after": 7}
RUNS = {
    "promote": run_of("model_promote", {"version": "3", **WHY}, promote=PROMOTED),
    "forced": run_of("model_promote", {"version": "3", "force": True, **WHY}, promote=PROMOTED),
    "first told": announcement(),
    "told again": announcement(),
    "rollback": run_of("model_rollback", WHY, rollback=BACK),
    "rollback to": run_of("model_rollback", {"version": "1", **WHY}, rollback=BACK),
    "then told": announcement(release=LATER),
    "nothing yet": announcement(deployed=None, release=None),
    "not consistent": announcement(consistent=False, release={**RELEASE, "event": 11}),
    "older worker": without_release(),
    "several since": announcement(release=NEWEST),  # 11 and 12 came meanwhile
    "study": run_of("model_study", {"file": "s.toml", "quick": True}, study={"arms": ["a", "b+c"]}),
    "accepted": run_of("model_update", {"period": "2026-04"}, release={"promoted": True}),
    "no promotion": failing("model_promote", {"version": "3", **WHY}, promote=[0, 1, 1]),
    "no rollback": failing("model_rollback", WHY, rollback=[0, 1, 1]),
    "no target": failing("model_rollback", WHY, rollback=[2]),
}
ACCEPTED = {"verdict": "accepted", "reasons": ["no period is worse"], "approval": "none"}


@pytest.fixture(scope="module")
def runs(make_airflow, tmp_path_factory):
    airflow = make_airflow(tmp_path_factory.mktemp("runs"))
    told = [{**run, "fake": {"gate": ACCEPTED, **run["fake"]}} for run in RUNS.values()]
    once = {"environ": {"UPDATER_DAG_RETRIES": "0"}}
    found = airflow.ask("many_runs.py", [{**once, **run} for run in told], seconds=280)
    return {**dict(zip(RUNS, found["runs"], strict=True)), "output": found["output"]}


def calls(run):
    return [call["arguments"] for call in run["calls"]]


def test_a_version_is_promoted_with_its_reason_and_that_is_announced(runs):
    for run, force in (("promote", []), ("forced", ["--force"])):
        given = [*force, "--reason", WHY["reason"], "--", "3"]
        asked = [["promote", "--dry-run", *given], ["promote", "--after", "7", *given]]
        assert calls(runs[run]) == asked
    assert runs["promote"]["started"] == [["model_announcement", {}]]
    assert runs["promote"]["calls"][0]["actor"] == "dag_test"  # whom `dags test` names


def test_a_rollback_goes_to_the_target_that_was_found_first(runs):
    assert calls(runs["rollback"]) == [
        ["rollback", "--dry-run", "--reason", WHY["reason"]],
        ["rollback", "--to", "2", "--after", "9", "--reason", WHY["reason"]],
    ]
    assert calls(runs["rollback to"])[0][2:4] == ["--to", "1"]
    assert runs["rollback"]["tasks"]["announce"][0] == "success"


def test_a_release_that_failed_is_announced_too_and_its_run_is_a_failure(runs):
    """It may stand in the ledger; the announcement asks it."""
    before = "accepted"
    for name, release in (
        ("no promotion", ["failed", 2]),
        ("no rollback", ["failed", 2]),
        ("no target", ["upstream_failed", 0]),
    ):
        run = runs[name]
        assert run["state"] == "failed"
        assert run["tasks"]["promote" if name == "no promotion" else "rollback"] == release
        assert run["tasks"]["announce"][0] == "success"
        assert run["tasks"]["released"][0] == "upstream_failed"
        assert len(run["started"]) == len(runs[before]["started"]) + 1
        before = name


def test_the_runbook_starts_the_announcement_by_hand(airflow):
    airflow.run("dags", "reserialize")
    with Section("Other pipelines were not told") as section:
        section.run("airflow dags trigger", airflow.workspace, environ=airflow.environ)
    listed = airflow.run("dags", "list-runs", "model_announcement", "-o", "json")
    (run,) = json.loads(listed.splitlines()[-1])
    assert run["run_id"].startswith("manual__")


def test_a_release_is_announced_once(runs):
    """Also where two runs have promoted the same: the ledger has one event."""
    told = {"model": "model", **RELEASE}
    assert runs["first told"]["events"] == [told]
    assert runs["told again"]["events"] == [told]
    assert runs["told again"]["tasks"]["announcement"][0] == "skipped"
    assert runs["then told"]["events"] == [told, {"model": "model", **LATER}]


def test_what_is_not_sure_is_not_announced(runs):
    assert runs["nothing yet"]["tasks"]["announcement"][0] == "skipped"
    for name in ("not consistent", "older worker"):
        assert runs[name]["tasks"]["announcement"][0] == "failed"
        assert len(runs[name]["events"]) == 2
    assert "updater status --repair" in runs["output"]
    assert "updater is older than the DAGs" in runs["output"]


def test_of_several_releases_the_newest_is_announced(runs):
    assert runs["several since"]["events"][2:] == [{"model": "model", **NEWEST}]


def test_a_study_is_a_task_for_each_arm_between_first_models_and_report(runs):
    run = runs["study"]
    file = calls(run)[0][1]
    assert file.endswith("/workspace/s.toml")
    common = ["study", file, "--quick"]
    assert calls(run)[:2] == [[*common, "--list"], [*common, "--first"]]
    assert sorted(calls(run)[2:4]) == [[*common, "--only", arm] for arm in ("a", "b+c")]
    assert calls(run)[4:] == [common]
    assert {run["tasks"][name][0] for name in ("arm[0]", "arm[1]", "report")} == {"success"}


def test_an_update_that_promotes_is_announced_and_asks_nobody(runs):
    run = runs["accepted"]
    states = {name: state for name, (state, _) in run["tasks"].items()}
    assert (states["approval"], states["approve"], states["reject"]) == ("skipped",) * 3
    assert states["announce"] == "success"
    assert len(run["started"]) == len(runs["rollback to"]["started"]) + 1
