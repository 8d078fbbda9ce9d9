"""An export, loaded by plain transformers in a process without us, says what our evaluation saw."""

import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHMamba2Mixer

from updater.evaluate import outcomes
from updater.nemotron import checkpoint
from updater.settings import TrainingSettings
from updater.train.encode import Batch, collate, encode
from updater.train.fit import fit
from updater.train.guards import Guards
from updater.train.lesson import Lesson
from updater.train.record import Watch

DRIVER = Path(__file__).with_name("plain_driver.py")


@pytest.fixture
def updated(release: Path, language: Any, tmp_path: Path) -> Path:
    """The released form after an update."""
    model, tokenizer = checkpoint.load(release)
    fit(
        model,
        Lesson.of(tokenizer, language(0, 96), None, max_length_tokens=64),
        training=TrainingSettings(epochs=4, batch_size=8, learning_rate=1e-2),
        guards=Guards(),
        folder=tmp_path / "state",
        watch=Watch(progress=False),
    )
    return checkpoint.export(model, release, tmp_path / "export")


def padded(folder: Path, table: Any) -> tuple[Batch, torch.Tensor]:
    """The examples as one batch, padded on the right, and which positions are text."""
    tokenizer = checkpoint.load(folder)[1]
    encoded = encode(tokenizer, table, max_length_tokens=64)
    batch = collate(encoded, range(len(encoded)))
    lengths_b = torch.from_numpy(np.asarray(encoded.lengths))
    inside_bl = torch.arange(batch.tokens_bl.shape[1]) < lengths_b[:, None]
    assert not inside_bl.all()
    return batch, inside_bl


def plainly(folder: Path, batch: Batch, inside_bl: torch.Tensor, scratch: Path) -> torch.Tensor:
    """logits_blv, by a clean process."""
    asked, answers = scratch / "asked.safetensors", scratch / "answers.safetensors"
    save_file({"input_ids": batch.tokens_bl, "attention_mask": inside_bl.long()}, asked)
    command = [sys.executable, "-I", "-S", DRIVER, sysconfig.get_path("purelib"), folder]
    done = subprocess.run(
        [*command, asked, answers], capture_output=True, text=True, check=False, cwd=scratch
    )
    assert done.returncode == 0, done.stderr
    return load_file(answers)["logits"]


@torch.no_grad()
def ours(folder: Path, batch: Batch, *, lowest_dt: float = 0.0) -> torch.Tensor:
    model, _ = checkpoint.load(folder)
    for module in model.modules():
        if isinstance(module, NemotronHMamba2Mixer):
            module.time_step_limit = (lowest_dt, float("inf"))
    return model(batch.tokens_bl).logits


def test_its_logits_are_those_that_evaluation_saw(
    updated: Path, language: Any, tmp_path: Path
) -> None:
    table = language(400, 24)
    batch, inside_bl = padded(updated, table)
    found_blv = plainly(updated, batch, inside_bl, tmp_path)
    torch.testing.assert_close(
        found_blv[inside_bl], ours(updated, batch)[inside_bl], rtol=0, atol=1e-5
    )
    model, tokenizer = checkpoint.load(updated)
    seen = outcomes(model, tokenizer, table, batch_size=7, max_length_tokens=64)
    targets_bl = batch.targets_bl[:, 1:]
    losses_bl = functional.cross_entropy(
        found_blv[:, :-1].transpose(1, 2), batch.tokens_bl[:, 1:], reduction="none"
    )
    means_b = (losses_bl * targets_bl).sum(1) / targets_bl.sum(1)
    assert means_b.tolist() == pytest.approx(seen["loss"].to_pylist(), abs=1e-5)
    right_bl = found_blv[:, :-1].argmax(-1) == batch.tokens_bl[:, 1:]
    assert (right_bl | ~targets_bl).all(1).tolist() == seen["correct"].to_pylist()


def test_what_its_clamp_of_dt_costs(updated: Path, language: Any, tmp_path: Path) -> None:
    """transformers keeps dt at time_step_min or above in a forward pass, and not in decoding
    (huggingface/transformers#48989); the release's own code does neither, nor do we. Where a
    training has made dt tiny the logits of the two are others, and the clamp is all of it."""
    model, _ = checkpoint.load(updated)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, NemotronHMamba2Mixer):
                module.dt_bias.fill_(-9.0)  # dt about 1e-4, below the 1e-3 of config.json
                module.in_proj.weight[-len(module.dt_bias) :] = 0
    tiny = checkpoint.export(model, updated, tmp_path / "tiny")
    batch, inside_bl = padded(tiny, language(400, 24))
    found_nv = plainly(tiny, batch, inside_bl, tmp_path)[inside_bl]
    apart = (found_nv - ours(tiny, batch)[inside_bl]).abs().max()
    # Measured: 7e-4, of logits whose standard deviation is 1.6.
    assert 1e-4 < apart < 1e-2
    clamped_nv = ours(tiny, batch, lowest_dt=0.001)[inside_bl]
    torch.testing.assert_close(found_nv, clamped_nv, rtol=0, atol=1e-5)
