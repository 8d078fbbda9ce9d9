"""The ways in which stored state can refuse or be out of reach, and nothing else.

Not for bad values in a call: those are `ValueError`. Raised by the ledger, the aliases, the data
sets, the checkpoints and the registry; `updater.cli` turns each into one line and an exit code.
"""


class StoreError(RuntimeError):
    """Stored state is not as it has to be; the message says what, where and the cure."""


class SchemaError(StoreError):
    """The ledger's tables are older or newer than this code. Exit code 2."""


class NoLedgerError(SchemaError):
    """There is none yet, or no more."""


class UnreachableError(StoreError):
    """A database or server did not answer, however often it was asked. Exit code 1, resumable."""


class DeniedError(StoreError):
    """A server does not let us in: wrong credentials, expired ones, or too few rights."""


class NotFoundError(StoreError):
    """Nothing is stored under that name; the message lists what is."""


class DamagedError(StoreError):
    """A stored file is missing, or is not what was stored. Exit code 2.

    Args:
        what: which, where, and what is wrong with it.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"{what}. Restore that folder from a copy of the checkpoint store (docs/backup.md), "
            "then run the same command again."
        )


class ConflictError(StoreError):
    """The state had moved on since it was read, or a fact contradicts one recorded before."""
