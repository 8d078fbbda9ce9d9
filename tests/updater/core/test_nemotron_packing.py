"""Texts that share a row are as if each were alone.

The fused kernels want a GPU. What they compute of seq_idx is here by the plain operators, text by
text; on a GPU with the kernels tests/updater/core/test_on_gpu.py asks them.
"""

import dataclasses
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.nemotron_h import modeling_nemotron_h

from updater.errors import InputError
from updater.nemotron import checkpoint, kernels, packing
from updater.settings import RegularizerSettings, TrainingSettings
from updater.train.activations import checkpointed
from updater.train.encode import collate, encode
from updater.train.fit import fit
from updater.train.guards import Guards
from updater.train.lesson import Lesson
from updater.train.likelihood import negative_log_likelihood
from updater.train.objectives import objective_for
from updater.train.record import Watch


def by_text(plain: Callable[..., Tensor], *, positions: int, along: int) -> Callable[..., Tensor]:
    """`plain`, called for each text of seq_idx by itself with its part of the first `positions`
    arguments, which have positions in dimension `along`."""

    def called(*args: Any, seq_idx: Tensor | None = None, **more: Any) -> Tensor:
        if seq_idx is None:
            return plain(*args, **more)
        assert seq_idx.dtype == torch.int32, "all that the kernels take"
        assert len(seq_idx) == 1
        _, counts = torch.unique_consecutive(seq_idx[0], return_counts=True)
        edges = [0, *counts.cumsum(0).tolist()]
        outs = []
        for start, end in pairwise(edges):
            some = [a.narrow(along, start, end - start) for a in args[:positions]]
            outs.append(plain(*some, *args[positions:], **more))
        return torch.cat(outs, along)

    return called


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators that know seq_idx, where transformers' own refuse it."""
    conv = modeling_nemotron_h.causal_conv1d_fn
    scan = modeling_nemotron_h.mamba2_chunk_scan

    def chunks(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, **more: Any) -> Tensor:
        def plain(x: Tensor, dt: Tensor, b: Tensor, c: Tensor, **more: Any) -> Tensor:
            return scan(x, dt, a, b, c, **more)

        return by_text(plain, positions=4, along=1)(x, dt, b, c, **more)

    module = modeling_nemotron_h
    monkeypatch.setattr(module, "causal_conv1d_fn", by_text(conv, positions=1, along=2))
    monkeypatch.setattr(module, "mamba2_chunk_scan", chunks)
    monkeypatch.setattr(module, "mamba2_split_conv1d_scan_combined", lambda *_, **__: None)
    monkeypatch.setattr(kernels, "are_fused", lambda: True)


def gradients(model: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    sums_b, counts_b = negative_log_likelihood(model, batch)
    (sums_b.sum() / counts_b.sum()).backward()
    named = model.named_parameters()
    return sums_b.detach(), {name: p.grad.clone() for name, p in named if p.grad is not None}


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
def test_loss_and_gradient_are_those_of_rows_of_their_own(
    base: Path, language: Any, *, again: bool
) -> None:
    model, tokenizer = checkpoint.load(base)
    model.train()
    encoded = encode(tokenizer, language(0, 9), max_length_tokens=64)
    assert len(set(encoded.lengths.tolist())) > 1, "or there would be no padding to leave out"
    with checkpointed(model, on=again):
        sums_b, padded = gradients(model, collate(encoded, range(9)))
        packed_b, packed = gradients(model, collate(encoded, range(9), packed=True))
    torch.testing.assert_close(packed_b, sums_b, atol=1e-4, rtol=1e-5)
    assert packed.keys() == padded.keys()
    for name, gradient in padded.items():
        torch.testing.assert_close(packed[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("lengths", [(7,), (1, 5, 1, 130, 2)])
def test_states_are_each_texts_own(base: Path, lengths: tuple[int, ...]) -> None:
    """Of one token, and of more than the scan's chunk; in evaluation mode too."""
    model, _ = checkpoint.load(base)
    draw = torch.Generator().manual_seed(0)
    tokens_n = torch.randint(3, 200, (sum(lengths),), generator=draw)
    with torch.no_grad():
        together_nd = packing.hidden(model, tokens_n, lengths)
        alone = [
            model.model(input_ids=text[None], use_cache=False).last_hidden_state[0]
            for text in tokens_n.split(lengths)
        ]
    torch.testing.assert_close(together_nd, torch.cat(alone), atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("method", ["none", "der++", "agem"])
def test_a_training_ends_with_the_same_weights(
    base: Path, language: Any, quick: TrainingSettings, method: str, tmp_path: Path
) -> None:
    ends = []
    for packing_on in (False, True):
        model, tokenizer = checkpoint.load(base)
        lesson = Lesson.of(tokenizer, language(0, 40), language(1, 24), max_length_tokens=64)
        settings = RegularizerSettings(method=method)
        objective = objective_for(settings, model, lesson, progress=False)
        fit(
            model,
            lesson,
            training=dataclasses.replace(quick, epochs=1, packing=packing_on),
            guards=Guards(objective=objective),
            folder=tmp_path / str(packing_on),
            watch=Watch(progress=False),
        )
        ends.append(dict(model.named_parameters()))
    for name, weight in ends[0].items():
        torch.testing.assert_close(ends[1][name], weight, atol=1e-5, rtol=1e-4, msg=name)


def test_it_is_refused_where_the_kernels_are_not(
    base: Path, language: Any, quick: TrainingSettings, tmp_path: Path
) -> None:
    model, tokenizer = checkpoint.load(base)
    with pytest.raises(InputError, match="mamba-ssm and causal-conv1d"):
        fit(
            model,
            Lesson.of(tokenizer, language(0, 8), None, max_length_tokens=64),
            training=dataclasses.replace(quick, packing=True),
            guards=Guards(),
            folder=tmp_path,
            watch=Watch(progress=False),
        )
