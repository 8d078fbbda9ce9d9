"""Rows as a long life of a model leaves them: the ledger's and MLflow's, in bulk. Of `scale.py`.

Every period is learnt by its last version of several; the versions before it are what the gate
rejected, and the last but one of those what a person did. Every version is scored on every period
so far, and its verdict holds a comparison for each. Most events come after a period was learnt:
four in ten are rollbacks to the version before and promotions back by hand, the others say that
the deployed version was verified again.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors

from store.ledger.tables import Row

Rows = Iterable[tuple[Any, ...]]
HOLDOUT, RIGHT = 200, 170
AT_ONCE = 10_000
STEPS = ("ingest", "rehearse", "importance", "train", "evaluate", "gate", "release")
# As the steps name what they leave; numbers do not matter to who reads them.
RESULTS = {
    "importance": {"estimator": "empirical", "num_examples": 256, "compute_seconds": 9.0},
    "train": {"num_steps": 282, "num_examples": 9000, "experiment": "1", "compute_seconds": 60.0},
    "evaluate": {"compute_seconds": 8.0},
    "gate": {"verdict": "accepted", "reasons": ["better"], "approval": "none"},
    "release": {"promoted": True, "awaiting": False},
}
TABLES = ("periods", "dataset_versions", "updates", "model_versions")
TABLES += ("steps", "scores", "verdicts", "events")


@dataclass(frozen=True)
class Life:
    """How much there is. Days are periods, the last of them yesterday.

    Raises:
        ValueError: fewer than two versions a period, or fewer events than these leave.
    """

    periods: int
    versions: int
    events: int
    digest: str
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        if self.periods < 2 or self.each < 2 or self.versions % self.periods:
            raise ValueError("versions: must be a multiple, at least twice, of at least 2 periods")
        if self.extra < 0:
            raise ValueError(f"events: {self.versions} versions leave more than {self.events}")

    @property
    def each(self) -> int:
        """Versions a period."""
        return self.versions // self.periods

    @property
    def extra(self) -> int:
        """Events beside judged, verified, promoted and rejected."""
        return self.events - 2 * self.versions - 2 * self.periods

    @cached_property
    def days(self) -> list[str]:
        last = datetime.now(UTC).date() - timedelta(days=1)
        return [str(last - timedelta(days=n)) for n in reversed(range(self.periods))]

    @property
    def now(self) -> str:
        return datetime.now(UTC).isoformat()

    def period_of(self, version: int) -> int:
        return (version - 1) // self.each

    def base_of(self, version: int) -> str | None:
        period = self.period_of(version)
        return str(period * self.each) if period else None

    def update_of(self, version: int) -> str:
        return f"{self.days[self.period_of(version)]}-{version:08x}"

    def verdict_of(self, version: int) -> str:
        left = -version % self.each
        return {0: "accepted", 1: "review"}.get(left, "rejected")


def rows(life: Life, table: str) -> tuple[list[str], Rows]:
    """The columns of one of TABLES, less those that number themselves, and its rows."""
    columns = [c.name for c in Row.metadata.tables[table].columns]
    return columns[1:], globals()[f"_{table}"](life)


def _periods(life: Life) -> Rows:
    for day in life.days:
        start = datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC)
        end = start + timedelta(days=1)
        yield day, int(day.replace("-", "")), start.isoformat(), end.isoformat()


def _dataset(day: str) -> str:
    return f"{day}@v1"


def _dataset_versions(life: Life) -> Rows:
    for day in life.days:
        counts = (1800, HOLDOUT, 3, 1, 0)
        yield _dataset(day), day, "c0ffee", "5" * 32, *counts, '{"prompt": "string"}', life.now


def _updates(life: Life) -> Rows:
    for version in range(1, life.versions + 1):
        day = life.days[life.period_of(version)]
        config = {**life.settings, "datasets": {day: _dataset(day)}, "arguments": {"deploy": True}}
        kind = "update" if life.period_of(version) else "scratch"
        yield (
            *(life.update_of(version), kind, day, life.base_of(version), _dataset(day)),
            *(json.dumps(config), "d" * 64, str(version), life.now),
        )


def _model_versions(life: Life) -> Rows:
    for version in range(1, life.versions + 1):
        days = life.days[: life.period_of(version) + 1]
        yield (
            *(str(version), "update" if len(days) > 1 else "scratch", life.base_of(version)),
            *(life.update_of(version), life.digest, f"checkpoints/{life.digest}"),
            *(json.dumps(days), json.dumps({day: _dataset(day) for day in days})),
            *(f"{version:032x}", life.now),
        )


def _steps(life: Life) -> Rows:
    chosen = [
        f'{{"period": "{day}", "dataset_version": "{_dataset(day)}", "num_train": 1800, '
        '"start": 40, "count": 180}'
        for day in life.days
    ]
    for version in range(1, life.versions + 1):
        past = ", ".join(chosen[: life.period_of(version)])
        manifest = f'{{"policy": "balanced", "budget": 9000, "choices": [{past}], "cursors": {{}}}}'
        for name in STEPS:
            result = dict(RESULTS.get(name, {}))
            if name == "rehearse":
                result |= {"manifest": manifest, "policy": "balanced", "budget": 9000}
            told = (life.now, life.now, 12.5, json.dumps(result))
            yield life.update_of(version), name, "finished", 1, *told


def _scores(life: Life) -> Rows:
    now = life.now
    for version in range(1, life.versions + 1):
        for day in life.days[: life.period_of(version) + 1]:
            file = f"outcomes/{version}/{_dataset(day)}.parquet"
            yield str(version), day, _dataset(day), RIGHT, HOLDOUT, file, now


def _verdicts(life: Life) -> Rows:
    numbers = dict.fromkeys(("reference_accuracy", "candidate_accuracy"), RIGHT / HOLDOUT)
    numbers |= {"num_examples": HOLDOUT, "difference": 0.0, "low": -0.01, "high": 0.01}
    numbers |= {"threshold": -0.02, "p_value": 0.01, "adjusted_p": 0.04, "p_value_worse": 0.9}
    numbers |= {"adjusted_p_worse": 1.0, "reference_only": 2, "candidate_only": 2}
    asked = {"role": "past", "against": "base", "reference": "1", "result": "passed"}
    compared = [
        json.dumps({"period": day, **asked, **numbers, "examples_needed": None})
        for day in life.days
    ]
    rule = json.dumps({"margin_fraction": 0.02, "confidence": 0.95})
    for version in range(1, life.versions + 1):
        shown = f"[{', '.join(compared[: life.period_of(version)])}]"
        said = (life.verdict_of(version), '["as good as its base"]', shown, rule, life.now)
        yield life.update_of(version), *said


def _events(life: Life) -> Rows:
    more = [life.extra // life.periods] * life.periods
    more[0] += life.extra - sum(more)
    for period in range(life.periods):
        first, last = period * life.each + 1, (period + 1) * life.each
        for version in range(first, last + 1):
            update = life.update_of(version)
            told = json.dumps({"verdict": life.verdict_of(version)})
            yield _event(life, "verified", version, update)
            yield _event(life, "judged", version, update, payload=told)
            if version == last - 1:
                yield _event(life, "rejected", version, update)
        before = life.base_of(last)
        yield _event(life, "promoted", last, life.update_of(last), previous=before)
        yield from _afterwards(life, last, before, more[period])


def _afterwards(life: Life, deployed: int, before: str | None, number: int) -> Rows:
    for n in range(number):
        if before is not None and n % 5 == 0 and number - n > 3:
            yield _event(life, "rolled_back", int(before), None, previous=str(deployed))
        elif before is not None and n % 5 == 3:
            yield _event(life, "promoted", deployed, None, previous=before)
        else:
            yield _event(life, "verified", deployed, None)


def _event(
    life: Life,
    kind: str,
    version: int,
    update: str | None,
    *,
    previous: str | None = None,
    payload: str = "{}",
) -> tuple[Any, ...]:
    why = "what the steps would have said"
    return life.now, "bench", kind, str(version), previous, update, why, payload


def into_postgres(life: Life, url: str) -> None:
    """The migrated, empty ledger at the libpq `url` has all rows, and what autovacuum would know of
    them a minute later.

    Keys are not checked where the user may leave that out: 2.5 million scores have three each.
    """
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        try:
            with connection.transaction():
                cursor.execute("SET LOCAL session_replication_role = replica")
                _copy(life, cursor)
        except errors.InsufficientPrivilege:
            with connection.transaction():
                _copy(life, cursor)
        cursor.execute("ANALYZE")


def _copy(life: Life, cursor: psycopg.Cursor) -> None:
    for table in TABLES:
        columns, made = rows(life, table)
        named = ", ".join(f'"{column}"' for column in columns)
        with cursor.copy(f'COPY "{table}" ({named}) FROM STDIN') as copy:
            for row in made:
                copy.write_row(row)


def into_sqlite(life: Life, file: Path) -> None:
    """As `into_postgres`, of the migrated ledger in `file`."""
    with sqlite3.connect(file) as connection:
        for table in TABLES:
            columns, made = rows(life, table)
            named = ", ".join(f'"{column}"' for column in columns)
            marks = ", ".join("?" * len(columns))
            connection.executemany(f'INSERT INTO "{table}" ({named}) VALUES ({marks})', made)
        connection.execute("ANALYZE")
    connection.close()


def into_mlflow(life: Life, file: Path, model: str) -> None:
    """MLflow's tables in `file` have every version of the registered `model`, with the tags that
    `store.registry` gives it, and the alias of the last."""
    tags = ("updater.key", "checkpoint_digest", "checkpoint_uri", "base", "period", "verdict")

    def tagged() -> Iterator[tuple[str, int, str, str]]:
        for version in range(1, life.versions + 1):
            for tag in tags:
                yield model, version, tag, f"{tag} of {version}"

    with sqlite3.connect(file) as connection:
        connection.executemany(
            "INSERT INTO model_versions (workspace, name, version, creation_time, current_stage, "
            "run_id, status, source) VALUES ('default', ?, ?, 0, 'None', ?, 'READY', ?)",
            ((model, v, f"{v:032x}", f"runs:/{v:032x}/model") for v in range(1, life.versions + 1)),
        )
        connection.executemany(
            "INSERT INTO model_version_tags (workspace, name, version, key, value) "
            "VALUES ('default', ?, ?, ?, ?)",
            tagged(),
        )
        connection.execute(
            "INSERT INTO registered_model_aliases (workspace, name, alias, version) "
            "VALUES ('default', ?, 'deployed', ?)",
            (model, life.versions),
        )
    connection.close()
