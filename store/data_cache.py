"""The content of dataset versions: DVC's cache in the workspace and its remote.

Knows digests and files, not periods, versions or history (that is `store.datasets`, the one
caller). Reading takes only DVC's configuration: an object's place follows from its MD5. The rest
of DVC is imported on first write, and what it prints never reaches stdout.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from store.dvc_calls import plain_errors, quiet
from store.errors import NotFoundError, StoreError
from store.remote import ask, without_secrets

REMOTE = "updater"  # our name for it in DVC's configuration
CHUNK_BYTES = 1 << 20


class DataCache:
    """The objects under `root`/.dvc/cache (or wherever DVC's `cache.dir` says), by MD5."""

    def __init__(self, root: Path, remote: str = "") -> None:
        self.root = root
        self.remote = remote
        self._shown = without_secrets(remote)

    @contextlib.contextmanager
    def locked(self) -> Iterator[Any]:
        """DVC's repository, held for one writer; waits for its turn (DVC's own wait is 3 s).

        Raises:
            StoreError: DVC or the disk refuses what is done inside; the message says why.
        """
        with quiet() as said, plain_errors(said, self.root):
            from dvc.repo import Repo, lock_repo

            with (
                Repo(str(self.root), config=self._config(), _wait_for_lock=True) as repo,
                lock_repo(repo),
            ):
                yield repo

    def add(self, repo: Any, folder: Path) -> str:
        """`folder`'s content is in the cache, on disk, and its `.dvc` file says so; the digest.

        Raises:
            StoreError: an object could not be written.
        """
        (stage,) = repo.add(str(folder))
        digest = str(stage.outs[0].hash_info.value)
        # `repo.add` only logs an object that could not be copied (a full disk), and succeeds.
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in walk(folder)}
        for name, md5 in self.files(digest).items():
            path = self.object(md5)
            if not path.is_file() or path.stat().st_size != sizes.get(name):
                raise StoreError(f"DVC could not store {folder / name} in its cache at {path}")
            _flush(path)
        _flush(self.object(digest))
        return digest

    def push(self, digests: Iterable[str]) -> int:
        """Every object of `digests` is at the remote; how many had to be sent.

        Raises:
            NotFoundError: the cache lacks one of them.
            UnreachableError: the remote does not answer.
            StoreError: no remote is configured, or it refuses.
        """
        wanted = [md5 for digest in digests for md5 in (digest, *self.files(digest).values())]
        for md5 in wanted:
            if not self.object(md5).is_file():
                raise NotFoundError(
                    f"the DVC cache lacks {md5}, so it can't be pushed; `pull` it, or ingest again"
                )
        with self.locked() as repo:
            return self._transfer(repo.cloud.push, wanted)

    def pull(self, digests: Iterable[str]) -> int:
        """Every object of `digests` is in the cache, its MD5 checked; how many had to be fetched.

        Raises:
            NotFoundError: the remote lacks one of them.
            UnreachableError: the remote does not answer.
            StoreError: no remote is configured, or what it gave is corrupt (and was dropped).
        """
        digests = list(digests)
        with self.locked() as repo:
            num_fetched = self._fetch(repo, digests)
            files = {md5 for digest in digests for md5 in self.files(digest).values()}
            return num_fetched + self._fetch(repo, files)

    def _fetch(self, repo: Any, wanted: Iterable[str]) -> int:
        missing = [md5 for md5 in dict.fromkeys(wanted) if not self.object(md5).is_file()]
        if not missing:
            return 0
        self._transfer(repo.cloud.pull, missing)
        for md5 in missing:
            path = self.object(md5)
            if not path.is_file():
                raise NotFoundError(
                    f"neither the DVC cache nor the remote {self._shown} holds {md5}; "
                    "`push` from a workspace that has it"
                )
            try:
                check(path, md5)
            except StoreError:
                path.unlink()
                raise
        return len(missing)

    def _transfer(self, verb: Any, wanted: Iterable[str]) -> int:
        from dvc_data.hashfile.hash_info import HashInfo

        if not self.remote:
            raise StoreError(
                "no DVC remote is configured; set dvc_remote in [store] of updater.toml, or "
                "UPDATER_STORE_DVC_REMOTE"
            )
        infos = {HashInfo("md5", md5) for md5 in wanted}
        result = ask(lambda: verb(infos, remote=REMOTE), f"the DVC remote {self._shown}")
        if result.failed:
            raise StoreError(
                f"{len(result.failed)} of {len(infos)} objects could not be copied "
                f"({verb.__name__}, remote {self._shown})"
            )
        return len(result.transferred)

    def files(self, digest: str) -> dict[str, str]:
        """MD5 by relative name of the folder whose digest is `digest` (`...dir`).

        Raises:
            NotFoundError: the cache lacks it.
        """
        path = self.object(digest)
        try:
            listed = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise NotFoundError(f"the DVC cache lacks {digest} ({path})") from error
        return {entry["relpath"]: entry["md5"] for entry in listed}

    def drop_damaged(self, digest: str, num_bytes: int) -> None:
        """No file of the folder is in the cache with a wrong size, such as one cut short.

        A size is compared before any content is read: `num_bytes` is that of all files together.
        """
        named = list(self.files(digest).values())
        present = [md5 for md5 in named if self.object(md5).is_file()]
        if sum(self.object(md5).stat().st_size for md5 in present) == num_bytes:
            return
        for md5 in dict.fromkeys(present):
            try:
                check(self.object(md5), md5)
            except StoreError:
                self.object(md5).unlink()

    def object(self, md5: str) -> Path:
        """Where the cache holds, or would hold, the object `md5` (DVC 3's layout)."""
        return self._folder / "files" / "md5" / md5[:2] / md5[2:]

    @cached_property
    def _folder(self) -> Path:
        from dvc.config import Config

        with quiet():
            named = Config(str(self.root / ".dvc"), config=self._config())["cache"].get("dir")
        return Path(named) if named else self.root / ".dvc" / "cache"

    def _config(self) -> dict[str, Any]:
        """On top of the workspace's and the user's own DVC configuration, and never written:
        a remote's URL may hold a secret."""
        core: dict[str, Any] = {"autostage": False, "analytics": False, "check_update": False}
        core["site_cache_dir"] = str(self.root / ".dvc" / "tmp" / "site")
        config: dict[str, Any] = {"core": core}
        if self.remote:
            core["remote"] = REMOTE
            config["remote"] = {REMOTE: {"url": self.remote}}
        return config


def walk(folder: Path) -> list[Path]:
    """Every file below `folder`, sorted.

    Raises:
        ValueError: something below it is neither a regular file nor a folder.
    """
    paths = sorted(folder.rglob("*"))
    for path in paths:
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path}: a dataset holds regular files only, no links or devices")
    return [path for path in paths if path.is_file()]


def check(path: Path, md5: str) -> None:
    """Nothing, if `path`'s content has that MD5.

    Raises:
        StoreError: it has not.
    """
    running = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            running.update(chunk)
    if running.hexdigest() != md5.removesuffix(".dir"):
        raise StoreError(
            f"{path} is corrupt: its MD5 should be {md5} and is {running.hexdigest()}; delete it "
            "and run the same command again to pull it from the remote"
        )


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
