"""Writes .env with a random password for each that docker-compose.yml asks for.

    python deploy/secrets_file.py .env      # as `make env` does

What is in the file already stays as it is: only what is missing is added, so that a release which
asks for one more does not lock anybody out of what was there. Standard library only.
"""

import re
import secrets
import sys
from base64 import urlsafe_b64encode
from pathlib import Path

COMPOSE = Path(__file__).resolve().parent.parent / "docker-compose.yml"
ASKED = re.compile(r"\$\{([A-Z_]+):\?")


def asked() -> list[str]:
    """The variables without which nothing starts."""
    return list(dict.fromkeys(ASKED.findall(COMPOSE.read_text("utf-8"))))


def made(name: str) -> str:
    """A new value, of letters and digits alone: it goes into URLs and onto command lines."""
    if name == "AIRFLOW_FERNET_KEY":  # the one with a form of its own: 32 bytes
        return urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return secrets.token_hex(24)


def main() -> int:
    """The exit code."""
    path = Path(sys.argv[1])
    text = path.read_text("utf-8") if path.exists() else ""
    pairs = [line.partition("=") for line in text.splitlines()]
    there = {name.strip() for name, _, value in pairs if value.strip()}  # Compose takes "" for none
    names = asked()
    missing = [name for name in names if name not in there]
    if text and not text.endswith("\n"):
        text += "\n"
    text += "".join(f"{name}={made(name)}\n" for name in missing)
    partial = path.with_name(path.name + ".partial")
    partial.touch(mode=0o600)
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    sys.stderr.write(f"{path}: {len(missing)} added, {len(names) - len(missing)} kept\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
