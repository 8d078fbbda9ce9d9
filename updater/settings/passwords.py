"""The password that a URL may carry: found, or hidden."""

from urllib.parse import urlsplit


def without_password(uri: str) -> str:
    """`uri` with *** in the place of its password, if it has one."""
    password = password_in(uri)
    return uri.replace(f":{password}@", ":***@", 1) if password else uri


def password_in(uri: str) -> str:
    """The password that stands in `uri` as written; empty if there is none."""
    try:
        return urlsplit(uri).password or ""
    except ValueError:  # no URL: a path with brackets in it, for example
        return ""
