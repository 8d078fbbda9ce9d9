"""`updater.toml`, the environment and `--set` become one checked `Settings`.

Not the meaning of a setting, nor its default: both stand in `updater.settings`. Called by
`updater.workspace` (load) and by whatever records a configuration (digest).

Later wins: the file, then the environment, then `--set`. Every key that is not a list can stand
in the environment as UPDATER_SECTION_KEY, such as UPDATER_TRAINING_EPOCHS, UPDATER_STORE_URL or
UPDATER_SOURCE_FIELDS_PROMPT; an empty variable counts as not set.
"""

import dataclasses
import hashlib
import json
import os
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from updater.config_keys import Key
from updater.config_reader import Option, Override, Reader
from updater.errors import InputError
from updater.settings import PLACES, CompressionSettings, Settings

CONFIG_FILE = "updater.toml"

ELSEWHERE: tuple[Key, ...] = (*(("training", name) for name in PLACES), ("regularizer", "offload"))
"""The keys that say on how many devices and in which memory: an update is the same, and may be gone
on with, on others."""


def load(
    folder: Path, overrides: Sequence[Override] = (), environ: Mapping[str, str] = os.environ
) -> Settings:
    """The configuration of the workspace at `folder`, checked whole before any work.

    Args:
        folder: the workspace; its `updater.toml` is read.
        overrides: `section.key=value`, or an `Option`; the value as TOML writes it, a bare word is
            a text, and `none` takes away a setting that need not be given.
        environ: where UPDATER_SECTION_KEY is looked up.

    Raises:
        InputError: the file is missing or no TOML, or a key, type or rule is wrong. Everything
            that is wrong is named at once.
    """
    return load_file(folder / CONFIG_FILE, overrides, environ)


def load_file(path: Path, overrides: Sequence[Override], environ: Mapping[str, str]) -> Settings:
    """The configuration in the file `path`, wherever it lies. Raises: as `load`."""
    return _read(path, overrides, environ).settings()


def load_needed(
    folder: Path,
    needed: Collection[str],
    overrides: Sequence[Override] = (),
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """The configuration for a command that uses the sections `needed` and has to work whatever is
    wrong in others: there a mistake is a warning, and an error where such a section is used after
    all. Of a file that is no TOML these sections are taken, where they can be told, and no other.

    Raises:
        InputError: as `load`, of a section that is needed, of what might be meant for one, and of
            `overrides`.
    """
    return _read(folder / CONFIG_FILE, overrides, environ, needed).settings_of(needed)


def _read(
    path: Path,
    overrides: Sequence[Override],
    environ: Mapping[str, str],
    needed: Collection[str] = (),
) -> "Reader":
    reader, text = Reader(str(path)), None
    try:
        text = _text(path)
        reader.take_file(_parse(path, text))
    except InputError as error:
        if not needed or not path.exists():
            raise
        reader.take_torn(text, error, needed)
    reader.take_environment(environ)
    reader.take_overrides(overrides)
    return reader


def override(settings: Settings, table: Mapping[str, Any], where: str) -> Settings:
    """`settings`, but for what `table` gives: sections and keys as in the file.

    Args:
        where: what an error calls the place of the table.

    Raises:
        InputError: as `load`.
    """
    reader = Reader(where)
    reader.take_file(table)
    return reader.settings(settings)


def named_keys(overrides: Sequence[Override]) -> dict[Key, str]:
    """The keys that were overridden for this run, each as it was typed: --sparsity, or
    --set compression.sparsity."""
    named: dict[Key, str] = {}
    for one in overrides:
        if isinstance(one, Option):
            named[one.key] = one.name
        else:
            key = tuple(part.strip() for part in one.partition("=")[0].split("."))
            named[key] = f"--set {'.'.join(key)}"
    return named


def digest(settings: Settings) -> str:
    """The SHA-256, in hex, of the canonical JSON of all settings but `store` and `kubernetes`, and
    but those of `ELSEWHERE`."""
    text = json.dumps(deciding(settings.as_dict()), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def deciding(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Of settings as they are recorded, now or by an older release, those that decide whether an
    update is another one: not those of `ELSEWHERE`, nor those that came when updates were open
    already, as long as they say what went before."""
    whole: dict[str, Any] = json.loads(json.dumps(recorded))
    for section, name in ELSEWHERE:
        whole.get(section, {}).pop(name, None)
    for place, name in (
        (whole.get("training", {}), "train_thinking"),
        (whole.get("source", {}).get("fields", {}), "messages"),
    ):
        if not place.get(name):
            place.pop(name, None)
    if whole.get("compression") == json.loads(
        json.dumps(dataclasses.asdict(CompressionSettings()))
    ):
        whole.pop("compression")
    return whole


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing",
            "a workspace has its configuration there",
            "make a workspace with `updater init DIR`",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        what, rule = f"{path} can't be read: {error}", "it must be text in UTF-8"
        raise InputError(what, rule, "see to that") from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        cure = "mend that line: a section is [name], a setting is key = value, texts have quotes"
        raise InputError(f"{path} is not TOML: {error}", "", cure) from None
