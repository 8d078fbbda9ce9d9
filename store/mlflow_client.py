"""How MLflow is opened and asked: silently, not for ever, and with its failures in our words.

Nothing about what is kept in it (that is `store.registry`, the one caller). MLflow is imported on
the first question, which takes two seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from store.errors import (
    ConflictError,
    DeniedError,
    NotFoundError,
    StoreError,
    UnreachableError,
)
from store.remote import ask, without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

Result = TypeVar("Result")

# What the user has set wins. MLflow would ask a dead server 8 times, for minutes, where
# `store.retry` asks 4 times; its telemetry would call out from machines that must not.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
# A server that can't keep an artifact answers 500 whatever its reason, which stands in its log.
NOT_KEPT = re.compile(r"/mlflow-artifacts/.*too many (5\d\d) error responses")
DENIED_CODES = ("UNAUTHENTICATED", "PERMISSION_DENIED")
PASSING_CODES = ("TEMPORARILY_UNAVAILABLE", "RESOURCE_EXHAUSTED", "REQUEST_LIMIT_EXCEEDED")


class _NotKeptError(ConnectionError):
    """The server is there, and an artifact could not be kept; that may pass."""


class Mlflow:
    """MLflow at `uri`: a server's http(s) address or a database URL."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self.is_server = uri.startswith(("http://", "https://"))
        self.shown = f"MLflow at {without_secrets(self.uri)}"

    def ask(self, question: Callable[[MlflowClient], Result]) -> Result:
        """What `question(client)` answers. It may be asked again, so it must be safe to repeat.

        Raises:
            UnreachableError: no answer, however often it was asked.
            DeniedError: MLflow does not let us in.
            NotFoundError: MLflow has nothing of that name or number.
            ConflictError: what is asked contradicts what MLflow keeps already.
            StoreError: any other refusal.
        """
        try:
            return ask(lambda: self._translated(question), self.shown)
        except UnreachableError as error:
            if not isinstance(error.__cause__, _NotKeptError):
                raise
            raise StoreError(
                f"{self.shown} can't keep artifacts ({error.__cause__}): where it keeps them is "
                "full, gone, or refuses its sign-in; its log says which. Mend that, then run the "
                "same command again"
            ) from error
        except OSError as error:
            raise StoreError(f"{self.shown}: {error}") from error

    def _translated(self, question: Callable[[MlflowClient], Result]) -> Result:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of deprecated calls that MLflow makes
            client = self._client
            from mlflow.exceptions import MlflowException

            try:
                return question(client)
            except MlflowException as error:
                raise _plain(error, self.shown) from error

    @cached_property
    def _client(self) -> MlflowClient:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        if not self.is_server:
            self._probe()
        from mlflow import MlflowClient

        _hush()
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def _probe(self) -> None:
        """The database answers, and a SQLite file has all of MLflow's tables if it wasn't there.

        MLflow itself would try for two minutes before it says no.
        """
        import sqlalchemy as sa

        from store.database import Database

        database = Database(self.uri, name="MLflow's database", wal=False)
        file = database.file
        if file is not None and database.is_missing and file.parent.is_dir():
            with _alone_in(file.parent):
                if database.is_missing:  # nobody made it while we waited
                    _make(self.uri, file)
        with database.read() as connection:
            sa.inspect(connection).get_table_names()


def _hush() -> None:
    """What goes wrong is raised; the rest is chatter. To import MLflow undoes it."""
    for logger in ("mlflow", "alembic"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Nobody else makes a database in the folder. The kernel lets go when the process dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make(uri: str, file: Path) -> None:
    """The SQLite `file` has all of MLflow's tables; killed before that, it isn't there at all.

    MLflow's 68 migrations are no transaction, and half of them can't be gone on with. So they run
    on a file beside it, in this process, which has no connection to it when it gets its name: the
    last one to close empties the write-ahead file. Write-ahead mode lasts: measured, the
    migrations take 3-5 s in place of 8-9 and a write half its time.

    Raises:
        UnreachableError, StoreError: the file can't be written.
    """
    import sqlalchemy as sa
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    from store.database import Database

    _hush()
    partial = file.with_name(f"{file.name}.partial")
    _remove(partial)
    partial_url = sa.make_url(uri).set(database=str(partial))
    partial_uri = partial_url.render_as_string(hide_password=False)
    database = Database(partial_uri, name="MLflow's new database", wal=True)
    with database.read() as connection:
        sa.inspect(connection).get_table_names()
    database.close()
    engine = create_sqlalchemy_engine(partial_uri)  # not MLflow's store, which keeps its engines
    try:
        _initialize_tables(engine)
    except sa.exc.SQLAlchemyError as error:
        raise StoreError(
            f"{partial}: MLflow's tables could not be made "
            f"({str(error).splitlines()[0]}). Mend that, and run the same command again"
        ) from error
    finally:
        engine.dispose()
    _remove(file)  # SQLite would play a lost file's write-ahead file into the new one
    partial.rename(file)


def _remove(file: Path) -> None:
    """Neither the SQLite file is there nor what SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)


def _plain(error: MlflowException, shown: str) -> Exception:
    from requests.exceptions import ConnectionError as NoConnection
    from requests.exceptions import RetryError, Timeout

    said = without_secrets(str(error.message).strip().splitlines()[0])
    if not_kept := NOT_KEPT.search(said):
        return _NotKeptError(f"it answered {not_kept[1]}")
    if error.error_code in PASSING_CODES or any(
        isinstance(cause, NoConnection | Timeout | RetryError) for cause in _causes(error)
    ):
        return ConnectionError(said)
    if error.error_code in DENIED_CODES:
        return DeniedError(
            f"{shown} refused the sign-in ({error.get_http_status_code()}). Set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
        )
    if error.error_code == "RESOURCE_DOES_NOT_EXIST":
        return NotFoundError(f"{shown}: {said}")
    if error.error_code == "RESOURCE_ALREADY_EXISTS" or "Changing param values" in said:
        return ConflictError(f"{shown}: {said}")
    return StoreError(f"{shown} refused: {said}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause = error.__cause__ or error.__context__
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
