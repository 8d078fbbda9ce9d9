"""Where an update's processes run on a Kubernetes cluster: the section kubernetes.

Says nothing of what comes of an update, and is in no digest and no record of one. Read by
`updater.pytorchjob`.
"""

import re
from dataclasses import dataclass

from updater.settings.rules import at_least

# A registry's port has a colon too; a name without a version, or with `latest`, is another image
# next week.
IMAGE = re.compile(
    r"[^\s:@]+(:\d+/[^\s:@]+)?(:(?!latest$)\w[\w.-]{0,127}(@sha256:[0-9a-f]{64})?"
    r"|@sha256:[0-9a-f]{64})"
)
OBJECT = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
RESOURCE = re.compile(r"[a-z0-9.-]+/[A-Za-z0-9_.-]+")
LABEL = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
QUANTITY = re.compile(r"(?=.*[1-9])\d+(\.\d+)?(m|k|Ki|[MGTPE]i?)?")
_MOUNT = re.compile(r"(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)+")


@dataclass(frozen=True, kw_only=True)
class KubernetesSettings:
    """What a PyTorchJob needs beside the training's settings.

    `image` has the service and torch, at a pinned version; "" where there is no cluster.
    `volume_claim` is ReadWriteMany, and every pod sees it at `mount_path`, below which the
    workspace lies. `secret`: its keys are environment variables of the first pod, the only one
    that talks to the stores. `gpu_resource`: "" trains on the pods' cores. `node_selector`:
    "label=value"; `tolerations`: keys of taints. `cpu` and `memory` are of each pod, as Kubernetes
    writes them, and so is `shared_memory`, a part of `memory`, which NCCL wants: chosen, not
    measured. `user_id` also is the group: 1000 is that of our images. `join_timeout_seconds`: how
    long pods wait for one another, as where a node has to be bought first.
    """

    image: str = ""
    image_pull_secret: str = ""
    namespace: str = ""
    volume_claim: str = "updater-workspaces"
    mount_path: str = "/workspaces"
    secret: str = "updater"
    gpu_resource: str = "nvidia.com/gpu"
    node_selector: tuple[str, ...] = ()
    tolerations: tuple[str, ...] = ("nvidia.com/gpu",)
    cpu: str = "8"
    memory: str = "64Gi"
    shared_memory: str = "8Gi"
    user_id: int = 1000
    join_timeout_seconds: int = 1800

    def __post_init__(self) -> None:
        if self.image and not IMAGE.fullmatch(self.image):
            raise ValueError("image: must name a version, as registry.example/updater:0.1.0")
        for name in ("image_pull_secret", "namespace", "volume_claim", "secret"):
            value = getattr(self, name)
            if (value or name == "volume_claim") and not OBJECT.fullmatch(value):
                raise ValueError(f"{name}: must be an object's name: small letters, digits, -")
        if not _MOUNT.fullmatch(self.mount_path):
            raise ValueError("mount_path: must be an absolute path, as /workspaces")
        if self.gpu_resource and not RESOURCE.fullmatch(self.gpu_resource):
            raise ValueError("gpu_resource: must be a resource's name, as nvidia.com/gpu")
        for pair in self.node_selector:
            label, equals, value = pair.partition("=")
            if not (equals and LABEL.fullmatch(label) and LABEL.fullmatch(value or "x")):
                raise ValueError('node_selector: must be a list of "label=value"')
        if not all(LABEL.fullmatch(key) for key in self.tolerations):
            raise ValueError("tolerations: must be a list of taints' keys, as nvidia.com/gpu")
        for name in ("cpu", "memory", "shared_memory"):
            if not QUANTITY.fullmatch(getattr(self, name)):
                raise ValueError(f"{name}: must be a quantity of Kubernetes, as 500m, 8 or 64Gi")
        at_least("user_id", self.user_id, 1)  # 0 is root
        at_least("join_timeout_seconds", self.join_timeout_seconds, 1)
