"""Importance of a model's weights, against gradients taken one example at a time."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from regularizers.formats import parts
from regularizers.importance import Importance
from updater.errors import UpdateError
from updater.nemotron import checkpoint
from updater.settings.regularizing import ESTIMATORS, METHODS
from updater.train import importance
from updater.train.encode import encode
from updater.train.ranks import Ranks

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


def test_spread_is_the_deviation_of_the_squared_gradients(trained: Path, language: Any) -> None:
    """Of experts too, where an example that sends one no token counts as 0."""
    model, tokenizer = checkpoint.load(trained)
    examples = encode(tokenizer, language(0, 5), max_length_tokens=64)
    done: list[int] = []
    found = importance.spread(model, examples, progress=False, on_progress=done.append)
    named = dict(model.named_parameters())
    assert found.keys() == named.keys()
    squares: dict[str, list[torch.Tensor]] = {name: [] for name in named}
    for batch in importance.batches(model, examples, 1):
        model.zero_grad()
        labels = batch.tokens_bl.where(batch.targets_bl, -100)
        (model(batch.tokens_bl, labels=labels).loss * int(batch.targets_bl.sum())).backward()
        for name, parameter in named.items():
            squares[name].append(parameter.grad.double() ** 2)
    silent = 0
    for name, each in squares.items():
        stacked = torch.stack(each)
        mean, sd = stacked.mean(0), stacked.std(0, correction=0)
        scale = float(stacked.max())
        moments = found[name]
        torch.testing.assert_close(moments.mean.double(), mean, rtol=2e-3, atol=1e-5 * scale)
        torch.testing.assert_close(moments.sd.double(), sd, rtol=2e-3, atol=1e-5 * scale)
        if ".experts." in name:
            silent += int((stacked.flatten(2).sum(2) == 0).sum())
    assert silent, "each expert saw a token of every example"
    assert done == [1, 2, 3, 4, 5]
    none = encode(tokenizer, language(0, 5), max_length_tokens=2)
    with pytest.raises(UpdateError, match="importance has no example to look at: all 5 are longer"):
        importance.spread(model, none, progress=False)


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


@pytest.mark.parametrize("estimator", ["empirical", "sampled", "mas"])
def test_weights_that_have_gone_too_far_are_told_with_a_cure(
    base: Path, language: Any, estimator: str
) -> None:
    """As a last step at far too high a rate leaves them: finite, and no loss is."""
    model, tokenizer = checkpoint.load(base)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e30)
    with pytest.raises(UpdateError, match=r"importance can't be had.*training\.learning_rate"):
        estimate(model, tokenizer, language(0, 2), estimator)


def test_a_gradient_whose_square_float32_has_not_is_told(base: Path, language: Any) -> None:
    """The loss is as it was: what the last norm multiplies, the head divides."""
    model, tokenizer = checkpoint.load(base)
    with torch.no_grad():
        model.model.norm_f.weight.mul_(1e25)
        model.lm_head.weight.div_(1e25)
    with pytest.raises(UpdateError, match=r"importance of 'lm_head\.weight' must be finite"):
        estimate(model, tokenizer, language(0, 2), "empirical")


def test_a_sum_that_float32_has_not_is_told(
    base: Path, language: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every entry of the matrix is finite, and the sum over a row of it is not."""
    model, tokenizer = checkpoint.load(base)
    examples = encode(tokenizer, language(0, 2), max_length_tokens=64)
    large = Importance({"w": torch.full((4, 4), 3e38)}, "empirical", 2, "c", "d")
    monkeypatch.setattr(importance, "normalise_by_evidence", lambda *_: large)
    with pytest.raises(UpdateError, match="importance of 'w' must be finite"):
        importance.estimate(model, examples, estimator="empirical", form="factored", **ABOUT)


def test_of_a_factored_importance_one_tensor_at_a_time_is_whole(
    trained: Path, language: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the first of many processes has them, one gathered after the other."""
    before: list[weakref.ref[torch.Tensor]] = []

    def gathering(_num_mine: int, _ranks: Ranks) -> Any:
        def over_all(mean: torch.Tensor) -> torch.Tensor:
            assert not any(one() is not None for one in before)
            if mean.dim() > 1:  # a vector is not factored, and kept as it is
                before.append(weakref.ref(whole := mean.clone()))
                return whole
            return mean

        return over_all

    model, tokenizer = checkpoint.load(trained)
    examples = encode(tokenizer, language(0, 3), max_length_tokens=64)
    one = importance.estimate(model, examples, estimator="empirical", form="factored", **ABOUT)
    monkeypatch.setattr(importance, "_over_all", gathering)
    again = importance.estimate(model, examples, estimator="empirical", form="factored", **ABOUT)
    assert len(before) > 10
    assert again.tokens == one.tokens
    for name, weight in one.tensors.items():
        for mine, expected in zip(parts(again.tensors[name]), parts(weight), strict=True):
            assert torch.equal(mine, expected), name


def test_every_estimator_of_the_settings_is_one_that_estimates() -> None:
    """But for the optimizer's, which a training records; and the methods' own."""
    own = {method.importance for method in METHODS.values()} & {"mas"}
    assert importance._ASKED.keys() == {*ESTIMATORS} - {"optimizer"} | own
