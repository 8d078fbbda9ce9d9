"""Updates of the kind "compress". Nothing that is kept changes.

SQLite changes a constraint by making the table anew, which others refer to; dropping the old one
would break that, and switching the check off is not possible in a transaction. A rule that grows
touches no row, so its text is changed in the place where SQLite keeps it
(https://www.sqlite.org/lang_altertable.html, section 7, the second procedure).
"""

import sqlalchemy as sa
from alembic import op

from store.errors import SchemaError

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_NAME = "updates_kind_known"
_OLD = "kind IN ('update', 'scratch', 'adopt')"
_NEW = "kind IN ('update', 'scratch', 'adopt', 'compress')"
_TABLE = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = 'updates'"


def upgrade() -> None:
    """The rule knows the kind.

    Raises:
        SchemaError: the table has not the rule that the first revision gave it; nothing is changed.
    """
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        op.drop_constraint(op.f(_NAME), "updates", type_="check")
        op.create_check_constraint(op.f(_NAME), "updates", _NEW)
        return
    number = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    connection.execute(
        sa.text(
            "UPDATE sqlite_schema SET sql = replace(sql, :old, :new)"
            " WHERE type = 'table' AND name = 'updates'"
        ),
        {"old": _OLD, "new": _NEW},
    )
    connection.exec_driver_sql(f"PRAGMA schema_version = {number + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = OFF")
    # What matches nothing is replaced without a word, and the kind would be refused weeks later.
    kept = connection.exec_driver_sql(_TABLE).scalar_one()
    if _NEW not in kept:
        raise SchemaError(
            "the ledger's table updates was changed by another program: it has not the rule that it"
            f" was made with, {_OLD}. Bring the ledger back from its backup (docs/backup.md)."
        )
