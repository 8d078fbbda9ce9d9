"""What a study file may say of arms that compress, and how it is told what is wrong."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from study_runs import BASE

from updater.errors import InputError
from updater.settings import CompressionSettings
from updater.study import file
from updater.study.job import Job
from updater.study.plan import Study

GOOD = """
[study]
name = "s"
seeds = [0]
[stream]
first = ["a..b"]
[settings]
compression.num_examples = 64
[arms.uncompressed]
kind = "frozen"
[arms.weights]
kind = "compress"
compression.recovery_epochs = 3
[arms.weights.grid]
method = ["magnitude", "obd"]
sparsity = [0.5, 0.9]
recovery = ["none", "finetune"]
[arms.fewer]
kind = "compress"
compression = { method = "reap", remove = "experts", sparsity = 0.25 }
[arms.anew]
kind = "compress"
control = "scratch"
compression = { method = "obd", remove = "neurons", sparsity = 0.3 }
scratch.epochs = 9
[arms.quantized]
kind = "compress"
[arms.quantized.grid]
quantize = ["int8", "fp8"]
[quick]
arms = ["uncompressed", "obd 90 % + finetune"]
"""


def read(tmp_path: Path, text: str = GOOD, **more: object) -> Study:
    path = tmp_path / "s.toml"
    path.write_text(text, "utf-8")
    return file.read(path, BASE, **more)  # type: ignore[arg-type]


def test_a_grid_is_an_arm_for_each_combination_called_by_what_it_does(tmp_path: Path) -> None:
    study = read(tmp_path)
    assert [arm.name for arm in study.arms] == [
        "uncompressed",
        *("magnitude 50 %", "magnitude 50 % + finetune"),
        *("magnitude 90 %", "magnitude 90 % + finetune"),
        *("obd 50 %", "obd 50 % + finetune", "obd 90 %", "obd 90 % + finetune"),
        *("fewer", "anew", "int8", "fp8"),
    ]
    last = study.arms[8].settings.compression
    assert last == CompressionSettings(
        method="obd", sparsity=0.9, recovery="finetune", recovery_epochs=3, num_examples=64
    )
    assert study.arms[8].settings.training == BASE.training
    assert (study.reference, study.uncompressed) == ("uncompressed", "uncompressed")
    assert study.arms[10].settings.scratch.epochs == 9


def test_where_nothing_is_learnt_the_stream_ends_with_the_first_model(tmp_path: Path) -> None:
    assert read(tmp_path).span.then == ()
    assert read(tmp_path, GOOD.replace("[settings]", "then = []\n[settings]")).span.then == ()
    more = read(tmp_path, GOOD.replace("[settings]", 'then = ["c"]\n[settings]'))
    assert more.span.then == ("c",)
    with pytest.raises(InputError, match=r"\[stream\]: then is missing or empty"):
        read(tmp_path, f"{GOOD}[arms.plain]\n")
    quick = read(
        tmp_path,
        GOOD,
        quick=True,
    )
    assert [arm.name for arm in quick.arms] == ["uncompressed", "obd 90 % + finetune"]


def test_what_else_a_grid_names_is_in_the_names(tmp_path: Path) -> None:
    text = GOOD.replace('recovery = ["none", "finetune"]', "rounds = [1, 4]").replace(
        "compression.recovery_epochs = 3", 'compression.recovery = "finetune"'
    )
    names = [arm.name for arm in read(tmp_path, text.partition("[quick]")[0]).arms]
    assert names[1:3] == [
        "magnitude 50 % + finetune, rounds 1",
        "magnitude 50 % + finetune, rounds 4",
    ]


GRID = 'method = ["magnitude", "obd"]\nsparsity = [0.5, 0.9]\nrecovery = ["none", "finetune"]\n'


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"magnitude", "obd"]', '"magnitude", "reap"]', "reap chooses among experts, not weights"),
        ('"magnitude", "obd"]', '"magnitude", "odb"]', "must be one of none, random, magnitude"),
        ("[0.5, 0.9]", "[0.5, 1.5]", "sparsity"),
        ("[0.5, 0.9]", "[0.5, 0.5]", "0.5 stands there more than once"),
        ("[0.5, 0.9]", "0.5", "it must be a list of values to choose from"),
        ("[0.5, 0.9]", "[]", "it must be a list of values to choose from"),
        ("sparsity = [", "sparsit = [", "did you mean sparsity"),
        ("sparsity = [", "start = [", "[arms.weights.grid]: key 'start' is unknown"),
        (GRID, "", "[arms.weights.grid]: it is empty"),
        (
            "compression.recovery_epochs = 3",
            'compression.recovery_epochs = 3\ncompression.method = "obd"',
            "[arms.weights.grid]: method. the arm has one value of it already",
        ),
        (
            "compression.recovery_epochs = 3",
            'sweep = { "compression.sparsity" = [0.5] }',
            "[arms.weights]: sweep. what it learns is no update",
        ),
        (
            "sparsity = 0.25 }",
            "sparsity = 0.25, damping = 0.5 }",
            "compression.damping. its method dampens no curvature",
        ),
        (
            "compression.recovery_epochs = 3",
            "compression.damage_rounds = 30",
            'compression.damage_rounds. only compression.method = "dropout" has masks',
        ),
        (
            "compression.recovery_epochs = 3",
            "compression.distill_strength = 2",
            'compression.distill_strength. only compression.recovery = "distill" has it',
        ),
        (
            "compression.recovery_epochs = 3",
            "compression.multiple_of = 8",
            "compression.multiple_of. only of whole parts",
        ),
        (
            "compression.recovery_epochs = 3",
            'compression.start = "compressed"',
            "compression.start. no update begins at what it makes",
        ),
        (
            "compression.recovery_epochs = 3",
            'regularizer.method = "ewc"',
            "regularizer.method. nothing is held; it looks by estimator and num_examples alone",
        ),
        (
            "compression.recovery_epochs = 3",
            "training.epochs = 3",
            "training.epochs. a recovery goes on for compression.recovery_epochs",
        ),
        (
            "compression.recovery_epochs = 3",
            'training.adapt = "lora"',
            "training.adapt. a recovery trains every weight that is left",
        ),
        (
            "compression.recovery_epochs = 3",
            "scratch.epochs = 3",
            'scratch.epochs. only control = "scratch" trains by it',
        ),
        (
            '[arms.quantized]\nkind = "compress"',
            '[arms.quantized]\nkind = "compress"\ncontrol = "scratch"',
            'control = "scratch". only what something goes of has another shape, or zeros',
        ),
        (
            "sparsity = 0.3 }",
            'sparsity = 0.3, recovery = "distill" }',
            "there is nothing to recover, nor to quantize",
        ),
        (
            "sparsity = 0.3 }",
            'sparsity = 0.3 }\nrehearsal = { policy = "uniform", fraction = 1.0 }',
            'nothing is learnt again by compression.recovery = "none"',
        ),
        ('control = "scratch"', 'control = "scrach"', "did you mean scratch"),
        (
            '[arms.fewer]\nkind = "compress"\ncompression = { method = "reap", remove = "experts", '
            "sparsity = 0.25 }",
            '[arms.fewer]\nkind = "compress"',
            "the arm 'fewer' takes nothing away",
        ),
        (
            "sparsity = 0.25 }",
            "sparsity = 0.25, num_examples = 8, keep = ['x'] }",
            "compression.keep. nothing is quantized",
        ),
        (
            '[arms.uncompressed]\nkind = "frozen"\n',
            '[arms.uncompressed]\nkind = "frozen"\ncompression.method = "obd"\n',
            '[arms.uncompressed]: compression.method. only kind = "compress" takes anything away',
        ),
        (
            '[arms.fewer]\nkind = "compress"\n',
            "[arms.fewer]\n",
            '[arms.fewer]: compression.method. only kind = "compress" takes anything away',
        ),
        (
            '[arms.uncompressed]\nkind = "frozen"\n',
            '[arms.uncompressed]\nkind = "frozen"\ngrid.method = ["obd"]\n',
            'grid. only an arm of kind = "compress" has it',
        ),
        (
            'quantize = ["int8", "fp8"]',
            'quantize = ["int8"]\nmethod = ["none", "obd"]\nsparsity = [0.5, 0.7]',
            "two arms are called 'int8'",
        ),
        (
            '[arms.uncompressed]\nkind = "frozen"\n',
            "",
            "the arm 'magnitude 50 %' compresses, and none is what it was before",
        ),
        ('["uncompressed", "obd', '["obd', "and none is what it was before"),
        ('"obd 90 % + finetune"]', '"obd 90 % + finetun"]', "did you mean obd 90 % + finetune"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(InputError) as caught:
        read(tmp_path, GOOD.replace(old, new, 1))
    assert said in str(caught.value)
    assert "s.toml" in caught.value.what


def test_an_impossible_combination_is_named_by_its_place_in_the_grid(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, GOOD.replace('"magnitude", "obd"]', '"obd", "dropout"]'))
    assert "[arms.weights] grid, method = 'dropout', sparsity = 0.5" in caught.value.what


def test_alone_an_arm_needs_no_uncompressed_one(tmp_path: Path) -> None:
    study = read(tmp_path, only=["obd 50 %"])
    assert [arm.name for arm in study.arms] == ["obd 50 %"]


def test_what_a_sweep_may_not_name_is_refused_in_other_kinds(tmp_path: Path) -> None:
    text = GOOD.replace("[quick]", '[arms.up]\nsweep = { "compression.sparsity" = [0.5] }\n[quick]')
    with pytest.raises(InputError, match='only kind = "compress" takes anything away'):
        read(tmp_path, text)


def test_a_compression_is_a_key_of_its_own_and_changes_no_other(job: Callable[..., Job]) -> None:
    plain = job("plain")
    more = {"compression": {"method": "obd"}}
    other = dataclasses.replace(plain.arm.settings, compression=CompressionSettings(method="obd"))
    assert (
        dataclasses.replace(plain, arm=dataclasses.replace(plain.arm, settings=other)).key
        == plain.key
    )
    one = job("obd 50 %", "compress", more)
    assert one.key != job("x", "compress", {"compression": {"method": "magnitude"}}).key
    assert one.key != job("x", "compress", more, control="scratch").key
    assert one.key == job("another name", "compress", more).key
    assert one.place.name == f"obd-50pc-0-{one.key[:16]}"
    assert json.dumps(one.arm.options)
