"""Dataset versions in a real git and DVC repository."""

import errno
import fcntl
import hashlib
import json
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from store.datasets import DatasetCommit, Datasets
from store.errors import NotFoundError, StoreError, UnreachableError
from store.git import Git


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No configuration of whoever runs the tests: no identity, no global ignores."""
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


@pytest.fixture
def datasets(root: Path, tmp_path: Path) -> Datasets:
    return Datasets.create(root, str(tmp_path / "remote"))


def stage(root: Path, text: str, **more: str) -> Path:
    folder = root / ".staging-test"
    folder.mkdir()
    (folder / "train.parquet").write_text(text)
    for name, content in more.items():
        (folder / name).write_text(content)
    return folder


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_create_makes_a_repository_and_may_be_repeated(root: Path) -> None:
    Datasets.create(root)
    first = git(root, "rev-parse", "HEAD")
    Datasets.create(root)
    assert git(root, "rev-parse", "HEAD") == first
    assert git(root, "branch", "--show-current") == "main"
    assert git(root, "ls-files").split() == [
        ".dvc/.gitignore",
        ".dvc/config",
        ".dvcignore",
        ".gitignore",
    ]


def test_create_finishes_what_a_killed_one_left(root: Path) -> None:
    root.mkdir()
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    (root / ".dvc").mkdir()
    datasets = Datasets.create(root)
    assert datasets.commit("a", stage(root, "x"), "m").version == "a@v1"


def test_create_keeps_the_users_files_out_of_the_commit(root: Path) -> None:
    root.mkdir()
    (root / "updater.toml").write_text('uri = "postgresql://user:secret@host/db"')
    (root / ".gitignore").write_text("mine/")
    Datasets.create(root, "s3://key:secret@bucket")
    assert "updater.toml" not in git(root, "ls-files")
    assert "secret" not in git(root, "log", "-p")
    assert (root / ".gitignore").read_text().splitlines()[:2] == ["mine/", "data/*/"]


def test_create_makes_its_own_repository_inside_another(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    datasets = Datasets.create(tmp_path / "inner")
    datasets.commit("a", stage(tmp_path / "inner", "x"), "m")
    assert git(tmp_path, "for-each-ref") == ""
    assert "a@v1" in git(tmp_path / "inner", "tag")


def test_variables_of_a_git_hook_do_not_lead_elsewhere(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    Datasets.create(root).commit("a", stage(root, "x"), "m")
    assert list(tmp_path.iterdir()) == [root]


def test_neither_signing_nor_hooks_nor_identity_matter(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "gitconfig"
    config.write_text(
        "[commit]\n gpgSign = true\n[tag]\n gpgSign = true\n[log]\n showSignature = true\n"
        "[user]\n name = Ada\n useConfigOnly = true\n[core]\n excludesFile = /dev/stdin\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    datasets = Datasets.create(root)
    hook = root / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    made = datasets.commit("a", stage(root, "x"), "learnt a")
    assert git(root, "log", "-1", "--format=%an <%ae> %s", made.commit) == (
        "Ada <updater@localhost> learnt a"
    )


def test_what_the_user_has_staged_stays_his(root: Path, datasets: Datasets) -> None:
    (root / "notes.txt").write_text("mine")
    git(root, "add", "notes.txt")
    made = datasets.commit("a", stage(root, "x"), "m")
    assert git(root, "show", "--name-only", "--format=", made.commit) == "data/a.dvc"
    assert git(root, "diff", "--cached", "--name-only") == "notes.txt"


def test_a_version_is_a_tag_and_the_files_lie_in_the_workspace(
    root: Path, datasets: Datasets
) -> None:
    staging = stage(root, "x", **{"summary.json": "{}"})
    made = datasets.commit("banking", staging, "m")
    tagged = git(root, "rev-parse", "banking@v1")
    assert made == DatasetCommit("banking@v1", tagged, made.digest, made.num_bytes)
    assert made.digest.endswith(".dir")
    assert made.digest in (root / "data" / "banking.dvc").read_text()
    assert (root / "data" / "banking" / "train.parquet").read_text() == "x"
    assert not staging.exists()
    assert git(root, "status", "--porcelain") == ""
    assert datasets.newest("banking") == made == datasets.get("banking@v1")


def test_the_same_content_is_the_same_version(root: Path, datasets: Datasets) -> None:
    first = datasets.commit("a", stage(root, "x"), "m")
    head = git(root, "rev-parse", "HEAD")
    assert datasets.commit("a", stage(root, "x"), "again") == first
    assert git(root, "rev-parse", "HEAD") == head
    assert datasets.commit("a", stage(root, "y"), "m").version == "a@v2"
    assert datasets.commit("a", stage(root, "x"), "m").version == "a@v3"
    assert datasets.versions("a") == ["a@v1", "a@v2", "a@v3"]


def test_every_version_stays_readable_from_the_cache(root: Path, datasets: Datasets) -> None:
    for text in ("one", "two"):
        datasets.commit("a", stage(root, text), "m")
    datasets.commit("ab", stage(root, "other"), "m")
    new, old = (datasets.path(f"a@v{n}", "train.parquet") for n in (2, 1))
    assert (new.read_text(), old.read_text()) == ("two", "one")
    assert (root / ".dvc" / "cache") in old.parents
    assert old.stat().st_mode & 0o222 == 0
    assert datasets.versions("a") == ["a@v1", "a@v2"]


def test_ten_versions_are_in_the_order_of_numbers(root: Path, datasets: Datasets) -> None:
    commit = datasets.commit("a", stage(root, "x"), "m").commit
    for number in range(2, 11):
        Git(root).tag(f"a@v{number}", commit)
    assert datasets.versions("a")[-2:] == ["a@v9", "a@v10"]


def test_the_work_folder_is_not_another_copy(root: Path, datasets: Datasets) -> None:
    datasets.commit("a", stage(root, "x" * 5000), "m")
    work = root / "data" / "a" / "train.parquet"
    assert work.samefile(datasets.path("a@v1", "train.parquet"))


def test_names_that_are_not_there(root: Path, datasets: Datasets) -> None:
    datasets.commit("a", stage(root, "x"), "m")
    with pytest.raises(NotFoundError, match=r"no file nope in a@v1; it holds train\.parquet"):
        datasets.path("a@v1", "nope")
    with pytest.raises(NotFoundError, match="no dataset version a@v2; of a there are: a@v1"):
        datasets.path("a@v2", "train.parquet")
    with pytest.raises(NotFoundError, match="of b there are: none"):
        datasets.get("b")
    assert datasets.newest("b") is None
    with pytest.raises(StoreError, match="updater init"):
        Datasets(root.parent).versions("a")


@pytest.mark.parametrize(
    "period", ["", "..", "a..b", "a/b", ".a", "a.", "a b", "a.lock", "-a", "a~1"]
)
def test_periods_that_can_not_be_names(root: Path, datasets: Datasets, period: str) -> None:
    staging = stage(root, "x")
    with pytest.raises(ValueError, match="to name a folder and a git tag"):
        datasets.commit(period, staging, "m")
    assert staging.exists()


@pytest.mark.parametrize("period", ["2018-Q2", "2026-01", "credit_cards", "1", "v1.5", "März"])
def test_periods_that_can_be_names(root: Path, datasets: Datasets, period: str) -> None:
    assert datasets.commit(period, stage(root, "x"), "m").version == f"{period}@v1"
    assert datasets.path(f"{period}@v1", "train.parquet").read_text() == "x"


def test_a_staging_folder_must_hold_regular_files(root: Path, datasets: Datasets) -> None:
    with pytest.raises(ValueError, match="stage it again"):
        datasets.commit("a", root / "nowhere", "m")
    staging = root / ".staging-test"
    staging.mkdir()
    with pytest.raises(ValueError, match="at least one file"):
        datasets.commit("a", staging, "m")
    (staging / "link").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="regular files only"):
        datasets.commit("a", staging, "m")


def test_a_version_comes_back_bit_for_bit(root: Path, datasets: Datasets) -> None:
    wanted = {}
    for period, text in (("a", "one"), ("a", "two"), ("b", "three")):
        version = datasets.commit(period, stage(root, text, holdout=text * 2), "m").version
        for name in ("train.parquet", "holdout"):
            path = datasets.path(version, name)
            wanted[version, name] = hashlib.sha256(path.read_bytes()).hexdigest()
    assert datasets.push(["a@v1", "a@v2", "b@v1"]) == 9
    assert datasets.push(["a@v1", "b@v1"]) == 0
    shutil.rmtree(root / ".dvc" / "cache")
    shutil.rmtree(root / "data" / "a")
    assert datasets.path("a@v1", "train.parquet").read_text() == "one"
    for (version, name), digest in wanted.items():
        content = datasets.path(version, name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest


def test_without_a_remote_a_lost_version_says_its_cure(root: Path) -> None:
    datasets = Datasets.create(root)
    datasets.commit("a", stage(root, "x"), "m")
    with pytest.raises(StoreError, match="set dvc_remote"):
        datasets.push(["a@v1"])
    shutil.rmtree(root / ".dvc" / "cache")
    with pytest.raises(NotFoundError, match="ingest the period again"):
        datasets.path("a@v1", "train.parquet")


def test_what_the_remote_lacks_is_named(root: Path, datasets: Datasets) -> None:
    made = datasets.commit("a", stage(root, "x"), "m")
    shutil.rmtree(root / ".dvc" / "cache")
    with pytest.raises(NotFoundError, match="lacks"):
        datasets.push(["a@v1"])
    with pytest.raises(StoreError, match=made.digest[2:8]):
        datasets.path("a@v1", "train.parquet")


def test_a_corrupt_object_of_the_remote_is_refused_and_dropped(
    root: Path, tmp_path: Path, datasets: Datasets
) -> None:
    datasets.commit("a", stage(root, "xyz"), "m")
    datasets.push(["a@v1"])
    path = datasets.path("a@v1", "train.parquet")
    remote = tmp_path / "remote" / path.relative_to(root / ".dvc" / "cache")
    remote.chmod(0o644)
    remote.write_text("xyZ")
    shutil.rmtree(root / ".dvc" / "cache")
    with pytest.raises(StoreError, match="corrupt"):
        datasets.path("a@v1", "train.parquet")
    assert not path.exists()


def cut(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])


def test_a_file_cut_short_in_the_workspace_comes_back(root: Path, datasets: Datasets) -> None:
    datasets.commit("a", stage(root, "xyz", holdout="uvw"), "m")
    datasets.push(["a@v1"])
    cut(root / "data" / "a" / "train.parquet")  # which DVC links with its cache
    assert datasets.path("a@v1", "holdout").read_text() == "uvw"
    assert datasets.path("a@v1", "train.parquet").read_text() == "xyz"


def test_without_a_remote_a_file_cut_short_says_its_cure_which_mends_it(root: Path) -> None:
    datasets = Datasets.create(root)
    made = datasets.commit("a", stage(root, "xyz", holdout="uvw"), "m")
    cut(root / "data" / "a" / "train.parquet")
    with pytest.raises(NotFoundError, match=r"a@v1 is not whole .* ingest the period again"):
        datasets.path("a@v1", "train.parquet")
    assert datasets.path("a@v1", "holdout").read_text() == "uvw"
    assert datasets.commit("a", stage(root, "xyz", holdout="uvw"), "again") == made
    assert datasets.path("a@v1", "train.parquet").read_text() == "xyz"
    assert (root / "data" / "a" / "train.parquet").read_text() == "xyz"


@pytest.mark.parametrize("where", ["file", "read-only"])
def test_a_remote_that_takes_nothing_is_a_clear_error(
    root: Path, tmp_path: Path, where: str
) -> None:
    (tmp_path / "file").write_text("")
    remote = {"file": str(tmp_path / "file" / "remote"), "read-only": "/sys/updater-remote"}[where]
    datasets = Datasets.create(root, remote)
    datasets.commit("a", stage(root, "x"), "m")
    with pytest.raises(StoreError, match=remote):
        datasets.push(["a@v1"])


def test_nothing_is_printed(root: Path, datasets: Datasets, capfd: pytest.CaptureFixture) -> None:
    datasets.commit("a", stage(root, "x"), "m")
    datasets.push(["a@v1"])
    shutil.rmtree(root / ".dvc" / "cache")
    datasets.path("a@v1", "train.parquet")
    assert capfd.readouterr() == ("", "")


def test_a_writer_waits_for_the_lock(
    root: Path, datasets: Datasets, monkeypatch: pytest.MonkeyPatch
) -> None:
    # DVC gives up after 6 tries in DEFAULT_TIMEOUT seconds, unless it is told to wait.
    monkeypatch.setattr("dvc.lock.DEFAULT_TIMEOUT", 0.06)
    datasets.commit("a", stage(root, "one"), "m")
    with (root / ".dvc" / "tmp" / "lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        started = time.monotonic()
        threading.Timer(0.4, fcntl.flock, (held, fcntl.LOCK_UN)).start()
        assert datasets.commit("a", stage(root, "two"), "m").version == "a@v2"
        assert time.monotonic() - started > 0.4


def test_dvc_itself_reads_what_we_wrote(root: Path, datasets: Datasets) -> None:
    import dvc.api

    for text in ("one", "two"):
        datasets.commit("a", stage(root, text), "m")
    read = dvc.api.read("data/a/train.parquet", repo=str(root), rev="a@v1")
    assert read == "one"


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "step",
    [
        "store.datasets._move",
        "dvc.stage.Stage.dump",
        "store.data_cache._flush",
        "store.git.Git.commit",
    ],
)
def test_a_full_disk_leaves_the_last_version_and_the_staging(
    root: Path, datasets: Datasets, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    first = datasets.commit("a", stage(root, "one"), "m")
    tracked = (root / "data" / "a.dvc").read_text()
    staging = stage(root, "two")
    with monkeypatch.context() as patch:
        patch.setattr(step, _full)
        with pytest.raises(StoreError, match=r"full .*free some space"):
            datasets.commit("a", staging, "m")
    assert datasets.newest("a") == first
    assert (root / "data" / "a" / "train.parquet").read_text() == "one"
    assert (root / "data" / "a.dvc").read_text() == tracked
    assert (staging / "train.parquet").read_text() == "two"
    assert datasets.commit("a", staging, "m").version == "a@v2"
    assert git(root, "status", "--porcelain") == ""


def _full(*_: object, **__: object) -> None:
    raise FULL


def test_an_object_that_dvc_failed_to_store_is_noticed(
    root: Path, datasets: Datasets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC logs a copy into its cache that failed, and `add` succeeds."""
    staging = stage(root, "two")
    with monkeypatch.context() as patch:
        patch.setattr("os.link", _full)
        patch.setattr("dvc_objects.fs.generic.transfer", lambda *_, **__: 0)
        with pytest.raises(StoreError):
            datasets.commit("a", staging, "m")
    assert datasets.versions("a") == []
    assert not (root / "data" / "a.dvc").exists()
    assert datasets.commit("a", staging, "m").version == "a@v1"


def test_git_that_fails_or_is_missing_is_a_store_error(
    root: Path, datasets: Datasets, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = datasets.commit("a", stage(root, "x"), "m").commit
    with pytest.raises(StoreError, match="git update-ref failed"):
        Git(root).tag("a@v1", commit)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StoreError, match="git is not installed"):
        datasets.versions("a")


def test_a_cache_folder_of_the_users_choice_is_used(
    root: Path, tmp_path: Path, datasets: Datasets
) -> None:
    (root / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {tmp_path / 'shared'}\n")
    datasets.commit("a", stage(root, "x"), "m")
    assert tmp_path / "shared" in datasets.path("a@v1", "train.parquet").parents
    assert json.loads(datasets._cache.object(datasets.get("a@v1").digest).read_text())


def test_what_dvc_refuses_is_a_store_error(root: Path, datasets: Datasets) -> None:
    (root / ".dvc" / "config").write_text("[core]\n    nonsense = true\n")
    staging = stage(root, "x")
    with pytest.raises(StoreError, match=r"DVC: .*nonsense"):
        datasets.commit("a", staging, "m")
    assert staging.exists()


def test_a_remote_that_does_not_answer(
    root: Path, datasets: Datasets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.retry.time.sleep", lambda _: None)
    datasets.commit("a", stage(root, "x"), "m")

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    with monkeypatch.context() as patch:
        patch.setattr("dvc.data_cloud.DataCloud.push", refuse)
        with pytest.raises(UnreachableError, match=r"the DVC remote .* can't be reached"):
            datasets.push(["a@v1"])
    assert datasets.push(["a@v1"]) == 2


def test_staging_on_another_file_system_is_refused(
    root: Path, datasets: Datasets, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = stage(root, "x")

    def cross(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", cross)
        with pytest.raises(ValueError, match="same file system"):
            datasets.commit("a", staging, "m")
    assert datasets.commit("a", staging, "m").version == "a@v1"
