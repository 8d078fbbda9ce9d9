"""`airflow dags test model_update` runs a real update to promotion: the real command, a real model
of every layer kind, SQLite under Airflow, the ledger and MLflow. Nothing stands in for anything."""

import json
import random
import subprocess
import sys
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
def workspace(airflow, tiny_json, tmp_path):
    folder = tmp_path / "real"
    folder.mkdir()
    (folder / "tiny.json").write_text(tiny_json)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    (folder / "updater.toml").write_text(CONFIG)
    airflow.environ |= {"UPDATER_WORKSPACE": str(folder), "UPDATER_EXECUTABLE": UPDATER}
    return folder


def ask(airflow, *arguments):
    command = [UPDATER, "--json", "--quiet", *arguments]
    done = subprocess.run(command, env=airflow.environ, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_airflow_runs_a_real_update_to_promotion(airflow, workspace):
    ask(airflow, "init", str(workspace))
    first = ask(airflow, "scratch", "--periods", "2024-01", "--deploy")["version"]
    output = airflow.test_run("2024-02", seconds=280)
    assert "state=success" in output, output[-6000:]
    status = ask(airflow, "status")
    assert status["deployed"] != first
    assert status["learnt"] == ["2024-01", "2024-02"]
    assert status["unfinished"] == []
    assert status["awaiting_approval"] == []
    assert status["consistent"] is True
    promoted = [e for e in ask(airflow, "history")["events"] if e["kind"] == "promoted"]
    assert [event["version"] for event in promoted] == [first, status["deployed"]]
    assert promoted[-1]["actor"] == "airflow"
