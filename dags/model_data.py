"""Updates that an upstream pipeline starts by an event of its data asset. docs/airflow.md.

Two DAGs, where the workspace has a data asset: an event of a run that has a partition key reaches
only a DAG that asks for partitions, and every other event none that does. Not the schedule of
`model_update` itself (AssetOrTimeSchedule): its runs would have no partition key, and one run would
take the events of several periods.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, PartitionedAssetTimetable

if (HERE := str(Path(__file__).parent)) not in sys.path:  # Airflow adds a bundle's root alone
    sys.path.append(HERE)
from updater_dags import limits
from updater_dags.about import about
from updater_dags.assets import Arrived, data
from updater_dags.notify import Notices
from updater_dags.workspaces import Workspace, each

LINE = "Start an update for the data that has arrived"
ABOUT = """Starts `model_update` for the period that the asset event names in its extra, as
`{"period": "2026-04"}`; else for the one that its partition key stands for; else for all that have
closed and are not learnt, in order."""


def build(kind: str, schedule: Any, workspace: Workspace) -> None:
    """The workspace's DAG, where it has a data asset."""
    if not workspace.data_asset:
        return
    notices = Notices(workspace.notify)
    with DAG(
        dag_id=workspace.dag_id(kind),
        schedule=schedule(data(workspace)),
        catchup=False,
        max_active_runs=1,
        default_args=limits.defaults(),
        **about(workspace, notices, LINE, ABOUT),
    ):
        arrived = Arrived(
            task_id="arrived", workspace=workspace, on_failure_callback=notices.of_failure()
        )
        TriggerDagRunOperator.partial(
            task_id="start",
            trigger_dag_id=workspace.dag_id("model_update"),
            logical_date=None,
            skip_when_already_exists=True,  # this task was tried again
            max_active_tis_per_dagrun=1,  # in their order
            on_failure_callback=notices.of_failure(),
        ).expand_kwargs(arrived.output)


each("model_data", partial(build, "model_data", lambda asset: [asset]))
each(
    "model_data_partition",
    partial(build, "model_data_partition", lambda asset: PartitionedAssetTimetable(assets=asset)),
)
