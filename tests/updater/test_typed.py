"""The command that a cure names goes on with that very update: no option is to be remembered."""

import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from store.ledger import Update
from updater import config, typed
from updater.initialise import EXAMPLE
from updater.settings import CompressionSettings

ASKED = (
    CompressionSettings(method="obd", sparsity=0.3),
    CompressionSettings(method="reap", remove="experts", sparsity=0.25, recovery="distill"),
    CompressionSettings(method="magnitude", pattern="2:4", num_examples=9, attention=True),
    CompressionSettings(quantize="int8", keep=("*.up_proj", "a b")),
    CompressionSettings(method="random", remove="layers", quantize="fp8", distill_strength=0.5),
)


@pytest.mark.parametrize("asked", ASKED, ids=lambda one: f"{one.method}-{one.quantize}")
def test_what_was_asked_is_asked_again(tmp_path: Path, asked: CompressionSettings) -> None:
    (tmp_path / "updater.toml").write_text(EXAMPLE.format(name="m"))
    words = shlex.split(typed.compression("7", asked))
    assert words[:3] == ["updater", "compress", "7"]
    given: list[config.Override] = [
        text if name == "--set" else config.Option(name, ("compression", name[2:]), text)
        for name, text in zip(words[3::2], words[4::2], strict=True)
    ]
    assert config.load(tmp_path, given, {}).compression == asked


@pytest.mark.parametrize(
    ("kind", "arguments", "command"),
    [
        ("update", {}, "updater update east"),
        (
            "scratch",
            {"deploy": True, "periods": ["north", "east"]},
            "updater scratch --deploy --periods north east",
        ),
        ("scratch", {"deploy": False, "periods": ["east"]}, "updater scratch --periods east"),
        (
            "adopt",
            {"deploy": True, "checkpoint": "/a model", "periods": ["east"]},
            "updater adopt '/a model' --periods east",
        ),
    ],
)
def test_the_command_is_of_the_updates_kind(
    kind: str, arguments: dict[str, Any], command: str
) -> None:
    opened = Update(
        id="u",
        kind=kind,
        period="east",
        base=None,
        dataset_version="east@v1",
        config={"arguments": arguments},
        config_digest="d",
        candidate=None,
        created_at=datetime.now(UTC),
    )
    assert typed.command(opened) == command
