"""`airflow dags test model_study` runs a real study: the real command makes the list of arms, the
first model, each arm in a task of its own, and the report. Nothing stands in for anything."""

import json
import sys
from pathlib import Path

import pytest
from study_runs import of_tickets

UPDATER = str(Path(sys.executable).with_name("updater"))
SETTINGS = """
[training]
epochs = 1
batch_size = 8
[scratch]
epochs = 1
"""
STUDY = """
[study]
name = "s"
seeds = [0]
processes = 1
[stream]
first = ["2026-01"]
then = ["2026-02"]
[arms.first]
rehearsal.policy = "none"
regularizer.method = "none"
[arms."rehearsal+l2"]
regularizer.method = "l2"
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_study_is_planned_run_by_arms_and_reported(airflow, tiny_json, tmp_path):
    folder = tmp_path / "real"
    of_tickets(folder, tiny_json, SETTINGS, ["2026-01", "2026-02"])
    (folder / "s.toml").write_text(STUDY)
    real = {"UPDATER_WORKSPACE": str(folder), "UPDATER_EXECUTABLE": UPDATER}
    asked = {"dag": "model_study", "environ": real, "conf": {"file": "s.toml"}, "fake": {}}

    (run,) = airflow.ask("many_runs.py", [asked], seconds=800)["runs"]
    names = ("plan", "first", "arm[0]", "arm[1]", "report")
    assert (run["state"], run["tasks"]) == ("success", {name: ["success", 1] for name in names})
    study = folder / "studies" / "s"
    assert len(list((study / "first").glob("*/stage.json"))) == 1  # the arms share it
    done = [json.loads(path.read_text("utf-8")) for path in (study / "runs").glob("*.json")]
    assert {one["arm"]: len(one["stages"]) for one in done} == {"first": 2, "rehearsal+l2": 2}
    assert (study / "report" / "study.html").is_file()
