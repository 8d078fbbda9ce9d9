"""Asking something far away, whatever library carries the question.

The clients of object stores are optional and raise exceptions of their own, which can't be
imported to be named; here they become `UnreachableError` or `StoreError`. Called by the data sets
and the checkpoints.
"""

import errno
import re
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from store.errors import DeniedError, StoreError
from store.retry import with_backoff

Result = TypeVar("Result")
# What S3 and its like answer, by the code in the answer's body; of a HEAD, which has none, the
# client has but the status: 400 is what an expired token gets.
_SKEWED = "RequestTimeTooSkewed"
_DENIED = {
    *("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId"),
    *("SignatureDoesNotMatch", "AccessDenied", "400", "401", "403"),
}
_FULL = "Full|Quota|InsufficientCapacity"
# S3's own limit is 15 minutes.
MOST_SKEW = timedelta(minutes=15)
_NO_ROUTE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)


def ask(action: Callable[[], Result], what: str) -> Result:
    """What `action()` returns; asked again with growing pauses while there is no connection.

    `action` must be safe to run again. `what` names the place, without a password.

    Raises:
        UnreachableError: no connection, or no answer in time, however often it was asked.
        DeniedError: the credentials are wrong or have expired, or the clocks are too far apart.
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
    except Exception as error:
        refused = _refused(error, what)
        if refused is not None:
            raise refused from error
        if isinstance(error, OSError):
            if isinstance(error, socket.gaierror) or error.errno in _NO_ROUTE:
                raise ConnectionError(str(error)) from error
            raise
        # botocore's EndpointConnectionError and ReadTimeoutError, and their like elsewhere.
        if re.search("Connect|Timeout", type(error).__name__):
            raise ConnectionError(str(error)) from error
        raise StoreError(f"{what} refused: {type(error).__name__}: {error}") from error


def _refused(error: BaseException, what: str) -> StoreError | None:
    """The object store's refusal in our words; None where it is none that we know."""
    answer = next(_answers(error), None)
    if answer is None:
        return None
    code = str(answer.get("Error", {}).get("Code", ""))
    facts = answer.get("ResponseMetadata", {})
    theirs, ours = _clock(facts), datetime.now(UTC)
    is_apart = theirs is not None and abs(theirs - ours) > MOST_SKEW
    if code == _SKEWED or (code in _DENIED and is_apart):
        shown = f", {theirs:%Y-%m-%d %H:%M:%S} there," if theirs else ""
        return DeniedError(
            f"{what} refused: its clock{shown} and this machine's, {ours:%Y-%m-%d %H:%M:%S} UTC, "
            "are more than 15 minutes apart. Set this machine's clock by NTP, then run the same "
            "command again"
        )
    if code in _DENIED:
        return DeniedError(
            f"{what} refused the sign-in ({code}). The credentials are wrong or have expired: set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_SESSION_TOKEN where they are "
            "temporary ones"
            + ("; or AWS_DEFAULT_REGION or the endpoint is another's" if code == "400" else "")
        )
    if facts.get("HTTPStatusCode") == 507 or re.search(_FULL, code):
        return StoreError(f"no space left at {what} ({code}); free some and run the same again")
    return None


def _answers(error: BaseException | None) -> Iterator[dict[str, Any]]:
    """What the store answered, of whichever exception on the way up still has it."""
    while error is not None:
        answer = getattr(error, "response", None)
        if isinstance(answer, dict):
            yield answer
        error = error.__cause__ or error.__context__


def _clock(facts: dict[str, Any]) -> datetime | None:
    """What the store's clock said, which stands in every answer."""
    try:
        return parsedate_to_datetime(facts["HTTPHeaders"]["date"]).astimezone(UTC)
    except (KeyError, TypeError, ValueError):
        return None
