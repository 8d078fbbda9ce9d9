"""`updater` called in this process, because imports take seconds."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from updater.cli import run


def said(folder: Path, *arguments: str, code: int = 0) -> tuple[str, str]:
    """What a command that ended with this code wrote to stdout and to stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        ended = run(["--workspace", str(folder), *arguments])
    assert ended == code, err.getvalue()[-3000:]
    assert "Traceback" not in err.getvalue()
    return out.getvalue(), err.getvalue()


def answered(folder: Path, *arguments: str, code: int = 0) -> tuple[dict[str, Any], str]:
    """The JSON answer of one command, {} where it gave none, and what it wrote to stderr."""
    out, err = said(folder, "--json", *arguments, code=code)
    return (json.loads(out.splitlines()[-1]) if out.strip() else {}), err


def command(folder: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    """The JSON answer of one command."""
    return answered(folder, *arguments, code=code)[0]
