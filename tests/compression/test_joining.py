"""Experts joined: those that are one but for the order of their neurons stay one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compression.joining import joined, matched
from compression.mlp import Mlp

CHANCE = torch.Generator().manual_seed(0)
ONE = Mlp(torch.randn(7, 5, generator=CHANCE), torch.randn(4, 7, generator=CHANCE))
OTHER = Mlp(torch.randn(7, 5, generator=CHANCE), torch.randn(4, 7, generator=CHANCE))
INPUTS = torch.randn(40, 5, generator=CHANCE)


def said(mlp: Mlp) -> torch.Tensor:
    before = INPUTS @ mlp.up.T + (0 if mlp.bias is None else mlp.bias)
    return before.relu().square() @ mlp.down.T


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("bias", [False, True])
def test_another_order_and_scale_of_the_same_neurons_is_the_same(share: float, bias: bool) -> None:
    one = ONE._replace(bias=torch.linspace(-1, 1, 7)) if bias else ONE
    order, scale = torch.randperm(7, generator=CHANCE), torch.rand(7, generator=CHANCE) + 0.5
    again = Mlp(
        one.up[order] * scale[:, None],
        one.down[:, order] / scale.square(),
        None if one.bias is None else one.bias[order] * scale,
    )
    torch.testing.assert_close(said(joined(one, again, share)), said(one), rtol=1e-4, atol=1e-4)


def test_by_hand() -> None:
    """Neurons (1, 0) and (0, 1) with 4 and 8; and (0, 2), (2, 0) with 1 and 3, which of norm 1 are
    4 and 12: a quarter of the first and three of the second are 4, 11 at norms 7 / 4 both."""
    first = Mlp(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[4.0, 8.0]]))
    second = Mlp(torch.tensor([[0.0, 2.0], [2.0, 0.0]]), torch.tensor([[1.0, 3.0]]))
    found = joined(first, second, 0.25)
    torch.testing.assert_close(found.up, torch.tensor([[1.75, 0.0], [0.0, 1.75]]))
    wanted = torch.tensor([[0.25 * 4 + 0.75 * 12, 0.25 * 8 + 0.75 * 4]]) / 1.75**2
    torch.testing.assert_close(found.down, wanted)


def test_all_of_one_is_that_one() -> None:
    for share, alone in ((1.0, ONE), (0.0, OTHER)):
        torch.testing.assert_close(said(joined(ONE, OTHER, share)), said(alone))


def test_a_neuron_without_weights_joins_too_and_the_dtype_is_kept() -> None:
    nothing = Mlp(torch.zeros(7, 5).bfloat16(), torch.ones(4, 7).bfloat16())
    found = joined(nothing, ONE, 0.5)
    assert found.up.dtype == found.down.dtype == torch.bfloat16
    assert bool(found.up.isfinite().all())


@settings(deadline=None)
@given(st.integers(1, 7), st.integers(0, 2**31), st.booleans())
def test_matching_is_greedy(size: int, seed: int, ties: bool) -> None:
    """Beside a loop that looks for the highest of all; also where many are equal."""
    chance = torch.Generator().manual_seed(seed)
    likeness = torch.randn(size, size, generator=chance)
    if ties:
        likeness = likeness.round()
    found = matched(likeness)
    assert sorted(found.tolist()) == list(range(size))
    if not ties:
        left = likeness.clone()
        for _ in range(size):
            row, column = divmod(int(left.argmax()), size)
            assert int(found[row]) == column
            left[row], left[:, column] = -torch.inf, -torch.inf


def test_what_can_t_be_is_refused() -> None:
    with pytest.raises(ValueError, match="must be the same"):
        joined(ONE, Mlp(ONE.up[1:], ONE.down[:, 1:]), 0.5)
    with pytest.raises(ValueError, match="must be the same"):
        joined(ONE, OTHER._replace(bias=torch.ones(7)), 0.5)
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="the share of the first is"):
            joined(ONE, OTHER, share)
    with pytest.raises(ValueError, match="an MLP has shapes"):
        joined(Mlp(ONE.up, ONE.down[:, 1:]), OTHER, 0.5)
