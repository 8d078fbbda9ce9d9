"""Where checkpoints lie: a local folder, or whatever fsspec reaches by URL.

Files by paths relative to a location, and one way to put a whole checkpoint there, its manifest
last. Called by `store.checkpoints`, which knows what the paths mean.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

from store import manifest as manifests
from store.manifest import Manifest, assemble, copy_checked, digest_of, require
from store.remote import ask, without_secrets


class Shelf(Protocol):
    """Where checkpoints lie, by paths relative to the store's location."""

    def names(self) -> list[str]: ...
    def size(self, path: str) -> int | None: ...
    def open(self, path: str) -> BinaryIO: ...
    def put(self, folder: Path, manifest: Manifest, *, frozen: bool) -> None: ...


class FolderShelf:
    """A local folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def names(self) -> list[str]:
        return [path.name for path in self.root.iterdir()] if self.root.is_dir() else []

    def size(self, path: str) -> int | None:
        place = self.root / path
        return place.stat().st_size if place.is_file() else None

    def open(self, path: str) -> BinaryIO:
        return (self.root / path).open("rb")

    def put(self, folder: Path, manifest: Manifest, *, frozen: bool) -> None:
        def fill(name: str, path: Path) -> None:
            source = folder / name
            if frozen and _linked(source.resolve(), path):
                return
            with source.open("rb") as stream:
                copy_checked(stream, path, manifest.files[name], str(source))

        with alone(self.root):
            assemble(self.root / manifest.digest, manifest, fill)


class UrlShelf:
    """Anything that fsspec knows. A file counts as sent once it has the right size there, which
    object stores grant to whole files only; the manifest goes last."""

    def __init__(self, location: str) -> None:
        from fsspec.core import url_to_fs

        self._what = without_secrets(location)
        self._files, base = url_to_fs(location)
        self._base = str(base).rstrip("/")

    def names(self) -> list[str]:
        def listed() -> list[str]:
            self._files.invalidate_cache()
            try:
                return [str(p) for p in self._files.ls(self._base, detail=False)]
            except FileNotFoundError:
                return []

        return [path.rstrip("/").rpartition("/")[2] for path in ask(listed, self._what)]

    def size(self, path: str) -> int | None:
        def sized() -> int | None:
            self._files.invalidate_cache()
            try:
                return int(self._files.size(f"{self._base}/{path}"))
            except FileNotFoundError:
                return None

        return ask(sized, self._what)

    def open(self, path: str) -> BinaryIO:
        return ask(lambda: self._files.open(f"{self._base}/{path}", "rb"), self._what)

    def put(self, folder: Path, manifest: Manifest, *, frozen: bool) -> None:
        digest = manifest.digest
        for name, expected in manifest.files.items():
            if self.size(f"{digest}/{name}") != expected.num_bytes:
                ask(partial(self._send, folder, manifest, name), self._what)
        ask(lambda: self._write(f"{digest}/{manifests.NAME}", manifest.text), self._what)

    def _send(self, folder: Path, manifest: Manifest, name: str) -> None:
        target = f"{self._base}/{manifest.digest}/{name}"
        self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
        with (folder / name).open("rb") as stream, self._files.open(target, "wb") as sink:
            found = digest_of(stream, sink.write)
        if found != manifest.files[name]:
            self._files.rm_file(target)
        require(found, manifest.files[name], str(folder / name), "It was written to meanwhile.")

    def _write(self, path: str, content: bytes) -> None:
        self._files.pipe_file(f"{self._base}/{path}", content)


def _linked(source: Path, target: Path) -> bool:
    """Whether `target` became a hard link to `source`; not so across file systems."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            return False
        raise
    return True


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """One writer below `root` at a time; the kernel drops the lock of a process that dies."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
