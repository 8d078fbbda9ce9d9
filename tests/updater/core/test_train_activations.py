"""Activation checkpointing: the same weights, and less kept for the way back."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from updater.nemotron import checkpoint
from updater.settings import TrainingSettings
from updater.train.activations import checkpointed
from updater.train.encode import collate, encode
from updater.train.fit import fit
from updater.train.guards import Guards
from updater.train.lesson import Lesson
from updater.train.likelihood import negative_log_likelihood
from updater.train.record import Watch


@pytest.mark.parametrize("adapt", ["full", "lora"])
def test_the_weights_are_the_same_bit_for_bit(
    base: Path, language: Any, quick: TrainingSettings, adapt: str, tmp_path: Path
) -> None:
    ends = []
    for on in (False, True):
        model, tokenizer = checkpoint.load(base)
        training = dataclasses.replace(
            quick, epochs=1, activation_checkpointing=on, adapt=adapt, train_routers=adapt == "full"
        )
        fit(
            model,
            Lesson.of(tokenizer, language(0, 64), None, max_length_tokens=64),
            training=training,
            guards=Guards(),
            folder=tmp_path / str(on),
            watch=Watch(progress=False),
        )
        assert not model.is_activation_checkpointing
        ends.append(dict(model.named_parameters()))
    assert [n for n in ends[0] if not torch.equal(ends[0][n], ends[1][n])] == []


def kept_bytes(model: Any, batch: Any) -> int:
    """What autograd keeps of a forward pass, each tensor's memory once, without the weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        sums, _ = negative_log_likelihood(model, batch)
    del sums
    return sum(kept.values())


def test_a_layer_keeps_one_state(base: Path, language: Any) -> None:
    model, tokenizer = checkpoint.load(base)
    batch = collate(encode(tokenizer, language(0, 16), max_length_tokens=64), range(16))
    model.train()
    whole = kept_bytes(model, batch)
    with checkpointed(model, on=True):
        little = kept_bytes(model, batch)
    assert little < whole / 4
