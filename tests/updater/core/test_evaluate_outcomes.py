"""Outcomes: one forward pass says what greedy decoding would."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from updater.evaluate import SCHEMA, outcomes
from updater.nemotron import checkpoint


@pytest.fixture(scope="module")
def learnt(trained: Path) -> Any:
    return checkpoint.load(trained)


def strange(table: pa.Table) -> pa.Table:
    """The same prompts, with completions that the model has not learnt for every third."""
    completions = table["completion"].to_pylist()
    completions[::3] = [" a mauve-ish thing"] * len(completions[::3])
    return table.set_column(2, "completion", pa.array(completions))


def test_correct_is_what_greedy_decoding_gets_right(learnt: Any, language: Any) -> None:
    model, tokenizer = learnt
    table = strange(language(500, 48))
    found = outcomes(model, tokenizer, table, batch_size=7, max_length_tokens=64)
    for row, outcome in zip(table.to_pylist(), found.to_pylist(), strict=True):
        prompt = tokenizer(row["prompt"], return_tensors="pt").input_ids
        said = model.generate(prompt, max_new_tokens=16, do_sample=False)[0, prompt.shape[1] :]
        wanted = [*tokenizer(row["completion"]).input_ids, tokenizer.eos_token_id]
        exact = said.tolist()[: len(wanted)] == wanted
        assert outcome["correct"] == exact, row
        if exact:
            assert outcome["predicted"] == row["completion"]
    assert 16 <= pc.sum(found["correct"]).as_py() < 48  # both kinds are there


def test_rows_come_back_in_order_with_the_agreed_columns(learnt: Any, language: Any) -> None:
    table = language(7, 30)
    found = outcomes(*learnt, table, batch_size=8, max_length_tokens=64)
    assert found.schema == SCHEMA
    assert found["id"].to_pylist() == table["id"].to_pylist()


def test_the_batch_size_does_not_matter(learnt: Any, language: Any) -> None:
    table = strange(language(0, 50))
    one, *others = (
        outcomes(*learnt, table, batch_size=size, max_length_tokens=64) for size in (1, 7, 50, 64)
    )
    for other in others:
        assert other["correct"].equals(one["correct"])
        assert other["predicted"].equals(one["predicted"])
        np.testing.assert_allclose(other["loss"], one["loss"], atol=1e-4)


def test_the_loss_is_the_mean_over_completion_tokens(learnt: Any, language: Any) -> None:
    model, tokenizer = learnt
    table = language(3, 4)
    found = outcomes(model, tokenizer, table, batch_size=4, max_length_tokens=64)
    for row, loss in zip(table.to_pylist(), found["loss"].to_pylist(), strict=True):
        prompt = tokenizer(row["prompt"]).input_ids
        completion = [*tokenizer(row["completion"]).input_ids, tokenizer.eos_token_id]
        tokens = torch.tensor([prompt + completion])
        labels = torch.tensor([[-100] * len(prompt) + completion])
        with torch.no_grad():
            assert loss == pytest.approx(model(tokens, labels=labels).loss.item(), abs=1e-4)


def test_a_completion_that_goes_on_is_wrong_for_want_of_its_end(learnt: Any, language: Any) -> None:
    """A model that says "bright yellow" has not said "bright"."""
    table = language(3, 1)
    assert table["completion"].to_pylist() == [" bright yellow"]
    short = table.set_column(2, "completion", pa.array([" bright"]))
    assert outcomes(*learnt, table, batch_size=1, max_length_tokens=64)["correct"].to_pylist() == [
        True
    ]
    found = outcomes(*learnt, short, batch_size=1, max_length_tokens=64)
    assert found["correct"].to_pylist() == [False]


def test_an_example_that_is_too_long_is_wrong_and_has_no_loss(learnt: Any, language: Any) -> None:
    table = language(0, 3)
    table = table.set_column(
        1, "prompt", pa.array([table["prompt"][0].as_py(), "x" * 900, "leaf 1\nColour:"])
    )
    found = outcomes(*learnt, table, batch_size=4, max_length_tokens=64).to_pylist()
    assert [row["loss"] is None for row in found] == [False, True, False]
    assert (found[1]["correct"], found[1]["predicted"]) == (False, None)


def test_no_examples_are_no_outcomes(learnt: Any, language: Any) -> None:
    for table in (language(0, 0), language(0, 2)):
        found = outcomes(*learnt, table, batch_size=4, max_length_tokens=2)
        assert found.schema == SCHEMA
        assert found.num_rows == table.num_rows
        assert not any(found["correct"].to_pylist())


def test_the_greedy_choice_among_equals_is_the_smallest_token(base: Path, language: Any) -> None:
    model, tokenizer = checkpoint.load(base)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    found = outcomes(model, tokenizer, language(0, 2), batch_size=2, max_length_tokens=64)
    assert found["predicted"].to_pylist() == ["", ""]  # token 0 is <pad>
    prompt = tokenizer("leaf 1\nColour:", return_tensors="pt").input_ids
    assert model.generate(prompt, max_new_tokens=1, do_sample=False)[0, -1] == 0
