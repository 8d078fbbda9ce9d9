"""Where people look at an update's run and report, as addresses for their browser.

None where MLflow is no server. Asks nobody: MLflow's page finds the experiment of a run by itself.
"""

import os
from urllib.parse import urlencode, urlsplit

ADDRESS = "UPDATER_MLFLOW_LINK"
"""The environment's name of MLflow's address for browsers, where it is not the one that we use."""


def of_run(mlflow_uri: str, run_id: str) -> dict[str, str]:
    """`mlflow`: the run's page; `report`: the report that step release leaves there."""
    parts = urlsplit(os.environ.get(ADDRESS) or mlflow_uri)
    if parts.scheme not in ("http", "https"):
        return {}
    host = parts.netloc.rpartition("@")[2]  # without a password
    base = parts._replace(netloc=host, query="", fragment="").geturl().rstrip("/")
    report = urlencode({"path": "report.html", "run_uuid": run_id})
    return {"mlflow": f"{base}/#/runs/{run_id}", "report": f"{base}/get-artifact?{report}"}
