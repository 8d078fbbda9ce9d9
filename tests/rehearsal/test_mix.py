"""Mixed batches: one ratio in every batch, every example once an epoch, exact resume."""

from collections import Counter
from fractions import Fraction
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rehearsal.mix import BUCKET_BATCHES, MixedBatches

COUNTS = st.integers(0, 300)
SIZES = st.integers(1, 40)


def mixed(num_new, num_rehearsed, batch_size, *, seed=0, lengths=None):
    return MixedBatches(num_new, num_rehearsed, batch_size=batch_size, seed=seed, lengths=lengths)


@st.composite
def cases(draw):
    num_new, num_rehearsed = draw(COUNTS), draw(COUNTS)
    total = num_new + num_rehearsed
    lengths = draw(st.none() | st.lists(st.integers(1, 50), min_size=total, max_size=total))
    return mixed(num_new, num_rehearsed, draw(SIZES), seed=draw(st.integers(0, 5)), lengths=lengths)


@settings(deadline=None)
@given(cases())
def test_an_epoch_passes_once_over_everything_in_one_ratio(batches):
    found = list(batches.epoch(0))
    total = batches.num_new + batches.num_rehearsed
    assert len(found) == len(batches)
    assert sorted(index for batch in found for index in batch) == list(range(total))
    assert all(len(batch) == batches.batch_size for batch in found[:-1])
    place = old = 0
    for batch in found:
        here = sum(index >= batches.num_new for index in batch)
        assert abs(here - Fraction(len(batch) * batches.num_rehearsed, total)) < 1
        place, old = place + len(batch), old + here
        assert old == place * batches.num_rehearsed // total
        assert batch == [i for i in batch if i < batches.num_new] + batch[len(batch) - here :]


@settings(deadline=None)
@given(cases(), st.integers(0, 3), st.data())
def test_resumes_with_the_very_batches_that_were_left(batches, epoch, data):
    whole = list(batches.epoch(epoch))
    stop = data.draw(st.integers(0, len(batches)))
    running = batches.epoch(epoch)
    for _ in range(stop):
        next(running)
    assert list(batches.epoch(epoch, stop)) == whole[stop:]
    assert list(running) == whole[stop:]


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        return list(mixed(40, 10, 7, seed=seed).epoch(epoch))

    assert order(0, 0) == order(0, 0)
    torch.manual_seed(1)
    assert order(0, 0) == order(0, 0)
    assert len({str(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_batches_of_like_length_pad_little():
    generator = torch.Generator().manual_seed(0)
    lengths = (20 * torch.empty(10_000).log_normal_(0, 0.5, generator=generator)).long() + 1

    def padding_fraction(given):
        batches = mixed(8000, 2000, 32, lengths=given).epoch(0)
        padded = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
        return 1 - int(lengths.sum()) / padded

    assert padding_fraction(None) > 0.5
    assert padding_fraction(lengths.tolist()) < 0.1


def test_batches_of_a_run_come_in_no_order_of_length():
    """Their order is a random permutation: increasing (or falling) by chance in 2 of 32!."""
    lengths = list(range(1, 32 * BUCKET_BATCHES + 1))
    batches = mixed(len(lengths), 0, 32, lengths=lengths).epoch(0)
    means = [sum(batch) / len(batch) for batch in batches]
    assert means not in (sorted(means), sorted(means, reverse=True))


def test_each_example_meets_different_ones_every_epoch():
    lengths = [i % 17 + 1 for i in range(512)]
    batches = mixed(512, 0, 8, lengths=lengths)
    together = Counter()
    for epoch in range(8):
        together.update(frozenset(batch) for batch in batches.epoch(epoch))
    assert max(together.values()) == 1


def test_nothing_rehearsed_and_nothing_at_all():
    assert sorted(chain.from_iterable(mixed(5, 0, 2).epoch(0))) == [0, 1, 2, 3, 4]
    assert list(mixed(0, 0, 2).epoch(0)) == []
    assert len(mixed(0, 0, 2)) == 0
    assert sorted(chain.from_iterable(mixed(0, 5, 2).epoch(0))) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_new": -1}, "num_new is -1"),
        ({"num_rehearsed": -1}, "num_rehearsed is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"lengths": [1]}, "lengths has 1 entries for 7 examples"),
    ],
)
def test_refuses(arguments, message):
    given = {"num_new": 4, "num_rehearsed": 3, "batch_size": 2, "seed": 0} | arguments
    with pytest.raises(ValueError, match=message):
        MixedBatches(given.pop("num_new"), given.pop("num_rehearsed"), **given)


@pytest.mark.parametrize("place", [(-1, 0), (0, 5), (0, -1)])
def test_refuses_what_is_no_place_in_an_epoch(place):
    with pytest.raises(ValueError, match="no place"):
        mixed(4, 3, 2).epoch(*place)
