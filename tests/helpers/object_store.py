"""An S3-compatible object store of its own on the loopback: moto's server."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import BotoCoreError
from mlflow_server import free_port

START_SECONDS = 60


@contextlib.contextmanager
def object_store(folder: Path, *buckets: str) -> Iterator[dict[str, str]]:
    """The environment by which clients find a server with these buckets; killed in the end."""
    port = free_port()
    environ = {
        "AWS_ACCESS_KEY_ID": "updater",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "moto.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _make(buckets, environ, process)
        yield environ
    finally:
        process.kill()
        process.wait()


def client(environ: dict[str, str]):
    """Of the server that the environment names."""
    return boto3.client(
        "s3",
        endpoint_url=environ["AWS_ENDPOINT_URL"],
        aws_access_key_id=environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environ["AWS_SECRET_ACCESS_KEY"],
        region_name=environ["AWS_DEFAULT_REGION"],
    )


def _make(buckets: tuple[str, ...], environ: dict[str, str], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            for bucket in buckets:
                client(environ).create_bucket(Bucket=bucket)
            return
        except BotoCoreError:
            time.sleep(0.5)
    pytest.fail("the object store did not start")
