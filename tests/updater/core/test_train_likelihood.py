"""The loss on completion tokens, whole and with its logits made some at a time."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from updater.nemotron import checkpoint
from updater.train import likelihood
from updater.train.encode import collate, encode
from updater.train.likelihood import negative_log_likelihood


@pytest.fixture(scope="module")
def loaded(base: Path) -> Any:
    return checkpoint.load(base)


def test_the_loss_is_transformers_own(loaded: Any, language: Any) -> None:
    model, tokenizer = loaded
    encoded = encode(tokenizer, language(0, 6), max_length_tokens=64)
    batch = collate(encoded, range(6))
    with torch.no_grad():
        sums, counts = negative_log_likelihood(model, batch)
        labels = torch.where(batch.targets_bl, batch.tokens_bl, -100)
        expected = model(batch.tokens_bl, labels=labels).loss
    torch.testing.assert_close(sums.sum() / counts.sum(), expected)
    assert counts.tolist() == encoded.completion_lengths.tolist()


def test_an_examples_loss_is_its_own_whatever_it_is_padded_with(loaded: Any, language: Any) -> None:
    model, tokenizer = loaded
    encoded = encode(tokenizer, language(0, 9), max_length_tokens=64)
    with torch.no_grad():
        together, _ = negative_log_likelihood(model, collate(encoded, range(9)))
        for example in range(9):
            alone, _ = negative_log_likelihood(model, collate(encoded, [example]))
            torch.testing.assert_close(together[example], alone[0], atol=1e-4, rtol=0)


class Largest(TorchDispatchMode):
    """How many rows the largest logits had: a matrix as wide as the vocabulary that is not the
    weight's gradient."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.weight, self.rows = model.lm_head.weight.T.shape, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        shape = getattr(out, "shape", ())
        if len(shape) == 2 and shape != self.weight and shape[1] == self.weight[1]:
            self.rows = max(self.rows, shape[0])
        return out


@pytest.mark.parametrize("most", [1, 5, 16])
def test_some_logits_at_a_time_are_the_plain_loss_and_its_gradient(
    loaded: Any, language: Any, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = loaded
    encoded = encode(tokenizer, language(0, 9), max_length_tokens=64)
    batch = collate(encoded, range(9))
    assert batch.targets_bl.sum() > 16
    found = []
    for limit in (2**29, most * 4 * model.config.vocab_size):
        monkeypatch.setattr(likelihood, "LOGITS_BYTES", limit)
        model.zero_grad()
        with Largest(model) as largest:
            sums, counts = negative_log_likelihood(model, batch)
            (sums.sum() / counts.sum()).backward()
        found.append((sums.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}))
    num_tokens = int(batch.targets_bl.sum())
    assert largest.rows == -(-num_tokens // -(-num_tokens // most)) <= most  # pieces alike
    (plain, gradients), (parted, others) = found
    torch.testing.assert_close(parted, plain)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, atol=1e-6, rtol=1e-4, msg=name)
