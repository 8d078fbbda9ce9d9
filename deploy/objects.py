"""The objects of S3 buckets as files in a folder, and back (docs/backup.md).

    python deploy/objects.py save FOLDER BUCKET..   # each object is FOLDER/BUCKET/KEY
    python deploy/objects.py load FOLDER BUCKET..

`save` copies what is new or has changed since the last time, so it may be repeated into the same
folder, and deletes nothing there. `load` sends every file and leaves other objects alone; a bucket
that is missing is made. The address and the key are where every S3 client looks for them
(AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ..). Needs boto3. Exit codes: 0 done, 1 failed (run it again),
2 called wrongly.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import boto3
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

PART = ".part"  # beside the buckets' folders: a download that was cut short is no object


class RefusedError(Exception):
    """The folder or the bucket is not what was asked for; nothing was copied."""


def save(store: Any, folder: Path, bucket: str) -> tuple[int, int]:
    """Every object of the bucket is a file in the folder; how many there are, and were copied.

    An object that is deleted while this runs is left out.

    Raises:
        RefusedError: a key that can't be a file's name below the folder.
        ClientError, BotoCoreError, Boto3Error, OSError: the store or the disk refuses.
    """
    num_objects = num_copied = 0
    for page in store.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for found in page.get("Contents", ()):
            if found["Key"].endswith("/"):  # some clients' sign for an empty folder
                continue
            path = folder / bucket / _relative(found["Key"])
            num_objects += 1
            changed = found["LastModified"].timestamp()
            if path.is_file() and _is_copy(path, found["Size"], changed):
                continue
            if _fetch(store, bucket, found["Key"], path, changed):
                num_copied += 1
            else:
                num_objects -= 1
    (folder / bucket).mkdir(parents=True, exist_ok=True)
    return num_objects, num_copied


def load(store: Any, folder: Path, bucket: str) -> tuple[int, int]:
    """Every file of the folder is an object of the bucket; how many, twice.

    Raises:
        RefusedError: the folder holds nothing of that bucket.
        ClientError, BotoCoreError, Boto3Error, OSError: the store or the disk refuses.
    """
    root = folder / bucket
    if not root.is_dir():
        raise RefusedError(f"{root} is not there: `save` makes it, one folder for each bucket")
    if bucket not in {one["Name"] for one in store.list_buckets()["Buckets"]}:
        store.create_bucket(Bucket=bucket)
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    for path in paths:
        store.upload_file(str(path), bucket, path.relative_to(root).as_posix())
    return len(paths), len(paths)


def _fetch(store: Any, bucket: str, key: str, path: Path, changed: float) -> bool:
    """Whether the object was there to become the file, whole and with its time."""
    part = path.parents[len(PurePosixPath(key).parts)] / PART
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        store.download_file(bucket, key, str(part))
    except ClientError as error:
        if error.response["Error"]["Code"] in ("404", "NoSuchKey"):
            return False
        raise
    os.utime(part, (changed, changed))
    path.parent.mkdir(parents=True, exist_ok=True)
    part.replace(path)
    return True


def _relative(key: str) -> PurePosixPath:
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts or str(path) != key:
        raise RefusedError(f"the key {key!r} can't be a file below the folder; rename that object")
    return path


def _is_copy(path: Path, num_bytes: int, changed: float) -> bool:
    """By size and time: an object that was written again may have the size that it had."""
    found = path.stat()
    return found.st_size == num_bytes and abs(found.st_mtime - changed) < 0.001


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    verbs = {"save": save, "load": load}
    if len(arguments) < 3 or arguments[0] not in verbs:
        sys.stderr.write("usage: objects.py save|load FOLDER BUCKET..\n")
        return 2
    verb, folder, *buckets = arguments
    store = boto3.client("s3")
    for bucket in buckets:
        try:
            num_objects, num_copied = verbs[verb](store, Path(folder), bucket)
        except RefusedError as error:
            sys.stderr.write(f"objects.py: {error}\n")
            return 2
        except (ClientError, BotoCoreError, Boto3Error, OSError) as error:
            sys.stderr.write(f"objects.py: {verb} {bucket} failed: {error}\n")
            return 1
        sys.stdout.write(f"{bucket}: {num_objects} objects, {num_copied} copied\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
