"""What an update rehearsed in the end, read from the ledger: the search may have chosen less than
was planned.

Called by the rehearse step, which goes on from there, and by the report.
"""

from rehearsal.manifest import Manifest
from store.ledger import Ledger


def rehearsed(ledger: Ledger, update: str) -> Manifest | None:
    """What a finished training of this update rehearsed: what its search chose, else what was
    planned; None where its rehearse step has not planned."""
    for name in ("train", "rehearse"):
        step = ledger.step(update, name)
        if step is not None and step.state == "finished" and "manifest" in step.result:
            return Manifest.from_json(step.result["manifest"])
    return None
