"""Whether what trains and asks models is installed here, asked before any work begins.

The service's images have it on GPU workers alone; everything else of updater runs without. Called
where work with a model starts: `updater.opening`, `updater.pipeline`, and what is done on demand.
"""

import importlib.util

from updater.errors import InputError


def check(doing: str) -> None:
    """`doing`, named as what was asked for, finds the training core here.

    Raises:
        InputError: it does not.
    """
    if importlib.util.find_spec("torch") is None:
        raise InputError(
            f"{doing} can't run here: torch is not installed",
            "what trains or asks a model needs it, and of the service's images the GPU worker's "
            "alone has it",
            "run it there: with Compose by `docker compose run --rm gpu-worker updater`, on "
            "Kubernetes in the pod updater-gpu-shell, or in Airflow by clearing the task",
        )
