"""The tasks of a release by hand: what `model_promote` and `model_rollback` have in common."""

from __future__ import annotations

from airflow.providers.standard.operators.empty import EmptyOperator

from updater_dags.assets import Announce
from updater_dags.command import Arguments, UpdaterCommand
from updater_dags.notify import Notices
from updater_dags.workspaces import Workspace


def release(
    name: str, find: Arguments, do: Arguments, workspace: Workspace, notices: Notices
) -> None:
    """`target` finds out what would be deployed, the task `name` does it, and `announce` tells of
    it, whatever became of it. By itself that would make the run of a release that failed a success;
    so the run has `released` as another end."""
    told = {"workspace": workspace, "on_failure_callback": notices.of_failure()}
    target = UpdaterCommand(task_id="target", arguments=find, **told)
    done = UpdaterCommand(task_id=name, arguments=do, **told)
    announce = Announce(task_id="announce", trigger_rule="all_done", **told)
    target >> done >> [announce, EmptyOperator(task_id="released")]
