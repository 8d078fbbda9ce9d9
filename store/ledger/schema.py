"""Which revision the ledger's tables are at, and how they get to the one this code needs.

Checking reads one row and does not import Alembic (half a second that every command would pay);
only `migrate`, which `updater init` calls, does.
"""

import logging
import re
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store.database import Database
from store.errors import NoLedgerError, SchemaError

# The newest revision in migrations/versions; a test holds it equal to Alembic's own answer.
HEAD = "0003"
REVISION = re.compile(r"\d{4}")
VERSION_TABLE = "alembic_version"
# Any number will do that no other program is likely to take: ASCII "updater".
MIGRATION_LOCK = int.from_bytes(b"updater", "big")

_versions = sa.table(VERSION_TABLE, sa.column("version_num", sa.String))


NEW_OR_LOST = (
    "Run `updater init` on a new workspace; a ledger that was lost comes back from its backup "
    "alone (docs/backup.md)."
)


def check(connection: Connection, shown: str) -> None:
    """The tables are at the revision this code needs.

    Raises:
        SchemaError: they are not; the message names both revisions and the cure.
    """
    found = _revision(connection)
    if found is None:
        raise NoLedgerError(f"{shown} has no tables yet. {NEW_OR_LOST}")
    _refuse_unknown(found, shown)
    if found < HEAD:
        raise SchemaError(
            f"{shown} is at schema revision {found}, and this updater needs {HEAD}. "
            "Run `updater init` on the workspace: it migrates and keeps what is there."
        )


def migrate(url: str) -> str:
    """The ledger at `url` exists with the tables of revision `HEAD`, which is returned.

    A PostgreSQL schema that the URL names by `options=-csearch_path` is made where it is missing:
    so many ledgers can live in one database. What is in it stays. Killed halfway, nothing has
    changed: a migration is one transaction. Two at once take turns.

    Raises:
        SchemaError: it is newer than this code, or another program's database.
        UnreachableError, StoreError: as `store.database.Database.write`.
    """
    database = Database(url, name="the ledger", wal=True)
    with database.write() as connection:
        if not database.is_sqlite:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            _make_schema(connection)
        found = _revision(connection)
        if found is not None:
            _refuse_unknown(found, database.shown)
        if found != HEAD:
            _upgrade(connection)
    return HEAD


def _make_schema(connection: Connection) -> None:
    if connection.execute(sa.select(sa.func.current_schema())).scalar() is None:
        named = connection.execute(sa.text("SHOW search_path")).scalar_one()
        connection.execute(sa.schema.CreateSchema(named.strip('"'), if_not_exists=True))


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    # Alembic tells every step at level INFO, which is not for the person at `updater init`.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _revision(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(sa.select(_versions.c.version_num)).scalars().first()


def _refuse_unknown(found: str, shown: str) -> None:
    if not REVISION.fullmatch(found):
        raise SchemaError(
            f"{shown} belongs to another program (its schema revision is {found}). "
            "Give the ledger a database of its own: store.url, or UPDATER_STORE_URL."
        )
    if found > HEAD:
        raise SchemaError(
            f"{shown} is at schema revision {found}, newer than the {HEAD} that this updater "
            "knows. Install a newer updater."
        )
