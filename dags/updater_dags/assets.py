"""The assets by which other pipelines hear of releases and start updates.

An event of a run that has a partition key, as runs of the schedule have, reaches no DAG that waits
for the plain asset (Airflow 3.3). So releases are told by a DAG of their own, whose runs have none;
and data is listened for twice, with and without a partition.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from updater_dags.command import UpdaterCommand
from updater_dags.workspaces import Workspace

Context = Any
PLAIN = re.compile(r"(?:[A-Za-z0-9_~:+-]|\.(?!\.)){1,100}")  # Airflow refuses other run ids
TOLD = ("event", "kind", "version", "previous", "update", "period", "actor", "reason", "at")


def deployed(workspace: Workspace) -> Asset:
    """Has an event for a release, a promotion or a rollback: of several at once for the newest,
    which says what is to be served."""
    return Asset(f"x-updater://{workspace.key or workspace.name}/deployed")


def data(workspace: Workspace) -> Asset:
    """Whose events start updates: a URI, or a name and a URI, as the upstream DAG has them."""
    first, _, second = workspace.data_asset.strip().partition(" ")
    return Asset(name=first, uri=second.strip()) if second else Asset(first)


class Announce(TriggerDagRunOperator):
    """Has the release announced, where one of the run's tasks `releasing` has released.

    Without `releasing` always: a task that failed may have released, as where MLflow could not
    follow. The announcement asks the ledger, and tells what it has told before to nobody.
    """

    def __init__(
        self, *, workspace: Workspace, releasing: Sequence[str] = (), **kwargs: Any
    ) -> None:
        to = workspace.dag_id("model_announcement")
        super().__init__(trigger_dag_id=to, logical_date=None, **kwargs)
        self.releasing = releasing

    def execute(self, context: Context) -> None:
        """Start the announcement's run."""
        answers = [context["ti"].xcom_pull(task_ids=name) for name in self.releasing]
        if answers and not any(has_released(answer) for answer in answers if answer):
            raise AirflowSkipException("nothing was released")
        super().execute(context)


class Announcement(UpdaterCommand):
    """An event of the asset, where what is deployed has come by a release that had none yet."""

    def __init__(self, *, workspace: Workspace, **kwargs: Any) -> None:
        asset = deployed(workspace)
        kwargs |= {"inlets": [asset], "outlets": [asset]}
        super().__init__(workspace=workspace, arguments=status_arguments, **kwargs)

    def execute(self, context: Context) -> dict[str, Any]:
        """Ask what is deployed; the event's extra."""
        status = self.ask(context)
        if "release" not in status:
            raise AirflowFailException(
                "this worker's updater is older than the DAGs: it does not say by which release "
                "the deployed version came. Bring both to one version."
            )
        release = status["release"]
        if release is None:
            raise AirflowSkipException("nothing is deployed yet")
        if not status["consistent"]:
            raise AirflowException(
                f"version {release['version']} is deployed by the ledger, and MLflow's alias says "
                "otherwise, or MLflow can't be asked. Only what both say is announced: run "
                "`updater status --repair`, and then trigger this DAG"
            )
        extra = {"model": self.workspace.name, **{name: release[name] for name in TOLD}}
        asset = self.outlets[0]
        last = list(context["inlet_events"][asset].ascending(False).limit(1))
        if last and all(last[0].extra.get(n) == extra[n] for n in ("event", "at")):
            raise AirflowSkipException(f"version {release['version']} has been announced")
        context["outlet_events"][asset].extra = extra
        return extra


class Arrived(UpdaterCommand):
    """The runs of `model_update` that the run's asset events ask for, in their order: what
    `expand_kwargs` of TriggerDagRunOperator takes.

    An event's extra {"period": P} names the period, else the partition key of its run does (as
    `updater step ingest --partition` reads it). Else it is for all that are due, the oldest first,
    and each run `after` the one before: where that fails, it learns nothing (`Turn`).
    """

    def __init__(self, *, workspace: Workspace, **kwargs: Any) -> None:
        super().__init__(workspace=workspace, arguments=due_arguments, **kwargs)

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Ask what is due, where an event does not say."""
        key = context["dag_run"].partition_key
        told = [event for some in context["triggering_asset_events"].values() for event in some]
        found: dict[str, dict[str, Any]] = {}
        due: list[str] | None = None
        for event in sorted(told, key=lambda event: event.timestamp):
            period = period_of(event.extra or {})
            if period or key:
                wanted = [{"period": period} if period else {"partition": key}]
            else:
                due = self.ask(context)["due"] if due is None else due
                wanted = [{"period": period} for period in due]
            before = ""
            for conf in wanted:
                name = next(iter(conf.values()))
                run = f"data__{word_of(name)}__{event.timestamp.isoformat()}"
                after = {"after": before} if before else {}
                one = found.setdefault(name, {"conf": {**conf, **after}, "trigger_run_id": run})
                before = one["trigger_run_id"]
        if not found:
            self.log.info("nothing is due")
        return list(found.values())


def has_released(answer: Mapping[str, Any]) -> bool:
    """Whether a command's answer says that a version was deployed: step release's, or another's."""
    return bool(answer.get("promoted", "previous" in answer))


def period_of(extra: Mapping[str, Any]) -> str:
    """The period that an event names; "" where it names none."""
    period = extra.get("period", "")
    if not isinstance(period, str):
        raise AirflowFailException(
            f'the asset event says {{"period": {period!r}}}: it must be a text, as "2026-04"'
        )
    return period


def word_of(name: str) -> str:
    """The name, or what stands for it in a run's id, where it may be anything."""
    return name if PLAIN.fullmatch(name) else hashlib.sha256(name.encode()).hexdigest()[:16]


def status_arguments(context: Context) -> tuple[list[str], str]:
    """What is deployed, and how it came."""
    return ["status"], ""


def due_arguments(context: Context) -> tuple[list[str], str]:
    """What has closed and is not learnt."""
    return ["due"], ""
