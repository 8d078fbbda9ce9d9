"""What a checkpoint consists of: its files, their sizes and SHA-256, and the digest of it all.

Values and byte streams only; where checkpoints lie is `store.checkpoints`' affair.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from store.errors import StoreError

NAME = "MANIFEST.json"
CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class FileFact:
    """One file of a checkpoint."""

    sha256: str
    num_bytes: int


@dataclass(frozen=True)
class Manifest:
    """The files of a checkpoint by POSIX name relative to its folder, in the order of names."""

    files: Mapping[str, FileFact]

    @classmethod
    def of(cls, folder: Path) -> "Manifest":
        """The manifest of what lies in `folder` now, every byte read. A NAME in it is left out, and
        so are hidden folders: what a clone or a download keeps there (.git, .cache) has the weights
        once more.

        Raises:
            ValueError: it is no folder, holds no file, or something other than files and folders.
            OSError: a file can't be read.
        """
        if not folder.is_dir():
            raise ValueError(f"{folder}: must be a folder with a checkpoint's files")
        files = {}
        for path in sorted(folder.rglob("*")):
            within = path.relative_to(folder)
            name = within.as_posix()
            if name == NAME or (path.is_dir() and not path.is_symlink()):
                continue
            if any(part.startswith(".") for part in within.parts[:-1]):
                continue
            if not path.is_file():
                raise ValueError(
                    f"{path}: a checkpoint holds files only; this is none, or a dead link"
                )
            with path.open("rb") as stream:
                files[name] = digest_of(stream)
        if not files:
            raise ValueError(f"{folder}: must hold at least one file")
        return cls(files)

    @classmethod
    def parse(cls, text: bytes, where: str) -> "Manifest":
        """The manifest written in `text`.

        Raises:
            StoreError: it is not one, or names a file outside the checkpoint.
        """
        try:
            files = {
                str(name): FileFact(str(fact["sha256"]), int(fact["num_bytes"]))
                for name, fact in json.loads(text)["files"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{where} is no manifest of a checkpoint: {error}") from error
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts:
                raise StoreError(f"{where} names {name!r}, which lies outside the checkpoint")
        return cls(dict(sorted(files.items())))

    @cached_property
    def text(self) -> bytes:
        """Canonical JSON: sorted keys, no blanks, UTF-8."""
        facts = {n: {"sha256": f.sha256, "num_bytes": f.num_bytes} for n, f in self.files.items()}
        whole = {"files": facts}
        return json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `text`: the checkpoint's name."""
        return hashlib.sha256(self.text).hexdigest()


def digest_of(stream: BinaryIO, sink: Callable[[bytes], object] = lambda _: None) -> FileFact:
    """Size and SHA-256 of the rest of `stream`, each chunk handed on to `sink`."""
    running, num_bytes = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK_BYTES):
        running.update(chunk)
        sink(chunk)
        num_bytes += len(chunk)
    return FileFact(running.hexdigest(), num_bytes)


def require(found: FileFact, expected: FileFact, where: str, cure: str) -> None:
    """Nothing, if `found` is what was `expected`.

    Raises:
        StoreError: it isn't.
    """
    wrong = difference(found, expected, where)
    if wrong:
        raise StoreError(f"{wrong}. {cure}")


def difference(found: FileFact, expected: FileFact, where: str) -> str:
    """That `found` is not what was `expected`, in words; empty where it is."""
    if found == expected:
        return ""
    return (
        f"{where} is not what its manifest says: expected {expected.num_bytes} bytes with "
        f"SHA-256 {expected.sha256}, found {found.num_bytes} with {found.sha256}"
    )


def copy_checked(source: BinaryIO, target: Path, expected: FileFact, where: str) -> None:
    """`target` holds the rest of `source`, flushed to disk.

    Raises:
        StoreError: `source` is not what was expected; `target` is removed.
        OSError: as reading and writing do; a part of `target` may stay.
    """
    with target.open("wb") as file:
        found = digest_of(source, file.write)
        file.flush()
        os.fsync(file.fileno())
    if found != expected:
        target.unlink()
    require(found, expected, where, "Was it written to meanwhile? Run the same command again.")


def assemble(
    target: Path,
    manifest: Manifest,
    fill: Callable[[str, Path], None],
    *,
    mode: int = 0o444,
    names_itself: bool = True,
) -> None:
    """The folder `target` holds the manifest's files, each filled by `fill(name, path)`.

    It appears whole: built beside, renamed last. A build that was killed is taken up again, and a
    `target` that lacks files is completed, by whatever has the right size: a file gets its name
    only once it is on disk. With `names_itself` the manifest is written into it, after all else.

    Raises:
        OSError: the disk refuses.
        Exception: whatever `fill` raises.
    """
    building = target if target.exists() else target.with_name(f".staging-{target.name}")
    building.mkdir(parents=True, exist_ok=True)
    for name, fact in manifest.files.items():
        path = building / name
        if path.is_file() and path.stat().st_size == fact.num_bytes:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        part.unlink(missing_ok=True)
        fill(name, part)
        part.chmod(mode)
        part.replace(path)
    if names_itself:
        part = building / f"{NAME}.part"
        part.write_bytes(manifest.text)
        _flush(part)
        part.replace(building / NAME)
    _flush(building)
    if building != target:
        building.rename(target)
        _flush(target.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
