"""`updater.local.up` for real: Airflow and MLflow started on a workspace, talked to over HTTP,
people's answers given as the web page gives them, and nothing left after Ctrl-C. The command that
Airflow calls is the stand-in of tests/dags; everything else is the real thing."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import coverage
import psutil
import pytest
from far_ticks import YEARLY
from running_airflow import Api

from updater import local, orphans
from updater.daemon import Daemon
from updater.errors import InputError, UpdateError

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
RUNBOOK = PROJECT.with_name("docs") / "runbook.md"
FAKE = Path(__file__).resolve().parents[1] / "dags" / "fake_updater.py"
START = """
import os
import sys

if os.environ.get("COVERAGE_PROCESS_START"):  # measured here too, where the tests are
    import coverage

    coverage.process_startup()
    del os.environ["COVERAGE_PROCESS_START"]

from pathlib import Path
from updater.local import up

workspace, airflow_port, mlflow_port, mlflow_uri = sys.argv[1:]
sys.exit(
    up(
        Path(workspace),
        mlflow_uri=mlflow_uri,
        mlflow_artifacts=str(Path(workspace) / "mlartifacts"),
        airflow_port=int(airflow_port),
        mlflow_port=int(mlflow_port),
    )
)
"""


class Served:
    """`up` in a process of its own, its stderr in a file, and the two addresses it printed."""

    def __init__(self, folder: Path, mlflow_uri: str = "") -> None:
        self.workspace = folder / "workspace"
        self.workspace.mkdir()
        (self.workspace / "updater.toml").write_text(
            f'[periods]\nevery = "month"\nschedule = "{YEARLY}"\n'
        )
        script = folder / "updater"
        script.write_text(f"#!{sys.executable}\n{FAKE.read_text()}")
        script.chmod(0o755)
        self.log = folder / "stderr"
        uri = mlflow_uri or f"sqlite:///{self.workspace / 'mlflow.db'}"
        self.taken = socket.create_server((local.HOST, 0))  # so `up` has to choose another port
        ports = [str(self.taken.getsockname()[1]), str(local.free_port(0))]
        is_measured = coverage.Coverage.current() is not None
        measured = {"COVERAGE_PROCESS_START": str(PROJECT)} if is_measured else {}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", START, str(self.workspace), *ports, uri],
                env={**os.environ, **measured, "UPDATER_EXECUTABLE": str(script)},
                stderr=log,
                stdout=subprocess.DEVNULL,
            )

    def wait_for(self, condition, seconds: float = 180):
        end = time.monotonic() + seconds
        while True:
            found = condition()
            if found:
                return found
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.2)

    def login(self) -> None:
        def printed():
            assert self.process.poll() is None, self.log.read_text()
            return re.search(
                r"Airflow  (\S+)   login admin / (\S+)\nMLflow   (\S+)\n", self.log.read_text()
            )

        match = self.wait_for(printed)
        url, password, self.mlflow = match.groups()
        self.call = Api(url, password)

    def orders(self, **orders) -> None:
        (self.workspace / "fake.json").write_text(json.dumps(orders))
        (self.workspace / "calls.jsonl").write_text("")

    def calls(self) -> list[dict]:
        lines = (self.workspace / "calls.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def trigger(self, **fields) -> str:
        return self.call.trigger("model_update", **(fields or {"conf": {"period": "2026-04"}}))

    def states(self, run: str) -> dict[str, str]:
        path = f"/api/v2/dags/model_update/dagRuns/{run}/taskInstances"
        return {t["task_id"]: t["state"] for t in self.call("GET", path)["task_instances"]}

    def answer(self, run: str, option: str, reason: str) -> None:
        """As the form on the page does."""
        path = f"/api/v2/dags/model_update/dagRuns/{run}/taskInstances/approval/-1/hitlDetails"
        self.wait_for(lambda: self.states(run)["approval"] == "awaiting_input")
        # Airflow 3.3 fails the task when the answer comes before its scheduler has noticed that
        # the task waits: no person is that fast, and the retry would ask again.
        noticed = f"executor event .* task_id='approval', run_id='{re.escape(run)}'"
        log = self.workspace / ".airflow" / "logs-local" / "airflow.log"
        self.wait_for(lambda: re.search(noticed, log.read_text()))
        detail = self.call("GET", path)
        assert "**review**" in detail["body"]
        assert detail["defaults"] == ["Reject"]
        body = {"chosen_options": [option], "params_input": {"reason": reason}}
        self.call("PATCH", path, body)

    def ended(self, run: str) -> str:
        path = f"/api/v2/dags/model_update/dagRuns/{run}"

        def state():
            found = self.call("GET", path)["state"]
            return found if found in ("success", "failed") else None

        return self.wait_for(state)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    served = Served(tmp_path_factory.mktemp("served"))
    try:
        served.login()
        yield served
    finally:
        served.taken.close()
        if served.process.poll() is None:
            served.process.send_signal(signal.SIGTERM)
            served.process.wait(60)


GATE = {"verdict": "review", "reasons": ["2026-01: can't tell"], "approval": "needed"}


def test_both_answer_and_the_pool_and_the_dag_are_there(served):
    with urllib.request.urlopen(f"{served.mlflow}/health", timeout=10) as answer:
        assert answer.read() == b"OK"
    health = served.call("GET", "/api/v2/monitor/health")
    assert health["scheduler"]["status"] == "healthy"
    assert served.call("GET", "/api/v2/pools/gpu")["slots"] == 1
    dag = served.call("GET", "/api/v2/dags/model_update")
    assert dag["is_paused"] is False
    assert served.call("GET", "/api/v2/importErrors")["total_entries"] == 0
    assert not served.call.url.endswith(f":{served.taken.getsockname()[1]}")
    assert (served.workspace / ".airflow" / ".gitignore").read_text() == "*\n"
    assert (served.workspace / "mlflow.db").exists()


def test_a_person_approves_and_is_named(served):
    served.orders(gate=GATE)
    run = served.trigger()
    served.answer(run, "Approve", "looked at it")
    assert served.ended(run) == "success"
    last = served.calls()[-1]
    assert last["arguments"][:2] == ["approve", "u-1"]
    assert last["arguments"][3] == "Approve was the answer of admin in Airflow: looked at it"
    assert last["actor"] == "admin"
    states = served.states(run)
    assert (states["approve"], states["reject"]) == ("success", "skipped")


def test_a_person_rejects_what_a_partition_started(served):
    served.orders(gate=GATE)
    run = served.trigger(partition_key="2026-05-01T03:00:00")
    served.answer(run, "Reject", "")
    assert served.ended(run) == "success"
    last = served.calls()[-1]
    assert last["arguments"] == [
        "reject",
        "u-1",
        "--reason",
        "Reject was the answer of admin in Airflow",
    ]
    assert served.states(run)["approve"] == "skipped"


def test_a_second_one_on_the_same_workspace_is_refused(served):
    uri = f"sqlite:///{served.workspace / 'mlflow.db'}"
    with pytest.raises(UpdateError, match="already being served"):
        local.up(served.workspace, mlflow_uri=uri, mlflow_artifacts="")


def test_a_shell_that_sources_the_environment_speaks_to_that_airflow(served):
    """As docs/runbook.md says, in the workspace's folder; it shows nobody a secret."""
    typed = "source .airflow/environment"
    assert f"`{typed}`" in RUNBOOK.read_text("utf-8")
    kept = {key: os.environ[key] for key in os.environ if not key.startswith("AIRFLOW")}
    done = subprocess.run(
        ["bash", "-c", f"set -e; {typed}; airflow dags trigger model_announcement -o json"],
        cwd=served.workspace,
        env={**kept, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    runs = served.call("GET", "/api/v2/dags/model_announcement/dagRuns")["dag_runs"]
    assert [one["triggering_user_name"] for one in runs] != []
    text = (served.workspace / ".airflow" / "environment").read_text()
    assert f"source {served.workspace}/.airflow/environment\n" in served.log.read_text()
    assert "SECRET" not in text
    assert "UPDATER_STORE" not in text


def test_ctrl_c_leaves_nothing_behind_not_even_a_running_step(served):
    served.orders(gate=GATE, sleeps={"train": 600})
    served.trigger()
    served.wait_for(lambda: [call for call in served.calls() if call["name"] == "train"])
    me = psutil.Process(served.process.pid)
    family = [process.pid for process in me.children(recursive=True)]
    assert set(served.calls()[-1]["pids"]) <= set(family)
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(60) == 0
    assert [pid for pid in family if is_alive(pid)] == []
    assert served.log.read_text().endswith("stopped.\n")


def test_after_kill_9_too_nothing_is_left_and_meanwhile_no_second_one_starts(tmp_path):
    served = Served(tmp_path)
    served.taken.close()
    try:
        served.login()
        served.orders(gate=GATE, sleeps={"train": 600})
        served.trigger()
        served.wait_for(lambda: [call for call in served.calls() if call["name"] == "train"])
        family = [p.pid for p in psutil.Process(served.process.pid).children(recursive=True)]
        assert set(served.calls()[-1]["pids"]) <= set(family)
    finally:
        served.process.kill()
        served.process.wait()
    with pytest.raises(UpdateError, match="or wait half a minute where it was killed"):
        local.up(served.workspace, mlflow_uri="http://127.0.0.1:1", mlflow_artifacts="")
    served.wait_for(lambda: not any(map(is_alive, family)))
    with local._only_one(served.workspace / ".airflow"):
        pass  # the next one may start


def test_only_what_still_runs_is_stopped(tmp_path):
    """The number of one that has ended may be another's by now."""
    running, ended = (sleeper(tmp_path, f"import time; time.sleep({s})", bool) for s in (600, 0))
    ended._process.wait()
    orphans.stop_all([f"{running.pid}\n", f"{ended.pid}\n"])
    assert running.exit_code() is not None


def test_one_that_ends_is_shown_with_its_log(tmp_path):
    served = Served(tmp_path, mlflow_uri="no-such-database:///")
    served.taken.close()
    assert served.process.wait(90) == 1
    text = served.log.read_text()
    assert "MLflow ended or no longer answers" in text
    assert str(served.workspace / ".airflow" / "logs-local" / "mlflow.log") in text


def test_the_one_that_stops_answering_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "PROBE_SECONDS", 0.5)
    monkeypatch.setattr(local, "NUM_FAILED_PROBES", 2)
    daemon = sleeper(tmp_path, "import time; time.sleep(600)", lambda: False)
    with local._stop_event() as stop:
        assert local._watch([daemon], stop) is daemon
    daemon.stop()
    assert daemon.exit_code() is not None


def test_one_that_never_answers_runs_out_of_time(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "START_SECONDS", 0.5)

    def refuses() -> bool:
        raise ConnectionRefusedError

    daemon = sleeper(tmp_path, "import time; time.sleep(600)", refuses)
    with local._stop_event() as stop:
        assert local._start([daemon], stop) is daemon
    daemon.stop()


def test_a_program_that_ignores_every_request_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("updater.daemon.ASKED_SECONDS", 0.5)
    monkeypatch.setattr("updater.daemon.TOLD_SECONDS", 0.5)
    code = (
        "import signal, subprocess, sys, time\n"
        "for number in (signal.SIGINT, signal.SIGTERM):\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    daemon = sleeper(tmp_path, code, lambda: True)
    end = time.monotonic() + 20
    while "ready" not in daemon.tail():
        assert time.monotonic() < end
        time.sleep(0.05)
    family = psutil.Process(daemon.pid).children(recursive=True)
    assert len(family) == 1
    daemon.stop()
    daemon.stop()  # twice is once
    assert daemon.exit_code() == -signal.SIGKILL
    assert not any(is_alive(process.pid) for process in family)


def test_an_extra_that_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match="no_such_program is not installed"):
        local._require("no_such_program")


def test_another_airflows_settings_are_not_taken_over(tmp_path):
    given = {"AIRFLOW__CORE__EXECUTOR": "CeleryExecutor", "AIRFLOW_HOME": "/else", "A": "b"}
    environ = local.airflow_environment(tmp_path, tmp_path / ".airflow", 8123, given)
    assert environ["A"] == "b"
    assert environ["AIRFLOW_HOME"] == str(tmp_path / ".airflow")
    assert environ["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert environ["AIRFLOW__API__PORT"] == "8123"
    assert environ["UPDATER_WORKSPACE"] == str(tmp_path)
    assert Path(environ["AIRFLOW__CORE__DAGS_FOLDER"], "model_update.py").is_file()


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def sleeper(folder: Path, code: str, is_healthy) -> Daemon:
    return Daemon(
        "program",
        [sys.executable, "-c", code],
        environ=os.environ,
        log=folder / "program.log",
        is_healthy=is_healthy,
    )
