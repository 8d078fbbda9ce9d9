"""The update of a model as an Airflow DAG: one task per step, each one `updater` command.

Parsed by Airflow's dag-processor and run by its workers. Which workspaces, and the environment's
other variables: docs/airflow.md. No logic of its own: what a step does is the command's business,
and every command may be run again at any time.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Param, chain, task
from airflow.sdk.exceptions import AirflowFailException

if (HERE := str(Path(__file__).parent)) not in sys.path:  # Airflow adds a bundle's root alone
    sys.path.append(HERE)
from updater_dags import limits
from updater_dags.about import about
from updater_dags.approval import (
    Approval,
    approve_arguments,
    question,
    reject_arguments,
    update_of,
)
from updater_dags.assets import Announce
from updater_dags.command import UpdaterCommand
from updater_dags.configuration import DEFAULT_APPROVAL_SECONDS, timetable
from updater_dags.form import ASKING, form
from updater_dags.notify import MACROS, Notices
from updater_dags.turn import Turn
from updater_dags.workspaces import Workspace, each

Context = Any

LINE = "Learn one period: fine-tune, evaluate, judge and release the model"
ABOUT = """Learns one period of data, when it is its **turn** (one run at a time, the oldest tick
first, and none after one that failed): **ingest** (validate and version the rows), **rehearse**
(choose old examples to show again), **importance** (how much each weight matters for the past),
**train**, **evaluate** (deployed model and candidate on every period's holdout), **gate** (the
verdict) and **release** (promote what was accepted).

A run started by the schedule learns the period that closed before its partition key. A run
started by hand names its period in the form (`period`).

Where the gate says `review`, or `gate.approval = "manual"`, the run stops at **approval** and
waits for a person. Nobody answering is *Reject*. `importance`, `train` and `evaluate` need the
pool `gpu`: `airflow pools set gpu 1 "one slot per GPU"`."""


def ingest_arguments(context: Context) -> tuple[list[str], str]:
    """Open the update of the period that the run names, by parameter or by partition key."""
    period, run = context["params"].get("period"), context["dag_run"]
    partition = run.partition_key or (run.conf or {}).get("partition")
    if period:
        return ["step", "ingest", "--period", period, *settings_of(context)], ""
    if partition:
        return ["step", "ingest", "--partition", partition, *settings_of(context)], ""
    raise AirflowFailException(
        "this run names no period. Trigger the DAG again with the parameter `period`; "
        "`updater due` lists the periods that have closed and are not yet learnt."
    )


def step_arguments(name: str, context: Context) -> tuple[list[str], str]:
    """Run the step of the update that `ingest` has opened."""
    return ["step", name, "--update", update_of(context), *settings_of(context)], ""


def settings_of(context: Context) -> list[str]:
    """Every step of an update runs by the same settings."""
    return [word for one in context["params"].get("settings") or [] for word in ("--set", one)]


@task.short_circuit(task_id="approval_needed", ignore_downstream_trigger_rules=False)
def approval_needed(ti: Any = None) -> str | None:
    """The question for a person; without one the tasks of the answer are skipped."""
    return question(ti.xcom_pull(task_ids="gate"))


def build(workspace: Workspace) -> None:
    """The workspace's DAG."""
    settings, notices = workspace.settings, Notices(workspace.notify)
    policy = settings.get("rehearsal.policy", "")
    releasing = limits.release()  # from the verdict on: what is released waits behind no ingest
    steps: dict[str, dict[str, Any]] = {
        "rehearse": limits.gpu() if policy in ASKING else {},
        "importance": limits.gpu(),
        "train": limits.gpu(),
        "evaluate": limits.gpu(),
        "gate": {"on_success_callback": notices.of_verdict(), **releasing},
        "release": releasing,
    }

    def command(name: str, arguments: Any, **options: Any) -> UpdaterCommand:
        told = {"on_failure_callback": notices.of_failure()}
        return UpdaterCommand(
            task_id=name, workspace=workspace, arguments=arguments, **told, **options
        )

    seconds = settings.get("gate.approval_timeout_seconds", DEFAULT_APPROVAL_SECONDS)
    with DAG(
        dag_id=workspace.dag_id("model_update"),
        schedule=timetable(settings),
        start_date=limits.start_of(workspace.start),
        catchup=True,  # a tick that went by while Airflow stood still is a period to learn
        max_active_runs=1,  # backfills aside: those `turn` puts in order
        params=form(policy),
        # Airflow asks for a start with catchup, here if need be for none: then what came before the
        # first run is not caught up, and that is of the next tick.
        default_args={**limits.defaults(), "start_date": None},
        user_defined_macros=MACROS,
        **about(workspace, notices, LINE, ABOUT),
    ):
        approval = Approval(
            task_id="approval",
            subject="May this model be released?",
            body="{{ ti.xcom_pull(task_ids='approval_needed') }}",
            params={
                "reason": Param("", type="string", title="Reason", description="For the history")
            },
            defaults=ApprovalOperator.REJECT,
            response_timeout=timedelta(seconds=seconds),
            execution_timeout=None,  # it would end the wait and not the work (airflow#55866)
            on_failure_callback=notices.of_failure(),
            **releasing,
        )
        chain(
            Turn(task_id="turn", last="announce", on_failure_callback=notices.of_failure()),
            command("ingest", ingest_arguments),
            *(command(name, partial(step_arguments, name), **o) for name, o in steps.items()),
            approval_needed.override(on_failure_callback=notices.of_failure(), **releasing)(),
            approval,
            command("approve", approve_arguments, **releasing),
            command("reject", reject_arguments, trigger_rule="none_failed", **releasing),
            Announce(
                task_id="announce",
                workspace=workspace,
                releasing=["release", "approve"],
                trigger_rule="none_failed",
                on_failure_callback=notices.of_failure(),
                **releasing,
            ),
        )


each("model_update", build)
