"""A study as an Airflow DAG: an arm is a task, and many run at a time. docs/airflow.md."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Param

if (HERE := str(Path(__file__).parent)) not in sys.path:  # Airflow adds a bundle's root alone
    sys.path.append(HERE)
from updater_dags import limits
from updater_dags.about import about
from updater_dags.command import UpdaterCommand
from updater_dags.notify import Notices
from updater_dags.workspaces import Workspace, each

Context = Any

MOST_ARMS = 1024  # as many as Airflow maps; of its own it runs 16 tasks of a run at a time
LINE = "Compare ways to keep the model up to date"
ABOUT = """Runs a study (`updater study`): **plan** reads the file, **first** trains the models that
all arms start from, **arm** is one task for each arm, as many at a time as the pool `gpu` has
slots, and **report** writes tables, plots and the page and tells MLflow. Nothing is released. A
task that failed is cleared and goes on where it was."""

PARAMS = {
    "file": Param(
        type="string",
        pattern=r"\S",
        title="Study file",
        description="A TOML file that the workers see; a relative path is the workspace's",
    ),
    "quick": Param(
        False,
        type="boolean",
        title="Quick",
        description="The short form that the file's [quick] describes",
    ),
}


def study_arguments(*more: str) -> Any:
    """Of one call of `updater study`; a mapped task's is for its arm alone."""

    def arguments(context: Context) -> tuple[list[str], str]:
        given, command = context["params"], context["task"]
        file = str(Path(command.workspace.folder, given["file"]))
        quick = ["--quick"] if given["quick"] else []
        only = ["--only", command.item] if command.item is not None else []
        return ["study", file, *quick, *only, *more], ""

    return arguments


def build(workspace: Workspace) -> None:
    """The workspace's DAG."""
    notices = Notices(workspace.notify)

    def common(name: str, *more: str) -> dict[str, Any]:
        return {
            "task_id": name,
            "workspace": workspace,
            "arguments": study_arguments(*more),
            "on_failure_callback": notices.of_failure(),
        }

    with DAG(
        dag_id=workspace.dag_id("model_study"),
        schedule=None,
        is_paused_upon_creation=False,  # it runs only when somebody triggers it
        max_active_tasks=MOST_ARMS,
        params=PARAMS,
        default_args=limits.defaults(),
        **about(workspace, notices, LINE, ABOUT),
    ):
        plan = UpdaterCommand(**common("plan", "--list"), take="arms")
        first = UpdaterCommand(**common("first", "--first"), **limits.gpu())
        arms = UpdaterCommand.partial(
            **common("arm"), map_index_template="{{ task.item }}", **limits.gpu()
        ).expand(item=plan.output)
        report = UpdaterCommand(**common("report"), **limits.gpu())
        plan >> first >> arms >> report


each("model_study", build)
