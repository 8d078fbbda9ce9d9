"""Buckets to a folder and back, over S3's protocol against moto's server."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import objects
import pytest
from moto.moto_api._internal.models import moto_api_backend
from moto.server import ThreadedMotoServer

LOGIN = {
    "AWS_ACCESS_KEY_ID": "updater",
    "AWS_SECRET_ACCESS_KEY": "any",
    "AWS_DEFAULT_REGION": "us-east-1",
    "NO_PROXY": "*",
}


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of an object store with an empty bucket, which S3's clients find by the environment."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in LOGIN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    boto3.client("s3").create_bucket(Bucket="things")
    yield f"http://{host}:{port}"
    moto_api_backend.reset()  # its objects outlive the server
    server.stop()


@pytest.fixture
def store(address: str) -> Any:
    return boto3.client("s3")


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, objects.__file__, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )


def content(store: Any, bucket: str) -> dict[str, bytes]:
    found = store.list_objects_v2(Bucket=bucket).get("Contents", [])
    return {
        one["Key"]: store.get_object(Bucket=bucket, Key=one["Key"])["Body"].read() for one in found
    }


def test_a_bucket_goes_to_a_folder_and_comes_back_as_it_was(store: Any, tmp_path: Path) -> None:
    store.put_object(Bucket="things", Key="m/abc/model", Body=os.urandom(20_000_000))  # in parts
    store.put_object(Bucket="things", Key="m/abc/empty", Body=b"")
    store.put_object(Bucket="things", Key="m/odd name+%20\u00fc", Body=b"x")
    store.put_object(Bucket="things", Key="m/folder/", Body=b"")
    before = content(store, "things")
    assert before.pop("m/folder/") == b""
    done = run("save", str(tmp_path), "things")
    assert (done.returncode, done.stdout) == (0, "things: 3 objects, 3 copied\n"), done.stderr
    for key in [*before, "m/folder/"]:
        store.delete_object(Bucket="things", Key=key)
    store.delete_bucket(Bucket="things")
    done = run("load", str(tmp_path), "things")
    assert (done.returncode, done.stdout) == (0, "things: 3 objects, 3 copied\n"), done.stderr
    assert content(store, "things") == before


def test_what_was_copied_is_not_copied_again_but_what_was_written_again_is(
    store: Any, tmp_path: Path
) -> None:
    for key in ("x", "y"):
        store.put_object(Bucket="things", Key=key, Body=b"old")
    assert objects.save(store, tmp_path, "things") == (2, 2)
    assert objects.save(store, tmp_path, "things") == (2, 0)
    time.sleep(1.1)  # S3 tells times in seconds
    store.put_object(Bucket="things", Key="y", Body=b"new")  # of the same size
    store.delete_object(Bucket="things", Key="x")
    assert objects.save(store, tmp_path, "things") == (1, 1)
    assert (tmp_path / "things" / "y").read_bytes() == b"new"
    assert (tmp_path / "things" / "x").read_bytes() == b"old"


def test_what_load_does_not_know_stays_and_an_empty_bucket_is_one(
    store: Any, tmp_path: Path
) -> None:
    assert objects.save(store, tmp_path, "things") == (0, 0)
    store.put_object(Bucket="things", Key="later", Body=b"1")
    assert objects.load(store, tmp_path, "things") == (0, 0)
    assert content(store, "things") == {"later": b"1"}


def test_an_object_that_is_deleted_meanwhile_is_left_out(store: Any, tmp_path: Path) -> None:
    for key in ("x", "y"):
        store.put_object(Bucket="things", Key=key, Body=b"1")
    fetch = store.download_file

    def late(bucket: str, key: str, path: str) -> None:
        store.delete_object(Bucket="things", Key="x")
        fetch(bucket, key, path)

    store.download_file = late
    assert objects.save(store, tmp_path, "things") == (1, 1)
    assert [path.name for path in (tmp_path / "things").iterdir()] == ["y"]


def test_a_download_that_is_cut_short_is_no_object(store: Any, tmp_path: Path) -> None:
    store.put_object(Bucket="things", Key="x", Body=b"whole")

    def cut(bucket: str, key: str, path: str) -> None:
        Path(path).write_bytes(b"wh")
        raise OSError("No space left on device")

    fetch, store.download_file = store.download_file, cut
    with pytest.raises(OSError, match="No space"):
        objects.save(store, tmp_path, "things")
    assert [p for p in (tmp_path / "things").rglob("*") if p.is_file()] == []
    store.download_file = fetch
    assert objects.save(store, tmp_path, "things") == (1, 1)
    assert (tmp_path / "things" / "x").read_bytes() == b"whole"


@pytest.mark.parametrize("key", ["../x", "/x", "b//x", "b/./x"])
def test_a_key_that_is_no_file_below_the_folder_is_refused(
    store: Any, tmp_path: Path, key: str
) -> None:
    store.put_object(Bucket="things", Key=key, Body=b"1")
    with pytest.raises(objects.RefusedError, match="can't be a file below the folder"):
        objects.save(store, tmp_path / "copy", "things")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "usage: objects.py save|load FOLDER BUCKET..\n"),
        (("copy", "FOLDER", "things"), 2, "usage: objects.py save|load FOLDER BUCKET..\n"),
        (("load", "FOLDER", "things"), 2, "things is not there: `save` makes it"),
        (("save", "FOLDER", "missing"), 1, "objects.py: save missing failed: "),
    ],
)
def test_what_is_wrong_is_named(
    address: str, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = run(*(str(tmp_path) if word == "FOLDER" else word for word in arguments))
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_store_that_does_not_answer_is_named(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    done = run("save", str(tmp_path), "things")
    assert done.returncode == 1
    assert "Could not connect to the endpoint URL" in done.stderr
