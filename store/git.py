"""The history of a data repository, written by git itself. Nothing of DVC, nothing of periods.

Not a git library: five verbs, each safe to run again after it was killed, and indifferent to the
user's identity, hooks, signing and index. Called by `store.datasets`.
"""

import contextlib
import fcntl
import os
import subprocess
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from store.errors import StoreError

# Set by git for its hooks; they would lead us into another repository. Those of `git rev-parse
# --local-env-vars` but the ones that carry configuration, such as safe.directory.
LOCAL_VARIABLES = {
    *("GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_DIR"),
    *("GIT_WORK_TREE", "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_GRAFT_FILE"),
    *("GIT_NO_REPLACE_OBJECTS", "GIT_REPLACE_REF_BASE", "GIT_PREFIX", "GIT_SHALLOW_FILE"),
    "GIT_NAMESPACE",
}

# What of the user's git configuration must not reach us. `core.fsync` so that a commit survives
# a power cut (git 2.36 and later; older ones ignore it).
OPTIONS = (
    "core.hooksPath=/dev/null",
    "commit.gpgSign=false",
    "core.autocrlf=false",
    "core.fsync=all",
    "gc.auto=0",
    "maintenance.auto=false",
)
IDENTITY = {"user.name": "updater", "user.email": "updater@localhost"}


class Git:
    """The repository whose work tree is exactly `root`, never one that `root` lies in."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._inherited: tuple[int, ...] = ()

    def create(self) -> None:
        """`root` is a git work tree of its own, on the branch main if it was none before.

        Raises:
            StoreError: git is missing or refuses.
        """
        if not (self.root / ".git" / "HEAD").is_file():
            self._git("init", "--quiet", "--initial-branch=main", ".")

    def exists(self) -> bool:
        return (self.root / ".git").exists()

    def commit(self, paths: Sequence[str], message: str) -> str:
        """The last commit that touches `paths`, which holds them as they lie in the work tree.

        Whatever else the user has staged is left alone. A commit is made only where they differ.

        Raises:
            StoreError: git refuses; nothing was committed.
        """
        with self._writing():
            self._git("add", "--force", "--", *paths)
            if self._git("diff", "--cached", "--name-only", "--", *paths):
                self._git(
                    *("commit", "--quiet", "--no-verify", "--only"),
                    *("--message", message, "--", *paths),
                    identity=True,
                )
        return self._git("rev-list", "--max-count=1", "HEAD", "--", *paths)

    def tag(self, name: str, commit: str) -> None:
        """`name` points to `commit`. A plain tag, created and never moved.

        Raises:
            StoreError: the tag stands already, or git refuses.
        """
        with self._writing():
            self._git("update-ref", f"refs/tags/{name}", commit, "0" * len(commit))

    def tags(self, pattern: str) -> dict[str, str]:
        """Commit by name of the tags that match the glob `pattern`.

        Raises:
            StoreError: `root` is no repository.
        """
        listed = self._git(
            "for-each-ref", "--format=%(objectname) %(refname:strip=2)", f"refs/tags/{pattern}"
        )
        pairs = (line.split(" ", 1) for line in listed.splitlines())
        return {name: commit for commit, name in pairs}

    def show(self, commit: str, path: str) -> str:
        """The text of `path` in `commit`. Raises: StoreError: it isn't there."""
        return self._git("cat-file", "blob", f"{commit}:{path}")

    @cached_property
    def _folder(self) -> Path:
        """`.git`, or where it leads to in a linked work tree."""
        return Path(self._git("rev-parse", "--absolute-git-dir"))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Alone among our writers, with no lock left by one of ours that was killed.

        A git that is killed leaves `index.lock` behind, and every later one refuses. So we note
        that one is at work, and its children hold the note's flock: once we have that and the
        note is still there, the writer is dead and the locks made since are nobody's.
        """
        note = self._folder / "updater-at-work"
        with note.open("a+b") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            if held.tell() > 0:
                self._drop_locks(note.stat().st_mtime_ns)
            held.truncate(0)
            held.write(b"1")
            held.flush()
            self._inherited = (held.fileno(),)
            try:
                yield
            finally:
                self._inherited = ()
                held.truncate(0)

    def _drop_locks(self, since_ns: int) -> None:
        for lock in [*self._folder.glob("*.lock"), *self._folder.glob("refs/**/*.lock")]:
            with contextlib.suppress(FileNotFoundError):
                if lock.stat().st_mtime_ns >= since_ns:
                    lock.unlink()

    def _git(self, *arguments: str, identity: bool = False) -> str:
        options = [*OPTIONS, *(self._identity() if identity else ())]
        flags = [word for option in options for word in ("-c", option)]
        environment = {k: v for k, v in os.environ.items() if k not in LOCAL_VARIABLES}
        environment |= {
            "LC_ALL": "C",
            "GIT_CEILING_DIRECTORIES": str(self.root.parent),
            "GIT_TERMINAL_PROMPT": "0",
        }
        try:
            done = subprocess.run(
                ["git", *flags, *arguments],
                cwd=self.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                pass_fds=self._inherited,
                check=False,
            )
        except FileNotFoundError as error:
            missing = "git is not installed" if self.root.is_dir() else f"{self.root} is gone"
            raise StoreError(f"{missing}; datasets are versioned with git") from error
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().replace("\n", "; ")
            raise StoreError(f"git {arguments[0]} failed in {self.root}: {said}")
        return done.stdout.decode().strip()

    def _identity(self) -> list[str]:
        """`-c` options for the parts of an identity that the user's git lacks."""
        known = self._git("config", "--list", "--name-only").lower().splitlines()
        return [f"{key}={value}" for key, value in IDENTITY.items() if key not in known]
