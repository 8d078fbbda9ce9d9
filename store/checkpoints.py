"""The checkpoint store: folders of weights by content, in a local folder or behind a URL.

A checkpoint is named by the SHA-256 of its manifest, which is written last: where it is, the
checkpoint is whole. Nothing here knows what the files mean, which version they belong to (the
ledger), or who may delete them. Called by `updater` to keep, link, load and export weights.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from store import disks
from store import manifest as manifests
from store.errors import DamagedError, NotFoundError, StoreError, UnreachableError
from store.manifest import FileFact, Manifest, assemble, copy_checked, difference, digest_of
from store.remote import ask, without_secrets
from store.shelves import FolderShelf, Shelf, UrlShelf, alone

DIGEST = re.compile(r"[0-9a-f]{64}")


class Checkpoints:
    """The checkpoints at `location`, a folder or an fsspec URL; `cache` takes downloads."""

    def __init__(self, location: str, cache: Path) -> None:
        self.location = location.rstrip("/")
        self._cache = cache
        path = location.removeprefix("file://") if location.startswith("file:") else location
        self._shelf: Shelf = UrlShelf(self.location) if "://" in path else FolderShelf(Path(path))

    def add(self, folder: Path, *, frozen: bool = False) -> str:
        """The files of `folder` are in the store; their digest. Safe to repeat, also after a kill.

        Copied, each byte hashed on the way. With `frozen` the caller promises that nobody will
        ever write into these files (replacing them is fine): then a store on the same file system
        takes hard links and no bytes are copied; they become read-only. Not for a folder that
        somebody else may write to in place, as `safetensors` does.

        Raises:
            ValueError: `folder` is no folder of files.
            StoreError: the disk or the remote refuses, or a file changed meanwhile.
            UnreachableError: the remote does not answer.
        """
        with _told(self.location):
            manifest = Manifest.of(folder)
            if not self._is_whole(manifest.digest):
                self._shelf.put(folder, manifest, frozen=frozen)
        return manifest.digest

    def local(self, digest: str) -> Path:
        """A folder on this machine with the checkpoint's files, all there with the right size.

        From behind a URL they are downloaded once, every byte hashed, and kept in the cache.

        Raises:
            ValueError: that is no digest.
            NotFoundError: there is no such checkpoint.
            UnreachableError: the remote does not answer.
            DamagedError: a file is missing or damaged.
            StoreError: the disk refuses.
        """
        with _told(self.location):
            if isinstance(self._shelf, FolderShelf):
                self.quick_check(digest)
                return self._shelf.root / digest
            target = self._cache / digest
            if self._is_cached(digest):
                return target
            manifest = self._manifest(digest)
            with alone(self._cache):
                assemble(target, manifest, lambda name, path: self._fill(manifest, name, path))
            return target

    def read(self, digest: str, name: str) -> bytes:
        """One small file of the checkpoint, every byte hashed; no other is downloaded for it.

        Raises:
            ValueError: that is no digest.
            NotFoundError: there is no such checkpoint, or no such file in it.
            UnreachableError: the remote does not answer.
            DamagedError: the file is missing or damaged.
        """
        source = f"{digest}/{name}"

        def fetched() -> bytes:
            with self._shelf.open(source) as stream:
                return stream.read()

        with _told(self.location):
            expected = self._manifest(digest).files.get(name)
            if expected is None:
                raise NotFoundError(f"{self.uri(digest)} has no {name}")
            try:
                data = ask(fetched, without_secrets(self.location))
            except FileNotFoundError:
                raise DamagedError(f"{self.uri(digest)}/{name} is missing") from None
            _require(digest_of(BytesIO(data)), expected, f"{self.uri(digest)}/{name}")
        return data

    def names(self, digest: str) -> tuple[str, ...]:
        """The checkpoint's files.

        Raises:
            ValueError: that is no digest.
            NotFoundError: there is no such checkpoint.
            UnreachableError: the remote does not answer.
            DamagedError: its manifest is damaged.
        """
        with _told(self.location):
            return tuple(self._manifest(digest).files)

    def uri(self, digest: str) -> str:
        """The URL of the checkpoint's folder. Raises: ValueError: that is no digest."""
        _require_digest(digest)
        if isinstance(self._shelf, FolderShelf):
            return f"file://{self._shelf.root / digest}"
        return f"{self.location}/{digest}"

    def verify(self, digest: str) -> None:
        """Nothing, if every byte in the store is what the manifest says. Reads them all.

        Raises:
            ValueError: that is no digest.
            NotFoundError: there is no such checkpoint.
            UnreachableError: the remote does not answer.
            DamagedError: a file is missing or different; the message has name, expected and found.
        """
        self.quick_check(digest)
        with _told(self.location):
            for name, expected in self._manifest(digest).files.items():
                with self._shelf.open(f"{digest}/{name}") as stream:
                    _require(digest_of(stream), expected, f"{self.uri(digest)}/{name}")

    def quick_check(self, digest: str) -> None:
        """Nothing, if every file is there with the right size. Reads only the manifest.

        Raises:
            ValueError: that is no digest.
            NotFoundError: there is no such checkpoint.
            UnreachableError: the remote does not answer.
            DamagedError: a file is missing or has another size.
        """
        with _told(self.location):
            self._manifest(digest)
            damage = _damage(self._shelf, digest)
        if damage:
            raise DamagedError(f"{self.uri(digest)}: {damage}")

    def export(self, digest: str, target: Path) -> None:
        """`target` is a copy of the checkpoint's folder without the manifest, every byte hashed.

        It appears whole or not at all.

        Raises:
            ValueError: `target` exists and is not an empty folder, or that is no digest.
            NotFoundError, UnreachableError, StoreError: as `local`.
        """
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise ValueError(f"{target}: must not exist, or be an empty folder")
        source = self.local(digest)
        manifest = _read_manifest(FolderShelf(source.parent), digest)

        def fill(name: str, path: Path) -> None:
            with (source / name).open("rb") as stream:
                copy_checked(stream, path, manifest.files[name], f"{source / name}")

        with _told(str(target)):
            shutil.rmtree(target.with_name(f".staging-{target.name}"), ignore_errors=True)
            if target.exists():
                target.rmdir()
            assemble(target, manifest, fill, mode=0o644, names_itself=False)

    def has(self, digest: str) -> bool:
        """Whether there is such a checkpoint: one question. Raises: ValueError, UnreachableError,
        StoreError."""
        _require_digest(digest)
        with _told(self.location):
            return self._shelf.size(f"{digest}/{manifests.NAME}") is not None

    def digests(self) -> list[str]:
        """The whole checkpoints in the store, sorted. Raises: UnreachableError, StoreError."""
        with _told(self.location):
            named = [name for name in self._shelf.names() if DIGEST.fullmatch(name)]
            return sorted(n for n in named if self._shelf.size(f"{n}/{manifests.NAME}") is not None)

    def _is_whole(self, digest: str) -> bool:
        try:
            return _damage(self._shelf, digest) is None
        except UnreachableError:
            raise
        except StoreError:  # its manifest is unreadable: write it again
            return False

    def _is_cached(self, digest: str) -> bool:
        try:
            return _damage(FolderShelf(self._cache), digest) is None
        except DamagedError:  # its manifest is: it is downloaded again
            return False

    def _manifest(self, digest: str) -> Manifest:
        _require_digest(digest)
        if self._shelf.size(f"{digest}/{manifests.NAME}") is None:
            known = ", ".join(d[:12] for d in self.digests()) or "none"
            place = without_secrets(self.location)
            raise NotFoundError(f"no checkpoint {digest[:12]} in {place}; there are: {known}")
        return _read_manifest(self._shelf, digest)

    def _fill(self, manifest: Manifest, name: str, path: Path) -> None:
        source = f"{manifest.digest}/{name}"

        def download() -> None:
            with self._shelf.open(source) as stream:
                try:
                    copy_checked(stream, path, manifest.files[name], f"{self.location}/{source}")
                except UnreachableError:
                    raise
                except StoreError as error:
                    raise DamagedError(str(error)) from error

        ask(download, without_secrets(self.location))


def _read_manifest(shelf: Shelf, digest: str) -> Manifest:
    where = f"{digest}/{manifests.NAME}"
    with shelf.open(where) as stream:
        text = stream.read()
    try:
        manifest = Manifest.parse(text, where)
    except StoreError as error:
        raise DamagedError(str(error)) from error
    if manifest.digest != digest:
        raise DamagedError(f"{where} has been changed: its digest is {manifest.digest}")
    return manifest


def _require(found: FileFact, expected: FileFact, where: str) -> None:
    wrong = difference(found, expected, where)
    if wrong:
        raise DamagedError(wrong)


def _damage(shelf: Shelf, digest: str) -> str | None:
    """The first thing that is wrong with the sizes, or None."""
    if shelf.size(f"{digest}/{manifests.NAME}") is None:
        return f"{manifests.NAME} is missing"
    for name, fact in _read_manifest(shelf, digest).files.items():
        found = shelf.size(f"{digest}/{name}")
        if found is None:
            return f"{name} is missing"
        if found != fact.num_bytes:
            return f"{name} should have {fact.num_bytes} bytes and has {found}"
    return None


def _require_digest(digest: str) -> None:
    if not DIGEST.fullmatch(digest):
        raise ValueError(f"{digest!r}: a checkpoint's digest is 64 lower-case hexadecimal digits")


@contextlib.contextmanager
def _told(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = without_secrets(where)
        if error.errno in disks.FULL:
            raise StoreError(
                f"no space left at {place} ({error}); free some and run the same again"
            ) from error
        raise StoreError(f"{place} can't be used: {disks.told(error)}") from error
