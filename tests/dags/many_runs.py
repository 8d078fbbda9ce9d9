"""Runs the DAG several times in one process, as `airflow dags test` does once, and prints how each
run and its tasks ended. Starting Airflow takes longer than all of the runs.

Arguments: the DAG file; JSON list of {"environ": .., "fake": .., "conf": ..}.
"""

import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.utils.session import create_session

    # After a failure dag.test() marks one task a second as not to be run any more.
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(seconds, 0.02))
    results = []
    for run in json.loads(sys.argv[2]):
        os.environ.update(run["environ"])
        workspace = Path(os.environ["UPDATER_WORKSPACE"])
        (workspace / "fake.json").write_text(json.dumps(run["fake"]))
        (workspace / "calls.jsonl").write_text("")
        dag = DagBag(dag_folder=sys.argv[1]).dags["model_update"]
        ended = dag.test(run_conf=run["conf"])
        with create_session() as session:
            tasks = ended.get_task_instances(session=session)
            states = {task.task_id: [str(task.state), task.try_number] for task in tasks}
        calls = (workspace / "calls.jsonl").read_text().splitlines()
        results.append(
            {
                "state": str(ended.state),
                "tasks": states,
                "calls": [json.loads(line) for line in calls],
            }
        )
    sys.stdout.write("\n" + json.dumps({"runs": results}))


if __name__ == "__main__":
    main()
