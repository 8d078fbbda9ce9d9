"""What on-call asks reads no more of a long history than of a short one.

Counted are rows that the database reads, by its own account of how it answered.
"""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from commands import command
from sqlalchemy.engine import Connection, Engine

from store.ledger import migrate
from store.ledger.tables import EventRow
from updater.workspace import Workspace

CONFIG = """
[workspace]
name = "m"
[source]
uri = "rows.jsonl"
[source.fields]
prompt = "{text}"
completion = "{label}"
period = "{period}"
[periods]
order = ["a"]
"""
WHY = ("--reason", "drill")
NUM_EVENTS, MOST_READ = 6000, 100
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def workspace(
    ledger_url: str,
    tmp_path: Path,
    mlflow_tables,
    story_of: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> Workspace:
    """Versions 1 and 2 were deployed one after the other, and 3 waits for a person."""
    monkeypatch.setenv("UPDATER_STORE_URL", ledger_url)
    (tmp_path / "updater.toml").write_text(CONFIG)
    migrate(ledger_url)
    made = Workspace.open(tmp_path)
    story = story_of(made.ledger)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("w")
    digest = made.checkpoints.add(tmp_path / "model")
    for version, base, verdict in (
        ("1", None, "accepted"),
        ("2", "1", "accepted"),
        ("3", "2", "review"),
    ):
        update = story.update(f"u-{version}", base).id
        story.version(version, base, update=update, digest=digest)
        story.judge(update, verdict)
        if verdict == "accepted":
            command(tmp_path, "promote", version, *WHY)
            story.step(update, "release", {"promoted": True, "awaiting": False})
    story.step("u-3", "release", {"promoted": False, "awaiting": True})
    return made


def prolong(workspace: Workspace, number: int) -> None:
    """So many more events: back to 1 and to 2 again by hand, and 1 verified in between."""
    kinds = (("rolled_back", "1", "2"), ("verified", "1", None), ("promoted", "2", "1"))
    common: dict[str, Any] = {"actor": "t", "reason": "r", "update": None, "payload": {}}
    rows = [
        {**common, "at": NOON, "kind": kind, "version": version, "previous": previous}
        for _ in range(number // len(kinds))
        for kind, version, previous in kinds
    ]
    engine = sa.create_engine(workspace.ledger_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.insert(EventRow), rows)
        connection.exec_driver_sql("ANALYZE")


@pytest.fixture
def asked() -> Iterator[list[tuple[str, Any]]]:
    """Every question about events that any code asks any database."""
    found: list[tuple[str, Any]] = []

    def keep(_: Connection, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if statement.startswith(("SELECT", "WITH")) and "events" in statement:
            found.append((statement, parameters))

    sa.event.listen(Engine, "before_cursor_execute", keep)
    yield found
    sa.event.remove(Engine, "before_cursor_execute", keep)


def rows_read(url: str, questions: list[tuple[str, Any]]) -> int:
    """Of the events, by all questions together. On SQLite, which does not count them: 0 where
    every question goes by an index and sorts nothing, else that it does not is an error."""
    total = 0
    with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
        for statement, parameters in questions:
            if connection.dialect.name == "sqlite":
                if "WHERE" not in statement and "LIMIT" in statement:
                    continue  # the first so many in the table's own order
                explained = connection.exec_driver_sql(
                    f"EXPLAIN QUERY PLAN {statement}", parameters
                )
                for *_, how in explained:
                    assert not re.search(
                        "SCAN events(?! USING .*events_released)|TEMP B-TREE", how
                    ), (how, statement)
                continue
            told = connection.exec_driver_sql(
                f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters
            ).scalar_one()
            total += sum(_read(told[0]["Plan"]))
    return total


def _read(node: dict[str, Any]) -> Iterator[int]:
    if node.get("Relation Name") == "events":
        rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        yield rows * node["Actual Loops"]
    for inner in node.get("Plans", []):
        yield from _read(inner)


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("show", "2"),
        ("history", "--last", "20"),
        ("rollback", *WHY),
        ("rollback", "--dry-run", *WHY),
        ("rollback", "--to", "1", *WHY),
        ("promote", "3", "--force", *WHY),
    ],
    ids=" ".join,
)
def test_a_long_history_is_not_read(
    workspace: Workspace, asked: list[tuple[str, Any]], words: tuple[str, ...]
) -> None:
    prolong(workspace, NUM_EVENTS)
    answer = command(workspace.root, *words)
    assert len(answer.get("events", [])) in (0, 20)
    assert asked
    assert rows_read(workspace.ledger_url, asked) <= MOST_READ


def test_the_count_of_rows_is_of_rows_read(
    workspace: Workspace, asked: list[tuple[str, Any]]
) -> None:
    """It would see a question that reads all."""
    prolong(workspace, NUM_EVENTS)
    workspace.ledger.events()
    if workspace.ledger_url.startswith("sqlite"):
        with pytest.raises(AssertionError, match="SCAN events"):
            rows_read(workspace.ledger_url, asked)
    else:
        assert rows_read(workspace.ledger_url, asked) >= NUM_EVENTS
