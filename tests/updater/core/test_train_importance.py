"""Importance of a model's weights, against gradients taken one example at a time."""

from pathlib import Path
from typing import Any

import pytest
import torch

from updater.errors import UpdateError
from updater.nemotron import checkpoint
from updater.train import importance
from updater.train.encode import encode

ABOUT = {"checkpoint_digest": "c", "data_digest": "d", "progress": False}


def estimate(model: Any, tokenizer: Any, table: Any, estimator: str, longest: int = 64) -> Any:
    examples = encode(tokenizer, table, max_length_tokens=longest)
    return importance.estimate(model, examples, estimator=estimator, **ABOUT)


def test_empirical_is_the_mean_squared_gradient_per_example(trained: Path, language: Any) -> None:
    model, tokenizer = checkpoint.load(trained)
    table = language(0, 9)
    found = estimate(model, tokenizer, table, "empirical")
    named = dict(model.named_parameters())
    assert found.tensors.keys() == named.keys()
    squares = {name: torch.zeros_like(p) for name, p in named.items()}
    for row in table.to_pylist():
        prompt = tokenizer(row["prompt"]).input_ids
        completion = [*tokenizer(row["completion"]).input_ids, tokenizer.eos_token_id]
        tokens = torch.tensor([prompt + completion])
        labels = torch.tensor([[-100] * len(prompt) + completion])
        model.zero_grad()
        (model(tokens, labels=labels).loss * len(completion)).backward()
        for name, parameter in named.items():
            squares[name] += parameter.grad**2 / 9
    for name, square in squares.items():
        if ".experts." not in name:
            torch.testing.assert_close(found.tensors[name], square, rtol=2e-3, atol=1e-9)
    assert (found.num_examples, found.estimator) == (9, "empirical")
    assert (found.checkpoint_digest, found.data_digest) == ("c", "d")


def test_no_expert_is_unimportant_for_want_of_tokens(trained: Path, language: Any) -> None:
    model, tokenizer = checkpoint.load(trained)
    found = estimate(model, tokenizer, language(0, 1), "empirical")
    for name, tensor in found.tensors.items():
        if ".experts." in name:
            assert (tensor.flatten(1).sum(1) > 0).all(), name


def test_sampled_depends_on_the_seed_alone_and_is_of_empiricals_size(
    base: Path, language: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At random weights a label drawn from the model is as surprising as the true one, so that
    the two estimates are of one size."""
    model, tokenizer = checkpoint.load(base)
    table = language(0, 64)
    first, again = (estimate(model, tokenizer, table, "sampled") for _ in range(2))
    monkeypatch.setattr(importance, "SAMPLED_SEED", 1)
    other = estimate(model, tokenizer, table, "sampled")
    empirical = estimate(model, tokenizer, table, "empirical")
    name = "lm_head.weight"
    assert torch.equal(first.tensors[name], again.tensors[name])
    assert not torch.equal(first.tensors[name], other.tensors[name])
    ratio = float(first.tensors[name].sum() / empirical.tensors[name].sum())
    assert 0.5 < ratio < 2


def test_examples_that_are_too_long_cannot_be_looked_at(base: Path, language: Any) -> None:
    with pytest.raises(UpdateError, match="all 5 are longer"):
        estimate(*checkpoint.load(base), language(0, 5), "empirical", longest=2)
