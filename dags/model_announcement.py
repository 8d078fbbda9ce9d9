"""An asset event for the newest release, which other pipelines wait for. docs/airflow.md.

Started by the DAGs that release, and after a release on the command line by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path

from airflow.sdk import DAG

if (HERE := str(Path(__file__).parent)) not in sys.path:  # Airflow adds a bundle's root alone
    sys.path.append(HERE)
from updater_dags import limits
from updater_dags.about import about
from updater_dags.assets import Announcement, deployed
from updater_dags.notify import Notices
from updater_dags.workspaces import Workspace, each

LINE = "Tell other pipelines what is deployed now"
ABOUT = """Emits an event of the asset `{uri}` where what is deployed has come by a release, a
promotion or a rollback, that had no event yet: of several the newest. Its extra says what, by
whom and why. Run it by hand after a release on the command line; to run it without one changes
nothing."""


def build(workspace: Workspace) -> None:
    """The workspace's DAG."""
    notices = Notices(workspace.notify)
    text = ABOUT.format(uri=deployed(workspace).uri)
    with DAG(
        dag_id=workspace.dag_id("model_announcement"),
        schedule=None,
        max_active_runs=1,  # what was announced is looked up, then told
        is_paused_upon_creation=False,  # of itself it does nothing
        default_args={**limits.defaults(), **limits.release()},
        **about(workspace, notices, LINE, text),
    ):
        Announcement(
            task_id="announcement",
            workspace=workspace,
            on_failure_callback=notices.of_failure(),
        )


each("model_announcement", build)
