"""The ledger: periods, updates, versions, scores, verdicts and events, on SQLite or PostgreSQL.

`open_ledger(url)` gives a `Ledger`; `migrate(url)` makes or upgrades its tables. What goes in and
comes out are the frozen records named here.
"""

from store.ledger.ledger import Ledger, open_ledger
from store.ledger.records import (
    DatasetVersion,
    Event,
    ModelVersion,
    Period,
    Release,
    Score,
    Step,
    Update,
    VerdictRecord,
)
from store.ledger.schema import migrate

__all__ = [
    "DatasetVersion",
    "Event",
    "Ledger",
    "ModelVersion",
    "Period",
    "Release",
    "Score",
    "Step",
    "Update",
    "VerdictRecord",
    "migrate",
    "open_ledger",
]
