"""A checkpoint folder appears whole or not at all, and what holds no weights comes with it.

Not the tensors (`updater.nemotron.saving`). Called by `updater.nemotron.checkpoint`,
`updater.nemotron.smaller` and `updater.compress.quantize`.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from updater.nemotron import files
from updater.nemotron.validate import Contents


@contextmanager
def renamed_when_whole(target: Path) -> Iterator[Path]:
    """Hands out an empty folder that becomes `target` when the block ends well. What stood there is
    replaced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.partial"
    replaced = target.parent / f".{target.name}.replaced"
    for leftover in (partial, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        for path in partial.rglob("*"):
            if path.is_file():
                path.chmod(0o644)  # safetensors writes files that only their owner can read
            _flush(path)
        if target.exists():
            target.rename(replaced)
        partial.rename(target)
        _flush(target.parent)
    finally:
        for leftover in (partial, replaced):
            shutil.rmtree(leftover, ignore_errors=True)


def copy_all_but_weights(base: Path, contents: Contents, folder: Path) -> None:
    """Every file of the checked checkpoint that holds no weights stands in `folder` too, byte for
    byte, those of subfolders too. Pickles stay behind, and hidden folders: what a clone or a
    download keeps there (.git, .cache) has the weights once more."""
    for source in _files(base):
        if source.name in contents.headers or source.suffix in (*files.PICKLES, ".safetensors"):
            continue
        copy = folder / source.relative_to(base)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if not path.is_dir():
            yield path
        elif not path.name.startswith("."):
            yield from _files(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
