"""Prints as JSON how Airflow sees the DAG files. Run by the tests in a process of its own, because
importing Airflow reads its environment once and for all."""

import json
import os
import shlex
import sys
from pathlib import Path

LAST = "2026-02-01T03:00:00+01:00"  # tick of the last run before Airflow stood still


def describe(task) -> dict:
    return {
        "upstream": sorted(task.upstream_task_ids),
        "pool": task.pool,
        "queue": task.queue,
        "retries": task.retries,
        "backoff": bool(task.retry_exponential_backoff),
        "execution_timeout": task.execution_timeout and task.execution_timeout.total_seconds(),
        "trigger_rule": str(task.trigger_rule),
        "type": task.task_type,
        "mapped": task.is_mapped,
        "pod": task.executor_config.get("pod_template_file"),
        "on_failure": [type(one).__name__ for one in task.on_failure_callback or ()],
        "on_success": [type(one).__name__ for one in task.on_success_callback or ()],
    }


def approval_of(task) -> dict:
    return {
        "defaults": task.defaults,
        "seconds": task.response_timeout.total_seconds(),
        "params": list(task.params),
        "is_approval": "ApprovalOperator" in [k.__name__ for k in type(task).mro()],
    }


def ticks_after(dag, last: str | None) -> list[str]:
    """When the scheduler makes the next runs of the DAG whose last one was that of tick `last`,
    as it would now: the first four."""
    from airflow.serialization.serialized_objects import DagSerialization
    from airflow.timetables.base import DagRunInfo
    from pendulum import parse

    def of(tick) -> DagRunInfo:
        return DagRunInfo(run_after=tick, data_interval=None, partition_date=tick)

    scheduled = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    info, found = of(parse(last)) if last else None, []
    for _ in range(4):
        info = scheduled.next_dagrun_info(last_automated_run_info=info)
        found.append(info.run_after.in_timezone("UTC").isoformat())
    return found


def structure(dags: Path) -> dict:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=str(dags))
    seen = {"errors": {Path(k).name: str(v) for k, v in bag.import_errors.items()}}
    for dag in bag.dags.values():
        seen[dag.dag_id] = {
            "tasks": {name: describe(task) for name, task in dag.task_dict.items()},
            "max_active_runs": dag.max_active_runs,
            "max_active_tasks": dag.max_active_tasks,
            "paused": dag.is_paused_upon_creation,
            "start": dag.start_date and dag.start_date.isoformat(),
            "description": dag.description,
            "docs": dag.doc_md,
            "tags": sorted(dag.tags),
            "timetable": type(dag.timetable).__name__,
            "cron": getattr(dag.timetable, "expression", None),
            "params": {name: dag.params.get_param(name).serialize() for name in dag.params},
            "assets": sorted(
                asset.uri for task in dag.tasks for asset in getattr(task, "outlets", ())
            ),
        }
        if "approval" in dag.task_dict:
            seen[dag.dag_id]["approval"] = approval_of(dag.task_dict["approval"])
            if seen[dag.dag_id]["cron"] is not None:
                seen[dag.dag_id]["first"] = ticks_after(dag, None)
                seen[dag.dag_id]["outage"] = ticks_after(dag, LAST)
    return seen


class Told:
    """A task instance to which Airflow tells of other runs of its DAG by their states, and of the
    state of their last task."""

    def __init__(self, runs: dict[str, str], last: dict[str, str]) -> None:
        self.runs, self.last = runs, last

    def get_task_states(self, dag_id: str, task_ids: list[str]) -> dict:
        begun, last = task_ids
        return {run: {begun: "success", last: self.last[run]} for run in self.runs}

    def get_dagrun_state(self, dag_id: str, run_id: str) -> str:
        return self.runs[run_id]

    def get_dr_count(self, dag_id: str, run_ids: list[str], states: list[str]) -> int:
        return sum(self.runs[run] in states for run in run_ids)


def turn_of(mine: str, runs: dict[str, str], last: dict[str, str], conf: dict) -> bool | str:
    """What `turn` says to the run with that conf: whether it may begin, or why never."""
    from types import SimpleNamespace

    from airflow.sdk.exceptions import AirflowFailException

    from updater_dags.turn import Turn

    context = {"ti": Told(runs, last), "dag_run": SimpleNamespace(run_id=mine, conf=conf)}
    try:
        return Turn(task_id="turn", last="announce").poke(context)
    except AirflowFailException as error:
        return str(error)


def started(told: list[dict], key: str) -> list[dict]:
    """The runs that `arrived` asks for where events with these extras came by a run with this
    partition key; their ids are such as Airflow takes."""
    from datetime import UTC, datetime
    from types import SimpleNamespace

    from airflow.models.dagrun import DagRun

    from updater_dags.assets import Arrived
    from updater_dags.workspaces import Workspace

    at = datetime(2026, 5, 1, tzinfo=UTC)
    events = [SimpleNamespace(extra=extra, timestamp=at) for extra in told]
    run = SimpleNamespace(partition_key=key)
    arrived = Arrived(task_id="arrived", workspace=Workspace())
    asked = arrived.execute({"dag_run": run, "triggering_asset_events": {"asset": events}})
    return [{**one, "id": DagRun(dag_id="d", run_id=one["trigger_run_id"]).run_id} for one in asked]


def functions(cases: dict) -> dict:
    """What the pure functions answer; the DAG files have put their folder on the path."""
    from updater_dags.approval import answer_of, question
    from updater_dags.notify import told_verdict
    from updater_dags.turn import goes_before, of_tick_before

    return {
        "answers": [answer_of(case) for case in cases["answers"]],
        "questions": [question(case) for case in cases["questions"]],
        "waits": [
            goes_before(other, mine, state, has_begun=has_begun)
            for other, mine, state, has_begun in cases.get("waits", [])
        ],
        "turns": [turn_of(*case) for case in cases.get("turns", [])],
        "before": [of_tick_before(mine, runs) for mine, runs in cases.get("before", [])],
        "started": [started(*case) for case in cases.get("started", [])],
        "verdicts": [told_verdict(case, "LOG") for case in cases["questions"]],
    }


def parse_commands(lines: list[str]) -> None:
    """Each `airflow ...` line has arguments that Airflow's own parser takes, or this exits."""
    from airflow.cli.cli_parser import get_parser

    for line in lines:
        get_parser().parse_args(shlex.split(line)[1:])


def main() -> None:
    """Arguments: the DAG folder; JSON with "commands" to parse, "environments" to parse the DAGs
    in, and "cases"."""
    folder, asked = Path(sys.argv[1]), json.loads(sys.argv[2])
    parse_commands(asked["commands"])
    result = {"parsed": []}
    for environment in asked["environments"]:
        os.environ.update(environment)
        result["parsed"].append(structure(folder))
    result["functions"] = functions(asked["cases"])
    result["torch"] = "torch" in sys.modules
    sys.stdout.write("\n" + json.dumps(result, default=str))


if __name__ == "__main__":
    main()
