"""Deploying a version by hand, from Airflow's form: `updater promote`. docs/airflow.md."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Param

if (HERE := str(Path(__file__).parent)) not in sys.path:  # Airflow adds a bundle's root alone
    sys.path.append(HERE)
from updater_dags import by_hand, limits
from updater_dags.about import about
from updater_dags.command import person_of
from updater_dags.notify import Notices
from updater_dags.workspaces import Workspace, each

Context = Any

LINE = "Deploy a version by hand"
ABOUT = """Deploys a version that the gate accepted and whose base is what is deployed; any other
only with *force*. The reason and your name stand in the history for ever.

**target** sees whether that may be, and what is deployed; **promote** does it only if nobody has
released since, so that a task that is tried again undoes nobody's rollback."""

PARAMS = {
    "version": Param(
        type="string",
        pattern=r"^\S+$",
        title="Version",
        description="As in `updater scores` and in MLflow, without a v",
    ),
    "reason": Param(
        type="string", pattern=r"\S", title="Reason", description="For the history; required"
    ),
    "force": Param(
        False,
        type="boolean",
        title="Force",
        description="Against the gate's verdict, or over another base",
    ),
}


def target_arguments(context: Context) -> tuple[list[str], str]:
    """Ask whether the version of the form may be deployed."""
    return _arguments(context, "--dry-run"), person_of(context)


def promote_arguments(context: Context) -> tuple[list[str], str]:
    """Deploy it, in the name of who filled in the form."""
    after = context["ti"].xcom_pull(task_ids="target")["after"]
    return _arguments(context, "--after", str(after)), person_of(context)


def _arguments(context: Context, *how: str) -> list[str]:
    given = context["params"]
    force = ["--force"] if given["force"] else []
    return ["promote", *how, *force, "--reason", given["reason"], "--", given["version"]]


def build(workspace: Workspace) -> None:
    """The workspace's DAG."""
    notices = Notices(workspace.notify)
    with DAG(
        dag_id=workspace.dag_id("model_promote"),
        schedule=None,
        is_paused_upon_creation=False,  # it runs only when somebody triggers it
        max_active_runs=1,
        params=PARAMS,
        default_args={**limits.defaults(), **limits.release(), "retries": 1},
        **about(workspace, notices, LINE, ABOUT),
    ):
        by_hand.release("promote", target_arguments, promote_arguments, workspace, notices)


each("model_promote", build)
