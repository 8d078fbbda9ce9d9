"""The aliases on an MLflow server, through its REST API and the standard library.

Not MLflow's client, whose import takes 2.5 s. It signs in as that client does: by the URL, by
MLFLOW_TRACKING_USERNAME and _PASSWORD (or ~/.mlflow/credentials), or by MLFLOW_TRACKING_TOKEN.
Called by `store.aliases`, for http and https.
"""

import base64
import configparser
import http.client
import json
import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlencode, urlsplit

from store.errors import DeniedError, NotFoundError, StoreError
from store.retry import with_backoff

API = "/api/2.0/mlflow/registered-models/"
# Per attempt: above what a busy server takes for a row, chosen by judgement.
TIMEOUT_SECONDS = 5
MISSING = "RESOURCE_DOES_NOT_EXIST"
TRUE = ("true", "1")


class AliasServer:
    """The aliases of the registered model `name` on the server at `url`."""

    def __init__(self, url: str, name: str) -> None:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        self._url = parts._replace(netloc=host, query="", fragment="").geturl().rstrip("/")
        self._name = name
        self._sign_in = _credentials(parts)
        self.shown = f"MLflow at {self._url}"

    def get(self, alias: str) -> str | None:
        answer = self._ask("GET", "get?" + urlencode({"name": self._name}))
        if answer is None:
            return None
        known = answer.get("registered_model", {}).get("aliases", [])
        versions = {entry["alias"]: str(entry["version"]) for entry in known}
        return versions.get(alias)

    def set(self, alias: str, version: str) -> None:
        fields = {"name": self._name, "alias": alias, "version": version}
        if not version.isdecimal() or self._ask("POST", "alias", fields) is None:
            raise NotFoundError(
                f"{self.shown} has no version {version} of {self._name}, so no alias can point "
                "to it"
            )

    def delete(self, alias: str) -> None:
        self._ask("DELETE", "alias", {"name": self._name, "alias": alias})

    def _ask(self, method: str, path: str, fields: dict[str, str] | None = None) -> Any:
        """The server's answer; None where it says that there is no such model or version."""
        return with_backoff(
            lambda: self._ask_once(method, path, fields),
            on=(_NotNow, OSError, http.client.HTTPException),
            what=self.shown,
        )

    def _ask_once(self, method: str, path: str, fields: dict[str, str] | None) -> Any:
        body = None if fields is None else json.dumps(fields).encode()
        request = urllib.request.Request(self._url + API + path, data=body, method=method)
        request.add_header("Content-Type", "application/json")
        if os.environ.get("MLFLOW_WORKSPACE"):
            request.add_header("X-MLFLOW-WORKSPACE", os.environ["MLFLOW_WORKSPACE"])
        if self._sign_in:  # unredirected: the password is for this host alone
            request.add_unredirected_header("Authorization", self._sign_in)
        opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=_trust()))
        try:
            with opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
                return self._read(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(error.code, error.read())

    def _read(self, body: bytes) -> Any:
        try:
            answer = json.loads(body or b"{}")
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise StoreError(
                f"{self.shown} answered, but not as an MLflow server does; check store.mlflow_uri"
            )
        return answer

    def _refused(self, status: int, body: bytes) -> None:
        if status in (401, 403):
            raise DeniedError(
                f"{self.shown} refused the sign-in ({status}). Set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
            )
        if status == 429 or status >= 500:
            raise _NotNow(f"it answered {status}")
        answer = self._read(body)
        if answer.get("error_code") != MISSING:
            raise StoreError(f"{self.shown} refused ({status}): {answer.get('message', '')}")


class _NotNow(Exception):
    """The server is there and can't answer now."""


def _credentials(url: SplitResult) -> str:
    """The Authorization header; "" where nobody signs in."""
    if url.username is not None:
        return _basic(unquote(url.username), unquote(url.password or ""))
    kept = configparser.ConfigParser(interpolation=None)
    kept.read(Path("~/.mlflow/credentials").expanduser())
    given = [
        os.environ.get(name) or kept.get("mlflow", name.lower(), fallback="") or ""
        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    ]
    if all(given):
        return _basic(*given)
    token = os.environ.get("MLFLOW_TRACKING_TOKEN", "")
    return f"Bearer {token}" if token else ""


def _basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def _trust() -> ssl.SSLContext:
    """Whose certificates count, as MLflow's client decides it."""
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in TRUE:
        return ssl._create_unverified_context()
    return ssl.create_default_context(
        cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or None
    )
