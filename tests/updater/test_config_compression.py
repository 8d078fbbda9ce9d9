"""The section compression: what can't be is refused before any work."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from updater import config
from updater.errors import InputError
from updater.settings import CompressionSettings

FILE = """
[workspace]
name = "m"
[source]
uri = "rows.jsonl"
[source.fields]
prompt = "{text}"
completion = "{label}"
period = "{period}"
[periods]
order = ["a"]
"""


def load(folder: Path, text: str = "", *overrides: str) -> config.Settings:
    (folder / "updater.toml").write_text(FILE + text)
    return config.load(folder, overrides, {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sparsity = 0.0", "must lie in (0, 1)"),
        ("sparsity = 1.0", "must lie in (0, 1)"),
        ('method = "obs"', "must be one of none, random, magnitude"),
        ('method = "wanda"\nremove = "experts"', "wanda chooses among weights, not experts"),
        ('method = "reap"', "reap chooses among experts, not weights"),
        ('method = "obd"\nremove = "heads"\nscope = "row"', "only single weights"),
        ('method = "obd"\npattern = "2:4"\nscope = "row"', "a pattern is its own scope"),
        ('method = "obd"\npattern = "2:4"\nrounds = 2', "one round makes a pattern whole"),
        ('quantize = "int8"\nquantize_inputs = true', "only fp8 and nvfp4 are served so"),
        ("damping = -0.1", "at least 0"),
        ('method = "obd"\npattern = "4:8"', "must be one of none, 2:4"),
        ('recovery = "distill"', "only what a method has removed something of recovers"),
        ('quantize = "int8"\nstart = "compressed"', "quantized weights can't be trained"),
        ('method = "dropout"\nremove = "heads"\ndamage_rounds = 10', "at least 20"),
        ('method = "obd"\nrecovery = "distill"\ndistill_strength = 0.0', "above 0"),
        (
            'method = "obd"\nrecovery = "finetune"\n[training]\ndevices = 2',
            "a recovery runs in one process",
        ),
        (
            'method = "obd"\nrecovery = "finetune"\n[training]\nadapt = "lora"',
            "a recovery trains all weights",
        ),
    ],
)
def test_what_can_t_be_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        load(tmp_path, f"[compression]\n{text}\n")
    assert words in str(refused.value)
    assert str(tmp_path / "updater.toml") in str(refused.value)


def test_updates_that_were_open_before_there_was_compression_are_known_again(
    tmp_path: Path,
) -> None:
    """A default section is no part of the configuration's digest."""
    plain = load(tmp_path)
    without = plain.as_dict()
    assert without.pop("compression") == dataclasses.asdict(CompressionSettings())
    for section, name in config.ELSEWHERE:
        without[section].pop(name)
    without["training"].pop("train_thinking")
    without["source"]["fields"].pop("messages")
    text = json.dumps(without, sort_keys=True, separators=(",", ":"))
    assert config.digest(plain) == hashlib.sha256(text.encode()).hexdigest()
    assert config.digest(load(tmp_path, "", "compression.method=obd")) != config.digest(plain)
