"""Disks that are full, read-only or somebody else's: a sentence with what, where and the cure."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import said
from disks import close, small_disk

from store import disks
from store.ledger import migrate
from updater.initialise import EXAMPLE
from updater.workspace import Workspace


def test_on_a_read_only_disk_every_command_says_so(tmp_path: Path, story_of: Callable) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "updater.toml").write_text(EXAMPLE.format(name="m"))
    workspace = Workspace.open(made)
    migrate(workspace.ledger_url)
    story = story_of(workspace.ledger)
    story.version("1", None, update=story.update("u-1", None).id, digest="0" * 64)
    with small_disk(tmp_path / "disk", 8) as disk:
        # By another process: to close a copied SQLite file would drop this one's locks.
        subprocess.run(["cp", "-a", f"{made}/.", str(disk)], check=True)
        for suffix in ("-wal", "-shm"):  # as where the last command has ended
            (disk / f"store.db{suffix}").unlink(missing_ok=True)
        close(disk)
        for words in (("ingest", "2026-01"), ("update", "2026-01")):
            err = said(disk, *words, code=1)[1]
            assert err == (
                f"updater: the disk of {disk} is read-only, and has to be written to. "
                f"{disks.WRITABLE}\n"
            )
        for words in (("status",), ("approve", "u-1", "--reason", "fine")):
            err = said(disk, *words, code=1)[1]
            assert f"the ledger at sqlite:///{disk}/store.db" in err
            assert "Nothing can be written in its folder, and SQLite writes there" in err
            assert "Start it" not in err


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EROFS, "the disk of /a is read-only"),
        (errno.ENOSPC, "the disk of /a is full (No space left on device)"),
        (errno.EDQUOT, "the disk of /a is full ("),
        (errno.EACCES, f"/a/b: Permission denied. This is run by user {os.geteuid()}"),
        (errno.EISDIR, "Is a directory: '/a/b'"),
    ],
)
def test_a_refusal_is_told(number: int, words: str) -> None:
    one = OSError(number, os.strerror(number), "/a/b")
    assert words in disks.told(one)
    many = shutil.Error([("/from", "/a/b", str(one)), ("/other", "/a/c", str(one))])
    assert words in disks.told(many)
    assert "/other" not in disks.told(many)


def test_a_write_that_names_no_file_is_told_too() -> None:
    assert disks.told(OSError(errno.ENOSPC, "No space left on device")).startswith("a disk is full")


def test_a_folder_for_which_there_is_no_room_is_told(tmp_path: Path) -> None:
    """As of a checkpoint with subfolders, whose compressed one takes them over."""
    (tmp_path / "code").mkdir()
    for name in ("a", "b"):
        (tmp_path / "code" / name).write_bytes(b"x" * 2_000_000)
    with small_disk(tmp_path / "disk", 1) as disk:
        with pytest.raises(shutil.Error) as found:
            shutil.copytree(tmp_path / "code", disk / "code")
        told = disks.told(found.value)
    assert told.startswith(f"the disk of {disk / 'code'} is full (No space left on device)")
    assert "[(" not in told
