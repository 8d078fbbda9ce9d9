"""Prints as JSON how Airflow sees the DAG file. Run by the tests in a process of its own, because
importing Airflow reads its environment once and for all."""

import importlib.util
import json
import os
import shlex
import sys
from pathlib import Path


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
    }


def structure(dags: Path) -> dict:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=str(dags))
    seen = {"errors": {Path(k).name: str(v) for k, v in bag.import_errors.items()}}
    for dag in bag.dags.values():
        approval = dag.task_dict["approval"]
        seen[dag.dag_id] = {
            "tasks": {name: describe(task) for name, task in dag.task_dict.items()},
            "max_active_runs": dag.max_active_runs,
            "catchup": dag.catchup,
            "description": dag.description,
            "docs": dag.doc_md,
            "tags": sorted(dag.tags),
            "timetable": type(dag.timetable).__name__,
            "cron": getattr(dag.timetable, "expression", None),
            "period": dag.params.get_param("period").serialize(),
            "approval": {
                "defaults": approval.defaults,
                "seconds": approval.response_timeout.total_seconds(),
                "params": list(approval.params),
                "is_approval": "ApprovalOperator" in [k.__name__ for k in type(approval).mro()],
            },
        }
    return seen


def functions(path: Path, cases: dict) -> dict:
    """What the file's pure functions answer."""
    spec = importlib.util.spec_from_file_location("model_update_under_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {
        "answers": [module.answer_of(case) for case in cases["answers"]],
        "questions": [module.question(case) for case in cases["questions"]],
    }


def parse_commands(lines: list[str]) -> None:
    """Each `airflow ...` line has arguments that Airflow's own parser takes, or this exits."""
    from airflow.cli.cli_parser import get_parser

    for line in lines:
        get_parser().parse_args(shlex.split(line)[1:])


def main() -> None:
    """Arguments: the DAG folder; JSON with "commands" to parse, "environments" to parse the DAG
    in, and "cases"."""
    folder, asked = Path(sys.argv[1]), json.loads(sys.argv[2])
    parse_commands(asked["commands"])
    result = {"parsed": []}
    for environment in asked["environments"]:
        os.environ.update(environment)
        result["parsed"].append(structure(folder))
    result["functions"] = functions(folder / "model_update.py", asked["cases"])
    sys.stdout.write("\n" + json.dumps(result))


if __name__ == "__main__":
    main()
