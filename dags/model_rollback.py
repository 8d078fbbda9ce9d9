"""Going back to what was deployed before, from Airflow's form: `updater rollback`.
docs/airflow.md."""

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

LINE = "Deploy again what was deployed before"
ABOUT = """Deploys what was deployed before, or the version that you name. Again, and it walks
further back. The reason and your name stand in the history for ever.

**target** finds out which version that is, and **rollback** goes to that one if nobody has released
since, so that a task that is tried again goes no further back and undoes nobody's promotion."""

PARAMS = {
    "reason": Param(
        type="string", pattern=r"\S", title="Reason", description="For the history; required"
    ),
    "version": Param(
        None,
        type=["null", "string"],
        title="Version",
        description="One that was deployed before. Empty: the one before the present.",
    ),
}


def target_arguments(context: Context) -> tuple[list[str], str]:
    """Ask where a rollback goes."""
    given = context["params"]
    to = ["--to", given["version"]] if given["version"] else []
    return ["rollback", "--dry-run", *to, "--reason", given["reason"]], person_of(context)


def rollback_arguments(context: Context) -> tuple[list[str], str]:
    """Go there, in the name of who filled in the form."""
    found = context["ti"].xcom_pull(task_ids="target")
    where = ["--to", found["target"], "--after", str(found["after"])]
    return ["rollback", *where, "--reason", context["params"]["reason"]], person_of(context)


def build(workspace: Workspace) -> None:
    """The workspace's DAG."""
    notices = Notices(workspace.notify)
    with DAG(
        dag_id=workspace.dag_id("model_rollback"),
        schedule=None,
        is_paused_upon_creation=False,  # it runs only when somebody triggers it
        max_active_runs=1,
        params=PARAMS,
        default_args={**limits.defaults(), **limits.release(), "retries": 1},
        **about(workspace, notices, LINE, ABOUT),
    ):
        by_hand.release("rollback", target_arguments, rollback_arguments, workspace, notices)


each("model_rollback", build)
