"""Deploying a version by hand, from Airflow's form: `updater promote`. docs/airflow.md."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Param

if (HERE := str(Path(__file__).parent)) not in sys.path:  # Airflow adds a bundle's root alone
    sys.path.append(HERE)
from updater_dags import limits
from updater_dags.about import about
from updater_dags.assets import announced
from updater_dags.command import UpdaterCommand, person_of
from updater_dags.notify import Notices
from updater_dags.workspaces import Workspace, each

Context = Any

LINE = "Deploy a version by hand"
ABOUT = """Deploys a version that the gate accepted and whose base is what is deployed; any other
only with *force*. The reason and your name stand in the history for ever. It is safe to run
again."""

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


def promote_arguments(context: Context) -> tuple[list[str], str]:
    """Deploy the version of the form, in the name of who filled it in."""
    given = context["params"]
    force = ["--force"] if given["force"] else []
    arguments = ["promote", *force, "--reason", given["reason"], "--", given["version"]]
    return arguments, person_of(context)


def build(workspace: Workspace) -> None:
    """The workspace's DAG."""
    notices = Notices(workspace.notify)
    with DAG(
        dag_id=workspace.dag_id("model_promote"),
        schedule=None,
        max_active_runs=1,
        params=PARAMS,
        default_args={**limits.defaults(), **limits.release(), "retries": 1},
        **about(workspace, notices, LINE, ABOUT),
    ):
        promote = UpdaterCommand(
            task_id="promote",
            workspace=workspace,
            arguments=promote_arguments,
            on_failure_callback=notices.of_failure(),
        )
        announced(promote, workspace, notices)


each("model_promote", build)
