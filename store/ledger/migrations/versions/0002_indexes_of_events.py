"""Indexes of events: the newest release, and the events of one version or update, are found without
reading the history. They change nothing that is kept.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """The indexes are there."""
    released = sa.text("kind IN ('promoted', 'rolled_back')")
    op.create_index(
        "events_released", "events", ["id"], sqlite_where=released, postgresql_where=released
    )
    op.create_index("events_version", "events", ["version", "kind", "id"])
    op.create_index("events_update", "events", ["update", "kind", "id"])
