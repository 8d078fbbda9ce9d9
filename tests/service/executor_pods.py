"""Prints as JSON the pods in which Airflow's KubernetesExecutor would run each task of a DAG, and
asks no cluster. Run by test_kubernetes.py in a process of its own, with Airflow's environment.

Arguments: the DAG folder, the DAG's name.
"""

import json
import queue
import sys
import uuid

from airflow.dag_processing.dagbag import DagBag
from airflow.executors.workloads import BundleInfo, ExecuteTask
from airflow.executors.workloads.task import TaskInstanceDTO
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.providers.cncf.kubernetes.executors.kubernetes_executor import KubernetesExecutor
from airflow.providers.cncf.kubernetes.executors.kubernetes_executor_utils import (
    AirflowKubernetesScheduler,
)
from airflow.providers.cncf.kubernetes.kube_config import KubeConfig
from kubernetes.client import ApiClient


def workload(dag: str, task: str, where: str) -> ExecuteTask:
    """What the scheduler hands over for a task."""
    about = TaskInstanceDTO(
        id=uuid.uuid4(),
        dag_version_id=uuid.uuid4(),
        task_id=task,
        dag_id=dag,
        run_id="run",
        try_number=1,
        map_index=-1,
        pool_slots=1,
        queue=where,
        priority_weight=1,
    )
    bundle = BundleInfo(name="dags-folder", version=None)
    return ExecuteTask(
        token="", dag_rel_path=f"{dag}.py", bundle_info=bundle, log_path="log", ti=about
    )


def main() -> None:
    """The pods, by the names of their tasks."""
    dag = DagBag(dag_folder=sys.argv[1]).dags[sys.argv[2]]
    executor = KubernetesExecutor()
    executor.task_queue, executor.scheduler_job_id = queue.Queue(), "1"
    launcher = AirflowKubernetesScheduler.__new__(AirflowKubernetesScheduler)
    launcher.kube_config = KubeConfig()
    launcher.namespace, launcher.scheduler_job_id = "airflow", "1"
    launcher.supports_task_instance_uuid = False
    found = {}
    for task in dag.tasks:
        key = TaskInstanceKey(dag.dag_id, task.task_id, "run", 1)
        command = [workload(dag.dag_id, task.task_id, task.queue)]
        executor.execute_async(key, command, task.queue, task.executor_config)
        pod = launcher._build_pod_request(executor.task_queue.get())
        found[task.task_id] = ApiClient().sanitize_for_serialization(pod)
    sys.stdout.write("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
