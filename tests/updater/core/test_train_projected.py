"""A-GEM in the trainer: the projection of the step's gradient, against one worked out apart."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from updater.nemotron import checkpoint
from updater.nemotron.checkpoint import freeze_routers
from updater.nemotron.weights import is_experts
from updater.settings import TrainingSettings
from updater.train.encode import collate
from updater.train.fit import fit
from updater.train.guards import Guards
from updater.train.lesson import Lesson
from updater.train.likelihood import negative_log_likelihood
from updater.train.objective import Likelihood
from updater.train.projected import Projected
from updater.train.record import Watch
from updater.train.schedule import Plan

STILL = TrainingSettings(
    epochs=1, batch_size=8, learning_rate=1e-12, weight_decay=0.0, gradient_clip=0.0
)
"""The weights stay, so that a later step's gradient can be worked out at the first weights."""


class Spy:
    """An anchor that keeps a copy of what it is given to add to."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, Tensor]] = []

    def penalty(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return torch.zeros(())

    def add_gradient(self, parameters: Mapping[str, Tensor]) -> None:
        self.gradients.append(
            {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None}
        )


def contradictory(language: Any, count: int) -> Any:
    """Examples whose colour is the next one."""
    table, wrong = language(0, count), language(1, count)["completion"]
    return table.set_column(table.column_names.index("completion"), "completion", wrong)


def run(
    folder: Path, state: Path, new: Any, rehearsed: Any, training: TrainingSettings
) -> tuple[Any, Lesson, Spy]:
    model, tokenizer = checkpoint.load(folder)
    lesson = Lesson.of(tokenizer, new, rehearsed, max_length_tokens=64)
    spy = Spy()
    fit(
        model,
        lesson,
        training=training,
        guards=Guards(spy, Projected()),
        folder=state,
        watch=Watch(progress=False),
    )
    return model, lesson, spy


def flat(gradients: Mapping[str, Tensor], names: list[str]) -> Tensor:
    return torch.cat([gradients[name].flatten() for name in names]).double()


def by_hand(
    folder: Path, lesson: Lesson, examples: list[int], num_tokens: int
) -> tuple[list[str], Tensor]:
    """The gradient of the examples' summed losses / num_tokens, one batch, nothing accumulated."""
    model, _ = checkpoint.load(folder)
    freeze_routers(model)
    leaves = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sums_b, _ = negative_log_likelihood(model, collate(lesson.examples, examples))
    (sums_b.sum() / num_tokens).backward()
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in leaves.values()]
    return list(leaves), torch.cat([gradient.flatten() for gradient in found]).double()


@pytest.mark.parametrize(("batch_size", "accumulate"), [(8, 1), (8, 2), (2, 1)])
def test_the_step_takes_the_projected_gradient(
    batch_size: int, accumulate: int, trained: Path, tmp_path: Path, language: Any
) -> None:
    """Eq. 11, with g and r over the micro-batches of the whole step."""
    training = dataclasses.replace(STILL, batch_size=batch_size, accumulate=accumulate)
    _, lesson, spy = run(trained, tmp_path, contradictory(language, 12), language(80, 12), training)
    chosen = [batch.examples for batch in Plan(lesson, training).batches(0)]
    num_projected = 0
    for step, gradients in enumerate(spy.gradients):
        examples = [e for b in chosen[step * accumulate : (step + 1) * accumulate] for e in b]
        num_tokens = int(lesson.examples.completion_lengths[examples].sum())
        names, g = by_hand(trained, lesson, [e for e in examples if e < 12], num_tokens)
        _, r = by_hand(trained, lesson, [e for e in examples if e >= 12], num_tokens)
        found = flat(gradients, names)
        num_projected += bool(g @ r < 0)
        share = max(0.0, -float(g @ r / (r @ r)))
        torch.testing.assert_close(found, g + share * r, rtol=1e-3, atol=1e-5)
        assert float(found @ r) >= -1e-5 * float(found.norm() * r.norm())
    assert len(spy.gradients) == 24 // batch_size // accumulate + (accumulate == 2)
    assert num_projected >= len(spy.gradients) / 2


def test_an_expert_that_only_the_rehearsed_see_is_not_idle(
    trained: Path, tmp_path: Path, language: Any
) -> None:
    """It takes its part of the projection, and moves."""
    new = pa.table({"id": ["n"], "prompt": ["sun"], "completion": [" red"]})
    training = dataclasses.replace(STILL, learning_rate=1e-3)
    model, lesson, spy = run(trained, tmp_path, new, language(83, 1), training)
    num_tokens = int(lesson.examples.completion_lengths.sum())
    names, g = by_hand(trained, lesson, [0], num_tokens)
    _, r = by_hand(trained, lesson, [1], num_tokens)
    assert g @ r < 0
    before = dict(checkpoint.load(trained)[0].named_parameters())
    after = dict(model.named_parameters())
    sizes = [before[name].numel() for name in names]
    num_moved = 0
    for name, new_i, old_i in zip(names, g.split(sizes), r.split(sizes), strict=True):
        if is_experts(name):
            by_new, by_old, pulled, moved = (
                t.reshape(before[name].shape).flatten(1).any(1)
                for t in (new_i, old_i, spy.gradients[0][name], after[name] - before[name])
            )
            assert torch.equal(pulled, by_new | by_old)
            assert torch.equal(moved, by_new | by_old)
            num_moved += int((by_old & ~by_new).sum())
    assert num_moved > 0


def test_gradients_that_agree_are_those_of_the_new_examples(
    base: Path, tmp_path: Path, language: Any
) -> None:
    _, lesson, spy = run(base, tmp_path, language(0, 12), language(100, 4), STILL)
    for batch, gradients in zip(Plan(lesson, STILL).batches(0), spy.gradients, strict=True):
        num_tokens = int(lesson.examples.completion_lengths[list(batch.examples)].sum())
        new = list(batch.examples[: batch.num_new])
        names, g = by_hand(base, lesson, new, num_tokens)
        torch.testing.assert_close(flat(gradients, names), g, rtol=1e-3, atol=1e-6)


def test_without_rehearsed_examples_it_is_the_likelihood(
    base: Path, tmp_path: Path, language: Any
) -> None:
    training = dataclasses.replace(STILL, learning_rate=5e-3)
    model, lesson, _ = run(base, tmp_path / "a", language(0, 24), None, training)
    other, _ = checkpoint.load(base)
    guards, watch = Guards(objective=Likelihood()), Watch(progress=False)
    fit(other, lesson, training=training, guards=guards, folder=tmp_path / "b", watch=watch)
    expected = other.state_dict()
    assert all(torch.equal(t, expected[name]) for name, t in model.state_dict().items())


def test_batches_of_one_kind_alone(base: Path, tmp_path: Path, language: Any) -> None:
    """A step with no new example learns nothing, and asks the next one nothing."""
    training = dataclasses.replace(STILL, batch_size=1, learning_rate=5e-3, weight_decay=0.1)
    _, lesson, spy = run(base, tmp_path, language(0, 3), language(100, 3), training)
    kinds = [batch.num_new for batch in Plan(lesson, training).batches(0)]
    assert sorted(kinds) == [0, 0, 0, 1, 1, 1]
    assert [bool(gradients) for gradients in spy.gradients] == [bool(kind) for kind in kinds]


def test_mixed_precision_projects_too(trained: Path, tmp_path: Path, language: Any) -> None:
    """bf16-mixed keeps float32 gradients: they agree with a reference worked out in float32 but
    for bfloat16's rounding, where without the projection they oppose it."""
    training = dataclasses.replace(STILL, precision="bf16-mixed")
    new, rehearsed = contradictory(language, 24), language(80, 8)
    _, lesson, spy = run(trained, tmp_path, new, rehearsed, training)
    for batch, gradients in zip(Plan(lesson, training).batches(0), spy.gradients, strict=True):
        num_tokens = int(lesson.examples.completion_lengths[list(batch.examples)].sum())
        parts = batch.examples[: batch.num_new], batch.examples[batch.num_new :]
        names, g = by_hand(trained, lesson, list(parts[0]), num_tokens)
        _, r = by_hand(trained, lesson, list(parts[1]), num_tokens)
        found = flat(gradients, names)
        assert {t.dtype for t in gradients.values()} == {torch.float32}
        assert float(g @ r) < 0
        before, after = (float(x @ r / (x.norm() * r.norm())) for x in (g, found))
        assert abs(after) < 0.1 * abs(before)  # measured: 0.002 to 0.09 of it
