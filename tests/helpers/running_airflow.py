"""An Airflow of the tests of DAGs that runs: scheduler, API server, dag-processor and triggerer, as
`airflow standalone` starts them, and its REST API as its admin calls it."""

import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from updater import local
from updater.daemon import Daemon, fetch


class Api:
    """Airflow's, as its admin."""

    def __init__(self, url: str, password: str) -> None:
        self.url, self.token = url, ""
        body = {"username": "admin", "password": password}
        self.token = self("POST", "/auth/token", body)["access_token"]

    def __call__(self, method: str, path: str, body: dict | None = None) -> dict:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def trigger(self, dag: str, **fields: object) -> str:
        """A run begins, once; its id. Over SQLite the server answers 500 where another process
        wrote after the transaction had read ("database is locked", for which no timeout waits), and
        nothing is written: it is asked again for the same run."""
        run = f"manual__{uuid.uuid4().hex}"
        body = {"dag_run_id": run, "logical_date": None, **fields}
        end = time.monotonic() + 20
        while True:
            try:
                self("POST", f"/api/v2/dags/{dag}/dagRuns", body)
                return run
            except urllib.error.HTTPError as error:
                if error.code == 409:  # the answer to an earlier asking was lost
                    return run
                if error.code != 500 or time.monotonic() > end:
                    raise
                time.sleep(1)

    def unpause(self, dag: str) -> None:
        self("PATCH", f"/api/v2/dags/{dag}", {"is_paused": False})

    def dags(self) -> set[str]:
        return {one["dag_id"] for one in self("GET", "/api/v2/dags?limit=200")["dags"]}

    def runs(self, dag: str) -> list[dict]:
        return self("GET", f"/api/v2/dags/{dag}/dagRuns?order_by=run_after")["dag_runs"]


@contextmanager
def running(airflow, log: Path, dags: Iterable[str], **environ: str) -> Iterator[Api]:
    """The Airflow (tests/dags/conftest.py) runs with this environment and knows these DAGs, without
    an import error."""
    port, home = local.free_port(0), Path(airflow.environ["AIRFLOW_HOME"])
    url = f"http://{local.HOST}:{port}"

    def is_healthy() -> bool:
        parts = json.loads(fetch(f"{url}/api/v2/monitor/health"))
        return all(parts[n]["status"] == "healthy" for n in ("scheduler", "dag_processor"))

    daemon = Daemon(
        "Airflow",
        [local.sys.executable, "-P", "-m", "airflow", "standalone"],
        environ={
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",  # the machine may be busy
            **local.airflow_environment(airflow.workspace, home, port, airflow.environ),
            **environ,
        },
        log=log,
        is_healthy=is_healthy,
    )
    try:
        until(is_healthy, 300, daemon)
        kept = json.loads((home / "simple_auth_manager_passwords.json.generated").read_text())
        api = Api(url, kept["admin"])
        wanted = set(dags)
        until(lambda: wanted <= api.dags(), 90, daemon)
        assert api("GET", "/api/v2/importErrors")["import_errors"] == []
        api("POST", "/api/v2/pools", {"name": "gpu", "slots": 4})
        yield api
    finally:
        daemon.stop()


def until(condition, seconds, daemon=None):
    """What the condition answers, once that is something."""
    end = time.monotonic() + seconds
    while True:
        try:
            if found := condition():
                return found
        except (OSError, KeyError):  # it does not answer yet
            pass
        assert time.monotonic() < end, daemon.tail() if daemon else "waited in vain"
        time.sleep(0.5)
