"""`updater compress`: what was typed is obeyed or refused, never passed over."""

from pathlib import Path

import pytest
from commands import said

from updater import typed
from updater.initialise import EXAMPLE
from updater.settings import CompressionSettings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "updater.toml").write_text(EXAMPLE.format(name="m"))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--quantize", "int8", "--sparsity", "0.3"), "--sparsity"),
        (("--quantize", "int8", "--remove", "experts"), "--remove"),
        (("--sparsity", "0.3", "--remove", "heads"), "--remove and --sparsity"),
        (("--quantize", "int8", "--method", "none", "--sparsity", "0.3"), "--sparsity"),
        (("--quantize", "int8", "--set", "compression.rounds=3"), "--set compression.rounds"),
    ],
)
def test_what_a_method_removes_is_refused_where_there_is_none(
    folder: Path, words: tuple[str, ...], told: str
) -> None:
    _, err = said(folder, "compress", "1", *words, code=2)
    assert err.startswith(f'updater: {told}: compression.method is "none". ')
    assert "give --method NAME too (random, magnitude, obd, " in err


def test_what_stands_in_the_file_waits_there_for_a_method(folder: Path) -> None:
    file = folder / "updater.toml"
    file.write_text(file.read_text().replace("# sparsity = 0.5", "rounds = 3\nsparsity = 0.3"))
    for words in (("--quantize", "int8"), ("--method", "obd", "--sparsity", "0.2")):
        _, err = said(folder, "compress", "1", *words, code=2)
        assert "ledger" in err  # which is asked once the settings are right


def test_a_cure_names_nothing_that_is_refused() -> None:
    idle = CompressionSettings(quantize="int8", rounds=3, sparsity=0.3, num_examples=9)
    words = "--quantize int8 --set compression.num_examples=9"
    assert typed.compression("1", idle) == f"updater compress 1 {words}"
