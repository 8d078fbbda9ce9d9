"""The few settings of a workspace that decide what its DAGs look like, as `updater` reads them.

Not the whole configuration: `updater` checks that, in the tasks. Called by
`updater_dags.workspaces`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from airflow.sdk import CronPartitionTimetable

DEFAULT_APPROVAL_SECONDS = 7 * 24 * 3600  # as in updater.settings.GateSettings; a test holds them

READ_HERE: Mapping[tuple[str, str], type] = {
    ("workspace", "name"): str,
    ("periods", "schedule"): str,
    ("periods", "time_zone"): str,
    ("rehearsal", "policy"): str,
    ("gate", "approval_timeout_seconds"): int,
}


def read(folder: str, environ: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    """Of the workspace in `folder`: "section.key" -> value for what is said of `READ_HERE`, and in
    words what is wrong ("" where nothing is)."""
    path = Path(folder) / "updater.toml"
    try:
        return checked(tomllib.loads(path.read_text("utf-8")), environ, str(path)), ""
    except OSError as error:
        return {}, f"{path} can't be read ({error.strerror}). Name a folder that is a workspace."
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        cure = "Mend it; `updater status` checks it whole."
        return {}, f"{path} is not valid TOML ({error}). {cure}"
    except ValueError as error:
        return {}, f"{error}."


def checked(whole: Mapping[str, Any], environ: Mapping[str, str], where: str) -> dict[str, Any]:
    """The settings that are read here, the environment's before the file's.

    Raises:
        ValueError: one is of another type, or the schedule is none; the message says where.
    """
    found: dict[str, Any] = {}
    for (section, key), kind in READ_HERE.items():
        table = whole.get(section, {})
        if not isinstance(table, dict):
            raise ValueError(f"{where}: {section} = {table!r}: it must be a table")
        value, place = table.get(key), f"{where}: [{section}] {key} = {table.get(key)!r}"
        name = f"UPDATER_{section}_{key}".upper()
        if environ.get(name):
            value, place = environ[name], f"{name}={environ[name]} in the environment"
            if kind is int and value.isdigit():
                value = int(value)
        if value is None:
            continue
        if type(value) is not kind:
            raise ValueError(f"{place}: must be {'a text' if kind is str else 'a whole number'}")
        found[f"{section}.{key}"] = value
    _check_schedule(found, where)
    return found


def timetable(settings: Mapping[str, Any]) -> CronPartitionTimetable | None:
    """Of `[periods] schedule`: its ticks are the partition keys of the runs."""
    cron = settings.get("periods.schedule", "").strip()
    zone = settings.get("periods.time_zone", "UTC")
    return CronPartitionTimetable(cron, timezone=zone) if cron else None


def _check_schedule(settings: Mapping[str, Any], where: str) -> None:
    """Airflow finds out too late: it would take away every DAG of the file with this one."""
    zone = settings.get("periods.time_zone", "UTC")
    try:
        ZoneInfo(zone)
    except (ValueError, OSError, KeyError):
        raise ValueError(f"{where}: [periods] time_zone = {zone!r}: no such time zone") from None
    if (table := timetable(settings)) is None:
        return
    try:
        table.validate()
    except Exception as error:
        cron = settings["periods.schedule"]
        raise ValueError(f"{where}: [periods] schedule = {cron!r}: {error}") from None
