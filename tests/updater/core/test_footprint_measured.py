"""The memory that a training was reckoned to take, beside what it took of PyTorch's allocator."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from regularizers.anchor import QuadraticAnchor
from updater.nemotron.checkpoint import build
from updater.settings import RegularizerSettings, TrainingSettings
from updater.train.adapt import freeze
from updater.train.encode import Encoded
from updater.train.fit import fit
from updater.train.footprint import footprint
from updater.train.guards import Guards
from updater.train.lesson import Lesson
from updater.train.record import Watch

FIELDS = {
    "model_type": "nemotron_h",
    "hybrid_override_pattern": "ME*-E",
    "num_hidden_layers": 5,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "mamba_num_heads": 8,
    "mamba_head_dim": 32,
    "ssm_state_size": 32,
    "n_groups": 2,
    "conv_kernel": 4,
    "chunk_size": 64,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
    "moe_shared_expert_intermediate_size": 256,
    "intermediate_size": 512,
    "routed_scaling_factor": 2.5,
    "time_step_min": 0.001,
    "vocab_size": 2048,
}
LENGTH, BATCH = 128, 8
EVERY = {"epochs": 1, "batch_size": BATCH, "checkpoint_every_steps": 1000}


def lesson(num_batches: int) -> Lesson:
    """Examples of `LENGTH` tokens each."""
    count = num_batches * BATCH
    tokens = np.random.default_rng(0).integers(1, FIELDS["vocab_size"], count * LENGTH)
    starts = np.arange(0, count * LENGTH + 1, LENGTH)
    halves = np.full(count, LENGTH // 2)
    return Lesson(Encoded(tokens, starts, halves, np.arange(count), ()), count)


def train(training: TrainingSettings, folder: Path) -> None:
    """A model is made and learns a few steps, held to where it was by EWC."""
    model = build(FIELDS)
    freeze(model, training)
    moved = {name: p for name, p in model.named_parameters() if p.requires_grad}
    held = QuadraticAnchor(moved, {n: torch.rand_like(p) for n, p in moved.items()}, 1.0)
    guards = Guards(held)
    del held, moved
    watch = Watch(progress=False)
    steps = lesson(3 * training.accumulate)
    fit(model, steps, training=training, guards=guards, folder=folder, watch=watch)


def peak_bytes(trace: Path) -> int:
    """The most that was allocated at a time while the profile was taken."""
    live = peak = 0
    events = json.loads(trace.read_text())["traceEvents"]
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"]):
        live += event["args"]["Bytes"]
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16-mixed"},
        {"activation_checkpointing": True},
        {"precision": "bf16-mixed", "activation_checkpointing": True},
        {"accumulate": 3},
        {"adapt": "lora"},
        {"adapt": "lora", "precision": "bf16-mixed"},
    ],
    ids=lambda changes: "-".join(str(value) for value in changes.values()) or "full",
)
def test_a_training_takes_what_was_reckoned(changes: dict[str, Any], tmp_path: Path) -> None:
    """Rather too much than too little: an update that fits by this is not to run out of memory."""
    training = TrainingSettings(**EVERY, **changes)
    train(dataclasses.replace(training, batch_size=1), tmp_path / "first")  # caches fill
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        train(training, tmp_path / "state")
    profiled.export_chrome_trace(str(tmp_path / "trace.json"))
    ewc = RegularizerSettings()
    reckoned = footprint(FIELDS, training=training, regularizer=ewc, length=LENGTH).peak
    assert 0.92 < reckoned / peak_bytes(tmp_path / "trace.json") < 1.2


@pytest.mark.parametrize("released", [torch.bfloat16, torch.float32])
def test_an_anchor_takes_what_was_reckoned(released: torch.dtype) -> None:
    training = TrainingSettings(**EVERY)
    model = build(FIELDS)
    freeze(model, training)
    moved = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for p in moved.values():
            p.normal_()
            p.copy_(p.to(released))
    held = QuadraticAnchor(moved, None, 1.0)
    taken = sum(held.term(name, p)[1].nbytes for name, p in moved.items())
    reckoned = footprint(
        FIELDS,
        training=training,
        regularizer=RegularizerSettings(),
        length=LENGTH,
        released_dtype=released,
    )
    assert reckoned.anchor == pytest.approx(taken, rel=0.01)
