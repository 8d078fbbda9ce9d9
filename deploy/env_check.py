"""What is wrong with the secrets of a .env file: missing, a placeholder, too short, or with a
letter that would mean something else where the secret goes. Never says a value."""

import re
from base64 import urlsafe_b64decode
from collections.abc import Iterator, Mapping

from secrets_file import FERNET, asked

NUM_LEAST = {"password": 16, "key": 32}
"""Letters that a password and a key that signs must have; a made one has 48."""
NUM_LEAST_DIFFERENT = 6
"""In "xxxx.." it is one; fewer than six in 16 random letters and digits once in 10^10."""
PLACEHOLDER = re.compile(
    r"change.?(me|this)|placeholder|replace.?(me|this|with)|example|your.?(password|secret|key)|"
    r"(password|secret).?(here|123)",
    re.IGNORECASE,
)
IN_A_URL = re.compile(r"[A-Za-z0-9._~-]*")
"""What stands for itself in a URL (RFC 3986's "unreserved"): docker-compose.yml puts the secrets
into addresses of PostgreSQL and Redis, others into JSON and a line of Redis's configuration."""
CURE = (
    "Delete its line and run `make env`, which makes one; where the service has run with it, first "
    "see docs/security.md, Change a secret"
)


def faults(given: Mapping[str, str]) -> Iterator[str]:
    """One line for each secret that docker-compose.yml asks for and can't use as it is."""
    for name in asked():
        value = given.get(name, "")
        if not value:
            yield f"{name} is missing or empty. Nothing starts without it. Run `make env`"
        elif fault := _fernet(value) if name == FERNET else _password(name, value):
            yield f"{name} {fault}. {CURE}"


def _password(name: str, value: str) -> str:
    """What is wrong, and the rule; empty where nothing is."""
    least = NUM_LEAST["password" if name.endswith("_PASSWORD") else "key"]
    if PLACEHOLDER.search(value) or len(set(value)) < NUM_LEAST_DIFFERENT:
        return "is still a placeholder. It is to be random"
    if len(value) < least:
        return f"has {len(value)} letters. It has to have {least} at least"
    if not IN_A_URL.fullmatch(value):
        return (
            "has a letter that means something else in a URL. "
            "Letters, digits and - _ . ~ are all that it may have"
        )
    return ""


def _fernet(value: str) -> str:
    if all(map(_is_fernet, value.split(","))):
        return ""
    return (
        "is no Fernet key. It is 32 random bytes in URL-safe base64, 44 letters that end in =, or "
        "several such with commas between"
    )


def _is_fernet(key: str) -> bool:
    try:
        return len(key) == 44 and len(urlsafe_b64decode(key.encode())) == 32
    except ValueError:
        return False
