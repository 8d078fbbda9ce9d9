"""Asking something far away: what is asked again, and what is told at once."""

import errno
import socket

import pytest

from store.errors import StoreError, UnreachableError
from store.remote import ask, without_secrets


class EndpointConnectionError(Exception):
    """As botocore's: no OSError."""


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError("no endpoint"),
        socket.gaierror(-2, "Name or service not known"),
        OSError(errno.EHOSTUNREACH, "No route to host"),
        ConnectionRefusedError(111, "refused"),
    ],
)
def test_no_connection_is_asked_again(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.retry.time.sleep", lambda _: None)
    failures = [error, error]

    def action() -> str:
        if failures:
            raise failures.pop()
        return "answer"

    assert ask(action, "the bucket") == "answer"
    failures.extend([error] * 9)
    with pytest.raises(UnreachableError, match="the bucket can't be reached"):
        ask(action, "the bucket")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("Access Denied"), StoreError),
        (StoreError("mine"), StoreError),
        (PermissionError(13, "denied"), PermissionError),
    ],
)
def test_a_refusal_is_told_at_once(error: Exception, told: type[Exception]) -> None:
    calls = []

    def action() -> None:
        calls.append(1)
        raise error

    with pytest.raises(told, match=str(error.args[-1])):
        ask(action, "the bucket")
    assert len(calls) == 1


def test_passwords_are_not_shown() -> None:
    assert without_secrets("ssh://me:secret@host/x") == "ssh://host/x"
    assert without_secrets("/a@b/c") == "/a@b/c"
    assert without_secrets("http://host refused me@b") == "http://host refused me@b"
