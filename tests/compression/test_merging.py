"""Merging by weights: the paper's formula by hand, and what is one neuron becomes one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compression import merging
from compression.mlp import Mlp


def said(mlp: Mlp, given: torch.Tensor) -> torch.Tensor:
    before = given @ mlp.up.T + (0 if mlp.bias is None else mlp.bias)
    return before.relu().square() @ mlp.down.T


def random(seed: int, neurons: int, *, bias: bool = False) -> Mlp:
    chance = torch.Generator().manual_seed(seed)
    up, down = (torch.randn(s, generator=chance) for s in ((neurons, 4), (3, neurons)))
    return Mlp(up, down, torch.randn(neurons, generator=chance) if bias else None)


INPUTS = torch.randn(50, 4, generator=torch.Generator().manual_seed(9))


def test_the_paper_s_cost_by_hand() -> None:
    """W are (0, 0), (1, 0), (1, 2), a are (2, 0), (1, 1), (0, 4): <a^2> 2, 1, 8.

    Squared distances 1, 4 and 5. Neuron 1 goes first, to 0, for 1 * 1; then a_0 is (3, 1), <a^2> 5,
    and it would go to 2 for 5 * 5, 2 for 8 * 5.
    """
    mlp = Mlp(
        torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]]),
        torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 4.0]]),
    )
    assert merging.costs(mlp, scaled=False).tolist() == [25.0, 1.0, float("inf")]
    folded = merging.fold(mlp, torch.tensor([True, False, True]), scaled=False)
    assert folded.up.tolist() == [[0.0, 0.0], [1.0, 2.0]]
    assert folded.down.tolist() == [[3.0, 0.0], [1.0, 4.0]]


def test_the_scaled_cost_by_hand() -> None:
    """W (2, 0), (1, 1), a 1 and 3: the nearest multiple of (1, 1) to (2, 0) is itself, at 2, and of
    (2, 0) to (1, 1) is (1, 0), at 1. 1 * 4 * 2 = 8, and 9 * 2 * 1 = 18."""
    mlp = Mlp(torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([[1.0, 3.0]]))
    assert merging.costs(mlp).tolist() == [pytest.approx(8.0), float("inf")]
    folded = merging.fold(mlp, torch.tensor([True, False]))
    assert folded.down.tolist() == [[pytest.approx(1 + 3 * 0.25)]]


@pytest.mark.parametrize("bias", [False, True])
def test_multiples_of_a_neuron_go_for_nothing_and_are_missed_by_none(bias: bool) -> None:
    """Three of each of four neurons, in any scales and order."""
    one = random(0, 4, bias=bias)
    chance = torch.Generator().manual_seed(1)
    place = torch.arange(12)[torch.randperm(12, generator=chance)] % 4
    scale = torch.rand(12, generator=chance) * 3 + 0.1
    mlp = Mlp(
        one.up[place] * scale[:, None],
        torch.randn(3, 12, generator=chance),
        None if one.bias is None else one.bias[place] * scale,
    )
    costs = merging.costs(mlp)
    kept = torch.zeros(12, dtype=torch.bool).scatter(0, costs.topk(4).indices, True)
    assert set(place[kept].tolist()) == {0, 1, 2, 3}
    assert float(costs[~kept].max()) < 1e-5 * float(costs[kept].min())
    folded = merging.fold(mlp, kept)
    assert folded.down.shape == (3, 4)
    assert torch.equal(folded.up, mlp.up[kept])
    torch.testing.assert_close(said(folded, INPUTS), said(mlp, INPUTS), rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), exponent=st.integers(-3, 3))
def test_a_cost_does_not_depend_on_where_a_neurons_scale_is(seed: int, exponent: int) -> None:
    mlp, t = random(seed, 6), 2.0**exponent
    scale = torch.ones(6)
    scale[seed % 6] = t
    other = Mlp(mlp.up * scale[:, None], mlp.down / scale.square())
    torch.testing.assert_close(merging.costs(other), merging.costs(mlp), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scaled", [False, True])
def test_costs_are_those_of_the_greedy_one_at_a_time(scaled: bool) -> None:
    """Beside a loop that makes every distance again at each step."""
    mlp = random(5, 9, bias=True)
    w, a = mlp.incoming().double(), mlp.down.double().clone()
    alive, wanted, highest = list(range(9)), [float("inf")] * 9, 0.0
    while len(alive) > 1:
        best = (float("inf"), 0, 0, 0.0)
        for j in alive:
            for i in (i for i in alive if i != j):
                s = max(0.0, float(w[j] @ w[i] / (w[i] @ w[i]))) if scaled else 1.0
                size = float(w[j] @ w[j]) if scaled else 1.0
                cost = float(a[:, j].square().mean() * (w[j] - s * w[i]).square().sum()) * size
                best = min(best, (cost, j, i, s))
        cost, j, i, s = best
        highest = max(highest, cost)
        wanted[j] = highest
        a[:, i] += s**2 * a[:, j]
        alive.remove(j)
    found = merging.costs(mlp, scaled=scaled)
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=1e-4, atol=1e-5)


def test_of_no_weights_nothing_is_lost_and_the_dtype_is_kept() -> None:
    mlp = Mlp(torch.zeros(3, 4).bfloat16(), torch.ones(2, 3).bfloat16())
    assert merging.costs(mlp).tolist() == [0.0, 0.0, float("inf")]
    folded = merging.fold(mlp, torch.tensor([False, False, True]))
    assert folded.up.dtype == folded.down.dtype == torch.bfloat16
    assert merging.costs(random(0, 1)).tolist() == [float("inf")]


def test_all_that_stays_is_what_was() -> None:
    mlp = random(2, 5, bias=True)
    folded = merging.fold(mlp, torch.ones(5, dtype=torch.bool))
    assert all(torch.equal(a, b) for a, b in zip(folded, mlp, strict=True))


def test_what_can_t_be_is_refused() -> None:
    mlp = random(0, 5)
    with pytest.raises(ValueError, match=r"shapes \(5, 4\), \(3, 4\): must be \(n, i\), \(o, n\)"):
        merging.costs(Mlp(mlp.up, mlp.down[:, 1:]))
    with pytest.raises(ValueError, match=r"shapes \(5, 4\), \(3, 5\), \(4,\)"):
        merging.costs(mlp._replace(bias=torch.ones(4)))
    with pytest.raises(ValueError, match=r"float32 \(5,\): must be bool \(5,\)"):
        merging.fold(mlp, torch.ones(5))
    with pytest.raises(ValueError, match="no neuron stays"):
        merging.fold(mlp, torch.zeros(5, dtype=torch.bool))
