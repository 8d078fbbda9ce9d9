"""Asking again, with growing pauses: for databases and servers that may be restarting.

Not a policy on what is worth a retry: the caller names the exceptions. Called by the ledger, the
aliases, the data sets and the registry.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from store.errors import UnreachableError

Result = TypeVar("Result")

# Chosen by judgement: pauses of 0.2, 0.4 and 0.8 s outlast a connection that was dropped or a
# server's restart of a second, and on-call commands still answer within their 3 s.
ATTEMPTS = 4
FIRST_PAUSE_SECONDS = 0.2


def with_backoff(
    action: Callable[[], Result],
    *,
    on: tuple[type[BaseException], ...],
    what: str,
) -> Result:
    """What `action()` returns, after at most `ATTEMPTS` calls with doubling pauses between them.

    `action` must be safe to run again after it failed with one of `on`. `what` names the thing
    that is asked, as in "the ledger at sqlite:///store.db"; never put a password in it.

    Raises:
        UnreachableError: every attempt raised one of `on`; the last one is the cause.
        Exception: anything else that `action` raises, at once.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except on as error:
            if attempt == ATTEMPTS:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise UnreachableError(
                    f"{what} can't be reached ({ATTEMPTS} attempts): {reason}. "
                    "Start it or mend its address, then run the same command again."
                ) from error
            time.sleep(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
    raise AssertionError("unreachable: the loop returns or raises")
