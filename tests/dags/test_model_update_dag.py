"""The DAG model_update: its shape as Airflow parses it, and real `airflow dags test` runs with a
stand-in for the command. The real command: test_model_update_end_to_end.py; people's answers, for
which Airflow needs its scheduler and server: tests/updater/test_local.py."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from updater.settings import GateSettings

FILE = Path(__file__).resolve().parents[2] / "dags" / "model_update.py"
INSPECT = Path(__file__).with_name("inspect_dag.py")
MANY_RUNS = Path(__file__).with_name("many_runs.py")
DOCS = (FILE.parents[1] / "docs" / "airflow.md").read_text("utf-8")
COMMANDS = re.findall(r"^ +(airflow .*)$", DOCS, re.MULTILINE)
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
    "scores": {
        "2026-01": {"base": 0.9, "candidate": 0.875, "num_examples": 200},
        "2026-04": {"base": None, "candidate": 0.8, "num_examples": 10},
    },
}
JOE = {"id": "17", "name": "joe"}
CASES = {
    "answers": [
        {"chosen_options": ["Approve"], "responded_by_user": JOE, "params_input": {"reason": "ok"}},
        {"chosen_options": ["Reject"], "responded_by_user": {"id": "17"}, "params_input": None},
        {"chosen_options": ["Reject"], "responded_by_user": None, "params_input": {}},
    ],
    "questions": [GATE, {**GATE, "approval": "none"}],
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
    environments[0] |= {"UPDATER_DAG_START": "2026-01-01", "UPDATER_DAG_GPU_STEP_HOURS": "2"}
    environments[1] |= {"UPDATER_DAG_START": "", "UPDATER_DAG_GPU_STEP_HOURS": ""}
    for environment, (_, more, _) in zip(environments[1:], WITHOUT_WORKSPACE, strict=True):
        environment |= more
    environments.append({**environments[0], **OVERRIDDEN})
    asked = {"commands": COMMANDS, "environments": environments, "cases": CASES}
    return answer_of(make_airflow(tmp_path_factory.mktemp("seen")), INSPECT, FILE.parent, asked)


def answer_of(airflow, script, path, asked):
    """The last line, which is JSON, of a script run in Airflow's environment."""
    done = subprocess.run(
        [sys.executable, str(script), str(path), json.dumps(asked)],
        env=airflow.environ,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "output": done.stdout + done.stderr}


def test_the_file_imports_airflow_and_the_standard_library_only():
    tree = ast.parse(FILE.read_text())
    roots = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            roots.add(node.module.split(".")[0])
            if node.module.startswith("airflow"):
                assert node.module.startswith(("airflow.sdk", "airflow.providers.standard"))
    assert roots - set(sys.stdlib_module_names) == {"airflow"}


def test_the_docs_name_every_variable_and_task_and_only_commands_that_airflow_takes(seen):
    assert len(COMMANDS) >= 6  # that Airflow takes them, `seen` has found out
    variables = set(re.findall(r"UPDATER_[A-Z_]+", FILE.read_text()))
    assert len(variables) == 9
    assert variables == {name for name in variables if f"| `{name}` |" in DOCS}
    tasks = seen["parsed"][0]["model_update"]["tasks"]
    assert all(re.search(rf"^\| (.*, )?{name}\b", DOCS, re.MULTILINE) for name in tasks)


def test_shape_with_a_schedule(seen):
    parsed = seen["parsed"][0]
    assert parsed["errors"] == {}
    dag = parsed["model_update"]
    chain = [*STEPS, "approval_needed", "approval", "approve", "reject"]
    assert set(dag["tasks"]) == set(chain)
    for before, after in zip([None, *chain], chain, strict=False):
        assert dag["tasks"][after]["upstream"] == ([before] if before else [])
    heavy = {"importance", "train", "evaluate"}
    for name, task in dag["tasks"].items():
        assert (task["pool"], task["queue"]) == (
            ("gpu", "gpu") if name in heavy else ("default_pool", "default")
        )
        if name not in ("approval_needed", "approval"):
            assert task["retries"] == 3
            assert task["backoff"]
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
    assert dag["catchup"] is True
    assert dag["period"]["schema"]["type"] == ["null", "string"]
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
    assert dag["catchup"] is False
    assert dag["approval"]["seconds"] == GateSettings().approval_timeout_seconds


def test_the_environment_comes_before_the_file(seen):
    dag = seen["parsed"][-1]["model_update"]
    assert dag["cron"] == "0 0 * * 0"
    assert dag["approval"]["seconds"] == 90
    rehearse = dag["tasks"]["rehearse"]  # a policy that asks the model
    assert (rehearse["pool"], rehearse["execution_timeout"]) == ("gpu", 7200)


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
    assert "updater failed (exit 1)" in output


CONF = {"period": "2026-04"}
RUNS = [
    {"environ": {}, "conf": CONF, "fake": {"exits": {"rehearse": [2, 2]}}},
    {"environ": {"UPDATER_DAG_RETRIES": "0"}, "conf": CONF, "fake": {"answers": {"ingest": "no"}}},
    {"environ": {}, "conf": {}, "fake": {}},
    {
        "environ": {"UPDATER_DAG_STEP_HOURS": str(1 / 3600)},
        "conf": CONF,
        "fake": {"sleeps": {"ingest": 300}},
    },
    {"environ": {"UPDATER_EXECUTABLE": "/no/such/updater"}, "conf": CONF, "fake": {}},
]


@pytest.fixture(scope="module")
def runs(make_airflow, tmp_path_factory):
    return answer_of(make_airflow(tmp_path_factory.mktemp("runs")), MANY_RUNS, FILE, RUNS)


def test_bad_input_is_not_tried_again(runs):
    run = runs["runs"][0]
    assert run["state"] == "failed"
    assert [call["name"] for call in run["calls"]] == ["ingest", "rehearse"]
    assert run["tasks"]["rehearse"] == ["failed", 1]
    assert run["tasks"]["release"][0] == "upstream_failed"


def test_an_answer_that_is_no_json_fails(runs):
    assert runs["runs"][1]["tasks"]["ingest"] == ["failed", 1]
    assert "no JSON object" in runs["output"]


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
