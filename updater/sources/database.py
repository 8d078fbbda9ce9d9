"""A database's query, streamed, for one period.

Called by `updater.sources`. The query is only read with: the transaction is read-only where the
database has such a thing. The number of a row counts the query's rows from 1.
"""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from store.errors import UnreachableError
from store.retry import with_backoff
from updater.errors import InputError, UpdateError
from updater.settings import SourceSettings
from updater.sources.batch import BATCH_ROWS, Batch, Wanted

# Clocks of two zones differ by 26 hours at most: -12:00 and +14:00.
SQLITE_MARGIN = timedelta(days=2)
CURE = "mend source.query in updater.toml"


def read_query(source: SourceSettings, workspace: Path, wanted: Wanted) -> Iterator[Batch]:
    """The rows that the query gives with its parameters bound for the period.

    `:period` is the period's id. `:start` and `:end` are its bounds: times with a zone, and
    PostgreSQL's session is in the configured zone, so that columns without one are too. SQLite has
    no type for times: there they are texts such as 2026-01-31 and two days too wide on either side,
    as a text may show the time of any zone. The ingest leaves out what is not of the period.

    Raises:
        InputError: the URL or the query is wrong, or a SQLite file isn't there.
        UpdateError: the database can't be reached, or the connection broke.
    """
    url = _url(source.uri, workspace)
    name = url.render_as_string(hide_password=True)
    statement, parameters = _bound(source.query, url, wanted)
    engine = _engine(url, name, wanted)
    try:
        with _connect(engine, name) as connection:
            yield from _stream(connection, statement.bindparams(**parameters), name)
    finally:
        engine.dispose()


def _url(uri: str, workspace: Path) -> sa.URL:
    try:
        url = sa.make_url(uri)
    except SQLAlchemyError:
        rule = "with source.query it must be a SQLAlchemy URL, as postgresql+psycopg://HOST/NAME"
        raise InputError("source.uri is no database URL", rule) from None
    if url.get_backend_name() == "sqlite":
        path = workspace / (url.database or "")
        if not path.is_file():  # SQLite would make an empty one
            raise InputError(
                f"source.uri: {path} is missing",
                "a SQLite file must be there",
                "put it there, or change source.uri: sqlite:///FILE is a path from the workspace's "
                "folder, sqlite:////FILE one from the root",
            )
        url = url.set(database=str(path))
    return url


def _bound(query: str, url: sa.URL, wanted: Wanted) -> tuple[sa.TextClause, dict[str, Any]]:
    statement = sa.text(query)
    names = set(statement.compile().params)
    if names not in ({"period"}, {"start", "end"}, {"period", "start", "end"}):
        found = ", ".join(f":{name}" for name in sorted(names)) or "none"
        rule = "it must use the bound parameters :period, or :start and :end"
        raise InputError(f"source.query binds {found}", rule, CURE)
    bounds = wanted.periods.bounds(wanted.period)
    values: dict[str, Any] = {"period": wanted.period}
    if bounds is None and "start" in names:
        rule = "named periods have no start and end"
        raise InputError("source.query binds :start and :end", rule, "bind :period instead")
    if bounds is not None:
        start, end = bounds
        if url.get_backend_name() == "sqlite":
            values |= {
                "start": (start.date() - SQLITE_MARGIN).isoformat(),
                "end": (end.date() + SQLITE_MARGIN).isoformat(),
            }
        else:
            values |= {"start": start, "end": end}
    return statement, {name: values[name] for name in names}


def _engine(url: sa.URL, name: str, wanted: Wanted) -> sa.Engine:
    try:
        engine = sa.create_engine(url, poolclass=sa.NullPool)
    except (ImportError, SQLAlchemyError) as error:
        raise InputError(f"source.uri = {name!r}: {error}", "", "install its driver") from error
    backend = url.get_backend_name()
    zone = str(wanted.periods.zone).replace("'", "")

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        settings = {
            "sqlite": ["PRAGMA query_only = ON"],
            "postgresql": [f"SET TIME ZONE '{zone}'", "SET default_transaction_read_only = on"],
        }
        cursor = connection.cursor()
        for setting in settings.get(backend, []):
            cursor.execute(setting)
        cursor.close()
        connection.commit()

    return engine


def _connect(engine: sa.Engine, name: str) -> sa.Connection:
    try:
        return with_backoff(engine.connect, on=(DBAPIError,), what=f"the source {name}")
    except UnreachableError as error:
        raise UpdateError(str(error)) from error


def _stream(connection: sa.Connection, statement: sa.TextClause, name: str) -> Iterator[Batch]:
    """Batches by way of a server-side cursor: neither end holds the whole result."""
    options = {"stream_results": True, "max_row_buffer": BATCH_ROWS}
    try:
        result = connection.execution_options(**options).execute(statement)
        columns = tuple(result.keys())
    except SQLAlchemyError as error:
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            raise _broken(name, error) from error
        raise InputError(f"source.query fails: {_reason(error)}", "", CURE) from error
    if len(set(columns)) < len(columns):
        rule = "every column of the query must have a name of its own"
        raise InputError(f"source.query gives {', '.join(columns)}", rule, "name them with AS")
    line = 1
    try:
        for rows in result.partitions(BATCH_ROWS):
            records = [dict(zip(columns, row, strict=True)) for row in rows]
            yield Batch(name, list(enumerate(records, line)), columns=columns)
            line += len(records)
    except SQLAlchemyError as error:
        raise _broken(name, error) from error


def _broken(name: str, error: SQLAlchemyError) -> UpdateError:
    return UpdateError(f"the source {name} broke off: {_reason(error)}. Run it again.")


def _reason(error: SQLAlchemyError) -> str:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    return str(cause).splitlines()[0]
