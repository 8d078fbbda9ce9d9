"""An Airflow home of its own with a migrated SQLite database, and a workspace with a fake."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

DAGS = Path(__file__).resolve().parents[2] / "dags"
HERE = Path(__file__).parent
FAKE = HERE / "fake_updater.py"
ACCEPTED = {"verdict": "accepted", "reasons": ["no period is worse"], "approval": "none"}


class Airflow:
    """`airflow dags test` on a home and a workspace, as a person would type it."""

    def __init__(self, home: Path, workspace: Path, executable: str) -> None:
        self.workspace = workspace
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "UPDATER_"))}
        self.environ = {
            **kept,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "UPDATER_WORKSPACE": str(workspace),
            "UPDATER_EXECUTABLE": executable,
            "UPDATER_DAG_RETRY_SECONDS": "0.2",
        }

    def start(self, *arguments: str, **environ: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "airflow", *arguments],
            env={**self.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, seconds: float = 120, **environ: str) -> str:
        """All that the command printed. Past `seconds` its whole group is killed."""
        process = self.start(*arguments, **environ)
        try:
            return process.communicate(timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(process.communicate()[0]) from None

    def test_run(self, period: str, *, seconds: float = 120, **environ: str) -> str:
        conf = json.dumps({"period": period})
        return self.run("dags", "test", "model_update", "-c", conf, seconds=seconds, **environ)

    def ask(self, script: str, asked: object, seconds: float = 240, **environ: str) -> dict:
        """The last line, which is JSON, of the script beside this file, which is told where the
        DAGs are and what is `asked`; and all that it printed as "output"."""
        done = subprocess.run(
            [sys.executable, str(HERE / script), str(DAGS), json.dumps(asked)],
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        assert done.returncode == 0, done.stderr
        return {**json.loads(done.stdout.splitlines()[-1]), "output": done.stdout + done.stderr}

    def orders(self, **orders: object) -> None:
        (self.workspace / "fake.json").write_text(json.dumps({"gate": ACCEPTED, **orders}))

    def calls(self) -> list[dict]:
        path = self.workspace / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def names(self) -> list[str]:
        return [call["name"] for call in self.calls()]


@pytest.fixture(scope="session")
def airflow_home(tmp_path_factory):
    """Migrated once; every Airflow gets a copy of it."""
    home = tmp_path_factory.mktemp("airflow")
    output = Airflow(home, home, "unused").run("db", "migrate")
    assert "Database migration done" in output, output
    return home


@pytest.fixture(scope="session")
def make_airflow(airflow_home):
    """A function: an Airflow in a folder, with a workspace and the stand-in for `updater`."""

    def make(folder: Path) -> Airflow:
        home = shutil.copytree(airflow_home, folder / "home")
        workspace = folder / "workspace"
        workspace.mkdir()
        (workspace / "updater.toml").write_text('[periods]\nevery = "month"\n')
        script = folder / "updater"
        script.write_text(f"#!{sys.executable}\n{FAKE.read_text()}")
        script.chmod(0o755)
        airflow = Airflow(home, workspace, str(script))
        airflow.orders()
        return airflow

    return make


@pytest.fixture
def airflow(make_airflow, tmp_path):
    return make_airflow(tmp_path)
