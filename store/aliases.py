"""MLflow's registered-model aliases, as a projection of the ledger's events.

Not the truth about what is deployed (that is the ledger), and not the registry (that is
`store.registry`). Written without importing MLflow, which takes 2.5 s: on-call commands must
answer sooner. A server is asked through its REST API; of an embedded MLflow the tables themselves
are read and written, just as MLflow 3.17 does it (a test compares them with MLflow's own). Called
by `updater.release`.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store.alias_server import AliasServer
from store.database import Database
from store.errors import NotFoundError

ALIAS = re.compile(r"[\w-]{1,255}")
# MLflow keeps these names to itself: mlflow/utils/validation.py.
RESERVED = re.compile(r"(?i:latest)|[vV]\d+")
# Without its workspaces feature, which only a server has, MLflow puts every row here.
MLFLOW_WORKSPACE = "default"
# What MLflow makes of the stage of a version that was deleted.
DELETED = "Deleted_Internal"


def _key(*others: str) -> list[sa.ColumnClause[str]]:
    return [sa.column(name, sa.String) for name in ("workspace", "name", *others)]


MODELS = sa.table("registered_models", *_key())
VERSIONS = sa.table("model_versions", *_key("current_stage"), sa.column("version", sa.Integer))
ALIASES = sa.table("registered_model_aliases", *_key("alias"), sa.column("version", sa.Integer))


class _Place(Protocol):
    def get(self, alias: str) -> str | None: ...
    def set(self, alias: str, version: str) -> None: ...
    def delete(self, alias: str) -> None: ...


class Aliases:
    """The aliases of the registered model `name` in the MLflow at `mlflow_uri`.

    Every method raises UnreachableError where MLflow doesn't answer after retries, StoreError
    where it refuses, and ValueError for a name that MLflow doesn't allow. Each may be repeated.
    """

    def __init__(self, mlflow_uri: str, name: str) -> None:
        is_server = mlflow_uri.startswith(("http://", "https://"))
        place = AliasServer if is_server else _AliasTables
        self._place: _Place = place(mlflow_uri, name)

    def get(self, alias: str) -> str | None:
        """The version that the alias points to; None where there is no such alias or model."""
        return self._place.get(_allowed(alias))

    def set(self, alias: str, version: str) -> None:
        """The alias points to `version`.

        Raises:
            NotFoundError: the model has no such version.
        """
        self._place.set(_allowed(alias), version)

    def delete(self, alias: str) -> None:
        """There is no such alias."""
        self._place.delete(_allowed(alias))


class _AliasTables:
    """The aliases in the tables of an embedded MLflow."""

    def __init__(self, url: str, name: str) -> None:
        self._database = Database(url, name="MLflow", wal=False)
        self._name = name

    def get(self, alias: str) -> str | None:
        if self._database.is_missing:
            return None
        with self._database.read() as connection:
            if not sa.inspect(connection).has_table(ALIASES.name):
                return None
            chosen = sa.select(ALIASES.c.version).where(*self._is(ALIASES, alias))
            version = connection.execute(chosen).scalar_one_or_none()
            return None if version is None else str(version)

    def set(self, alias: str, version: str) -> None:
        with self._locked() as connection:
            if connection is None or not self._has(connection, version):
                raise NotFoundError(
                    f"{self._database.shown} has no version {version} of {self._name}, so no "
                    "alias can point to it"
                )
            number = {"version": int(version)}
            move = sa.update(ALIASES).where(*self._is(ALIASES, alias)).values(number)
            if connection.execute(move).rowcount == 0:
                row = {"workspace": MLFLOW_WORKSPACE, "name": self._name, "alias": alias}
                connection.execute(sa.insert(ALIASES).values({**row, **number}))

    def delete(self, alias: str) -> None:
        with self._locked() as connection:
            if connection is not None:
                connection.execute(sa.delete(ALIASES).where(*self._is(ALIASES, alias)))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[Connection | None]:
        """A transaction that alone writes the model's aliases; None where there is no model."""
        if self._database.is_missing:
            yield None
            return
        with self._database.write() as connection:
            known = (
                sa.inspect(connection).has_table(MODELS.name)
                and connection.execute(
                    sa.select(MODELS.c.name).where(*self._is(MODELS)).with_for_update()
                ).first()
            )
            yield connection if known else None

    def _has(self, connection: Connection, version: str) -> bool:
        if not version.isdecimal():
            return False
        chosen = sa.select(VERSIONS.c.version).where(
            *self._is(VERSIONS),
            VERSIONS.c.version == int(version),
            VERSIONS.c.current_stage.is_distinct_from(DELETED),
        )
        return connection.execute(chosen).first() is not None

    def _is(self, table: sa.TableClause, alias: str = "") -> list[sa.ColumnElement[bool]]:
        of_model = [table.c.workspace == MLFLOW_WORKSPACE, table.c.name == self._name]
        return [*of_model, table.c.alias == alias] if alias else of_model


def _allowed(alias: str) -> str:
    if not ALIAS.fullmatch(alias) or RESERVED.fullmatch(alias):
        raise ValueError(
            f"alias: {alias!r}; must be letters, digits, _ or -, at most 255, and neither "
            "'latest' nor 'v' and a number, which MLflow keeps to itself"
        )
    return alias
