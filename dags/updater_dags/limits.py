"""How long tasks may take and how often they are tried again, from the environment.

A value that is no number is said in the DAG's description, and the default holds: one typing error
must not take every DAG away. Called by the DAG files.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

DEFAULTS = {
    "UPDATER_DAG_RETRIES": 3.0,
    "UPDATER_DAG_RETRY_SECONDS": 60.0,
    "UPDATER_DAG_STEP_HOURS": 6.0,
    "UPDATER_DAG_GPU_STEP_HOURS": 72.0,
}


def problem() -> str:
    """What is wrong with them in the environment; "" where nothing is."""
    wrong = [name for name in DEFAULTS if _read(name, os.environ) is None]
    return "".join(f"{name}={os.environ[name]}: it must be a number. " for name in wrong).strip()


def defaults() -> dict[str, Any]:
    """Of every task: Airflow's default_args."""
    return {
        "owner": "updater",
        "retries": int(_number("UPDATER_DAG_RETRIES")),
        "retry_delay": timedelta(seconds=_number("UPDATER_DAG_RETRY_SECONDS")),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=30),
        "execution_timeout": timedelta(hours=_number("UPDATER_DAG_STEP_HOURS")),
    }


def waiting() -> dict[str, Any]:
    """Of a sensor, which asks every five minutes unless retries are at another pace. It gives up
    after 30 days, when nothing that it can wait for is still at work.

    Its retries are as good as endless: where Airflow's scheduler is slower than the sensor asks, it
    takes the end of one look for a failure of the next ("finished with state success, but the task
    instance's state attribute is queued"), and a look costs nothing."""
    pause = timedelta(seconds=max(1.0, 5 * _number("UPDATER_DAG_RETRY_SECONDS")))
    days = timedelta(days=30)
    return {
        **_pod("UPDATER_DAG_TURN_POD_TEMPLATE"),
        "poke_interval": pause,
        "timeout": days,
        "retries": days // pause,
        "retry_delay": pause,
        "retry_exponential_backoff": False,
    }


def gpu() -> dict[str, Any]:
    """Of a task that trains or asks a model."""
    hours = timedelta(hours=_number("UPDATER_DAG_GPU_STEP_HOURS"))
    found = {"pool": "gpu", "queue": "gpu", "execution_timeout": hours}
    return {**found, **_pod("UPDATER_DAG_GPU_POD_TEMPLATE")}


def release() -> dict[str, Any]:
    """Of a task that deploys, or on which that waits: its queue, where such tasks have one of their
    own, so that a release and a rollback wait behind no ingest."""
    queue = os.environ.get("UPDATER_DAG_RELEASE_QUEUE")
    return {"queue": queue} if queue else {}


def start_of(given: str) -> datetime | None:
    """An ISO date, in UTC unless it says otherwise: every tick since then gets a run, in order.

    Raises:
        ValueError: it is none.
    """
    if not given:
        return None
    try:
        found = datetime.fromisoformat(given)
    except ValueError:
        raise ValueError(f"start = {given!r} is no date; write 2026-01-31") from None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def _pod(name: str) -> dict[str, Any]:
    """The pod of a task by the file that the variable names: KubernetesExecutor knows no queues."""
    template = os.environ.get(name)
    return {"executor_config": {"pod_template_file": template}} if template else {}


def _number(name: str) -> float:
    value = _read(name, os.environ)
    return DEFAULTS[name] if value is None else value


def _read(name: str, environ: Mapping[str, str]) -> float | None:
    try:
        value = float(environ.get(name) or DEFAULTS[name])
    except ValueError:
        return None
    return value if 0 <= value < math.inf else None
