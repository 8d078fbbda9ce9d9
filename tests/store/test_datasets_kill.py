"""A commit of a dataset version, killed by SIGKILL at every sub-step and run again."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from store import data_cache, datasets, dvc_calls, git
from store.datasets import Datasets

# (what is wrapped, whether the kill comes before or after it)
POINTS = [
    (datasets, "_move", "before"),
    (datasets, "_move", "after"),
    (data_cache, "_flush", "before"),
    (data_cache.DataCache, "add", "after"),
    (git.Git, "commit", "before"),
    (git.Git, "commit", "after"),
    (datasets.shutil, "rmtree", "before"),
    (git.Git, "tag", "before"),
    (git.Git, "tag", "after"),
]


def in_a_child_that_dies(action: Callable[[], Any]) -> None:
    """A fork, not a new interpreter: what takes a second to import is there already."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(owner: Any, name: str, when: str) -> None:
    real = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> None:
        if when == "after":
            real(*args, **kwargs)
        die()

    setattr(owner, name, wrapped)


def stage(root: Path, text: str) -> Path:
    folder = root / ".staging-test"
    folder.mkdir(exist_ok=True)
    (folder / "train.parquet").write_text(text)
    return folder


def output(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    with dvc_calls.quiet():
        import dvc.repo  # noqa: F401


@pytest.mark.parametrize(("owner", "name", "when"), POINTS)
def test_killed_and_run_again_has_the_same_end(
    tmp_path: Path, owner: Any, name: str, when: str
) -> None:
    store = Datasets.create(tmp_path)
    store.commit("a", stage(tmp_path, "one"), "first")

    def update() -> None:
        killed(owner, name, when)
        store.commit("a", stage(tmp_path, "two"), "second")

    in_a_child_that_dies(update)
    complete = (name, when) == ("tag", "after")
    assert store.versions("a") == (["a@v1", "a@v2"] if complete else ["a@v1"])
    assert store.path("a@v1", "train.parquet").read_text() == "one"

    made = store.commit("a", stage(tmp_path, "two"), "second")

    assert made.version == "a@v2"
    assert store.versions("a") == ["a@v1", "a@v2"]
    assert store.path("a@v2", "train.parquet").read_text() == "two"
    assert (tmp_path / "data" / "a" / "train.parquet").read_text() == "two"
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["a", "a.dvc"]
    assert output(tmp_path, "log", "--format=%s").splitlines()[:2] == ["second", "first"]
    assert output(tmp_path, "status", "--porcelain") == ""


def test_killed_before_the_first_version_and_run_with_other_content(tmp_path: Path) -> None:
    store = Datasets.create(tmp_path)

    def update() -> None:
        killed(git.Git, "tag", "before")
        store.commit("a", stage(tmp_path, "one"), "first")

    in_a_child_that_dies(update)
    assert store.versions("a") == []
    assert store.commit("a", stage(tmp_path, "other"), "again").version == "a@v1"
    assert store.path("a@v1", "train.parquet").read_text() == "other"


def test_locks_of_a_git_that_was_killed_are_cleared(tmp_path: Path) -> None:
    store = Datasets.create(tmp_path)

    def update() -> None:
        real = git.Git._git

        def wrapped(self: git.Git, *arguments: str, **kwargs: Any) -> str:
            if arguments[0] == "commit":
                (tmp_path / ".git" / "index.lock").touch()
                (tmp_path / ".git" / "refs" / "heads" / "main.lock").touch()
                die()
            return real(self, *arguments, **kwargs)

        git.Git._git = wrapped  # type: ignore[method-assign]
        store.commit("a", stage(tmp_path, "one"), "first")

    in_a_child_that_dies(update)
    assert (tmp_path / ".git" / "index.lock").exists()
    assert store.commit("a", stage(tmp_path, "one"), "first").version == "a@v1"


def test_a_lock_of_the_users_own_git_is_respected(tmp_path: Path) -> None:
    store = Datasets.create(tmp_path)
    (tmp_path / ".git" / "index.lock").touch()
    with pytest.raises(datasets.StoreError, match=r"index\.lock"):
        store.commit("a", stage(tmp_path, "one"), "first")
    (tmp_path / ".git" / "index.lock").unlink()
    assert store.commit("a", stage(tmp_path, "one"), "first").version == "a@v1"


def test_create_killed_at_each_file_and_run_again(tmp_path: Path) -> None:
    for number in range(len(datasets.DVC_FILES) + 1):
        root = tmp_path / str(number)

        def create(root: Path = root, number: int = number) -> None:
            real, done = datasets._write_missing, []

            def wrapped(path: Path, text: str) -> None:
                if len(done) == number:
                    die()
                done.append(path)
                real(path, text)

            datasets._write_missing = wrapped
            killed(git.Git, "commit", "before")
            Datasets.create(root)

        in_a_child_that_dies(create)
        store = Datasets.create(root)
        assert store.commit("a", stage(root, "x"), "m").version == "a@v1"
        assert output(root, "status", "--porcelain") == ""
