"""An update's train step as a PyTorchJob, which Kubeflow's training operator runs on many nodes.

The first pod runs `updater step train`, which launches and waits for the processes of all pods; the
others run what it would log for them (docs/parallel.md). A pure function of the settings: asks no
cluster. Called by the command line.

What the operator adds was read off its release 1.9: the services by which pods find each other, an
init container that waits for the first pod's name, and MASTER_ADDR, MASTER_PORT, WORLD_SIZE, RANK
(of the pod), PET_NNODES, PET_NODE_RANK, PET_NPROC_PER_NODE, PET_MASTER_ADDR and PET_MASTER_PORT.
torchrun is told the same, and gives each process its own.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from updater.errors import InputError
from updater.launch.command import MAX_RESTARTS, torchrun
from updater.settings import PLACES, KubernetesSettings, Settings, TrainingSettings

RENDEZVOUS_PORT = 29400
"""torchrun's own."""

_NAME_LENGTH = 52
"""A pod's host name has 63 characters at most, and "-worker-999" comes after the job's."""


def pytorch_job(settings: Settings, *, root: Path, update: str) -> dict[str, Any]:
    """The manifest, for the workspace that lies at `root` in every pod.

    Raises:
        InputError: `kubernetes.image` is not given, or the workspace is not on the volume.
    """
    cluster = settings.kubernetes
    _check(cluster, root)
    name = job_name(update)
    training = replace(settings.training, rendezvous=f"{name}-master-0:{RENDEZVOUS_PORT}")
    first = {
        "command": ["updater", "--workspace", str(root), "step", "train", "--update", update],
        "env": _env(cluster, {"UPDATER_ACTOR": "kubernetes", **_places(training)}),
        "ports": [{"name": "pytorchjob-port", "containerPort": RENDEZVOUS_PORT}],
    }
    if cluster.secret:
        first["envFrom"] = [{"secretRef": {"name": cluster.secret}}]
    # Exit codes below 128 are the update's own, and no retry helps; the others are kills.
    replicas = {"Master": _replica(1, "ExitCode", _pod(cluster, training.devices, first))}
    if training.nodes > 1:
        folder = root / "runs" / update / "training"
        words = torchrun(training, folder, python="python", max_restarts=MAX_RESTARTS)
        other = {"command": words, "env": _env(cluster, {})}
        pod = _pod(cluster, training.devices, other)
        replicas["Worker"] = _replica(training.nodes - 1, "OnFailure", pod)
    about: dict[str, Any] = {"name": name, "annotations": {"updater/update": update}}
    if cluster.namespace:
        about["namespace"] = cluster.namespace
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": about,
        "spec": {
            "nprocPerNode": str(training.devices),
            "runPolicy": {"cleanPodPolicy": "Running"},
            "pytorchReplicaSpecs": replicas,
        },
    }


def job_name(update: str) -> str:
    """What Kubernetes can take as the name of the update's job; the end, a digest, stays whole."""
    plain = re.sub(r"[^a-z0-9]+", "-", update.lower())
    prefix = "updater-"
    return prefix + plain[-(_NAME_LENGTH - len(prefix)) :].strip("-")


def _check(cluster: KubernetesSettings, root: Path) -> None:
    if not cluster.image:
        raise InputError(
            "kubernetes.image is not given",
            "the pods need an image with the service and torch",
            'write `image = "registry.example/updater-gpu-worker:0.1.0"` below [kubernetes]',
        )
    if not root.is_relative_to(cluster.mount_path):
        raise InputError(
            f"the workspace {root} is not below kubernetes.mount_path = {cluster.mount_path}",
            "every pod sees it on the volume, under the path that it has here",
            "run this where the volume is mounted, or set kubernetes.mount_path",
        )


def _places(training: TrainingSettings) -> dict[str, str]:
    """What the manifest was rendered by, as the first pod's environment: it may have been --set."""
    values = {name: getattr(training, name) for name in PLACES}
    return {
        f"UPDATER_TRAINING_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
    }


def _env(cluster: KubernetesSettings, more: dict[str, str]) -> list[dict[str, str]]:
    """`PET_RDZV_CONF` is --rdzv-conf. Both times: joining is what the first pod waits for, and
    reading what the others do, who call before it listens."""
    seconds = cluster.join_timeout_seconds
    values = {
        "HOME": "/tmp",
        "PET_RDZV_CONF": f"join_timeout={seconds},read_timeout={seconds}",
        **more,
    }
    return [{"name": name, "value": value} for name, value in values.items()]


def _replica(number: int, restart: str, pod: dict[str, Any]) -> dict[str, Any]:
    return {"replicas": number, "restartPolicy": restart, "template": {"spec": pod}}


def _pod(cluster: KubernetesSettings, devices: int, container: dict[str, Any]) -> dict[str, Any]:
    limits: dict[str, str] = {"memory": cluster.memory}
    if cluster.gpu_resource:
        limits[cluster.gpu_resource] = str(devices)
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # a service's variables could be taken for settings
        "shareProcessNamespace": True,  # or the command is process 1, which SIGTERM passes by
        # With a number also the operator's init container, whose image says root, may run.
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": cluster.user_id,
            "runAsGroup": cluster.user_id,
            "fsGroup": cluster.user_id,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "pytorch",
                "image": cluster.image,
                **container,
                "resources": {"requests": {"cpu": cluster.cpu, **limits}, "limits": limits},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                    "readOnlyRootFilesystem": True,
                },
                "volumeMounts": [
                    {"name": "workspaces", "mountPath": cluster.mount_path},
                    {"name": "tmp", "mountPath": "/tmp"},
                    {"name": "shm", "mountPath": "/dev/shm"},
                ],
            }
        ],
        "volumes": [
            {
                "name": "workspaces",
                "persistentVolumeClaim": {"claimName": cluster.volume_claim},
            },
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": cluster.shared_memory}},
        ],
    }
    if cluster.node_selector:
        pairs = (pair.partition("=") for pair in cluster.node_selector)
        pod["nodeSelector"] = {label: value for label, _, value in pairs}
    if cluster.tolerations:
        pod["tolerations"] = [
            {"key": key, "operator": "Exists", "effect": "NoSchedule"}
            for key in cluster.tolerations
        ]
    if cluster.image_pull_secret:
        pod["imagePullSecrets"] = [{"name": cluster.image_pull_secret}]
    return pod
