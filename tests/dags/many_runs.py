"""Runs DAGs one after the other in one process, as `airflow dags test` does once, and prints how
each run and its tasks ended. Starting Airflow takes longer than all of the runs.

Arguments: the DAG folder; JSON list of {"dag": .., "environ": .., "fake": .., "conf": ..}.
"""

import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.models.asset import AssetEvent
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    # After a failure dag.test() marks one task a second as not to be run any more.
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(seconds, 0.02))
    results, kept = [], dict(os.environ)
    for run in json.loads(sys.argv[2]):
        os.environ.update({**kept, **run["environ"]})
        for name in set(os.environ) - {*kept, *run["environ"]}:
            del os.environ[name]
        workspace = Path(os.environ["UPDATER_WORKSPACE"])
        (workspace / "fake.json").write_text(json.dumps(run["fake"]))
        (workspace / "calls.jsonl").write_text("")
        dag = DagBag(dag_folder=sys.argv[1]).dags[run.get("dag", "model_update")]
        ended = dag.test(run_conf=run["conf"])
        with create_session() as session:
            tasks = ended.get_task_instances(session=session)
            states = {}
            for task in tasks:
                name = f"{task.task_id}[{task.map_index}]" if task.map_index >= 0 else task.task_id
                states[name] = [str(task.state), task.try_number]
            events = [event.extra for event in session.scalars(select(AssetEvent))]
            started = [
                [started.dag_id, started.conf]
                for started in session.scalars(
                    select(DagRun).where(DagRun.run_type == "operator_triggered")
                )
            ]
        calls = (workspace / "calls.jsonl").read_text().splitlines()
        results.append(
            {
                "state": str(ended.state),
                "tasks": states,
                "events": events,
                "started": started,
                "calls": [json.loads(line) for line in calls],
            }
        )
    sys.stdout.write("\n" + json.dumps({"runs": results}))


if __name__ == "__main__":
    main()
