"""What a model keeps of its updates, and how it guards the next."""

from pathlib import Path
from typing import Any

import pytest
import torch

from regularizers.anchor import NoAnchor, QuadraticAnchor
from updater.nemotron import checkpoint
from updater.settings import RegularizerSettings
from updater.train.encode import encode, select
from updater.train.fit import Fit
from updater.train.importance import estimate
from updater.train.lesson import Lesson
from updater.train.memory import Memory, sample

DONE = Fit(1, 1, 1, 1.0, (1.0,), ())


def test_selected_examples_are_those_of_the_whole(base: Path, language: Any) -> None:
    _, tokenizer = checkpoint.load(base)
    whole = encode(tokenizer, language(0, 20), max_length_tokens=64)
    some = select(whole, [7, 2, 11])
    assert list(some.rows) == [7, 2, 11]
    for number, row in enumerate([7, 2, 11]):
        mine = some.tokens[some.starts[number] : some.starts[number + 1]]
        assert list(mine) == list(whole.tokens[whole.starts[row] : whole.starts[row + 1]])
        assert some.prompt_lengths[number] == whole.prompt_lengths[row]


def test_a_sample_is_always_the_same(base: Path, language: Any) -> None:
    _, tokenizer = checkpoint.load(base)
    whole = encode(tokenizer, language(0, 40), max_length_tokens=64)
    first, again = sample(whole, 5), sample(whole, 5)
    assert list(first.rows) == list(again.rows)
    assert len(set(first.rows)) == 5
    assert sample(whole, 40) is whole


@pytest.mark.parametrize("method", ["none", "l2", "ewc"])
def test_the_first_lesson_is_guarded_by_nothing(method: str, base: Path, language: Any) -> None:
    model, tokenizer = checkpoint.load(base)
    lesson = Lesson.of(tokenizer, language(0, 4), None, max_length_tokens=64)
    guards = Memory().guards(RegularizerSettings(method=method), model, lesson)
    assert isinstance(guards.anchor, NoAnchor)


@pytest.mark.parametrize("method", ["l2", "ewc"])
def test_what_was_learnt_pulls_with_its_importance(
    method: str, base: Path, trained: Path, language: Any
) -> None:
    """The pull is strength * importance * (theta - anchor), the anchor where the model stood."""
    model, tokenizer = checkpoint.load(trained)
    examples = encode(tokenizer, language(0, 6), max_length_tokens=64)
    lesson = Lesson.of(tokenizer, language(0, 4), None, max_length_tokens=64)
    settings = RegularizerSettings(method=method, strength=3.0)
    memory = Memory().after(settings, model, DONE, past=examples, newest=examples)
    wanted = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    if method == "ewc":
        about = {"checkpoint_digest": "", "data_digest": "", "progress": False}
        wanted = dict(estimate(model, examples, estimator="empirical", **about).tensors)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    moved = checkpoint.load(base)[0]
    guards = memory.guards(settings, moved, lesson)
    assert isinstance(guards.anchor, QuadraticAnchor)
    guards.anchor.add_gradient(dict(moved.named_parameters()))
    for name, p in moved.named_parameters():
        torch.testing.assert_close(p.grad, 3.0 * wanted[name] * (p.detach() - before[name]))


def test_nothing_is_held_by_none_or_without_strength(trained: Path, language: Any) -> None:
    model, tokenizer = checkpoint.load(trained)
    examples = encode(tokenizer, language(0, 4), max_length_tokens=64)
    lesson = Lesson.of(tokenizer, language(0, 4), None, max_length_tokens=64)
    for settings in (RegularizerSettings(method="none"), RegularizerSettings(strength=0.0)):
        memory = Memory().after(settings, model, DONE, past=examples, newest=examples)
        assert isinstance(memory.guards(settings, model, lesson).anchor, NoAnchor)
