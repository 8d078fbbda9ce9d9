"""Running one command: the one place where errors become a line on stderr and an exit code.

Importing this loads every command; each of their files is cheap to import.
"""

import io
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from updater.cli import cluster, compress, doctor, read, releases, study, tour, work
from updater.cli.app import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    Session,
    app,
)
from updater.errors import InputError, UpdateError

COMMAND_FILES = (work, compress, read, releases, study, tour, doctor, cluster)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """The exit code of one command; every error becomes one line on stderr here."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a dash that an old terminal lacks is no failure
    session = Session(folder=Path(os.environ.get("UPDATER_WORKSPACE") or "."))
    try:
        code = app.main(
            arguments if arguments is None else list(arguments),
            prog_name="updater",
            standalone_mode=False,
            obj=session,
        )
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        return _fail(session, _usage(error), EXIT_BAD_INPUT)
    except InputError as error:
        return _fail(session, str(error), EXIT_BAD_INPUT)
    except UpdateError as error:
        return _fail(session, str(error), EXIT_FAILED)
    except (KeyboardInterrupt, click.Abort):
        return _fail(session, "interrupted; run the same command to go on", EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as error:
        return _other(session, error)


def _other(session: Session, error: Exception) -> int:
    """The stores' own errors, and whatever nobody foresaw."""
    from store import disks
    from store.errors import DamagedError, NotFoundError, SchemaError, StoreError

    if isinstance(error, SchemaError | NotFoundError | DamagedError):
        return _fail(session, str(error), EXIT_BAD_INPUT)
    if isinstance(error, StoreError):
        return _fail(session, str(error), EXIT_FAILED)
    if isinstance(error, OSError):
        return _fail(session, disks.told(error), EXIT_FAILED)
    name = type(error).__name__
    return _fail(session, f"{name}: {error} (a defect; --traceback shows where)", EXIT_FAILED)


def _usage(error: click.ClickException) -> str:
    message = error.format_message()
    context = getattr(error, "ctx", None)
    return f"{message} Try `{context.command_path} --help`." if context else message


def _fail(session: Session, message: str, code: int) -> int:
    if session.traceback:
        traceback.print_exc()
    click.echo(f"updater: {' '.join(message.split())}", err=True)
    return code
