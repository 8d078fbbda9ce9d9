"""The command that starts one node's processes, for this machine or for another one.

Imports no torch. Called by `updater.launch.processes` and `updater.pytorchjob`.
"""

from collections.abc import Sequence
from pathlib import Path

from updater.settings import TrainingSettings

MAX_RESTARTS = 3
"""After a crash of any process all are started again so many times; chosen, not measured. What
the settings are to blame for is not tried again."""


def torchrun(
    training: TrainingSettings,
    folder: Path,
    *,
    python: str,
    max_restarts: int,
    meeting: Sequence[str] = (),
) -> list[str]:
    """As many processes as `training.devices` do the task in the folder, with those of the other
    nodes.

    Args:
        folder: absolute, as the node sees it.
        python: the interpreter of the node.
        meeting: more options of torchrun about where several nodes meet.
    """
    # Said even of one node: the PET_NNODES of a PyTorchJob's pod would be the default.
    meet = ["--standalone", "--nnodes=1"]
    if training.nodes > 1:
        meet = [
            f"--nnodes={training.nodes}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={training.rendezvous}",
            f"--rdzv-id={folder.parent.name}-{folder.name}",
            *meeting,
        ]
    return [
        *(python, "-P", "-m", "updater.launch.torchrun"),
        *meet,
        f"--nproc-per-node={training.devices}",
        f"--max-restarts={max_restarts}",
        *("-m", "updater.launch.worker", str(folder)),
    ]
