"""The DAG model_update: its shape as Airflow parses it, and real `airflow dags test` runs with a
stand-in for the command. The real command: test_model_update_end_to_end.py; people's answers, for
which Airflow needs its scheduler and server: tests/updater/test_local.py."""

import os
import re
import signal
import time
from datetime import UTC, datetime, timedelta

import psutil
import pytest

from updater.settings import GateSettings

STEPS = ["ingest", "rehearse", "importance", "train", "evaluate", "gate", "release"]
SCHEDULED = """
[periods]
every = "month"
schedule = "0 3 1 * *"
time_zone = "Europe/Zurich"
[gate]
approval_timeout_seconds = 60
"""
GATE = {
    "update": "u-7",
    "verdict": "review",
    "reasons": ["2026-01: can't tell", "2026-04: improved"],
    "approval": "needed",
    "links": {"run": "http://m/#/runs/r", "report": "http://m/report"},
    "scores": {
        "2026-01": {"base": 0.9, "candidate": 0.875, "num_examples": 200},
        "2026-04": {"base": None, "candidate": 0.8, "num_examples": 10},
    },
}
JOE = {"id": "17", "name": "joe"}
FEBRUARY = "scheduled__2026-02-01T03:00:00+01:00__2026-02-01T03:00:00__aB3"
MARCH = "scheduled__2026-03-01T03:00:00+01:00__2026-03-01T03:00:00__cD4"
BACKFILLED = "backfill__2026-02-01T02:00:00+00:00__2026-02-01T03:00:00__eF5"  # February's too
BY_HAND = "manual__2026-02-01T03:00:00+00:00__gH6"
NAMED = "data__2026-01__2026-02-01T00:00:00+00:00"
WAITS = [  # (other run, mine, the other's state, whether it has begun), whether mine waits
    ((BACKFILLED, MARCH, "running", False), True),
    ((BACKFILLED, MARCH, "queued", False), True),  # of its backfill others go before it
    ((MARCH, BACKFILLED, "running", False), False),
    ((MARCH, BACKFILLED, "running", True), True),
    ((MARCH, BACKFILLED, "queued", False), False),
    ((FEBRUARY, MARCH, "running", False), True),
    ((FEBRUARY, MARCH, "queued", True), False),  # cleared: it is queued because mine runs
    ((BACKFILLED, BY_HAND, "queued", False), True),
    ((BY_HAND, BACKFILLED, "running", False), False),
    ((BY_HAND, BACKFILLED, "running", True), True),
    ((NAMED, BACKFILLED, "running", False), False),
    ((MARCH, BY_HAND, "running", False), True),
    ((BACKFILLED, FEBRUARY, "running", False), True),  # one of the two is first, whichever asks
    ((FEBRUARY, BACKFILLED, "running", False), False),
    ((FEBRUARY, MARCH, "failed", True), False),
    ((FEBRUARY, MARCH, "success", True), False),
]
BEFORE = [  # mine, all runs, those of the tick before
    (MARCH, [FEBRUARY, MARCH, BACKFILLED, BY_HAND, NAMED], [BACKFILLED, FEBRUARY]),
    (FEBRUARY, [FEBRUARY, MARCH, BACKFILLED], []),
    (BY_HAND, [FEBRUARY, BY_HAND], []),
    (NAMED, [FEBRUARY], []),
]
TURNS = [
    ("running", "success", False),  # its last task has ended, which the scheduler has yet to see
    ("running", "upstream_failed", False),
    ("success", "success", True),
    ("failed", "upstream_failed", "did not succeed"),
    ("queued", "success", "did not succeed"),  # cleared in part: it starts once mine has ended
]
NEXT_NAMED = "data__2026-02__2026-02-01T00:00:00+00:00"
FOLLOWING = [(MARCH, FEBRUARY, {}), (NEXT_NAMED, NAMED, {"after": NAMED})]  # mine, before, conf
CASES = {
    "answers": [
        {"chosen_options": ["Approve"], "responded_by_user": JOE, "params_input": {"reason": "ok"}},
        {"chosen_options": ["Reject"], "responded_by_user": {"id": "17"}, "params_input": None},
        {"chosen_options": ["Reject"], "responded_by_user": None, "params_input": {}},
    ],
    "questions": [GATE, {**GATE, "approval": "none"}],
    "waits": [case for case, _ in WAITS],
    "turns": [
        [mine, {other: run}, {other: last}, conf]
        for mine, other, conf in FOLLOWING
        for run, last, _ in TURNS
    ],
    "before": [[mine, runs] for mine, runs, _ in BEFORE],
}


WITHOUT_WORKSPACE = [
    ("UPDATER_WORKSPACE is not set", {"UPDATER_WORKSPACE": ""}, None),
    ("can't be read", {}, None),
    ("is not valid TOML", {}, "[periods\n"),
    (
        "UPDATER_GATE_APPROVAL_TIMEOUT_SECONDS=soon in the environment",
        {"UPDATER_GATE_APPROVAL_TIMEOUT_SECONDS": "soon"},
        SCHEDULED,
    ),
]
OVERRIDDEN = {
    "UPDATER_PERIODS_SCHEDULE": "@weekly",
    "UPDATER_PERIODS_TIME_ZONE": "UTC",
    "UPDATER_REHEARSAL_POLICY": "hard",
    "UPDATER_GATE_APPROVAL_TIMEOUT_SECONDS": "90",
    "UPDATER_DAG_GPU_POD_TEMPLATE": "gpu.yaml",
    "UPDATER_DAG_TURN_POD_TEMPLATE": "turn.yaml",
    "UPDATER_DAG_RELEASE_QUEUE": "release",
}


@pytest.fixture(scope="module")
def seen(make_airflow, tmp_path_factory):
    """The DAG parsed with a schedule, and in each way of having no usable workspace."""
    environments = []
    for text in ("", *(text for _, _, text in WITHOUT_WORKSPACE)):
        workspace = tmp_path_factory.mktemp("workspace")
        environments.append({"UPDATER_WORKSPACE": str(workspace)})
        if text is not None:
            (workspace / "updater.toml").write_text(text or SCHEDULED)
    start = "2026-01-01T00:00:00+02:00"
    environments[0] |= {"UPDATER_DAG_START": start, "UPDATER_DAG_GPU_STEP_HOURS": "2"}
    environments[1] |= {"UPDATER_DAG_START": "", "UPDATER_DAG_GPU_STEP_HOURS": ""}
    for environment, (_, more, _) in zip(environments[1:], WITHOUT_WORKSPACE, strict=True):
        environment |= more
    environments.append({**environments[0], **OVERRIDDEN})
    # The environment is one for all that follow: this one is the first again, without a start.
    none = dict.fromkeys((*OVERRIDDEN, "UPDATER_DAG_START"), "")
    environments.append({**environments[0], **none})
    asked = {"commands": [], "environments": environments, "cases": CASES}
    return make_airflow(tmp_path_factory.mktemp("seen")).ask("inspect_dag.py", asked)


def test_shape_with_a_schedule(seen):
    parsed = seen["parsed"][0]
    assert parsed["errors"] == {}
    dag = parsed["model_update"]
    chain = ["turn", *STEPS, "approval_needed", "approval", "approve", "reject", "announce"]
    assert set(dag["tasks"]) == set(chain)
    for before, after in zip([None, *chain], chain, strict=False):
        assert dag["tasks"][after]["upstream"] == ([before] if before else [])
    heavy = {"importance", "train", "evaluate"}
    for name, task in dag["tasks"].items():
        assert (task["pool"], task["queue"]) == (
            ("gpu", "gpu") if name in heavy else ("default_pool", "default")
        )
        if name == "turn":  # 30 days of looks, one every fifth second
            assert (task["retries"], task["backoff"]) == (30 * 24 * 3600, False)
        elif name != "approval":
            assert (task["retries"], task["backoff"]) == (3, True)
        if name != "approval":
            assert task["execution_timeout"] == (7200 if name in heavy else 6 * 3600)
    assert dag["tasks"]["approval"]["execution_timeout"] is None
    assert dag["tasks"]["reject"]["trigger_rule"] == "TriggerRule.NONE_FAILED"
    assert dag["approval"] == {
        "defaults": ["Reject"],
        "seconds": 60,
        "params": ["reason"],
        "is_approval": True,
    }
    assert (dag["timetable"], dag["cron"]) == ("CronPartitionTimetable", "0 3 1 * *")
    assert dag["max_active_runs"] == 1
    assert dag["start"] == "2025-12-31T22:00:00+00:00"
    assert dag["first"][:2] == ["2026-01-01T02:00:00+00:00", "2026-02-01T02:00:00+00:00"]
    assert dag["params"]["period"]["schema"]["type"] == ["null", "string"]
    assert dag["params"]["settings"]["schema"]["type"] == "array"
    assert "gpu" in dag["docs"]
    assert dag["tags"] == ["updater"]


def test_what_a_person_is_asked_and_what_is_recorded(seen):
    answers = seen["functions"]["answers"]
    assert answers[0] == ["joe", "Approve was the answer of joe in Airflow: ok"]
    assert answers[1] == ["17", "Reject was the answer of 17 in Airflow"]
    assert answers[2][0] == ""
    assert "nobody answered" in answers[2][1]
    asked, nothing = seen["functions"]["questions"]
    assert nothing is None
    assert "`u-7`: **review**" in asked
    assert "* 2026-01: can't tell\n* 2026-04: improved" in asked
    assert "| 2026-01 | 200 | 90.0 % | 87.5 % | -2.5 |" in asked
    assert "| 2026-04 | 10 |  | 80.0 % |  |" in asked
    assert "Look at [the run in MLflow](http://m/#/runs/r) and [the report](http://m/rep" in asked


def test_which_runs_a_run_waits_for(seen):
    assert seen["functions"]["waits"] == [waits for _, waits in WAITS]
    assert seen["functions"]["before"] == [before for _, _, before in BEFORE]


def test_a_run_begins_once_the_one_before_it_has_ended_well(seen):
    """Of the tick before, or of the period before that one event of data has asked for."""
    turns = TURNS * len(FOLLOWING)
    for said, (*_, wanted) in zip(seen["functions"]["turns"], turns, strict=True):
        assert said == wanted if isinstance(wanted, bool) else wanted in said


@pytest.mark.parametrize("case", range(len(WITHOUT_WORKSPACE)))
def test_without_a_usable_workspace_the_dag_says_so(seen, case):
    message = WITHOUT_WORKSPACE[case][0]
    parsed = seen["parsed"][1 + case]
    assert parsed["errors"] == {}
    dag = parsed["model_update"]
    assert message in dag["description"]
    assert message in dag["docs"]
    assert "misconfigured" in dag["tags"]
    assert dag["cron"] is None
    assert dag["approval"]["seconds"] == GateSettings().approval_timeout_seconds


def test_ticks_that_went_by_are_run_in_order_and_none_from_before_the_first_run(seen):
    """By default, as much as with a start: it says where the first run is alone."""
    for number, default in ((0, False), (-1, True)):
        dag = seen["parsed"][number]["model_update"]
        assert (dag["start"] is None) is default
        april = ["2026-04-01T01:00:00+00:00", "2026-05-01T01:00:00+00:00"]
        assert dag["outage"] == ["2026-03-01T02:00:00+00:00", *april, "2026-06-01T01:00:00+00:00"]
    first = datetime.fromisoformat(dag["first"][0])
    assert first > datetime.now(UTC) - timedelta(days=4)  # a tenth of a month: just gone by


def test_what_leads_to_a_release_is_on_the_queue_of_releases(seen):
    tasks = seen["parsed"][-2]["model_update"]["tasks"]
    on_queue = {name for name, task in tasks.items() if task["queue"] == "release"}
    people = {"approval_needed", "approval", "approve", "reject"}
    assert on_queue == {"gate", "release", *people, "announce"}


def test_a_run_may_choose_no_policy_for_which_its_workspace_has_no_worker(seen):
    for number, asks in ((0, False), (-2, True)):
        dag = seen["parsed"][number]["model_update"]
        assert (dag["tasks"]["rehearse"]["queue"] == "gpu") is asks
        settings = dag["params"]["settings"]
        pattern = settings["schema"]["items"]["pattern"]
        for value in ("hard", "surprise", '"hard"', "'surprise'", ' "hard" '):
            assert bool(re.search(pattern, f"rehearsal.policy={value}")) is asks
        for other in ("rehearsal.policy=uniform", "rehearsal.fraction=0.2", "training.epochs=2"):
            assert re.search(pattern, other)
        assert not re.search(pattern, "gate.approval=auto")
        assert ("rehearsal.policy=hard" in settings["description"]) is not asks


def test_the_environment_comes_before_the_file(seen):
    dag = seen["parsed"][-2]["model_update"]
    assert dag["cron"] == "0 0 * * 0"
    assert dag["approval"]["seconds"] == 90
    rehearse = dag["tasks"]["rehearse"]  # a policy that asks the model
    assert (rehearse["pool"], rehearse["execution_timeout"]) == ("gpu", 7200)
    pods = {name: dag["tasks"][name]["pod"] for name in ("turn", "ingest", "train")}
    assert pods == {"turn": "turn.yaml", "ingest": None, "train": "gpu.yaml"}


def test_an_accepted_update_runs_through_and_a_failed_step_is_tried_again(airflow):
    airflow.orders(exits={"ingest": [1], "train": [137]})
    output = airflow.test_run("2026-04")
    assert "DagRun Finished" in output
    assert "state=success" in output
    assert airflow.names() == ["ingest", *STEPS[:3], "train", *STEPS[3:]]
    calls = airflow.calls()
    assert calls[0]["arguments"] == ["step", "ingest", "--period", "2026-04"]
    assert calls[2]["arguments"] == ["step", "rehearse", "--update", "u-1"]
    assert {call["actor"] for call in calls} == {"airflow"}
    assert "train: 50 %" in output  # the child's stderr, line by line
    assert "task ingest: `updater step ingest --period 2026-04` failed (exit 1)" in output


CONF = {"period": "2026-04"}
RUNS = [
    {
        "environ": {},
        "conf": {**CONF, "settings": ["training.epochs=2", "rehearsal.fraction=0.2"]},
        "fake": {"exits": {"rehearse": [2, 2]}},
    },
    {"environ": {"UPDATER_DAG_RETRIES": "0"}, "conf": CONF, "fake": {"answers": {"ingest": "no"}}},
    {"environ": {}, "conf": {}, "fake": {}},
    {
        "environ": {"UPDATER_DAG_STEP_HOURS": str(1 / 3600), "UPDATER_DAG_RETRIES": "0"},
        "conf": CONF,
        "fake": {"sleeps": {"ingest": 300}},
    },
    {"environ": {"UPDATER_EXECUTABLE": "/no/such/updater"}, "conf": CONF, "fake": {}},
    {"environ": {}, "conf": {"partition": "2026-05-01T03:00:00"}, "fake": {}},
]


@pytest.fixture(scope="module")
def runs(make_airflow, tmp_path_factory):
    return make_airflow(tmp_path_factory.mktemp("runs")).ask("many_runs.py", RUNS)


def test_bad_input_is_not_tried_again(runs):
    run = runs["runs"][0]
    assert run["state"] == "failed"
    assert [call["name"] for call in run["calls"]] == ["ingest", "rehearse"]
    assert run["tasks"]["rehearse"] == ["failed", 1]
    assert run["tasks"]["release"][0] == "upstream_failed"


def test_settings_of_the_form_go_to_every_step(runs):
    told = ["--set", "training.epochs=2", "--set", "rehearsal.fraction=0.2"]
    calls = [call["arguments"] for call in runs["runs"][0]["calls"]]
    assert calls == [
        ["step", "ingest", "--period", "2026-04", *told],
        ["step", "rehearse", "--update", "u-1", *told],
    ]


def test_an_answer_that_is_no_json_fails(runs):
    assert runs["runs"][1]["tasks"]["ingest"] == ["failed", 1]
    said = "task ingest: `updater step ingest --period 2026-04` wrote 'no' as its last line"
    assert said in runs["output"]
    assert "UPDATER_EXECUTABLE has to be an `updater` of the DAGs' version" in runs["output"]


def test_a_run_without_a_period_says_so_and_calls_nothing(runs):
    assert runs["runs"][2]["state"] == "failed"
    assert runs["runs"][2]["calls"] == []
    assert "this run names no period" in runs["output"]


def test_a_task_past_its_time_takes_its_command_along(runs):
    assert runs["runs"][3]["tasks"]["ingest"] == ["failed", 1]
    assert not any(is_alive(pid) for pid in runs["runs"][3]["calls"][0]["pids"])


def test_a_missing_command_says_so(runs):
    assert runs["runs"][4]["state"] == "failed"
    assert "/no/such/updater can't be started" in runs["output"]


def test_a_partition_key_that_another_dag_hands_on_names_the_period(runs):
    call = runs["runs"][5]["calls"][0]
    assert call["arguments"] == ["step", "ingest", "--partition", "2026-05-01T03:00:00"]


def test_a_killed_task_takes_its_command_along(airflow):
    airflow.orders(sleeps={"ingest": 300})
    process = airflow.start(
        "dags", "test", "model_update", "-c", '{"period": "2026-04"}', UPDATER_DAG_RETRIES="0"
    )
    try:
        wait_for(lambda: airflow.calls(), seconds=60)
        pids = airflow.calls()[0]["pids"]
        assert all(is_alive(pid) for pid in pids)
        os.kill(process.pid, signal.SIGTERM)
        wait_for(lambda: not any(is_alive(pid) for pid in pids), seconds=10)
    finally:  # the rest of the run takes a second for each task that is not run any more
        os.killpg(process.pid, signal.SIGKILL)
        output = process.communicate()[0]
    assert "stopping updater" in output


def is_alive(pid):
    """A zombie is not: its parent has only not asked for its exit code."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition, *, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
