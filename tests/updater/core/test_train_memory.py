"""What a model keeps of its updates, and how it guards the next."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from regularizers.anchor import NoAnchor, QuadraticAnchor
from regularizers.formats import num_bytes, whole
from regularizers.methods import method_of
from updater.errors import UpdateError
from updater.nemotron import checkpoint
from updater.settings import RegularizerSettings
from updater.settings.regularizing import ESTIMATORS, METHODS, REGULARIZERS, TERMS
from updater.train.encode import encode, select
from updater.train.fit import Fit
from updater.train.importance import estimate
from updater.train.lesson import Lesson
from updater.train.memory import Memory, sample, trace_of
from updater.train.objective import Likelihood

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


@pytest.mark.parametrize("method", ["lwf", "der++", "agem"])
def test_answers_and_gradients_are_guarded_once_something_was_learnt(
    method: str, trained: Path, language: Any
) -> None:
    """By the method's objective and no anchor; the first lesson by nothing at all."""
    model, tokenizer = checkpoint.load(trained)
    examples = encode(tokenizer, language(0, 6), max_length_tokens=64)
    lesson = Lesson.of(tokenizer, language(0, 4), language(80, 2), max_length_tokens=64)
    settings = RegularizerSettings(method=method, strength=1.0)
    first = Memory().guards(settings, model, lesson)
    memory = Memory().after(settings, model, DONE, past=examples, newest=examples)
    guards = memory.guards(settings, model, lesson)
    assert first.objective.fingerprint == Likelihood.fingerprint
    assert guards.objective.fingerprint.startswith(method)
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


def likelihood_gradients(model: Any, tokenizer: Any, row: dict[str, str]) -> dict[str, Any]:
    """Of one example's log-likelihood, or of its squared logits, by transformers' own forward."""
    prompt = tokenizer(row["prompt"]).input_ids
    completion = [*tokenizer(row["completion"]).input_ids, tokenizer.eos_token_id]
    logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].float()
    picked = logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])
    named = {n: p for n, p in model.named_parameters() if ".experts." not in n}

    def gradients(value: torch.Tensor) -> dict[str, torch.Tensor]:
        found = torch.autograd.grad(value, list(named.values()), retain_graph=True)
        return dict(zip(named, found, strict=True))

    return {"likelihood": gradients(picked.sum()), "norm": gradients((logits**2).sum())}


@pytest.mark.parametrize("method", ["online_ewc", "mas", "ewc"])
def test_two_updates_against_a_loop_written_out(
    method: str, base: Path, trained: Path, language: Any
) -> None:
    """A first model that learnt 5 examples and a second that learnt 6 others pull a third by
    gamma F1 + F2 at the second (online EWC), Omega1 + Omega2 at the second (MAS), and F1 at the
    first and F2 at the second (EWC with a term for each). Experts are left to their own test."""
    tables = {base: language(0, 5), trained: language(50, 6)}
    settings = RegularizerSettings(method=method, terms="periods", decay=0.25, strength=2.0)
    memory, terms = Memory(), []
    for folder, table in tables.items():
        model, tokenizer = checkpoint.load(folder)
        examples = encode(tokenizer, table, max_length_tokens=64)
        memory = memory.after(settings, model, DONE, past=examples, newest=examples)
        weights = {name: 0.0 for name, _ in model.named_parameters()}
        for row in table.to_pylist():
            found = likelihood_gradients(model, tokenizer, row)
            for name, g in found["norm" if method == "mas" else "likelihood"].items():
                square = g.abs() if method == "mas" else g**2
                weights[name] = weights[name] + square / table.num_rows
        terms.append((dict(model.named_parameters()), weights))
    (first, one), (second, two) = terms
    third = {name: torch.nn.Parameter(p.detach() + 0.1) for name, p in second.items()}
    lesson = Lesson.of(tokenizer, language(0, 4), None, max_length_tokens=64)
    memory.guards(settings, model, lesson).anchor.add_gradient(third)
    for name, p in third.items():
        if ".experts." in name:
            continue
        away = p.detach() - second[name].detach()
        wanted = {
            "online_ewc": 2.0 * (0.25 * one[name] + two[name]) * away,
            "mas": 2.0 * (one[name] + two[name]) * away,
            "ewc": 2.0 * (one[name] * (p - first[name]) + two[name] * away).detach(),
        }[method]
        slack = 1e-2 * wanted.abs().max().item()
        torch.testing.assert_close(p.grad, wanted, rtol=1e-2, atol=slack, msg=name)


def test_what_a_training_recorded_becomes_what_is_held(trained: Path, language: Any) -> None:
    model, tokenizer = checkpoint.load(trained)
    examples = encode(tokenizer, language(0, 4), max_length_tokens=64)
    ones = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    done = dataclasses.replace(DONE, trace=ones, moved={n: 2 * t for n, t in ones.items()})

    def held(**settings: Any) -> Any:
        chosen = RegularizerSettings(**settings)
        memory = Memory()
        for _ in range(2):
            memory = memory.after(chosen, model, done, past=examples, newest=examples)
        assert memory.held is not None
        return memory.held.importance["lm_head.weight"].flatten()[0].item()

    assert held(method="si", damping=0.5, decay=0.1) == pytest.approx(2 / 4.5)
    assert held(method="ewc", estimator="optimizer", terms="periods") == 2.0
    assert held(method="online_ewc", estimator="optimizer", decay=0.5) == 1.5


@pytest.mark.parametrize(
    ("settings", "trace"),
    [
        ({"method": "si"}, "path"),
        ({"method": "online_ewc", "estimator": "optimizer"}, "optimizer"),
        ({"method": "l2", "estimator": "optimizer"}, ""),
        ({"method": "none"}, ""),
    ],
)
def test_a_training_that_must_record_says_what(settings: Any, trace: str) -> None:
    assert trace_of(RegularizerSettings(**settings)) == trace


def test_settings_know_what_has_to_be_recorded_without_torch() -> None:
    known = 0
    for method, estimator, terms in itertools.product(REGULARIZERS, ESTIMATORS, TERMS):
        if (method, estimator, terms) == ("ewc", "optimizer", "base"):
            continue  # refused
        settings = RegularizerSettings(method=method, estimator=estimator, terms=terms)
        assert settings.is_recorded is bool(trace_of(settings)), (method, estimator, terms)
        known += settings.is_recorded
    assert known


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("name", REGULARIZERS)
def test_settings_know_whose_importance_a_method_holds_by(name: str, terms: str) -> None:
    method = method_of(name, terms)
    assert METHODS[name].importance == ("" if method is None else method.source)


OTHERS = {
    "strength": 7.0,
    "estimator": "sampled",
    "num_examples": 2,
    "terms": "periods",
    "decay": 0.25,
    "damping": 3.0,
    "scale": "mean",
    "format": "bfloat16",
    "temperature": 3.0,
    "top_k": 3,
}


@pytest.mark.parametrize("name", REGULARIZERS)
def test_a_method_heeds_what_the_settings_say_it_does(
    name: str, trained: Path, language: Any
) -> None:
    """With another value of a setting something else guards the next lesson, or nothing does."""
    model, tokenizer = checkpoint.load(trained)
    some, few = (encode(tokenizer, language(n, 4), max_length_tokens=64) for n in (0, 8))
    lesson = Lesson.of(tokenizer, language(20, 2), language(30, 2), max_length_tokens=64)
    trace = {n: torch.ones_like(p) for n, p in model.named_parameters()}
    done = dataclasses.replace(DONE, trace=trace, moved={n: 2 * t for n, t in trace.items()})

    def guards(**changed: Any) -> Any:
        settings = RegularizerSettings(method=name, **{"strength": 1.0, **changed})
        memory = Memory().after(settings, model, done, past=some, newest=some)
        memory = memory.after(settings, model, done, past=few, newest=few)
        found = memory.guards(settings, model, lesson)
        moved = {n: p.detach() + 1 for n, p in model.named_parameters()}
        return float(found.anchor.penalty(moved)), found.objective.fingerprint

    plain = guards()
    heeded = {key for key, value in OTHERS.items() if guards(**{key: value}) != plain}
    assert heeded == set(METHODS[name].heeds)


def test_what_a_training_recorded_that_is_no_number_is_told(trained: Path, language: Any) -> None:
    model, tokenizer = checkpoint.load(trained)
    examples = encode(tokenizer, language(0, 4), max_length_tokens=64)
    lesson = Lesson.of(tokenizer, language(0, 4), None, max_length_tokens=64)
    trace = {n: torch.full_like(p, torch.inf) for n, p in model.named_parameters()}
    done = dataclasses.replace(DONE, trace=trace, moved=trace)
    settings = RegularizerSettings(method="si")
    memory = Memory().after(settings, model, done, past=examples, newest=examples)
    with pytest.raises(UpdateError, match=r"must be finite.*training\.learning_rate"):
        memory.guards(settings, model, lesson)


def test_a_training_that_recorded_nothing_is_refused(trained: Path, language: Any) -> None:
    model, tokenizer = checkpoint.load(trained)
    examples = encode(tokenizer, language(0, 4), max_length_tokens=64)
    with pytest.raises(ValueError, match="ask for fit's 'path'"):
        Memory().after(
            RegularizerSettings(method="si"), model, DONE, past=examples, newest=examples
        )


@pytest.mark.parametrize("settings", [{"method": "ewc"}, {"method": "ewc", "terms": "periods"}])
def test_scaled_terms_are_alike_carried_on_or_rebuilt(
    settings: Any, trained: Path, language: Any
) -> None:
    model, tokenizer = checkpoint.load(trained)
    chosen = RegularizerSettings(**settings, num_examples=4, scale="mean")
    memory, terms = Memory(), []
    for first in (0, 8):
        examples = encode(tokenizer, language(first, 4), max_length_tokens=64)
        memory = memory.after(chosen, model, DONE, past=examples, newest=examples)
        plain = dataclasses.replace(chosen, scale="none", terms="base")
        term = Memory().after(plain, model, DONE, past=examples, newest=examples).held
        assert term is not None
        terms.append(term)
    rebuilt = Memory.of(chosen, terms).held
    assert memory.held is not None
    assert rebuilt is not None
    entries = torch.cat([whole(w).flatten() for w in memory.held.importance.values()])
    num_terms = 2 if "terms" in settings else 1
    assert entries.mean().item() == pytest.approx(num_terms, rel=1e-4)
    for name, weight in memory.held.importance.items():
        torch.testing.assert_close(whole(rebuilt.importance[name]), whole(weight))
        torch.testing.assert_close(rebuilt.anchor[name], memory.held.anchor[name])


@pytest.mark.parametrize("form", ["bfloat16", "factored"])
def test_importance_is_kept_in_the_configured_format_from_update_to_update(
    form: str, trained: Path, language: Any
) -> None:
    model, tokenizer = checkpoint.load(trained)
    examples = encode(tokenizer, language(0, 4), max_length_tokens=64)
    settings = RegularizerSettings(method="online_ewc", format=form)
    memory = Memory()
    for _ in range(2):
        memory = memory.after(settings, model, DONE, past=examples, newest=examples)
        assert memory.held is not None
        full = num_bytes(dict(model.named_parameters()))
        assert num_bytes(memory.held.importance) <= full / 2
    whole_size = dataclasses.replace(settings, format="float32")
    reference = Memory().after(whole_size, model, DONE, past=examples, newest=examples)
    assert reference.held is not None
    for name, weight in memory.held.importance.items():
        twice = 2 * whole(reference.held.importance[name])
        torch.testing.assert_close(whole(weight).sum(-1), twice.sum(-1), rtol=1e-2, atol=1e-9)
