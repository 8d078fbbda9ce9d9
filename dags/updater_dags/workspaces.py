"""Which workspaces (models) there are DAGs for: one set of DAGs each.

UPDATER_WORKSPACE names one, whose DAGs have plain names (`model_update`). UPDATER_WORKSPACES names
several, whose DAGs have the workspace's key behind a dot (`model_update.tickets`): folders with a
colon between them, whose own names are the keys, or a TOML file with a table for each. Keys don't
come out of a workspace's configuration, so that its DAGs keep their names while that is broken.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from airflow.sdk import get_parsing_context

from updater_dags import configuration

KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
OPTIONS = ("data_asset", "notify", "start")


@dataclass(frozen=True)
class Workspace:
    """`key`: "" where it is the only one. `settings`: see `configuration.read`. `problem`: in
    words why its tasks can't run. `data_asset`, `notify`, `start`: of its DAGs, from the TOML file,
    else from UPDATER_DAG_DATA_ASSET, UPDATER_DAG_NOTIFY and UPDATER_DAG_START."""

    folder: str = ""
    key: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    data_asset: str = ""
    notify: str = ""
    start: str = ""

    @property
    def name(self) -> str:
        """Of the model, as MLflow has it."""
        return str(self.settings.get("workspace.name") or self.key or "model")

    def dag_id(self, kind: str) -> str:
        """Of its DAG of that kind."""
        return f"{kind}.{self.key}" if self.key else kind


def each(kind: str, build: Callable[[Workspace], None]) -> None:
    """`build` has made every workspace's DAG of this kind; or, where Airflow parses the file to run
    a task of one DAG, that one alone. What is wrong with one workspace takes no other's away."""
    wanted = get_parsing_context().dag_id
    for workspace in found(os.environ):
        if wanted in (None, workspace.dag_id(kind)):
            try:
                build(workspace)
            except Exception as error:
                problem = f"the DAG can't be made: {type(error).__name__}: {error}"
                build(Workspace(workspace.folder, workspace.key, problem=problem))


def found(environ: Mapping[str, str]) -> list[Workspace]:
    """The workspaces that the environment names, read; at least one, if only to say what is
    missing."""
    several, one = (environ.get(f"UPDATER_WORKSPACE{s}", "").strip() for s in ("S", ""))
    if not several:
        problem = (
            ""
            if one
            else (
                "UPDATER_WORKSPACE is not set. Set it to a workspace's folder for the scheduler, "
                "the dag-processor and the workers."
            )
        )
        return [_read(Workspace(one, problem=problem), {}, environ)]
    if several.endswith(".toml"):
        return list(_distinct(_listed(Path(several), environ)))
    folders = [folder for folder in several.split(os.pathsep) if folder.strip()]
    return list(_distinct(_read(Workspace(f, key=_key_of(f)), {}, environ) for f in folders))


def _listed(path: Path, environ: Mapping[str, str]) -> Iterator[Workspace]:
    """The workspaces of the TOML file at `path`."""
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        yield Workspace(problem=f"UPDATER_WORKSPACES: {path} can't be read: {error}. Mend it.")
        return
    if not tables:
        yield Workspace(
            problem=f"UPDATER_WORKSPACES: {path} names no workspace. Write [KEY] and folder = ..."
        )
    for key, table in tables.items():
        yield _of_table(key, table, f"{path}: [{key}]", environ)


def _of_table(key: str, table: Any, where: str, environ: Mapping[str, str]) -> Workspace:
    given = table if isinstance(table, dict) else {}
    problem = ""
    if not KEY.fullmatch(key):
        problem = f"{where}: a key must be letters, digits, _ or -; it is a part of the DAGs' names"
        key = _key_of(key)
    elif unknown := sorted(set(given) - {"folder", *OPTIONS}):
        problem = f"{where}: {unknown[0]} is unknown; a workspace has folder, {', '.join(OPTIONS)}"
    elif not all(isinstance(value, str) for value in given.values()):
        problem = f"{where}: every value must be a text in quotes"
    elif not given.get("folder"):
        problem = f"{where}: folder is missing: name the workspace's folder"
    if problem:
        return Workspace(key=key, problem=f"{problem}.")
    return _read(Workspace(given["folder"], key=key), given, environ)


def _read(workspace: Workspace, given: Mapping[str, str], environ: Mapping[str, str]) -> Workspace:
    """With its configuration, and with the options that are `given` or the environment's."""
    options = {n: given.get(n, environ.get(f"UPDATER_DAG_{n}".upper(), "")) for n in OPTIONS}
    workspace = replace(workspace, **options)
    if workspace.problem:
        return workspace
    settings, problem = configuration.read(workspace.folder, environ)
    return replace(workspace, settings=settings, problem=problem)


def _key_of(folder: str) -> str:
    """A key out of a folder's name."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(folder.strip()).name).strip("_-")
    return name[:100] or "workspace"


def _distinct(workspaces: Iterator[Workspace]) -> Iterator[Workspace]:
    """With a key each: of several with one key, those after the first only say so."""
    seen: dict[str, Workspace] = {}
    for workspace in workspaces:
        key, number = workspace.key, 1
        while workspace.key in seen:
            number += 1
            workspace = replace(
                workspace,
                key=f"{key}_{number}",
                problem=(
                    f"{workspace.folder} and {seen[key].folder} are both called {key}. Name them "
                    "in a TOML file: UPDATER_WORKSPACES=workspaces.toml."
                ),
            )
        seen[workspace.key] = workspace
        yield workspace
