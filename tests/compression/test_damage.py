"""Damage: by hand, beside NumPy's least squares and SciPy's Welch test, and in the mean the truth.

Shape suffixes: r rounds, p parts, m all masks that there are.
"""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from compression.damage import Damage, estimate, masks


def chance(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_by_hand() -> None:
    """One part: losses 3 and 5 without, 1, 2 and 3 with it: 4 - 2, and 2 / 2 + 1 / 3 squared.

    There are rounds enough to fit all parts together, which for one is the same rise.
    """
    kept = torch.tensor([[False], [False], [True], [True], [True]])
    losses = torch.tensor([3.0, 5.0, 1.0, 2.0, 3.0])
    found = estimate(kept, losses)
    assert found.rise.dtype == found.error.dtype == torch.float32
    assert found.rise.item() == pytest.approx(2.0)
    # Residuals 1, 1, 1, 0, 1: 4 over 5 - 2; times 1/2 + 1/3.
    assert found.error.item() == pytest.approx((4 / 3 * 5 / 6) ** 0.5)
    twice = estimate(kept.expand(5, 2), losses)  # two that the masks don't tell apart
    assert twice.rise.tolist() == pytest.approx([2.0, 2.0])
    assert twice.error.tolist() == pytest.approx([(1 + 1 / 3) ** 0.5] * 2)


def test_each_part_is_kept_equally_often_and_chance_is_the_generators() -> None:
    found = masks(50, 40, 0.9, chance(0))
    assert found.shape == (40, 50)
    assert set(found.sum(0).tolist()) == {36}
    assert torch.equal(found, masks(50, 40, 0.9, chance(0)))
    assert not torch.equal(found, masks(50, 40, 0.9, chance(1)))


def test_a_round_is_as_likely_to_drop_one_part_as_another_and_two_together() -> None:
    """z-tests over 400 draws of 8 rounds of 3 parts that 2 of 8 drop: each round drops a part in a
    quarter, two parts at once in a sixteenth. 8 * 6 of them; false alarm 1e-6 for all."""
    drawn = torch.stack([~masks(3, 8, 0.75, chance(seed)) for seed in range(400)]).double()
    both = drawn * drawn.roll(1, -1)
    limit = stats.norm.isf(1e-6 / 48 / 2)
    for found, p in ((drawn, 1 / 4), (both, 1 / 16)):
        z = (found.mean(0) - p) / (p * (1 - p) / 400) ** 0.5
        assert float(z.abs().max()) < limit


def test_of_a_loss_that_adds_up_it_is_exact() -> None:
    wanted = torch.tensor([0.5, -0.25, 3.0, 0.0, 1e-3])
    kept = masks(5, 16, 0.75, chance(3))
    found = estimate(kept, 7 + (~kept).float() @ wanted)
    torch.testing.assert_close(found.rise, wanted, rtol=1e-5, atol=1e-5)
    assert float(found.error.max()) < 1e-5


def test_together_it_is_least_squares_of_numpy() -> None:
    kept = masks(6, 40, 0.8, chance(1))
    losses = torch.randn(40, generator=chance(2), dtype=torch.float64)
    design = np.column_stack([np.ones(40), (~kept).numpy()])
    wanted, residual, *_ = np.linalg.lstsq(design, losses.numpy(), rcond=None)
    errors = np.sqrt(residual / (40 - 7) * np.diag(np.linalg.inv(design.T @ design)))
    found = estimate(kept, losses)
    np.testing.assert_allclose(found.rise.numpy(), wanted[1:], rtol=1e-5)
    np.testing.assert_allclose(found.error.numpy(), errors[1:], rtol=1e-5)


def test_one_by_one_it_is_welchs_test() -> None:
    """More parts than half the rounds. Losses far from 0: no difference of large sums."""
    kept = masks(30, 12, 0.5, chance(1))
    losses = 1e6 + torch.randn(12, generator=chance(2), dtype=torch.float64)
    found = estimate(kept, losses)
    for part in range(30):
        without, by = losses[~kept[:, part]].numpy(), losses[kept[:, part]].numpy()
        assert found.rise[part].item() == pytest.approx(without.mean() - by.mean(), rel=1e-4)
        t = stats.ttest_ind(without, by, equal_var=False).statistic
        assert (found.rise[part] / found.error[part]).item() == pytest.approx(t, rel=1e-4)


def loss(kept_rp: torch.Tensor) -> torch.Tensor:
    """Parts 0 and 1 stand in for each other, 2 is needed where 3 is, 4 does harm."""
    k = kept_rp.double()
    apart = (1 - k[:, 0]) * (1 - k[:, 1]) + 2 * (1 - k[:, 2]) * k[:, 3]
    return apart + 0.5 * k[:, 4] + 0.1 * k.sum(1).square()


@pytest.mark.parametrize("num_rounds", [8, 60])
def test_in_the_mean_it_is_the_damage_whatever_the_loss(num_rounds: int) -> None:
    """By all masks that there are, weighed by their chance; one by one (8 rounds) and together.

    z-test of the mean over 500 estimates, 5 parts; false alarm 1e-6 for all. Nearly unbiased: the
    fit together is so but for a term of 1 in the number of rounds.
    """
    every = torch.tensor(list(itertools.product([False, True], repeat=5)))
    weight_m = torch.where(every, 0.75, 0.25).prod(1).double()
    losses_m = loss(every)
    truth = []
    for part in range(5):
        by = every[:, part]
        means = [float((weight_m * losses_m)[w].sum() / weight_m[w].sum()) for w in (~by, by)]
        truth.append(means[0] - means[1])
    found = []
    for seed in range(500):
        kept = masks(5, num_rounds, 0.75, chance(seed))
        found.append(estimate(kept, loss(kept)))
    rises = torch.stack([one.rise for one in found]).double()
    z = (rises.mean(0) - torch.tensor(truth)) / (rises.std(0) / 500**0.5)
    assert float(z.abs().max()) < stats.norm.isf(1e-6 / 5 / 2)
    # And the errors are of the size of the deviations.
    ratio = torch.stack([one.error for one in found]).double().square().mean(0) / rises.var(0)
    assert float(ratio.min()) > 0.5
    assert float(ratio.max()) < 2


@settings(deadline=None)
@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=8))
def test_scores_are_at_least_0_and_of_the_same_order(rises: list[float]) -> None:
    rise = torch.tensor(rises)
    scores = Damage(rise, torch.zeros_like(rise)).scores()
    assert bool((scores >= 0).all())
    if min(rises) >= 0:
        assert torch.equal(scores, rise)
    assert torch.equal(scores[rise.argsort()], scores.sort().values)


def test_what_can_t_be_is_refused() -> None:
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="must be more than 0 and less than 1"):
            masks(3, 10, share, chance(0))
    with pytest.raises(ValueError, match="of 10 rounds 9 keep a part: at least 2 must"):
        masks(3, 10, 0.9, chance(0))
    kept = masks(3, 10, 0.7, chance(0))
    with pytest.raises(ValueError, match=r"bool \(10, 3\) with losses \(9,\): must be bool"):
        estimate(kept, torch.zeros(9))
    with pytest.raises(ValueError, match=r"float32 \(10, 3\)"):
        estimate(kept.float(), torch.zeros(10))
    losses = torch.zeros(10)
    losses[4] = float("inf")
    with pytest.raises(ValueError, match="the loss of round 4 is no number"):
        estimate(kept, losses)
    kept[:, 1] = True
    with pytest.raises(ValueError, match="part 1 is kept in 10 of 10 rounds"):
        estimate(kept, torch.zeros(10))
