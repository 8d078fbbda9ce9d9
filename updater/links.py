"""Addresses of MLflow's pages: of the model, a version, an update's run and its report.

Only where MLflow has a page: `store.mlflow_page`, or a server as `store.mlflow_uri`. Nothing is
asked of it, so that they are told where it is lost, too. Imports nothing heavy.
"""

from typing import Any
from urllib.parse import quote, urlsplit

from store import views
from store.ledger import Update
from updater.workspace import Workspace

REPORT = "report.html"


def of_update(workspace: Workspace, update: Update) -> dict[str, str]:
    """Its run, the report on it, its candidate's page; {} where there is no page or no run yet."""
    return of_version(workspace, update.candidate) if update.candidate is not None else {}


def of_version(workspace: Workspace, version: str) -> dict[str, str]:
    """As `of_update`, of a version that is known."""
    found = workspace.ledger.model_version(version)
    page = _page(workspace)
    if not page:
        return {}
    name = quote(workspace.settings.workspace.name, safe="")
    links = {"model": f"{page}/models/{name}/versions/{quote(version, safe='')}"}
    experiment = _experiment(workspace, found.update)
    if experiment is None:  # of a release that did not keep it: MLflow finds the run by itself
        return {"run": f"{page}/runs/{found.run_id}", **links}
    run = f"{page}/experiments/{experiment}/runs/{found.run_id}"
    return {"run": run, "report": f"{run}/artifacts/{REPORT}", **links}


def of_workspace(workspace: Workspace) -> dict[str, str]:
    """The model's page and, once there is a version, the views of all updates and versions."""
    page = _page(workspace)
    if not page:
        return {}
    links = {"model": f"{page}/models/{quote(workspace.settings.workspace.name, safe='')}"}
    newest = workspace.ledger.newest_version()
    experiment = _experiment(workspace, newest.update) if newest is not None else None
    if experiment is not None:
        runs = f"{page}/experiments/{experiment}/runs?{views.PARAMETER}="
        links["updates"] = f"{runs}{views.UPDATES}"
        links["versions"] = f"{runs}{views.VERSIONS}&compareRunsMode=CHART"
    return links


def _page(workspace: Workspace) -> str:
    """The address before a route of MLflow's page, without a password; "" where there is none."""
    store = workspace.settings.store
    given = store.mlflow_page or store.mlflow_uri
    if not given.startswith(("http://", "https://")):
        return ""
    parts = urlsplit(given)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="", fragment="").geturl().rstrip("/") + "/#"


def _experiment(workspace: Workspace, update: str | None) -> str | None:
    step = workspace.ledger.step(update, "train") if update is not None else None
    result: dict[str, Any] = step.result if step is not None else {}
    return result.get("experiment")
