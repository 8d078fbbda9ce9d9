"""Small files, written so that a reader sees the whole old one or the whole new one."""

import json
import os
import uuid
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """`path` holds `text`, on disk, whatever happens meanwhile.

    Raises:
        OSError: the folder is missing, read-only or full; `path` is as it was.
    """
    # Other machines may write the same, and in containers all processes have the same number.
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with staged.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """`path` holds `value` as JSON. Raises: as `write_text`; TypeError: not JSON-able."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """What `write_json` wrote. Raises: OSError, json.JSONDecodeError."""
    return json.loads(path.read_text("utf-8"))
