"""The first tables: periods, dataset versions, updates, steps, model versions, scores, verdicts,
events.

Spelt out and not taken from `store.ledger.tables`, which will move on while this stays. There is no
way back down: it would drop the history; restore a backup instead.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """The tables are there, empty."""
    _datasets()
    _updates()
    _versions()
    _judgements()
    _events()


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _json(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.JSON(), nullable=False)


def _row() -> sa.Column[int]:
    return sa.Column("row", sa.Integer(), nullable=False)


def _key(table: str, column: str = "row") -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(column, name=op.f(f"{table}_key"))


def _unique(table: str, *columns: str) -> sa.UniqueConstraint:
    return sa.UniqueConstraint(*columns, name=op.f(f"{table}_{'_'.join(columns)}_unique"))


def _known(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"{table}_{column}_known")
    return sa.ForeignKeyConstraint([column], [f"{target}.id"], name=name)


def _check(name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(name))


def _datasets() -> None:
    op.create_table(
        "periods",
        _row(),
        _text("id"),
        _number("ordinal"),
        _time("start_at", nullable=True),
        _time("end_at", nullable=True),
        _key("periods"),
        _unique("periods", "id"),
    )
    op.create_table(
        "dataset_versions",
        _row(),
        _text("id"),
        _text("period"),
        _text("commit"),
        _text("digest"),
        _number("num_train"),
        _number("num_holdout"),
        _number("num_quarantined"),
        _number("num_duplicates"),
        _number("num_leaked"),
        _json("schema"),
        _time("created_at"),
        _key("dataset_versions"),
        _unique("dataset_versions", "id"),
        _known("dataset_versions", "period", "periods"),
    )
    op.create_index(op.f("dataset_versions_period"), "dataset_versions", ["period"])


def _updates() -> None:
    op.create_table(
        "updates",
        _row(),
        _text("id"),
        _text("kind"),
        _text("period"),
        _text("base", nullable=True),
        _text("dataset_version"),
        _json("config"),
        _text("config_digest"),
        _text("candidate", nullable=True),
        _time("created_at"),
        _key("updates"),
        _unique("updates", "id"),
        _known("updates", "period", "periods"),
        _known("updates", "dataset_version", "dataset_versions"),
        _check("updates_kind_known", "kind IN ('update', 'scratch', 'adopt')"),
    )
    op.create_index(op.f("updates_period"), "updates", ["period"])
    op.create_table(
        "steps",
        _row(),
        _text("update"),
        _text("name"),
        _text("state"),
        _number("attempts"),
        _time("started_at"),
        _time("finished_at", nullable=True),
        sa.Column("seconds", sa.Float(53), nullable=True),
        _json("result"),
        _key("steps"),
        _unique("steps", "update", "name"),
        _known("steps", "update", "updates"),
        _check("steps_state_known", "state IN ('running', 'finished')"),
    )


def _versions() -> None:
    op.create_table(
        "model_versions",
        _row(),
        _text("id"),
        _text("kind"),
        _text("base", nullable=True),
        _text("update", nullable=True),
        _text("digest"),
        _text("uri"),
        _json("periods"),
        _json("dataset_versions"),
        _text("run_id"),
        _time("created_at"),
        _key("model_versions"),
        _unique("model_versions", "id"),
        _known("model_versions", "base", "model_versions"),
        _known("model_versions", "update", "updates"),
    )
    op.create_table(
        "scores",
        _row(),
        _text("version"),
        _text("period"),
        _text("dataset_version"),
        _number("num_correct"),
        _number("num_examples"),
        _text("outcomes"),
        _time("created_at"),
        _key("scores"),
        _unique("scores", "version", "dataset_version"),
        _known("scores", "version", "model_versions"),
        _known("scores", "period", "periods"),
        _known("scores", "dataset_version", "dataset_versions"),
        _check("scores_num_correct_possible", "num_correct BETWEEN 0 AND num_examples"),
    )
    op.create_index(op.f("scores_period"), "scores", ["period"])


def _judgements() -> None:
    op.create_table(
        "verdicts",
        _row(),
        _text("update"),
        _text("verdict"),
        _json("reasons"),
        _json("comparisons"),
        _json("rule"),
        _time("created_at"),
        _key("verdicts"),
        _unique("verdicts", "update"),
        _known("verdicts", "update", "updates"),
        _check("verdicts_verdict_known", "verdict IN ('accepted', 'rejected', 'review')"),
    )


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), nullable=False),
        _time("at"),
        _text("actor"),
        _text("kind"),
        _text("version", nullable=True),
        _text("previous", nullable=True),
        _text("update", nullable=True),
        _text("reason"),
        _json("payload"),
        _key("events", "id"),
        sqlite_autoincrement=True,
    )
    op.create_index("events_kind", "events", ["kind"])
    for name, condition in (
        ("events_promoted_once", "kind = 'promoted'"),
        ("events_decided_once", "kind IN ('approved', 'rejected')"),
    ):
        chosen = sa.text(condition)
        op.create_index(
            name, "events", ["update"], unique=True, sqlite_where=chosen, postgresql_where=chosen
        )
