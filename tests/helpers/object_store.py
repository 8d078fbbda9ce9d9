"""An S3 server on the loopback (moto's), behind a gate that answers as a store in trouble does.

The gate passes requests on, or answers one with the error that S3 documents for the fault that is
set: an expired token, no room left, a request that was signed by too different a clock.
"""

import contextlib
import http.client
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow_server import free_port
from s3fs import S3FileSystem

# What S3 itself allows between a request's clock and its own.
MOST_SKEW = timedelta(minutes=15)
EXPIRED = (400, "ExpiredToken", "The provided token has expired.")
# S3 has no room of its own to run out of; stores that speak its protocol say this (MinIO).
FULL = (507, "XMinioStorageFull", "Storage backend has reached its minimum free drive threshold.")
SKEWED = (
    403,
    "RequestTimeTooSkewed",
    "The difference between the request time and the server's time is too large.",
)
WRITES = ("PUT", "POST")
OF_THE_CONNECTION = ("transfer-encoding", "connection", "content-length", "date", "server")


class ObjectStore:
    """`url` is where it answers. `fault` is what it answers in bucket `only`, or in all; None for
    what it really says. `clock` is how far its own clock is ahead."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.fault: tuple[int, str, str] | None = None
        self.only = ""
        self.clock = timedelta()

    @property
    def environ(self) -> dict[str, str]:
        """By which a process finds it, and signs in."""
        return {
            "AWS_ACCESS_KEY_ID": "updater",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
        }

    def fail(self, fault: tuple[int, str, str] | None, only: str = "") -> None:
        """From now on it answers so."""
        self.fault, self.only = fault, only

    def refusal(self, method: str, path: str, signed_at: str | None) -> tuple[int, str, str] | None:
        """What this request is answered with in the place of the store's answer."""
        is_meant = path.startswith(f"/{self.only}") and (self.fault is not FULL or method in WRITES)
        if self.fault is not None and is_meant:
            return self.fault
        if self.clock and signed_at:
            when = datetime.strptime(signed_at, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            if abs(datetime.now(UTC) + self.clock - when) > MOST_SKEW:
                return SKEWED
        return None


@contextlib.contextmanager
def object_store(folder: Path, *buckets: str) -> Iterator[ObjectStore]:
    """A store with these buckets; gone in the end."""
    S3FileSystem.clear_instance_cache()  # they keep the address that an earlier store had
    behind = free_port()
    with (folder / "moto.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(behind)],
            stdout=log,
            stderr=log,
        )
    store = ObjectStore(free_port())
    address = ("127.0.0.1", int(store.url.rpartition(":")[2]))
    server = ThreadingHTTPServer(address, _gate(store, behind))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        _wait_for(f"http://127.0.0.1:{behind}/moto-api/", process, folder / "moto.log")
        for bucket in buckets:
            client(store).create_bucket(Bucket=bucket)
        yield store
    finally:
        server.shutdown()
        server.server_close()
        process.kill()
        process.wait()


def keys(store: ObjectStore, bucket: str) -> list[str]:
    """The names of all objects in the bucket."""
    pages = client(store).get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


def client(store: ObjectStore):  # type: ignore[no-untyped-def]  # boto3 has no types
    """boto3's, of this store."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=store.environ["AWS_ENDPOINT_URL"],
        aws_access_key_id=store.environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=store.environ["AWS_SECRET_ACCESS_KEY"],
        region_name=store.environ["AWS_DEFAULT_REGION"],
    )


def _gate(store: ObjectStore, behind: int) -> type[BaseHTTPRequestHandler]:
    class Gate(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            body = self._body()
            refused = store.refusal(self.command, self.path, self.headers.get("x-amz-date"))
            if refused is not None:
                status, code, message = refused
                text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
                return self._answer(status, {"Content-Type": "application/xml"}, text.encode())
            connection = http.client.HTTPConnection("127.0.0.1", behind, timeout=60)
            headers = {k: v for k, v in self.headers.items() if k.lower() != "transfer-encoding"}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            found = dict(answer.getheaders())
            return self._answer(answer.status, found, answer.read())

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in OF_THE_CONNECTION:
                    self.send_header(name, value)
            length = headers.get("Content-Length", "0") if self.command == "HEAD" else len(body)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def date_time_string(self, timestamp: float | None = None) -> str:
            """The header Date of every answer."""
            at = time.time() if timestamp is None else timestamp
            return super().date_time_string(at + store.clock.total_seconds())

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is printed."""

    return Gate


def _wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the object store did not start: {log.read_text()[-2000:]}")
