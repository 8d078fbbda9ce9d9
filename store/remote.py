"""Asking something far away, whatever library carries the question.

The clients of object stores are optional and raise exceptions of their own, which can't be
imported to be named; here they become `UnreachableError` or `StoreError`. Called by the data sets
and the checkpoints.
"""

import errno
import re
import socket
from collections.abc import Callable
from typing import TypeVar

from store.errors import StoreError
from store.retry import with_backoff

Result = TypeVar("Result")
_NO_ROUTE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)


def ask(action: Callable[[], Result], what: str) -> Result:
    """What `action()` returns; asked again with growing pauses while there is no connection.

    `action` must be safe to run again. `what` names the place, without a password.

    Raises:
        UnreachableError: no connection, or no answer in time, however often it was asked.
        OSError: any other failure that the operating system or the client calls one.
        StoreError: any other refusal.
    """
    return with_backoff(lambda: _told(action, what), on=(ConnectionError, TimeoutError), what=what)


def without_secrets(text: str) -> str:
    """`text`, a URL or a sentence with URLs, with no user and password in it, to be shown."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def _told(action: Callable[[], Result], what: str) -> Result:
    try:
        return action()
    except StoreError:
        raise
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno in _NO_ROUTE:
            raise ConnectionError(str(error)) from error
        raise
    except Exception as error:
        # botocore's EndpointConnectionError and ReadTimeoutError, and their like elsewhere.
        if re.search("Connect|Timeout", type(error).__name__):
            raise ConnectionError(str(error)) from error
        raise StoreError(f"{what} refused: {type(error).__name__}: {error}") from error
