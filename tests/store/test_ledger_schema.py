"""The ledger's tables: made by migrations alone, checked on every start, on both databases."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from store.database import Database
from store.errors import SchemaError, StoreError
from store.ledger import Ledger, migrate, open_ledger, schema
from store.ledger.tables import EventRow, Row, UpdateRow

ROOT = Path(__file__).parents[2]


def database(url: str) -> Database:
    return Database(url, name="the ledger", wal=True)


def stamp(url: str, revision: str) -> None:
    with database(url).write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :r"), {"r": revision})


def migrate_to(revision: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the code of that revision did."""
    from alembic import command

    upgrade = command.upgrade
    with monkeypatch.context() as before:
        before.setattr(command, "upgrade", lambda config, _: upgrade(config, revision))
        migrate(url)


def update_row(id: str, kind: str) -> dict[str, object]:
    made = {"config": {}, "config_digest": "d", "created_at": datetime(2026, 1, 1, tzinfo=UTC)}
    return {"id": id, "kind": kind, "period": "p", "dataset_version": "p@v1", **made}


def test_the_pinned_revision_is_alembics_head() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [schema.HEAD]
    numbers = sorted(int(script.revision) for script in scripts.walk_revisions())
    assert numbers == list(range(1, len(numbers) + 1))


def test_migrations_make_the_tables_that_the_code_declares(ledger_url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with database(ledger_url).read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Row.metadata) == []
        found = sa.inspect(connection)
        for table in Row.metadata.sorted_tables:
            checks = {c["name"] for c in found.get_check_constraints(table.name)}
            declared = {c.name for c in table.constraints if isinstance(c, sa.CheckConstraint)}
            assert checks == declared, table.name


def test_migrating_again_keeps_what_is_there(ledger_url: str) -> None:
    open_ledger(ledger_url).append("noted", actor="a", reason="r")
    assert migrate(ledger_url) == schema.HEAD
    assert len(open_ledger(ledger_url).events()) == 1


def test_every_older_revision_is_migrated_and_keeps_what_is_there(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, int(schema.HEAD)):
        older = f"{number:04}"
        migrate_to(older, empty_url, monkeypatch)
        with pytest.raises(SchemaError, match=f"revision {older}.*`updater init`"):
            open_ledger(empty_url)
    event = {"at": datetime(2026, 1, 1, tzinfo=UTC), "actor": "a", "kind": "promoted"}
    with database(empty_url).write() as connection:
        row = {**event, "version": "1", "reason": "r", "payload": {}}
        connection.execute(sa.insert(EventRow).values(row))
    assert migrate(empty_url) == schema.HEAD
    (kept,) = open_ledger(empty_url).events()
    assert (kept.kind, kept.version) == ("promoted", "1")
    with database(empty_url).read() as connection:
        indexes = {index["name"] for index in sa.inspect(connection).get_indexes("events")}
    assert {"events_released", "events_version", "events_update"} <= indexes


def test_an_older_table_of_updates_keeps_its_rows_and_takes_the_new_kind(
    empty_url: str, monkeypatch: pytest.MonkeyPatch, story_of: Callable[[Ledger], Any]
) -> None:
    migrate_to("0002", empty_url, monkeypatch)
    with monkeypatch.context() as before:
        before.setattr(schema, "HEAD", "0002")
        story_of(open_ledger(empty_url)).dataset("p")
    with database(empty_url).write() as connection:
        connection.execute(sa.insert(UpdateRow).values(update_row("a", "update")))
    with pytest.raises(StoreError), database(empty_url).write() as connection:
        connection.execute(sa.insert(UpdateRow).values(update_row("b", "compress")))
    assert migrate(empty_url) == schema.HEAD
    with database(empty_url).write() as connection:
        connection.execute(sa.insert(UpdateRow).values(update_row("b", "compress")))
    with pytest.raises(StoreError), database(empty_url).write() as connection:
        connection.execute(sa.insert(UpdateRow).values(update_row("c", "squash")))
    found = open_ledger(empty_url).updates()
    assert [(one.id, one.kind) for one in found] == [("a", "update"), ("b", "compress")]


def test_a_table_of_updates_with_another_rule_is_told_and_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite replaces nothing where the text is another, and says nothing of it."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    migrate_to("0002", url, monkeypatch)
    with database(url).write() as connection:
        connection.exec_driver_sql("PRAGMA writable_schema = ON")
        connection.exec_driver_sql(
            "UPDATE sqlite_schema SET sql = replace(sql, 'kind IN (', 'kind in (')"
        )
        connection.exec_driver_sql("PRAGMA writable_schema = OFF")
    with pytest.raises(SchemaError, match="table updates was changed by another program"):
        migrate(url)
    with pytest.raises(SchemaError, match="is at schema revision 0002"):
        open_ledger(url)


def test_two_may_migrate_at_once(empty_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(migrate, [empty_url] * 4)) == [schema.HEAD] * 4
    assert open_ledger(empty_url).events() == []


def test_a_migration_that_fails_changes_nothing(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alembic import op

    def refuse(*_: object, **__: object) -> None:
        raise OSError("killed here")

    monkeypatch.setattr(op, "create_index", refuse)
    with pytest.raises(OSError, match="killed here"):
        migrate(empty_url)
    with database(empty_url).read() as connection:
        assert sa.inspect(connection).get_table_names() == []
    monkeypatch.undo()
    assert migrate(empty_url) == schema.HEAD


def test_an_empty_database_names_init(empty_url: str) -> None:
    database(empty_url).read().__enter__()
    with pytest.raises(SchemaError, match="`updater init`"):
        open_ledger(empty_url)


def test_a_missing_file_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"store.db isn't there\. Run `updater init`"):
        open_ledger(f"sqlite:///{tmp_path / 'store.db'}")
    assert list(tmp_path.iterdir()) == []


def test_older_tables_name_init(ledger_url: str) -> None:
    stamp(ledger_url, "0000")
    with pytest.raises(SchemaError, match=f"revision 0000.*needs {schema.HEAD}.*`updater init`"):
        open_ledger(ledger_url)


def test_newer_tables_name_their_revision_and_are_left_alone(ledger_url: str) -> None:
    stamp(ledger_url, "0417")
    for start in (open_ledger, migrate):
        with pytest.raises(SchemaError, match=r"revision 0417, newer .* Install a newer updater"):
            start(ledger_url)
    stamp(ledger_url, schema.HEAD)


def test_another_programs_database_is_left_alone(ledger_url: str) -> None:
    stamp(ledger_url, "1b5f0d9ad7c1")
    for start in (open_ledger, migrate):
        with pytest.raises(SchemaError, match="another program"):
            start(ledger_url)
    stamp(ledger_url, schema.HEAD)


def test_opening_and_reading_imports_nothing_heavy(tmp_path: Path) -> None:
    """Alembic alone would cost every command half a second."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    migrate(url)
    code = (
        "import sys; from store.ledger import open_ledger; "
        f"open_ledger({url!r}).events(); "
        "print([m for m in ('alembic', 'torch', 'mlflow', 'dvc', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_sqlite_is_durable_and_lets_readers_by(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    migrate(url)
    with database(url).read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 5000,
    }
    ledger = open_ledger(url)
    with database(url).write():
        assert ledger.events() == []


def test_ledgers_share_a_database_by_schemas_of_their_own(postgres_url: str) -> None:
    urls = [f"{postgres_url}?options=-csearch_path%3D%22{name}%22" for name in ("tickets", "A-b")]
    for url in urls:
        with pytest.raises(SchemaError, match="no tables yet"):
            open_ledger(url).events()
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(migrate, [*urls, *urls])) == [schema.HEAD] * 4
    open_ledger(urls[0]).append("noted", actor="a", reason="r")
    assert [len(open_ledger(url).events()) for url in urls] == [1, 0]
    with database(postgres_url).read() as connection:
        assert {"tickets", "A-b"} <= set(sa.inspect(connection).get_schema_names())
        assert sa.inspect(connection).get_table_names("public") == []
