"""Dataset versions: immutable states of a period, in the workspace's git and DVC repository.

A version is a tag `PERIOD@vN` on a commit that holds `data/PERIOD.dvc`; the tag is written last,
so a version that exists is complete. Not the making of examples (`updater.ingest`), and no
reading of rows: callers open the path they are given. Called by the steps and `updater init`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from store import disks
from store.data_cache import DataCache, walk
from store.errors import NotFoundError, StoreError
from store.git import Git

# A folder's name and a part of a git reference at once.
PERIOD = re.compile(r"\w(?:[\w-]|\.(?!\.))*(?<!\.)(?<!\.lock)")
VERSION = re.compile(r"(?P<period>.+)@v(?P<number>[1-9][0-9]*)")

# Kept out of git. `data/*/` matches folders only: the `.dvc` files beside them are tracked.
IGNORED = (
    *("data/*/", "*.db", "*.db-*", "checkpoints/", "cache/", "outcomes/", "runs/"),
    *("mlartifacts/", "studies/"),
    *(".staging-*", ".lock", ".env"),
)
# What `dvc init` writes, file by file, so that an init that was killed can be finished.
DVC_FILES = {
    ".dvc/config": "[core]\n    analytics = false\n    autostage = false\n"
    '[cache]\n    type = "hardlink,copy"\n',
    ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
    ".dvcignore": "# Patterns of files that DVC should ignore, as in .gitignore.\n",
}


@dataclass(frozen=True)
class DatasetCommit:
    """`version` as in `banking@v1`; the git `commit`; DVC's MD5 of the folder as `digest`; the
    size of its files together."""

    version: str
    commit: str
    digest: str
    num_bytes: int


class Datasets:
    """The dataset versions of the workspace `root`. `remote` is a folder or URL that DVC knows."""

    def __init__(self, root: Path, remote: str = "") -> None:
        self.root = root.resolve()
        self._git = Git(self.root)
        self._cache = DataCache(self.root, remote)

    @classmethod
    def create(cls, root: Path, remote: str = "") -> Datasets:
        """`root` is a git and DVC repository of its own, its first commit made. Safe to repeat.

        Raises:
            StoreError: git or the disk refuses.
        """
        made = cls(root, remote)
        try:
            made.root.mkdir(parents=True, exist_ok=True)
            made._git.create()
            for name, text in DVC_FILES.items():
                _write_missing(made.root / name, text)
            _ignore(made.root / ".gitignore")
        except OSError as error:
            raise StoreError(
                f"{root} can't become a data repository: {disks.told(error)}"
            ) from error
        made._git.commit([*DVC_FILES, ".gitignore"], "A workspace of updater")
        return made

    def commit(self, period: str, staging: Path, message: str) -> DatasetCommit:
        """The files of `staging` are the newest version of `period`, and `staging` is gone.

        If the newest version holds the same content already, that one is returned. After an
        error everything is as before, `staging` too; after a kill, stage again and repeat.

        Raises:
            ValueError: `period` can't be a name, or `staging` is no folder of regular files on
                the workspace's file system.
            StoreError: DVC, git or the disk refuses.
        """
        _check(period, staging)
        target = self.root / "data" / period
        newest = self.newest(period)
        version = f"{period}@v{_number(newest.version) + 1 if newest else 1}"
        with self._cache.locked() as repo:
            with _swapped(staging, target):
                digest = self._cache.add(repo, target)
                if newest and newest.digest == digest:
                    return newest
                commit = self._git.commit([f"data/{period}.dvc"], message)
            self._git.tag(version, commit)
        return self.get(version)

    def versions(self, period: str) -> list[str]:
        """The versions of `period`, oldest first.

        Raises:
            StoreError: there is no data repository.
        """
        return sorted(self._versions(period), key=_number)

    def newest(self, period: str) -> DatasetCommit | None:
        """The newest version of `period`, or None. Raises: StoreError: no data repository."""
        versions = self.versions(period)
        return self.get(versions[-1]) if versions else None

    def get(self, version: str) -> DatasetCommit:
        """The version's commit and digest.

        Raises:
            NotFoundError: there is no such version.
            StoreError: there is no data repository.
        """
        named = VERSION.fullmatch(version)
        period = named["period"] if named else version
        commits = self._versions(period)
        if version not in commits:
            known = ", ".join(sorted(commits, key=_number)) or "none"
            raise NotFoundError(f"no dataset version {version}; of {period} there are: {known}")
        written = self._git.show(commits[version], f"data/{period}.dvc")
        digest = re.search(r"md5: ([0-9a-f]{32}\.dir)", written)
        size = re.search(r"size: ([0-9]+)", written)
        if digest is None or size is None:
            raise StoreError(f"data/{period}.dvc at {version} is not what DVC writes: {written}")
        return DatasetCommit(version, commits[version], digest[1], int(size[1]))

    def path(self, version: str, name: str) -> Path:
        """A local file with the bytes of `name` in that version: DVC's own object, not a copy.

        Read-only by contract: every reader shares it. Fetched from the remote where it is missing
        or its size is wrong; a change that keeps the size is not seen.

        Raises:
            NotFoundError: no such version or file, or neither cache nor remote holds it.
            UnreachableError: the remote does not answer.
            StoreError: what the remote gave is corrupt.
        """
        found = self.get(version)
        digest = found.digest
        if not self._cache.object(digest).is_file():
            self._bring_back(version, digest)
        self._cache.drop_damaged(digest, found.num_bytes)
        files = self._cache.files(digest)
        if name not in files:
            raise NotFoundError(f"no file {name} in {version}; it holds {', '.join(files)}")
        path = self._cache.object(files[name])
        if not path.is_file():
            self._bring_back(version, digest)
        return path

    def push(self, versions: Sequence[str]) -> int:
        """The content of `versions` is at the remote; how many objects were sent.

        Raises:
            NotFoundError: no such version, or the local cache lacks some of it.
            UnreachableError: the remote does not answer.
            StoreError: no remote is configured, or it refuses.
        """
        return self._cache.push([self.get(version).digest for version in versions])

    def _versions(self, period: str) -> dict[str, str]:
        if not self._git.exists():
            raise StoreError(f"{self.root} holds no data repository; run `updater init` on it")
        tags = self._git.tags(f"{period}@v*")
        return {name: commit for name, commit in tags.items() if VERSION.fullmatch(name)}

    def _bring_back(self, version: str, digest: str) -> None:
        if not self._cache.remote:
            raise NotFoundError(
                f"the content of {version} is not whole in the DVC cache, and no remote is "
                "configured; set dvc_remote in [store], or ingest the period again from its source"
            )
        self._cache.pull([digest])


def _number(version: str) -> int:
    return int(version.rpartition("@v")[2])


def _check(period: str, staging: Path) -> None:
    if not PERIOD.fullmatch(period):
        raise ValueError(
            f"period {period!r}: must be letters, digits, _, - and single dots, a letter or digit "
            "first, to name a folder and a git tag"
        )
    if not staging.is_dir() or not walk(staging):
        raise ValueError(f"{staging}: must be a folder with at least one file; stage it again")


@contextlib.contextmanager
def _swapped(staging: Path, target: Path) -> Iterator[None]:
    """Inside, `target` holds what `staging` held; after an error both are as they were.

    What stood in `target` waits beside it. If it is found there on entry, an earlier run was
    killed inside, and what is in `target` never became a version.
    """
    waiting = target.with_name(f".{target.name}.old")
    tracked = target.with_name(f"{target.name}.dvc")
    before = tracked.read_bytes() if tracked.is_file() else None
    target.parent.mkdir(exist_ok=True)
    if waiting.exists() and target.exists():
        shutil.rmtree(target)
    elif target.exists():
        target.rename(waiting)
    try:
        _move(staging, target)
        yield
    except BaseException:
        if target.exists() and not staging.exists():
            target.rename(staging)
        if waiting.exists():
            waiting.rename(target)
        # A disk that is full keeps the new text; the next commit puts it right.
        with contextlib.suppress(OSError):
            tracked.unlink(missing_ok=True)
            if before is not None:
                tracked.write_bytes(before)
        raise
    if waiting.exists():
        shutil.rmtree(waiting)


def _move(staging: Path, target: Path) -> None:
    try:
        staging.rename(target)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise ValueError(
                f"{staging}: must lie on the same file system as {target.parent}"
            ) from error
        raise


def _write_missing(path: Path, text: str) -> None:
    if path.is_file():
        return
    path.parent.mkdir(exist_ok=True)
    staged = path.with_name(f"{path.name}.{os.getpid()}")
    staged.write_text(text)
    staged.replace(path)


def _ignore(path: Path) -> None:
    """`path` ignores what is ours to ignore, and keeps the user's own lines."""
    present = path.read_text().splitlines() if path.is_file() else []
    missing = [line for line in IGNORED if line not in present]
    if missing:
        staged = path.with_name(f"{path.name}.{os.getpid()}")
        staged.write_text("\n".join([*present, *missing, ""]))
        staged.replace(path)
