"""The checkpoint store, in folders and behind fsspec URLs."""

import errno
import hashlib
import itertools
import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import manifest as manifests
from store import shelves
from store.checkpoints import Checkpoints
from store.errors import NotFoundError, StoreError, UnreachableError
from store.manifest import FileFact, Manifest

FILES = {"config.json": b"{}", "model.safetensors": b"w" * 1000, "code/parser.py": b"pass\n"}
_counter = itertools.count()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "trained", FILES)


@pytest.fixture(params=["folder", "file", "memory"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {
        "folder": str(tmp_path / "my store"),
        "file": f"file://{tmp_path}/store",
        "memory": f"memory://bucket{next(_counter)}/store/",
    }[request.param]


@pytest.fixture
def store(location: str, tmp_path: Path) -> Checkpoints:
    return Checkpoints(location, tmp_path / "cache")


@pytest.fixture
def local(tmp_path: Path) -> Checkpoints:
    return Checkpoints(str(tmp_path / "store"), tmp_path / "cache")


@pytest.fixture
def remote(tmp_path: Path) -> Checkpoints:
    return Checkpoints(f"memory://bucket{next(_counter)}", tmp_path / "cache")


def make(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def expected_digest(files: dict[str, bytes]) -> str:
    facts = {
        name: {"num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
    }
    text = json.dumps({"files": facts}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def damage(store: Checkpoints, digest: str, name: str, data: bytes | None) -> None:
    """Write `data` over a stored file, behind the store's back."""
    import fsspec

    files, path = fsspec.core.url_to_fs(f"{store.uri(digest)}/{name}")
    if data is None:
        files.rm(path)
    else:
        if files.protocol != "memory":
            Path(path).chmod(0o644)
        files.pipe_file(path, data)


def test_a_checkpoint_is_named_by_its_content(store: Checkpoints, folder: Path) -> None:
    digest = store.add(folder)
    assert digest == expected_digest(FILES)
    assert store.add(folder) == digest
    assert store.digests() == [digest]
    stored = content(store.local(digest))
    manifest = json.loads(stored.pop("MANIFEST.json"))
    assert stored == FILES
    assert manifest["files"]["config.json"]["num_bytes"] == 2
    store.quick_check(digest)
    store.verify(digest)
    assert content(folder) == FILES


def test_a_stored_folder_can_be_added_again(store: Checkpoints, folder: Path) -> None:
    digest = store.add(folder)
    assert store.add(store.local(digest)) == digest


def test_the_uri_leads_back(store: Checkpoints, folder: Path, tmp_path: Path) -> None:
    digest = store.add(folder)
    location, _, name = store.uri(digest).rpartition("/")
    assert "://" in location
    again = Checkpoints(location, tmp_path / "other cache")
    assert content(again.local(name)) == content(store.local(digest))


def test_export_is_the_folder_without_the_manifest(
    store: Checkpoints, folder: Path, tmp_path: Path
) -> None:
    digest = store.add(folder)
    (tmp_path / "empty").mkdir()
    for target in (tmp_path / "out" / "deep", tmp_path / "empty"):
        store.export(digest, target)
        assert content(target) == FILES
        assert (target / "config.json").stat().st_mode & 0o200
    with pytest.raises(ValueError, match="must not exist, or be an empty folder"):
        store.export(digest, tmp_path / "empty")
    with pytest.raises(ValueError, match="must not exist"):
        store.export(digest, tmp_path / "empty" / "config.json")


def test_export_of_a_corrupt_checkpoint_leaves_nothing(
    local: Checkpoints, folder: Path, tmp_path: Path
) -> None:
    digest = local.add(folder)
    damage(local, digest, "model.safetensors", b"W" * 1000)
    with pytest.raises(StoreError, match=r"model\.safetensors"):
        local.export(digest, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_hidden_folders_of_a_clone_are_no_part_of_it(
    store: Checkpoints, folder: Path, tmp_path: Path
) -> None:
    digest = store.add(folder)
    for name in (".git/objects/pack", ".cache/huggingface/lock", "code/.git/HEAD"):
        file = folder / name
        file.parent.mkdir(parents=True)
        file.write_text("x")
    assert store.add(folder) == digest
    (folder / ".gitattributes").write_text("x")
    store.export(store.add(folder), tmp_path / "out")
    assert content(tmp_path / "out") == FILES | {".gitattributes": b"x"}


def test_whether_it_is_there_takes_one_question(
    store: Checkpoints, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = store.add(folder)
    asked: list[str] = []
    shelf = store._shelf
    size = shelf.size
    monkeypatch.setattr(shelf, "size", lambda name: asked.append(name) or size(name))
    assert store.has(digest)
    assert not store.has("0" * 64)
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("data", "quick", "said"),
    [
        (None, True, "model.safetensors is missing"),
        (b"w" * 999, True, "should have 1000 bytes and has 999"),
        (b"w" * 999 + b"x", False, hashlib.sha256(b"w" * 1000).hexdigest()),
    ],
)
def test_damage_is_named(
    store: Checkpoints, folder: Path, data: bytes | None, quick: bool, said: str
) -> None:
    digest = store.add(folder)
    damage(store, digest, "model.safetensors", data)
    with pytest.raises(StoreError, match=f"model.safetensors.*{said}|{said}") as found:
        store.verify(digest)
    assert store.uri(digest) in str(found.value)
    assert "from a copy of the checkpoint store (docs/backup.md)" in str(found.value)
    if quick:
        with pytest.raises(StoreError, match=said):
            store.quick_check(digest)
        assert store.add(folder) == digest
        store.verify(digest)
    else:
        store.quick_check(digest)


def test_one_file_is_read_without_the_others(
    store: Checkpoints, folder: Path, tmp_path: Path
) -> None:
    digest = store.add(folder)
    assert store.read(digest, "code/parser.py") == FILES["code/parser.py"]
    assert not (tmp_path / "cache").exists()
    with pytest.raises(NotFoundError, match=r"has no secret\.txt"):
        store.read(digest, "secret.txt")
    with pytest.raises(ValueError, match="64 lower-case"):
        store.read("../x", "config.json")


def test_one_file_that_is_damaged_or_gone_is_not_read(local: Checkpoints, folder: Path) -> None:
    digest = local.add(folder)
    stored = local.local(digest) / "config.json"
    stored.chmod(0o644)
    stored.write_bytes(b"{!")
    with pytest.raises(StoreError, match=r"config\.json"):
        local.read(digest, "config.json")
    stored.unlink()
    with pytest.raises(StoreError, match=r"config\.json is missing"):
        local.read(digest, "config.json")


def test_a_changed_manifest_is_noticed_and_mended(store: Checkpoints, folder: Path) -> None:
    digest = store.add(folder)
    for text in (b"{}", b"nonsense", b'{"files":{}}'):
        damage(store, digest, "MANIFEST.json", text)
        with pytest.raises(StoreError, match="MANIFEST"):
            store.quick_check(digest)
    assert store.add(folder) == digest
    store.verify(digest)


def test_what_is_not_there(store: Checkpoints, folder: Path) -> None:
    assert store.digests() == []
    digest = store.add(folder)
    for ask in (store.local, store.verify, store.quick_check):
        with pytest.raises(NotFoundError, match=f"no checkpoint 0000.*{digest[:12]}"):
            ask("0" * 64)
        with pytest.raises(ValueError, match="64 lower-case"):
            ask("../etc")
    with pytest.raises(ValueError, match="64 lower-case"):
        store.uri("v1")


def test_a_folder_must_hold_files(local: Checkpoints, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a folder"):
        local.add(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="at least one file"):
        local.add(tmp_path / "empty")
    (tmp_path / "empty" / "dead").symlink_to("nowhere")
    with pytest.raises(ValueError, match="dead link"):
        local.add(tmp_path / "empty")


def test_links_to_files_are_followed(local: Checkpoints, folder: Path, tmp_path: Path) -> None:
    """As in the cache folders of the model hub."""
    linked = tmp_path / "snapshot"
    linked.mkdir()
    for name in ("config.json", "model.safetensors"):
        (linked / name).symlink_to(folder / name)
    for frozen in (False, True):
        digest = local.add(linked, frozen=frozen)
        assert not (local.local(digest) / "config.json").is_symlink()


def test_a_copy_does_not_share_bytes_and_a_frozen_one_does(
    local: Checkpoints, folder: Path, tmp_path: Path
) -> None:
    digest = local.add(folder)
    assert not (local.local(digest) / "config.json").samefile(folder / "config.json")
    (folder / "model.safetensors").write_bytes(b"later")
    local.verify(digest)
    second = local.add(folder, frozen=True)
    stored = local.local(second) / "config.json"
    assert stored.samefile(folder / "config.json")
    assert stored.stat().st_mode & 0o222 == 0


def test_frozen_across_file_systems_is_a_copy(
    local: Checkpoints, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", raising(errno.EXDEV))
    digest = local.add(folder, frozen=True)
    local.verify(digest)
    monkeypatch.setattr(os, "link", raising(errno.EACCES))
    (folder / "config.json").write_bytes(b"[]")
    with pytest.raises(StoreError, match="can't be used"):
        local.add(folder, frozen=True)


def test_a_file_that_changes_while_it_is_added_is_refused(
    store: Checkpoints, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Manifest.of

    def of(path: Path) -> Manifest:
        made = real(path)
        (path / "model.safetensors").write_bytes(b"v" * 1000)
        return made

    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "of", of)
        with pytest.raises(StoreError, match=r"model\.safetensors is not what .*meanwhile"):
            store.add(folder)
    assert store.digests() == []
    store.verify(store.add(folder))


def test_a_full_disk_is_told_and_can_be_repeated(
    local: Checkpoints, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", raising(errno.ENOSPC))
        with pytest.raises(StoreError, match=r"no space left .*free some"):
            local.add(folder)
    assert local.digests() == []
    local.verify(local.add(folder))


def test_a_download_is_checked_and_never_seen_in_part(
    remote: Checkpoints, folder: Path, tmp_path: Path
) -> None:
    digest = remote.add(folder)
    damage(remote, digest, "model.safetensors", b"W" * 1000)
    with pytest.raises(StoreError, match=r"model\.safetensors"):
        remote.local(digest)
    assert not (tmp_path / "cache" / digest).exists()
    damage(remote, digest, "model.safetensors", b"w" * 1000)
    assert content(remote.local(digest)).keys() == FILES.keys() | {"MANIFEST.json"}


def test_a_download_is_kept_and_mended(remote: Checkpoints, folder: Path) -> None:
    digest = remote.add(folder)
    path = remote.local(digest)
    kept = (path / "model.safetensors").stat().st_ino
    (path / "config.json").unlink()
    assert content(remote.local(digest))["config.json"] == b"{}"
    assert (path / "model.safetensors").stat().st_ino == kept


def test_a_remote_that_does_not_answer(
    remote: Checkpoints, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.setattr("store.retry.time.sleep", lambda _: None)
    digest = remote.add(folder)
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "size", raising(errno.ECONNREFUSED))
        with pytest.raises(UnreachableError, match="memory://bucket"):
            remote.quick_check(digest)
        with pytest.raises(UnreachableError):
            remote.add(folder)
    remote.quick_check(digest)


def test_a_connection_that_fails_once_is_no_matter(
    remote: Checkpoints, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.retry.time.sleep", lambda _: None)
    real, failures = shelves.UrlShelf._send, iter([ConnectionResetError("peer")])

    def send(self: Any, *arguments: Any) -> None:
        for failure in failures:
            raise failure
        real(self, *arguments)

    monkeypatch.setattr(shelves.UrlShelf, "_send", send)
    remote.verify(remote.add(folder))


def raising(number: int) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("point", range(1, 6))
def test_killed_at_every_file_and_run_again(
    local: Checkpoints, folder: Path, frozen: bool, point: int
) -> None:
    """Three files, the manifest, the folder: the kill comes before the n-th gets its name."""
    child = os.fork()
    if child == 0:
        try:
            die_at_rename(point)
            local.add(folder, frozen=frozen)
        finally:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert local.digests() == []
    digest = local.add(folder, frozen=frozen)
    local.verify(digest)
    names = {p.name for p in Path(local.location).iterdir()}
    assert names == {digest, ".lock"}
    assert set(content(local.local(digest))) == FILES.keys() | {"MANIFEST.json"}


def die_at_rename(point: int) -> None:
    counter = itertools.count(1)
    for verb in ("replace", "rename"):
        real = getattr(Path, verb)

        def wrapped(self: Path, target: Path, real: Any = real) -> Any:
            if next(counter) == point:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(self, target)

        setattr(Path, verb, wrapped)


def add_many(location: str, folder: Path, results: Any) -> None:
    results.put(Checkpoints(location, folder.parent / "cache").add(folder))


def test_two_processes_add_the_same_at_once(local: Checkpoints, tmp_path: Path) -> None:
    folder = make(tmp_path / "big", {f"shard{i}": os.urandom(200_000) for i in range(8)})
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    arguments = (local.location, folder, results)
    workers = [context.Process(target=add_many, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len({results.get() for _ in workers}) == 1
    local.verify(local.digests()[0])


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/../../b"])
def test_a_manifest_that_leads_outside_is_refused(name: str) -> None:
    text = Manifest({name: FileFact("0" * 64, 1)}).text
    with pytest.raises(StoreError, match="outside the checkpoint"):
        Manifest.parse(text, "it")


@given(
    st.dictionaries(
        st.text(st.characters(categories=["L", "N"]), min_size=1),
        st.builds(FileFact, st.text("0123456789abcdef"), st.integers(0, 2**50)),
        min_size=1,
    )
)
def test_a_manifest_survives_being_written_whatever_the_order(files: dict[str, FileFact]) -> None:
    manifest = Manifest(files)
    backwards = Manifest(dict(reversed(list(files.items()))))
    assert Manifest.parse(manifest.text, "it") == manifest
    assert backwards.digest == manifest.digest


def test_the_chunk_size_does_not_matter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Manifest.of(folder)
    monkeypatch.setattr(manifests, "CHUNK_BYTES", 7)
    assert Manifest.of(folder) == before
