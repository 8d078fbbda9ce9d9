"""`airflow dags test model_update` runs a real update to promotion: the real command, a real model
of every layer kind, SQLite under Airflow, the ledger and MLflow. Nothing stands in for anything.

Two Airflows that know nothing of each other run it at the same time for the same period."""

import json
import os
import random
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

UPDATER = str(Path(sys.executable).with_name("updater"))
PAIRS = {
    "2024-01": {"snow": "ski", "frost": "coat", "ice": "skate"},
    "2024-02": {"sand": "towel", "palm": "shade", "wave": "board"},
}
FILLER = ("the", "a", "some", "my", "your", "this", "old", "new", "big", "small", "red", "blue")
CONFIG = """
[workspace]
name = "end-to-end"
[model]
architecture = "tiny.json"
vocabulary_size = 320
[source]
uri = "rows.jsonl"
[source.fields]
id = "{id}"
prompt = "{text} ?"
completion = " {answer}"
date = "{date}"
[periods]
every = "month"
schedule = "0 3 1 * *"
holdout_fraction = 0.3
[rehearsal]
fraction = 0.5
[regularizer]
num_examples = 16
[training]
epochs = 6
batch_size = 16
learning_rate = 5e-3
[scratch]
epochs = 10
learning_rate = 5e-3
[gate]
margin_fraction = 0.2
"""


def rows(num_per_month: int = 160) -> list[dict[str, str]]:
    """Short texts around a keyword of their month; the answer is what goes with the keyword."""
    rng = random.Random(0)
    made = []
    for month, pairs in PAIRS.items():
        for number in range(num_per_month):
            keyword = rng.choice(list(pairs))
            words = [*rng.choices(FILLER, k=3), keyword]
            rng.shuffle(words)
            row = {"id": f"{month}-{number}", "date": f"{month}-{1 + number % 28:02d}"}
            made.append(row | {"text": f"{' '.join(words)} {number}", "answer": pairs[keyword]})
    return made


@pytest.fixture
def other(make_airflow, tmp_path):
    """A second Airflow, with a home and a scheduler of its own."""
    (tmp_path / "other").mkdir()
    return make_airflow(tmp_path / "other")


@pytest.fixture
def workspace(airflow, other, tiny_json, tmp_path):
    folder = tmp_path / "real"
    folder.mkdir()
    (folder / "tiny.json").write_text(tiny_json)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    (folder / "updater.toml").write_text(CONFIG)
    for one in (airflow, other):
        one.environ |= {"UPDATER_WORKSPACE": str(folder), "UPDATER_EXECUTABLE": UPDATER}
    return folder


def ask(airflow, *arguments):
    command = [UPDATER, "--json", "--quiet", *arguments]
    done = subprocess.run(command, env=airflow.environ, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def announced(airflow):
    """The asset events after the DAG that the update has started has run twice."""
    run = {"dag": "model_announcement", "environ": {}, "conf": {}, "fake": {}}
    first, again = airflow.ask("many_runs.py", [run, run])["runs"]
    assert [dag for dag, _ in first["started"]] == ["model_announcement"]
    assert first["state"] == "success"
    assert again["events"] == first["events"]
    return first["events"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_airflows_run_one_real_update_to_one_promotion(airflow, other, workspace):
    ask(airflow, "init", str(workspace))
    first = ask(airflow, "scratch", "--periods", "2024-01", "--deploy")["version"]
    asked = ("dags", "test", "model_update", "-c", '{"period": "2024-02"}')
    for one in (airflow, other):
        one.run("dags", "reserialize")  # the DAG that announces is known too
    running = [one.start(*asked) for one in (airflow, other)]
    try:
        with ThreadPoolExecutor() as pool:  # a pipe that nobody reads stops whoever writes
            outputs = list(pool.map(lambda one: one.communicate(timeout=500)[0], running))
    finally:
        for process in running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
    for output in outputs:
        assert "state=success" in output, output[-6000:]
    assert any("another updater command is at work" in output for output in outputs)
    (told,) = announced(airflow)
    status = ask(airflow, "status")
    assert status["deployed"] != first
    assert status["learnt"] == ["2024-01", "2024-02"]
    assert status["unfinished"] == []
    assert status["awaiting_approval"] == []
    assert status["consistent"] is True
    promoted = [e for e in ask(airflow, "history")["events"] if e["kind"] == "promoted"]
    assert [event["version"] for event in promoted] == [first, status["deployed"]]
    assert promoted[-1]["actor"] == "airflow"
    assert (told["event"], told["period"]) == (promoted[-1]["id"], "2024-02")
