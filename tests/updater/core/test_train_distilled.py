"""The base's answers held on to: the loss by its definition, and what comes of it."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from updater.nemotron import checkpoint
from updater.settings import RegularizerSettings, TrainingSettings
from updater.train.answers import BaseAnswers
from updater.train.distilled import RECIPES
from updater.train.encode import encode
from updater.train.fit import Fit, fit
from updater.train.guards import Guards
from updater.train.lesson import Lesson
from updater.train.objective import Likelihood
from updater.train.objectives import objective_for
from updater.train.record import Watch
from updater.train.schedule import MicroBatch, Plan

SHORT = TrainingSettings(epochs=2, batch_size=8, learning_rate=5e-3)
ALL = 400  # the vocabulary: every logit is kept


def lesson_of(tokenizer: Any, new: Any, rehearsed: Any) -> Lesson:
    return Lesson.of(tokenizer, new, rehearsed, max_length_tokens=64)


def objective(method: str, model: Any, lesson: Lesson, **changes: Any) -> Any:
    settings = {"strength": 1.0, "top_k": ALL} | changes
    return objective_for(
        RegularizerSettings(method=method, **settings), model, lesson, progress=False
    )


def run(base: Path, folder: Path, new: Any, rehearsed: Any, method: str, **changes: Any) -> Any:
    """The model after a short run under the method's objective, and what `fit` returned."""
    model, tokenizer = checkpoint.load(base)
    lesson = lesson_of(tokenizer, new, rehearsed)
    training = changes.pop("training", SHORT)
    guards = Guards(objective=objective(method, model, lesson, **changes))
    watch = Watch(progress=False)
    done: Fit = fit(model, lesson, training=training, guards=guards, folder=folder, watch=watch)
    return model, done


@torch.no_grad()
def parts(model: Any, teacher: Any, lesson: Lesson, example: int) -> tuple[float, float]:
    """One example's negative log-likelihood, and 4 KL(teacher || model) at T = 2 over the whole
    vocabulary: transformers' own logits, torch's own divergence, no padding."""
    encoded = lesson.examples
    ids = encoded.tokens[encoded.starts[example] : encoded.starts[example + 1]]
    first = int(encoded.prompt_lengths[example])
    tokens_l = torch.from_numpy(ids.astype("int64"))
    ours_cv, theirs_cv = (m(tokens_l[None]).logits[0, first - 1 : -1] for m in (model, teacher))
    told = functional.cross_entropy(ours_cv, tokens_l[first:], reduction="sum")
    apart = functional.kl_div(
        (ours_cv / 2).log_softmax(1),
        (theirs_cv / 2).log_softmax(1),
        log_target=True,
        reduction="sum",
    )
    return float(told), 4 * float(apart)


@pytest.mark.parametrize(
    ("method", "taught", "held"),
    [
        ("lwf", "new rehearsed", "new"),
        ("der", "new", "rehearsed"),
        ("der++", "new rehearsed", "rehearsed"),
    ],
)
def test_the_loss_by_its_definition(
    method: str, taught: str, held: str, base: Path, trained: Path, language: Any
) -> None:
    teacher, tokenizer = checkpoint.load(trained)
    student, _ = checkpoint.load(base)
    lesson = lesson_of(tokenizer, language(300, 14), language(0, 6))
    asked = objective(method, teacher, lesson, strength=3.0)
    plan = Plan(lesson, dataclasses.replace(SHORT, batch_size=10, accumulate=2, epochs=1))
    batches = list(plan.batches(0))
    assert len(batches) == 2
    num_tokens = int(lesson.examples.completion_lengths.sum())
    for batch in batches:
        expected = 0.0
        for place, example in enumerate(batch.examples):
            kind = "new" if place < batch.num_new else "rehearsed"
            told, apart = parts(student, teacher, lesson, example)
            expected += told * (kind in taught) + 3 * apart * (kind in held)
        found = asked.loss(student, batch)
        # Both micro-batches together make one step: each is divided by the step's tokens / 2.
        assert float(found.loss.detach()) == pytest.approx(2 * expected / num_tokens, rel=2e-3)
        likelihood = Likelihood().loss(student, batch)
        torch.testing.assert_close(found.sums_b, likelihood.sums_b)
        assert torch.equal(found.counts_b, likelihood.counts_b)
        assert not found.sums_b.requires_grad


def gradient(model: Any, asked: Any, batch: MicroBatch) -> torch.Tensor:
    leaves = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(asked.loss(model, batch).loss, leaves, allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


@pytest.mark.parametrize("method", ["der", "der++"])
def test_without_rehearsed_examples_it_is_the_likelihood(
    method: str, trained: Path, language: Any
) -> None:
    model, tokenizer = checkpoint.load(trained)
    lesson = lesson_of(tokenizer, language(300, 8), None)
    batch = next(Plan(lesson, SHORT).batches(0))
    asked = objective(method, model, lesson)
    assert torch.equal(gradient(model, asked, batch), gradient(model, Likelihood(), batch))


@pytest.mark.parametrize("top_k", [3, ALL])
def test_at_the_base_itself_nothing_pulls(top_k: int, trained: Path, language: Any) -> None:
    """The answers are the base's own, so at its weights the divergence has no gradient: der's is
    that of the new examples alone, whatever the strength."""
    model, tokenizer = checkpoint.load(trained)
    lesson = lesson_of(tokenizer, language(300, 6), language(0, 6))
    batch = next(Plan(lesson, dataclasses.replace(SHORT, batch_size=12)).batches(0))
    weak, strong = (
        gradient(model, objective("der", model, lesson, strength=s, top_k=top_k), batch)
        for s in (0.0, 10.0)
    )
    assert float((weak - strong).norm() / weak.norm()) < 2e-2


def test_the_answers_take_what_they_are_said_to(trained: Path, language: Any) -> None:
    """And those to examples in any order are those that were asked for."""
    model, tokenizer = checkpoint.load(trained)
    encoded = encode(tokenizer, language(0, 70), max_length_tokens=64)
    settings = RegularizerSettings(method="der", top_k=5)
    chosen = torch.arange(20, 70).numpy()
    answers = BaseAnswers(model, encoded, chosen, settings=settings, progress=False)
    every = answers.of(tuple(range(20, 70)))
    num_tokens = int(encoded.completion_lengths[20:].sum())
    taken = sum(t.element_size() * t.numel() for t in (every.kept_ck, every.logs_co))
    assert model.config.vocab_size == ALL
    assert taken == num_tokens * (4 * 5 + 2)
    first = int(encoded.completion_lengths[20])
    backwards = answers.of((33, 20))
    assert torch.equal(backwards.logs_co[-first:], every.logs_co[:first])
    assert len(answers.of(()).kept_ck) == 0


def distance(folder: Path, model: Any, table: Any) -> float:
    """How far from the checkpoint's answers the model has come: nats per example, times T^2."""
    before, tokenizer = checkpoint.load(folder)
    lesson = lesson_of(tokenizer, table, None)
    return sum(parts(model, before, lesson, e)[1] for e in range(len(table))) / len(table)


@pytest.mark.parametrize("method", RECIPES)
def test_what_is_held_stays_nearer_to_the_base(
    method: str, trained: Path, tmp_path: Path, language: Any
) -> None:
    """New examples contradict what was learnt: every colour is the next one."""
    told = language(0, 64)
    wrong = language(1, 64)["completion"]
    new = told.set_column(told.column_names.index("completion"), "completion", wrong)
    rehearsed = language(80, 16)
    held = new if method == "lwf" else rehearsed
    found = []
    for strength in (0.0, 10.0):
        folder = tmp_path / str(strength)
        model, _ = run(trained, folder, new, rehearsed, method, strength=strength)
        found.append(distance(trained, model, held))
    assert found[1] < 0.7 * found[0]


@pytest.mark.parametrize("method", RECIPES)
@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"precision": "bf16-mixed"}])
def test_any_batch_and_mixed_precision(
    method: str, changes: dict[str, Any], base: Path, tmp_path: Path, language: Any
) -> None:
    training = dataclasses.replace(SHORT, epochs=1, **changes)
    _, done = run(base, tmp_path, language(0, 9), language(100, 3), method, training=training)
    assert done.num_examples == 12
    assert all(loss > 0 for loss in done.losses)


@pytest.mark.parametrize("change", ["strength", "temperature", "top_k", "method"])
def test_a_state_of_another_objective_is_not_used(
    change: str, base: Path, tmp_path: Path, language: Any
) -> None:
    tables, training = (language(0, 8), language(100, 8)), dataclasses.replace(SHORT, epochs=1)
    run(base, tmp_path / "a", *tables, "der++", training=training)
    method = "der" if change == "method" else "der++"
    other: dict[str, Any] = {"strength": 2.0, "temperature": 1.0, "top_k": 7}
    changes = {change: other[change]} if change in other else {}
    resumed, fresh = (
        run(base, tmp_path / name, *tables, method, training=training, **changes)[0].state_dict()
        for name in ("a", "b")
    )
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in resumed.items())
