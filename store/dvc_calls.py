"""How DVC is called: silently, and with its failures told in our words.

Nothing about what is asked of it (that is `store.data_cache`, the one caller).
"""

import contextlib
import logging
import sqlite3
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from store import disks
from store.errors import StoreError

_LOGGERS = ("dvc", "dvc_data", "dvc_objects")


class _Collect(logging.Handler):
    """Keeps what DVC says in place of printing it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self.said.append(record.getMessage() + (f": {error}" if error else ""))


@contextlib.contextmanager
def quiet() -> Iterator[list[str]]:
    """What DVC logs inside goes into the list, and its use of deprecated calls is its own affair.
    Importing `dvc` wraps sys.stdout (colorama) and makes loggers print on it: both are undone."""
    streams = sys.stdout, sys.stderr
    try:
        import dvc  # noqa: F401
    finally:
        sys.stdout, sys.stderr = streams
    collect = _Collect()
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [collect], False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield collect.said
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate


@contextlib.contextmanager
def plain_errors(said: list[str], root: Path) -> Iterator[None]:
    from dvc.exceptions import DvcException

    try:
        yield
    except StoreError as error:
        if said and type(error) is StoreError:
            raise StoreError(f"{error}: {said[-1]}") from error
        raise
    except (OSError, sqlite3.Error) as error:  # the latter of DVC's own notes on files
        raise StoreError(_disk(error, root)) from error
    except DvcException as error:
        full = isinstance(error.__cause__, OSError) and error.__cause__
        raise StoreError(_disk(full, root) if full else f"DVC: {error}") from error


def _disk(error: OSError | sqlite3.Error, root: Path) -> str:
    is_full = error.errno in disks.FULL if isinstance(error, OSError) else "full" in str(error)
    if is_full:
        return f"the disk of {root} is full ({error}); free some space and run the same again"
    said = disks.told(error) if isinstance(error, OSError) else error
    return f"the data repository {root} can't be used: {said}"
