"""What many GPUs and several machines take of Super and Ultra, and what doctor advises for them."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from reckoned import EIGHT, machines, released

from updater import doctor, refusals
from updater.cli.doctor import _verdict
from updater.errors import InputError
from updater.nemotron import presets
from updater.reckoning import Stages, stages
from updater.settings import RegularizerSettings, TrainingSettings

FACTORED = RegularizerSettings(format="factored")


def advised(folder: Path, training: TrainingSettings) -> str:
    """What doctor says to people, of texts of 4,096 tokens."""
    given: dict[str, Any] = {"regularizer": FACTORED, "length": 4096, "timed": False}
    return _verdict(doctor.diagnose(folder, training=training, **given))


def taken(name: str, training: TrainingSettings) -> Stages:
    """Reckoned of a release in bfloat16, of texts of as many."""
    fields = presets.config_fields(f"nemotron-3-{name}", 131_072)
    return stages(fields, EIGHT, training, FACTORED, 4096, released=torch.bfloat16)


def test_an_evaluation_on_one_machine_is_reckoned_beside_a_training_on_many(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "this_machine", lambda: EIGHT)
    folder = released(tmp_path / "x", "nemotron-3-ultra")
    training = TrainingSettings(devices=4, nodes=32, precision="bf16-mixed")
    with pytest.raises(InputError, match=r"takes 26\d GiB of each device .* in its evaluation"):
        refusals.refuse_too_large(
            folder, training=training, regularizer=RegularizerSettings(method="none")
        )


def test_several_machines_are_told_as_such(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ultra by three of eight H200: by all of their GPUs, where the settings have two of each."""
    monkeypatch.setattr(doctor, "this_machine", lambda: EIGHT)
    folder = released(tmp_path / "x", "nemotron-3-ultra")
    three = machines(3, devices=2, adapt="lora", activation_checkpointing=False)
    given = {"regularizer": RegularizerSettings(), "length": 4096, "timed": False}
    found = doctor.diagnose(folder, training=three, **given)
    assert found.nodes == 3
    said = _verdict(found)
    assert said.startswith("By these settings it doesn't fit 3 machines like this one; with ")
    assert "training.devices = 8" in said
    fitting = dataclasses.replace(three, devices=8, batch_size=8, activation_checkpointing=True)
    said = _verdict(doctor.diagnose(folder, training=fitting, **given))
    assert said == "3 machines like this one can update it by these settings."
    assert "3 machines like this one can't" in _verdict(
        doctor.diagnose(folder, training=three, **{**given, "length": 100_000})
    )


def test_what_fits_no_gpu_is_updated_under_lora_in_shards(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Super on eight H200: all weights take more than there is, and so does one device that has
    all of them frozen."""
    monkeypatch.setattr(doctor, "this_machine", lambda: EIGHT)
    folder = released(tmp_path / "x", "nemotron-3-super")
    training = TrainingSettings(devices=8, precision="bf16-mixed", lora_experts=True)
    ewc = RegularizerSettings()
    found = doctor.diagnose(folder, training=training, regularizer=ewc, length=4096, timed=False)
    asked = {(way.adapt, way.strategy, way.lora_experts): way for way in found.ways}
    fitting = asked.pop(("lora", "fsdp", True))
    assert fitting.fits
    assert [key for key, way in asked.items() if way.fits] == [("lora", "fsdp", False)]
    said = _verdict(found)
    assert 'training.adapt = "lora", training.strategy = "fsdp"' in said
    assert "lora_experts" not in said
    chosen = dataclasses.replace(training, adapt="lora", strategy="fsdp")
    refusals.refuse_too_large(folder, training=chosen, regularizer=ewc)
    # The frozen weights are cut, in bfloat16; the factors are whole, in float32.
    factors = fitting.parts["gradients"]
    assert fitting.parts["optimizer"] == 2 * factors
    assert fitting.parts["weights"] == pytest.approx(2 * 120.67e9 / 8 + factors, rel=0.001)
    assert fitting.parts["anchor"] == 0


def test_smaller_pieces_are_advised_where_they_are_what_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All of Super's weights on three machines of GPUs that are a little smaller than H200s."""
    smaller = dataclasses.replace(EIGHT, memory_bytes=115 * 2**30)
    monkeypatch.setattr(doctor, "this_machine", lambda: smaller)
    said = advised(released(tmp_path / "x", "nemotron-3-super"), machines(3))
    assert said.endswith("with training.gather_gib = 1 it does.")


def test_factors_of_experts_are_left_out_where_they_do_not_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ultra on two machines of eight H200: the estimate of its experts' importance is too large."""
    monkeypatch.setattr(doctor, "this_machine", lambda: EIGHT)
    training = machines(2, adapt="lora", lora_experts=True)
    said = advised(released(tmp_path / "x", "nemotron-3-ultra"), training)
    assert said.endswith("with training.lora_experts = false it does.")


@pytest.mark.parametrize(
    ("name", "nodes"),
    [*(("Super", nodes) for nodes in (1, 2, 3)), *(("Ultra", nodes) for nodes in (1, 2, 3, 5, 16))],
)
def test_what_machines_of_eight_gpus_take_is_as_documented(name: str, nodes: int) -> None:
    """docs/parallel.md, of each GPU, in GiB."""
    page = (Path(__file__).parents[2] / "docs" / "parallel.md").read_text()
    (row,) = re.findall(rf"^\| {name} \| {nodes} \|(.*)\|$", page, re.MULTILINE)
    lora, with_experts, full = (
        taken(name.lower(), machines(nodes, mtp="align", **changes))
        for changes in (
            {"adapt": "lora"},
            {"adapt": "lora", "lora_experts": True},
            {"adapt": "full"},
        )
    )
    asked = (
        *(lora.answers, lora.head, lora.importance, lora.training),
        *(with_experts.importance, with_experts.training),
        *(full.importance, full.training),
    )
    peaks = [round(stage.peak / 2**30) for stage in asked if stage is not None]
    assert peaks == [int(cell) for cell in row.split("|")]


def test_what_super_takes_where_each_device_has_it_whole_is_as_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "parallel.md").read_text()
    (told,) = re.findall(r"takes (\d+) GiB of each\s+device .* and (\d+) in shards", page)
    most = [
        taken("super", machines(1, adapt="lora", strategy=strategy)).peak
        for strategy in ("ddp", "fsdp")
    ]
    assert [round(peak / 2**30) for peak in most] == [int(number) for number in told]
