"""MAS against the paper's formula, one example at a time."""

import torch
from torch import nn

from regularizers.mas import output_sensitivity


def test_a_linear_map_by_hand() -> None:
    """F = w x: d (w x)^2 / dw = 2 w x^2. At w = -3 on x = 1 and 2: mean of |-6| and |-24| = 15."""
    w = nn.Parameter(torch.tensor([-3.0]))
    found = output_sensitivity({"w": w}, [1.0, 2.0], lambda x: ((w * x) ** 2).sum())
    assert found["w"].tolist() == [15.0]
    assert w.grad is None


def test_gradients_that_disagree_do_not_cancel() -> None:
    """F = w + x: gradients 2 (w + x) of 2 and -2 are a mean of 0, and a sensitivity of 2."""
    w = nn.Parameter(torch.zeros(1))
    found = output_sensitivity({"w": w}, [1.0, -1.0], lambda x: ((w + x) ** 2).sum())
    assert found["w"].tolist() == [2.0]


def test_a_net_against_a_loop_written_out() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4))
    examples = torch.randn(7, 3)
    found = output_sensitivity(
        dict(net.named_parameters()), examples, lambda x: net(x).square().sum()
    )
    totals = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for x in examples:
        net.zero_grad()
        (torch.linalg.vector_norm(net(x)) ** 2).backward()
        for name, p in net.named_parameters():
            totals[name] += p.grad.abs() / len(examples)
    for name, total in totals.items():
        torch.testing.assert_close(found[name], total)
