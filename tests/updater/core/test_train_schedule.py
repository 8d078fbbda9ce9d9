"""Which batch comes when, and at which learning rate."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from updater.settings import TrainingSettings
from updater.train.encode import Encoded
from updater.train.lesson import Lesson
from updater.train.schedule import FINAL_FRACTION, MicroBatch, Plan, rate_fraction


def lesson(num_new: int, num_old: int = 0) -> Lesson:
    count = num_new + num_old
    lengths = np.random.default_rng(0).integers(3, 12, count)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    # Every token of example i is i: a batch tells which examples it holds.
    tokens = np.repeat(np.arange(count), lengths).astype(np.int32)
    prompts = np.maximum(lengths - 3, 1)
    return Lesson(Encoded(tokens, starts, prompts, np.arange(count), ()), num_new)


def members(batch: MicroBatch) -> list[int]:
    return batch.batch.tokens_bl[:, 0].tolist()


settings = st.builds(
    TrainingSettings,
    epochs=st.integers(1, 3),
    batch_size=st.integers(1, 9),
    accumulate=st.integers(1, 4),
    seed=st.integers(0, 3),
)


@given(settings, st.integers(1, 30), st.integers(0, 30))
def test_a_run_passes_over_every_example_once_an_epoch(
    training: TrainingSettings, num_new: int, num_old: int
) -> None:
    plan = Plan(lesson(num_new, num_old), training)
    batches = list(plan.batches(0))
    seen = [example for batch in batches for example in members(batch)]
    assert sorted(seen) == sorted(list(range(num_new + num_old)) * training.epochs)
    assert len(batches) == plan.num_batches(0)
    assert plan.num_steps == -(-len(batches) // training.accumulate)
    assert plan.num_examples == len(seen)
    for batch in batches:
        assert batch.num_new == sum(example < num_new for example in members(batch))
        assert all(example < num_new for example in members(batch)[: batch.num_new])


@given(settings, st.integers(1, 30), st.data())
def test_from_any_step_the_rest_is_the_same(
    training: TrainingSettings, count: int, data: st.DataObject
) -> None:
    plan = Plan(lesson(count), training)
    step = data.draw(st.integers(0, plan.num_steps))
    whole = [members(batch) for batch in plan.batches(0)]
    rest = [members(batch) for batch in plan.batches(step)]
    assert rest == whole[step * training.accumulate :]
    assert len(rest) == plan.num_batches(step)


@given(settings, st.integers(1, 30))
def test_accumulated_losses_add_up_to_the_mean_over_tokens(
    training: TrainingSettings, count: int
) -> None:
    """Whatever the micro-batches' sizes: each token weighs 1 / (tokens of its optimizer step)."""
    batches = list(Plan(lesson(count), training).batches(0))
    for first in range(0, len(batches), training.accumulate):
        window = batches[first : first + training.accumulate]
        tokens = [int(batch.batch.targets_bl.sum()) for batch in window]
        for batch in window:
            weight = 1 / batch.normaliser / training.accumulate
            assert weight == pytest.approx(1 / sum(tokens))


@given(settings, st.integers(1, 30), st.integers(0, 9), st.integers(1, 5))
def test_the_parts_of_all_processes_make_the_whole(
    training: TrainingSettings, num_new: int, num_old: int, world: int
) -> None:
    packed = dataclasses.replace(training, packing=True)
    for batch in Plan(lesson(num_new, num_old), packed).batches(0):
        parts = [batch.part(rank, world) for rank in range(world)]
        assert sorted(e for part in parts for e in part.examples) == sorted(batch.examples)
        assert sum(part.num_new for part in parts) == batch.num_new
        assert sum(int(p.batch.targets_bl.sum()) for p in parts) == batch.batch.targets_bl.sum()
        for part in parts:
            told = (part.num_examples, part.num_tokens, part.normaliser)
            assert told == (batch.num_examples, batch.num_tokens, batch.normaliser)
            assert len(part.batch.lengths) == len(part.batch.tokens_bl)
            if not part.examples:  # it goes through the model all the same
                assert not part.batch.targets_bl.any()
                continue
            assert members(part) == list(part.examples)
            assert all(example < num_new for example in part.examples[: part.num_new])
            assert all(example >= num_new for example in part.examples[part.num_new :])
            for row, example in enumerate(part.examples):
                # The last token is one that is learnt, and what comes after is padding.
                last = int(part.batch.targets_bl[row].nonzero().max())
                assert part.batch.lengths[row] == last + 1
                whole = batch.examples.index(example)
                targets = batch.batch.targets_bl[whole].nonzero()[:, 0]
                assert part.batch.targets_bl[row].nonzero()[:, 0].equal(targets)


def test_the_rate_rises_and_falls_as_worked_by_hand() -> None:
    training = TrainingSettings(warmup_fraction=0.2, decay="linear")
    rates = [rate_fraction(step, 10, training) for step in range(10)]
    low = FINAL_FRACTION
    falls = [low + (1 - low) * (1 - passed / 8) for passed in range(8)]
    assert rates == pytest.approx([1 / 3, 2 / 3, *falls])


@pytest.mark.parametrize("decay", ["cosine", "linear", "constant"])
@given(num_steps=st.integers(1, 200), warmup=st.floats(0, 0.9))
def test_rates_stay_in_bounds(decay: str, num_steps: int, warmup: float) -> None:
    training = dataclasses.replace(TrainingSettings(), decay=decay, warmup_fraction=warmup)
    rates = [rate_fraction(step, num_steps, training) for step in range(num_steps)]
    assert all(0 < rate <= 1 for rate in rates)
    peak = rates.index(max(rates))
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    if decay == "constant":
        assert rates[-1] == 1 or num_steps <= round(warmup * num_steps)


@given(settings, st.integers(1, 30), st.integers(0, 30), st.integers(1, 40))
def test_no_more_than_the_most_steps_and_those_are_the_first_ones(
    training: TrainingSettings, num_new: int, num_old: int, most: int
) -> None:
    whole = Plan(lesson(num_new, num_old), training)
    cut = Plan(lesson(num_new, num_old), dataclasses.replace(training, max_steps=most))
    assert cut.num_steps == min(whole.num_steps, most)
    batches = list(cut.batches(0))
    assert len(batches) == cut.num_batches(0)
    assert cut.num_examples == sum(len(members(batch)) for batch in batches)
    kept = list(whole.batches(0))[: len(batches)]
    assert list(map(members, batches)) == list(map(members, kept))
    step = cut.num_steps - 1
    assert (
        list(map(members, cut.batches(step)))
        == list(map(members, batches))[step * training.accumulate :]
    )
