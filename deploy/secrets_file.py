"""Writes .env with a random password for each that docker-compose.yml asks for.

    python deploy/secrets_file.py .env      # as `make env` does

What is in the file already stays as it is: only what is missing is added, so that a release which
asks for one more does not lock anybody out of what was there. One that is there and empty is
missing, and gets its value on its own line. Standard library only.
"""

import re
import secrets
import sys
from base64 import urlsafe_b64encode
from pathlib import Path

from env_file import variable, variables

COMPOSE = Path(__file__).resolve().parent.parent / "docker-compose.yml"
FERNET = "AIRFLOW_FERNET_KEY"
"""The one with a form of its own: 32 bytes in base64."""
ASKED = re.compile(r"\$\{([A-Z_]+):\?")


def asked() -> list[str]:
    """The variables without which nothing starts."""
    return list(dict.fromkeys(ASKED.findall(COMPOSE.read_text("utf-8"))))


def made(name: str) -> str:
    """A new value, of letters and digits alone: it goes into URLs and onto command lines."""
    if name == FERNET:
        return urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return secrets.token_hex(24)


def completed(text: str) -> tuple[str, int]:
    """The file's text with a value for every secret, and how many of them are new."""
    there = variables(text)
    missing = {name: made(name) for name in asked() if not there.get(name)}
    lines = []
    for line in text.splitlines():
        name, _ = variable(line) or ("", "")
        if name not in missing:
            lines.append(line)
        elif f"{name}={missing[name]}" not in lines:  # of several such lines one is left
            lines.append(f"{name}={missing[name]}")
    lines += [line for name in missing if (line := f"{name}={missing[name]}") not in lines]
    return "".join(f"{line}\n" for line in lines), len(missing)


def main() -> int:
    """The exit code."""
    path = Path(sys.argv[1])
    text, num_made = completed(path.read_text("utf-8") if path.exists() else "")
    partial = path.with_name(path.name + ".partial")
    partial.touch(mode=0o600)
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    sys.stderr.write(f"{path}: {num_made} added, {len(asked()) - num_made} kept\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
